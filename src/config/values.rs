//! Values of settings, as they are written: the same in the file and after a flag.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::{ConfigNode, NodePortAddresses};
use crate::syntax::{address, name_problem, parse, prefix};
use crate::text::did_you_mean;

/// RFC 1918: private networks.
const PRIVATE: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
/// Other IPv4 ranges that no public host has, as ip-masq-agent's
/// `--nomasq-all-reserved-ranges` has them: RFC 6598, 6890, 5737, 7526, 2544, 1112.
const RESERVED: [&str; 8] = [
    "100.64.0.0/10",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
];

/// One text or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected text, or a list of texts")]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn joined(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Many(list) => list.join(","),
        }
    }
}

/// The parts of a comma list.
fn listed(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|p| !p.is_empty())
}

pub(super) fn parse_bool(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

/// A comma list of addresses.
pub(super) fn parse_addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    listed(text)
        .map(|text| address(text).ok_or_else(|| format!("{text:?} is not an IP address")))
        .collect()
}

/// Nodes, as JSON; what is wrong is named with its path.
pub(super) fn parse_nodes(text: &str) -> Result<Vec<ConfigNode>, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Raw {
        name: String,
        addresses: OneOrMany,
        #[serde(rename = "podCIDRs")]
        pod_cidrs: OneOrMany,
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let raw: Vec<Raw> = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let message = e.inner().to_string();
        // The place in a text that nobody wrote.
        let message = message.split(" at line ").next().unwrap_or_default();
        format!("{}: {}", e.path(), parse::expectation(message))
    })?;
    let node = |(i, raw): (usize, Raw)| {
        let name = parse_node_name(&raw.name).map_err(|e| format!("[{i}].name: {e}"))?;
        let of = |field, e| format!("[{i}].{field} of {name}: {e}");
        Ok(ConfigNode {
            addresses: parse_addresses(&raw.addresses.joined()).map_err(|e| of("addresses", e))?,
            pod_cidrs: parse_cidr_list(&raw.pod_cidrs.joined()).map_err(|e| of("podCIDRs", e))?,
            name,
        })
    };
    raw.into_iter().enumerate().map(node).collect()
}

/// A node's name, in the lower case that Kubernetes keeps it in.
pub(super) fn parse_node_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_lowercase();
    name_problem(&name).map_or(Ok(name), Err)
}

/// `primary`, or a comma list of prefixes.
pub(super) fn parse_node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
    if text.trim() == "primary" {
        return Ok(NodePortAddresses::Primary);
    }
    parse_cidr_list(text)
        .map(NodePortAddresses::Prefixes)
        .map_err(|e| {
            let near = did_you_mean(text.trim(), ["primary"]);
            format!("{e}{near}")
        })
}

/// A comma list of prefixes without host bits.
pub(super) fn parse_cidr_list(text: &str) -> Result<Vec<IpNet>, String> {
    listed(text).map(network).collect()
}

fn network(part: &str) -> Result<IpNet, String> {
    match prefix(part) {
        Some(net) if net.addr() == net.network() => Ok(net),
        Some(net) => Err(format!(
            "{part} has host bits set; expected {}",
            net.trunc()
        )),
        None => Err(format!("{part:?} is not a prefix such as 10.254.0.0/16")),
    }
}

/// A comma list of prefixes, of `rfc1918` for private networks (ip-masq-agent's default), and of
/// `reserved` for those and all others that no public host has.
pub(super) fn parse_destinations(text: &str) -> Result<Vec<IpNet>, String> {
    let mut out = Vec::new();
    for part in listed(text) {
        let named: &[&[&str]] = match part {
            "rfc1918" => &[&PRIVATE],
            "reserved" => &[&PRIVATE, &RESERVED],
            _ => {
                let near = did_you_mean(part, ["rfc1918", "reserved"]);
                out.push(network(part).map_err(|e| format!("{e}{near}"))?);
                continue;
            }
        };
        for text in named.iter().copied().flatten() {
            out.push(network(text)?);
        }
    }
    Ok(out)
}
