//! Addresses and ports that several Services claim, and addresses that none can have.

use serde_json::json;

use crate::support::{Cluster, Lab, Service, cluster_ip, ip_of, routed_ip, row};

fn served(name: &str, n: u16, place: &str) -> Service {
    Service::new(name, cluster_ip(n))
        .port(80, 8080)
        .endpoints(&[place])
}

#[test]
fn a_cluster_ip_stays_with_its_service_whoever_lists_it_as_external() {
    let stolen = cluster_ip(10).both();
    let by_external_ip = served("a-thief", 11, "a1")
        .port(81, 8080)
        .set(json!({"spec": {"externalIPs": stolen}}));
    let by_balancer = served("b-thief", 12, "a1").set(json!({
        "metadata": {"creationTimestamp": "2020-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": stolen.map(|ip| json!({"ip": ip}))}},
    }));
    let lab = Lab::running(&Cluster::with([
        by_external_ip,
        by_balancer,
        served("web", 10, "b0"),
    ]));
    for from in ["a1", "a", "out"] {
        lab.check(&[
            row("the Service itself")
                .from(from)
                .to(cluster_ip(10), 80)
                .answers(&["b0"]),
            row("a port that only the thief has")
                .from(from)
                .to(cluster_ip(10), 81)
                .refused(),
            row("the thief's own clusterIP")
                .from(from)
                .to(cluster_ip(11), 81)
                .answers(&["a1"]),
        ]);
    }
}

#[test]
fn the_cluster_ip_of_another_proxys_service_is_nobodys_external_address() {
    let other = served("web", 10, "b0").set(json!({
        "metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "another"}},
    }));
    let thief =
        served("a-thief", 11, "a1").set(json!({"spec": {"externalIPs": cluster_ip(10).both()}}));
    let lab = Lab::running(&Cluster::with([other, thief]));
    lab.check(&[row("nobody here serves it")
        .from("a1")
        .to(cluster_ip(10), 80)
        .silence()]);
}

#[test]
fn of_two_services_with_one_external_address_and_port_the_older_has_it() {
    let made = |name: &str, n, place, year: u16| {
        served(name, n, place).set(json!({
            "metadata": {"creationTimestamp": format!("{year}-01-01T00:00:00Z")},
            "spec": {"externalIPs": routed_ip(5).both()},
        }))
    };
    let young = || made("a-young", 11, "a1", 2026).port(81, 8080);
    let lab = Lab::running(&Cluster::with([young(), made("z-old", 12, "b0", 2020)]));
    let at = |why, port| row(why).from("out").to(routed_ip(5), port);
    lab.check(&[
        at("the contested port", 80).answers(&["b0"]),
        at("the port that only the younger one has", 81).answers(&["a1"]),
    ]);
    lab.apply(&Cluster::with([young()]));
    lab.check(&[at("the older one is gone", 80).answers(&["a1"])]);
}

#[test]
fn who_loses_a_node_port_keeps_everything_else() {
    let lab = Lab::running(&Cluster::with([
        served("first", 11, "a1").node_port(30_080),
        served("second", 12, "b0").node_port(30_080),
    ]));
    lab.check(&[
        row("the node port")
            .from("out")
            .to(ip_of("a"), 30_080)
            .answers(&["a1"]),
        row("the loser's clusterIP")
            .from("a1")
            .to(cluster_ip(12), 80)
            .answers(&["b0"]),
    ]);
}

#[test]
fn loopback_addresses_as_external_ips_take_nothing_from_the_node() {
    let mut lab = Lab::start();
    lab.args.push("--skip-invalid".to_owned());
    lab.apply(&Cluster::with([Service::new("thief", cluster_ip(11))
        .port(7070, 8080)
        .endpoints(&["a1"])
        .set(
            json!({"spec": {"externalIPs": ["127.0.0.1", "::1", "0.0.0.0", "::"]}}),
        )]));
    let here = crate::support::Dual {
        v4: std::net::Ipv4Addr::LOCALHOST,
        v6: std::net::Ipv6Addr::LOCALHOST,
    };
    lab.check(&[
        row("nobody listens there")
            .from("a")
            .to(here, 7070)
            .refused(),
        row("the Service")
            .from("a1")
            .to(cluster_ip(11), 7070)
            .answers(&["a1"]),
    ]);
}

#[test]
fn a_ready_entry_of_an_address_serves_beside_an_unready_one() {
    let entry = |name: &str, family: &str, addr: std::net::IpAddr, ready: bool| {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": family,
            "ports": [
                {"name": "p80-tcp", "protocol": "TCP", "port": 8080},
                {"name": "p80-udp", "protocol": "UDP", "port": 8080},
            ],
            "endpoints": [{"addresses": [addr], "conditions": {"ready": ready, "serving": ready}}],
        })
    };
    let mut cluster = Cluster::with([Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .without_slices()]);
    let [v4, v6] = ip_of("a0").both();
    for (name, ready) in [("web-a", true), ("web-b", false)] {
        cluster = cluster
            .object(entry(&format!("{name}4"), "IPv4", v4, ready))
            .object(entry(&format!("{name}6"), "IPv6", v6, ready));
    }
    let lab = Lab::running(&cluster);
    lab.check(&[row("the address")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0"])]);
}
