//! Topology hints: endpoints meant for a zone or a node.

use serde_json::json;

use crate::support::{Cluster, Endpoint, Lab, Service, cluster_ip, ip_of, row};

fn service(endpoints: impl IntoIterator<Item = Endpoint>) -> Service {
    let bare = Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080);
    endpoints.into_iter().fold(bare, Service::endpoint)
}

fn zone(place: &str, zone: &str) -> Endpoint {
    Endpoint::of(place).for_zones(&[zone])
}

#[test]
fn zone_hints_keep_clients_in_their_zone() {
    let endpoints = [
        zone("a0", "zone-a"),
        zone("b0", "zone-b"),
        zone("b1", "zone-b"),
    ];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    let vip = cluster_ip(10);
    lab.check(&[
        row("zone a").from("a1").to(vip, 80).answers(&["a0"]).kept(),
        row("zone b").from("b0").to(vip, 80).answers(&["b0", "b1"]),
        row("the node").from("a").to(vip, 80).answers(&["a0"]),
        row("external doors as well")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a0"]),
    ]);
}

#[test]
fn hints_say_who_serves_whom_wherever_the_endpoint_is() {
    let endpoints = [zone("a0", "zone-b"), zone("b0", "zone-a")];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    lab.check(&[
        row("zone a")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"]),
        row("zone b")
            .from("b1")
            .to(cluster_ip(10), 80)
            .answers(&["a0"]),
    ]);
}

#[test]
fn one_endpoint_without_a_hint_puts_all_hints_aside() {
    let endpoints = [
        zone("a0", "zone-a"),
        zone("b0", "zone-b"),
        Endpoint::of("b1"),
    ];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    lab.check(&[row("all")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0", "b0", "b1"])]);
}

#[test]
fn hints_for_other_zones_only_are_put_aside() {
    let endpoints = [zone("a0", "zone-c"), zone("b0", "zone-b")];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    lab.check(&[
        row("none for this zone")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"]),
        row("one for that zone")
            .from("b1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"]),
    ]);
}

#[test]
fn unready_endpoints_neither_complete_nor_spoil_the_hints() {
    let endpoints = [
        zone("a0", "zone-a"),
        zone("b0", "zone-b"),
        Endpoint::of("b1").unready(),
    ];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    lab.check(&[row("zone a")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0"])]);
}

#[test]
fn node_hints_come_before_zone_hints() {
    let both = |place, node| zone(place, "zone-a").for_nodes(&[node]);
    let endpoints = [both("a0", "b"), both("b0", "a")];
    let lab = Lab::running(&Cluster::with([service(endpoints)]));
    lab.check(&[
        row("node a")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"]),
        row("node b")
            .from("b1")
            .to(cluster_ip(10), 80)
            .answers(&["a0"]),
    ]);
}

#[test]
fn hints_never_apply_to_local_policies() {
    let endpoints = [zone("a0", "zone-b"), zone("b0", "zone-a")];
    let local =
        json!({"spec": {"internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"}});
    let lab = Lab::running(&Cluster::with([service(endpoints).set(local)]));
    lab.check(&[
        row("internal")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0"]),
        row("external")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a0"])
            .kept(),
    ]);
}
