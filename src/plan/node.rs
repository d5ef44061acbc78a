//! This node, resolved from the configuration, its Node object and its interfaces.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::{Cluster, Family};
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
        let context = Self {
            name: config.node_name.clone(),
            addresses,
            pod_cidrs,
            zone: object.and_then(|n| n.zone.clone()),
            service_ranges,
        };
        (context, problems)
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
