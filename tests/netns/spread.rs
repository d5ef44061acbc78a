//! Is the spread even? Thousands of connections over a known number of endpoints.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::json;

use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Endpoint, Lab, Opinion, Service, assert_spread, cluster_ip, count, ip_of, outside_ip,
    pod_net,
};

/// Addresses that pod `b0` has besides its own, each an endpoint.
const FIRST_HOST: u8 = 100;
const SIZES: [u8; 7] = [1, 2, 3, 7, 16, 33, 100];
const CONNECTIONS: usize = 20_000;
const BATCH: usize = 500;

fn service(endpoints: u8) -> Service {
    let bare =
        Service::new(&format!("of-{endpoints}"), cluster_ip(endpoints.into())).port(80, 8080);
    (0..endpoints).fold(bare, |service, n| {
        service.endpoint(Endpoint::at(pod_net(1, FIRST_HOST + n), "b"))
    })
}

/// A lab with a service of each size.
fn lab() -> Lab {
    let lab = Lab::running(&Cluster::with(SIZES.map(service)));
    let mut batch = String::new();
    let hosts = (0..100).map(|n| pod_net(1, FIRST_HOST + n));
    for addr in hosts.clone() {
        batch += &format!(
            "addr add {}/24 dev eth0\naddr add {}/64 dev eth0 nodad\n",
            addr.v4, addr.v6
        );
    }
    lab.at("b0").ip(&batch);
    let mut lab = lab;
    lab.stop("b0");
    for addr in hosts {
        for (addr, protocol) in addr.both().into_iter().zip([Protocol::Udp, Protocol::Tcp]) {
            lab.serve("b0", protocol, (addr, 8080).into());
        }
    }
    lab
}

fn assert_even(lab: &Lab, family: Family, protocol: Protocol, size: u8) {
    let to = SocketAddr::new(cluster_ip(size.into()).of(family), 80);
    let mut outcomes = Vec::with_capacity(CONNECTIONS);
    // A source port that comes again while conntrack knows its flow is no new choice: a
    // hundredth of the flows, with the table emptied now and then, instead of a third.
    for _ in 0..CONNECTIONS / BATCH {
        outcomes.extend(lab.from("a1").ask_many(protocol, to, BATCH));
        // Twenty thousand flows of each size would fill the table of a small machine, too.
        lab.at("a").must("conntrack", &["-F"], "");
    }
    let counts = count(&outcomes);
    let name = |n| SocketAddr::new(pod_net(1, FIRST_HOST + n).of(family), 8080).to_string();
    let per_endpoint: Vec<u64> = (0..size)
        .map(|n| counts.get(name(n).as_str()).copied().unwrap_or(0))
        .collect();
    let answered: u64 = per_endpoint.iter().sum();
    assert_eq!(
        answered, CONNECTIONS as u64,
        "{family} {protocol:?} {size}: {counts:?}"
    );
    assert_spread(&per_endpoint, &vec![1; size.into()]);
}

#[test]
fn udp_flows_spread_evenly_over_any_number_of_endpoints() {
    let lab = lab();
    for size in SIZES {
        assert_even(&lab, Family::Ip, Protocol::Udp, size);
    }
}

#[test]
fn tcp_connections_spread_evenly_over_any_number_of_endpoints() {
    let lab = lab();
    for size in SIZES {
        assert_even(&lab, Family::Ip6, Protocol::Tcp, size);
    }
}

#[test]
fn weights_are_shares() {
    let weighed = Service::new("weighed", cluster_ip(10))
        .port(80, 8080)
        .endpoint(Endpoint::of("a0").set(json!({"zone": "big"})))
        .endpoint(Endpoint::of("b0").set(json!({"zone": "small"})))
        .set(
            json!({"metadata": {"annotations": {"svcnat.io/weights": "zone/big=3,zone/small=1"}}}),
        );
    let lab = Lab::running(&Cluster::with([weighed]));
    for family in Family::ALL {
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        let outcomes = lab.from("a1").ask_many(Protocol::Tcp, to, 4000);
        let counts = count(&outcomes);
        let of = |pod: &str| counts.get(pod).copied().unwrap_or(0);
        assert_eq!(of("a0") + of("b0"), 4000, "{counts:?}");
        assert_spread(&[of("a0"), of("b0")], &[3, 1]);
    }
}

/// Endpoints of one pod by address, with weights by the pod each claims to be.
fn weighed(n: u16, weights: &[u32]) -> Service {
    let of: Vec<String> = (0..)
        .zip(weights)
        .map(|(i, w): (usize, _)| format!("pod/w{i}={w}"))
        .collect();
    let bare = Service::new(&format!("weighed-{n}"), cluster_ip(200 + n)).port(80, 8080);
    let service = (0_u8..).zip(weights).fold(bare, |service, (i, _)| {
        let target = json!({"targetRef": {"kind": "Pod", "name": format!("w{i}")}});
        service.endpoint(Endpoint::at(pod_net(1, FIRST_HOST + i), "b").set(target))
    });
    service.set(json!({"metadata": {"annotations": {"svcnat.io/weights": of.join(",")}}}))
}

#[test]
fn connections_spread_exactly_by_any_weights() {
    let thirty_three: Vec<u32> = (0..33).map(|n| n % 3 + 1).collect();
    let ratios: [&[u32]; 4] = [&[1, 2], &[1, 3, 6], &[5, 1], &thirty_three];
    let lab = lab();
    lab.apply(&Cluster::with(
        (0..).zip(ratios).map(|(n, weights)| weighed(n, weights)),
    ));
    for (n, weights) in (0..).zip(ratios) {
        for family in Family::ALL {
            let protocol = match family {
                Family::Ip => Protocol::Udp,
                Family::Ip6 => Protocol::Tcp,
            };
            let to = SocketAddr::new(cluster_ip(200 + n).of(family), 80);
            let mut outcomes = Vec::with_capacity(CONNECTIONS);
            for _ in 0..CONNECTIONS / BATCH {
                outcomes.extend(lab.from("a1").ask_many(protocol, to, BATCH));
                lab.at("a").must("conntrack", &["-F"], "");
            }
            let counts = count(&outcomes);
            let name = |i| SocketAddr::new(pod_net(1, FIRST_HOST + i).of(family), 8080).to_string();
            let seen: Vec<u64> = (0_u8..)
                .zip(weights)
                .map(|(i, _)| counts.get(name(i).as_str()).copied().unwrap_or(0))
                .collect();
            assert_eq!(seen.iter().sum::<u64>(), CONNECTIONS as u64, "{counts:?}");
            assert_spread(
                &seen,
                &weights.iter().map(|w| u64::from(*w)).collect::<Vec<_>>(),
            );
        }
    }
}

#[test]
fn a_client_hashed_by_its_address_meets_one_endpoint() {
    let hashed = Service::new("hashed", cluster_ip(10))
        .port(80, 8080)
        .endpoints(&["a0", "a1", "b0", "b1"])
        .set(json!({"metadata": {"annotations": {"svcnat.io/balancing": "source-ip"}}}));
    let lab = Lab::running(&Cluster::with([hashed]));
    let clients = [("a1", ip_of("a1")), ("b0", ip_of("b0")), ("a", ip_of("a"))];
    let outside = (10..14).map(|host| ("out", outside_ip(host)));
    for family in Family::ALL {
        let to = SocketAddr::new(cluster_ip(10).of(family), 80);
        let mut chosen = BTreeSet::new();
        for (place, source) in clients.into_iter().chain(outside.clone()) {
            let caller = lab.from(place).source(source.of(family));
            // The walker computes the hash and names the one endpoint.
            let (_, opinion) = caller.opinion(Protocol::Udp, to).expect("an opinion");
            let Opinion::Endpoints(endpoints) = opinion else {
                panic!("{place} {source}: {opinion:?}");
            };
            assert_eq!(endpoints.len(), 1, "{place} {source}: {endpoints:?}");
            chosen.extend(endpoints.into_keys());
            let outcomes = caller.ask_many(Protocol::Udp, to, 40);
            let counts = count(&outcomes);
            assert_eq!(counts.len(), 1, "{family} {place}: {counts:?}");
        }
        // Seven clients among four endpoints.
        assert!(chosen.len() > 1, "{family}: {chosen:?}");
    }
}
