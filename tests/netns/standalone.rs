//! Without a control plane: endpoints from Pods by selector, clusterIPs from the range.

use serde_json::{Value, json};
use svcnat::cluster::Protocol;

use crate::support::{Cluster, Lab, Service, cluster_ip, pod, row};

fn named(service: &str, target: Value) -> Service {
    let ports = json!([
        {"name": "tcp", "port": 80, "targetPort": target},
        {"name": "udp", "port": 80, "targetPort": target, "protocol": "UDP"},
    ]);
    Service::new(service, cluster_ip(30))
        .without_slices()
        .set(json!({"spec": {"selector": {"app": "web"}, "ports": ports}}))
}

fn web_pod(place: &str) -> Value {
    pod(place, json!({"app": "web"}), json!({}))
}

#[test]
fn ready_pods_that_the_selector_matches_are_endpoints() {
    let mut unready = web_pod("a1");
    unready["status"]["conditions"][0]["status"] = "False".into();
    let other = pod("b1", json!({"app": "other"}), json!({}));
    let cluster = Cluster::with([named("web", json!(8080))])
        .object(web_pod("a0"))
        .object(web_pod("b0"))
        .object(unready)
        .object(other);
    let lab = Lab::running(&cluster);
    lab.check(&[
        row("a pod")
            .from("a1")
            .to(cluster_ip(30), 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("the node")
            .from("a")
            .to(cluster_ip(30), 80)
            .answers(&["a0", "b0"]),
    ]);
}

#[test]
fn named_target_ports_are_looked_up_in_each_pod() {
    let with_port = |place, number: u16| {
        let ports = json!([
            {"name": "web", "containerPort": number},
            {"name": "web", "containerPort": number, "protocol": "UDP"},
        ]);
        let spec = json!({"containers": [{"name": "main", "ports": ports}]});
        pod(place, json!({"app": "web"}), spec)
    };
    let cluster = Cluster::with([named("web", json!("web"))])
        .object(with_port("a0", 8080))
        .object(with_port("b0", 9090));
    let lab = Lab::running(&cluster);
    lab.check(&[row("both")
        .from("a1")
        .to(cluster_ip(30), 80)
        .answers(&["a0", "b0"])]);
    let to = (cluster_ip(30).v4, 80).into();
    for outcome in lab.from("a1").ask_many(Protocol::Tcp, to, 30) {
        let answer = outcome.answer();
        let port = if answer.name == "a0" { 8080 } else { 9090 };
        assert_eq!(answer.port, port, "{}", answer.name);
    }
}

#[test]
fn legacy_endpoints_objects_are_understood() {
    let service = named("web", json!(8080)).set(json!({"spec": {"selector": null}}));
    let subsets = json!([{
        "addresses": [{"ip": "172.17.1.2", "nodeName": "b"}],
        "notReadyAddresses": [{"ip": "172.17.0.2", "nodeName": "a"}],
        "ports": [{"name": "tcp", "port": 8080}, {"name": "udp", "port": 8080, "protocol": "UDP"}],
    }]);
    let endpoints = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "default"},
        "subsets": subsets,
    });
    let lab = Lab::running(&Cluster::with([service]).object(endpoints));
    let rows = row("the ready address")
        .from("a1")
        .to(cluster_ip(30), 80)
        .only(svcnat::cluster::Family::Ip)
        .answers(&["b0"]);
    lab.check(&[rows]);
}
