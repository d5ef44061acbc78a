//! hostPort and hostIP of this node's pods.

use std::net::SocketAddr;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Dual, Lab, Outcome, ip_of, pod, pod_net, row};

fn ports(ports: Value) -> Value {
    json!({"containers": [{"name": "main", "ports": ports}]})
}

fn both(host: u16) -> Value {
    ports(json!([
        {"containerPort": 8080, "hostPort": host},
        {"containerPort": 8080, "hostPort": host, "protocol": "UDP"},
    ]))
}

#[test]
fn a_host_port_leads_to_the_pod_and_keeps_the_client() {
    let cluster = Cluster::with([]).object(pod("a0", json!({}), both(81)));
    let lab = Lab::running(&cluster);
    let a = ip_of("a");
    lab.check(&[
        row("an outsider")
            .from("out")
            .to(a, 81)
            .answers(&["a0"])
            .kept(),
        row("a pod of the node")
            .from("a1")
            .to(a, 81)
            .answers(&["a0"])
            .kept(),
        row("a pod of the other node")
            .from("b0")
            .to(a, 81)
            .answers(&["a0"]),
        row("the node itself").from("a").to(a, 81).answers(&["a0"]),
        row("the other node")
            .from("b")
            .to(a, 81)
            .answers(&["a0"])
            .kept(),
        row("the pod itself")
            .from("a0")
            .to(a, 81)
            .answers(&["a0"])
            .masqueraded_by("a"),
        row("any address of the node")
            .from("a1")
            .to(pod_net(0, 1), 81)
            .answers(&["a0"]),
        row("not the other node")
            .from("out")
            .to(ip_of("b"), 81)
            .refused(),
        row("not another port").from("out").to(a, 82).refused(),
        row("the pod's own port as ever")
            .from("a1")
            .to(ip_of("a0"), 8080)
            .answers(&["a0"])
            .kept(),
    ]);
}

#[test]
fn protocols_of_one_host_port_may_belong_to_two_pods() {
    let tcp = ports(json!([{"containerPort": 8080, "hostPort": 81}]));
    let udp = ports(json!([{"containerPort": 8080, "hostPort": 81, "protocol": "UDP"}]));
    let sctp = ports(json!([{"containerPort": 9090, "hostPort": 81, "protocol": "SCTP"}]));
    let cluster = Cluster::with([])
        .object(pod("a0", json!({}), tcp))
        .object(pod("a1", json!({}), udp))
        .object(pod("b0", json!({}), sctp));
    let lab = Lab::running(&cluster);
    let a = ip_of("a");
    lab.check(&[
        row("TCP")
            .from("out")
            .to(a, 81)
            .over(&[Protocol::Tcp])
            .answers(&["a0"])
            .kept(),
        row("UDP")
            .from("out")
            .to(a, 81)
            .over(&[Protocol::Udp])
            .answers(&["a1"])
            .kept(),
        row("SCTP")
            .from("out")
            .to(ip_of("b"), 81)
            .over(&[Protocol::Sctp])
            .answers(&["b0"])
            .kept(),
    ]);
}

#[test]
fn host_ip_limits_a_host_port_to_that_address() {
    let address = ip_of("a").v4;
    let spec = ports(json!([
        {"containerPort": 8080, "hostPort": 81, "hostIP": address},
        {"containerPort": 8080, "hostPort": 81, "hostIP": address, "protocol": "UDP"},
    ]));
    let elsewhere = ports(json!([
        {"containerPort": 9090, "hostPort": 81, "hostIP": pod_net(0, 1).v4},
        {"containerPort": 9090, "hostPort": 81, "hostIP": pod_net(0, 1).v4, "protocol": "UDP"},
    ]));
    let cluster = Cluster::with([])
        .object(pod("a0", json!({}), spec))
        .object(pod("a1", json!({}), elsewhere));
    let lab = Lab::running(&cluster);
    let bridge: Dual = pod_net(0, 1);
    lab.check(&[
        row("the address")
            .from("out")
            .to(ip_of("a"), 81)
            .only(Family::Ip)
            .answers(&["a0"])
            .kept(),
        row("the other family")
            .from("out")
            .to(ip_of("a"), 81)
            .only(Family::Ip6)
            .refused(),
        row("the other pod's address")
            .from("b0")
            .to(bridge, 81)
            .only(Family::Ip)
            .answers(&["a1"]),
        row("from the node")
            .from("a")
            .to(bridge, 81)
            .only(Family::Ip)
            .answers(&["a1"]),
    ]);
}

#[test]
fn a_host_port_moves_with_its_pod_and_goes_with_it() {
    let lab = Lab::running(&Cluster::with([]).object(pod("a0", json!({}), both(81))));
    let at = |why| row(why).from("out").to(ip_of("a"), 81);
    lab.check(&[at("the first pod").answers(&["a0"])]);
    lab.apply(&Cluster::with([]).object(pod("a1", json!({}), both(81))));
    lab.check(&[at("its successor").answers(&["a1"])]);
    lab.apply(&Cluster::with([]));
    lab.check(&[at("nobody").refused()]);
}

#[test]
fn a_udp_flow_to_a_host_port_that_is_gone_ends_with_it() {
    let lab = Lab::running(&Cluster::with([]).object(pod("a0", json!({}), both(81))));
    for family in Family::ALL {
        lab.apply(&Cluster::with([]).object(pod("a0", json!({}), both(81))));
        let to = SocketAddr::new(ip_of("a").of(family), 81);
        let mut flow = lab.from("out").open(Protocol::Udp, to).expect("a flow");
        lab.apply(&Cluster::with([]));
        let after = flow.ask();
        assert!(!matches!(after, Outcome::Answer(_)), "{family}: {after:?}");
    }
}
