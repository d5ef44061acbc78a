//! Without a cluster: addresses for Services that have none, endpoints from Pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::service::is_ignored;
use crate::cluster::{
    Cluster, EndpointSlice, Family, FamilyPolicy, Name, ObjectName, Pod, Protocol, Service,
    ServiceType, SliceEndpoint, SlicePort, TargetPort,
};
use crate::config::PortRange;
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
        let wanted = wanted(service, ranges);
        let range_of = |family: Family| ranges.iter().find(|r| Family::of(&r.addr()) == family);
        let problem = |message: String| {
            Problem::error(
                Some(&service.origin),
                format!("Service {}", service.name),
                "spec.clusterIP",
                message,
            )
        };
        if let Some(family) = wanted.iter().find(|family| range_of(**family).is_none()) {
            problems.push(problem(format!(
                "is absent, and there is no {family} service range to take one from \
                 (--service-cluster-ip-range)"
            )));
            continue;
        }
        let mut made = Vec::new();
        for family in wanted {
            let Some(range) = range_of(family) else {
                continue;
            };
            match free(range, &service.name.to_string(), &taken) {
                Some(addr) => made.push(addr),
                None => {
                    problems.push(problem(format!(
                        "no address is free in the service range {range}"
                    )));
                }
            }
        }
        taken.extend(&made);
        service.cluster_ips = made;
    }
    problems
}

/// Families of a Service: those it names, else all ranges'. Under `PreferDualStack` all that
/// there are ranges of, unless there is none of those it names.
fn wanted(service: &Service, ranges: &[IpNet]) -> Vec<Family> {
    let of = |r: &IpNet| Family::of(&r.addr());
    let mut known: Vec<Family> = Vec::new();
    for family in ranges.iter().map(of) {
        if !known.contains(&family) {
            known.push(family);
        }
    }
    let mut families = service.ip_families.clone();
    let named = families.len();
    if families.is_empty() {
        families.clone_from(&known);
    }
    let both = |families: &mut Vec<Family>, of: &[Family]| {
        let missing: Vec<Family> = of
            .iter()
            .filter(|f| !families.contains(f))
            .copied()
            .collect();
        families.extend(missing);
    };
    match service.family_policy {
        FamilyPolicy::RequireDualStack => both(&mut families, &Family::ALL),
        FamilyPolicy::PreferDualStack => {
            if families.iter().any(|f| known.contains(f)) {
                both(&mut families, &known);
                families.retain(|f| known.contains(f));
            }
        }
        FamilyPolicy::SingleStack if named == 0 => families.truncate(1),
        FamilyPolicy::SingleStack => {}
    }
    if families.is_empty() {
        families.push(Family::Ip);
    }
    families
}

/// Where no cluster does it: a node port for each port of a Service of type `NodePort` that
/// has none, and the load-balancer address that a Service wishes for. Objects that were in a
/// cluster (they say when they were made) are left as they are. A node port is a hash of the
/// name and the port, so it stays when others come and go. O(ports · log).
pub fn ports_from_outside(cluster: &mut Cluster, range: PortRange) -> Vec<Problem> {
    let ports = cluster.services.values().flat_map(|s| &s.ports);
    let mut taken: BTreeSet<(Protocol, u16)> = ports
        .filter_map(|port| Some((port.protocol, port.node_port?.get())))
        .collect();
    let mut problems = Vec::new();
    let services = cluster.services.values_mut();
    for service in services.filter(|s| s.created.is_none() && !is_ignored(s)) {
        if service.service_type == ServiceType::LoadBalancer && service.load_balancer_ips.is_empty()
        {
            let wish = service.load_balancer_ip;
            service.load_balancer_ips.extend(wish);
        }
        if service.service_type != ServiceType::NodePort {
            continue;
        }
        // One number for all protocols of a port, as a cluster does.
        let mut given: BTreeMap<NonZeroU16, NonZeroU16> = BTreeMap::new();
        for port in &mut service.ports {
            if let Some(number) = port.node_port {
                given.entry(port.port).or_insert(number);
                continue;
            }
            let free = |number: &u16| !taken.contains(&(port.protocol, *number));
            let same = given.get(&port.port).filter(|n| free(&n.get())).copied();
            let name = format!("{}:{}", service.name, port.port);
            let number = same.or_else(|| {
                let size = u64::from(range.to.saturating_sub(range.from)) + 1;
                let start = hash(&name) % size;
                let tries = (0..size).map(|i| u64::from(range.from) + (start + i) % size);
                tries
                    .filter_map(|number| u16::try_from(number).ok())
                    .find(free)
                    .and_then(NonZeroU16::new)
            });
            match number {
                Some(number) => {
                    taken.insert((port.protocol, number.get()));
                    given.entry(port.port).or_insert(number);
                    port.node_port = Some(number);
                }
                None => problems.push(Problem::error(
                    Some(&service.origin),
                    format!("Service {}", service.name),
                    "spec.ports[].nodePort",
                    format!("no port is free between {} and {}", range.from, range.to),
                )),
            }
        }
    }
    problems
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
