//! What does not fit together: addresses, ports and ranges that several objects claim.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::NodeContext;
use super::endpoints::SERVICE_ADDRESS;
use super::service::is_ignored;
use crate::cluster::{Cluster, Protocol, Service};
use crate::config::{Config, PortRange};
use crate::problem::Problem;

/// Problems of objects that a plan does not tell of: what is typed or read from files.
pub fn check(cluster: &Cluster, config: &Config, node: &NodeContext) -> Vec<Problem> {
    let mut problems = ranges(cluster, config, node);
    let services = cluster.services.values().map(|service| &**service);
    for service in services {
        if is_ignored(service) {
            problems.extend(unopened(service));
        } else {
            of_service(service, config, node, &mut problems);
            problems.extend(of_no_family(service));
        }
    }
    problems.extend(hosts(cluster, config));
    problems.extend(destinations(config, node));
    taken_endpoints(cluster, &mut problems);
    service_endpoints(cluster, node, &mut problems);
    for (service, slices) in &cluster.slices {
        if !cluster.services.contains_key(service)
            && let Some(slice) = slices.iter().next()
        {
            let message = format!(
                "there is no Service {service} among the inputs; its endpoints are not used"
            );
            // Slices made from Endpoints are named after them, with a slash.
            let (object, field) = if slice.name.name.contains('/') {
                (format!("Endpoints {service}"), "metadata.name")
            } else {
                let object = format!("EndpointSlice {}", slice.name);
                (object, "metadata.labels[kubernetes.io/service-name]")
            };
            problems.push(Problem::warning(
                Some(&slice.origin),
                object,
                field,
                message,
            ));
        }
    }
    problems.extend(templates(cluster));
    problems
}

/// Lists that count for nothing: nothing is masqueraded.
fn destinations(config: &Config, node: &NodeContext) -> Option<Problem> {
    let why = if !config.egress_masquerade {
        "without egress masquerade"
    } else if node.pod_cidrs.is_empty() {
        "without a pod CIDR of this node (--pod-cidr, or its Node object)"
    } else {
        return None;
    };
    let field = if !config.masquerade_cidrs.is_empty() {
        "masquerade-cidrs"
    } else if !config.non_masquerade_cidrs.is_empty() {
        "non-masquerade-cidrs"
    } else {
        return None;
    };
    Some(Problem::warning(
        None,
        "configuration",
        field,
        format!("has no effect {why}"),
    ))
}

/// ClusterIPs that are addresses of nodes. All ports of a clusterIP that nobody serves are
/// refused, so this node would lose the other. A plan leaves out its own addresses.
fn hosts(cluster: &Cluster, config: &Config) -> Vec<Problem> {
    let objects = cluster.nodes.values().map(|n| (&n.name, &n.addresses));
    let listed = config.nodes.iter().map(|n| (&n.name, &n.addresses));
    let mut hosts: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (name, addresses) in objects
        .chain(listed)
        .filter(|(n, _)| **n != config.node_name)
    {
        hosts.extend(addresses.iter().map(|addr| (*addr, &**name)));
    }
    let mut problems = Vec::new();
    for service in cluster.services.values().filter(|s| !is_ignored(s)) {
        for ip in &service.cluster_ips {
            if let Some(host) = hosts.get(ip) {
                problems.push(Problem::error(
                    Some(&service.origin),
                    format!("Service {}", service.name),
                    "spec.clusterIP",
                    format!("{ip} is an address of Node {host}, which no Service can have"),
                ));
            }
        }
    }
    problems
}

/// What a Service without clusterIPs of ours lists, and does not open.
fn unopened(service: &Service) -> Vec<Problem> {
    let why = if service.other_proxy {
        return Vec::new();
    } else if service.headless {
        "is not used: a headless Service opens nothing"
    } else {
        "is not used: a Service of type ExternalName opens nothing"
    };
    let fields = [
        ("spec.externalIPs", !service.external_ips.is_empty()),
        (
            "status.loadBalancer.ingress",
            !service.load_balancer_ips.is_empty(),
        ),
        (
            "spec.ports[].nodePort",
            service.ports.iter().any(|port| port.node_port.is_some()),
        ),
    ];
    let listed = fields.into_iter().filter(|(_, listed)| *listed);
    let object = format!("Service {}", service.name);
    listed
        .map(|(field, _)| Problem::warning(Some(&service.origin), &object, field, why))
        .collect()
}

/// Addresses from outside, each with its field.
fn external(service: &Service) -> impl Iterator<Item = (&'static str, IpAddr)> {
    let ips = service.external_ips.iter();
    let vips = service.load_balancer_ips.iter();
    ips.map(|ip| ("spec.externalIPs", *ip))
        .chain(vips.map(|ip| ("status.loadBalancer.ingress", *ip)))
}

/// External addresses of a family in which the Service has no clusterIP, and so no endpoints.
fn of_no_family(service: &Service) -> Vec<Problem> {
    let same = |a: &IpAddr, b: &IpAddr| a.is_ipv4() == b.is_ipv4();
    let without = external(service).filter(|(_, ip)| {
        let mut own = service.cluster_ips.iter();
        !service.cluster_ips.is_empty() && !own.any(|cluster_ip| same(cluster_ip, ip))
    });
    let object = format!("Service {}", service.name);
    without
        .map(|(field, ip)| {
            let message = format!("{ip} is not used: the Service has no clusterIP of its family");
            Problem::warning(Some(&service.origin), &object, field, message)
        })
        .collect()
}

/// External addresses and ports at which an endpoint answers: who calls it by its own address
/// gets the Service. Allowed, as by kube-proxy, and told.
fn taken_endpoints(cluster: &Cluster, problems: &mut Vec<Problem>) {
    let mut all: BTreeMap<(IpAddr, Protocol, NonZeroU16), (&'static str, &Service)> =
        BTreeMap::new();
    for service in cluster.services.values().filter(|s| !is_ignored(s)) {
        for (field, ip) in external(service) {
            for port in &service.ports {
                let key = (ip, port.protocol, port.port);
                all.entry(key).or_insert((field, service));
            }
        }
    }
    if all.is_empty() {
        return;
    }
    for slice in cluster.slices.values().flat_map(|slices| slices.iter()) {
        for port in &slice.ports {
            for endpoint in &slice.endpoints {
                let key = (endpoint.address, port.protocol, port.port);
                // Once each; an endpoint of its own is not taken from anybody.
                if let Some((_, service)) = all.get(&key)
                    && service.name != slice.service
                    && let Some((field, service)) = all.remove(&key)
                {
                    let message = format!(
                        "{} port {}/{} is also an endpoint of Service {}: who calls that by its \
                         own address gets Service {}",
                        key.0, key.2, key.1, slice.service, service.name
                    );
                    problems.push(Problem::warning(
                        Some(&service.origin),
                        format!("Service {}", service.name),
                        field,
                        message,
                    ));
                }
            }
        }
    }
}

/// Endpoints that are clusterIPs outside of any known range; a plan tells of those inside.
fn service_endpoints(cluster: &Cluster, node: &NodeContext, problems: &mut Vec<Problem>) {
    let ips = cluster.services.values().flat_map(|s| &s.cluster_ips);
    let outside = |ip: &&IpAddr| !node.service_ranges.iter().any(|range| range.contains(*ip));
    let ips: BTreeSet<IpAddr> = ips.filter(outside).copied().collect();
    if ips.is_empty() {
        return;
    }
    for (service, slices) in cluster.services_with_slices() {
        let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let mut found = endpoints.filter(|endpoint| ips.contains(&endpoint.address));
        if let Some(endpoint) = found.next() {
            problems.push(Problem::warning(
                Some(&service.origin),
                format!("Service {}", service.name),
                "endpoints",
                format!("endpoint {} {SERVICE_ADDRESS}", endpoint.address),
            ));
        }
    }
}

/// What one Service has that its cluster would not give it. It is served all the same: where
/// it was assigned the ranges may be others.
fn of_service(service: &Service, config: &Config, node: &NodeContext, problems: &mut Vec<Problem>) {
    let object = format!("Service {}", service.name);
    let mut warning = |field: &str, message: String| {
        problems.push(Problem::warning(
            Some(&service.origin),
            &object,
            field,
            message,
        ));
    };
    for ip in &service.cluster_ips {
        let same_family = |r: &&IpNet| r.addr().is_ipv4() == ip.is_ipv4();
        let mut known = node.service_ranges.iter().filter(same_family).peekable();
        if known.peek().is_some() && !known.any(|r| r.contains(ip)) {
            let listed: Vec<String> = node
                .service_ranges
                .iter()
                .filter(same_family)
                .map(ToString::to_string)
                .collect();
            warning(
                "spec.clusterIP",
                format!("{ip} is outside the service range {}", listed.join(", ")),
            );
        }
    }
    let mut seen = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    for (i, port) in service.ports.iter().enumerate() {
        let field = format!("spec.ports[{i}]");
        if !seen.insert((port.port, port.protocol)) {
            warning(
                &field,
                format!(
                    "{}/{} is listed twice; the first entry counts",
                    port.port, port.protocol
                ),
            );
        }
        let Some(number) = port.node_port else {
            continue;
        };
        let field = format!("{field}.nodePort");
        let PortRange { from, to } = config.node_port_range;
        if !(from..=to).contains(&number.get()) {
            warning(
                &field,
                format!("{number} is outside the node port range {from}-{to}"),
            );
        }
        if !node_ports.insert((number, port.protocol)) {
            warning(
                &field,
                format!(
                    "{number}/{} is listed twice; the first entry counts",
                    port.protocol
                ),
            );
        }
    }
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// Pairs that overlap, by position, the earlier one first. Of two prefixes that overlap one
/// holds the other, so in address order every one is compared only with those that are still
/// open. O(n log n + pairs).
fn overlaps(prefixes: &[(String, IpNet)]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..prefixes.len()).collect();
    // Of equal starts the wider one comes first: it holds the other.
    order.sort_by_key(|i| {
        let net = &prefixes[*i].1;
        (net.network(), net.prefix_len(), *i)
    });
    let mut open: Vec<usize> = Vec::new();
    let mut pairs = Vec::new();
    for i in order {
        let net = &prefixes[i].1;
        open.retain(|j| prefixes[*j].1.contains(&net.network()));
        pairs.extend(open.iter().map(|j| (i.min(*j), i.max(*j))));
        open.push(i);
    }
    pairs.sort_unstable();
    pairs
}

/// Ranges that must be apart: services, pods of each node, and the nodes among each other.
fn ranges(cluster: &Cluster, config: &Config, node: &NodeContext) -> Vec<Problem> {
    let mut pods: Vec<(String, IpNet)> = Vec::new();
    for object in cluster.nodes.values() {
        pods.extend(
            object
                .pod_cidrs
                .iter()
                .map(|c| (format!("Node {}", object.name), *c)),
        );
    }
    for listed in &config.nodes {
        if !cluster.nodes.contains_key(&listed.name) {
            pods.extend(
                listed
                    .pod_cidrs
                    .iter()
                    .map(|c| (format!("node {}", listed.name), *c)),
            );
        }
    }
    let mut problems = Vec::new();
    for (i, j) in overlaps(&pods) {
        let ((owner, cidr), (other, theirs)) = (&pods[i], &pods[j]);
        problems.push(Problem::error(
            None,
            owner,
            "spec.podCIDRs",
            format!("{cidr} overlaps {theirs} of {other}: their pods would share addresses"),
        ));
    }
    pods.extend(
        config
            .cluster_cidrs
            .iter()
            .map(|c| ("the cluster CIDR".to_owned(), *c)),
    );
    pods.extend(
        config
            .pod_cidrs
            .iter()
            .map(|c| ("the pod CIDR".to_owned(), *c)),
    );
    for range in &node.service_ranges {
        if let Some((owner, cidr)) = pods.iter().find(|(_, cidr)| overlap(range, cidr)) {
            problems.push(Problem::error(
                None,
                "service range",
                "",
                format!("{range} overlaps {cidr} of {owner}; the two must be apart"),
            ));
        }
    }
    problems
}

/// Pod templates: their pods are objects of their own, so this only says what cannot work.
fn templates(cluster: &Cluster) -> Vec<Problem> {
    let mut problems = Vec::new();
    for workload in &cluster.workloads {
        let object = format!("{} {}", workload.kind, workload.name);
        let mut seen = BTreeMap::new();
        for port in &workload.ports {
            let Some(number) = port.host_port else {
                continue;
            };
            if let Some(other) = seen.insert((port.protocol, number, port.host_ip), &port.container)
            {
                problems.push(Problem::error(
                    Some(&workload.origin),
                    &object,
                    "spec.template",
                    format!(
                        "containers {other} and {} both want hostPort {number}/{}",
                        port.container, port.protocol
                    ),
                ));
            }
        }
        let nodes = cluster.nodes.len();
        let replicas = workload.replicas_on(nodes);
        if !seen.is_empty() && !workload.host_network && nodes > 0 && replicas > nodes {
            problems.push(Problem::warning(
                Some(&workload.origin),
                &object,
                "spec.replicas",
                format!("{replicas} pods want the same hostPort, which {nodes} nodes cannot give"),
            ));
        }
        let matching = cluster.pods.values().filter(|p| workload.has(p)).count();
        if matching < replicas && !workload.selector.is_empty() {
            problems.push(Problem::notice(
                Some(&workload.origin),
                &object,
                format!("{matching} of {replicas} pods are among the inputs; svcnat makes no pods"),
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(prefixes: &[&str]) -> Vec<(String, IpNet)> {
        let parse = |p: &&str| (String::new(), p.parse().unwrap());
        prefixes.iter().map(parse).collect()
    }

    #[test]
    fn overlaps_are_found_whatever_the_order_and_nesting() {
        let all = named(&[
            "10.1.2.0/24",
            "10.2.0.0/16",
            "10.1.0.0/16",
            "10.1.2.128/25",
            "fd00::/64",
            "10.1.2.0/24",
        ]);
        assert_eq!(
            overlaps(&all),
            [(0, 2), (0, 3), (0, 5), (2, 3), (2, 5), (3, 5)]
        );
    }

    #[test]
    fn as_many_nodes_as_a_cluster_can_have_are_checked_at_once() {
        let nodes: Vec<(String, IpNet)> = (0..15_000_u32)
            .map(|n| {
                let net = std::net::Ipv4Addr::from(0x0a00_0000 + (n << 8));
                (n.to_string(), format!("{net}/24").parse().unwrap())
            })
            .collect();
        let start = std::time::Instant::now();
        assert_eq!(overlaps(&nodes), []);
        // All pairs would take a hundred times as long.
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }
}
