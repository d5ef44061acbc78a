//! `svcnat verify`: what test runners read of it, its exit codes, and that it changes nothing but
//! what it is told to.

use std::fs;

use super::program::{Said, svcnat};
use super::support::in_namespace;
use super::{Folder, SETTINGS, ruleset, services, with};

const AS_WRITTEN: &str = "\
# Who asks whom.
10.0.0.1 svc/s0 -> 172.17.0.1 50%, 172.17.0.2 50%   # nothing tells pods from others
10.0.0.1 10.254.0.10:81 -> refused because no port 81

10.0.0.1 10.254.9.9:80 -> dropped
";
const OTHERWISE: &str = "10.0.0.1 svc/s0 -> 172.17.0.1\n10.0.0.1 10.254.9.9:80 -> dropped # & so\n";

fn verify(folder: &Folder, packets: &str, flags: &[&str]) -> Said {
    let path = folder.0.join("packets.txt");
    fs::write(&path, packets).unwrap();
    let verb = ["verify", "--packets", path.to_str().unwrap()];
    with(&[&verb[..], flags].concat(), &services(&[2]))
}

#[test]
fn packets_are_as_written_or_not_and_the_exit_code_says_so() {
    let folder = Folder::new("packets");
    let said = verify(&folder, AS_WRITTEN, &[]).expect(0).silent();
    assert!(
        said.out.ends_with("packets.txt: 5 of 5 as written\n"),
        "{}",
        said.out
    );
    verify(&folder, OTHERWISE, &[]).expect(1).shows(&[
        "packets.txt:1: 10.0.0.1 svc/s0\n  expected  172.17.0.1\n  \
         got       172.17.0.1 80 50%, 172.17.0.2 80 50%\n  \
         because   Service default/s0: internalTrafficPolicy Cluster\n",
        "packets.txt: 1 of 4 otherwise\n",
    ]);
    assert_eq!(verify(&folder, OTHERWISE, &["-q"]).expect(1).out, "");
}

#[test]
fn lines_that_cannot_be_used_are_named_and_nothing_else_is_said() {
    let folder = Folder::new("bad-packets");
    let bad = "10.0.0.1 svc/s0 -> refusd\n\n10.0.0.1 -> \u{202e}\n";
    let said = verify(&folder, bad, &[]).expect(2).names(&[
        "packets.txt:1:20: \"refusd\": expected",
        "did you mean refused?",
        "packets.txt:3:9: expected a destination",
    ]);
    assert_eq!(said.out, "");
    verify(&folder, "10.0.0.1 svc/s1 -> refused\n", &[])
        .expect(2)
        .names(&["packets.txt:1:10: svc/s1: the inputs have no Service default/s1"]);
    verify(&folder, "pod/\u{202e}x svc/s0 -> refused\n", &[])
        .expect(2)
        .names(&["\\u202e"]);
    with(&["verify"], "").expect(2).names(&["--packets FILE"]);
    svcnat(&["verify", "/nowhere"], "")
        .expect(2)
        .names(&["cannot read /nowhere/packets.txt"]);
    svcnat(&["verify", "--live", "/a", "/b"], "")
        .expect(2)
        .names(&["--sandbox takes many"]);
}

#[test]
fn test_runners_read_it() {
    let folder = Folder::new("formats");
    let tap = verify(&folder, OTHERWISE, &["-o", "tap"]).expect(1).out;
    let lines: Vec<&str> = tap.lines().collect();
    assert_eq!(lines[..2], ["TAP version 14", "1..4"]);
    assert!(
        lines[2].starts_with("not ok 1 - ") && lines[3] == "  ---",
        "{tap}"
    );
    let expected = [
        "  expected: \"172.17.0.1\"",
        "  got: \"172.17.0.1 80 50%, 172.17.0.2 80 50%\"",
        "  because: \"Service default/s0: internalTrafficPolicy Cluster\"",
        "  ...",
    ];
    assert_eq!(lines[4..8], expected);
    assert!(lines[8].starts_with("ok 2 - "), "{tap}");

    let junit = verify(&folder, OTHERWISE, &["-o", "junit"]).expect(1).out;
    for part in [
        "<testsuites name=\"svcnat verify\" tests=\"4\" failures=\"1\" skipped=\"0\">",
        "<failure message=\"got 172.17.0.1 80 50%, 172.17.0.2 80 50%\">expected: 172.17.0.1\n",
        "10.0.0.1 10.254.9.9:80\"/>",
    ] {
        assert!(junit.contains(part), "{part} is not in {junit}");
    }
    assert_eq!(junit.matches("<testcase ").count(), 4);

    let json = verify(&folder, OTHERWISE, &["-o", "json"]).expect(1).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["failed"], 1);
    let checks = json["files"][0]["checks"].as_array().unwrap();
    let verdicts: Vec<&str> = checks
        .iter()
        .map(|c| c["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["failed", "passed", "passed", "passed"]);
    assert_eq!(checks[0]["got"], "172.17.0.1 80 50%, 172.17.0.2 80 50%");
}

/// What XML has a meaning for is written as text; what nobody may print is not printed.
#[test]
fn a_file_with_any_name_can_be_told_in_xml() {
    let folder = Folder::new("xml");
    let path = folder.0.join("<a>&\"b\u{202e}.txt");
    fs::write(&path, OTHERWISE).unwrap();
    let verb = ["verify", "-o", "junit", "--packets", path.to_str().unwrap()];
    let said = with(&verb, &services(&[2])).expect(1);
    said.shows(&["&lt;a&gt;&amp;&quot;b\\u202e.txt:1"]);
}

#[test]
fn what_is_otherwise_is_written_down_and_nothing_else() {
    let folder = Folder::new("write");
    verify(&folder, AS_WRITTEN, &["--write"]).expect(0).silent();
    let path = folder.0.join("packets.txt");
    assert_eq!(fs::read_to_string(&path).unwrap(), AS_WRITTEN);
    let text = "# Why\n10.0.0.1  10.254.0.10:80  # one\n10.0.0.1 svc/s0 -> 172.17.0.1 # two\n";
    verify(&folder, text, &["--write"])
        .expect(0)
        .names(&["2 lines written"]);
    let both = "172.17.0.1 80 50%, 172.17.0.2 80 50%";
    let expected = format!(
        "# Why\n10.0.0.1  10.254.0.10:80 -> {both}  # one\n10.0.0.1 svc/s0 -> {both} # two\n"
    );
    let written = fs::read_to_string(&path).unwrap();
    assert_eq!(written, expected);
    verify(&folder, &written, &[]).expect(0);
}

#[test]
fn live_is_what_is_installed_here_and_what_is_in_its_way() {
    in_namespace(|| {
        let folder = Folder::new("live");
        let nowhere = "10.0.0.1 10.254.9.9:80 -> dropped\n";
        verify(&folder, nowhere, &["--live"]).expect(1).shows(&[
            "got       untranslated\n  because   nothing is installed here (svcnat apply)",
            "what is installed\n  expected  what the inputs say",
        ]);
        assert_eq!(ruleset(), "", "it only looks");
        with(&["apply"], &services(&[2])).expect(0);
        let before = ruleset();
        verify(&folder, nowhere, &["--live"]).expect(0);
        // There is no way to the endpoints from here.
        let said = verify(&folder, AS_WRITTEN, &["--live"]).expect(1);
        said.shows(&["  expected  172.17.0.1 80 50%, 172.17.0.2 80 50%\n  got       "]);
        let other = services(&[2, 1]);
        let path = folder.0.join("packets.txt");
        let verb = ["verify", "--live", "--packets", path.to_str().unwrap()];
        with(&verb, &other)
            .expect(1)
            .shows(&["svcnat diff tells them"]);
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn a_sandbox_is_a_namespace_of_its_own() {
    in_namespace(|| {
        let folder = Folder::new("sandbox");
        with(&["apply"], &services(&[1])).expect(0);
        let before = ruleset();
        let said = verify(&folder, AS_WRITTEN, &["--sandbox", "-o", "json"]).expect(0);
        let found: serde_json::Value = serde_json::from_str(&said.out).unwrap();
        let checks = found["files"][0]["checks"].as_array().unwrap();
        let names: Vec<&str> = checks.iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(
            names[3..],
            [
                "a second apply",
                "what is rendered, loaded by nft",
                "delete after it",
                "the same objects in another order render to the same bytes",
            ]
        );
        assert!(checks.iter().all(|check| check["verdict"] == "passed"));
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn packets_are_sent_for_real_and_who_answers_is_told() {
    in_namespace(|| {
        let folder = Folder::new("send");
        // .1 is the bridge's.
        let input = services(&[2]).replace("172.17.0.1", "172.17.0.3");
        let path = folder.0.join("packets.txt");
        let send = |text: &str| {
            fs::write(&path, text).unwrap();
            let packets = ["verify", "--send", "--packets", path.to_str().unwrap()];
            let node = [
                "--node-ip=192.168.50.11",
                "--pod-cidr=172.17.0.0/24",
                "--cluster-cidr=172.17.0.0/16",
            ];
            with(&[&packets[..], &node].concat(), &input)
        };
        let right = "172.17.0.9 svc/s0 -> 172.17.0.2 50%, 172.17.0.3 50%\n\
                     203.0.113.9 svc/s0 -> 172.17.0.2 masqueraded, 172.17.0.3 masqueraded\n\
                     172.17.0.9 10.254.0.10:81 -> refused\n\
                     203.0.113.9 10.254.9.9:80 -> dropped\n";
        send(right).expect(0).shows(&["8 of 8 as written"]);
        let wrong = "203.0.113.9 svc/s0 -> 172.17.0.2, 172.17.0.3\n\
                     203.0.113.9 10.254.9.9:80 -> refused\n";
        send(wrong).expect(1).shows(&[
            " 80 masqueraded (who saw 1",
            "expected  refused\n  got       dropped (no answer)\n",
            "2 of 6 otherwise",
        ]);
        assert_eq!(ruleset(), "");
    });
}

/// Without nft that is said, and no failure.
#[test]
fn what_cannot_be_tried_is_skipped() {
    in_namespace(|| {
        let folder = Folder::new("skipped");
        let path = folder.0.join("packets.txt");
        fs::write(&path, AS_WRITTEN).unwrap();
        let input = folder.0.join("input.yaml");
        fs::write(&input, services(&[2])).unwrap();
        let run = std::process::Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(["verify", "--sandbox", "-f"])
            .arg(input)
            .arg("--packets")
            .arg(path)
            .args(SETTINGS)
            .env("PATH", "/nowhere")
            .output()
            .unwrap();
        Said::from(run).expect(0).shows(&[
            "what is rendered, loaded by nft\n  skipped   there is no nft here\n",
            ": 6 of 7 as written\n",
        ]);
    });
}
