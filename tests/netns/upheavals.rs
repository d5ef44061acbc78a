//! A running daemon while links, addresses and routes of its node change.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Daemon, Dual, FOLLOWED, Lab, Netns, Outcome, SILENCE, Service, cluster_ip, ip_of,
    node_ip, within,
};

/// How long the daemon may take to put things right. It takes milliseconds; the machine is
/// shared.
const AT_ONCE: Duration = Duration::from_secs(2);

fn web(endpoints: &[&str]) -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints)
}

fn ours(node: &Netns) -> String {
    let list = |family| node.must("ip", &[family, "route", "show", "proto", "178"], "");
    list("-4") + &list("-6")
}

fn answer(lab: &Lab, from: &str, to: SocketAddr) -> Outcome {
    let caller = lab.from(from).unwalked(FOLLOWED).patience(SILENCE);
    caller.ask(Protocol::Tcp, to)
}

/// Packets from a pod reach a pod of the other node by the service's address.
fn packets_flow(lab: &Lab) {
    for family in Family::ALL {
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        within(
            AT_ONCE,
            "an answer",
            || matches!(answer(lab, "a1", to), Outcome::Answer(a) if a.name == "b0"),
        );
    }
}

#[test]
fn routes_are_back_as_soon_as_their_link_is() {
    let lab = Lab::start();
    let cluster = Cluster::with([web(&["b0"])]);
    lab.svcnat("b", &["apply"], &cluster).expect(0);
    let daemon = Daemon::start(&lab, "a", &cluster.json(), &[]);
    let node = lab.at("a");
    packets_flow(&lab);
    let before = ours(node);
    assert_eq!(before.lines().count(), 2, "{before}");
    for _ in 0..3 {
        node.ip("link set eth0 down\n");
        assert_eq!(ours(node), "", "the kernel takes them away");
        // What a network manager does: IPv6 addresses go with the link.
        node.ip("link set eth0 up\naddr add fd00:50::1/64 dev eth0 nodad\n\
             route add default via 192.168.50.254\nroute add default via fd00:50::fe\n");
        let took = within(AT_ONCE, "the routes", || ours(node) == before);
        println!("routes back after {took:?}");
        packets_flow(&lab);
    }
    assert!(daemon.log().contains("cause=routes"), "{}", daemon.log());
}

#[test]
fn a_deleted_route_is_put_back_and_those_of_others_are_let_be() {
    let lab = Lab::start();
    let cluster = Cluster::with([web(&["b0"])]);
    lab.svcnat("b", &["apply"], &cluster).expect(0);
    let node = lab.at("a");
    node.ip("route add 10.99.0.0/24 via 192.168.50.2\n\
             route add 172.17.9.0/24 via 192.168.50.2 proto static\n");
    let daemon = Daemon::start(&lab, "a", &cluster.json(), &[]);
    let before = ours(node);
    node.ip("route del 172.17.1.0/24\n");
    let took = within(AT_ONCE, "the IPv4 route", || ours(node) == before);
    println!("a deleted route back after {took:?}");
    node.ip("route del fd00:17:0:1::/64\n");
    within(AT_ONCE, "the IPv6 route", || ours(node) == before);
    packets_flow(&lab);

    // Somebody else routes the same prefix: that is said, once, and theirs stays.
    node.ip("route replace 172.17.1.0/24 via 192.168.50.2 proto static\n");
    within(AT_ONCE, "the complaint", || {
        daemon.log().contains("which is left alone")
    });
    // Longer than it takes to try again.
    std::thread::sleep(Duration::from_millis(5_500));
    let all = node.must("ip", &["route"], "");
    assert!(
        all.contains("172.17.1.0/24 via 192.168.50.2 dev eth0 proto static"),
        "{all}"
    );
    assert_eq!(daemon.log().matches("which is left alone").count(), 1);
    packets_flow(&lab);
    // Theirs goes, ours comes.
    node.ip("route del 172.17.1.0/24 proto static\n");
    within(AT_ONCE, "our route", || ours(node) == before);
    packets_flow(&lab);
    let all = node.must("ip", &["route"], "");
    for theirs in [
        "10.99.0.0/24 via 192.168.50.2",
        "172.17.9.0/24 via 192.168.50.2",
    ] {
        assert!(all.contains(theirs), "{all}");
    }
}

/// The cluster without what Node `a` says of its own addresses.
fn addressless(cluster: &Cluster) -> String {
    let mut list: Value = serde_json::from_str(&cluster.json()).expect("it is JSON");
    for item in list["items"].as_array_mut().expect("a List") {
        if item["kind"] == "Node" && item["metadata"]["name"] == "a" {
            item["status"]["addresses"] = json!([]);
        }
    }
    list.to_string()
}

fn moves_with_the_address(args: &[&str]) {
    let lab = Lab::start();
    let cluster = Cluster::with([web(&["a0", "b0"])]);
    lab.svcnat("b", &["apply"], &cluster).expect(0);
    let _daemon = Daemon::start(&lab, "a", &addressless(&cluster), args);
    let (old, new): (Dual, Dual) = (ip_of("a"), node_ip(76));
    let node = lab.at("a");
    let port = |dual: Dual, family| SocketAddr::new(dual.of(family), 30_080);
    let masqueraded_by = |to: SocketAddr, expected: Dual| {
        // Until an endpoint on the other node was the one that answered.
        within(AT_ONCE, "an answer of b0", || {
            match answer(&lab, "out", to) {
                Outcome::Answer(answer) if answer.name == "b0" => {
                    let seen = answer.client.ip();
                    assert!(expected.has(seen), "{to} was masqueraded as {seen}");
                    true
                }
                _ => false,
            }
        });
    };
    for family in Family::ALL {
        masqueraded_by(port(old, family), old);
    }
    node.ip(&format!(
        "addr del {}/24 dev eth0\naddr del {}/64 dev eth0\n\
         addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n\
         route replace default via 192.168.50.254\nroute replace default via fd00:50::fe\n",
        old.v4, old.v6, new.v4, new.v6
    ));
    for family in Family::ALL {
        masqueraded_by(port(new, family), new);
        let outcome = answer(&lab, "out", port(old, family));
        assert!(!matches!(outcome, Outcome::Answer(_)), "{outcome:?}");
    }
}

#[test]
fn node_ports_and_masquerade_follow_the_primary_address() {
    moves_with_the_address(&[]);
}

#[test]
fn node_ports_and_masquerade_follow_addresses_within_given_prefixes() {
    moves_with_the_address(&["--nodeport-addresses=192.168.50.0/24,fd00:50::/64"]);
}
