//! Programs that svcnat meets on nodes: their rules, by hand from their documented structure
//! (`programs/`), in nf_tables and in the legacy iptables. What `explain --live` and `check` say is
//! what packets do, with their stock rules and with each broken in a way that is its own.

use crate::breakages::{
    FAR, FAR_6, FROM_NODE, HERE, HERE_6, HOST, OUTSIDE, Question, again, ask, explained, is_found,
    over_udp, sent, shell, stage,
};
use crate::support::{Outcome, SILENCE, Stage};

const DIRECT: Question = ask("203.0.113.9", "172.17.0.2:8080", "172.17.0.2:8080");
const ALL: [Question; 11] = [
    FAR,
    HERE,
    over_udp(FAR),
    over_udp(HERE),
    FAR_6,
    HERE_6,
    HOST,
    OUTSIDE,
    over_udp(OUTSIDE),
    FROM_NODE,
    DIRECT,
];

/// What other programs of iptables' the rules are for; in sentences `IP` and `IP6` stand for what
/// names their tables.
const KINDS: [(&str, &str, &str); 2] = [
    ("iptables-nft", "ip", "ip6"),
    ("iptables-legacy", "iptables-legacy", "ip6tables-legacy"),
];

/// Why it may say that it cannot tell: the endpoint sees another client, which is no breakage, and
/// of a legacy table the kernel does not say whether it came before ours.
const MAY_NOT_TELL: [&str; 2] = [
    "the endpoint sees another client",
    "which of two chains of one priority",
];

/// One way to break it: a script, who is asked, what is found, and what undoes it. `$1` is
/// iptables-nft or iptables-legacy.
type Breakage = (&'static str, Question, &'static str, &'static str);

/// What a program's stock rules stop, and how.
type Stops = (Question, &'static str);

/// A node with a program's rules, older than ours.
fn beside(stage: &Stage, script: &str, kind: &str) {
    stage.node().must("sh", &["-ec", script, "sh", kind], "");
    shell(
        stage,
        "nft delete table ip svcnat; nft delete table ip6 svcnat",
    );
    again(stage);
}

/// A text that nft loads, as a script.
fn of_nft(text: &str) -> String {
    format!("nft -f - <<'TXT'\n{text}\nTXT\n")
}

fn meets(script: &str, kinds: &[(&str, &str, &str)], stops: &[Stops], breakages: &[Breakage]) {
    let mut wrong = Vec::new();
    for (kind, ip, ip6) in kinds {
        let (stage, _named) = stage();
        beside(&stage, script, kind);
        let named = |says: &str| {
            says.replace("IP6 ", &format!("{ip6} "))
                .replace("IP ", &format!("{ip} "))
        };
        for question in &ALL {
            let stops = stops.iter().find(|(stopped, _)| stopped == question);
            let fares = match stops {
                Some((_, says)) => is_found(&stage, question, &named(says)),
                None => passes(&stage, question),
            };
            wrong.extend(fares.err().map(|why| format!("{kind}: stock: {why}")));
        }
        for (breakage, question, says, undo) in breakages {
            let run = |script: &str| stage.node().must("sh", &["-ec", script, "sh", kind], "");
            run(breakage);
            let found = is_found(&stage, question, &named(says));
            wrong.extend(found.err().map(|why| format!("{kind}: {breakage}\n{why}")));
            run(undo);
            let repaired = passes(&stage, question);
            wrong.extend(repaired.err().map(|why| format!("{kind}: {undo}\n{why}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What is wrong where packets get through.
fn passes(stage: &Stage, question: &Question) -> Result<(), String> {
    let outcome = sent(stage, question, SILENCE);
    let (code, found, all) = explained(stage, question);
    let said: serde_json::Value = serde_json::from_str(&all).expect("JSON");
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let mut hops = list(&said["path"]["hops"]);
    for leg in list(&said["path"]["legs"]) {
        hops.extend(list(&leg["hops"]));
    }
    assert!(!hops.is_empty(), "{all}");
    hops.retain(|hop| {
        let found = hop["found"].as_str().unwrap_or_default();
        hop["state"] == "unknown" && !MAY_NOT_TELL.iter().any(|why| found.contains(why))
    });
    match (&outcome, code) {
        (Outcome::Answer(_), 0) if hops.is_empty() => Ok(()),
        _ => Err(format!(
            "{question:?}: {outcome:?}, {code} {found}\n{hops:?}\n{all}"
        )),
    }
}

#[test]
fn docker() {
    let dropped = "forward: IP filter FORWARD (Docker) drops it (chain DOCKER, rule";
    meets(
        include_str!("programs/docker.sh"),
        &KINDS,
        &[
            (OUTSIDE, dropped),
            (over_udp(OUTSIDE), dropped),
            (DIRECT, dropped),
        ],
        &[
            (
                "$1 -D DOCKER-FORWARD -i docker0 -j ACCEPT",
                FAR,
                "forward: IP filter FORWARD drops it by policy",
                "$1 -A DOCKER-FORWARD -i docker0 -j ACCEPT",
            ),
            (
                "ip6${1#ip} -I DOCKER-USER -i docker0 -o eth0 -j REJECT",
                FAR_6,
                "forward: IP6 filter FORWARD (Docker) refuses it (chain DOCKER-USER, rule",
                "ip6${1#ip} -D DOCKER-USER 1",
            ),
            (
                "$1 -D DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                FAR,
                "answer: forward: IP filter FORWARD (Docker) drops it (chain DOCKER, rule",
                "$1 -I DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
            ),
            (
                "$1 -t raw -I PREROUTING -d 172.17.1.2 ! -i eth0 -j DROP; \
                 $1 -t raw -A PREROUTING -p udp -m multiport --dports 80,443 -d 10.254.0.10 -j DROP",
                over_udp(HERE),
                "prerouting: IP raw PREROUTING drops it (rule",
                "$1 -t raw -D PREROUTING 1; $1 -t raw -D PREROUTING 2",
            ),
        ],
    );
}

#[test]
fn kube_proxy_in_iptables_mode() {
    let twice = "$1 -t nat -D PREROUTING 1; \
                 $1 -t nat -I PREROUTING -d 10.254.0.11 -p tcp --dport 80 -m statistic \
                 --mode random --probability 0.5 -j KUBE-SEP-GONE; \
                 $1 -t nat -A PREROUTING -d 10.254.0.11 -j KUBE-SEP-GONE";
    meets(
        include_str!("programs/kube-proxy-iptables.sh"),
        &KINDS,
        &[],
        &[
            (
                "$1 -I KUBE-FORWARD 1 -m conntrack --ctstate NEW --ctorigdst 10.254.0.11 -j DROP",
                FAR,
                "forward: IP filter FORWARD (kube-proxy) drops it (chain KUBE-FORWARD, rule",
                "$1 -D KUBE-FORWARD 1",
            ),
            (
                "$1 -I KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP; \
                 $1 -t mangle -A PREROUTING -d 10.254.0.12 -j MARK --or-mark 0x8000",
                HOST,
                "input: IP filter INPUT (kube-proxy) drops it (chain KUBE-FIREWALL, rule",
                "$1 -D KUBE-FIREWALL 1; $1 -t mangle -F PREROUTING",
            ),
        ],
    );
    // What kube-proxy wrote before it ended, by iptables-nft, whose table is newer than ours: the
    // kernel asks it first.
    let (stage, _named) = stage();
    shell(
        &stage,
        &format!(
            "set -- iptables-nft\n{}\n{twice}",
            include_str!("programs/kube-proxy-iptables.sh")
        ),
    );
    let says = "prerouting: ip nat PREROUTING (kube-proxy) translates its destination to \
                172.17.0.77:8080 first";
    is_found(&stage, &FAR, says).expect("stale");
    shell(
        &stage,
        "nft delete table ip svcnat; nft delete table ip6 svcnat",
    );
    again(&stage);
    passes(&stage, &FAR).expect("ours is asked first");
}

#[test]
fn kube_proxy_in_ipvs_mode() {
    meets(
        include_str!("programs/kube-proxy-ipvs.sh"),
        &KINDS,
        &[],
        &[
            (
                "ipset add KUBE-IPVS-IPS 192.168.50.11",
                HOST,
                "input: IP filter INPUT (kube-proxy) refuses it (chain KUBE-IPVS-FILTER, rule",
                "ipset del KUBE-IPVS-IPS 192.168.50.11",
            ),
            (
                "ipset add KUBE-LOAD-BALANCER 172.17.1.2,tcp:8080; \
                 $1 -I KUBE-PROXY-FIREWALL -m set --match-set KUBE-LOAD-BALANCER dst,dst -j DROP",
                FAR,
                "forward: IP filter FORWARD (kube-proxy) drops it (chain KUBE-PROXY-FIREWALL, rule",
                "ipset del KUBE-LOAD-BALANCER 172.17.1.2,tcp:8080",
            ),
        ],
    );
}

#[test]
fn kube_proxy_in_nftables_mode() {
    let script = of_nft(include_str!("programs/kube-proxy.nft"));
    let nft = [("", "ip", "ip6")];
    meets(
        &script,
        &nft,
        &[],
        &[
            (
                "nft 'add element ip kube-proxy firewall-ips \
                 { 10.254.0.11 . tcp . 80 : goto reject-chain }'",
                FAR,
                "prerouting: ip kube-proxy filter-prerouting-pre-dnat (kube-proxy) refuses it \
                 (chain reject-chain, rule",
                "nft 'delete element ip kube-proxy firewall-ips { 10.254.0.11 . tcp . 80 }'",
            ),
            (
                "nft 'add element ip kube-proxy no-endpoint-services \
                 { 172.17.1.2 . udp . 8080 : drop }'",
                over_udp(FAR),
                "forward: ip kube-proxy filter-forward (kube-proxy) drops it (chain \
                 service-endpoints-check, rule",
                "nft 'delete element ip kube-proxy no-endpoint-services { 172.17.1.2 . udp . 8080 }'",
            ),
        ],
    );
    let (stage, _named) = stage();
    let stale = script.replace("172.17.0.2:8080", "172.17.0.77:8080");
    let stale = stale.replace("172.17.1.2:8080", "172.17.0.78:8080");
    shell(&stage, &stale);
    // One of two endpoints that are both gone: what they have in common is told.
    let says = "prerouting: ip kube-proxy nat-prerouting (kube-proxy) translates its destination \
                to port 8080 first (chain service-HERE, rule";
    is_found(&stage, &HERE, says).expect("stale");
}

#[test]
fn firewalld() {
    let refused = "forward: inet firewalld filter_FORWARD (firewalld) refuses it (chain \
                   filter_FWD_public, rule";
    // As with StrictForwardPorts=yes: what others translate is no exception.
    let strict = "rule=$(nft -a list chain inet firewalld filter_FORWARD | \
                  sed -n 's/.*ct status dnat accept # handle //p'); \
                  nft delete rule inet firewalld filter_FORWARD handle $rule";
    meets(
        &of_nft(include_str!("programs/firewalld.nft")),
        &[("", "ip", "ip6")],
        &[(DIRECT, refused)],
        &[
            (
                strict,
                OUTSIDE,
                "forward: inet firewalld filter_FORWARD (firewalld) refuses it",
                "nft insert rule inet firewalld filter_FORWARD ct status dnat accept",
            ),
            (
                "nft insert rule inet firewalld filter_FORWARD ip6 daddr fd00:17:0:1::/64 \
                 reject with icmpv6 admin-prohibited",
                FAR_6,
                "forward: inet firewalld filter_FORWARD (firewalld) refuses it (rule",
                "rule=$(nft -a list chain inet firewalld filter_FORWARD | \
                 sed -n 's/.*fd00:17:0:1::.* # handle //p'); \
                 nft delete rule inet firewalld filter_FORWARD handle $rule",
            ),
            // Its check of sources: the way back to the client is by another device.
            (
                "ip -6 route add fd00:17::9/128 dev eth0",
                Question {
                    more: &["--iif=docker0"],
                    ..FAR_6
                },
                "prerouting: inet firewalld filter_PREROUTING (firewalld) drops it (rule",
                "ip -6 route del fd00:17::9/128 dev eth0",
            ),
        ],
    );
}

#[test]
fn ufw() {
    let (v4, v6) = (
        "forward: IP filter FORWARD drops it by policy",
        "forward: IP6 filter FORWARD drops it by policy",
    );
    meets(
        include_str!("programs/ufw.sh"),
        &KINDS,
        &[
            (FAR, v4),
            (HERE, v4),
            (over_udp(FAR), v4),
            (over_udp(HERE), v4),
            (FAR_6, v6),
            (HERE_6, v6),
            (OUTSIDE, v4),
            (over_udp(OUTSIDE), v4),
            (DIRECT, v4),
        ],
        &[(
            "$1 -D ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT",
            HOST,
            "input: IP filter INPUT drops it by policy",
            "$1 -A ufw-user-input -p tcp -m tcp --dport 8080 -j ACCEPT",
        )],
    );
    let allowed = format!(
        "{}\n$1 -A ufw-user-forward -i docker0 -j ACCEPT\n\
         $1 -A ufw-user-forward -m iprange --dst-range 172.17.0.1-172.17.0.9 -j ACCEPT\n\
         ip6${{1#ip}} -A ufw6-user-forward -i docker0 -j ACCEPT\n",
        include_str!("programs/ufw.sh")
    );
    meets(&allowed, &KINDS, &[], &[]);
}

#[test]
fn calico() {
    let dropped = "forward: IP filter FORWARD (Calico) drops it (chain cali-tw-docker0, rule";
    meets(
        include_str!("programs/calico.sh"),
        &KINDS,
        // The policy is of TCP.
        &[(over_udp(HERE), dropped), (over_udp(OUTSIDE), dropped)],
        &[
            (
                "ipset del cali40s:clients 203.0.113.0/24",
                OUTSIDE,
                dropped,
                "ipset add cali40s:clients 203.0.113.0/24",
            ),
            (
                "ipset add cali40s:clients 172.17.0.8/30 nomatch; ipset del cali40s:clients 172.17.0.9; ipset add cali40s:clients 172.17.0.0/16",
                HERE,
                dropped,
                "ipset add cali40s:clients 172.17.0.9",
            ),
            (
                "$1 -F cali-pro-kns.default",
                FAR,
                "forward: IP filter FORWARD (Calico) drops it (chain cali-fw-docker0, rule",
                "$1 -A cali-pro-kns.default -j MARK --set-xmark 0x10000/0x10000",
            ),
            (
                "ip route add 172.17.0.9 dev eth0; sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.docker0.rp_filter=0",
                Question {
                    more: &["--iif=docker0"],
                    ..FAR
                },
                "prerouting: IP raw PREROUTING (Calico) drops it (chain cali-PREROUTING, rule",
                "ip route del 172.17.0.9 dev eth0",
            ),
        ],
    );
}
