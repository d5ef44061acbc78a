//! sessionAffinity ClientIP: a client stays with the endpoint it got.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;
use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Dual, Lab, Service, after, cluster_ip, ip_of, outside_ip, routed_ip,
};

const ALL: [&str; 4] = ["a0", "a1", "b0", "b1"];

fn sticky(timeout: u32, endpoints: &[&str]) -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints)
        .set(json!({"spec": {
            "externalIPs": routed_ip(5).both(),
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": timeout}},
        }}))
}

/// Who answers a client, over `tries` connections.
fn served(
    lab: &Lab,
    source: Dual,
    protocol: Protocol,
    to: SocketAddr,
    tries: usize,
) -> BTreeSet<String> {
    let caller = lab.from("out").source(source.of(Family::of(&to.ip())));
    let outcomes = caller.ask_many(protocol, to, tries);
    outcomes
        .into_iter()
        .map(|outcome| outcome.answer().name)
        .collect()
}

/// The one who answers a client.
#[track_caller]
fn one(lab: &Lab, source: Dual, protocol: Protocol, to: SocketAddr) -> String {
    let mut pods = served(lab, source, protocol, to, 12);
    assert_eq!(
        pods.len(),
        1,
        "{source} at {to} over {protocol:?} had {pods:?}"
    );
    pods.pop_first().unwrap_or_default()
}

fn each(mut test: impl FnMut(Family, Protocol)) {
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            test(family, protocol);
        }
    }
}

#[test]
fn a_client_stays_with_its_endpoint_through_every_door() {
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL)]));
    let mut chosen = BTreeSet::new();
    each(|family, protocol| {
        for host in 10..14 {
            let client = outside_ip(host);
            let to = |frontend: Dual, port| SocketAddr::new(frontend.of(family), port);
            let first = one(&lab, client, protocol, to(cluster_ip(10), 80));
            for frontend in [to(ip_of("a"), 30_080), to(routed_ip(5), 80)] {
                assert_eq!(
                    one(&lab, client, protocol, frontend),
                    first,
                    "{client} at {frontend}"
                );
            }
            chosen.insert(first);
        }
    });
    // Sixteen choices among four: one and the same each time would be no choice.
    assert!(chosen.len() > 1, "{chosen:?}");
}

#[test]
fn pods_are_clients_like_others() {
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL)]));
    each(|family, protocol| {
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        for from in ["a0", "b0", "a"] {
            let outcomes = lab.from(from).ask_many(protocol, to, 12);
            let pods: BTreeSet<_> = outcomes.into_iter().map(|o| o.answer().name).collect();
            assert_eq!(
                pods.len(),
                1,
                "{from} at {to} over {protocol:?} had {pods:?}"
            );
        }
    });
}

#[test]
fn the_choice_is_free_again_after_the_timeout() {
    let lab = Lab::running(&Cluster::with([sticky(1, &ALL)]));
    each(|family, protocol| {
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        let mut seen = BTreeSet::new();
        for _ in 0..12 {
            seen.insert(one(&lab, outside_ip(10), protocol, to));
            if seen.len() > 1 {
                return;
            }
            after(1);
        }
        panic!("twelve choices, always {seen:?}, at {to} over {protocol:?}");
    });
}

#[test]
fn each_new_connection_renews_the_timeout() {
    let lab = Lab::running(&Cluster::with([sticky(2, &ALL)]));
    let to = SocketAddr::new(cluster_ip(10).of(Family::Ip), 80);
    let first = one(&lab, outside_ip(10), Protocol::Tcp, to);
    for _ in 0..4 {
        std::thread::sleep(std::time::Duration::from_millis(1200));
        assert_eq!(one(&lab, outside_ip(10), Protocol::Tcp, to), first);
    }
}

#[test]
fn clients_of_a_removed_endpoint_move_at_once_and_the_others_stay() {
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL)]));
    each(|family, protocol| {
        lab.apply(&Cluster::with([sticky(600, &ALL)]));
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        let before: Vec<_> = (10..14)
            .map(|n| one(&lab, outside_ip(n), protocol, to))
            .collect();
        let gone = before[0].as_str();
        let rest: Vec<&str> = ALL.into_iter().filter(|pod| *pod != gone).collect();
        let less = Cluster::with([sticky(600, &rest)]);
        let plan = lab.svcnat("a", &["diff"], &less).expect(1).stdout;
        assert!(
            plan.contains("- remembered clients of default/web  ")
                && plan.contains(":8080: balanced anew"),
            "{plan}"
        );
        lab.apply(&Cluster::with([sticky(600, &rest)]));
        for (n, old) in (10..14).zip(&before) {
            let now = one(&lab, outside_ip(n), protocol, to);
            if old == gone {
                assert!(rest.contains(&now.as_str()), "client {n} still has {now}");
            } else {
                assert_eq!(&now, old, "client {n} at {to} over {protocol:?}");
            }
        }
    });
}

#[test]
fn unrelated_changes_and_another_apply_leave_clients_where_they_are() {
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL)]));
    let to = SocketAddr::new(cluster_ip(10).of(Family::Ip), 80);
    let clients = || {
        (10..14)
            .map(|n| one(&lab, outside_ip(n), Protocol::Tcp, to))
            .collect::<Vec<_>>()
    };
    let before = clients();
    lab.apply(&Cluster::with([sticky(600, &ALL)]));
    assert_eq!(clients(), before);
    let other = Service::new("other", cluster_ip(11))
        .port(80, 8080)
        .endpoints(&["a0"]);
    lab.apply(&Cluster::with([other, sticky(600, &ALL)]));
    assert_eq!(clients(), before);
}

#[test]
fn switched_off_the_choice_is_free_at_once() {
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL)]));
    let to = SocketAddr::new(cluster_ip(10).of(Family::Ip), 80);
    one(&lab, outside_ip(10), Protocol::Tcp, to);
    let off = sticky(600, &ALL)
        .set(json!({"spec": {"sessionAffinity": "None", "sessionAffinityConfig": null}}));
    lab.apply(&Cluster::with([off]));
    assert_eq!(
        served(&lab, outside_ip(10), Protocol::Tcp, to, 100).len(),
        4
    );
}

#[test]
fn local_policies_choose_among_local_endpoints() {
    let local = json!({"spec": {"externalTrafficPolicy": "Local"}});
    let lab = Lab::running(&Cluster::with([sticky(600, &ALL).set(local)]));
    each(|family, protocol| {
        let at = |node: &str| SocketAddr::new(ip_of(node).of(family), 30_080);
        for host in 10..14 {
            let first = one(&lab, outside_ip(host), protocol, at("a"));
            assert!(first.starts_with('a'), "{first}");
            let other = one(&lab, outside_ip(host), protocol, at("b"));
            assert!(other.starts_with('b'), "{other}");
        }
    });
}
