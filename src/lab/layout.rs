//! Which places a lab has, how they are connected, and who answers where: out of objects and
//! the Topology document, before anything is made.
//!
//! ```text
//!   pod/web-1  pod/web-2             client (203.0.113.9)
//!        \      /                       |
//!         docker0 (.1 of the podCIDR)  outside0
//!            node/node1 --- phys0 --- router
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::assign::nth;
use super::file::Topology;
use super::network::{Cable, Kind, Network, Place, Route};
use super::server::Answer;
use crate::cluster::{
    Cluster, Family, Name, Node, ObjectName, Pod, Protocol, Service, TargetPort, TrafficPolicy,
};
use crate::problem::Problem;

/// The name of the place between nodes and clients.
pub const ROUTER: &str = "router";
/// The name of the client that every lab has, and where it is.
pub const CLIENT: &str = "client";
const CLIENT_ADDRESSES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9)),
];
/// The router's addresses on the clients' side.
const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// What clients answer at.
const CLIENT_PORT: u16 = 80;
/// Bridges: of a node's pods, of the nodes, of the clients.
pub const POD_BRIDGE: &str = "docker0";
const NODES_BRIDGE: &str = "phys0";
const CLIENTS_BRIDGE: &str = "outside0";
/// What every place calls its first interface.
const DEVICE: &str = "eth0";
/// Prefixes of the nodes' network around their addresses.
const NODE_PREFIX: [u8; 2] = [24, 64];

/// `pod/NAME`, with its namespace if that is not `default`.
#[must_use]
pub fn pod_place(name: &ObjectName) -> String {
    format!("pod/{}", short(name))
}

/// `NAME`, or `NAMESPACE/NAME` outside of `default`: what a pod answers with.
#[must_use]
pub fn short(name: &ObjectName) -> String {
    match &*name.namespace {
        "default" => name.name.to_string(),
        _ => name.to_string(),
    }
}

/// What the name of a place means: `pod/default/web` is `pod/web`.
#[must_use]
pub fn place_name(said: &str) -> String {
    let pod = said.strip_prefix("pod/default/");
    pod.map_or_else(|| said.to_owned(), |name| format!("pod/{name}"))
}

/// For who named a place that there is not: the one that he may have meant.
#[must_use]
pub fn meant<'n>(said: &str, names: impl Iterator<Item = &'n str> + Clone) -> String {
    let without_kind = |name: &&str| name.split_once('/').is_some_and(|(_, own)| own == said);
    match names.clone().find(without_kind) {
        Some(name) => format!("; did you mean {name}?"),
        None => crate::text::did_you_mean(said, names),
    }
}

/// The network that objects ask for, which must be completed. On nodes that are not
/// `managed` nobody sets routes and forwarding but the lab. The router knows where pods are if
/// svcnat does `not_route` to them.
pub fn network(
    cluster: &Cluster,
    topology: &Topology,
    managed: impl Fn(&str) -> bool,
    not_route: bool,
) -> (Network, Vec<Problem>) {
    let mut network = Network::default();
    let mut problems = Vec::new();
    network
        .places
        .insert(ROUTER.to_owned(), router(cluster, not_route));
    let families: BTreeSet<Family> = cluster
        .nodes
        .values()
        .flat_map(|node| node.addresses.iter().map(Family::of))
        .collect();
    let usual = CLIENT_ADDRESSES
        .into_iter()
        .filter(|addr| families.contains(&Family::of(addr)));
    network.add_client(CLIENT, CLIENT, usual.collect(), &[]);
    for (n, client) in topology.clients.iter().enumerate() {
        let mut addresses = client.addresses.iter();
        if let Some((addr, other)) = addresses.find_map(|a| Some((a, network.owner(*a)?))) {
            let field = format!("clients[{n}].addresses");
            let message = format!("{addr} is an address of {other} as well");
            problems.push(Problem::error(None, "Topology", field, message));
        }
        let name = format!("client/{}", client.name);
        network.add_client(&name, &client.name, client.addresses.clone(), &client.ports);
    }
    for node in cluster.nodes.values() {
        problems.extend(network.add_node(node, cluster, managed(&node.name)));
    }
    for pod in cluster.pods.values() {
        problems.extend(network.add_pod(pod, cluster));
    }
    network.add_endpoints_without_pods(cluster);
    network.route_services(cluster);
    problems.extend(network.follow(topology));
    (network, problems)
}

const fn at(family: Family) -> usize {
    match family {
        Family::Ip => 0,
        Family::Ip6 => 1,
    }
}

fn within(addr: IpAddr, length: u8) -> Option<IpNet> {
    IpNet::new(addr, length).ok()
}

/// The network around a node's address.
fn node_network(addr: IpAddr) -> Option<IpNet> {
    Some(within(addr, NODE_PREFIX[at(Family::of(&addr))])?.trunc())
}

/// All addresses of a family.
pub fn everywhere(family: Family) -> IpNet {
    match family {
        Family::Ip => IpNet::V4(ipnet::Ipv4Net::default()),
        Family::Ip6 => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// Nodes whose svcnat cannot route to the first one's pods, as they are no neighbours of it.
pub(super) fn far_apart<'c>(nodes: impl Iterator<Item = &'c Node>) -> Vec<Problem> {
    let mut first: BTreeMap<Family, (&str, IpNet)> = BTreeMap::new();
    let mut problems = Vec::new();
    for node in nodes {
        let mut seen = BTreeSet::new();
        for addr in &node.addresses {
            let Some(net) = node_network(*addr).filter(|_| seen.insert(Family::of(addr))) else {
                continue;
            };
            let (other, others) = *first.entry(Family::of(addr)).or_insert((&node.name, net));
            if net != others {
                let message = format!(
                    "{addr} is not in {others}, as {other} is, and svcnat routes to pods of neighbours alone; \
                     with manageRoutes false (--manage-routes=false) the lab's router does it"
                );
                let object = format!("Node {}", node.name);
                let origin = Some(&node.origin);
                problems.push(Problem::error(origin, object, "status.addresses", message));
            }
        }
    }
    problems
}

/// The router's address in a network of nodes: its first that no node has.
fn gateway(net: &IpNet, nodes: &BTreeSet<IpAddr>) -> IpAddr {
    let mut candidates = (1..).map(|n| nth(net.network(), n));
    candidates
        .find(|addr| !nodes.contains(addr))
        .unwrap_or(net.network())
}

fn node_addresses(cluster: &Cluster) -> BTreeSet<IpAddr> {
    cluster
        .nodes
        .values()
        .flat_map(|node| node.addresses.clone())
        .collect()
}

/// A route to each pod CIDR of a node, by its first address of that family.
fn routes_to_pods(node: &Node) -> impl Iterator<Item = Route> {
    node.pod_cidrs.iter().filter_map(|net| {
        let family = Family::of(&net.addr());
        let hop = node.addresses.iter().find(|a| Family::of(a) == family);
        Some(Route::via(*net, *hop?))
    })
}

fn router(cluster: &Cluster, leads_to_pods: bool) -> Place {
    let nodes = node_addresses(cluster);
    let nets: BTreeSet<IpNet> = nodes
        .iter()
        .filter_map(|addr| node_network(*addr))
        .collect();
    let inside = nets
        .iter()
        .filter_map(|net| within(gateway(net, &nodes), net.prefix_len()));
    let mut router = Place::new(Kind::Router, ROUTER, Vec::new());
    router
        .bridges
        .insert(NODES_BRIDGE.to_owned(), inside.collect());
    let families: BTreeSet<Family> = nodes.iter().map(Family::of).collect();
    let outside = families
        .iter()
        .filter_map(|family| within(OUTSIDE[at(*family)], NODE_PREFIX[at(*family)]));
    router
        .bridges
        .insert(CLIENTS_BRIDGE.to_owned(), outside.collect());
    router.forwards = true;
    let nodes = cluster.nodes.values().filter(|_| leads_to_pods);
    router.routes.extend(nodes.flat_map(routes_to_pods));
    router.addresses = router.bridges.values().flatten().map(IpNet::addr).collect();
    router
}

impl Network {
    fn place(&mut self, name: &str) -> Option<&mut Place> {
        self.places.get_mut(name)
    }

    fn connect(&mut self, place: &str, to: &str, bridge: &str) {
        // Interfaces have names of up to 15 bytes (IFNAMSIZ).
        let port = format!("port{}", self.cables.len());
        self.cables.push(Cable {
            place: place.to_owned(),
            device: DEVICE.to_owned(),
            to: to.to_owned(),
            bridge: Some(bridge.to_owned()),
            port,
            hairpin: bridge == POD_BRIDGE,
            mtu: None,
            up: true,
        });
    }

    fn add_node(&mut self, node: &Node, cluster: &Cluster, managed: bool) -> Option<Problem> {
        let bridges = node.pod_cidrs.iter().map(|net| nth(net.network(), 1));
        let bridges = bridges.map(|addr| ("spec.podCIDRs", addr));
        let own = node
            .addresses
            .iter()
            .map(|addr| ("status.addresses", *addr));
        let mut all_own = own.chain(bridges);
        let clash = all_own.find_map(|(field, addr)| Some((field, addr, self.owner(addr)?)));
        let clash = clash.map(|(field, addr, other)| {
            let message = format!("{addr} is an address of {other} as well");
            Problem::error(
                Some(&node.origin),
                format!("Node {}", node.name),
                field,
                message,
            )
        });
        let all = node_addresses(cluster);
        let mut place = Place::new(Kind::Node, &node.name, node.addresses.clone());
        let mut families = BTreeSet::new();
        let mut own = Vec::new();
        for addr in &node.addresses {
            let Some(net) = node_network(*addr) else {
                continue;
            };
            own.extend(within(*addr, net.prefix_len()));
            // The first of a family is the node's way out.
            if families.insert(Family::of(addr)) {
                let to = everywhere(Family::of(addr));
                place.routes.insert(Route::via(to, gateway(&net, &all)));
            }
        }
        place.interfaces.insert(DEVICE.to_owned(), own);
        let bridge = node
            .pod_cidrs
            .iter()
            .filter_map(|net| within(nth(net.network(), 1), net.prefix_len()));
        place
            .bridges
            .insert(POD_BRIDGE.to_owned(), bridge.collect());
        place.forwards = !managed;
        if !managed {
            // To those that are not on link the default route leads.
            let near = |route: &Route| {
                let hop = route.via.and_then(node_network);
                node.addresses.iter().any(|addr| node_network(*addr) == hop)
            };
            let others = cluster.nodes.values().filter(|o| o.name != node.name);
            let routes = others.flat_map(routes_to_pods).filter(near);
            place.routes.extend(routes);
        }
        let name = format!("node/{}", node.name);
        self.places.insert(name.clone(), place);
        self.connect(&name, ROUTER, NODES_BRIDGE);
        clash
    }

    fn add_pod(&mut self, pod: &Pod, cluster: &Cluster) -> Option<Problem> {
        let node = pod.node_name.as_ref().filter(|_| !pod.finished)?;
        let wrong = |field: &str, message: String| {
            Some(Problem::error(
                Some(&pod.origin),
                format!("Pod {}", pod.name),
                field,
                message,
            ))
        };
        let Some(of) = cluster.nodes.get(node) else {
            let names: Vec<&str> = cluster.nodes.keys().map(String::as_str).collect();
            let names = names.join(", ");
            return wrong(
                "spec.nodeName",
                format!("{node:?} is no Node; expected one of {names}"),
            );
        };
        if pod.addresses.is_empty() {
            return None;
        }
        let answers = answers(pod, cluster);
        if pod.host_network {
            let named = |answer: Answer| Answer {
                name: Some(short(&pod.name)),
                ..answer
            };
            let place = self.place(&format!("node/{node}"))?;
            if let Some(taken) = answers.iter().find(|answer| place.answers_at(answer)) {
                let message = format!(
                    "{node} answers at {}/{} already, for another pod with hostNetwork",
                    taken.port, taken.protocol
                );
                return wrong("spec.containers[].ports", message);
            }
            place.answers.extend(answers.into_iter().map(named));
            return None;
        }
        for addr in &pod.addresses {
            if let Some(other) = self.owner(*addr) {
                let message = format!("{addr} is an address of {other} as well");
                return wrong("status.podIPs", message);
            }
            if !of.pod_cidrs.iter().any(|net| net.contains(addr)) {
                let nets: Vec<String> = of.pod_cidrs.iter().map(ToString::to_string).collect();
                let nets = nets.join(", ");
                return wrong(
                    "status.podIPs",
                    format!("{addr} is in no podCIDR of {node} ({nets})"),
                );
            }
        }
        self.add_on_bridge(
            &pod_place(&pod.name),
            &short(&pod.name),
            of,
            &pod.addresses,
            answers,
        );
        None
    }

    fn add_on_bridge(
        &mut self,
        name: &str,
        says: &str,
        node: &Node,
        addresses: &[IpAddr],
        answers: BTreeSet<Answer>,
    ) {
        let mut place = Place::new(Kind::Pod, says, addresses.to_vec());
        let mut own = Vec::new();
        for addr in addresses {
            let Some(net) = node.pod_cidrs.iter().find(|net| net.contains(addr)) else {
                continue;
            };
            own.extend(within(*addr, net.prefix_len()));
            let to = everywhere(Family::of(addr));
            place.routes.insert(Route::via(to, nth(net.network(), 1)));
        }
        place.interfaces.insert(DEVICE.to_owned(), own);
        place.answers = answers;
        self.places.insert(name.to_owned(), place);
        self.connect(name, &format!("node/{}", node.name), POD_BRIDGE);
    }

    /// A host of any addresses: the router has a route to each. One with an address of the
    /// nodes' network is in that.
    fn add_client(&mut self, name: &str, says: &str, addresses: Vec<IpAddr>, ports: &[u16]) {
        let mut place = Place::new(Kind::Client, says, addresses.clone());
        let mut own = Vec::new();
        let near = self.places[ROUTER].bridges[NODES_BRIDGE].clone();
        let near = |addr: &IpAddr| near.iter().find(|net| net.contains(addr));
        let bridge = match addresses.iter().find_map(near) {
            Some(_) => NODES_BRIDGE,
            None => CLIENTS_BRIDGE,
        };
        for addr in &addresses {
            let family = Family::of(addr);
            if let Some(net) = near(addr) {
                own.extend(within(*addr, net.prefix_len()));
                let out = Route::via(everywhere(family), net.addr());
                place.routes.insert(out);
                continue;
            }
            let gateway = OUTSIDE[at(family)];
            own.push(IpNet::from(*addr));
            let neighbour = Route::at(gateway.into(), DEVICE);
            place
                .routes
                .extend([neighbour, Route::via(everywhere(family), gateway)]);
            if let Some(router) = self.place(ROUTER) {
                let to = Route::at(IpNet::from(*addr), bridge);
                router.routes.insert(to);
            }
        }
        place.interfaces.insert(DEVICE.to_owned(), own);
        let ports = if ports.is_empty() {
            &[CLIENT_PORT][..]
        } else {
            ports
        };
        place.answers = ports.iter().flat_map(|port| both(*port)).collect();
        self.places.insert(name.to_owned(), place);
        self.connect(name, ROUTER, bridge);
    }

    /// Endpoints that no Pod has: on a bridge if a node's podCIDR has the address, else beyond
    /// the router.
    fn add_endpoints_without_pods(&mut self, cluster: &Cluster) {
        let mut all: BTreeMap<IpAddr, BTreeSet<Answer>> = BTreeMap::new();
        for slice in cluster.slices.values().flat_map(|slices| slices.iter()) {
            for endpoint in &slice.endpoints {
                let ports = slice
                    .ports
                    .iter()
                    .map(|port| Answer::at(port.protocol, port.port.get()));
                all.entry(endpoint.address).or_default().extend(ports);
            }
        }
        for (addr, answers) in all {
            let owner = self.owner(addr).map(str::to_owned);
            if let Some(place) = owner.and_then(|owner| self.places.get_mut(&owner)) {
                let new = answers
                    .iter()
                    .filter(|answer| !place.answers_at(answer))
                    .cloned();
                let new: Vec<Answer> = new.collect();
                place.answers.extend(new);
                continue;
            }
            let holds = |node: &&Node| node.pod_cidrs.iter().any(|net| net.contains(&addr));
            match cluster.nodes.values().find(holds) {
                Some(node) => {
                    let says = addr.to_string();
                    self.add_on_bridge(&format!("pod/{addr}"), &says, node, &[addr], answers);
                }
                None => {
                    let name = format!("client/{addr}");
                    self.add_client(&name, &addr.to_string(), vec![addr], &[]);
                    self.places
                        .entry(name)
                        .and_modify(|place| place.answers = answers);
                }
            }
        }
    }

    /// Where the router sends addresses that the outside reaches Services by: to a node, under
    /// the policy Local to one that has an endpoint.
    fn route_services(&mut self, cluster: &Cluster) {
        let mut routes = Vec::new();
        for service in cluster.services.values() {
            for addr in service
                .external_ips
                .iter()
                .chain(&service.load_balancer_ips)
            {
                let family = Family::of(addr);
                let has = |node: &&Node| node.addresses.iter().any(|a| Family::of(a) == family);
                let mut nodes = cluster.nodes.values().filter(has);
                let first = nodes.clone().next();
                let local = service.external_traffic_policy == TrafficPolicy::Local;
                let chosen = nodes
                    .find(|node| !local || serves(cluster, service, &node.name))
                    .or(first);
                let hop =
                    chosen.and_then(|node| node.addresses.iter().find(|a| Family::of(a) == family));
                if let Some(hop) = hop.filter(|_| self.owner(*addr).is_none()) {
                    routes.push(Route::via(IpNet::from(*addr), *hop));
                }
            }
        }
        if let Some(router) = self.place(ROUTER) {
            router.routes.extend(routes);
        }
    }

    /// What the document says besides.
    fn follow(&mut self, topology: &Topology) -> Vec<Problem> {
        let mut problems = Vec::new();
        let names: Vec<String> = self.places.keys().cloned().collect();
        let mut unknown = |field: String, place: &str| {
            let near = meant(place, names.iter().map(String::as_str));
            let message = format!("the lab has no {place}{near}");
            problems.push(Problem::error(None, "Topology", field, message));
        };
        for (n, link) in topology.links.iter().enumerate() {
            if !self.places.contains_key(&link.place) {
                unknown(format!("links[{n}].place"), &link.place);
                continue;
            }
            if link.device != DEVICE {
                self.add_uplink(link);
            }
            let same =
                |cable: &&mut Cable| cable.place == link.place && cable.device == link.device;
            if let Some(cable) = self.cables.iter_mut().find(same) {
                (cable.mtu, cable.up) = (link.mtu, link.up);
            }
        }
        for (n, route) in topology.routes.iter().enumerate() {
            match self.places.get_mut(&route.place) {
                Some(place) => drop(place.routes.insert(Route::via(route.to, route.via))),
                None => unknown(format!("routes[{n}].place"), &route.place),
            }
        }
        for (n, rules) in topology.rules.iter().enumerate() {
            if !self.places.contains_key(&rules.place) {
                unknown(format!("rules[{n}].place"), &rules.place);
            }
        }
        problems
    }

    /// A further interface, to a network of its own on the router.
    fn add_uplink(&mut self, link: &super::file::Link) {
        let bridge = format!("net-{}", link.device);
        let own: BTreeSet<IpAddr> = link.addresses.iter().map(IpNet::addr).collect();
        if let Some(router) = self.place(ROUTER) {
            let addresses = router.bridges.entry(bridge.clone()).or_default();
            for net in &link.addresses {
                if !addresses.iter().any(|known| known.contains(&net.addr())) {
                    addresses.extend(within(gateway(&net.trunc(), &own), net.prefix_len()));
                }
            }
        }
        if let Some(place) = self.place(&link.place) {
            place
                .interfaces
                .insert(link.device.clone(), link.addresses.clone());
            place.addresses.extend(own);
        }
        self.connect(&link.place, ROUTER, &bridge);
        if let Some(cable) = self.cables.last_mut() {
            cable.device.clone_from(&link.device);
        }
    }
}

fn both(port: u16) -> [Answer; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Answer::at(protocol, port))
}

/// Does a pod on this node serve it?
fn serves(cluster: &Cluster, service: &Service, node: &str) -> bool {
    let slices = cluster.slices_of(&service.name);
    let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    endpoints.any(|endpoint| endpoint.ready && endpoint.node_name.as_deref() == Some(node))
}

/// Where a pod answers: at the ports of its containers, and at those that Services which
/// select it lead to.
fn answers(pod: &Pod, cluster: &Cluster) -> BTreeSet<Answer> {
    let own = pod
        .ports
        .iter()
        .map(|port| Answer::at(port.protocol, port.port.get()));
    let mut answers: BTreeSet<Answer> = own.collect();
    let selects = |service: &&Service| {
        let label = |(key, value): &(Name, Name)| {
            pod.labels.get(&**key).is_some_and(|has| **has == **value)
        };
        service.name.namespace == pod.name.namespace
            && !service.selector.is_empty()
            && service.selector.iter().all(label)
    };
    for service in cluster.services.values().map(Box::as_ref).filter(selects) {
        for port in &service.ports {
            if let TargetPort::Number(number) = port.target_port {
                answers.insert(Answer::at(port.protocol, number.get()));
            }
        }
    }
    answers
}
