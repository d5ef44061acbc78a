//! Traffic policies, and endpoints on their way out.

use serde_json::json;

use crate::support::{Cluster, Endpoint, Lab, Service, cluster_ip, ip_of, routed_ip, row};

fn service(endpoints: &[&str]) -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints)
}

fn external_local(service: Service) -> Service {
    let ingress = routed_ip(5).both().map(|addr| json!({"ip": addr}));
    service.set(json!({
        "spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
}

fn internal_local(service: Service) -> Service {
    service.set(json!({"spec": {"internalTrafficPolicy": "Local"}}))
}

#[test]
fn external_local_gives_outsiders_the_nodes_own_endpoints_and_keeps_their_address() {
    let lab = Lab::running(&Cluster::with([external_local(service(&["a0", "b0"]))]));
    let (a, b, vip) = (ip_of("a"), ip_of("b"), routed_ip(5));
    lab.check(&[
        row("node port of a")
            .from("out")
            .to(a, 30_080)
            .answers(&["a0"])
            .kept(),
        row("node port of b")
            .from("out")
            .to(b, 30_080)
            .answers(&["b0"])
            .kept(),
        row("the balancer's address")
            .from("out")
            .to(vip, 80)
            .answers(&["a0"])
            .kept(),
        row("another node is an outsider")
            .from("b")
            .to(a, 30_080)
            .answers(&["a0"])
            .kept(),
        row("the clusterIP is no concern of it")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("the clusterIP from outside")
            .from("out")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
    ]);
}

#[test]
fn external_local_gives_pods_and_the_node_all_endpoints() {
    let lab = Lab::running(&Cluster::with([external_local(service(&["a0", "b0"]))]));
    let (a, vip, all) = (ip_of("a"), routed_ip(5), ["a0", "b0"]);
    lab.check(&[
        row("a pod at the node port")
            .from("a1")
            .to(a, 30_080)
            .answers(&all)
            .kept(),
        row("a pod at the balancer's address")
            .from("a1")
            .to(vip, 80)
            .answers(&all)
            .kept(),
        row("a remote pod there")
            .from("b1")
            .to(vip, 80)
            .answers(&all)
            .kept(),
        row("the node at its node port")
            .from("a")
            .to(a, 30_080)
            .answers(&all),
        row("the node at the balancer's address")
            .from("a")
            .to(vip, 80)
            .answers(&all)
            .masqueraded_by("a"),
        row("an endpoint may get itself")
            .from("a0")
            .to(vip, 80)
            .answers(&all),
    ]);
}

#[test]
fn external_local_without_local_endpoint_drops_outsiders_only() {
    let lab = Lab::running(&Cluster::with([external_local(service(&["b0"]))]));
    let (a, vip) = (ip_of("a"), routed_ip(5));
    lab.check(&[
        row("outsiders at the node port")
            .from("out")
            .to(a, 30_080)
            .silence(),
        row("outsiders at the balancer's address")
            .from("out")
            .to(vip, 80)
            .silence(),
        row("the node with the endpoint")
            .from("out")
            .to(ip_of("b"), 30_080)
            .answers(&["b0"])
            .kept(),
        row("pods at the node port")
            .from("a1")
            .to(a, 30_080)
            .answers(&["b0"])
            .kept(),
        row("pods at the balancer's address")
            .from("a1")
            .to(vip, 80)
            .answers(&["b0"])
            .kept(),
        row("the node at its node port")
            .from("a")
            .to(a, 30_080)
            .answers(&["b0"]),
        row("the node at the balancer's address")
            .from("a")
            .to(vip, 80)
            .answers(&["b0"]),
        row("the clusterIP")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"]),
    ]);
}

#[test]
fn external_local_without_any_endpoint_refuses() {
    let lab = Lab::running(&Cluster::with([external_local(service(&[]))]));
    let rows: Vec<_> = ["out", "a1", "b1", "a"]
        .into_iter()
        .flat_map(|from| {
            [
                row("node port").from(from).to(ip_of("a"), 30_080).refused(),
                row("balancer").from(from).to(routed_ip(5), 80).refused(),
            ]
        })
        .collect();
    lab.check(&rows);
}

#[test]
fn internal_local_keeps_everyone_on_the_node() {
    let lab = Lab::running(&Cluster::with([internal_local(service(&["a0", "b0"]))]));
    let vip = cluster_ip(10);
    lab.check(&[
        row("a pod of a")
            .from("a1")
            .to(vip, 80)
            .answers(&["a0"])
            .kept(),
        row("a pod of b")
            .from("b1")
            .to(vip, 80)
            .answers(&["b0"])
            .kept(),
        row("node a").from("a").to(vip, 80).answers(&["a0"]),
        row("an outsider")
            .from("out")
            .to(vip, 80)
            .answers(&["a0"])
            .masqueraded_by("a"),
        row("itself")
            .from("a0")
            .to(vip, 80)
            .answers(&["a0"])
            .masqueraded_by("a"),
        row("the node port is no concern of it")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a0", "b0"]),
    ]);
}

#[test]
fn internal_local_without_local_endpoint_drops_everyone() {
    let lab = Lab::running(&Cluster::with([internal_local(service(&["b0"]))]));
    let vip = cluster_ip(10);
    lab.check(&[
        row("a pod of a").from("a1").to(vip, 80).silence(),
        row("node a").from("a").to(vip, 80).silence(),
        row("an outsider").from("out").to(vip, 80).silence(),
        row("a pod of b").from("b1").to(vip, 80).answers(&["b0"]),
    ]);
    lab.apply(&Cluster::with([internal_local(service(&[]))]));
    lab.check(&[row("none anywhere").from("a1").to(vip, 80).refused()]);
}

#[test]
fn host_network_endpoints_are_local_to_their_node() {
    let service = Service::new("host", cluster_ip(11))
        .port(80, 7070)
        .endpoints(&["a", "b"]);
    let lab = Lab::running(&Cluster::with([internal_local(service)]));
    lab.check(&[
        row("a pod of a")
            .from("a0")
            .to(cluster_ip(11), 80)
            .answers(&["a"]),
        row("a pod of b")
            .from("b0")
            .to(cluster_ip(11), 80)
            .answers(&["b"]),
    ]);
}

#[test]
fn terminating_endpoints_serve_only_when_no_ready_one_is_left() {
    let some = service(&["b0"]).endpoint(Endpoint::of("a0").terminating());
    let lab = Lab::running(&Cluster::with([some]));
    lab.check(&[row("a ready one is left")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["b0"])]);
    let none = service(&[])
        .endpoint(Endpoint::of("a0").terminating())
        .endpoint(Endpoint::of("b0").terminating())
        .endpoint(Endpoint::of("b1").unready());
    lab.apply(&Cluster::with([none]));
    lab.check(&[row("none is left")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0", "b0"])]);
    let dead = service(&[]).endpoint(Endpoint::of("a0").unready().terminating());
    lab.apply(&Cluster::with([dead]));
    lab.check(&[row("terminating and not serving")
        .from("a1")
        .to(cluster_ip(10), 80)
        .refused()]);
}

#[test]
fn a_local_policy_falls_back_to_its_own_terminating_endpoints_first() {
    let endpoints = service(&["b0"]).endpoint(Endpoint::of("a0").terminating());
    let lab = Lab::running(&Cluster::with([external_local(internal_local(endpoints))]));
    lab.check(&[
        row("external")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a0"])
            .kept(),
        row("internal")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0"])
            .kept(),
        row("external, from a pod: all ready ones")
            .from("a1")
            .to(ip_of("a"), 30_080)
            .answers(&["b0"]),
    ]);
}

#[test]
fn conditions_left_out_mean_ready() {
    let bare = Endpoint::of("a0").set(json!({"conditions": null}));
    let unknown = Endpoint::of("b0")
        .set(json!({"conditions": {"ready": null, "serving": null, "terminating": null}}));
    let lab = Lab::running(&Cluster::with([service(&[])
        .endpoint(bare)
        .endpoint(unknown)]));
    lab.check(&[row("both")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0", "b0"])]);
}
