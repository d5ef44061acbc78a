//! Clusters of a given size, as objects and as the List a file would hold.

use std::net::Ipv4Addr;

use svcnat::cluster::{Change, Cluster};
use svcnat::config::Config;
use svcnat::source::{Loaded, load_str};

/// Settings of the node that is measured.
pub fn config() -> Config {
    Config {
        node_name: "n1".into(),
        node_ips: vec![Ipv4Addr::new(192, 168, 0, 1).into()],
        cluster_cidrs: vec!["172.16.0.0/12".parse().expect("a prefix")],
        service_cidrs: vec!["10.0.0.0/8".parse().expect("a prefix")],
        manage_routes: false,
        ..Config::default()
    }
}

/// The address of service `n`.
pub fn service_ip(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + u32::try_from(n).expect("few enough"))
}

/// The address of endpoint `n` of the cluster.
pub fn endpoint_ip(n: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0002 + u32::try_from(n).expect("few enough"))
}

pub fn service(n: usize) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"svc-{n}","namespace":"default"}},"spec":{{"clusterIP":"{}","ports":[{{"name":"http","port":80,"targetPort":8080}}]}}}}"#,
        service_ip(n)
    )
}

/// The slice of service `n` with these endpoints.
pub fn slice(n: usize, endpoints: impl IntoIterator<Item = usize>) -> String {
    let endpoints: Vec<String> = endpoints
        .into_iter()
        .map(|e| format!(r#"{{"addresses":["{}"],"nodeName":"n2"}}"#, endpoint_ip(e)))
        .collect();
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"svc-{n}-x","namespace":"default","labels":{{"kubernetes.io/service-name":"svc-{n}"}}}},"addressType":"IPv4","ports":[{{"name":"http","port":8080}}],"endpoints":[{}]}}"#,
        endpoints.join(",")
    )
}

/// A List of `services` services with `endpoints` endpoints each.
pub fn list(services: usize, endpoints: usize) -> String {
    let mut items = Vec::with_capacity(2 * services);
    for n in 0..services {
        items.push(service(n));
        items.push(slice(n, n * endpoints..(n + 1) * endpoints));
    }
    format!(
        r#"{{"apiVersion":"v1","kind":"List","items":[{}]}}"#,
        items.join(",")
    )
}

pub fn read(text: &str) -> Cluster {
    let mut loaded = Loaded::default();
    load_str(text, "bench", &mut loaded);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems.first());
    loaded.cluster
}

/// A slice as an event of the API.
pub fn slice_change(text: &str) -> Change {
    let cluster = read(text);
    let (_, slices) = cluster.slices.into_iter().next().expect("one service");
    let slice = slices.into_iter().next().expect("one slice");
    Change::Slice(slice.name.clone(), Some(Box::new(slice)))
}

/// A Service as an event of the API.
pub fn service_change(text: &str) -> Change {
    let (name, service) = read(text).services.pop_first().expect("one service");
    Change::Service(name, Some(service))
}
