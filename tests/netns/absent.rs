//! What is not there: services without endpoints, ports nobody defined, addresses nobody
//! has.

use crate::support::{Cluster, Endpoint, Lab, Service, cluster_ip, ip_of, row};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .endpoints(&["a0", "b0"])
}

fn nobody() -> Service {
    Service::new("nobody", cluster_ip(11))
        .port(80, 8080)
        .node_port(30_081)
}

#[test]
fn a_service_without_endpoints_refuses_everyone() {
    let lab = Lab::running(&Cluster::with([nobody()]));
    let from_all = ["a0", "b0", "a", "b", "out"];
    let rows: Vec<_> = from_all
        .iter()
        .flat_map(|from| {
            [
                row("its clusterIP")
                    .from(from)
                    .to(cluster_ip(11), 80)
                    .refused(),
                row("its node port")
                    .from(from)
                    .to(ip_of("a"), 30_081)
                    .refused(),
            ]
        })
        .collect();
    lab.check(&rows);
}

#[test]
fn unready_endpoints_are_no_endpoints() {
    let service = Service::new("unready", cluster_ip(12))
        .port(80, 8080)
        .endpoint(Endpoint::of("a0").unready());
    let lab = Lab::running(&Cluster::with([service]));
    lab.check(&[row("refused").from("a1").to(cluster_ip(12), 80).refused()]);
}

#[test]
fn undefined_ports_of_a_cluster_ip_are_refused() {
    let lab = Lab::running(&Cluster::with([web(), nobody()]));
    let refused = |from| {
        row("an undefined port")
            .from(from)
            .to(cluster_ip(10), 81)
            .refused()
    };
    lab.check(&[
        refused("a0"),
        refused("b0"),
        refused("a"),
        refused("out"),
        row("of a service without endpoints")
            .from("a0")
            .to(cluster_ip(11), 81)
            .refused(),
        row("the defined one")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"]),
    ]);
}

#[test]
fn unallocated_addresses_of_the_range_are_silent() {
    let lab = Lab::running(&Cluster::with([web()]));
    lab.check(&[
        row("from a pod")
            .from("a0")
            .to(cluster_ip(99), 80)
            .silence(),
        row("from the node")
            .from("a")
            .to(cluster_ip(99), 80)
            .silence(),
        row("from outside")
            .from("out")
            .to(cluster_ip(99), 80)
            .silence(),
    ]);
}

#[test]
fn refusals_hold_where_nothing_is_translated() {
    let mut lab = Lab::start();
    lab.args.push("--egress-masquerade=false".to_owned());
    lab.apply(&Cluster::with([nobody()]));
    lab.check(&[
        row("from a pod")
            .from("a0")
            .to(cluster_ip(11), 80)
            .refused(),
        row("from outside")
            .from("out")
            .to(cluster_ip(11), 80)
            .refused(),
    ]);
}

#[test]
fn unallocated_addresses_are_refused_if_the_user_likes_it_better() {
    let mut lab = Lab::start();
    lab.args.push("--unallocated=reject".to_owned());
    lab.apply(&Cluster::with([web()]));
    lab.check(&[
        row("from a pod")
            .from("a0")
            .to(cluster_ip(99), 80)
            .refused(),
        row("from the node")
            .from("a")
            .to(cluster_ip(99), 80)
            .refused(),
        row("from outside")
            .from("out")
            .to(cluster_ip(99), 80)
            .refused(),
    ]);
}

#[test]
fn endpoints_that_come_and_go_open_and_close_the_service_at_once() {
    let lab = Lab::running(&Cluster::with([nobody()]));
    let refused = row("before").from("a1").to(cluster_ip(11), 80).refused();
    lab.check(std::slice::from_ref(&refused));
    lab.apply(&Cluster::with([nobody().endpoints(&["b0"])]));
    lab.check(&[row("with an endpoint")
        .from("a1")
        .to(cluster_ip(11), 80)
        .answers(&["b0"])]);
    lab.apply(&Cluster::with([nobody()]));
    lab.check(&[refused]);
    lab.apply(&Cluster::with([]));
    lab.check(&[row("without the service")
        .from("a1")
        .to(cluster_ip(11), 80)
        .silence()]);
}
