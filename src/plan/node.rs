//! This node, resolved from the configuration, its Node object and its interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;

use crate::cluster::{Cluster, Family, ObjectName, special_in};
use crate::config::{Config, ConfigNode};
use crate::problem::Problem;
use crate::text::did_you_mean;

/// This node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeContext {
    /// Its name.
    pub name: String,
    /// Its addresses; the first of each family is the primary one.
    pub addresses: Vec<IpAddr>,
    /// Its pods' addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Its zone.
    pub zone: Option<String>,
    /// Service ranges: configured ones and those of ServiceCIDR objects.
    pub service_ranges: Vec<IpNet>,
    /// Where API servers answer: those that are followed, and the endpoints of the Service
    /// `default/kubernetes`.
    pub protected: BTreeSet<SocketAddr>,
    /// Slots that a weighted list may take.
    pub weighted_slots: u32,
}

impl NodeContext {
    /// Flags and file first, then the Node object, then the interfaces.
    #[must_use]
    pub fn resolve(
        cluster: &Cluster,
        config: &Config,
        interface_addresses: &[IpAddr],
    ) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let object = cluster.nodes.get(&config.node_name);
        let named = |n: &&ConfigNode| n.name == config.node_name;
        let nodes = cluster.nodes.keys().map(String::as_str);
        let known: Vec<&str> = nodes.chain(config.nodes.iter().map(|n| &*n.name)).collect();
        let near = did_you_mean(&config.node_name, known.iter().copied());
        // Who lists the other nodes only, and says what is this one's, means no Node.
        let meant = cluster.nodes.is_empty() && !config.pod_cidrs.is_empty();
        let listed = config.nodes.iter().find(named);
        if object.is_none() && listed.is_none() && !known.is_empty() && !meant {
            problems.push(Problem::warning(
                None,
                format!("Node {}", config.node_name),
                "metadata.name",
                format!(
                    "no such Node among the inputs (there are {}){near}; set --node-name",
                    known[..known.len().min(5)].join(", ")
                ),
            ));
        }
        let first = |choices: [Vec<IpAddr>; 4]| {
            choices
                .into_iter()
                .find(|c| !c.is_empty())
                .unwrap_or_default()
        };
        let addresses = first([
            config.node_ips.clone(),
            object.map(|n| n.addresses.clone()).unwrap_or_default(),
            listed.map(|n| n.addresses.clone()).unwrap_or_default(),
            interface_addresses.to_vec(),
        ]);
        let pod_cidrs = [
            config.pod_cidrs.clone(),
            object.map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
            listed.map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
        ]
        .into_iter()
        .find(|c| !c.is_empty())
        .unwrap_or_default();
        let ranges = cluster.service_cidrs.values().flat_map(|c| &c.cidrs);
        let mut service_ranges: Vec<IpNet> =
            config.service_cidrs.iter().chain(ranges).copied().collect();
        service_ranges.sort();
        service_ranges.dedup();
        service_ranges.retain(|range| {
            let problem = unfit(range, cluster, &addresses);
            let fit = problem.is_none();
            problems.extend(problem);
            fit
        });
        let context = Self {
            name: config.node_name.clone(),
            addresses,
            pod_cidrs,
            zone: object.and_then(|n| n.zone.clone()),
            service_ranges,
            protected: protected(cluster, config),
            weighted_slots: config.slot_limits.list,
        };
        (context, problems)
    }

    /// The API server that answers at an address and a TCP port, or at that port of this node
    /// (`None`).
    #[must_use]
    pub fn protected_at(&self, addr: Option<IpAddr>, port: NonZeroU16) -> Option<SocketAddr> {
        let here = |at: &&SocketAddr| match addr {
            Some(addr) => at.ip() == addr,
            None => self.addresses.contains(&at.ip()),
        };
        let mut at = self.protected.iter().filter(|at| at.port() == port.get());
        at.find(here).copied()
    }

    /// Prefixes of one family in a list.
    #[must_use]
    pub fn of_family(prefixes: &[IpNet], family: Family) -> Vec<IpNet> {
        let mut out: Vec<IpNet> = prefixes
            .iter()
            .filter(|net| Family::of(&net.addr()) == family)
            .copied()
            .collect();
        out = IpNet::aggregate(&out);
        out.sort();
        out
    }
}

/// Why a range cannot be one of Services: what nobody has there is dropped, so it must hold no
/// address of a host. O(nodes).
fn unfit(range: &IpNet, cluster: &Cluster, own: &[IpAddr]) -> Option<Problem> {
    let others = cluster.nodes.values();
    let others = others.flat_map(|n| n.addresses.iter().map(|addr| (addr, &*n.name)));
    let mut hosts = own.iter().map(|addr| (addr, "")).chain(others);
    let why = if let Some((addr, why)) = special_in(range) {
        format!("{addr}, {why}")
    } else {
        let (addr, name) = hosts.find(|(addr, _)| range.contains(*addr))?;
        let whose = match name {
            "" => "of this node".to_owned(),
            name => format!("of Node {name}"),
        };
        format!("{addr}, an address {whose}")
    };
    Some(Problem::error(
        None,
        "service range",
        "",
        format!("{range} holds {why}, so it is no range of Services; it is left out"),
    ))
}

/// The Service by which Pods find the API servers; the API servers keep its endpoints.
#[must_use]
pub fn api_service() -> ObjectName {
    ObjectName::new("default", "kubernetes")
}

fn protected(cluster: &Cluster, config: &Config) -> BTreeSet<SocketAddr> {
    let slices = cluster.slices_of(&api_service());
    let endpoints = slices.into_iter().flat_map(|slice| {
        let ports = slice.ports.iter();
        ports.flat_map(|port| {
            let endpoints = slice.endpoints.iter();
            endpoints.map(|e| SocketAddr::new(e.address, port.port.get()))
        })
    });
    endpoints.chain(config.protected.iter().copied()).collect()
}
