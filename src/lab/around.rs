//! One node, and as many hosts around it as questions need: each of them a neighbour that sends
//! everything its way, so that the node meets every packet.
//!
//! ```text
//!   172.17.0.2  172.17.0.9 ...      172.17.1.2 ... 203.0.113.9  10.254.0.10 ...
//!        \       /                       |             |            |
//!         docker0 --- the node -------- eth0 ------ a switch -------+
//! ```
//!
//! Whoever has an address answers at it, service addresses included: what the node refuses,
//! drops or leads elsewhere is answered by its owner while no rules are there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::LabError;
use super::assign::nth;
use super::client::{Outcome, ask_often};
use super::layout::{POD_BRIDGE, everywhere};
use super::namespace::Namespace;
use super::network::{Cable, Kind, Network, Place, Route};
use super::server::{Answer, Servers};
use super::wire::{Namespaces, make};
use crate::cluster::{Family, Protocol};
use crate::config::Config;
use crate::net::Question;
use crate::plan::NodeContext;

const SWITCH: &str = "switch";
const DEVICE: &str = "eth0";
/// What a node without a name in the settings is called, and one that they do not speak of.
const NODE: &str = "node";
const OTHER: &str = "another node";

/// A node as its surroundings see it.
#[derive(Clone, Debug, Default)]
pub struct Vantage {
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Prefixes of its pods; the first address of each is the bridge's.
    pub pod_cidrs: Vec<IpNet>,
    /// Other nodes: name, addresses, prefixes of their pods.
    pub others: Vec<(String, Vec<IpAddr>, Vec<IpNet>)>,
    /// Prefixes of all pods.
    pub cluster_cidrs: Vec<IpNet>,
}

impl Vantage {
    /// Of the node that settings and objects are about.
    #[must_use]
    pub fn of(node: &NodeContext, cluster: &crate::cluster::Cluster, config: &Config) -> Self {
        let listed = config.nodes.iter();
        let listed = listed.map(|n| (n.name.clone(), n.addresses.clone(), n.pod_cidrs.clone()));
        let nodes = cluster.nodes.values();
        let nodes = nodes.map(|n| (n.name.clone(), n.addresses.clone(), n.pod_cidrs.clone()));
        Self {
            name: node.name.clone(),
            addresses: node.addresses.clone(),
            pod_cidrs: node.pod_cidrs.clone(),
            others: listed
                .chain(nodes)
                .filter(|(name, ..)| *name != node.name)
                .collect(),
            cluster_cidrs: config.cluster_cidrs.clone(),
        }
    }

    /// The bridge's addresses.
    fn gateways(&self) -> impl Iterator<Item = IpNet> {
        let first = |net: &IpNet| IpNet::new(nth(net.network(), 1), net.prefix_len()).ok();
        self.pod_cidrs.iter().filter_map(first)
    }

    /// The place that has an address, and what it is.
    fn place(&self, addr: IpAddr) -> (String, Kind) {
        let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&addr));
        if self.has(addr) {
            return (NODE.to_owned(), Kind::Node);
        }
        if within(&self.pod_cidrs) {
            return (format!("pod/{addr}"), Kind::Pod);
        }
        let has = |(_, addresses, cidrs): &&(String, Vec<IpAddr>, Vec<IpNet>)| {
            addresses.contains(&addr) || within(cidrs)
        };
        match self.others.iter().find(has) {
            Some((name, ..)) => (format!("node/{name}"), Kind::Router),
            None if within(&self.cluster_cidrs) => (OTHER.to_owned(), Kind::Router),
            None => (format!("client/{addr}"), Kind::Client),
        }
    }

    /// How the node gets to a host: another node's pods are behind that node.
    fn route(&self, addr: IpAddr) -> Route {
        let behind = |(_, _, cidrs): &&(String, Vec<IpAddr>, Vec<IpNet>)| {
            cidrs.iter().any(|net| net.contains(&addr))
        };
        let hops = self.others.iter().find(behind);
        let hop = hops.and_then(|(_, addresses, _)| {
            let same = |hop: &&IpAddr| Family::of(hop) == Family::of(&addr);
            addresses.iter().find(same).filter(|hop| **hop != addr)
        });
        match hop {
            Some(hop) => Route::via(IpNet::from(addr), *hop),
            None => Route::at(IpNet::from(addr), DEVICE),
        }
    }

    /// Is it one of the node's own?
    #[must_use]
    pub fn has(&self, addr: IpAddr) -> bool {
        self.addresses.contains(&addr) || self.gateways().any(|net| net.addr() == addr)
    }
}

/// The network around a node, up and answering.
#[derive(Debug)]
pub struct Around {
    vantage: Vantage,
    namespaces: Namespaces,
    // Dropped with it.
    _servers: Servers,
}

impl Around {
    /// With a host for each of these addresses, and a server at each of these sockets.
    ///
    /// # Errors
    /// If something of it cannot be made.
    pub fn new(
        vantage: Vantage,
        addrs: impl IntoIterator<Item = IpAddr>,
        servers: &BTreeSet<(SocketAddr, Protocol)>,
    ) -> Result<Self, LabError> {
        let mut here: BTreeMap<String, (Kind, BTreeSet<IpAddr>)> = BTreeMap::new();
        let served = servers.iter().map(|(at, _)| at.ip());
        let others = vantage
            .others
            .iter()
            .flat_map(|(_, addresses, _)| addresses.clone());
        let own = vantage.addresses.iter().copied();
        for addr in own.chain(others).chain(served).chain(addrs) {
            let (name, kind) = vantage.place(addr);
            let entry = here.entry(name).or_insert((kind, BTreeSet::new()));
            entry.1.insert(addr);
        }
        let network = network(&vantage, &here);
        let mut namespaces = Namespaces::new();
        make(&network, &mut namespaces)?;
        let mut answering = Servers::start().map_err(LabError::making(SWITCH, "start servers"))?;
        for (at, protocol) in servers {
            let (place, _) = vantage.place(at.ip());
            let answer = Answer {
                addr: Some(at.ip()),
                ..Answer::at(*protocol, at.port())
            };
            let name = at.ip().to_string();
            let served = answering.serve(&place, &name, &namespaces[&place], &[answer]);
            served.map_err(LabError::making(&place, "answer"))?;
        }
        Ok(Self {
            vantage,
            namespaces,
            _servers: answering,
        })
    }

    /// The namespace of the node.
    #[must_use]
    pub fn node(&self) -> &Namespace {
        &self.namespaces[NODE]
    }

    /// The namespace that has this address.
    ///
    /// # Errors
    /// If none was made for it.
    pub fn at(&self, addr: IpAddr) -> Result<&Namespace, LabError> {
        let (place, _) = self.vantage.place(addr);
        self.namespaces.get(&place).ok_or(LabError::Absent(place))
    }

    /// Is it an address of the node?
    #[must_use]
    pub fn is_nodes(&self, addr: IpAddr) -> bool {
        self.vantage.has(addr)
    }

    /// Asks from one of its addresses.
    ///
    /// # Errors
    /// If nobody has that address.
    pub fn ask(&self, question: &Question) -> Result<Vec<Outcome>, LabError> {
        let asked = self.at(question.from)?.enter(|| ask_often(question));
        let from = question.from.to_string();
        asked.map_err(LabError::making(&from, "enter its namespace"))
    }
}

fn network(vantage: &Vantage, here: &BTreeMap<String, (Kind, BTreeSet<IpAddr>)>) -> Network {
    let mut network = Network::default();
    let mut switch = Place::new(Kind::Router, SWITCH, Vec::new());
    switch.bridges.insert(SWITCH.to_owned(), Vec::new());
    network.places.insert(SWITCH.to_owned(), switch);
    let mut node = Place::new(Kind::Node, &vantage.name, vantage.addresses.clone());
    let own = vantage.addresses.iter().map(|addr| IpNet::from(*addr));
    node.interfaces.insert(DEVICE.to_owned(), own.collect());
    node.bridges
        .insert(POD_BRIDGE.to_owned(), vantage.gateways().collect());
    node.forwards = true;
    for (n, (name, (kind, addrs))) in here.iter().enumerate() {
        let (to, bridge) = match kind {
            Kind::Pod => (NODE, POD_BRIDGE),
            _ => (SWITCH, SWITCH),
        };
        network.cables.push(Cable {
            place: name.clone(),
            device: DEVICE.to_owned(),
            to: to.to_owned(),
            bridge: Some(bridge.to_owned()),
            port: format!("port{n}"),
            hairpin: *kind == Kind::Pod,
            mtu: None,
            up: true,
        });
        if *kind == Kind::Node {
            continue;
        }
        if *kind != Kind::Pod {
            node.routes
                .extend(addrs.iter().map(|addr| vantage.route(*addr)));
        }
        let place = neighbour(vantage, *kind, addrs);
        network.places.insert(name.clone(), place);
    }
    network.places.insert(NODE.to_owned(), node);
    network
}

/// Everything that is not its own goes to the node.
fn neighbour(vantage: &Vantage, kind: Kind, addrs: &BTreeSet<IpAddr>) -> Place {
    let mut place = Place::new(kind, "", addrs.iter().copied().collect());
    let own = addrs.iter().map(|addr| IpNet::from(*addr)).collect();
    place.interfaces.insert(DEVICE.to_owned(), own);
    for family in addrs.iter().map(Family::of).collect::<BTreeSet<Family>>() {
        let is_of = |addr: &IpAddr| Family::of(addr) == family;
        let gateway = match kind {
            Kind::Pod => vantage.gateways().map(|net| net.addr()).find(is_of),
            _ => vantage.addresses.iter().copied().find(is_of),
        };
        if let Some(gateway) = gateway {
            let neighbour = Route::at(IpNet::from(gateway), DEVICE);
            place
                .routes
                .extend([neighbour, Route::via(everywhere(family), gateway)]);
        }
    }
    place
}
