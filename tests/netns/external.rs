//! External IPs and load-balancer addresses, and who may use them.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Dual, Lab, Row, SILENCE, Service, cluster_ip, ip_of, outside_ip, routed_ip, row,
};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .endpoints(&["a0", "b0"])
}

fn balanced(ingress: Value) -> Service {
    web().node_port(30_080).set(json!({
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
}

fn vips(addrs: impl IntoIterator<Item = IpAddr>) -> Value {
    let ingress = addrs
        .into_iter()
        .map(|addr| json!({"ip": addr, "ipMode": "VIP"}));
    ingress.collect()
}

fn guarded(ranges: &[&str]) -> Service {
    balanced(vips(routed_ip(5).both())).set(json!({"spec": {"loadBalancerSourceRanges": ranges}}))
}

/// Everybody who reaches an external address with policy Cluster, masqueraded.
fn open_to_all(n: u8) -> Vec<Row> {
    let at = |why, from, node| {
        row(why)
            .from(from)
            .to(routed_ip(n), 80)
            .answers(&["a0", "b0"])
            .masqueraded_by(node)
    };
    vec![
        at("an outsider", "out", "a"),
        at("a pod", "a1", "a"),
        at("a remote pod", "b1", "b"),
        at("the node", "a", "a"),
    ]
}

#[test]
fn external_ips_lead_everyone_to_the_service_masqueraded() {
    let addrs = [routed_ip(5).both(), routed_ip(6).both()].concat();
    let lab = Lab::running(&Cluster::with([
        web().set(json!({"spec": {"externalIPs": addrs}}))
    ]));
    lab.check(&open_to_all(5));
    lab.check(&open_to_all(6));
}

#[test]
fn an_external_ip_of_the_node_takes_over_only_its_port() {
    let addrs = ip_of("a").both();
    let lab = Lab::running(&Cluster::with([
        web().set(json!({"spec": {"externalIPs": addrs}}))
    ]));
    lab.check(&[
        row("the service port")
            .from("out")
            .to(ip_of("a"), 80)
            .answers(&["a0", "b0"]),
        row("from the node")
            .from("a")
            .to(ip_of("a"), 80)
            .answers(&["a0", "b0"]),
        row("the node's own server")
            .from("out")
            .to(ip_of("a"), 7070)
            .answers(&["a"])
            .kept(),
        row("nobody's port")
            .from("out")
            .to(ip_of("a"), 81)
            .refused(),
    ]);
}

#[test]
fn load_balancer_addresses_lead_everyone_to_the_service_masqueraded() {
    let ingress = vips([routed_ip(5).both(), routed_ip(6).both()].concat());
    let lab = Lab::running(&Cluster::with([balanced(ingress)]));
    lab.check(&open_to_all(5));
    lab.check(&open_to_all(6));
}

#[test]
fn a_load_balancer_may_do_without_node_ports() {
    let service = web().set(json!({
        "spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false},
        "status": {"loadBalancer": {"ingress": vips(routed_ip(5).both())}},
    }));
    let lab = Lab::running(&Cluster::with([service]));
    lab.check(&open_to_all(5));
    lab.check(&[row("no node port")
        .from("out")
        .to(ip_of("a"), 30_080)
        .refused()]);
}

#[test]
fn proxy_mode_addresses_are_the_balancers_own_affair() {
    let mut ingress = routed_ip(5)
        .both()
        .map(|addr| json!({"ip": addr, "ipMode": "Proxy"}))
        .to_vec();
    ingress.push(json!({"hostname": "lb.example.org"}));
    ingress.extend(routed_ip(6).both().map(|addr| json!({"ip": addr})));
    let lab = Lab::running(&Cluster::with([balanced(ingress.into())]));
    // Nobody answers beyond the router, which rejects what it would send back to the node.
    lab.at("router")
        .ip("route replace 198.51.100.5 via 203.0.113.10\n\
         route replace 2001:db8:100::5 via 2001:db8:113::a\n");
    lab.at("out")
        .ip("addr add 198.51.100.5/32 dev lo\naddr add 2001:db8:100::5/128 dev lo nodad\n");
    lab.check(&open_to_all(6));
    lab.check(&[row("left to the balancer")
        .from("a1")
        .to(routed_ip(5), 80)
        .refused()]);
    let mut lab = lab;
    for addr in routed_ip(5).both() {
        lab.serve("out", Protocol::Tcp, (addr, 80).into());
        let answer = lab
            .from("a1")
            .ask(Protocol::Tcp, (addr, 80).into())
            .answer();
        assert_eq!(answer.name, SocketAddr::from((addr, 80)).to_string());
    }
}

#[test]
fn source_ranges_keep_others_out_of_load_balancer_addresses_only() {
    let service = guarded(&["203.0.113.11/32", "2001:db8:113::b/128"])
        .set(json!({"spec": {"externalIPs": routed_ip(6).both()}}));
    let lab = Lab::running(&Cluster::with([service]));
    let (vip, all) = (routed_ip(5), ["a0", "b0"]);
    lab.check(&[
        row("inside the range")
            .from("out")
            .source(outside_ip(11))
            .to(vip, 80)
            .answers(&all),
        row("outside of it").from("out").to(vip, 80).silence(),
        row("a pod is like anyone").from("a1").to(vip, 80).silence(),
        row("a remote pod, too").from("b1").to(vip, 80).silence(),
        row("the node, too").from("a").to(vip, 80).silence(),
        row("the clusterIP is open")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&all)
            .kept(),
        row("the node port is open")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&all),
        row("the external IP is open")
            .from("out")
            .to(routed_ip(6), 80)
            .answers(&all),
    ]);
}

#[test]
fn ranges_that_cover_pods_or_nodes_let_them_in() {
    let lab = Lab::running(&Cluster::with([guarded(&[
        "172.17.0.0/16",
        "fd00:17::/48",
        "192.168.50.1/32",
        "fd00:50::1/128",
    ])]));
    let (vip, all) = (routed_ip(5), ["a0", "b0"]);
    lab.check(&[
        row("a pod")
            .from("a1")
            .to(vip, 80)
            .answers(&all)
            .masqueraded_by("a"),
        row("a remote pod")
            .from("b1")
            .to(vip, 80)
            .answers(&all)
            .masqueraded_by("b"),
        row("node a").from("a").to(vip, 80).answers(&all),
        row("not node b").from("b").to(vip, 80).silence(),
        row("not the outside").from("out").to(vip, 80).silence(),
    ]);
}

#[test]
fn a_zero_prefix_opens_and_blanks_around_a_range_do_not_matter() {
    let lab = Lab::running(&Cluster::with([guarded(&[
        "203.0.113.99/32",
        "0.0.0.0/0",
        "::/0",
    ])]));
    lab.check(&[row("open")
        .from("out")
        .to(routed_ip(5), 80)
        .answers(&["a0", "b0"])]);
    lab.apply(&Cluster::with([guarded(&[
        " 203.0.113.11/32 ",
        "  2001:db8:113::b/128",
    ])]));
    lab.check(&[
        row("trimmed")
            .from("out")
            .source(outside_ip(11))
            .to(routed_ip(5), 80)
            .answers(&["a0", "b0"]),
        row("closed").from("out").to(routed_ip(5), 80).silence(),
    ]);
}

#[test]
fn ranges_of_one_family_do_not_bind_the_other() {
    let lab = Lab::running(&Cluster::with([guarded(&["203.0.113.99/32"])]));
    let at = |why| row(why).from("out").to(routed_ip(5), 80);
    lab.check(&[
        at("guarded").only(Family::Ip).silence(),
        at("open").only(Family::Ip6).answers(&["a0", "b0"]),
    ]);
}

#[test]
fn without_endpoints_the_blocked_hear_nothing_and_the_allowed_are_refused() {
    let service = Service::new("nobody", cluster_ip(11))
        .port(80, 8080)
        .set(json!({
            "spec": {
                "type": "LoadBalancer",
                "externalIPs": routed_ip(6).both(),
                "loadBalancerSourceRanges": ["203.0.113.11/32", "2001:db8:113::b/128"],
            },
            "status": {"loadBalancer": {"ingress": vips(routed_ip(5).both())}},
        }));
    let lab = Lab::running(&Cluster::with([service]));
    lab.check(&[
        row("blocked").from("out").to(routed_ip(5), 80).silence(),
        row("allowed")
            .from("out")
            .source(outside_ip(11))
            .to(routed_ip(5), 80)
            .refused(),
        row("the external IP, from outside")
            .from("out")
            .to(routed_ip(6), 80)
            .refused(),
        row("the external IP, from a pod")
            .from("a1")
            .to(routed_ip(6), 80)
            .refused(),
        row("the external IP, from the node")
            .from("a")
            .to(routed_ip(6), 80)
            .refused(),
    ]);
}

#[test]
fn services_may_share_an_address_on_ports_of_their_own() {
    let share = |name, n, port, place: &str| {
        Service::new(name, cluster_ip(n))
            .port(port, 8080)
            .endpoints(&[place])
            .set(json!({"spec": {"externalIPs": routed_ip(7).both()}}))
    };
    let lab = Lab::running(&Cluster::with([
        share("one", 21, 80, "a0"),
        share("two", 22, 81, "b0"),
    ]));
    lab.check(&[
        row("the first")
            .from("out")
            .to(routed_ip(7), 80)
            .answers(&["a0"]),
        row("the second")
            .from("out")
            .to(routed_ip(7), 81)
            .answers(&["b0"]),
    ]);
}

/// How many packets a node's physical interface has received.
fn received(lab: &Lab, node: &str) -> u64 {
    let text = lab.at(node).must("cat", &["/proc/net/dev"], "");
    let line = text
        .lines()
        .find(|line| line.trim_start().starts_with("eth0:"));
    let mut fields = line.expect("an interface").split_whitespace().skip(2);
    let count = fields.next().expect("received packets");
    count.parse().expect("a number")
}

/// Sends one echo request and does not wait for the answer. Each has an identifier of its own:
/// by that it is a new flow.
fn ping(lab: &Lab, to: IpAddr) {
    static PINGS: AtomicU16 = AtomicU16::new(1);
    let id = PINGS.fetch_add(1, Ordering::Relaxed);
    // RFC 792 and RFC 4443; of ICMPv6 the kernel fills in the checksum.
    let (domain, protocol, [kind, checksum]) = match to {
        IpAddr::V4(_) => (Domain::IPV4, 1, [8 << 8, !(0x0800 + id)]),
        IpAddr::V6(_) => (Domain::IPV6, 58, [128 << 8, 0]),
    };
    let request = [kind, checksum, id, 0].map(u16::to_be_bytes).concat();
    lab.at("out").enter(|| {
        let raw = Type::from(nix::libc::SOCK_RAW);
        let socket = Socket::new(domain, raw, Some(protocol.into())).expect("a raw socket");
        let to = SocketAddr::new(to, 0);
        socket
            .send_to(&request, &to.into())
            .expect("an echo request");
    });
}

/// A packet that goes round comes to node `a` some thirty times before its 64 hops are used up,
/// one that does not comes once. Neighbour discovery, which is counted too, comes now and then.
const ROUNDS: u64 = 15;

/// One datagram to a port, and one echo request, to a VIP: how many packets came to node `a`.
fn passes(lab: &Lab, to: IpAddr) -> (u64, u64) {
    let before = received(lab, "a");
    let caller = lab.from("out").patience(SILENCE);
    let caller = caller.unwalked("what becomes of it on its way round");
    caller.ask(Protocol::Udp, (to, 81).into());
    let between = received(lab, "a");
    ping(lab, to);
    std::thread::sleep(SILENCE);
    (between - before, received(lab, "a") - between)
}

#[test]
fn a_packet_to_an_unserved_port_of_an_external_address_does_not_go_round() {
    let services = || {
        let balanced = balanced(vips(routed_ip(5).both()))
            .set(json!({"spec": {"externalTrafficPolicy": "Local"}}));
        let own = [ip_of("a").both(), routed_ip(6).both()].concat();
        let external = Service::new("external", cluster_ip(11))
            .port(80, 8080)
            .endpoints(&["a0"])
            .set(json!({"spec": {"externalIPs": own}}));
        Cluster::with([balanced, external])
    };
    let mut lab = Lab::running(&services());
    // The router sends these addresses to node a, whose way to them is the router.
    for addr in routed_ip(5).both() {
        let (datagram, ping) = passes(&lab, addr);
        assert!(
            datagram > ROUNDS && ping > ROUNDS,
            "by default it is routed on: {datagram}, {ping}"
        );
    }
    for (answer, refused) in [("drop", false), ("reject", true)] {
        lab.args = vec![format!("--unserved-external={answer}")];
        lab.apply(&services());
        for addr in [routed_ip(5), routed_ip(6)]
            .into_iter()
            .flat_map(Dual::both)
        {
            let (datagram, ping) = passes(&lab, addr);
            assert!(
                datagram < ROUNDS && ping < ROUNDS,
                "{answer} {addr}: {datagram}, {ping}"
            );
        }
        let at = |why, from, to, port| row(why).from(from).to(to, port);
        let unserved = at("another port", "out", routed_ip(5), 81);
        lab.check(&[
            if refused {
                unserved.refused()
            } else {
                unserved.silence()
            },
            at("the served port", "out", routed_ip(6), 80).answers(&["a0"]),
            at(
                "the node's own server at an external address of its own",
                "out",
                ip_of("a"),
                7070,
            )
            .answers(&["a"])
            .kept(),
        ]);
    }
}
