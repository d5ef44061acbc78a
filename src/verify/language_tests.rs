//! The language: what it takes, what it refuses and where, and that it prints what it reads.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;

#[test]
fn what_is_read_is_printed_again() {
    let text = "\
# A comment, and a blank line.

172.17.0.9 10.254.0.10:80/tcp -> 172.17.0.2 8080 50.00%, 172.17.1.2 8080 50.00% masqueraded
pod/visitor svc/web:80 -> pod/web-1 33.3%, pod/web-2 66.7% masqueraded; remembered for 600 s
pod/visitor svc/web:80 -> pod/web-1, node/n2; remembered   # and why
fd00::9 [fd00:254::10]:53/udp -> fd00::2 masqueraded
client/203.0.113.9 lb/web -> dropped because loadBalancerSourceRanges
pod/a 203.0.113.9:443 -> untranslated, masqueraded because egress, which is more than a word
pod/a pod/b:80 -> untranslated
pod/a svc/none:80 -> refused
pod/a svc/web:80
";
    let packets = Packets::parse("p", text).unwrap();
    assert_eq!(packets.to_string(), text);
    assert_eq!(packets.packets().count(), 9);
    for packet in packets.packets() {
        let end = packet.end.as_ref().map(ToString::to_string);
        assert_eq!(end.unwrap_or_default(), packet.written, "{packet:?}");
    }
    let lines: Vec<usize> = packets.packets().map(|packet| packet.line).collect();
    assert_eq!(lines, (3..12).collect::<Vec<_>>());
}

#[test]
fn an_end_is_set_beside_the_words_around_it() {
    let mut packets =
        Packets::parse("p", "pod/a  svc/b:80   # why\npod/c svc/b -> refused\n").unwrap();
    packets.set(1, End::Dropped { because: None });
    packets.set(2, End::Dropped { because: None });
    let written = "pod/a  svc/b:80 -> dropped   # why\npod/c svc/b -> dropped\n";
    assert_eq!(packets.to_string(), written);
}

#[test]
fn what_is_wrong_is_told_with_its_column_and_what_was_expected() {
    for (line, column, message) in [
        (
            "pod/a",
            6,
            "expected a destination such as svc/NAME:PORT or ADDRESS:PORT/PROTOCOL",
        ),
        (
            "-> refused",
            1,
            "expected a client: an address, pod/NAME or node/NAME",
        ),
        (
            "a b c -> refused",
            5,
            "\"c\": expected -> and what becomes of the packet",
        ),
        (
            "a b ->",
            7,
            "expected refused, dropped, untranslated, or endpoints such as pod/web-1 8080 50%",
        ),
        ("a b -> refusd", 8, "did you mean refused?"),
        ("ä b -> web-1 50%", 8, "\"web-1\": expected refused"),
        (
            "a b -> refused, masqueraded",
            17,
            "\"masqueraded\": expected because and a reason",
        ),
        (
            "a b -> untranslated because",
            21,
            "\"because\": expected masqueraded",
        ),
        ("a b -> pod/w:80", 8, "the port as a word behind it"),
        (
            "a b -> pod/w 0",
            14,
            "\"0\": expected a port, a share such as 33.3%, or masqueraded",
        ),
        (
            "a b -> pod/w 50% 80",
            18,
            "\"80\": expected masqueraded, or a comma",
        ),
        ("a b -> pod/w 101%", 14, "\"101%\": expected"),
        (
            "a b -> pod/w masqueraded 50%",
            26,
            "expected a comma and another endpoint",
        ),
        (
            "a b -> pod/w 50%, pod/x",
            8,
            "either every endpoint has a share, or none",
        ),
        (
            "a b -> pod/w,",
            14,
            "expected an endpoint such as pod/web-1",
        ),
        (
            "a b -> pod/w; for 10 s",
            15,
            "expected remembered, or remembered for SECONDS s",
        ),
        (
            "a b -> pod/w because so",
            8,
            "because is said of what is refused",
        ),
        ("a b -> \u{202e}", 8, "\"\\u202e\": expected"),
    ] {
        let faults = Packets::parse("p", &format!("\n{line}\n")).unwrap_err();
        let Fault {
            line: number,
            column: at,
            message: said,
        } = &faults.all[0];
        assert_eq!((*number, *at), (2, column), "{line}: {said}");
        assert!(said.contains(message), "{line}: {said}");
    }
    let both = Packets::parse("p.txt", "a\na b -> c\n").unwrap_err();
    let lines: Vec<String> = both.to_string().lines().map(str::to_owned).collect();
    assert!(
        lines[0].starts_with("p.txt:1:2: ") && lines[1].starts_with("p.txt:2:8: "),
        "{both}"
    );
}

#[test]
fn a_share_is_as_exact_as_it_is_written() {
    let share = |text| parse_share(text).unwrap();
    assert!(share("33%").is(1.0 / 3.0) && share("33.3%").is(1.0 / 3.0));
    assert!(!share("33.4%").is(1.0 / 3.0) && !share("34%").is(1.0 / 3.0));
    assert!(share("3.12%").is(1.0 / 32.0) && share("50.00%").is(0.5));
    for (probability, text) in [
        (0.5, "50%"),
        (1.0, "100%"),
        (1.0 / 3.0, "33.33%"),
        (0.125, "12.5%"),
    ] {
        assert_eq!(Share::of(probability).to_string(), text);
        assert!(Share::of(probability).is(probability), "{text}");
    }
    for wrong in ["%", ".5%", "5", "-1%", "1e1%", "100.1%", "+5%"] {
        assert_eq!(parse_share(wrong), None, "{wrong}");
    }
}
