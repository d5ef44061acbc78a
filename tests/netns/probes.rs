//! `explain --live --probe`: a real packet beside what is foretold; and what connection tracking
//! does to packets that no rule ends: a full table, and a flow that is older than the rules.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use serde_json::Value;
use svcnat::cluster::Protocol;
use svcnat::lab::{Source, ask};

use crate::breakages::{ARGS, Named, OBJECTS, again, shell, stage};
use crate::support::{Netns, Outcome, PATIENCE, SILENCE, Stage, run_svcnat};

const POD: &str = "172.17.0.9";
const NODE: &str = "192.168.50.11";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// With the namespaces of the visitor and of the pod named, so that they are found.
fn with_names() -> (Stage, [Named; 2]) {
    let (stage, named) = stage();
    let visitors = [POD, "fd00:17::9"].map(|addr| stage.at(address(addr)));
    let visitor = Named::new(&[("visitor", &visitors[0]), ("visitor", &visitors[1])]);
    (stage, [named, visitor])
}

/// The exit code, and the probe as `state: sentence`.
fn probed(stage: &Stage, from: &str, to: &str, probe: &str) -> (i32, String) {
    let verb = ["explain", from, to, "--live", probe, "-o", "json"];
    let run = run_svcnat(stage.node(), &[&verb, &ARGS[..]].concat(), OBJECTS);
    let said: Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{to}: {error}: {}\n{}", run.stdout, run.stderr));
    let probe = &said["path"]["probe"];
    let text = |key: &str| probe[key].as_str().unwrap_or_default().to_owned();
    (run.code, format!("{}: {}", text("state"), text("found")))
}

#[test]
fn a_real_packet_is_sent_from_where_the_client_is_and_held_against_what_was_foretold() {
    let (stage, _named) = with_names();
    let says = |from: &str, to: &str, code: i32, says: &str| {
        // Nobody waits long for what will not come.
        let patience = if says.contains("no answer") {
            "--probe=300ms"
        } else {
            "--probe=10s"
        };
        let (found, said) = probed(&stage, from, to, patience);
        assert!(
            said.contains(says) && found == code,
            "{from} {to}: {found}\n{said}\nnot {says}"
        );
    };
    let here = ", answered by 172.17.0.2:8080, as foretold";
    let here_6 = ", answered by [fd00:17::2]:8080, as foretold";
    says(
        POD,
        "svc/here:t",
        0,
        &format!("fine: met a connection to 10.254.0.10:80{here}"),
    );
    says(
        POD,
        "10.254.0.10:80/udp",
        0,
        &format!("fine: met an answer from 10.254.0.10:80{here}"),
    );
    says("fd00:17::9", "[fd00:254::10]:80", 0, here_6);
    says(NODE, "10.254.0.10:80", 0, here);
    says(NODE, "10.254.0.10:80/udp", 0, here);
    says(
        POD,
        "10.254.0.11:80",
        0,
        ", answered by 172.17.1.2:8080, as foretold",
    );
    says(
        POD,
        "svc/wrong-port",
        1,
        "broken: met a refusal, as foretold",
    );
    says(POD, "svc/nobody", 1, "broken: met a refusal, as foretold");
    says(
        "203.0.113.9",
        "node/node1:30080",
        0,
        "unknown: cannot be sent from there: 203.0.113.9 is neither",
    );
    // What this node drops is foretold.
    shell(
        &stage,
        "nft 'table inet fw { chain c { type filter hook forward priority 0; policy drop; }; }'",
    );
    says(
        POD,
        "10.254.0.11:80",
        1,
        "broken: met no answer, as foretold",
    );
    shell(&stage, "nft delete table inet fw");
    // So is what an endpoint itself does in a namespace that has a name; elsewhere it is not.
    for (rule, endpoint, service, met) in [
        (
            "tcp dport 8080 drop",
            "172.17.0.2",
            "10.254.0.10:80",
            "met no answer, as foretold",
        ),
        (
            "tcp dport 8080 drop",
            "172.17.1.2",
            "10.254.0.11:80",
            "foretold that it gets through, met no answer",
        ),
        (
            "tcp dport 8080 reject with tcp reset",
            "172.17.1.2",
            "10.254.0.11:80",
            "foretold that it gets through, met a refusal",
        ),
    ] {
        let endpoint = stage.at(address(endpoint));
        endpoint.nft(&format!(
            "table inet own {{\n chain c {{\n type filter hook input priority 0\n {rule}\n }}\n}}"
        ));
        says(POD, service, 1, &format!("broken: {met}"));
        endpoint.must("nft", &["delete", "table", "inet", "own"], "");
    }
    says(POD, "10.254.0.10:80", 0, here);
}

#[test]
fn nothing_is_sent_unless_asked_for_and_not_without_live() {
    let (stage, _named) = with_names();
    let count = "nft 'table inet n { chain c { type filter hook prerouting priority -300; \
        ip saddr 172.17.0.9 tcp dport 80 counter; }; }'";
    shell(&stage, count);
    let seen = || {
        stage
            .node()
            .must("nft", &["list", "table", "inet", "n"], "")
    };
    let verb = ["explain", POD, "10.254.0.10:80", "--live"];
    run_svcnat(stage.node(), &[&verb, &ARGS[..]].concat(), OBJECTS).expect(0);
    assert!(seen().contains("counter packets 0 "), "{}", seen());
    probed(&stage, POD, "10.254.0.10:80", "--probe");
    assert!(!seen().contains("counter packets 0 "), "{}", seen());
    let verb = ["explain", POD, "10.254.0.10:80", "--probe"];
    run_svcnat(stage.node(), &[&verb, &ARGS[..]].concat(), OBJECTS).expect(2);
}

#[test]
fn a_flow_that_is_older_than_the_rules_is_named() {
    let (stage, _named) = with_names();
    let to: SocketAddr = "10.254.0.10:80".parse().expect("a socket");
    let from = Source {
        addr: Some(address(POD)),
        port: 4242,
    };
    let asked = || {
        let pod = stage.at(address(POD));
        match pod.enter(|| ask(from, Protocol::Udp, to, PATIENCE)) {
            Outcome::Answer(answer) => answer.name,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(asked(), "172.17.0.2");
    let explain = |objects: &str| {
        let verb = ["explain", POD, "10.254.0.10:80/udp", "--live"];
        run_svcnat(stage.node(), &[&verb, &ARGS[..]].concat(), objects)
    };
    explain(OBJECTS).expect(0);
    // The endpoint is replaced by somebody who removes no flows, as `nft -f` does.
    let objects = OBJECTS.replace(
        "addresses: [172.17.0.2], nodeName: node1",
        "addresses: [172.17.1.2], nodeName: node2",
    );
    let rendered = run_svcnat(stage.node(), &[&["render"][..], &ARGS].concat(), &objects).expect(0);
    stage.node().nft(&rendered.stdout);
    assert_eq!(asked(), "172.17.0.2", "the flow goes on");
    let said = explain(&objects).expect(1).stdout;
    let says = "conntrack: a flow of this client is tracked that goes to 172.17.0.2:8080";
    assert!(said.contains(says), "{said}");
}

/// The largest table that a test fills.
const MOST: u32 = 1 << 20;

#[test]
fn a_full_table_of_connections_is_named() {
    let max = fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").expect("a limit");
    let max: u32 = max.trim().parse().expect("a number");
    if max > MOST {
        eprintln!("left out: {max} connections are too many to be made");
        return;
    }
    let (stage, _named) = stage();
    let node = stage.node();
    let to: SocketAddr = "10.254.0.11:80".parse().expect("a socket");
    let ask = |patience| {
        let asked = stage.ask(address(POD), Protocol::Tcp, to, patience, 1);
        asked.into_iter().next().expect("an outcome")
    };
    assert!(matches!(ask(PATIENCE), Outcome::Answer(_)));
    let verb = [&["check"][..], &ARGS].concat();
    let check = || run_svcnat(node, &verb, OBJECTS).stdout;
    assert!(!check().contains("connection tracking: the table"));

    fill(node, 0..max / 100 * 92);
    let said = check();
    assert!(
        said.contains("warning: connection tracking: the table is nearly full"),
        "{said}"
    );
    assert!(matches!(ask(PATIENCE), Outcome::Answer(_)));
    fill(node, max / 100 * 92..max + max / 100);
    assert_eq!(ask(SILENCE), Outcome::Silence);
    let said = check();
    let full = format!("error: connection tracking: the table is full: {max} of {max}");
    assert_eq!(said.matches("the table is full").count(), 1, "{said}");
    assert!(said.contains(&full), "{said}");
    assert!(said.contains("packets were dropped"), "{said}");
    let verb = ["explain", POD, "10.254.0.11:80", "--live"];
    let run = run_svcnat(node, &[&verb, &ARGS[..]].concat(), OBJECTS).expect(1);
    assert!(
        run.stdout.contains("\nconntrack: the table is full"),
        "{}",
        run.stdout
    );

    // ctnetlink's deletion without a tuple empties the table (IPCTNL_MSG_CT_DELETE).
    send(node, &message(2, |_| {}));
    assert!(matches!(ask(PATIENCE), Outcome::Answer(_)));
    again(&stage);
}

/// Has these connections tracked, which are established, and so stay.
fn fill(node: &Netns, which: Range<u32>) {
    let mut batch = Vec::new();
    for n in which.clone() {
        batch.extend(message(0, |body| tracked(body, n)));
        if batch.len() > 60_000 || n + 1 == which.end {
            send(node, &batch);
            batch.clear();
        }
    }
}

/// One of ctnetlink (linux/netfilter/nfnetlink_conntrack.h); new ones are made.
fn message(kind: u8, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    // NLM_F_REQUEST and NLM_F_CREATE; nfgenmsg of IPv4.
    let mut out = vec![
        0, 0, 0, 0, kind, 1, 1, 4, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0,
    ];
    body(&mut out);
    let len = u32::try_from(out.len()).expect("a short message");
    out[..4].copy_from_slice(&len.to_ne_bytes());
    out
}

fn attribute(out: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    let len = u16::try_from(4 + payload.len()).expect("a short attribute");
    out.extend(len.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(payload);
    out.resize(out.len().next_multiple_of(4), 0);
}

/// An established UDP flow, the `n`th.
fn tracked(out: &mut Vec<u8>, n: u32) {
    const NESTED: u16 = 0x8000;
    let ends = [[198, 18, 0, 1], [198, 19, 0, 1]];
    // As many ports as there are, of one host after the other.
    let [high, host, port @ ..] = n.to_be_bytes();
    let at = |mut end: [u8; 4]| {
        end[2] = host ^ high;
        end
    };
    let [client, server] = ends.map(at);
    for (kind, (from, sport), (to, dport)) in [
        (1, (client, port), (server, [0, 53])),
        (2, (server, [0, 53]), (client, port)),
    ] {
        let (mut ip, mut proto, mut tuple) = (Vec::new(), Vec::new(), Vec::new());
        attribute(&mut ip, 1, &from);
        attribute(&mut ip, 2, &to);
        attribute(&mut proto, 1, &[17]);
        attribute(&mut proto, 2, &sport);
        attribute(&mut proto, 3, &dport);
        attribute(&mut tuple, 1 | NESTED, &ip);
        attribute(&mut tuple, 2 | NESTED, &proto);
        attribute(out, kind | NESTED, &tuple);
    }
    // CTA_STATUS: IPS_SEEN_REPLY, IPS_ASSURED and IPS_CONFIRMED; CTA_TIMEOUT.
    attribute(out, 3, &14_u32.to_be_bytes());
    attribute(out, 7, &3600_u32.to_be_bytes());
}

fn send(node: &Netns, bytes: &[u8]) {
    use std::os::fd::AsRawFd;
    node.enter(|| {
        let of = SockProtocol::NetlinkNetFilter;
        let kind = SockType::Raw;
        let socket = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, of);
        let socket = socket.expect("a netlink socket");
        let kernel = NetlinkAddr::new(0, 0);
        let sent = sendto(socket.as_raw_fd(), bytes, &kernel, MsgFlags::empty());
        assert_eq!(sent, Ok(bytes.len()));
    });
}
