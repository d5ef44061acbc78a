//! Node ports: on which addresses of a node, and for whom.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::support::{Cluster, Dual, Lab, Service, cluster_ip, ip_of, pod_net, row};

const LOOPBACK: Dual = Dual {
    v4: Ipv4Addr::LOCALHOST,
    v6: Ipv6Addr::LOCALHOST,
};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(&["a0", "b0"])
}

#[test]
fn the_primary_address_answers_everyone_masqueraded() {
    let lab = Lab::running(&Cluster::with([web()]));
    let (a, b) = (ip_of("a"), ip_of("b"));
    lab.check(&[
        row("an outsider")
            .from("out")
            .to(a, 30_080)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("an outsider at the other node")
            .from("out")
            .to(b, 30_080)
            .answers(&["a0", "b0"])
            .masqueraded_by("b"),
        row("a pod of the node")
            .from("a1")
            .to(a, 30_080)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("an endpoint of the node")
            .from("a0")
            .to(a, 30_080)
            .answers(&["a0", "b0"]),
        row("a pod, at the other node")
            .from("a1")
            .to(b, 30_080)
            .answers(&["a0", "b0"])
            .masqueraded_by("b"),
        row("the node itself")
            .from("a")
            .to(a, 30_080)
            .answers(&["a0", "b0"]),
        row("the node, at the other node")
            .from("a")
            .to(b, 30_080)
            .answers(&["a0", "b0"])
            .masqueraded_by("b"),
        row("the clusterIP beside it")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"])
            .kept(),
    ]);
}

#[test]
fn only_the_primary_address_answers_unless_told_otherwise() {
    let lab = Lab::running(&Cluster::with([web()]));
    lab.check(&[
        row("the bridge's address, from a pod")
            .from("a1")
            .to(pod_net(0, 1), 30_080)
            .refused(),
        row("the bridge's address, from the node")
            .from("a")
            .to(pod_net(0, 1), 30_080)
            .refused(),
        row("loopback").from("a").to(LOOPBACK, 30_080).refused(),
        row("the service port at a node address")
            .from("out")
            .to(ip_of("a"), 80)
            .refused(),
        row("the node port at the clusterIP")
            .from("a1")
            .to(cluster_ip(10), 30_080)
            .refused(),
    ]);
}

#[test]
fn all_addresses_but_loopback_answer_when_all_are_chosen() {
    let mut lab = Lab::start();
    lab.args
        .push("--nodeport-addresses=0.0.0.0/0,::/0".to_owned());
    lab.apply(&Cluster::with([web()]));
    lab.check(&[
        row("the primary address")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a0", "b0"]),
        row("the bridge's address")
            .from("a1")
            .to(pod_net(0, 1), 30_080)
            .answers(&["a0", "b0"]),
        row("the bridge's address, from the node")
            .from("a")
            .to(pod_net(0, 1), 30_080)
            .answers(&["a0", "b0"]),
        row("loopback").from("a").to(LOOPBACK, 30_080).refused(),
    ]);
    // An address that appears later is one of all.
    lab.at("a")
        .ip("addr add 192.168.50.77/24 dev eth0\naddr add fd00:50::77/64 dev eth0 nodad\n");
    let late = Dual {
        v4: Ipv4Addr::new(192, 168, 50, 77),
        v6: "fd00:50::77".parse().expect("an address"),
    };
    lab.check(&[row("a late address")
        .from("out")
        .to(late, 30_080)
        .answers(&["a0", "b0"])]);
}

#[test]
fn chosen_prefixes_answer_and_others_do_not() {
    let mut lab = Lab::start();
    lab.args
        .push("--nodeport-addresses=172.17.0.0/16,fd00:17::/48".to_owned());
    lab.apply(&Cluster::with([web()]));
    lab.check(&[
        row("inside the prefix")
            .from("a1")
            .to(pod_net(0, 1), 30_080)
            .answers(&["a0", "b0"]),
        row("outside of it")
            .from("out")
            .to(ip_of("a"), 30_080)
            .refused(),
    ]);
}
