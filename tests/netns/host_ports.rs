//! hostPort and hostIP of this node's pods.

use std::net::SocketAddr;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Dual, Lab, Outcome, Service, cluster_ip, ip_of, pod, pod_net, row};

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

/// A pod as in the lab, with more said of its metadata.
fn pod_with(place: &str, spec: Value, metadata: &Value) -> Value {
    let mut pod = pod(place, json!({}), spec);
    for (field, value) in metadata.as_object().expect("a map") {
        pod["metadata"][field] = value.clone();
    }
    pod
}

#[test]
fn a_living_pod_takes_the_host_port_of_a_terminating_one() {
    let dying = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let cluster = Cluster::with([])
        .object(pod_with("a0", both(81), &dying))
        .object(pod("a1", json!({}), both(81)));
    let lab = Lab::running(&cluster);
    let at = |why| row(why).from("out").to(ip_of("a"), 81);
    lab.check(&[at("the living one").answers(&["a1"]).kept()]);
    lab.apply(&Cluster::with([]).object(pod_with("a0", both(81), &dying)));
    lab.check(&[at("nobody else wants it").answers(&["a0"]).kept()]);
}

#[test]
fn of_two_living_pods_the_older_has_the_host_port() {
    let made = |year: u16| json!({"creationTimestamp": format!("{year}-01-01T00:00:00Z")});
    let cluster = Cluster::with([])
        .object(pod_with("a0", both(81), &made(2026)))
        .object(pod_with("a1", both(81), &made(2025)));
    let lab = Lab::running(&cluster);
    lab.check(&[row("the older one")
        .from("out")
        .to(ip_of("a"), 81)
        .answers(&["a1"])
        .kept()]);
}

#[test]
fn one_pod_may_want_a_host_port_in_each_family_by_itself() {
    let spec = ports(json!([
        {"containerPort": 8080, "hostPort": 81, "hostIP": "0.0.0.0"},
        {"containerPort": 8080, "hostPort": 81, "hostIP": "0.0.0.0", "protocol": "UDP"},
        {"containerPort": 8080, "hostPort": 81, "hostIP": "::"},
        {"containerPort": 8080, "hostPort": 81, "hostIP": "::", "protocol": "UDP"},
    ]));
    let four = ports(json!([
        {"containerPort": 8080, "hostPort": 82, "hostIP": "0.0.0.0"},
        {"containerPort": 8080, "hostPort": 82, "hostIP": "0.0.0.0", "protocol": "UDP"},
    ]));
    let six = ports(json!([
        {"containerPort": 8080, "hostPort": 82, "hostIP": "::"},
        {"containerPort": 8080, "hostPort": 82, "hostIP": "::", "protocol": "UDP"},
    ]));
    let mut second = pod("a0", json!({}), four);
    second["metadata"]["name"] = "second".into();
    let cluster = Cluster::with([])
        .object(pod("a0", json!({}), spec))
        .object(second)
        .object(pod("a1", json!({}), six));
    let lab = Lab::running(&cluster);
    let (a, node) = (ip_of("a"), |why| row(why).from("out"));
    lab.check(&[
        node("both").to(a, 81).answers(&["a0"]).kept(),
        node("IPv4 alone")
            .to(a, 82)
            .only(Family::Ip)
            .answers(&["a0"]),
        node("IPv6 alone")
            .to(a, 82)
            .only(Family::Ip6)
            .answers(&["a1"]),
    ]);
}

#[test]
fn a_node_port_comes_before_a_host_port_with_and_without_endpoints() {
    let service = |endpoints: &[&str]| {
        Service::new("web", cluster_ip(10))
            .port(80, 8080)
            .node_port(30_080)
            .endpoints(endpoints)
    };
    let pod = || pod("a0", json!({}), both(30_080));
    let lab = Lab::running(&Cluster::with([service(&["b0"])]).object(pod()));
    let at = |why| row(why).from("out").to(ip_of("a"), 30_080);
    lab.check(&[at("the Service").answers(&["b0"])]);
    lab.apply(&Cluster::with([service(&[])]).object(pod()));
    lab.check(&[at("the Service has no endpoints").refused()]);
    let local = service(&["b0"]).set(json!({"spec": {"externalTrafficPolicy": "Local"}}));
    lab.apply(&Cluster::with([local]).object(pod()));
    lab.check(&[at("none on this node").silence()]);
    lab.apply(&Cluster::with([]).object(pod()));
    lab.check(&[at("the Service is gone").answers(&["a0"]).kept()]);
}

#[test]
fn host_ports_on_loopback_addresses_are_for_the_node_alone() {
    let at = |port: u16, host_ip: &str| {
        ["TCP", "UDP"].map(|protocol| {
            json!({"containerPort": 8080, "hostPort": port, "hostIP": host_ip, "protocol": protocol})
        })
    };
    let loopback = ports([at(54_321, "127.0.0.1"), at(54_321, "::1")].concat().into());
    let address = ports(
        [at(54_321, "192.168.50.1"), at(54_321, "fd00:50::1")]
            .concat()
            .into(),
    );
    let cluster = Cluster::with([])
        .object(pod("a0", json!({}), loopback))
        .object(pod("a1", json!({}), address));
    let lab = Lab::running(&cluster);
    let here = Dual {
        v4: std::net::Ipv4Addr::LOCALHOST,
        v6: std::net::Ipv6Addr::LOCALHOST,
    };
    lab.check(&[
        row("from the node's own address")
            .from("a")
            .source(ip_of("a"))
            .to(here, 54_321)
            .answers(&["a0"]),
        row("the other pod with the same port")
            .from("a")
            .to(ip_of("a"), 54_321)
            .answers(&["a1"]),
        row("from outside")
            .from("out")
            .to(ip_of("a"), 54_321)
            .answers(&["a1"]),
    ]);
    // The kernel lets packets from 127.0.0.1 leave for the pod, and their answers come back,
    // only if it is told to; those from ::1 it never does.
    lab.at("a").sysctl("ipv4/conf/docker0/route_localnet", "1");
    lab.check(&[row("from the loopback address itself")
        .from("a")
        .source(here)
        .to(here, 54_321)
        .only(Family::Ip)
        .answers(&["a0"])
        .masqueraded_by("a")]);
}
