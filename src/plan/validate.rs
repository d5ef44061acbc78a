//! What does not fit together: addresses, ports and ranges that several objects claim.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::NodeContext;
use super::service::is_ignored;
use crate::cluster::{Cluster, Protocol, Service};
use crate::config::{Config, PortRange};
use crate::problem::Problem;

/// All problems between objects. Services that lose a claim are removed from `cluster`, so
/// that what is planned is what was reported.
pub fn check(cluster: &mut Cluster, config: &Config, node: &NodeContext) -> Vec<Problem> {
    let mut problems = ranges(cluster, config, node);
    let mut losers = Vec::new();
    let mut ips: BTreeMap<IpAddr, &Service> = BTreeMap::new();
    let mut node_ports: BTreeMap<(Protocol, u16), &Service> = BTreeMap::new();
    let mut external: BTreeMap<(IpAddr, Protocol, u16), &Service> = BTreeMap::new();
    let services = cluster.services.values().map(|service| &**service);
    for service in services.filter(|s| !is_ignored(s)) {
        let before = problems.len();
        let object = format!("Service {}", service.name);
        let error = |field: &str, message: String| {
            Problem::error(Some(&service.origin), &object, field, message)
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
                problems.push(error(
                    "spec.clusterIP",
                    format!("{ip} is outside the service range {}", listed.join(", ")),
                ));
            }
            if let Some(other) = ips.get(ip) {
                problems.push(error(
                    "spec.clusterIP",
                    format!(
                        "{ip} is already the clusterIP of Service {} ({})",
                        other.name, other.origin
                    ),
                ));
            }
        }
        for (i, port) in service.ports.iter().enumerate() {
            let field = format!("spec.ports[{i}]");
            if service.ports[..i]
                .iter()
                .any(|p| p.port == port.port && p.protocol == port.protocol)
            {
                problems.push(error(
                    &field,
                    format!("{}/{} is listed twice", port.port, port.protocol),
                ));
            }
            let Some(number) = port.node_port else {
                continue;
            };
            let field = format!("{field}.nodePort");
            let PortRange { from, to } = config.node_port_range;
            if !(from..=to).contains(&number.get()) {
                problems.push(error(
                    &field,
                    format!("{number} is outside the node port range {from}-{to}"),
                ));
            }
            if let Some(other) = node_ports.get(&(port.protocol, number.get())) {
                problems.push(error(
                    &field,
                    format!(
                        "{number}/{} is already the node port of Service {} ({})",
                        port.protocol, other.name, other.origin
                    ),
                ));
            }
        }
        if problems.len() > before {
            losers.push(service.name.clone());
            continue;
        }
        ips.extend(service.cluster_ips.iter().map(|ip| (*ip, service)));
        for port in &service.ports {
            node_ports.extend(port.node_port.map(|n| ((port.protocol, n.get()), service)));
            for ip in service
                .external_ips
                .iter()
                .chain(&service.load_balancer_ips)
            {
                let key = (*ip, port.protocol, port.port.get());
                match external.get(&key) {
                    Some(other) if other.name != service.name => problems.push(Problem::warning(
                        Some(&service.origin),
                        &object,
                        "spec.externalIPs",
                        format!(
                            "{ip} port {}/{} already leads to Service {}, which keeps it",
                            port.port, port.protocol, other.name
                        ),
                    )),
                    _ => drop(external.insert(key, service)),
                }
            }
        }
    }
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
    for name in losers {
        cluster.services.remove(&name);
    }
    problems
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
        if !seen.is_empty() && nodes > 0 && workload.replicas as usize > nodes {
            problems.push(Problem::warning(
                Some(&workload.origin),
                &object,
                "spec.replicas",
                format!(
                    "{} pods want the same hostPort, which {nodes} nodes cannot give",
                    workload.replicas
                ),
            ));
        }
        let matching = cluster
            .pods
            .values()
            .filter(|p| p.name.namespace == workload.name.namespace)
            .filter(|p| {
                workload
                    .selector
                    .iter()
                    .all(|(k, v)| p.labels.get(k) == Some(v))
            })
            .count();
        if matching < workload.replicas as usize && !workload.selector.is_empty() {
            problems.push(Problem::notice(
                Some(&workload.origin),
                &object,
                format!(
                    "{matching} of {} pods are among the inputs; svcnat makes no pods",
                    workload.replicas
                ),
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
