//! Connections across changes: established ones, UDP flows whose endpoint is gone, and new
//! ones while rules are being replaced.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Endpoint, Lab, Outcome, SILENCE, Service, cluster_ip, ip_of, pod};

fn web(endpoints: &[&str]) -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints)
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(cluster_ip(10).of(family), 80)
}

#[test]
fn established_tcp_connections_outlive_changes_of_their_service() {
    let lab = Lab::running(&Cluster::with([web(&["b0"])]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([web(&["b0"])]));
        let caller = lab.from("a1");
        let mut session = caller
            .open(Protocol::Tcp, vip(family))
            .expect("a connection");
        for endpoints in [&["a0"][..], &["a0", "b1"], &[]] {
            lab.apply(&Cluster::with([web(endpoints)]));
            assert_eq!(
                session.ask().answer().name,
                "b0",
                "{family} with {endpoints:?}"
            );
        }
    }
}

#[test]
fn a_udp_flow_moves_when_its_endpoint_is_gone_and_only_then() {
    let lab = Lab::running(&Cluster::with([web(&["b0"])]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([web(&["b0"])]));
        let doors = [vip(family), SocketAddr::new(ip_of("a").of(family), 30_080)];
        let mut sessions =
            doors.map(|door| lab.from("a1").open(Protocol::Udp, door).expect("a flow"));
        lab.apply(&Cluster::with([web(&["b0", "a0"])]));
        for session in &mut sessions {
            assert_eq!(
                session.ask().answer().name,
                "b0",
                "{family}: its endpoint is still there"
            );
        }
        lab.apply(&Cluster::with([web(&["a0"])]));
        for session in &mut sessions {
            assert_eq!(
                session.ask().answer().name,
                "a0",
                "{family}: its endpoint is gone"
            );
        }
    }
}

#[test]
fn a_udp_flow_stays_with_a_terminating_endpoint() {
    let lab = Lab::running(&Cluster::with([web(&["b0"])]));
    let mut session = lab
        .from("a1")
        .open(Protocol::Udp, vip(Family::Ip))
        .expect("a flow");
    let leaving = web(&["a0"]).endpoint(Endpoint::of("b0").terminating());
    lab.apply(&Cluster::with([leaving]));
    assert_eq!(session.ask().answer().name, "b0");
}

#[test]
fn a_udp_flow_that_was_refused_works_once_there_is_an_endpoint() {
    let lab = Lab::running(&Cluster::with([web(&[])]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([web(&[])]));
        let port = 41_000;
        let caller = lab.from("a1").source_port(port);
        assert_eq!(caller.ask(Protocol::Udp, vip(family)), Outcome::Refused);
        lab.apply(&Cluster::with([web(&["b0"])]));
        assert_eq!(caller.ask(Protocol::Udp, vip(family)).answer().name, "b0");
    }
}

#[test]
fn a_udp_flow_that_began_before_its_service_finds_it() {
    let lab = Lab::running(&Cluster::with([]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([]));
        let to = SocketAddr::new(crate::support::routed_ip(8).of(family), 80);
        let caller = lab.from("a1").source_port(41_001).patience(SILENCE);
        // Nobody has the address: whatever comes back is no answer.
        assert!(!matches!(caller.ask(Protocol::Udp, to), Outcome::Answer(_)));
        let external = json!({"spec": {"externalIPs": crate::support::routed_ip(8).both()}});
        lab.apply(&Cluster::with([web(&["b0"]).set(external)]));
        assert_eq!(caller.ask(Protocol::Udp, to).answer().name, "b0");
    }
}

#[test]
fn a_udp_flow_that_began_before_a_service_without_endpoints_is_refused() {
    let lab = Lab::running(&Cluster::with([]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([]));
        let to = SocketAddr::new(crate::support::routed_ip(8).of(family), 80);
        let caller = lab.from("a1").source_port(41_002).patience(SILENCE);
        assert_ne!(caller.ask(Protocol::Udp, to), Outcome::Refused, "{family}");
        let external = json!({"spec": {"externalIPs": crate::support::routed_ip(8).both()}});
        lab.apply(&Cluster::with([web(&[]).set(external)]));
        assert_eq!(caller.ask(Protocol::Udp, to), Outcome::Refused, "{family}");
    }
}

#[test]
fn udp_flows_of_a_deleted_service_end() {
    let lab = Lab::running(&Cluster::with([web(&["b0"])]));
    for family in Family::ALL {
        lab.apply(&Cluster::with([web(&["b0"])]));
        let mut session = lab
            .from("a1")
            .open(Protocol::Udp, vip(family))
            .expect("a flow");
        lab.apply(&Cluster::with([]));
        session.set_patience(SILENCE).unwrap();
        assert_eq!(session.ask(), Outcome::Silence, "{family}");
    }
}

#[test]
fn udp_flows_of_a_host_port_follow_it_to_another_pod() {
    let ports = json!([{"containerPort": 8080, "hostPort": 81, "protocol": "UDP"}]);
    let spec = json!({"containers": [{"name": "main", "ports": ports}]});
    let with = |place| Cluster::with([]).object(pod(place, Value::Null, spec.clone()));
    let lab = Lab::running(&with("a0"));
    for family in Family::ALL {
        lab.apply(&with("a0"));
        let to = SocketAddr::new(ip_of("a").of(family), 81);
        let mut session = lab.from("out").open(Protocol::Udp, to).expect("a flow");
        assert_eq!(session.opened.name, "a0");
        lab.apply(&with("a1"));
        assert_eq!(session.ask().answer().name, "a1", "{family}");
    }
}

#[test]
fn other_udp_flows_are_left_alone() {
    let other = Service::new("other", cluster_ip(11))
        .port(80, 8080)
        .endpoints(&["b0", "b1"]);
    let lab = Lab::running(&Cluster::with([web(&["b0"]), other.clone()]));
    let to = SocketAddr::new(cluster_ip(11).of(Family::Ip), 80);
    let mut sessions: Vec<_> = (0..8)
        .map(|_| lab.from("a1").open(Protocol::Udp, to).expect("a flow"))
        .collect();
    let mut direct = lab
        .from("a1")
        .open(
            Protocol::Udp,
            SocketAddr::new(ip_of("b0").of(Family::Ip), 8080),
        )
        .expect("a flow");
    lab.apply(&Cluster::with([web(&["a0"]), other]));
    for session in &mut sessions {
        let pod = session.opened.name.clone();
        assert_eq!(session.ask().answer().name, pod);
    }
    assert_eq!(direct.ask().answer().name, "b0");
}

#[test]
fn no_new_connection_is_lost_while_endpoints_change() {
    const CHANGES: usize = 40;
    let lab = Lab::running(&Cluster::with([web(&["a0", "b0"])]));
    let over = AtomicBool::new(false);
    let ask = |family, protocol| {
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) {
            let caller = lab.from("a1").unwalked("the rules change meanwhile");
            for outcome in caller.ask_many(protocol, vip(family), 20) {
                // A datagram on its way when its endpoint is removed loses the conntrack
                // entry that would bring the answer back: that one flow may be silent.
                if protocol == Protocol::Udp && matches!(outcome, Outcome::Silence) {
                    continue;
                }
                assert!(
                    matches!(outcome, Outcome::Answer(_)),
                    "{family} {protocol:?}: {outcome:?} after {asked}"
                );
                asked += 1;
            }
        }
        asked
    };
    thread::scope(|scope| {
        let clients: Vec<_> = Family::ALL
            .into_iter()
            .flat_map(|family| [(family, Protocol::Tcp), (family, Protocol::Udp)])
            .map(|(family, protocol)| scope.spawn(move || ask(family, protocol)))
            .collect();
        for n in 0..CHANGES {
            let endpoints: &[&str] = match n % 4 {
                0 => &["b0"],
                1 => &["b0", "b1", "a0"],
                2 => &["a0"],
                _ => &["a0", "b0"],
            };
            lab.svcnat("a", &["apply"], &Cluster::with([web(endpoints)]))
                .expect(0);
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("every connection answered") > CHANGES);
        }
    });
}
