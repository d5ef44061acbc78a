//! Other programs' rules, evaluated and met by real packets: where the evaluation is certain,
//! the packet fares as it says; where it is not, it says so.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use svcnat::cluster::Protocol;
use svcnat::foreign::{Device, Hook, Packet, Rules, Span, Verdict, hook};
use svcnat::netlink::{Nfnetlink, others};

use crate::support::{Outcome, PATIENCE, SILENCE, Stage};

const CLIENT: [u8; 4] = [203, 0, 113, 9];
const POD: [u8; 4] = [172, 17, 0, 2];
const OTHER_POD: [u8; 4] = [172, 17, 0, 3];
const PORT: u16 = 8080;

/// What is expected of the evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// It says what happens.
    Certain,
    /// It cannot tell: a property of the packet or a condition is not known.
    Not,
}

use Told::{Certain, Not};

/// A chain `c` at a hook, as firewalls have it, and other chains, sets and maps beside it.
const RULES: &[(&str, Told, &str)] = &[
    ("forward priority 0; policy drop;", Certain, ""),
    (
        "forward priority 0; policy drop;",
        Certain,
        "ct state new accept",
    ),
    (
        "forward priority 0; policy drop;",
        Certain,
        "ct state established,related accept",
    ),
    ("forward priority 0;", Certain, "drop"),
    ("forward priority 0;", Certain, "reject"),
    ("forward priority 0;", Certain, "reject with tcp reset"),
    ("forward priority 0;", Certain, "iifname \"eth0\" drop"),
    (
        "forward priority 0;",
        Certain,
        "iifname \"eth*\" oifname \"docker0\" drop",
    ),
    ("forward priority 0;", Certain, "iifname != \"eth0\" drop"),
    (
        "forward priority 0;",
        Certain,
        "oif \"docker0\" ip daddr 172.17.0.0/24 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr 172.17.0.0/30 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr 172.17.0.4-172.17.0.9 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr 172.17.0.1-172.17.0.9 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip saddr 203.0.113.0/24 ip daddr != 172.17.0.2 drop",
    ),
    ("forward priority 0;", Certain, "tcp dport 8080 drop"),
    ("forward priority 0;", Certain, "udp dport 8080 drop"),
    (
        "forward priority 0;",
        Certain,
        "th dport { 80, 443, 8000-8100 } drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "tcp dport != { 80, 443 } drop",
    ),
    ("forward priority 0;", Certain, "tcp dport > 8079 drop"),
    (
        "forward priority 0;",
        Certain,
        "tcp flags & (fin|syn|rst|ack) == syn drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "meta l4proto { icmp, udp } drop",
    ),
    ("forward priority 0;", Certain, "ip protocol tcp drop"),
    ("forward priority 0;", Certain, "meta nfproto ipv6 drop"),
    ("forward priority 0;", Certain, "ip6 daddr fd00::/8 drop"),
    ("forward priority 0;", Certain, "ip daddr @nets drop"),
    (
        "forward priority 0;",
        Certain,
        "ip daddr . th dport @pairs drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr vmap { 172.17.0.2 : drop, 172.17.0.3 : accept }",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr . meta l4proto vmap @ends",
    ),
    ("forward priority 0;", Certain, "jump sub\n accept"),
    ("forward priority 0;", Certain, "goto sub\n drop"),
    ("forward priority 0;", Certain, "jump back\n drop"),
    ("forward priority 0;", Certain, "counter log drop"),
    ("forward priority 0;", Certain, "meta mark 0x1 drop"),
    (
        "forward priority 0;",
        Certain,
        "meta mark set 0x1\n meta mark 0x1 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "meta mark set meta mark | 0x4000\n meta mark & 0x4000 != 0 drop",
    ),
    ("forward priority 0;", Certain, "fib daddr type local drop"),
    (
        "forward priority 0;",
        Certain,
        "fib daddr type unicast drop",
    ),
    ("forward priority 0;", Certain, "ct status dnat drop"),
    (
        "forward priority 0;",
        Certain,
        "ct original ip daddr 172.17.0.2 drop",
    ),
    ("forward priority 0;", Certain, "ct direction reply drop"),
    (
        "forward priority 0;",
        Certain,
        "add @seen { ip saddr } drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ip daddr . iifname { 172.17.0.2 . \"eth0\" } drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "meta pkttype broadcast drop",
    ),
    ("forward priority 0;", Certain, "ct mark 0x7 drop"),
    (
        "forward priority 0;",
        Certain,
        "ct mark set 0x7\n ct mark 0x7 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "ct direction original ct mark set 0x7\n ct direction reply ct mark 0x7 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "meta mark set 0x7\n ct mark set meta mark\n ct mark 0x7 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "rt ip nexthop 172.17.0.2 drop",
    ),
    (
        "forward priority 0;",
        Certain,
        "rt ip nexthop 172.17.0.3 drop",
    ),
    ("forward priority 0;", Certain, "numgen inc mod 1 0 drop"),
    (
        "forward priority 0;",
        Certain,
        "numgen random mod 2 vmap { 0 : drop, 1 : drop }",
    ),
    (
        "forward priority 0;",
        Not,
        "numgen random mod 2 vmap { 0 : drop, 1 : accept }",
    ),
    (
        "forward priority 0;",
        Not,
        "limit rate 1/minute burst 1 packets drop",
    ),
    ("forward priority 0;", Not, "tcp sport 1-30000 drop"),
    ("forward priority 0;", Not, "ip ttl < 64 drop"),
    (
        "forward priority 0;",
        Not,
        "meta hour \"00:00\"-\"00:01\" drop",
    ),
    ("forward priority 0;", Not, "numgen random mod 2 0 drop"),
    (
        "forward priority 0; policy drop;",
        Not,
        "limit rate over 1000/second accept",
    ),
    (
        "forward priority 0; policy drop;",
        Certain,
        "limit rate 1/minute drop",
    ),
    ("forward priority 0;", Certain, "limit rate 1/minute accept"),
    (
        "prerouting priority -300;",
        Certain,
        "ip daddr 172.17.0.2 drop",
    ),
    ("prerouting priority 10;", Certain, "tcp dport 8080 drop"),
    (
        "prerouting priority -300;",
        Certain,
        "ip daddr 172.17.0.2 notrack",
    ),
    ("input priority 0; policy drop;", Certain, ""),
    ("output priority 0; policy drop;", Certain, ""),
    (
        "postrouting priority 0;",
        Certain,
        "oifname \"docker0\" drop",
    ),
    ("postrouting priority 0;", Certain, "oifname \"eth0\" drop"),
    (
        "ingress device \"eth0\" priority 0;",
        Certain,
        "ip daddr 172.17.0.2 drop",
    ),
    (
        "ingress device \"docker0\" priority 0;",
        Certain,
        "ip daddr 172.17.0.2 drop",
    ),
];

/// The same of `type nat` chains.
const TRANSLATIONS: &[(&str, &str)] = &[
    (
        "prerouting priority -110;",
        "tcp dport 8080 dnat ip to 172.17.0.3",
    ),
    (
        "prerouting priority -110;",
        "tcp dport 8080 dnat ip to 172.17.0.3:8080",
    ),
    (
        "prerouting priority -110;",
        "tcp dport 81 dnat ip to 172.17.0.3",
    ),
    (
        "prerouting priority -110;",
        "ip daddr 172.17.0.2 dnat ip to 172.17.0.9",
    ),
    (
        "prerouting priority -110;",
        "accept\n tcp dport 8080 dnat ip to 172.17.0.3",
    ),
    ("postrouting priority 110;", "masquerade"),
];

fn text(kind: &str, hook: &str, rules: &str) -> String {
    let rules = rules.replace('\n', "\n  ");
    format!(
        "table inet other {{
  set nets {{ type ipv4_addr; flags interval; elements = {{ 10.0.0.0/8, 172.17.0.0/16 }} }}
  set pairs {{ type ipv4_addr . inet_service; flags interval; elements = {{ 172.17.0.0/24 . 8000-9000 }} }}
  set seen {{ type ipv4_addr; flags dynamic; size 100; }}
  map ends {{ type ipv4_addr . inet_proto : verdict; elements = {{ 172.17.0.2 . tcp : jump sub }} }}
  chain sub {{ ip daddr 172.17.0.2 drop; }}
  chain back {{ return; }}
  chain c {{ type {kind} hook {hook}
  {rules}
  }}
}}\n"
    )
}

/// What the evaluation says of a packet on its way through the node by `oif`, and of the answer
/// to it.
fn fate(rules: &Rules, mut packet: Packet, oif: &Device) -> Verdict {
    let iif = packet.iif.clone();
    let mut all = through(rules, &mut packet, oif);
    all.extend(through(rules, &mut packet.reply(oif.clone()), &iif));
    let decides = all
        .into_iter()
        .find(|v| !matches!(v, Verdict::Pass | Verdict::Snat));
    decides.unwrap_or(Verdict::Pass)
}

fn through(rules: &Rules, packet: &mut Packet, oif: &Device) -> Vec<Verdict> {
    let mut all = Vec::new();
    for at in [
        Hook::Ingress,
        Hook::Prerouting,
        Hook::Forward,
        Hook::Postrouting,
    ] {
        if at == Hook::Forward {
            packet.oif = oif.clone();
            packet.next_hop = Some(packet.destination);
        }
        let found = hook(rules, at, Span::All, packet, &|_: IpAddr| false);
        all.extend(found.into_iter().map(|outcome| outcome.verdict));
    }
    all
}

fn stage() -> Stage {
    let at = |addr: [u8; 4]| SocketAddr::new(addr.into(), PORT);
    let servers: BTreeSet<_> = [POD, OTHER_POD]
        .into_iter()
        .map(|addr| (at(addr), Protocol::Tcp))
        .collect();
    Stage::new([CLIENT.into()], &servers)
}

/// With these rules on the node: what the evaluation says, and what becomes of a real packet.
fn send(stage: &Stage, text: &str) -> (Verdict, Outcome) {
    let node = stage.node();
    let loaded = node.run("nft", &["-f", "-"], text.as_bytes());
    assert!(loaded.status.success(), "{text}\n{loaded:?}");
    let verdict = node.enter(|| {
        let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("a device");
        let device = |name: &str| Device::Known(name.to_owned(), index(name));
        let packet = Packet::first(
            CLIENT.into(),
            (POD.into(), PORT),
            Protocol::Tcp,
            device("eth0"),
        );
        let rules = Nfnetlink::open().and_then(|mut kernel| others(&mut kernel));
        fate(&rules.expect("others' rules"), packet, &device("docker0"))
    });
    // Nobody waits long for what will not come.
    let patience = match verdict {
        Verdict::Drop => SILENCE,
        _ => PATIENCE,
    };
    let to = SocketAddr::new(POD.into(), PORT);
    let asked = stage.ask(CLIENT.into(), Protocol::Tcp, to, patience, 1);
    node.run("nft", &["flush", "ruleset"], b"");
    (verdict, asked.into_iter().next().expect("an outcome"))
}

#[test]
fn filters_do_to_real_packets_what_the_evaluation_says() {
    let stage = stage();
    let mut kinds = [0; 3];
    for (hook, told, rules) in RULES {
        let (verdict, outcome) = send(&stage, &text("filter", hook, rules));
        match (&verdict, told) {
            (Verdict::Perhaps(..), Not) => continue,
            (_, Not) => panic!("{hook} {rules}: {verdict:?}"),
            (Verdict::Pass, Certain) => {
                assert!(
                    matches!(outcome, Outcome::Answer(_)),
                    "{hook} {rules}: {outcome:?}"
                );
                kinds[0] += 1;
            }
            (Verdict::Drop, Certain) => {
                assert_eq!(outcome, Outcome::Silence, "{hook} {rules}");
                kinds[1] += 1;
            }
            (Verdict::Reject, Certain) => {
                assert_eq!(outcome, Outcome::Refused, "{hook} {rules}");
                kinds[2] += 1;
            }
            (other, Certain) => panic!("{hook} {rules}: {other:?}"),
        }
    }
    assert!(kinds[0] > 10 && kinds[1] > 10 && kinds[2] > 1, "{kinds:?}");
}

#[test]
fn translations_lead_where_the_evaluation_says() {
    let stage = stage();
    for (hook, rules) in TRANSLATIONS {
        let (verdict, outcome) = send(&stage, &text("nat", hook, rules));
        let to = match verdict {
            Verdict::Pass => SocketAddr::new(POD.into(), PORT),
            Verdict::Dnat(address, port) => {
                let address = address.expect("a constant address");
                SocketAddr::new(address, port.unwrap_or(PORT))
            }
            other => panic!("{hook} {rules}: {other:?}"),
        };
        match outcome {
            Outcome::Answer(answer) => {
                assert_eq!(answer.name, to.ip().to_string(), "{hook} {rules}");
            }
            // Nobody is there.
            _ => assert_eq!(to.ip(), IpAddr::from([172, 17, 0, 9]), "{hook} {rules}"),
        }
    }
}
