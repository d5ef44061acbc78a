//! The configuration file: `apiVersion: svcnat/v1alpha1`, `kind: Configuration`, or that of a
//! program whose place this one takes (`others.rs`).

use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;
use serde::de::value::StrDeserializer;
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde_json::Value;

use super::{ConfigNode, DetectLocal, InterfaceName, NodePortAddresses, PartialConfig, others};
use crate::problem::Problem;
use crate::syntax::{address, documents, drop_nulls, fields_of, name_problem, parse, prefix};
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

    /// Each text by itself; one text may be a comma list.
    pub(super) fn listed(self) -> Vec<String> {
        let text = self.joined();
        let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
        parts.map(str::to_owned).collect()
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
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
    masquerade_bit: Option<i64>,
    detect_local_mode: Option<String>,
    detect_local: Option<RawDetect>,
    egress_masquerade: Option<bool>,
    #[serde(rename = "nonMasqueradeCIDRs")]
    non_masquerade_cidrs: Option<OneOrMany>,
    #[serde(rename = "masqueradeCIDRs")]
    masquerade_cidrs: Option<OneOrMany>,
    masq_link_local: Option<bool>,
    #[serde(rename = "masqLinkLocalIPv6")]
    masq_link_local_ipv6: Option<bool>,
    source_ranges_annotation: Option<bool>,
    manage_routes: Option<bool>,
    sysctls: Option<String>,
    unallocated: Option<String>,
    unserved_external: Option<String>,
    nodes: Option<Vec<RawNode>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RawDetect {
    pub bridge_interface: Option<String>,
    pub interface_name_prefix: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    name: String,
    addresses: OneOrMany,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: OneOrMany,
}

/// A parsed and checked file.
#[derive(Debug)]
pub struct FileConfig {
    /// What it sets.
    pub settings: PartialConfig,
    /// What of it is not used, and what to use instead.
    pub notes: Vec<Problem>,
}

/// Reads a configuration file.
///
/// # Errors
/// If it cannot be read, has an unknown field, or a value that is none.
pub fn read(path: &Path) -> Result<FileConfig, ConfigError> {
    let shown = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read {
        path: shown.clone(),
        source,
    })?;
    let content = |message| ConfigError::Content {
        path: shown.clone(),
        message,
    };
    let text = parse::text(&bytes).map_err(|(_, message)| content(message))?;
    parse(text, &shown).map_err(content)
}

fn parse(text: &str, path: &str) -> Result<FileConfig, String> {
    let mut file = FileConfig {
        settings: PartialConfig::default(),
        notes: Vec::new(),
    };
    let mut found = 0;
    for document in documents(text) {
        let value = parse::value(document.text).map_err(|(line, message)| {
            let hint = parse::template(document.text).map_or(message, str::to_owned);
            format!("line {}: {hint}", document.line + line.saturating_sub(1))
        })?;
        if value.is_null() {
            continue;
        }
        found += 1;
        let mut notes = Vec::new();
        read_document(value, &mut file.settings, &mut notes)?;
        let note = |text: String| Problem::notice(None, path, text);
        file.notes.extend(notes.into_iter().map(note));
    }
    if found == 0 {
        return Err("is empty; expected svcnat/v1alpha1 Configuration".to_owned());
    }
    Ok(file)
}

/// Takes the settings of one document.
pub(super) fn read_document(
    mut value: Value,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    others::keep_empty_lists(&mut value);
    drop_nulls(&mut value);
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if version == "svcnat/v1alpha1" && kind == "Configuration" {
        *settings = own(typed(value)?)?.or(std::mem::take(settings));
        return Ok(());
    }
    if others::read(&value, settings, notes)? {
        return Ok(());
    }
    Err(match (version, kind) {
        ("", "") if value.is_object() => {
            "has no apiVersion and kind; expected svcnat/v1alpha1 Configuration".to_owned()
        }
        ("", "") => "is no map of settings; expected svcnat/v1alpha1 Configuration".to_owned(),
        _ => format!("is {version} {kind}; expected svcnat/v1alpha1 Configuration"),
    })
}

/// The document with its fields typed, and those of other names passed over.
pub(super) fn typed_loosely<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let message = parse::expectation(&e.inner().to_string());
        format!("{}: {message}", e.path())
    })
}

/// The document with its fields typed; what is wrong is named with its path.
pub(super) fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    let known = fields_of::<T>();
    let unknown = value.as_object().and_then(|fields| {
        let mut names = fields.keys().map(String::as_str);
        names.find(|name| !known.contains(name)).map(str::to_owned)
    });
    serde_path_to_error::deserialize(value).map_err(|e| match unknown {
        Some(name) if e.path().to_string() == name => {
            let near = did_you_mean(&name, known.iter().copied());
            format!(
                "{name}: is no setting{near} (there are {})",
                known.join(", ")
            )
        }
        _ => {
            let message = parse::expectation(&e.inner().to_string());
            format!("{}: {message}", e.path())
        }
    })
}

fn own(raw: Raw) -> Result<PartialConfig, String> {
    let names = raw.detect_local.unwrap_or_default();
    let unused = [
        (
            "bridgeInterface",
            &names.bridge_interface,
            "BridgeInterface",
        ),
        (
            "interfaceNamePrefix",
            &names.interface_name_prefix,
            "InterfaceNamePrefix",
        ),
    ];
    for (field, name, its) in unused {
        if name.is_some() && raw.detect_local_mode.as_deref() != Some(its) {
            return Err(format!(
                "detectLocal.{field}: has no effect without detectLocalMode: {its}"
            ));
        }
    }
    let mode = raw.detect_local_mode.as_deref();
    let link_local = raw.masq_link_local;
    Ok(PartialConfig {
        node_name: parsed("nodeName", raw.node_name, parse_node_name)?,
        node_ips: raw
            .node_ips
            .map(|list| addresses("nodeIPs", list))
            .transpose()?,
        cluster_cidrs: list("clusterCIDR", raw.cluster_cidr, parse_cidr_list)?,
        pod_cidrs: list("podCIDRs", raw.pod_cidrs, parse_cidr_list)?,
        service_cidrs: list(
            "serviceClusterIPRange",
            raw.service_cluster_ip_range,
            parse_cidr_list,
        )?,
        nodeport_addresses: list(
            "nodePortAddresses",
            raw.node_port_addresses,
            parse_node_port_addresses,
        )?,
        node_port_range: parsed(
            "serviceNodePortRange",
            raw.service_node_port_range,
            str::parse,
        )?,
        masquerade_all: raw.masquerade_all,
        service_counters: raw.service_counters,
        masquerade_bit: parsed(
            "masqueradeBit",
            raw.masquerade_bit.map(|bit| bit.to_string()),
            str::parse,
        )?,
        detect_local: mode.map(|mode| detect(Some(mode), names)).transpose()?,
        egress_masquerade: raw.egress_masquerade,
        non_masquerade_cidrs: list(
            "nonMasqueradeCIDRs",
            raw.non_masquerade_cidrs,
            parse_destinations,
        )?,
        masquerade_cidrs: list("masqueradeCIDRs", raw.masquerade_cidrs, parse_cidr_list)?,
        masq_link_local: link_local,
        masq_link_local_ipv6: raw.masq_link_local_ipv6.or(link_local),
        legacy_source_ranges: raw.source_ranges_annotation,
        manage_routes: raw.manage_routes,
        sysctls: choice("sysctls", raw.sysctls)?,
        unallocated: choice("unallocated", raw.unallocated)?,
        unserved_external: choice("unservedExternal", raw.unserved_external)?,
        nodes: raw
            .nodes
            .map(|nodes| nodes.into_iter().map(node).collect())
            .transpose()?,
        ..PartialConfig::default()
    })
}

fn node(raw: RawNode) -> Result<ConfigNode, String> {
    let name = parse_node_name(&raw.name).map_err(|e| format!("nodes[].name: {e}"))?;
    Ok(ConfigNode {
        addresses: addresses("nodes[].addresses", raw.addresses)?,
        pod_cidrs: parse_cidr_list(&raw.pod_cidrs.joined())
            .map_err(|e| format!("nodes[].podCIDRs of {name}: {e}"))?,
        name,
    })
}

/// What a field says, if it is there.
fn parsed<T>(
    field: &str,
    value: Option<String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    let parsed = value.map(|text| parse(&text).map_err(|e| format!("{field}: {e}")));
    parsed.transpose()
}

/// What a field lists, if it is there.
fn list<T>(
    field: &str,
    value: Option<OneOrMany>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, String> {
    parsed(field, value.map(OneOrMany::joined), parse)
}

/// One of the words that `T` knows, if the field is there.
fn choice<T: for<'de> Deserialize<'de>>(
    field: &str,
    value: Option<String>,
) -> Result<Option<T>, String> {
    let word = |text: &str| {
        let word: StrDeserializer<'_, serde::de::value::Error> = text.into_deserializer();
        T::deserialize(word).map_err(|_| unknown(text, fields_of::<T>()))
    };
    parsed(field, value, word)
}

/// Says what a word could be.
fn unknown(word: &str, known: &[&str]) -> String {
    let near = did_you_mean(word, known.iter().copied());
    format!("{word:?} is none of {}{near}", known.join(", "))
}

/// The modes of `--detect-local-mode`.
pub const MODES: [&str; 4] = [
    "ClusterCIDR",
    "NodeCIDR",
    "BridgeInterface",
    "InterfaceNamePrefix",
];

pub(super) fn detect(mode: Option<&str>, raw: RawDetect) -> Result<DetectLocal, String> {
    let name = |field: &str, name: Option<String>| -> Result<InterfaceName, String> {
        let field = format!("detectLocal.{field}");
        let name = name.ok_or_else(|| format!("{field} is needed by this detectLocalMode"))?;
        name.parse().map_err(|e| format!("{field}: {e}"))
    };
    match mode.unwrap_or_default() {
        "" | "ClusterCIDR" => Ok(DetectLocal::ClusterCidr),
        "NodeCIDR" => Ok(DetectLocal::NodeCidr),
        "BridgeInterface" => {
            name("bridgeInterface", raw.bridge_interface).map(DetectLocal::BridgeInterface)
        }
        "InterfaceNamePrefix" => name("interfaceNamePrefix", raw.interface_name_prefix)
            .map(DetectLocal::InterfaceNamePrefix),
        other => Err(format!("detectLocalMode: {}", unknown(other, &MODES))),
    }
}

fn addresses(field: &str, list: OneOrMany) -> Result<Vec<std::net::IpAddr>, String> {
    list.listed()
        .iter()
        .map(|text| address(text).ok_or_else(|| format!("{field}: {text:?} is not an IP address")))
        .collect()
}

/// A node's name, in the lower case that Kubernetes keeps it in.
///
/// # Errors
/// If it cannot be one.
pub fn parse_node_name(text: &str) -> Result<String, String> {
    let name = text.trim().to_lowercase();
    name_problem(&name).map_or(Ok(name), Err)
}

/// `primary`, or a comma list of prefixes.
///
/// # Errors
/// Naming the part that is none.
pub fn parse_node_port_addresses(text: &str) -> Result<NodePortAddresses, String> {
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
///
/// # Errors
/// Naming the part that is none.
pub fn parse_cidr_list(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(network)
        .collect()
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
///
/// # Errors
/// Naming the part that is none.
pub fn parse_destinations(text: &str) -> Result<Vec<IpNet>, String> {
    let mut out = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const HEAD: &str = "apiVersion: svcnat/v1alpha1\nkind: Configuration\n";

    fn config(text: &str) -> Result<Config, String> {
        parse(&format!("{HEAD}{text}"), "file").map(|file| file.settings.or_defaults())
    }

    #[test]
    fn unknown_fields_and_bad_values_are_named() {
        let error = |text: &str| config(text).unwrap_err();
        assert!(error("clusterCIDRs: x\n").contains("did you mean clusterCIDR?"));
        assert!(error("clusterCIDR: 10.0.0.1/8\n").contains("host bits"));
        assert!(error("sysctls: maybe\n").contains("maybe"));
        assert!(error("unallocated: Reject\n").contains("did you mean reject?"));
        assert!(error("detectLocalMode: BridgeInterface\n").contains("bridgeInterface"));
        assert!(error("detectLocalMode: NodeCidr\n").contains("did you mean NodeCIDR?"));
        assert!(error("masqueradeBit: 32\n").contains("0 to 31"));
        assert!(error("masqueradeBit: 300\n").contains("0 to 31"));
        assert!(error("serviceNodePortRange: 5-4\n").contains("5-4"));
        assert!(error("nodeName: 'a b'\n").contains("not a valid name"));
        assert!(error("nodePortAddresses: Primary\n").contains("did you mean primary?"));
        for mode in ["", "detectLocalMode: NodeCIDR\n"] {
            let unused = format!("{mode}detectLocal: {{interfaceNamePrefix: veth}}\n");
            assert!(error(&unused).contains("has no effect without detectLocalMode"));
        }
        assert!(error("manageRoutes: maybe\n").starts_with("manageRoutes: "));
        assert!(error("masqueradeBit: '15'\n").contains("expected a whole number"));
        let interface =
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: 'a\"b'}\n";
        assert!(error(interface).contains("detectLocal.bridgeInterface"));
        assert!(
            error("nodes: [{name: a, addresses: [x], podCIDRs: 10.0.0.0/24}]\n").contains("\"x\"")
        );
        let pod = parse("apiVersion: v1\nkind: Pod\n", "file").unwrap_err();
        assert!(pod.contains("expected svcnat"));
        assert!(
            parse("# nothing\n", "file")
                .unwrap_err()
                .contains("is empty")
        );
        assert!(config("a: [\n").unwrap_err().starts_with("line "));
    }

    #[test]
    fn a_full_file_is_understood() {
        let config = config(
            "nodeName: n1\n\
            clusterCIDR: 172.17.0.0/16,fd00::/64\nserviceClusterIPRange: [10.254.0.0/16]\n\
            nodePortAddresses: primary\nmasqueradeBit: 15\nsysctls: apply\nunallocated: null\n\
            nonMasqueradeCIDRs: [rfc1918, fd00::/8]\nmasqueradeCIDRs: 10.9.0.0/16\n\
            masqLinkLocal: true\nsourceRangesAnnotation: true\n\
            nodes:\n- {name: n2, addresses: [192.168.50.12], podCIDRs: 172.17.1.0/24}\n",
        )
        .unwrap();
        assert_eq!(config.cluster_cidrs.len(), 2);
        assert_eq!(config.nodes[0].pod_cidrs.len(), 1);
        assert_eq!(config.masquerade_bit.to_string(), "15");
        assert_eq!(config.non_masquerade_cidrs.len(), 4);
        assert_eq!(config.masquerade_cidrs.len(), 1);
        assert!(config.masq_link_local && config.masq_link_local_ipv6);
        assert!(config.legacy_source_ranges);
    }

    #[test]
    fn what_wins_is_asked_first_and_what_is_silent_is_asked_of_the_next() {
        let read = |text: &str| parse(&format!("{HEAD}{text}"), "file").unwrap().settings;
        let flags = PartialConfig {
            manage_routes: Some(false),
            node_ips: Some(Vec::new()),
            ..PartialConfig::default()
        };
        let file = read("manageRoutes: true\nmasqueradeAll: true\nnodeIPs: 192.0.2.1\n");
        let config = flags.or(file).or_defaults();
        assert!(!config.manage_routes && config.masquerade_all && config.egress_masquerade);
        assert!(config.node_ips.is_empty());
        // Of several documents the last one that says it.
        let two = read(&format!(
            "nodeIPs: 192.0.2.1\nsysctls: apply\n---\n{HEAD}sysctls: ignore\n"
        ));
        let config = two.or_defaults();
        assert_eq!(config.sysctls, crate::config::Sysctls::Ignore);
        assert_eq!(
            config.node_ips.len(),
            1,
            "a document that is silent takes nothing back"
        );
        assert_eq!(PartialConfig::default().or_defaults(), Config::default());
    }
}
