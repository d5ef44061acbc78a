//! kube-proxy's own configuration, `kubeproxy.config.k8s.io` `KubeProxyConfiguration`.

use serde::Deserialize;
use serde_json::Value;

use super::detect;
use super::file::typed_loosely;
use super::values::{parse_cidr_list, parse_node_name};
use super::{MarkBit, NodePortAddresses, PartialConfig};
use crate::syntax::{address, fields_of};
use crate::text::did_you_mean;

/// The fields that have a meaning here. The others are in [`UNUSED`].
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    hostname_override: String,
    bind_address: String,
    mode: String,
    iptables: Masquerade,
    nftables: Masquerade,
    detect_local_mode: String,
    detect_local: Detect,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: String,
    node_port_addresses: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Masquerade {
    masquerade_bit: Option<i64>,
    masquerade_all: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Detect {
    bridge_interface: String,
    interface_name_prefix: String,
}

/// Fields that change nothing here, and what does instead.
const UNUSED: [(&str, &str); 24] = [
    (
        "/clientConnection/kubeconfig",
        "give it to run as --kubeconfig",
    ),
    ("/clientConnection/qps", "objects are watched, not polled"),
    ("/clientConnection/burst", "objects are watched, not polled"),
    (
        "/healthzBindAddress",
        "give it to run as --healthz-bind-address",
    ),
    (
        "/metricsBindAddress",
        "give it to run as --metrics-bind-address",
    ),
    (
        "/bindAddressHardFail",
        "an address that cannot be bound is tried again",
    ),
    ("/enableProfiling", "there is no profiling"),
    ("/showHiddenMetricsForVersion", "no metric is hidden"),
    (
        "/iptables/localhostNodePorts",
        "node ports do not answer on loopback addresses",
    ),
    (
        "/iptables/syncPeriod",
        "the kernel is looked at all the time (--drift, --verify-period)",
    ),
    (
        "/iptables/minSyncPeriod",
        "give it to run as --min-sync-period",
    ),
    (
        "/nftables/syncPeriod",
        "the kernel is looked at all the time (--drift, --verify-period)",
    ),
    (
        "/nftables/minSyncPeriod",
        "give it to run as --min-sync-period",
    ),
    (
        "/ipvs",
        "there is no IPVS: one nftables ruleset does it all",
    ),
    ("/winkernel", "this is Linux"),
    ("/windowsRunAsService", "this is Linux"),
    ("/linux", "what is in it is not read"),
    ("/oomScoreAdj", "set OOMScoreAdjust= in the unit"),
    (
        "/conntrack",
        "limits and timeouts are sysctls (net.netfilter.nf_conntrack_*), left as they are",
    ),
    ("/configSyncPeriod", "changes are followed as they come"),
    ("/portRange", "no port of the node is opened"),
    ("/featureGates", "there are none"),
    ("/logging", "give run --log-format and -v"),
    ("/config", "what is in it is not read"),
];

/// Takes what `value` sets; in `notes`, what of it has no effect.
pub(super) fn read(
    value: Value,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    for (path, instead) in UNUSED {
        if value.pointer(path).is_some_and(is_set) {
            let field = path.trim_start_matches('/').replace('/', ".");
            notes.push(format!("{field} is not used: {instead}"));
        }
    }
    for name in value
        .as_object()
        .into_iter()
        .flat_map(serde_json::Map::keys)
    {
        let unused = |(path, _): &(&str, _)| path.split('/').nth(1) == Some(name);
        let used = ["apiVersion", "kind"].contains(&name.as_str())
            || fields_of::<Raw>().contains(&name.as_str());
        if !used && !UNUSED.iter().any(unused) {
            let near = did_you_mean(name, fields_of::<Raw>().iter().copied());
            notes.push(format!("{name} is not known{near}"));
        }
    }
    let raw: Raw = typed_loosely(value)?;
    let named = |field: &'static str| move |e: String| format!("{field}: {e}");
    if !raw.hostname_override.is_empty() {
        settings.node_name =
            Some(parse_node_name(&raw.hostname_override).map_err(named("hostnameOverride"))?);
    }
    if !raw.bind_address.is_empty() {
        let addr = address(&raw.bind_address)
            .ok_or_else(|| format!("bindAddress: {:?} is not an IP address", raw.bind_address))?;
        if !addr.is_unspecified() {
            settings.node_ips = Some(vec![addr]);
        }
    }
    settings.cluster_cidrs =
        Some(parse_cidr_list(&raw.cluster_cidr).map_err(named("clusterCIDR"))?);
    let (mode, names) = (&raw.detect_local_mode, &raw.detect_local);
    let (bridge, prefix) = (&names.bridge_interface, &names.interface_name_prefix);
    settings.detect_local = Some(detect::of_kube_proxy(mode, bridge, prefix)?);
    let nftables = match raw.mode.as_str() {
        "nftables" => true,
        "" | "iptables" => false,
        "ipvs" => {
            notes.push("mode ipvs is not used: one nftables ruleset does it all".to_owned());
            false
        }
        other => {
            return Err(format!(
                "mode: {other:?} is none of nftables, iptables, ipvs"
            ));
        }
    };
    let masquerade = if nftables { raw.nftables } else { raw.iptables };
    settings.masquerade_all = Some(masquerade.masquerade_all);
    if let Some(bit) = masquerade.masquerade_bit {
        let bit: MarkBit = bit.to_string().parse().map_err(named("masqueradeBit"))?;
        settings.masquerade_bit = Some(bit);
    }
    let list = raw.node_port_addresses.join(",");
    let addresses = match list.as_str() {
        "primary" => NodePortAddresses::Primary,
        // kube-proxy's default differs from mode to mode.
        "" if nftables => NodePortAddresses::Primary,
        "" => {
            notes.push(
                "nodePortAddresses is empty: node ports answer on all addresses, as in this mode"
                    .to_owned(),
            );
            NodePortAddresses::Prefixes(parse_cidr_list("0.0.0.0/0,::/0")?)
        }
        _ => {
            NodePortAddresses::Prefixes(parse_cidr_list(&list).map_err(named("nodePortAddresses"))?)
        }
    };
    settings.nodeport_addresses = Some(addresses);
    Ok(())
}

/// False for what a generator writes where nothing was set.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(on) => *on,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !matches!(text.as_str(), "" | "0s"),
        Value::Array(items) => items.iter().any(is_set),
        Value::Object(fields) => fields.values().any(is_set),
    }
}
