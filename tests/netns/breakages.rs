//! A node that works is broken in one way after the other: packets say that it is broken, and
//! `explain --live` says where, by whom and how to repair it. Repaired, both say that it works.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use svcnat::cluster::Protocol;

use crate::support::{Netns, Outcome, PATIENCE, SILENCE, Stage, run_svcnat};

pub const OBJECTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: node1}
spec: {podCIDRs: [172.17.0.0/24, "fd00:17::/64"]}
status: {addresses: [{type: InternalIP, address: 192.168.50.11}, {type: InternalIP, address: "fd00:50::11"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec: {nodeName: node1, containers: [{name: main}]}
status: {phase: Running, podIP: 172.17.0.9, podIPs: [{ip: 172.17.0.9}, {ip: "fd00:17::9"}]}
---
apiVersion: v1
kind: Service
metadata: {name: here}
spec:
  type: NodePort
  clusterIPs: [10.254.0.10, "fd00:254::10"]
  ports: [{name: t, port: 80, nodePort: 30080}, {name: u, port: 80, protocol: UDP, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: here-4, labels: {kubernetes.io/service-name: here}}
addressType: IPv4
ports: [{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}]
endpoints: [{addresses: [172.17.0.2], nodeName: node1}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: here-6, labels: {kubernetes.io/service-name: here}}
addressType: IPv6
ports: [{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}]
endpoints: [{addresses: ["fd00:17::2"], nodeName: node1}]
---
apiVersion: v1
kind: Service
metadata: {name: far}
spec:
  clusterIPs: [10.254.0.11, "fd00:254::11"]
  ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-4, labels: {kubernetes.io/service-name: far}}
addressType: IPv4
ports: [{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}]
endpoints: [{addresses: [172.17.1.2], nodeName: node2}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: far-6, labels: {kubernetes.io/service-name: far}}
addressType: IPv6
ports: [{name: t, port: 8080}, {name: u, port: 8080, protocol: UDP}]
endpoints: [{addresses: ["fd00:17:0:1::2"], nodeName: node2}]
---
apiVersion: v1
kind: Service
metadata: {name: host}
spec: {clusterIP: 10.254.0.12, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: host-4, labels: {kubernetes.io/service-name: host}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [192.168.50.11], nodeName: node1}]
---
apiVersion: v1
kind: Service
metadata: {name: wrong-port}
spec: {clusterIP: 10.254.0.13, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: wrong-port-4, labels: {kubernetes.io/service-name: wrong-port}}
addressType: IPv4
ports: [{port: 9999}]
endpoints: [{addresses: [172.17.0.2], nodeName: node1}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.254.0.14, ports: [{port: 80}]}
"#;

/// Who asks what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    pub from: &'static str,
    pub name: &'static str,
    pub to: &'static str,
    pub protocol: Protocol,
    pub more: &'static [&'static str],
}

pub const fn ask(from: &'static str, name: &'static str, to: &'static str) -> Question {
    Question {
        from,
        name,
        to,
        protocol: Protocol::Tcp,
        more: &[],
    }
}

pub const fn over_udp(question: Question) -> Question {
    Question {
        protocol: Protocol::Udp,
        ..question
    }
}

pub const FAR: Question = ask("172.17.0.9", "svc/far:80", "10.254.0.11:80");
pub const HERE: Question = ask("172.17.0.9", "svc/here:80", "10.254.0.10:80");
pub const FAR_6: Question = ask("fd00:17::9", "[fd00:254::11]:80", "[fd00:254::11]:80");
pub const HERE_6: Question = ask("fd00:17::9", "[fd00:254::10]:80", "[fd00:254::10]:80");
pub const HOST: Question = ask("172.17.0.9", "svc/host", "10.254.0.12:80");
pub const OUTSIDE: Question = ask("203.0.113.9", "node/node1:30080", "192.168.50.11:30080");
pub const DIRECT: Question = ask("172.17.0.9", "172.17.0.2:8080/tcp", "172.17.0.2:8080");
pub const DIRECT_6: Question = ask("fd00:17::9", "[fd00:17::2]:8080/tcp", "[fd00:17::2]:8080");
pub const ITSELF: Question = ask("172.17.0.2", "svc/here:80", "10.254.0.10:80");
pub const FROM_NODE: Question = ask("192.168.50.11", "svc/far:80", "10.254.0.11:80");

/// A chain of a firewall.
macro_rules! chain {
    ($hook:literal, $rules:literal) => {
        concat!(
            "nft 'table inet fw { chain c { type filter hook ",
            $hook,
            "; ",
            $rules,
            " }; }'"
        )
    };
}

pub const UNDO: &str = "nft delete table inet fw";

/// How it is broken on the node, by whom it is asked, what is said, and how it is repaired.
#[rustfmt::skip]
const BREAKAGES: &[(&str, Question, &str, &str)] = &[
    (chain!("forward priority 0", "policy drop;"), FAR, "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop;"), over_udp(FAR), "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop;"), HERE, "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop;"), FAR_6, "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop;"), OUTSIDE, "forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop; ct state new accept;"), FAR, "answer: forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "policy drop; ct state new accept;"), over_udp(FAR_6), "answer: forward: inet fw c drops it by policy", UNDO),
    (chain!("forward priority 0", "ip daddr 172.17.1.0/24 reject;"), FAR, "forward: inet fw c refuses it (rule", UNDO),
    (chain!("forward priority 0", "ip6 daddr fd00:17:0:1::/64 tcp dport 8080 drop;"), FAR_6, "forward: inet fw c drops it (rule", UNDO),
    (chain!("forward priority 0", "iifname docker0 oifname eth0 udp dport 8080 drop;"), over_udp(FAR), "forward: inet fw c drops it (rule", UNDO),
    ("nft 'table inet fw { set bad { type ipv4_addr; elements = { 172.17.1.2, 172.17.1.3 }; }; chain sub { ip daddr @bad counter drop; }; \
      chain c { type filter hook forward priority 0; iifname vmap { docker0 : jump sub }; }; }'", FAR,
     "forward: inet fw c drops it (chain sub, rule", UNDO),
    (chain!("prerouting priority -300", "ip daddr 10.254.0.11 drop;"), FAR, "prerouting: inet fw c drops it (rule", UNDO),
    (chain!("prerouting priority -300", "ip6 daddr fd00:254::/112 drop;"), FAR_6, "prerouting: inet fw c drops it (rule", UNDO),
    (chain!("prerouting priority -50", "tcp dport 8080 drop;"), FAR, "prerouting: inet fw c drops it (rule", UNDO),
    (chain!("prerouting priority -300", "ip daddr 10.254.0.0/16 notrack;"), FAR, "conntrack: another program's rule says that it is not tracked", UNDO),
    (chain!("prerouting priority -300", "iifname eth0 ip saddr 172.17.1.0/24 notrack;"), FAR, "conntrack: another program's rule says that the answer is not tracked", UNDO),
    (chain!("prerouting priority -300", "iifname eth0 udp sport 8080 notrack;"), over_udp(FAR_6), "conntrack: another program's rule says that the answer is not tracked", UNDO),
    (chain!("prerouting priority -300", "iifname eth0 notrack;"), FROM_NODE, "conntrack: another program's rule says that the answer is not tracked", UNDO),
    (chain!("prerouting priority -300", "iifname eth0 ct zone set 5;"), FAR, "conntrack: by other programs' rules the packet is tracked in zone 0, and its answer in zone 5", UNDO),
    (chain!("prerouting priority -300", "iifname docker0 ct zone set 5;"), FAR_6, "conntrack: by other programs' rules the packet is tracked in zone 5, and its answer in zone 0", UNDO),
    ("iptables -t raw -I PREROUTING -i eth0 -j CT --zone 3", FAR, "conntrack: by other programs' rules the packet is tracked in zone 0, and its answer in zone 3", "nft delete table ip raw"),
    ("nft 'table inet fw { chain c { type nat hook prerouting priority -110; tcp dport 80 dnat ip to 172.17.0.77; }; }'", FAR,
     "prerouting: inet fw c translates its destination to 172.17.0.77 first", UNDO),
    ("nft 'table inet fw { chain c { type nat hook prerouting priority -110; ip daddr 10.254.0.11 redirect; }; }'", FAR,
     "prerouting: inet fw c redirects it to this node first", UNDO),
    (chain!("input priority 0", "policy drop; ct state established accept;"), HOST, "input: inet fw c drops it by policy", UNDO),
    (chain!("output priority 0", "ip daddr 172.17.0.9 drop;"), HOST, "answer: output: inet fw c drops it", UNDO),
    (chain!("output priority 0", "oifname eth0 ip daddr 172.17.1.2 drop;"), FROM_NODE, "output: inet fw c drops it (rule", UNDO),
    (chain!("input priority 0", "policy drop;"), FROM_NODE, "answer: input: inet fw c drops it by policy", UNDO),
    (chain!("postrouting priority 0", "oifname eth0 drop;"), FAR, "postrouting: inet fw c drops it (rule", UNDO),
    ("nft 'table netdev fw { chain c { type filter hook ingress device eth0 priority 0; tcp dport 30080 drop; }; }'", OUTSIDE,
     "ingress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("nft 'table netdev fw { chain c { type filter hook ingress device eth0 priority 0; ip saddr 172.17.1.2 drop; }; }'", FAR,
     "answer: ingress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("nft 'table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }'", FAR,
     "[iptables -t filter -I FORWARD -d 172.17.1.2 -j ACCEPT]", "nft delete table ip filter"),
    ("ip route del 172.17.1.2", FAR, "route: no way to 172.17.1.2: there is no route", "ip route add 172.17.1.2 via 192.168.50.12"),
    ("ip route replace blackhole 172.17.1.2", FAR, "route: no way to 172.17.1.2: the route or a rule is `blackhole`", "ip route replace 172.17.1.2 via 192.168.50.12"),
    ("ip route replace prohibit 172.17.1.2", over_udp(FAR), "route: no way to 172.17.1.2: the route or a rule is `prohibit`", "ip route replace 172.17.1.2 via 192.168.50.12"),
    ("ip route replace unreachable 172.17.1.2", FAR, "route: no way to 172.17.1.2: the route is `unreachable`", "ip route replace 172.17.1.2 via 192.168.50.12"),
    ("ip -6 route del fd00:17:0:1::2", FAR_6, "route: no way to fd00:17:0:1::2", "ip -6 route add fd00:17:0:1::2 via fd00:50::12"),
    ("ip rule add ipproto tcp dport 8080 blackhole pref 10", FAR, "route: no way to 172.17.1.2: the route or a rule is `blackhole`", "ip rule del pref 10"),
    ("ip rule add ipproto udp dport 8080 blackhole pref 10", over_udp(HERE), "route: no way to 172.17.0.2: the route or a rule is `blackhole`", "ip rule del pref 10"),
    ("ip rule add fwmark 0x4000/0x4000 prohibit pref 10", OUTSIDE, "route: no way to 172.17.0.2: the route or a rule is `prohibit`", "ip rule del pref 10"),
    (chain!("forward priority 0", "meta mark & 0x4000 == 0x4000 drop;"), OUTSIDE, "forward: inet fw c drops it (rule", UNDO),
    (chain!("forward priority 0", "ct status snat drop;"), OUTSIDE, "answer: forward: inet fw c drops it (rule", UNDO),
    ("ip link set pod1 down", HERE, "link: pod1, by which 172.17.0.2 is reached, is down", "ip link set pod1 up"),
    ("ip link set pod1 nomaster", OUTSIDE, "link: pod1, by which 172.17.0.2 is reached, is no port of docker0", "ip link set pod1 master docker0; ip link set pod1 type bridge_slave hairpin on"),
    ("ip rule add from 172.17.0.9 to 172.17.1.2 prohibit", FAR, "route: ", "ip rule del from 172.17.0.9 to 172.17.1.2 prohibit"),
    ("nft 'table inet fw { chain c { type filter hook prerouting priority -150; ip saddr 172.17.0.9 meta mark set 0x5; }; }'; ip rule add fwmark 5 prohibit", FAR,
     "route: no way to 172.17.1.2: the route or a rule is `prohibit`", "ip rule del fwmark 5 prohibit; nft delete table inet fw"),
    ("ip route add 172.17.0.2 via 192.168.50.12", HERE, "route: 172.17.0.2 is a pod of this node by its address, and packets to it leave via 192.168.50.12", "ip route del 172.17.0.2"),
    ("ip route add 172.17.0.9 via 192.168.50.12", FAR, "arrives: 172.17.0.9 is a pod of this node by its address, and packets to it leave via 192.168.50.12", "ip route del 172.17.0.9"),
    ("ip rule add iif eth0 to 172.17.0.0/24 unreachable pref 10", FAR, "answer: route: what comes from 172.17.1.2 by eth0 has no way to 172.17.0.9, which this node itself has", "ip rule del pref 10"),
    ("ip route replace 203.0.113.9 via 192.168.50.77 dev eth0 onlink", OUTSIDE, "neighbour: 192.168.50.77 does not answer on eth0", "ip route replace 203.0.113.9 dev eth0"),
    ("ip route del 203.0.113.9", OUTSIDE, "arrives: no answer finds its way to 203.0.113.9", "ip route add 203.0.113.9 dev eth0"),
    ("sysctl -qw net.ipv4.ip_forward=0", FAR, "this node does not forward what comes in by docker0 [sysctl -w net.ipv4.conf.docker0.forwarding=1]", "sysctl -qw net.ipv4.ip_forward=1"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0", over_udp(HERE), "this node does not forward what comes in by docker0", "sysctl -qw net.ipv4.conf.docker0.forwarding=1"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0", OUTSIDE, "forwarding: this node does not forward what comes in by docker0 [sysctl -w net.ipv4.conf.docker0.forwarding=1]", "sysctl -qw net.ipv4.conf.docker0.forwarding=1"),
    ("ip neigh replace 172.17.0.2 lladdr 02:00:00:00:00:99 dev docker0 nud permanent", OUTSIDE, "neighbour: packets to 172.17.0.2 go to 02:00:00:00:00:99 on docker0, and 172.17.0.2 has ", "ip neigh del 172.17.0.2 dev docker0"),
    ("nft 'table netdev fw { chain c { type filter hook egress device pod1 priority 0; tcp dport 8080 drop; }; }'", OUTSIDE, "egress: netdev fw c drops it (rule", "nft delete table netdev fw"),
    ("ip rule add from 172.17.0.9 to 172.17.0.2 prohibit pref 10", DIRECT, "route: ", "ip rule del pref 10"),
    ("nft 'table bridge fw { chain c { type filter hook input priority 0; ip saddr 172.17.0.9 drop; }; }'", FAR, "input: bridge fw c drops it (rule", "nft delete table bridge fw"),
    ("nft 'table bridge fw { chain c { type filter hook input priority 0; ip saddr 172.17.0.2 drop; }; }'", HERE, "answer: input: bridge fw c drops it (rule", "nft delete table bridge fw"),
    ("nft 'table bridge fw { chain c { type filter hook output priority 0; oifname pod1 ip daddr 172.17.0.2 drop; }; }'", OUTSIDE, "output: bridge fw c drops it (rule", "nft delete table bridge fw"),
    ("sysctl -qw net.ipv6.conf.all.forwarding=0", FAR_6, "this node does not forward", "sysctl -qw net.ipv6.conf.all.forwarding=1"),
    ("ip route replace 203.0.113.9 dev docker0; sysctl -qw net.ipv4.conf.eth0.rp_filter=1", Question { more: &["--iif=eth0"], ..OUTSIDE },
     "the kernel does not believe that 203.0.113.9 comes in by eth0", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0; ip route replace 203.0.113.9 dev eth0"),
    ("ip route del 10.254.0.0/16", FROM_NODE, "sent: this node itself has no route to 10.254.0.11", "ip route add 10.254.0.0/16 via 192.168.50.12"),
    ("ip link set docker0 down", FAR, "arrives: ", "ip link set docker0 up"),
    ("nft delete table ip svcnat", FAR, "svcnat: leaves it alone: nothing is installed here", "again"),
    ("nft delete element ip svcnat service-ips '{ 10.254.0.11 . tcp . 80 }'", FAR, "svcnat: ", "again"),
    ("nft flush chain ip svcnat nat-prerouting", FAR, "svcnat: its rules are not as they should be", "again"),
];

/// What asks alone show: nothing of the node is broken.
#[rustfmt::skip]
const FAULTS: &[(Question, &str)] = &[
    (ask("172.17.0.9", "svc/wrong-port", "10.254.0.13:80"), "endpoint: nobody listens at 9999/TCP of 172.17.0.2"),
    (ask("172.17.0.9", "svc/nobody", "10.254.0.14:80"), "svcnat: refuses it: Service default/nobody has no usable endpoint"),
    (ask("172.17.0.9", "172.17.0.2:9999/tcp", "172.17.0.2:9999"), "endpoint: nobody listens at 9999/TCP of 172.17.0.2 [ss -ln, in"),
    (ask("172.17.0.9", "10.254.0.10:81/tcp", "10.254.0.10:81"), "svcnat: refuses it: "),
];

/// Names of pods' namespaces where container runtimes have them.
pub struct Named(Vec<PathBuf>);

impl Named {
    pub fn new(pods: &[(&str, &Netns)]) -> Self {
        std::fs::create_dir_all("/run/netns").expect("a folder");
        let link = |(name, netns): &(&str, &Netns)| {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("svcnat-test-{}-{count}-{name}", std::process::id());
            let at = PathBuf::from("/run/netns").join(name);
            std::os::unix::fs::symlink(netns.path(), &at).expect("a link");
            at
        };
        Self(pods.iter().map(link).collect())
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub const ARGS: [&str; 6] = [
    "-f-",
    "--node-name=node1",
    "--cluster-cidr=172.17.0.0/16,fd00:17::/48",
    "--service-cluster-ip-range=10.254.0.0/16,fd00:254::/112",
    "--manage-routes=false",
    "--sysctls=ignore",
];

pub fn again(stage: &Stage) {
    run_svcnat(stage.node(), &[&["apply"][..], &ARGS].concat(), OBJECTS).expect(0);
}

pub fn shell(stage: &Stage, script: &str) {
    stage.node().must("sh", &["-ec", script], "");
}

/// The exit code, and the first broken hop with its repair.
pub fn explained(stage: &Stage, question: &Question) -> (i32, String, String) {
    let to = match question.name.rsplit_once('/') {
        // Ports by number are TCP's unless it is said.
        Some((_, rest)) if question.protocol == Protocol::Udp && rest.contains(':') => {
            format!("{}/udp", question.name)
        }
        _ if question.name.ends_with("/tcp") => question.name.to_owned(),
        None if question.protocol == Protocol::Udp => format!("{}/udp", question.name),
        _ => question.name.to_owned(),
    };
    let verb = ["explain", question.from, &to, "--live", "-o", "json"];
    let run = run_svcnat(
        stage.node(),
        &[&verb, &ARGS[..], question.more].concat(),
        OBJECTS,
    );
    let said: Value = serde_json::from_str(&run.stdout)
        .unwrap_or_else(|error| panic!("{to}: {error}: {}\n{}", run.stdout, run.stderr));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let broken = &said["path"]["broken"];
    let found = match broken {
        Value::Null => String::new(),
        hop => format!(
            "{}: {} [{}]",
            text(&hop["at"]),
            text(&hop["found"]),
            text(&hop["repair"])
        ),
    };
    (run.code, found, run.stdout)
}

pub fn sent(stage: &Stage, question: &Question, patience: std::time::Duration) -> Outcome {
    let (from, to): (IpAddr, SocketAddr) = (
        question.from.parse().expect("an address"),
        question.to.parse().expect("a socket"),
    );
    let asked = stage.ask(from, question.protocol, to, patience, 1);
    asked.into_iter().next().expect("an outcome")
}

/// What is wrong where nothing should be.
pub fn works(stage: &Stage, question: &Question) -> Result<(), String> {
    let outcome = sent(stage, question, PATIENCE);
    if !matches!(outcome, Outcome::Answer(_)) {
        return Err(format!("{question:?}: {outcome:?}"));
    }
    match explained(stage, question) {
        (0, found, _) if found.is_empty() => Ok(()),
        (code, found, all) => Err(format!("{question:?}: exit code {code}, {found}\n{all}")),
    }
}

/// What is missing in what `check` says of all frontends. `found` is explain's sentence.
fn is_checked(stage: &Stage, found: &str) -> Result<(), String> {
    let run = run_svcnat(stage.node(), &[&["check"][..], &ARGS].concat(), OBJECTS);
    match run.code {
        1 if run.stdout.contains(found) => Ok(()),
        code => Err(format!(
            "check: exit code {code}, not said: {found}\n{}",
            run.stdout
        )),
    }
}

/// What is wrong where something is broken.
pub fn is_found(stage: &Stage, question: &Question, says: &str) -> Result<(), String> {
    let outcome = sent(stage, question, SILENCE);
    if matches!(outcome, Outcome::Answer(_)) {
        return Err(format!("{question:?}: {outcome:?}"));
    }
    match explained(stage, question) {
        (1, found, _) if found.contains(says) => {
            let sentence = found.split(" [").next().unwrap_or_default();
            // Our own rules are what check compares packets with; it asks as pods do, and as this
            // node does, which may meet first with the same at another place.
            match question.from {
                _ if found.starts_with("svcnat") || !question.more.is_empty() => Ok(()),
                from if from == FROM_NODE.from => {
                    is_checked(stage, sentence.rsplit(": ").next().unwrap_or_default())
                }
                from if from == FAR.from && question.to.starts_with("10.254.") => {
                    is_checked(stage, sentence)
                }
                _ => Ok(()),
            }
        }
        (code, found, all) => Err(format!(
            "{question:?}: exit code {code}\nsays {found}\nnot  {says}\n{all}"
        )),
    }
}

/// Gives the bridge's port that a pod is at a name.
fn name_port(stage: &Stage, pod: &str, name: &str) {
    let pod = stage.at(pod.parse().expect("an address"));
    let eth0 = pod.must("ip", &["-o", "link", "show", "eth0"], "");
    let (_, peer) = eth0.split_once("eth0@if").expect("a veth pair");
    let (index, _) = peer.split_once(':').expect("an index");
    let links = stage.node().must("ip", &["-o", "link"], "");
    let of = format!("{index}: ");
    let port = links.lines().find_map(|line| line.strip_prefix(&of));
    let port = port
        .and_then(|rest| rest.split('@').next())
        .expect("a port");
    let script =
        format!("ip link set {port} down; ip link set {port} name {name}; ip link set {name} up");
    shell(stage, &script);
}

pub fn stage() -> (Stage, Named) {
    let at = |text: &str| text.parse::<SocketAddr>().expect("a socket");
    let mut servers = BTreeSet::new();
    for endpoint in [
        "172.17.0.2:8080",
        "172.17.1.2:8080",
        "[fd00:17::2]:8080",
        "[fd00:17:0:1::2]:8080",
    ] {
        servers.insert((at(endpoint), Protocol::Tcp));
        servers.insert((at(endpoint), Protocol::Udp));
    }
    servers.insert((at("192.168.50.11:8080"), Protocol::Tcp));
    let clients = ["172.17.0.9", "fd00:17::9", "203.0.113.9"];
    let stage = Stage::new(clients.map(|a| a.parse().expect("an address")), &servers);
    let named = Named::new(&[("pod", &stage.at("172.17.0.2".parse().expect("an address")))]);
    // What the node itself sends needs a route before it is translated.
    shell(
        &stage,
        "ip route add 10.254.0.0/16 via 192.168.50.12; ip route add fd00:254::/112 via fd00:50::12",
    );
    for (pod, port) in [("172.17.0.2", "pod1"), ("172.17.0.9", "pod2")] {
        name_port(&stage, pod, port);
    }
    again(&stage);
    (stage, named)
}

#[test]
fn every_breakage_is_found_where_it_is() {
    let (stage, _named) = stage();
    let mut wrong = Vec::new();
    for question in [
        FAR, HERE, FAR_6, HERE_6, HOST, OUTSIDE, FROM_NODE, DIRECT, ITSELF,
    ] {
        wrong.extend(works(&stage, &question).err());
    }
    // One of the Services leads to a port at which nobody listens, and nothing else is wrong.
    let run = run_svcnat(stage.node(), &[&["check"][..], &ARGS].concat(), OBJECTS);
    let errors = run.stdout.lines().filter(|line| line.starts_with("error"));
    let wrong_port = "Service default/wrong-port: endpoint: nobody listens at 9999/TCP";
    assert!(
        errors.clone().all(|line| line.contains(wrong_port)),
        "{}",
        run.stdout
    );
    assert_eq!(errors.count(), 1, "{}", run.stdout);
    assert!(!run.stdout.contains("warning:"), "{}", run.stdout);
    for (breakage, question, says, repair) in BREAKAGES {
        shell(&stage, breakage);
        let found = is_found(&stage, question, says);
        match *repair {
            "again" => again(&stage),
            script => shell(&stage, script),
        }
        let repaired = works(&stage, question);
        wrong.extend(found.err().map(|why| format!("{breakage}\n{why}")));
        wrong.extend(repaired.err().map(|why| format!("{repair}\n{why}")));
    }
    for (question, says) in FAULTS {
        wrong.extend(is_found(&stage, question, says).err());
    }
    let count = wrong.len();
    assert!(
        wrong.is_empty(),
        "{count} of {}:\n{}",
        BREAKAGES.len(),
        wrong.join("\n\n")
    );
}

#[test]
fn a_neighbour_that_does_not_answer_is_named() {
    let (stage, _named) = stage();
    works(&stage, &FAR).expect("unbroken");
    let other = stage.at("172.17.1.2".parse().expect("an address"));
    other.must("ip", &["link", "set", "eth0", "down"], "");
    shell(&stage, "ip neigh flush dev eth0");
    let says = "neighbour: 192.168.50.12 does not answer on eth0";
    is_found(&stage, &FAR, says).expect("broken");
}

/// How a pod is broken in its own namespace, who asks, what is said, and how it is repaired.
#[rustfmt::skip]
const PODS: &[(&str, &str, Question, &str, &str)] = &[
    ("172.17.0.2", chain!("input priority 0", "policy drop; tcp dport 80 accept;"), HERE, "endpoint: inet fw c drops it by policy, in the namespace of 172.17.0.2 [nsenter --net=/run/netns/", UNDO),
    ("172.17.0.2", chain!("prerouting priority -150", "udp dport 8080 drop;"), over_udp(HERE), "endpoint: inet fw c drops it (rule with handle 2), in the namespace of 172.17.0.2", UNDO),
    ("172.17.0.2", chain!("output priority 0", "ct state established drop;"), HERE, "endpoint: inet fw c drops it (rule with handle 2), in the namespace of 172.17.0.2", UNDO),
    ("fd00:17::2", chain!("input priority 0", "ip6 saddr fd00:17::9 reject;"), HERE_6, "endpoint: inet fw c refuses it (rule with handle 2), in the namespace of fd00:17::2", UNDO),
    ("172.17.0.2", "ip route add prohibit 172.17.0.9", HERE, "endpoint: there is no way back to 172.17.0.9: the route or a rule is `prohibit`, in the namespace of 172.17.0.2", "ip route del 172.17.0.9"),
    ("172.17.0.9", chain!("output priority 0", "ip daddr 10.254.0.11 drop;"), FAR, "client: inet fw c drops it (rule with handle 2), in the namespace of 172.17.0.9", UNDO),
    ("172.17.0.9", chain!("input priority 0", "policy drop; ct state new accept;"), FAR, "client: inet fw c drops it by policy, in the namespace of 172.17.0.9", UNDO),
    ("172.17.0.9", "ip route add unreachable 10.254.0.0/16", FAR, "client: there is no way to 10.254.0.11: the route is `unreachable`, or there is none, in the namespace of 172.17.0.9", "ip route del unreachable 10.254.0.0/16"),
];

#[test]
fn a_pod_that_is_broken_itself_is_named_with_its_namespace() {
    let (stage, _named) = stage();
    let at = |address: &str| stage.at(address.parse().expect("an address"));
    let visitor = at("172.17.0.9");
    let _named = Named::new(&[("visitor", &visitor), ("six", &at("fd00:17::2"))]);
    let mut wrong = Vec::new();
    for (pod, breakage, question, says, undo) in PODS {
        at(pod).must("sh", &["-ec", breakage], "");
        let outcome = sent(&stage, question, SILENCE);
        let (code, found, all) = explained(&stage, question);
        let is_told = !matches!(outcome, Outcome::Answer(_)) && code == 1 && found.contains(says);
        if !is_told {
            wrong.push(format!(
                "{breakage}: {outcome:?}, {code}\nsays {found}\nnot  {says}\n{all}"
            ));
        }
        // What a client lacks is its own affair; what an endpoint lacks is that of all clients.
        if *pod != "172.17.0.9" {
            let sentence = found.split(" [").next().unwrap_or_default();
            wrong.extend(is_checked(&stage, sentence).err());
        }
        at(pod).must("sh", &["-ec", undo], "");
        let repaired = works(&stage, question);
        wrong.extend(repaired.err().map(|why| format!("{undo}\n{why}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    // A proxy of a mesh takes what comes, which is not followed.
    at("172.17.0.2").must(
        "nft",
        &["table ip mesh { chain c { type nat hook prerouting priority -100; tcp dport 8080 redirect to :8080; }; }"],
        "",
    );
    works(&stage, &HERE).expect("a mesh");
}

/// Inputs without service ranges, where they are installed: those who ask for a Service meet with
/// none of the rules that differ.
#[test]
fn rules_of_service_ranges_that_the_inputs_lack_are_in_nobodys_way() {
    let (stage, _named) = stage();
    let asked = |to: &str| {
        let args = ARGS
            .iter()
            .filter(|arg| !arg.contains("service-cluster-ip-range"));
        let args = ["explain", "172.17.0.9", to, "--live"]
            .into_iter()
            .chain(args.copied());
        let args: Vec<&str> = args.collect();
        run_svcnat(stage.node(), &args, OBJECTS)
    };
    let far = asked("svc/far:80").expect(0);
    assert!(
        far.stderr.contains("not those of this configuration"),
        "{}",
        far.stderr
    );
    asked("10.254.0.99:80").expect(1);
    shell(
        &stage,
        "nft insert rule ip svcnat nat-prerouting ip daddr 10.254.0.11 accept",
    );
    asked("svc/far:80").expect(1);
}

/// Sets of more elements than are read: of addresses, of ranges, and a map to verdicts.
#[test]
fn of_sets_that_are_too_large_to_be_read_the_kernel_is_asked() {
    let (stage, _named) = stage();
    let addresses = (0..25_000_u32).map(|i| IpAddr::from(((10 << 24) + 5 * i).to_be_bytes()));
    let addresses: Vec<String> = addresses.map(|address| address.to_string()).collect();
    let of = |each: &dyn Fn(&String) -> String, one: &str| {
        let list: Vec<String> = addresses.iter().map(each).collect();
        format!("elements = {{ {}, {one} }}", list.join(", "))
    };
    let text = format!(
        "table inet fw {{
  set some {{ type ipv4_addr; {}; }}
  set ranges {{ type ipv4_addr; flags interval; {}; }}
  map ends {{ type ipv4_addr . inet_service : verdict; {}; }}
  chain far {{ ip daddr 172.17.1.2 drop; }}
  chain c {{ type filter hook forward priority 0; }}
}}",
        of(&String::clone, "172.17.1.2"),
        of(&String::clone, "172.17.1.0/24"),
        of(
            &|address| format!("{address} . 80 : drop"),
            "172.17.1.2 . 8080 : jump far"
        ),
    );
    stage.node().must("nft", &["-f", "-"], &text);
    works(&stage, &FAR).expect("no rule asks for them");
    for (rule, drops) in [
        ("ip daddr @some", "c drops it (rule"),
        ("ip daddr @ranges", "c drops it (rule"),
        (
            "ip daddr . tcp dport vmap @ends",
            "c drops it (chain far, rule",
        ),
    ] {
        let verdict = if rule.contains("vmap") { "" } else { "drop" };
        shell(&stage, &format!("nft add rule inet fw c {rule} {verdict}"));
        is_found(&stage, &FAR, &format!("forward: inet fw {drops}")).expect(rule);
        works(&stage, &HERE).expect(rule);
        shell(&stage, "nft flush chain inet fw c");
    }
}
