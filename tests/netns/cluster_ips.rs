//! ClusterIPs: who is led where, and whose address the pod sees.

use serde_json::json;
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Endpoint, Lab, Plan, PodLink, Service, cluster_ip, row};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .endpoints(&["a0", "b0"])
}

#[test]
fn every_client_reaches_every_endpoint_and_pods_keep_their_address() {
    let lab = Lab::running(&Cluster::with([web()]));
    let vip = cluster_ip(10);
    lab.check(&[
        row("a pod beside an endpoint")
            .from("a1")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("a pod of the other node")
            .from("b1")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("a pod that is an endpoint itself")
            .from("a0")
            .to(vip, 80)
            .answers(&["a0", "b0"]),
        row("the node")
            .from("a")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("the other node")
            .from("b")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("b"),
        row("an outsider")
            .from("out")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
    ]);
}

#[test]
fn pods_on_links_of_their_own_are_served_like_pods_on_a_bridge() {
    let lab = Lab::from_plan(Plan {
        link: PodLink::Routed,
        ..Plan::default()
    });
    lab.apply(&Cluster::with([web(), lonely()]));
    let vip = cluster_ip(10);
    lab.check(&[
        row("a pod beside an endpoint")
            .from("a1")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("a pod of the other node")
            .from("b1")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .kept(),
        row("the node")
            .from("a")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("an outsider")
            .from("out")
            .to(vip, 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("a pod to itself")
            .from("a0")
            .to(cluster_ip(11), 80)
            .answers(&["a0"])
            .masqueraded_by("a"),
    ]);
}

fn lonely() -> Service {
    Service::new("lonely", cluster_ip(11))
        .port(80, 8080)
        .endpoints(&["a0"])
}

#[test]
fn a_pod_reaches_itself_masqueraded() {
    let lab = Lab::running(&Cluster::with([lonely()]));
    lab.check(&[
        row("hairpin")
            .from("a0")
            .to(cluster_ip(11), 80)
            .answers(&["a0"])
            .masqueraded_by("a"),
        row("its neighbour is no hairpin")
            .from("a1")
            .to(cluster_ip(11), 80)
            .answers(&["a0"])
            .kept(),
    ]);
}

#[test]
fn ports_of_a_service_lead_to_ports_of_their_own() {
    let service = Service::new("two", cluster_ip(12))
        .port(80, 8080)
        .port(443, 9090)
        .endpoints(&["a0", "b1"]);
    let lab = Lab::running(&Cluster::with([service]));
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (port, target) in [(80, 8080), (443, 9090)] {
                let to = (cluster_ip(12).of(family), port).into();
                for outcome in lab.from("a1").ask_many(protocol, to, 8) {
                    assert_eq!(outcome.answer().port, target, "{to} over {protocol:?}");
                }
            }
        }
    }
}

#[test]
fn protocols_of_one_port_number_are_different_services() {
    let port = |protocol| move |service: Service| service.port(53, 8080).protocols(&[protocol]);
    let tcp = port(Protocol::Tcp)(Service::new("tcp", cluster_ip(13))).endpoints(&["a0"]);
    let udp = port(Protocol::Udp)(Service::new("udp", cluster_ip(14))).endpoints(&["b0"]);
    let lab = Lab::running(&Cluster::with([tcp, udp]));
    lab.check(&[
        row("TCP")
            .from("a1")
            .to(cluster_ip(13), 53)
            .over(&[Protocol::Tcp])
            .answers(&["a0"]),
        row("TCP only")
            .from("a1")
            .to(cluster_ip(13), 53)
            .over(&[Protocol::Udp])
            .refused(),
        row("UDP")
            .from("a1")
            .to(cluster_ip(14), 53)
            .over(&[Protocol::Udp])
            .answers(&["b0"]),
        row("UDP only")
            .from("a1")
            .to(cluster_ip(14), 53)
            .over(&[Protocol::Tcp])
            .refused(),
    ]);
}

#[test]
fn sctp_is_served_like_tcp_and_udp() {
    let service = web().protocols(&[Protocol::Sctp]);
    let lab = Lab::running(&Cluster::with([service.node_port(30_080)]));
    let vip = cluster_ip(10);
    let sctp = &[Protocol::Sctp];
    lab.check(&[
        row("a pod")
            .from("a1")
            .to(vip, 80)
            .over(sctp)
            .answers(&["a0", "b0"])
            .kept(),
        row("the node")
            .from("a")
            .to(vip, 80)
            .over(sctp)
            .answers(&["a0", "b0"]),
        row("an outsider")
            .from("out")
            .to(vip, 80)
            .over(sctp)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("the node port")
            .from("out")
            .to(crate::support::ip_of("a"), 30_080)
            .over(sctp)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("an undefined port")
            .from("a1")
            .to(vip, 81)
            .over(sctp)
            .refused(),
        row("TCP at the SCTP port").from("a1").to(vip, 80).refused(),
    ]);
}

#[test]
fn masquerade_all_hides_pods_too() {
    let mut lab = Lab::start();
    lab.args.push("--masquerade-all".to_owned());
    lab.apply(&Cluster::with([web()]));
    lab.check(&[
        row("a pod")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("a"),
        row("a remote pod")
            .from("b1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"])
            .masqueraded_by("b"),
    ]);
}

#[test]
fn one_family_may_be_missing() {
    let v4 = Service::new("four", cluster_ip(15))
        .only(Family::Ip)
        .port(80, 8080)
        .endpoints(&["b0"]);
    let v6 = Service::new("six", cluster_ip(16))
        .only(Family::Ip6)
        .port(80, 8080)
        .endpoints(&["b0"]);
    let lab = Lab::running(&Cluster::with([v4, v6]));
    lab.check(&[
        row("IPv4 alone")
            .from("a0")
            .to(cluster_ip(15), 80)
            .only(Family::Ip)
            .answers(&["b0"])
            .kept(),
        row("IPv6 alone")
            .from("a0")
            .to(cluster_ip(16), 80)
            .only(Family::Ip6)
            .answers(&["b0"])
            .kept(),
        row("the other address is unallocated")
            .from("a0")
            .to(cluster_ip(15), 80)
            .only(Family::Ip6)
            .silence(),
    ]);
}

#[test]
fn headless_external_name_and_foreign_services_are_left_alone() {
    let other = Service::new("other", cluster_ip(17))
        .port(80, 8080)
        .endpoints(&["b0"])
        .set(json!({"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": ""}}}));
    let alias = Service::new("alias", cluster_ip(18))
        .port(80, 8080)
        .endpoints(&["b0"])
        .set(json!({"spec": {"type": "ExternalName", "externalName": "example.org"}}));
    let headless = Service::new("headless", cluster_ip(19))
        .port(80, 8080)
        .endpoints(&["b0"])
        .set(json!({"spec": {"clusterIP": "None", "clusterIPs": ["None"]}}));
    let lab = Lab::running(&Cluster::with([other, alias, headless, web()]));
    let silent = |why, n| row(why).from("a0").to(cluster_ip(n), 80).silence();
    lab.check(&[
        silent("another proxy's service", 17),
        silent("an alias", 18),
        silent("a headless service", 19),
        row("the one that is ours")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"]),
    ]);
}

#[test]
fn endpoints_may_be_nodes_themselves() {
    let service = Service::new("host", cluster_ip(20))
        .port(80, 7070)
        .endpoint(Endpoint::of("a"))
        .endpoint(Endpoint::of("b"));
    let lab = Lab::running(&Cluster::with([service]));
    lab.check(&[
        row("a pod")
            .from("a0")
            .to(cluster_ip(20), 80)
            .answers(&["a", "b"]),
        row("the node")
            .from("a")
            .to(cluster_ip(20), 80)
            .answers(&["a", "b"]),
        row("an outsider")
            .from("out")
            .to(cluster_ip(20), 80)
            .answers(&["a", "b"]),
    ]);
}
