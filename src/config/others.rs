//! Configuration of the programs whose place this one takes, told by its fields: read where its
//! settings are ours, and pointed to ours where they are not.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::PartialConfig;
use super::file::read_document;
use super::kube_proxy;
use super::values::{OneOrMany, parse_cidr_list, parse_destinations};
use crate::syntax::parse;

/// Takes the settings of another program's configuration; in `notes`, what is not used of it.
/// False if it is none that is known.
///
/// # Errors
/// If it cannot be read, or if only a person can tell what it means here.
pub(super) fn read(
    value: &Value,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<bool, String> {
    let Some(fields) = value.as_object() else {
        return Ok(false);
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let group = text("apiVersion").split('/').next().unwrap_or_default();
    let of = |program: &str| {
        let program = program.to_owned();
        move |e: String| format!("{program}'s configuration: {e}")
    };
    match (group, text("kind")) {
        ("kubeproxy.config.k8s.io", "KubeProxyConfiguration") => {
            kube_proxy::read(value.clone(), settings, notes).map_err(of("kube-proxy"))?;
        }
        ("kubeadm.k8s.io", "ClusterConfiguration") => {
            kubeadm(fields, settings).map_err(of("kubeadm"))?;
        }
        // Other documents of a file that kubeadm reads.
        ("kubeadm.k8s.io" | "kubelet.config.k8s.io", kind) => {
            notes.push(format!(
                "{kind} is not used: nothing in it is a setting here"
            ));
        }
        ("v1", "ConfigMap") => return config_map(fields, settings, notes),
        ("", "") if is_ip_masq_agent(fields) => {
            ip_masq_agent(value, settings, notes).map_err(of("ip-masq-agent"))?;
        }
        ("", "") => return pointer(fields).map_or(Ok(false), Err),
        _ => return Ok(false),
    }
    Ok(true)
}

/// The fields of ip-masq-agent's file, which has no kind.
const IP_MASQ_AGENT: [&str; 9] = [
    "nonMasqueradeCIDRs",
    "masqLinkLocal",
    "masqLinkLocalIPv6",
    "resyncInterval",
    "snatTarget",
    "cidrLimit",
    "nonMasqueradeSrcCIDRs",
    "outputInterface",
    "outputAddress",
];

fn is_ip_masq_agent(fields: &Map<String, Value>) -> bool {
    !fields.is_empty()
        && fields
            .keys()
            .all(|name| IP_MASQ_AGENT.contains(&name.as_str()))
}

/// In ip-masq-agent's file `nonMasqueradeCIDRs: null` is an empty list, and not its default.
pub(super) fn keep_empty_lists(value: &mut Value) {
    if let Some(fields) = value.as_object_mut()
        && is_ip_masq_agent(fields)
        && let Some(list) = fields.get_mut("nonMasqueradeCIDRs")
        && list.is_null()
    {
        *list = Value::Array(Vec::new());
    }
}

fn ip_masq_agent(
    value: &Value,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw {
        #[serde(rename = "nonMasqueradeCIDRs")]
        non_masquerade_cidrs: Option<OneOrMany>,
        masq_link_local: Option<bool>,
        #[serde(rename = "masqLinkLocalIPv6")]
        masq_link_local_ipv6: Option<bool>,
    }
    let raw: Raw = super::file::typed_loosely(value.clone())?;
    // Its file overrides its defaults field by field.
    let list = match raw.non_masquerade_cidrs {
        Some(list) => list.joined(),
        None => "rfc1918".to_owned(),
    };
    settings.non_masquerade_cidrs =
        Some(parse_destinations(&list).map_err(|e| format!("nonMasqueradeCIDRs: {e}"))?);
    settings.masq_link_local = Some(raw.masq_link_local.unwrap_or(false));
    settings.masq_link_local_ipv6 = Some(raw.masq_link_local_ipv6.unwrap_or(false));
    let unused = [
        ("resyncInterval", "changes are followed as they come"),
        ("cidrLimit", "there is no such limit"),
        ("snatTarget", "the address of the interface is used"),
        ("outputInterface", "every interface is masqueraded"),
        ("outputAddress", "the address of the interface is used"),
        (
            "nonMasqueradeSrcCIDRs",
            "only this node's podCIDRs are masqueraded",
        ),
    ];
    for (field, why) in unused {
        if value.get(field).is_some() {
            notes.push(format!("{field} is not used: {why}"));
        }
    }
    Ok(())
}

fn kubeadm(fields: &Map<String, Value>, settings: &mut PartialConfig) -> Result<(), String> {
    let networking = fields.get("networking");
    let list = |name: &str| {
        let text = networking.and_then(|n| n.get(name)).and_then(Value::as_str);
        text.map(|text| parse_cidr_list(text).map_err(|e| format!("networking.{name}: {e}")))
            .transpose()
    };
    if let Some(ranges) = list("serviceSubnet")? {
        settings.service_cidrs = Some(ranges);
    }
    if let Some(cidrs) = list("podSubnet")? {
        settings.cluster_cidrs = Some(cidrs);
    }
    Ok(())
}

/// The configuration in a ConfigMap of a cluster: kube-proxy's, ip-masq-agent's, kubeadm's.
fn config_map(
    fields: &Map<String, Value>,
    settings: &mut PartialConfig,
    notes: &mut Vec<String>,
) -> Result<bool, String> {
    let names = [
        "config.conf",
        "config",
        "ip-masq-agent",
        "ClusterConfiguration",
    ];
    let data = fields.get("data");
    for name in names {
        let Some(text) = data.and_then(|d| d.get(name)).and_then(Value::as_str) else {
            continue;
        };
        let value =
            parse::yaml(text).map_err(|(line, e)| format!("data.{name}: line {line}: {e}"))?;
        read_document(value, settings, notes).map_err(|e| format!("data.{name}: {e}"))?;
        return Ok(true);
    }
    Err(format!(
        "is a ConfigMap without a configuration that is read (data with one of {})",
        names.join(", ")
    ))
}

/// What to set instead, for configurations that say other things as well.
fn pointer(fields: &Map<String, Value>) -> Option<String> {
    let has = |name: &str| fields.contains_key(name);
    let any = |names: &[&str]| names.iter().any(|name| has(name));
    let given = |name: &str| match fields.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "...".to_owned(),
    };
    if any(&[
        "cluster-cidr",
        "service-cidr",
        "service-node-port-range",
        "flannel-backend",
        "kube-proxy-arg",
        "disable-kube-proxy",
        "write-kubeconfig-mode",
    ]) {
        let settings = [
            ("cluster-cidr", "clusterCIDR"),
            ("service-cidr", "serviceClusterIPRange"),
            ("service-node-port-range", "serviceNodePortRange"),
            ("node-ip", "nodeIPs"),
            ("node-name", "nodeName"),
        ];
        let said: Vec<String> = settings
            .iter()
            .filter(|(theirs, _)| has(theirs))
            .map(|(theirs, ours)| format!("{theirs} is {ours}: {}", given(theirs)))
            .collect();
        return Some(format!(
            "is k3s's or rke2's configuration, which is not read as ours; {} \
             (--service-cluster-ip-range-from reads service-cidr; flannel-backend host-gw is \
             manageRoutes: true)",
            if said.is_empty() {
                "no setting of ours is in it".to_owned()
            } else {
                said.join(", ")
            }
        ));
    }
    if has("Backend") && any(&["Network", "IPv6Network"]) {
        let network = if has("Network") {
            "Network"
        } else {
            "IPv6Network"
        };
        return Some(format!(
            "is flannel's net-conf.json, which is not read as ours; its {network} is clusterCIDR: \
             {}, its backend host-gw is manageRoutes: true",
            given(network)
        ));
    }
    if has("cniVersion") {
        return Some(
            "is a CNI configuration, which is not read as ours; what portmap does follows from the \
             hostPorts of Pods, ipMasq is egressMasquerade, the subnet of ipam is podCIDRs, a \
             bridge is detectLocalMode: BridgeInterface with detectLocal.bridgeInterface"
                .to_owned(),
        );
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, DetectLocal, NodePortAddresses};

    fn config(text: &str) -> (Result<(), String>, Config, String) {
        let mut settings = PartialConfig::default();
        let mut notes = Vec::new();
        let value = parse::yaml(text).unwrap();
        let result = read_document(value, &mut settings, &mut notes);
        (result, settings.or_defaults(), notes.join("\n"))
    }

    const KUBE_PROXY: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    #[test]
    fn kube_proxys_configuration_is_read_and_what_is_not_used_is_noted() {
        let (result, config, notes) = config(&format!(
            "{KUBE_PROXY}bindAddress: 0.0.0.0\nclientConnection: {{kubeconfig: /k.conf, qps: 0}}\n\
             clusterCIDR: 10.244.0.0/16\nconntrack: {{maxPerCore: 32768, min: null}}\n\
             hostnameOverride: Node1\nmode: nftables\nnodePortAddresses: null\n\
             nftables: {{masqueradeAll: true, masqueradeBit: 15, syncPeriod: 0s}}\n\
             iptables: {{masqueradeBit: 3}}\nwinkernel: {{networkName: \"\"}}\n"
        ));
        result.unwrap();
        assert_eq!(config.node_name, "node1");
        assert_eq!(config.cluster_cidrs.len(), 1);
        assert_eq!(config.masquerade_bit.to_string(), "15");
        assert!(config.masquerade_all && config.node_ips.is_empty());
        assert_eq!(config.nodeport_addresses, NodePortAddresses::Primary);
        assert!(
            notes.contains("clientConnection.kubeconfig is not used"),
            "{notes}"
        );
        assert!(notes.contains("conntrack is not used"), "{notes}");
        assert!(
            !notes.contains("winkernel") && !notes.contains("syncPeriod"),
            "{notes}"
        );
    }

    #[test]
    fn kube_proxys_modes_keep_their_defaults_and_bad_values_are_named() {
        let (result, read, notes) = config(&format!(
            "{KUBE_PROXY}detectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: cni0}}\n"
        ));
        result.unwrap();
        assert!(matches!(read.nodeport_addresses, NodePortAddresses::Prefixes(p) if p.len() == 2));
        assert!(matches!(read.detect_local, DetectLocal::BridgeInterface(_)));
        assert!(notes.contains("all addresses"), "{notes}");
        for (bad, expected) in [
            ("mode: kernelspace", "kernelspace"),
            ("nftables: {masqueradeBit: 40}\nmode: nftables", "0 to 31"),
            ("clusterCIDR: x", "clusterCIDR"),
            ("clusterCIDR: [x]", "clusterCIDR"),
        ] {
            let (result, ..) = config(&format!("{KUBE_PROXY}{bad}\n"));
            let message = result.unwrap_err();
            assert!(
                message.contains(expected) && message.contains("kube-proxy"),
                "{message}"
            );
        }
    }

    #[test]
    fn ip_masq_agents_configuration_is_read_with_its_defaults() {
        let (result, read, notes) = config(
            "nonMasqueradeCIDRs: [10.0.0.0/8, 192.168.0.0/16]\nresyncInterval: 60s\n\
             masqLinkLocal: false\nmasqLinkLocalIPv6: true\n",
        );
        result.unwrap();
        assert_eq!(read.non_masquerade_cidrs.len(), 2);
        assert!(!read.masq_link_local && read.masq_link_local_ipv6);
        assert!(notes.contains("resyncInterval"), "{notes}");
        let (result, read, _) = config("{\"masqLinkLocal\":true,\"resyncInterval\":\"1m\"}");
        result.unwrap();
        assert_eq!(read.non_masquerade_cidrs.len(), 3);
        assert!(config("nonMasqueradeCIDRs: [10.0.0.1/8]\n").0.is_err());
        for none in ["[]", "null", ""] {
            let (result, read, _) = config(&format!("nonMasqueradeCIDRs: {none}\n"));
            assert_eq!(
                (result, read.non_masquerade_cidrs),
                (Ok(()), vec![]),
                "{none}"
            );
        }
    }

    #[test]
    fn configurations_in_config_maps_are_read() {
        let map = |name: &str, data: &str| {
            let data = data.replace('\n', "\n    ");
            config(&format!(
                "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: x}}\ndata:\n  {name}: |\n    {data}"
            ))
        };
        let (result, read, _) = map(
            "config.conf",
            &format!("{KUBE_PROXY}clusterCIDR: 10.244.0.0/16\n"),
        );
        result.unwrap();
        assert_eq!(read.cluster_cidrs.len(), 1);
        let (result, read, _) = map("config", "nonMasqueradeCIDRs: [10.0.0.0/8]\n");
        result.unwrap();
        assert_eq!(read.non_masquerade_cidrs.len(), 1);
        let kubeadm = "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n\
            networking: {podSubnet: 10.244.0.0/16, serviceSubnet: 10.96.0.0/12}\n";
        let (result, read, _) = map("ClusterConfiguration", kubeadm);
        result.unwrap();
        assert_eq!((read.cluster_cidrs.len(), read.service_cidrs.len()), (1, 1));
        assert!(map("other", "a: b\n").0.is_err());
    }

    #[test]
    fn other_programs_configurations_are_named_with_our_settings() {
        for (text, expected) in [
            (
                "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\nflannel-backend: host-gw\n",
                &[
                    "k3s",
                    "clusterCIDR: 10.42.0.0/16",
                    "serviceClusterIPRange: 10.43.0.0/16",
                ][..],
            ),
            (
                "{\"Network\":\"10.244.0.0/16\",\"Backend\":{\"Type\":\"host-gw\"}}",
                &["flannel", "clusterCIDR: 10.244.0.0/16", "manageRoutes"],
            ),
            (
                "{\"cniVersion\":\"1.0.0\",\"plugins\":[{\"type\":\"portmap\"}]}",
                &["CNI", "hostPorts", "egressMasquerade"],
            ),
            ("a: b\n", &["expected svcnat/v1alpha1 Configuration"]),
            ("[]\n", &["expected svcnat/v1alpha1 Configuration"]),
        ] {
            let message = config(text).0.unwrap_err();
            for part in expected {
                assert!(message.contains(part), "{part:?} is not in: {message}");
            }
        }
    }
}
