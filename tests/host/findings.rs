//! What `svcnat check` finds of a host that is not as svcnat needs it, and what `--fix` does about
//! it: each state is made in a namespace.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use serde_json::Value;

use crate::netns::Netns;
use crate::others::{node, svcnat_with};

/// Two nodes, a Service with a node port and an endpoint on each, and no Pod objects.
const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [172.17.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.50.11}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [172.17.1.0/24]}
status: {addresses: [{type: InternalIP, address: 192.168.50.12}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 10.254.0.10, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [172.17.0.2], nodeName: n1}, {addresses: [172.17.1.2], nodeName: n2}]
";

const SETTINGS: [&str; 5] = [
    "-f",
    "-",
    "--node-name=n1",
    "--cluster-cidr=172.17.0.0/16",
    "--service-cluster-ip-range=10.254.0.0/16",
];

fn run(netns: &Netns, verb: &[&str], input: &str) -> (Option<i32>, String) {
    svcnat_with(netns, &[verb, &SETTINGS].concat(), input)
}

/// The node with everything in its place.
fn whole() -> Netns {
    let netns = node();
    // Not every kernel has it.
    netns.sh("for f in iptables ip6tables; do
                  f=/proc/sys/net/bridge/bridge-nf-call-$f; [ ! -e $f ] || echo 1 >$f
              done");
    let (code, said) = run(&netns, &["apply"], CLUSTER);
    assert_eq!(code, Some(0), "{said}");
    netns
}

/// What `check` says, without its last line; the code says whether that is more than notices.
fn found(netns: &Netns, more: &[&str], input: &str) -> String {
    let (code, said) = run(netns, &[&["check"], more].concat(), input);
    let is_worse = |line: &str| line.starts_with("error:") || line.starts_with("warning:");
    let worse = said.lines().any(is_worse);
    assert_eq!(code, Some(i32::from(worse)), "{said}");
    let (said, _) = said.trim_end().rsplit_once('\n').unwrap_or_default();
    said.to_owned()
}

/// How the whole node is broken, what is said of it, and the repair; none if it is not for a
/// shell.
#[rustfmt::skip]
const BROKEN: &[(&str, &str, &str)] = &[
    ("sysctl -qw net.ipv4.ip_forward=0", "error: sysctl net.ipv4.ip_forward: is 0, expected 1", "sysctl -w net.ipv4.ip_forward=1"),
    ("sysctl -qw net.ipv4.conf.docker0.forwarding=0", "error: packets from a pod, say 172.17.0.254, to 10.254.0.10:80/TCP of Service default/web and 1 more: forwarding: \
      this node does not forward what comes in by docker0", "sysctl -w net.ipv4.conf.docker0.forwarding=1"),
    ("sysctl -qw net.ipv4.ip_local_port_range='30000 60999'", "warning: sysctl net.ipv4.ip_local_port_range: 30000 to 60999 has ports of ours in it (30080)",
     "sysctl -w net.ipv4.ip_local_reserved_ports=30080"),
    ("sysctl -qw net.ipv4.ip_local_port_range='30000 60999' net.ipv4.ip_local_reserved_ports=40000-40009", "(30080)", "sysctl -w net.ipv4.ip_local_reserved_ports=40000-40009,30080"),
    ("sysctl -qw net.ipv4.conf.all.route_localnet=1", "notice: sysctl net.ipv4.conf.all.route_localnet: is 1", "sysctl -w net.ipv4.conf.all.route_localnet=0"),
    ("ip link set pod0 mtu 9000", "warning: the way to pods of node n2: takes packets of 1500 bytes by eth0, and pods of this node send up to 9000 (MTU of pod0)", ""),
    ("ip route change 172.17.1.0/24 via 192.168.50.12 proto 178 mtu 1400", "takes packets of 1400 bytes by eth0, and pods of this node send up to 1500", ""),
    ("ip route del 172.17.1.0/24", "error: route 172.17.1.0/24 via 192.168.50.12: is not there: packets to pods of node n2 go elsewhere",
     "ip route replace 172.17.1.0/24 via 192.168.50.12 proto 178"),
    ("ip route replace 172.17.1.0/24 via 192.168.50.13 proto 178", "is not so: 172.17.1.0/24 via 192.168.50.13 is there", "ip route replace 172.17.1.0/24 via 192.168.50.12 proto 178"),
    ("ip route del 172.17.1.0/24; ip route add 172.17.1.0/24 via 192.168.50.13 proto 42", "error: node n2: route to 172.17.1.0/24 via 192.168.50.12: another program's is there",
     "ip route del 172.17.1.0/24, or --manage-routes=false"),
    ("ip route add 172.17.1.128/25 via 192.168.50.13", "warning: pod CIDR 172.17.1.0/24 of node n2: another program routes part of it elsewhere (172.17.1.128/25 via 192.168.50.13 proto boot)",
     "ip route del 172.17.1.128/25"),
    ("ip route add 10.254.7.0/24 via 192.168.50.13", "warning: service range 10.254.0.0/16: another program routes part of it", "ip route del 10.254.7.0/24"),
    ("ip addr add 172.17.1.1/24 dev uplink", "error: pod CIDR 172.17.1.0/24 of node n2: overlaps the subnet 172.17.1.0/24 of veth interface uplink", ""),
    ("ip addr add 172.17.0.77/24 dev uplink", "warning: pod CIDR 172.17.0.0/24 of this node: more than one link has addresses of it", ""),
    ("ip route del default", "warning: packets of this node to 10.254.0.10:80/TCP of Service default/web: sent: this node itself has no route to 10.254.0.10",
     "ip route add default via GATEWAY"),
    ("nft 'table inet fw { chain c { type filter hook output priority 0; policy drop; }; }'", "error: packets of this node to 10.254.0.10:80/TCP of Service default/web and 1 more: output: \
      inet fw c drops it by policy", "nft insert rule inet fw c ip daddr 172.17.0.2 accept"),
    ("nft 'table inet fw { chain c { type filter hook forward priority 0; policy drop; }; }'", "error: packets from a pod, say 172.17.0.254, to 10.254.0.10:80/TCP of Service default/web and 1 more: \
      forward: inet fw c drops it by policy", "nft insert rule inet fw c ip daddr 172.17.0.2 accept"),
];

#[test]
fn a_host_that_is_not_as_needed_is_named_with_one_repair_and_a_whole_one_is_not() {
    assert_eq!(found(&whole(), &[], CLUSTER), "");
    let mut wrong = Vec::new();
    for (how, says, repair) in BROKEN {
        let netns = whole();
        netns.sh(how);
        let said = found(&netns, &[], CLUSTER);
        let mut lines = said.lines();
        let finding = lines.find(|line| line.contains(says));
        let next = lines.next().unwrap_or_default();
        if finding.is_none() || !next.trim_start().starts_with("repair: ") || !next.contains(repair)
        {
            wrong.push(format!("{how}\nnot {says}\n    {repair}\n{said}"));
        }
        // Each cause is named once; a rule may end packets of more than one kind.
        let findings = said
            .lines()
            .filter(|line| !line.starts_with("  repair: "))
            .count();
        if findings != 1 && !how.contains("policy drop") && !how.contains("addr add") {
            wrong.push(format!("{how}\n{findings} findings\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn ports_that_are_reserved_are_given_to_nobody() {
    let netns = whole();
    netns.sh("sysctl -qw net.ipv4.ip_local_port_range='30000 60999' net.ipv4.ip_local_reserved_ports=30000-32767");
    assert_eq!(found(&netns, &[], CLUSTER), "");
}

#[test]
fn host_ports_are_walked_to_as_frontends_are() {
    let netns = whole();
    netns.sh("nft 'table inet fw { chain c { type filter hook forward priority 0; tcp dport 8080 drop; }; }'");
    let pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {nodeName: n1, \
        containers: [{name: c, ports: [{containerPort: 8080, hostPort: 8000}]}]}\nstatus: \
        {phase: Running, podIP: 172.17.0.7}\n";
    let said = found(&netns, &[], &format!("{CLUSTER}{pod}"));
    let says = "hostPort 8000/TCP of Pod default/web: forward: inet fw c drops it";
    assert!(said.contains(says), "{said}");
}

#[test]
fn fix_sets_what_is_ours_and_nothing_else_and_looks_again() {
    let netns = whole();
    netns.sh("sysctl -qw net.ipv4.ip_forward=0
              sysctl -qw net.ipv4.ip_local_port_range='30000 60999'
              ip route replace 172.17.1.0/24 via 192.168.50.13 proto 178
              ip route add 10.99.0.0/16 via 192.168.50.13");
    let before = netns.sh("nft list ruleset");
    let (code, said) = run(&netns, &["check"], CLUSTER);
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(
        netns.sh("cat /proc/sys/net/ipv4/ip_forward"),
        "0\n",
        "check alone sets nothing"
    );
    let (code, said) = run(&netns, &["check", "--fix", "-o", "json"], CLUSTER);
    // One finding is not ours to set.
    assert_eq!(code, Some(1), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    let set = serde_json::json!([
        "sysctl net.ipv4.ip_forward = 1 (was 0)",
        "route 172.17.1.0/24 via 192.168.50.12, to node n2"
    ]);
    assert_eq!(said["set"], set);
    let problems = said["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{said}");
    let keys: Vec<&String> = problems[0].as_object().unwrap().keys().collect();
    assert_eq!(
        keys,
        [
            "field", "message", "object", "origin", "owner", "repair", "severity"
        ]
    );
    assert_eq!(problems[0]["object"], "sysctl net.ipv4.ip_local_port_range");
    assert_eq!(netns.sh("cat /proc/sys/net/ipv4/ip_forward"), "1\n");
    let routes = netns.sh("ip route show proto 178; ip route show 10.99.0.0/16");
    assert_eq!(
        routes.split_whitespace().collect::<Vec<_>>().join(" "),
        "172.17.1.0/24 via 192.168.50.12 dev eth0 10.99.0.0/16 via 192.168.50.13 dev eth0"
    );
    assert_eq!(netns.sh("nft list ruleset"), before);
    netns.sh("sysctl -qw net.ipv4.ip_local_port_range='32768 60999'");
    let (code, said) = run(&netns, &["check", "--fix"], CLUSTER);
    assert_eq!(
        (code, &*said),
        (Some(0), "0 errors, 0 warnings and notices\n")
    );
}

#[test]
fn fix_leaves_alone_what_is_to_be_left_alone() {
    let netns = whole();
    netns.sh("sysctl -qw net.ipv4.ip_forward=0; ip route del 172.17.1.0/24");
    let leave = [
        "check",
        "--fix",
        "--sysctls=ignore",
        "--manage-routes=false",
    ];
    let (code, said) = run(&netns, &leave, CLUSTER);
    assert_eq!(code, Some(1), "{said}");
    assert!(!said.contains("set: "), "{said}");
    assert_eq!(netns.sh("cat /proc/sys/net/ipv4/ip_forward"), "0\n");
    assert_eq!(netns.sh("ip route show 172.17.1.0/24"), "");
}

#[test]
fn before_anything_is_installed_routes_are_no_fault() {
    let netns = node();
    netns.sh("for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do [ ! -e $f ] || echo 1 >$f; done");
    let said = found(&netns, &[], CLUSTER);
    assert!(
        said.starts_with(
            "notice: route 172.17.1.0/24 via 192.168.50.12: is not there, and will be"
        ) && said.lines().count() == 2,
        "{said}"
    );
}

#[test]
fn the_kernel_says_how_full_its_tables_are() {
    let setting = |name: &str| std::fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
    let tables = svcnat::host::capacity::neighbour_tables().unwrap();
    let most: Vec<String> = tables
        .iter()
        .map(|table| format!("{}\n", table.most))
        .collect();
    assert_eq!(
        most,
        [
            setting("ipv4/neigh/default/gc_thresh3"),
            setting("ipv6/neigh/default/gc_thresh3")
        ]
    );
}

#[test]
fn what_connection_tracking_counts_is_read_from_the_kernel() {
    let netns = Netns::new();
    let count = || netns.run(svcnat::host::capacity::tracking).unwrap().stats;
    let (mut client, _server) = netns.run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap())
    });
    // From here on connections are tracked, and what is of none that began since is invalid.
    netns.sh(
        "nft 'table inet t { chain c { type filter hook output priority 0; ct state new; }; }'
              sysctl -qw net.netfilter.nf_conntrack_tcp_loose=0",
    );
    assert_eq!(count().invalid, 0);
    client.write_all(b"x").unwrap();
    assert_ne!(count().invalid, 0);
}
