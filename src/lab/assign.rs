//! What a cluster's controllers would assign: nodes where none are given, the pods of
//! workloads, a node and addresses for each pod, and load balancers' addresses. The same
//! objects get the same, whatever order they come in; what was there before keeps what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::cluster::{
    Cluster, ContainerPort, Family, FamilyPolicy, Node, ObjectName, Origin, Pod, Protocol,
    ServiceType, Workload,
};
use crate::config::Config;
use crate::plan::{NodeContext, complete};
use crate::problem::Problem;

/// Where what is made up comes from, in messages.
const ORIGIN: &str = "<lab>";
/// Nodes of a lab whose objects have none.
pub const NODES: usize = 2;
/// Each pod is a network namespace.
const MOST_REPLICAS: u32 = 5000;
/// The first addresses of made-up nodes, of their pods, and of load balancers; that of nodes
/// and load balancers is followed by those that come after it.
const NODE_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 168, 50, 11)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x11)),
];
const LOAD_BALANCERS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1)),
];
/// The service range where settings and objects name none.
const SERVICE_RANGES: [&str; 2] = ["10.254.0.0/16", "fd00:254::/112"];
/// Where prefixes for nodes' pods are made up if settings have no cluster CIDR.
const PODS: [&str; 2] = ["172.17.0.0/16", "fd00:17::/48"];
const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// What is wished for where objects say nothing.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// How many nodes, if no Node is given.
    pub nodes: Option<usize>,
    /// Families of what is made up; empty for those that the objects use.
    pub families: Vec<Family>,
}

/// Completes objects and settings; what was there `before` keeps its places and addresses.
/// What is wrong with them is returned.
pub fn assign(
    cluster: &mut Cluster,
    config: &mut Config,
    wishes: &Wishes,
    before: &Cluster,
) -> Vec<Problem> {
    let families = families(cluster, config, wishes);
    if cluster.nodes.is_empty() {
        let count = wishes.nodes.unwrap_or(NODES);
        cluster.nodes = (0..count).map(made_node).collect();
    }
    let mut problems = Vec::new();
    fill_nodes(cluster, config, &families, before);
    if config.service_cidrs.is_empty() && cluster.service_cidrs.is_empty() {
        config.service_cidrs = families
            .iter()
            .filter_map(|family| SERVICE_RANGES[at(*family)].parse().ok())
            .collect();
    }
    if config.cluster_cidrs.is_empty() {
        let all = cluster.nodes.values().flat_map(|node| &node.pod_cidrs);
        config.cluster_cidrs = IpNet::aggregate(&all.copied().collect());
    }
    for workload in cluster.workloads.clone() {
        if let Some(replicas) = workload.replicas.filter(|n| *n > MOST_REPLICAS) {
            let object = format!("{} {}", workload.kind, workload.name);
            let message = format!("is {replicas}; a lab has up to {MOST_REPLICAS}");
            let origin = Some(&workload.origin);
            problems.push(Problem::error(origin, object, "spec.replicas", message));
            continue;
        }
        make_pods(cluster, &workload);
    }
    problems.extend(schedule(cluster, before));
    load_balancers(cluster, before);
    keep(cluster, before);
    // Any node: service ranges and node ports are the same for all.
    let some = cluster.nodes.keys().next().cloned().unwrap_or_default();
    let named = Config {
        node_name: some,
        ..config.clone()
    };
    let (context, found) = NodeContext::resolve(cluster, &named, &[]);
    problems.extend(found);
    problems.extend(complete(cluster, &named, &context));
    problems
}

const fn at(family: Family) -> usize {
    match family {
        Family::Ip => 0,
        Family::Ip6 => 1,
    }
}

/// Families of what is made up: IPv4, and IPv6 if anything speaks of it; IPv6 alone if all
/// that has an address or range has one of IPv6.
fn families(cluster: &Cluster, config: &Config, wishes: &Wishes) -> Vec<Family> {
    if !wishes.families.is_empty() {
        return wishes.families.clone();
    }
    let mut found: BTreeSet<Family> = BTreeSet::new();
    let nets = config.service_cidrs.iter().chain(&config.cluster_cidrs);
    let ranges = cluster
        .service_cidrs
        .values()
        .flat_map(|range| &range.cidrs);
    found.extend(nets.chain(ranges).map(|net| Family::of(&net.addr())));
    for node in cluster.nodes.values() {
        found.extend(node.addresses.iter().map(Family::of));
        found.extend(node.pod_cidrs.iter().map(|net| Family::of(&net.addr())));
    }
    found.extend(
        cluster
            .pods
            .values()
            .flat_map(|pod| pod.addresses.iter().map(Family::of)),
    );
    found.extend(
        cluster
            .slices
            .values()
            .flat_map(|all| all.iter().map(|slice| slice.family)),
    );
    for service in cluster.services.values() {
        found.extend(
            service
                .cluster_ips
                .iter()
                .chain(&service.external_ips)
                .map(Family::of),
        );
        found.extend(&service.ip_families);
        if service.family_policy != FamilyPolicy::SingleStack {
            found.extend(FAMILIES);
        }
    }
    if found.is_empty() {
        found.insert(Family::Ip);
    }
    found.into_iter().collect()
}

fn made_node(n: usize) -> (String, Node) {
    let name = format!("node{}", n + 1);
    let node = Node {
        name: name.clone(),
        origin: origin(),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        zone: None,
        deleting: false,
        autoscaler_taint: false,
    };
    (name, node)
}

/// Addresses and prefixes for pods that Nodes do not say: those from before, of its number, or
/// the next that no other has.
fn fill_nodes(cluster: &mut Cluster, config: &Config, families: &[Family], before: &Cluster) {
    for (name, node) in &mut cluster.nodes {
        let Some(old) = before.nodes.get(name) else {
            continue;
        };
        if node.addresses.is_empty() {
            node.addresses.clone_from(&old.addresses);
        }
        if node.pod_cidrs.is_empty() {
            node.pod_cidrs.clone_from(&old.pod_cidrs);
        }
    }
    let nodes = cluster.nodes.values();
    let mut taken: BTreeSet<IpAddr> = nodes.clone().flat_map(|n| n.addresses.clone()).collect();
    let mut nets: Vec<IpNet> = nodes.flat_map(|node| node.pod_cidrs.clone()).collect();
    for (n, node) in cluster.nodes.values_mut().enumerate() {
        for family in families {
            let of = |addr: &IpAddr| Family::of(addr) == *family;
            if !node.addresses.iter().any(of) {
                let mut numbers = n as u128..;
                let addr = |number| nth(NODE_ADDRESSES[at(*family)], number);
                let free = numbers.find_map(|n| Some(addr(n)).filter(|a| !taken.contains(a)));
                taken.extend(free);
                node.addresses.extend(free);
            }
            if !node.pod_cidrs.iter().any(|net| of(&net.addr())) {
                let all = all_pods(config, *family);
                let free = |cidr: &IpNet| {
                    !nets
                        .iter()
                        .any(|net| net.contains(cidr) || cidr.contains(net))
                };
                let new = all.and_then(|(all, each)| all.subnets(each).ok()?.skip(n).find(free));
                nets.extend(new);
                node.pod_cidrs.extend(new);
            }
        }
    }
}

/// Where prefixes for pods are made up: in the cluster CIDR, or 172.17.0.0/16 and
/// fd00:17::/48; and how long each of them is.
fn all_pods(config: &Config, family: Family) -> Option<(IpNet, u8)> {
    let given = config
        .cluster_cidrs
        .iter()
        .find(|net| Family::of(&net.addr()) == family);
    let all = match given {
        Some(given) => *given,
        None => PODS[at(family)].parse().ok()?,
    };
    let length = all.prefix_len();
    let each = match [(24, 30), (64, 126)][at(family)] {
        (usual, _) if length < usual => usual,
        (_, most) => length.max(most.min(length + 2)),
    };
    Some((all.trunc(), each))
}

fn origin() -> Origin {
    Origin {
        source: ORIGIN.into(),
        ..Origin::default()
    }
}

/// The address so far behind another.
pub fn nth(addr: IpAddr, n: u128) -> IpAddr {
    match addr {
        IpAddr::V4(addr) => {
            let n = u32::try_from(n).unwrap_or(u32::MAX);
            Ipv4Addr::from_bits(addr.to_bits().saturating_add(n)).into()
        }
        IpAddr::V6(addr) => Ipv6Addr::from_bits(addr.to_bits().saturating_add(n)).into(),
    }
}

/// The pods that a workload lacks. Those of a DaemonSet are called after their nodes, those of
/// a StatefulSet are counted from 0.
fn make_pods(cluster: &mut Cluster, workload: &Workload) {
    let pod = |name: String, node: Option<String>| Pod {
        name: ObjectName::new(workload.name.namespace.clone(), name),
        origin: workload.origin.clone(),
        labels: workload.labels.clone(),
        node_name: node,
        addresses: Vec::new(),
        ports: workload.ports.clone(),
        ready: true,
        finished: false,
        terminating: false,
        created: None,
        host_network: workload.host_network,
    };
    let counts = |pod: &&Pod| workload.has(pod) && !pod.finished && !pod.terminating;
    let name = &workload.name.name;
    let mut new = Vec::new();
    match workload.replicas {
        None => {
            let with: BTreeSet<_> = cluster
                .pods
                .values()
                .filter(counts)
                .collect::<Vec<_>>()
                .into_iter()
                .filter_map(|pod| pod.node_name.clone())
                .collect();
            let without = cluster.nodes.keys().filter(|node| !with.contains(*node));
            new.extend(without.map(|node| pod(format!("{name}-{node}"), Some(node.clone()))));
        }
        Some(replicas) => {
            let there = cluster.pods.values().filter(counts).count();
            let first = usize::from(workload.kind != "StatefulSet");
            let names = (first..).map(|n| format!("{name}-{n}"));
            let free = names.filter(|name| {
                let name = ObjectName::new(workload.name.namespace.clone(), name.as_str());
                !cluster.pods.contains_key(&name)
            });
            let missing = (replicas as usize).saturating_sub(there);
            new.extend(free.take(missing).map(|name| pod(name, None)));
        }
    }
    cluster
        .pods
        .extend(new.into_iter().map(|pod| (pod.name.clone(), pod)));
}

/// What a node has to give, and gave.
struct Room {
    pods: usize,
    /// How many pods more its prefixes have addresses for.
    left: u32,
    addresses: Vec<IpAddr>,
    cidrs: Vec<IpNet>,
    host_ports: BTreeSet<(Protocol, u16)>,
}

impl Room {
    fn take(&mut self, pod: &Pod) {
        self.pods += 1;
        if !pod.host_network {
            self.left = self.left.saturating_sub(1);
        }
        self.host_ports.extend(host_ports(pod));
    }
}

/// How many pods a prefix has addresses for: all but the network's, the bridge's and the last.
fn hosts(cidr: &IpNet) -> u32 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    2_u32.saturating_pow(bits).saturating_sub(3)
}

/// The ports of its node that a pod takes.
fn host_ports(pod: &Pod) -> impl Iterator<Item = (Protocol, u16)> {
    let port = |port: &ContainerPort| {
        let number = if pod.host_network {
            Some(port.port)
        } else {
            port.host_port
        };
        Some((port.protocol, number?.get()))
    };
    pod.ports.iter().filter_map(port)
}

/// A node and addresses for each pod that has none. One that finds no room stays where it is
/// not, as a pending pod does, and is told.
fn schedule(cluster: &mut Cluster, before: &Cluster) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut rooms: BTreeMap<String, Room> = BTreeMap::new();
    for (name, node) in &cluster.nodes {
        let room = Room {
            pods: 0,
            left: node.pod_cidrs.iter().map(hosts).min().unwrap_or(0),
            addresses: node.addresses.clone(),
            cidrs: node.pod_cidrs.clone(),
            host_ports: BTreeSet::new(),
        };
        rooms.insert(name.clone(), room);
    }
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for pod in cluster.pods.values_mut() {
        if let Some(old) = before.pods.get(&pod.name) {
            let known = |node: &String| rooms.contains_key(node);
            if pod.node_name.is_none() && old.node_name.as_ref().is_some_and(known) {
                pod.node_name.clone_from(&old.node_name);
            }
            let room = pod.node_name.as_ref().and_then(|node| rooms.get(node));
            let has = |room: &Room, addr| {
                room.addresses.contains(addr) || room.cidrs.iter().any(|net| net.contains(addr))
            };
            let holds = room.is_some_and(|room| old.addresses.iter().all(|addr| has(room, addr)));
            if pod.addresses.is_empty() && holds {
                pod.addresses.clone_from(&old.addresses);
            }
        }
        taken.extend(&pod.addresses);
        if let Some(room) = pod.node_name.as_ref().and_then(|node| rooms.get_mut(node)) {
            room.take(pod);
        }
    }
    let slices = cluster.slices.values().flat_map(|slices| slices.iter());
    taken.extend(slices.flat_map(|slice| slice.endpoints.iter().map(|e| e.address)));
    for pod in cluster.pods.values_mut().filter(|pod| !pod.finished) {
        if pod.node_name.is_none() {
            let fits = |room: &Room| host_ports(pod).all(|port| !room.host_ports.contains(&port));
            let fitting = rooms.iter_mut().filter(|(_, room)| fits(room));
            let fullest_last = |room: &Room| (room.left == 0 && !pod.host_network, room.pods);
            let Some((node, room)) = fitting.min_by_key(|(_, room)| fullest_last(room)) else {
                problems.push(pending(pod, "no node has its hostPorts free"));
                continue;
            };
            room.take(pod);
            pod.node_name = Some(node.clone());
        }
        let Some(room) = pod.node_name.as_ref().and_then(|node| rooms.get(node)) else {
            continue;
        };
        if !pod.addresses.is_empty() {
            continue;
        }
        if pod.host_network {
            pod.addresses.clone_from(&room.addresses);
            continue;
        }
        if room.cidrs.is_empty() {
            problems.push(pending(pod, "its node has no podCIDR"));
        }
        for cidr in &room.cidrs {
            // The network's own address, and the bridge's.
            let mut candidates = (2..).map(|n| nth(cidr.network(), n));
            match candidates.find(|addr| !cidr.contains(addr) || !taken.contains(addr)) {
                Some(addr) if cidr.contains(&addr) && addr != cidr.broadcast() => {
                    taken.insert(addr);
                    pod.addresses.push(addr);
                }
                _ => problems.push(pending(pod, &format!("{cidr} has no address left"))),
            }
        }
    }
    problems
}

fn pending(pod: &Pod, why: &str) -> Problem {
    let object = format!("Pod {}", pod.name);
    Problem::warning(
        Some(&pod.origin),
        object,
        "spec.nodeName",
        format!("stays pending: {why}"),
    )
}

/// An address of each of its families for a load balancer that has none: the one it asks for,
/// or the next.
fn load_balancers(cluster: &mut Cluster, before: &Cluster) {
    let all = |cluster: &Cluster| -> BTreeSet<IpAddr> {
        let services = cluster.services.values();
        services
            .flat_map(|service| service.load_balancer_ips.clone())
            .collect()
    };
    let mut taken = all(cluster);
    taken.extend(all(before));
    let families: BTreeSet<Family> = cluster
        .nodes
        .values()
        .flat_map(|node| node.pod_cidrs.iter().map(|net| Family::of(&net.addr())))
        .collect();
    for service in cluster.services.values_mut() {
        let lacks = service.load_balancer_ips.is_empty();
        if service.service_type != ServiceType::LoadBalancer || !lacks {
            continue;
        }
        if let Some(old) = before
            .service(&service.name)
            .filter(|s| !s.load_balancer_ips.is_empty())
        {
            service.load_balancer_ips.clone_from(&old.load_balancer_ips);
            continue;
        }
        if let Some(asked) = service.load_balancer_ip {
            service.load_balancer_ips.push(asked);
            continue;
        }
        let own: BTreeSet<Family> = match &service.ip_families[..] {
            [] if service.cluster_ips.is_empty() => families.clone(),
            [] => service.cluster_ips.iter().map(Family::of).collect(),
            named => named.iter().copied().collect(),
        };
        for family in own {
            let mut addresses = (0..).map(|n| nth(LOAD_BALANCERS[at(family)], n));
            let next = addresses.find(|addr| !taken.contains(addr));
            taken.extend(next);
            service.load_balancer_ips.extend(next);
        }
    }
}

/// clusterIPs and node ports that were assigned before.
fn keep(cluster: &mut Cluster, before: &Cluster) {
    for service in cluster.services.values_mut() {
        let Some(old) = before.service(&service.name) else {
            continue;
        };
        if service.cluster_ips.is_empty() && !service.headless {
            service.cluster_ips.clone_from(&old.cluster_ips);
        }
        if !matches!(
            service.service_type,
            ServiceType::NodePort | ServiceType::LoadBalancer
        ) {
            continue;
        }
        for port in service
            .ports
            .iter_mut()
            .filter(|port| port.node_port.is_none())
        {
            let same = |other: &&crate::cluster::ServicePort| {
                (other.port, other.protocol) == (port.port, port.protocol)
            };
            port.node_port = old.ports.iter().find(same).and_then(|port| port.node_port);
        }
    }
}
