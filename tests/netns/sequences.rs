//! One change after another under live connections: whatever becomes of a service, open
//! connections go on as long as their endpoint exists, and no new one is refused or lost
//! while an endpoint does.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Endpoint, Lab, Outcome, Service, cluster_ip, routed_ip};

/// The service before any change; `b0` is behind it in every step.
fn web(endpoints: impl IntoIterator<Item = Endpoint>) -> Service {
    endpoints.into_iter().fold(
        Service::new("web", cluster_ip(10)).port(80, 8080),
        Service::endpoint,
    )
}

fn both() -> Service {
    web([Endpoint::of("a0"), Endpoint::of("b0")])
}

fn annotated(annotations: Value) -> Service {
    both().set(json!({"metadata": {"annotations": annotations}}))
}

/// Every kind of change, each from the one before it.
fn steps() -> Vec<(&'static str, Service)> {
    let spec = |spec: Value| both().set(json!({"spec": spec}));
    vec![
        ("an endpoint removed", web([Endpoint::of("b0")])),
        ("endpoints added", web(["a0", "b0", "b1"].map(Endpoint::of))),
        (
            "an endpoint unready",
            web([Endpoint::of("a0").unready(), Endpoint::of("b0")]),
        ),
        (
            "the last ready endpoint terminating",
            web([
                Endpoint::of("a0").unready(),
                Endpoint::of("b0").terminating(),
            ]),
        ),
        ("ready again", both()),
        ("affinity", spec(json!({"sessionAffinity": "ClientIP"}))),
        (
            "affinity of another timeout",
            spec(json!({"sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 77}}})),
        ),
        ("no affinity", both()),
        (
            "hints for this zone and another",
            web([
                Endpoint::of("a0").for_zones(&["z2"]),
                Endpoint::of("b0").for_zones(&["z2"]),
            ]),
        ),
        ("no hints", both()),
        (
            "weights",
            annotated(json!({"svcnat.io/weights": "pod/a0=1,pod/b0=5"})),
        ),
        (
            "source hashing",
            annotated(json!({"svcnat.io/balancing": "source-ip"})),
        ),
        ("random again", both()),
        (
            "an external address",
            spec(json!({"externalIPs": routed_ip(8).both()})),
        ),
        (
            "a node port and external policy Local",
            both()
                .node_port(30_080)
                .set(json!({"spec": {"type": "NodePort", "externalTrafficPolicy": "Local"}})),
        ),
        (
            "another node port",
            both()
                .node_port(30_081)
                .set(json!({"spec": {"type": "NodePort"}})),
        ),
        (
            "more than thirty-two slots",
            annotated(json!({"svcnat.io/weights": "pod/a0=20,pod/b0=20"})),
        ),
        ("as in the beginning", both()),
    ]
}

#[test]
fn no_change_of_a_service_costs_a_connection() {
    let lab = Lab::running(&Cluster::with([both()]));
    let over = AtomicBool::new(false);
    let vip = |family: Family| SocketAddr::new(cluster_ip(10).of(family), 80);
    let ask = |family: Family| {
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) {
            let caller = lab.from("a1").unwalked("the rules change meanwhile");
            let outcome = caller.ask(Protocol::Tcp, vip(family));
            assert!(
                matches!(outcome, Outcome::Answer(_)),
                "{family}: {outcome:?} after {asked} connections"
            );
            asked += 1;
        }
        asked
    };
    thread::scope(|scope| {
        let clients = Family::ALL.map(|family| scope.spawn(move || ask(family)));
        // Open connections to the endpoint that stays.
        let mut open: Vec<_> = Family::ALL
            .into_iter()
            .map(|family| {
                loop {
                    let session = lab.from("a1").open(Protocol::Tcp, vip(family));
                    let session = session.expect("a connection");
                    if session.opened.name == "b0" {
                        break session;
                    }
                }
            })
            .collect();
        for (what, service) in steps() {
            lab.svcnat("a", &["apply"], &Cluster::with([service]))
                .expect(0);
            for session in &mut open {
                assert_eq!(session.ask().answer().name, "b0", "after: {what}");
            }
        }
        // All endpoints gone: open connections stay, and new ones work when one is back.
        over.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().expect("every connection answered") > 50);
        }
        lab.svcnat("a", &["apply"], &Cluster::with([web([])]))
            .expect(0);
        for (family, session) in Family::ALL.into_iter().zip(&mut open) {
            assert_eq!(
                session.ask().answer().name,
                "b0",
                "{family} without endpoints"
            );
            let refused = lab.from("a1").ask(Protocol::Tcp, vip(family));
            assert_eq!(refused, Outcome::Refused, "{family}");
        }
        lab.svcnat("a", &["apply"], &Cluster::with([both()]))
            .expect(0);
        for family in Family::ALL {
            let outcome = lab.from("a1").ask(Protocol::Tcp, vip(family));
            assert!(
                matches!(outcome, Outcome::Answer(_)),
                "{family}: {outcome:?}"
            );
        }
    });
}
