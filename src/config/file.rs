//! The configuration file: `apiVersion: svcnat/v1alpha1`, `kind: Configuration`.

use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;

use super::{Config, ConfigNode, DetectLocal, NodePortAddresses, Sysctls, Unallocated};
use crate::source::{address, prefix};

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not readable.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Readable, but not a configuration.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong, with the field.
        message: String,
    },
}

/// One text or a list of them.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn joined(self) -> String {
        match self {
            Self::One(text) => text,
            Self::Many(list) => list.join(","),
        }
    }

    /// Each text by itself; one text may be a comma list.
    fn listed(self) -> Vec<String> {
        let text = self.joined();
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        parts.map(str::to_owned).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    api_version: String,
    kind: String,
    node_name: Option<String>,
    #[serde(rename = "nodeIPs")]
    node_ips: Option<OneOrMany>,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<OneOrMany>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<OneOrMany>,
    #[serde(rename = "serviceClusterIPRange")]
    service_cluster_ip_range: Option<OneOrMany>,
    node_port_addresses: Option<OneOrMany>,
    service_node_port_range: Option<String>,
    masquerade_all: Option<bool>,
    service_counters: Option<bool>,
    masquerade_bit: Option<u8>,
    detect_local_mode: Option<String>,
    detect_local: Option<RawDetect>,
    egress_masquerade: Option<bool>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<OneOrMany>,
    masq_link_local: Option<bool>,
    manage_routes: Option<bool>,
    sysctls: Option<String>,
    unallocated: Option<String>,
    nodes: Option<Vec<RawNode>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawDetect {
    bridge_interface: Option<String>,
    interface_name_prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    name: String,
    addresses: Vec<String>,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: OneOrMany,
}

/// A parsed and checked file.
#[derive(Debug)]
pub struct FileConfig(Config);

impl FileConfig {
    /// Puts the file's settings in place of the defaults.
    pub fn apply_to(self, config: &mut Config) {
        *config = self.0;
    }
}

/// Reads a configuration file.
///
/// # Errors
/// If it cannot be read, has an unknown field, or a value that is none.
pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: shown.clone(),
        source,
    })?;
    parse(&text).map_err(|message| ConfigError::Content {
        path: shown,
        message,
    })
}

fn parse(text: &str) -> Result<FileConfig, String> {
    let raw: Raw = serde_saphyr::from_str(text)
        .map_err(|e| e.to_string().lines().next().unwrap_or_default().to_owned())?;
    if raw.api_version != "svcnat/v1alpha1" || raw.kind != "Configuration" {
        return Err(format!(
            "is {} {}; expected svcnat/v1alpha1 Configuration",
            raw.api_version, raw.kind
        ));
    }
    let mut config = Config::default();
    let list =
        |field: &str, value: Option<OneOrMany>, into: &mut Vec<IpNet>| -> Result<(), String> {
            if let Some(value) = value {
                *into = parse_cidr_list(&value.joined()).map_err(|e| format!("{field}: {e}"))?;
            }
            Ok(())
        };
    list("clusterCIDR", raw.cluster_cidr, &mut config.cluster_cidrs)?;
    list("podCIDRs", raw.pod_cidrs, &mut config.pod_cidrs)?;
    list(
        "serviceClusterIPRange",
        raw.service_cluster_ip_range,
        &mut config.service_cidrs,
    )?;
    list(
        "nonMasqueradeCIDRs",
        raw.non_masquerade_cidrs,
        &mut config.non_masquerade_cidrs,
    )?;
    config.node_name = raw.node_name.unwrap_or_default().trim().to_lowercase();
    config.node_ips = addresses(
        "nodeIPs",
        &raw.node_ips.map(OneOrMany::listed).unwrap_or_default(),
    )?;
    if let Some(value) = raw.node_port_addresses {
        let text = value.joined();
        config.nodeport_addresses = if text == "primary" {
            NodePortAddresses::Primary
        } else {
            let list = parse_cidr_list(&text).map_err(|e| format!("nodePortAddresses: {e}"))?;
            NodePortAddresses::Prefixes(list)
        };
    }
    if let Some(range) = raw.service_node_port_range {
        config.node_port_range = parse_port_range(&range)
            .ok_or_else(|| format!("serviceNodePortRange: {range:?} is not FROM-TO"))?;
    }
    config.detect_local = detect(
        raw.detect_local_mode.as_deref(),
        raw.detect_local.unwrap_or_default(),
    )?;
    let switches = [
        (raw.masquerade_all, &mut config.masquerade_all),
        (raw.service_counters, &mut config.service_counters),
        (raw.egress_masquerade, &mut config.egress_masquerade),
        (raw.masq_link_local, &mut config.masq_link_local),
        (raw.manage_routes, &mut config.manage_routes),
    ];
    for (value, target) in switches {
        *target = value.unwrap_or(*target);
    }
    config.masquerade_bit = raw.masquerade_bit.unwrap_or(config.masquerade_bit);
    config.sysctls = match raw.sysctls.as_deref() {
        None | Some("check") => Sysctls::Check,
        Some("apply") => Sysctls::Apply,
        Some("ignore") => Sysctls::Ignore,
        Some(other) => {
            return Err(format!(
                "sysctls: {other:?} is none of apply, check, ignore"
            ));
        }
    };
    config.unallocated = match raw.unallocated.as_deref() {
        None | Some("drop") => Unallocated::Drop,
        Some("reject") => Unallocated::Reject,
        Some(other) => return Err(format!("unallocated: {other:?} is neither drop nor reject")),
    };
    for node in raw.nodes.unwrap_or_default() {
        config.nodes.push(ConfigNode {
            addresses: addresses("nodes[].addresses", &node.addresses)?,
            pod_cidrs: parse_cidr_list(&node.pod_cidrs.joined())
                .map_err(|e| format!("nodes[].podCIDRs of {}: {e}", node.name))?,
            name: node.name,
        });
    }
    Ok(FileConfig(config))
}

fn detect(mode: Option<&str>, raw: RawDetect) -> Result<DetectLocal, String> {
    let missing = |field: &str| format!("detectLocal.{field} is needed by this detectLocalMode");
    match mode {
        None | Some("ClusterCIDR") => Ok(DetectLocal::ClusterCidr),
        Some("NodeCIDR") => Ok(DetectLocal::NodeCidr),
        Some("BridgeInterface") => raw
            .bridge_interface
            .map(DetectLocal::BridgeInterface)
            .ok_or_else(|| missing("bridgeInterface")),
        Some("InterfaceNamePrefix") => raw
            .interface_name_prefix
            .map(DetectLocal::InterfaceNamePrefix)
            .ok_or_else(|| missing("interfaceNamePrefix")),
        Some(other) => Err(format!("detectLocalMode: {other:?} is unknown")),
    }
}

fn addresses(field: &str, list: &[String]) -> Result<Vec<std::net::IpAddr>, String> {
    list.iter()
        .map(|text| address(text).ok_or_else(|| format!("{field}: {text:?} is not an IP address")))
        .collect()
}

/// A comma list of prefixes without host bits.
///
/// # Errors
/// Naming the part that is none.
pub fn parse_cidr_list(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| match prefix(part) {
            Some(net) if net.addr() == net.network() => Ok(net),
            Some(net) => Err(format!(
                "{part} has host bits set; expected {}",
                net.trunc()
            )),
            None => Err(format!("{part:?} is not a prefix such as 10.254.0.0/16")),
        })
        .collect()
}

/// `FROM-TO`, both ports.
#[must_use]
pub fn parse_port_range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to): (u16, u16) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
    (from > 0 && from <= to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_bad_values_are_named() {
        let head = "apiVersion: svcnat/v1alpha1\nkind: Configuration\n";
        let error = |text: &str| parse(&format!("{head}{text}")).unwrap_err();
        assert!(error("clusterCIDRs: x\n").contains("clusterCIDRs"));
        assert!(error("clusterCIDR: 10.0.0.1/8\n").contains("host bits"));
        assert!(error("sysctls: maybe\n").contains("maybe"));
        assert!(error("detectLocalMode: BridgeInterface\n").contains("bridgeInterface"));
        assert!(
            parse("apiVersion: v1\nkind: Pod\n")
                .unwrap_err()
                .contains("expected svcnat")
        );
    }

    #[test]
    fn a_full_file_is_understood() {
        let text = "apiVersion: svcnat/v1alpha1\nkind: Configuration\nnodeName: n1\n\
            clusterCIDR: 172.17.0.0/16,fd00::/64\nserviceClusterIPRange: [10.254.0.0/16]\n\
            nodePortAddresses: primary\nmasqueradeBit: 15\nsysctls: apply\n\
            nodes:\n- {name: n2, addresses: [192.168.50.12], podCIDRs: 172.17.1.0/24}\n";
        let FileConfig(config) = parse(text).unwrap();
        assert_eq!(config.cluster_cidrs.len(), 2);
        assert_eq!(config.nodes[0].pod_cidrs.len(), 1);
        assert_eq!(config.masquerade_bit, 15);
    }
}
