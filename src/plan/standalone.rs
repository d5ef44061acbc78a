//! Without a cluster: addresses for Services that have none, endpoints from Pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::service::is_ignored;
use crate::cluster::{
    Cluster, EndpointSlice, Family, Name, ObjectName, Pod, Service, SliceEndpoint, SlicePort,
    TargetPort,
};
use crate::problem::Problem;

/// FNV-1a: the same address for the same name everywhere.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Gives every Service without a clusterIP one of the first service range of each family it
/// wants. The address is a hash of the name, so it stays when others come and go; of two
/// that hash alike the first in name order has it and the other takes the next free one.
/// O(services · log).
pub fn allocate(cluster: &mut Cluster, ranges: &[IpNet]) -> Vec<Problem> {
    let mut taken: BTreeSet<IpAddr> = cluster
        .services
        .values()
        .flat_map(|s| s.cluster_ips.iter().copied())
        .collect();
    let mut problems = Vec::new();
    for service in cluster.services.values_mut() {
        if is_ignored(service) || !service.cluster_ips.is_empty() {
            continue;
        }
        for family in wanted(service, ranges) {
            let range = ranges.iter().find(|r| Family::of(&r.addr()) == family);
            match range.and_then(|range| free(range, &service.name.to_string(), &taken)) {
                Some(addr) => {
                    taken.insert(addr);
                    service.cluster_ips.push(addr);
                }
                None => problems.push(Problem::error(
                    Some(&service.origin),
                    format!("Service {}", service.name),
                    "spec.clusterIP",
                    match range {
                        Some(range) => format!("no address is free in the service range {range}"),
                        None => format!(
                            "is absent, and there is no {family} service range to take one from \
                             (--service-cluster-ip-range)"
                        ),
                    },
                )),
            }
        }
    }
    problems
}

fn wanted(service: &Service, ranges: &[IpNet]) -> Vec<Family> {
    if !service.ip_families.is_empty() {
        return service.ip_families.clone();
    }
    let of = |r: &IpNet| Family::of(&r.addr());
    let mut families: Vec<Family> = Vec::new();
    for family in ranges.iter().map(of) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    if families.is_empty() {
        families.push(Family::Ip);
    }
    if !service.dual_stack {
        families.truncate(1);
    }
    families
}

/// The first free address of `range` from the name's own position on. The first two
/// addresses and the last are left alone: network, gateway and broadcast by custom.
fn free(range: &IpNet, name: &str, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(32);
    let size = (1_u64 << bits).checked_sub(3).filter(|n| *n > 0)?;
    let start = hash(name) % size;
    let tries = size.min(taken.len() as u64 + 1);
    (0..tries)
        .map(|i| offset(range.network(), 2 + (start + i) % size))
        .find(|addr| !taken.contains(addr))
}

fn offset(addr: IpAddr, by: u64) -> IpAddr {
    match addr {
        IpAddr::V4(v4) => {
            let low = u32::try_from(by & 0xffff_ffff).unwrap_or(0);
            IpAddr::from((u32::from(v4).wrapping_add(low)).to_be_bytes())
        }
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6).wrapping_add(u128::from(by))).to_be_bytes()),
    }
}

/// Slices made of Pods for services with a selector and without any slice.
pub fn slices_from_pods(cluster: &mut Cluster) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut by_namespace: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in cluster.pods.values().filter(|pod| !pod.finished) {
        by_namespace
            .entry(&pod.name.namespace)
            .or_default()
            .push(pod);
    }
    let mut made = Vec::new();
    for service in cluster.services.values() {
        if is_ignored(service)
            || service.selector.is_empty()
            || cluster.slices.contains_key(&service.name)
        {
            continue;
        }
        let pods = by_namespace.get(&*service.name.namespace);
        let selected: Vec<&Pod> = pods
            .into_iter()
            .flatten()
            .filter(|pod| {
                let labels = &pod.labels;
                service
                    .selector
                    .iter()
                    .all(|(k, v)| labels.get(&**k).is_some_and(|found| **found == **v))
            })
            .copied()
            .collect();
        let object = format!("Service {}", service.name);
        if selected.is_empty() {
            problems.push(Problem::warning(
                Some(&service.origin),
                &object,
                "spec.selector",
                "matches no Pod among the inputs, and there is no EndpointSlice: it is refused",
            ));
        }
        for pod in &selected {
            if pod.addresses.is_empty() {
                problems.push(Problem::warning(
                    Some(&pod.origin),
                    format!("Pod {}", pod.name),
                    "status.podIPs",
                    format!("is absent, so {object} cannot send it anything"),
                ));
            }
        }
        for family in Family::ALL {
            made.extend(slices_of(service, family, &selected));
        }
    }
    for slice in made {
        cluster
            .slices
            .entry(slice.service.clone())
            .or_default()
            .insert(slice);
    }
    problems
}

/// One slice per distinct set of port numbers: pods may resolve a name differently.
fn slices_of(service: &Service, family: Family, pods: &[&Pod]) -> Vec<EndpointSlice> {
    let mut by_ports: BTreeMap<Vec<SlicePort>, Vec<SliceEndpoint>> = BTreeMap::new();
    for pod in pods {
        let Some(address) = pod.addresses.iter().find(|a| Family::of(a) == family) else {
            continue;
        };
        let usable = pod.ready || service.publish_not_ready;
        by_ports
            .entry(ports(service, pod))
            .or_default()
            .push(SliceEndpoint {
                address: *address,
                ready: usable && (!pod.terminating || service.publish_not_ready),
                serving: usable,
                terminating: pod.terminating,
                node_name: pod.node_name.as_deref().map(Name::from),
                zone: None,
                pod: Some(pod.name.name.clone()),
                hints: None,
            });
    }
    (0..)
        .zip(by_ports)
        .map(|(n, (ports, endpoints))| EndpointSlice {
            name: ObjectName::new(
                Name::clone(&service.name.namespace),
                format!("pods-of-{}-{}-{n}", service.name.name, family.nft_name()),
            ),
            origin: service.origin.clone(),
            service: service.name.clone(),
            family,
            endpoints,
            ports,
            trigger_time: None,
        })
        .collect()
}

fn ports(service: &Service, pod: &Pod) -> Vec<SlicePort> {
    service
        .ports
        .iter()
        .filter_map(|port| {
            let number = match &port.target_port {
                TargetPort::Number(number) => *number,
                TargetPort::Name(name) => {
                    pod.ports
                        .iter()
                        .find(|p| p.name == *name && p.protocol == port.protocol)?
                        .port
                }
            };
            Some(SlicePort {
                name: port.name.clone(),
                protocol: port.protocol,
                port: number,
            })
        })
        .collect()
}
