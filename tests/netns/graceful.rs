//! UDP flows to endpoints that go gracefully, as a running daemon sees it: ready, then
//! terminating while another is ready, then gone.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Daemon, Endpoint, FOLLOWED, Lab, Service, cluster_ip, ip_of, routed_ip, within,
};

/// It takes milliseconds; the machine is shared.
const SOON: Duration = Duration::from_secs(20);

/// Reachable by every kind of frontend that an endpoint list is behind.
fn web(policy: &str) -> Service {
    let ingress: Vec<_> = routed_ip(6).both().map(|ip| json!({"ip": ip})).into();
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .set(json!({
            "spec": {
                "type": "LoadBalancer",
                "externalIPs": routed_ip(5).both(),
                "externalTrafficPolicy": policy,
            },
            "status": {"loadBalancer": {"ingress": ingress}},
        }))
}

fn doors(family: Family) -> [SocketAddr; 4] {
    [
        (cluster_ip(10), 80),
        (routed_ip(5), 80),
        (routed_ip(6), 80),
        (ip_of("a"), 30_080),
    ]
    .map(|(addr, port)| SocketAddr::new(addr.of(family), port))
}

fn commits(daemon: &Daemon) -> usize {
    daemon.log().matches("cause=change").count()
}

/// The endpoint `old` goes gracefully while `new` takes over.
fn flows_stay_while_it_serves_and_move_when_it_is_gone(policy: &str, old: &str, new: &str) {
    let lab = Lab::start();
    let before = Cluster::with([web(policy).endpoints(&[old])]);
    lab.svcnat("b", &["apply"], &before).expect(0);
    let daemon = Daemon::start(&lab, "a", &before.json(), &[]);
    let mut sessions = Vec::new();
    for family in Family::ALL {
        for door in doors(family) {
            let caller = lab.from("out").unwalked(FOLLOWED);
            let session = caller.open(Protocol::Udp, door).expect("a flow");
            assert_eq!(session.opened.name, old, "{door}");
            session
                .set_patience(Duration::from_millis(500))
                .expect("a time");
            sessions.push((door, session));
        }
    }
    let leaving = web(policy)
        .endpoints(&[new])
        .endpoint(Endpoint::of(old).terminating());
    let seen = commits(&daemon);
    daemon.write(&Cluster::with([leaving]).json());
    within(SOON, "the change", || commits(&daemon) > seen);
    for (door, session) in &mut sessions {
        assert_eq!(session.ask().answer().name, old, "{door}: it still serves");
    }
    daemon.write(&Cluster::with([web(policy).endpoints(&[new])]).json());
    for (door, session) in &mut sessions {
        // The client never pauses: nothing expires.
        let what = format!("the other endpoint at {door}");
        within(SOON, &what, || match session.ask() {
            crate::support::Outcome::Answer(answer) => answer.name == new,
            _ => false,
        });
    }
}

#[test]
fn a_udp_flow_moves_when_its_terminating_endpoint_no_longer_serves_at_every_frontend() {
    flows_stay_while_it_serves_and_move_when_it_is_gone("Cluster", "b0", "a0");
}

#[test]
fn a_udp_flow_under_a_local_policy_moves_when_its_terminating_endpoint_no_longer_serves() {
    flows_stay_while_it_serves_and_move_when_it_is_gone("Local", "a1", "a0");
}

#[test]
fn an_endpoint_that_a_policy_left_behind_loses_its_flows_when_it_goes() {
    let lab = Lab::start();
    let both = |policy: &str| web(policy).endpoints(&["b0", "a0"]);
    let before = Cluster::with([web("Cluster").endpoints(&["b0"])]);
    lab.svcnat("b", &["apply"], &before).expect(0);
    let daemon = Daemon::start(&lab, "a", &before.json(), &[]);
    let door = doors(Family::Ip)[3];
    let caller = lab.from("out").unwalked(FOLLOWED);
    let mut session = caller.open(Protocol::Udp, door).expect("a flow");
    session
        .set_patience(Duration::from_millis(500))
        .expect("a time");
    let seen = commits(&daemon);
    daemon.write(&Cluster::with([both("Local")]).json());
    within(SOON, "the policy", || commits(&daemon) > seen);
    assert_eq!(
        session.ask().answer().name,
        "b0",
        "a policy is for new flows"
    );
    daemon.write(&Cluster::with([web("Local").endpoints(&["a0"])]).json());
    within(SOON, "the local endpoint", || match session.ask() {
        crate::support::Outcome::Answer(answer) => answer.name == "a0",
        _ => false,
    });
}
