//! Pods that send to each other without a router, as on a bridge that has their prefix: what is in
//! their way there is found, and what would be in a routed packet's is not.

use crate::breakages::{
    DIRECT, DIRECT_6, FAR, HERE, ITSELF, Named, Question, UNDO, is_found, over_udp, shell, stage,
    works,
};
use crate::support::{Netns, Stage};

/// A chain of a firewall for bridges.
macro_rules! bridge {
    ($hook:literal, $rules:literal) => {
        concat!(
            "nft 'table bridge fw { chain c { type filter hook ",
            $hook,
            " priority 0; ",
            $rules,
            " }; }'"
        )
    };
}

/// How it is broken, by whom it is asked, what is said, and how it is repaired; pods are at the ports pod1 (172.17.0.2) and pod2 (172.17.0.9).
#[rustfmt::skip]
const ON_A_BRIDGE: &[(&str, Question, &str, &str)] = &[
    (bridge!("forward", "ip daddr 172.17.0.2 drop;"), DIRECT, "forward: bridge fw c drops it (rule", UNDO_BRIDGE),
    (bridge!("forward", "ip6 daddr fd00:17::2 drop;"), DIRECT_6, "forward: bridge fw c drops it (rule", UNDO_BRIDGE),
    (bridge!("forward", "iifname pod2 oifname pod1 drop;"), HERE, "forward: bridge fw c drops it (rule", UNDO_BRIDGE),
    (bridge!("forward", "iifname pod1 udp sport 8080 drop;"), over_udp(HERE), "answer: forward: bridge fw c drops it (rule", UNDO_BRIDGE),
    (bridge!("prerouting", "iifname pod2 ether type ip ip daddr 10.254.0.0/16 drop;"), FAR, "prerouting: bridge fw c drops it (rule", UNDO_BRIDGE),
    (bridge!("postrouting", "oifname pod1 tcp dport 8080 drop;"), DIRECT, "postrouting: bridge fw c drops it (rule", UNDO_BRIDGE),
    (chain!("forward priority 0", "policy drop;"), DIRECT, "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop; ct state new accept;"), HERE, "answer: forward: inet fw c drops it by policy", UNDO),
    (chain!("prerouting priority -300", "ip daddr 172.17.0.2 drop;"), DIRECT, "prerouting: inet fw c drops it (rule", UNDO),
    ("nft 'table netdev fw { chain c { type filter hook ingress device pod2 priority 0; tcp dport 80 drop; }; }'", HERE, "ingress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("nft 'table netdev fw { chain c { type filter hook ingress device pod1 priority 0; ip saddr 172.17.0.2 drop; }; }'", DIRECT, "answer: ingress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("nft 'table netdev fw { chain c { type filter hook egress device pod1 priority 0; tcp dport 8080 drop; }; }'", DIRECT, "egress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("ip link set pod1 type bridge_slave isolated on; ip link set pod2 type bridge_slave isolated on", DIRECT, "link: pod2 and pod1 are isolated ports of docker0", CONNECTED),
    ("ip link set pod1 type bridge_slave isolated on; ip link set pod2 type bridge_slave isolated on", HERE, "link: pod2 and pod1 are isolated ports of docker0", CONNECTED),
    ("ip link set pod1 type bridge_slave hairpin off", ITSELF, "link: pod1 sends nothing back to 172.17.0.2, where it came from: hairpin is off", "ip link set pod1 type bridge_slave hairpin on"),
    ("ip link set pod1 down", DIRECT, "link: pod1, by which 172.17.0.2 is reached, is down", "ip link set pod1 up"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0", HERE, "this node does not forward what comes in by docker0", "sysctl -qw net.ipv4.conf.docker0.forwarding=1"),
    ("sysctl -qw net.bridge.bridge-nf-call-iptables=0", HERE, "answer: route: 172.17.0.2 answers 172.17.0.9 over docker0, where nothing gives the answer the address 10.254.0.10",
     "sysctl -qw net.bridge.bridge-nf-call-iptables=1"),
    ("ip neigh replace 172.17.0.2 lladdr 02:00:00:00:00:99 dev docker0 nud permanent", HERE, "neighbour: packets to 172.17.0.2 go to 02:00:00:00:00:99 on docker0", "ip neigh del 172.17.0.2 dev docker0"),
];

const UNDO_BRIDGE: &str = "nft delete table bridge fw";
const CONNECTED: &str = "ip link set pod1 type bridge_slave isolated off; ip link set pod2 type bridge_slave isolated off";

/// What is in nobody's way there, though it would be in a routed packet's, or the other way round.
#[rustfmt::skip]
const HARMLESS_ON_A_BRIDGE: &[(&str, Question, &str)] = &[
    ("true", DIRECT, "true"),
    ("true", DIRECT_6, "true"),
    ("true", ITSELF, "true"),
    ("ip rule add from 172.17.0.9 to 172.17.0.2 prohibit pref 10", DIRECT, "ip rule del pref 10"),
    ("ip rule add to 172.17.0.9 blackhole pref 10", DIRECT, "ip rule del pref 10"),
    ("ip route replace blackhole 172.17.0.2", DIRECT, "ip route del blackhole 172.17.0.2"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0", DIRECT, "sysctl -qw net.ipv4.conf.docker0.forwarding=1"),
    ("ip link set pod1 type bridge_slave isolated on", DIRECT, CONNECTED),
    ("ip link set pod1 type bridge_slave hairpin off", DIRECT, "ip link set pod1 type bridge_slave hairpin on"),
    (concat!("sysctl -qw net.bridge.bridge-nf-call-iptables=0; ", chain!("forward priority 0", "policy drop;")), DIRECT,
     "nft delete table inet fw; sysctl -qw net.bridge.bridge-nf-call-iptables=1"),
    ("nft 'table netdev fw { chain c { type filter hook ingress device docker0 priority 0; ip saddr 172.17.0.9 drop; }; }'", HERE, "nft delete table netdev fw"),
    (bridge!("input", "ip saddr 172.17.0.9 drop;"), HERE, UNDO_BRIDGE),
];

/// Pods that send to each other's own link-layer addresses.
fn on_a_bridge() -> (Stage, Named) {
    let (stage, named) = stage();
    drop(named);
    let pods = ["172.17.0.2", "172.17.0.9", "fd00:17::2", "fd00:17::9"];
    let at = |pod: &str| stage.at(pod.parse().expect("an address"));
    for pod in pods {
        let script = match pod.contains(':') {
            true => "ip -6 route add fd00:17::/64 dev eth0",
            false => "ip route add 172.17.0.0/24 dev eth0",
        };
        at(pod).must("sh", &["-ec", script], "");
    }
    let places = pods.map(at);
    let named: Vec<(&str, &Netns)> = pods.into_iter().zip(&places).collect();
    let named = Named::new(&named);
    (stage, named)
}

#[test]
fn what_is_in_the_way_on_a_bridge_is_found_and_what_is_not_is_not() {
    let (stage, _named) = on_a_bridge();
    let mut wrong = Vec::new();
    for (setting, question, back) in HARMLESS_ON_A_BRIDGE {
        shell(&stage, setting);
        let works = works(&stage, question);
        shell(&stage, back);
        wrong.extend(works.err().map(|why| format!("{setting}\n{why}")));
    }
    for (breakage, question, says, repair) in ON_A_BRIDGE {
        shell(&stage, breakage);
        let found = is_found(&stage, question, says);
        shell(&stage, repair);
        wrong.extend(found.err().map(|why| format!("{breakage}\n{why}")));
        wrong.extend(
            works(&stage, question)
                .err()
                .map(|why| format!("{repair}\n{why}")),
        );
    }
    let count = wrong.len();
    assert!(wrong.is_empty(), "{count}:\n{}", wrong.join("\n\n"));
}
