//! Pods on their way out, and between nodes: masquerade, its exceptions, routes.

use std::net::{Ipv4Addr, Ipv6Addr};

use svcnat::cluster::Protocol;

use crate::support::{Cluster, Dual, Lab, OUTSIDE_PORT, ip_of, row};

const ALL: &[Protocol] = &Protocol::ALL;

/// The outside learns the way to node `a`'s pods, as it must where they are not masqueraded.
fn route_back(lab: &Lab) {
    lab.at("router")
        .ip("route add 172.17.0.0/24 via 192.168.50.1\nroute add fd00:17::/64 via fd00:50::1\n");
}

#[test]
fn pods_leave_the_cluster_with_their_nodes_address() {
    let lab = Lab::running(&Cluster::with([]));
    let out = ip_of("out");
    lab.check(&[
        row("from node a")
            .from("a0")
            .to(out, OUTSIDE_PORT)
            .over(ALL)
            .answers(&["out"])
            .masqueraded_by("a"),
        row("from node b")
            .from("b1")
            .to(out, OUTSIDE_PORT)
            .over(ALL)
            .answers(&["out"])
            .masqueraded_by("b"),
        row("to another node")
            .from("a0")
            .to(ip_of("b"), 7070)
            .over(ALL)
            .answers(&["b"])
            .masqueraded_by("a"),
        row("the node itself")
            .from("a")
            .to(out, OUTSIDE_PORT)
            .over(ALL)
            .answers(&["out"])
            .kept(),
    ]);
}

#[test]
fn pods_of_different_nodes_see_each_others_addresses() {
    let lab = Lab::running(&Cluster::with([]));
    lab.check(&[
        row("a to b")
            .from("a0")
            .to(ip_of("b0"), 8080)
            .over(ALL)
            .answers(&["b0"])
            .kept(),
        row("b to a")
            .from("b1")
            .to(ip_of("a1"), 8080)
            .over(ALL)
            .answers(&["a1"])
            .kept(),
        row("side by side")
            .from("a0")
            .to(ip_of("a1"), 8080)
            .over(ALL)
            .answers(&["a1"])
            .kept(),
        row("from the other node")
            .from("b")
            .to(ip_of("a0"), 8080)
            .over(ALL)
            .answers(&["a0"])
            .kept(),
        row("from its own node")
            .from("a")
            .to(ip_of("a0"), 8080)
            .over(ALL)
            .answers(&["a0"]),
    ]);
}

#[test]
fn excepted_destinations_see_the_pod() {
    let mut lab = Lab::start();
    route_back(&lab);
    lab.args
        .push("--non-masquerade-cidrs=203.0.113.0/24,2001:db8:113::/64".to_owned());
    lab.apply(&Cluster::with([]));
    lab.check(&[
        row("excepted")
            .from("a0")
            .to(ip_of("out"), OUTSIDE_PORT)
            .over(ALL)
            .answers(&["out"])
            .kept(),
        row("not excepted")
            .from("a0")
            .to(ip_of("b"), 7070)
            .over(ALL)
            .answers(&["b"])
            .masqueraded_by("a"),
    ]);
}

#[test]
fn one_excepted_address_does_not_except_its_neighbours() {
    let mut lab = Lab::start();
    route_back(&lab);
    lab.args
        .push("--non-masquerade-cidrs=203.0.113.10/32,2001:db8:113::a/128".to_owned());
    lab.apply(&Cluster::with([]));
    let mut lab = lab;
    let neighbour = crate::support::outside_ip(11);
    for addr in neighbour.both() {
        lab.serve("out", Protocol::Tcp, (addr, OUTSIDE_PORT).into());
    }
    lab.check(&[row("excepted")
        .from("a0")
        .to(ip_of("out"), OUTSIDE_PORT)
        .answers(&["out"])
        .kept()]);
    for addr in neighbour.both() {
        let to = (addr, OUTSIDE_PORT).into();
        let answer = lab.from("a0").ask(Protocol::Tcp, to).answer();
        assert!(
            ip_of("a").has(answer.client.ip()),
            "{to} saw {}",
            answer.client
        );
    }
}

#[test]
fn an_address_inside_an_excepted_prefix_is_masqueraded_where_the_longer_prefix_says_so() {
    let mut lab = Lab::start();
    route_back(&lab);
    lab.args.extend([
        "--non-masquerade-cidrs=203.0.113.0/24,2001:db8:113::/64".to_owned(),
        "--masquerade-cidrs=203.0.113.11/32,203.0.0.0/8,2001:db8:113::b/128".to_owned(),
    ]);
    lab.apply(&Cluster::with([]));
    let inside = crate::support::outside_ip(11);
    for addr in inside.both() {
        lab.serve("out", Protocol::Tcp, (addr, OUTSIDE_PORT).into());
    }
    lab.check(&[row("around it")
        .from("a0")
        .to(ip_of("out"), OUTSIDE_PORT)
        .over(ALL)
        .answers(&["out"])
        .kept()]);
    for addr in inside.both() {
        let to = (addr, OUTSIDE_PORT).into();
        let answer = lab.from("a0").ask(Protocol::Tcp, to).answer();
        assert!(
            ip_of("a").has(answer.client.ip()),
            "{to} saw {}",
            answer.client
        );
    }
}

#[test]
fn egress_masquerade_can_be_left_to_others() {
    let mut lab = Lab::start();
    route_back(&lab);
    lab.args.push("--egress-masquerade=false".to_owned());
    lab.apply(&Cluster::with([]));
    lab.check(&[row("kept")
        .from("a0")
        .to(ip_of("out"), OUTSIDE_PORT)
        .answers(&["out"])
        .kept()]);
}

#[test]
fn link_local_destinations_see_the_pod() {
    let lab = Lab::running(&Cluster::with([]));
    lab.at("out").ip("addr add 169.254.7.7/32 dev lo\n");
    lab.at("router")
        .ip("route add 169.254.7.7 via 203.0.113.10\n");
    route_back(&lab);
    let metadata = Dual {
        v4: Ipv4Addr::new(169, 254, 7, 7),
        v6: Ipv6Addr::LOCALHOST,
    };
    let mut lab = lab;
    lab.serve("out", Protocol::Tcp, (metadata.v4, 80).into());
    let answer = lab
        .from("a0")
        .ask(Protocol::Tcp, (metadata.v4, 80).into())
        .answer();
    assert_eq!(answer.client.ip(), ip_of("a0").v4);
}

#[test]
fn routes_lead_to_the_other_nodes_pods_and_nothing_else_is_added() {
    let lab = Lab::start();
    let routes = |family: &str| lab.at("a").must("ip", &[family, "route", "show"], "");
    let before = (routes("-4"), routes("-6"));
    lab.apply(&Cluster::with([]));
    let (v4, v6) = (routes("-4"), routes("-6"));
    let added = |before: &str, after: &str| {
        let old: Vec<&str> = before.lines().collect();
        let new = after.lines().filter(|line| !old.contains(line));
        new.map(str::to_owned).collect::<Vec<_>>()
    };
    let (added4, added6) = (added(&before.0, &v4), added(&before.1, &v6));
    assert_eq!(
        (added4.len(), added6.len()),
        (1, 1),
        "{added4:?} {added6:?}"
    );
    assert!(
        added4[0].starts_with("172.17.1.0/24 via 192.168.50.2"),
        "{added4:?}"
    );
    assert!(
        added6[0].starts_with("fd00:17:0:1::/64 via fd00:50::2"),
        "{added6:?}"
    );
    assert!(
        added4[0].contains(" proto "),
        "a protocol number of our own: {added4:?}"
    );
}

#[test]
fn routes_can_be_left_to_others() {
    let mut lab = Lab::start();
    lab.args.push("--manage-routes=false".to_owned());
    let before = lab.at("a").must("ip", &["route", "show"], "");
    lab.apply(&Cluster::with([]));
    assert_eq!(lab.at("a").must("ip", &["route", "show"], ""), before);
}
