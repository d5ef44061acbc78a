//! Pods, Nodes and the workloads whose templates are checked.

use std::collections::BTreeMap;

use super::fields::Checker;
use super::raw;
use crate::cluster::{ContainerPort, Node, ObjectName, Pod, Workload};
use crate::syntax::address;

const ZONE: &str = "topology.kubernetes.io/zone";
/// The taint by which the autoscaler announces that it will delete a node.
const AUTOSCALER: &str = "ToBeDeletedByClusterAutoscaler";

const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

pub fn pod(name: ObjectName, raw: raw::Pod, c: &mut Checker<'_>) -> Option<Pod> {
    let status = raw.status;
    let texts: Vec<String> = match status.pod_ips {
        Some(ips) if !ips.is_empty() => ips.into_iter().map(|ip| ip.ip).collect(),
        _ => status.pod_ip.into_iter().collect(),
    };
    let addresses = texts
        .iter()
        .filter(|t| !t.is_empty())
        .filter_map(|t| c.address("status.podIPs", t))
        .collect();
    let phase = c.choice("status.phase", status.phase.as_deref(), &PHASES);
    let ready = ready(status.conditions.unwrap_or_default(), c);
    let ports = container_ports("spec", raw.spec.containers, raw.spec.init_containers, c);
    (!c.failed).then(|| Pod {
        name,
        origin: c.origin.clone(),
        labels: raw.metadata.labels.unwrap_or_default(),
        node_name: raw.spec.node_name.filter(|n| !n.is_empty()),
        addresses,
        ports,
        ready,
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        terminating: raw.metadata.deletion_timestamp.is_some(),
        created: raw.metadata.creation_timestamp,
        host_network: raw.spec.host_network.unwrap_or(false),
    })
}

/// Condition Ready; true where nothing is said of it.
fn ready(conditions: Vec<raw::Condition>, c: &mut Checker<'_>) -> bool {
    let mut out = true;
    for (i, condition) in conditions.into_iter().enumerate() {
        let field = |name: &str| format!("status.conditions[{i}].{name}");
        c.spelling(|| field("type"), &condition.r#type, &["Ready"]);
        if condition.r#type == "Ready" {
            let status = Some(&*condition.status);
            out = c.choice(&field("status"), status, &["True", "False", "Unknown"]) == Some("True");
        }
    }
    out
}

/// Ports of containers, and of init containers that keep running beside them.
fn container_ports(
    path: &str,
    containers: Option<Vec<raw::Container>>,
    init: Option<Vec<raw::Container>>,
    c: &mut Checker<'_>,
) -> Vec<ContainerPort> {
    let mut sidecars = Vec::new();
    for (i, container) in init.unwrap_or_default().into_iter().enumerate() {
        let policy = c.choice(
            &format!("{path}.initContainers[{i}].restartPolicy"),
            container.restart_policy.as_deref(),
            &["Always", "OnFailure", "Never"],
        );
        if policy == Some("Always") {
            sidecars.push(container);
        }
    }
    let all = containers.unwrap_or_default().into_iter().chain(sidecars);
    let mut out = Vec::new();
    for (n, container) in all.enumerate() {
        let name = container.name.unwrap_or_default();
        for (i, raw) in container.ports.unwrap_or_default().into_iter().enumerate() {
            let field = |what: &str| format!("{path}.containers[{n}].ports[{i}].{what}");
            let protocol = c.protocol(&field("protocol"), raw.protocol.as_deref());
            let port = match raw.container_port {
                Some(number) => c.port(&field("containerPort"), number),
                None => {
                    c.error(&field("containerPort"), "is absent");
                    None
                }
            };
            let host_port = c.optional_port(&field("hostPort"), raw.host_port);
            let host_ip = match raw.host_ip.as_deref() {
                None | Some("") => None,
                Some(text) => c.address(&field("hostIP"), text),
            };
            if let (Some(protocol), Some(port)) = (protocol, port) {
                out.push(ContainerPort {
                    container: name.clone(),
                    name: raw.name.unwrap_or_default(),
                    protocol,
                    port,
                    host_port,
                    host_ip,
                });
            }
        }
    }
    out
}

pub fn node(name: String, raw: raw::Node, c: &mut Checker<'_>) -> Option<Node> {
    let listed = raw.status.addresses.unwrap_or_default();
    for (i, listed) in listed.iter().enumerate() {
        c.spelling(
            || format!("status.addresses[{i}].type"),
            &listed.r#type,
            &["InternalIP", "ExternalIP"],
        );
        if listed.r#type.is_empty() && c.rules.manifests {
            let field = format!("status.addresses[{i}].type");
            c.warning(
                &field,
                "is absent, so the address is passed over; expected InternalIP",
            );
        }
    }
    let mut addresses = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        for found in listed.iter().filter(|a| a.r#type == kind) {
            match address(&found.address) {
                Some(addr) => addresses.push(addr),
                None => c.error(
                    "status.addresses",
                    format!("{:?} is not an IP address", found.address),
                ),
            }
        }
    }
    let cidrs = match raw.spec.pod_cidrs {
        Some(list) if !list.is_empty() => list,
        _ => raw.spec.pod_cidr.into_iter().collect(),
    };
    let pod_cidrs = cidrs
        .iter()
        .filter(|t| !t.is_empty())
        .filter_map(|t| c.network("spec.podCIDRs", t))
        .collect();
    let taints = raw.spec.taints.unwrap_or_default();
    (!c.failed).then(|| Node {
        name,
        origin: c.origin.clone(),
        addresses,
        pod_cidrs,
        zone: raw.metadata.label(ZONE).map(str::to_owned),
        deleting: raw.metadata.deletion_timestamp.is_some(),
        autoscaler_taint: taints.iter().any(|t| t.key == AUTOSCALER),
    })
}

pub fn workload(
    kind: &str,
    name: ObjectName,
    raw: raw::Workload,
    c: &mut Checker<'_>,
) -> Option<Workload> {
    let spec = raw.spec;
    let template = spec.template;
    let labels = template.metadata.labels.unwrap_or_default();
    let ports = container_ports(
        "spec.template.spec",
        template.spec.containers,
        template.spec.init_containers,
        c,
    );
    let replicas = match (kind, u32::try_from(spec.replicas.unwrap_or(1))) {
        // One on each node.
        ("DaemonSet", _) => None,
        (_, Ok(replicas)) => Some(replicas),
        (_, Err(_)) => {
            c.error("spec.replicas", "is not a count");
            None
        }
    };
    // Without a selector a ReplicationController takes its template's labels.
    let selector = selector(spec.selector.as_ref()).unwrap_or_else(|| labels.clone());
    (!c.failed).then(|| Workload {
        kind: kind.to_owned(),
        name,
        origin: c.origin.clone(),
        replicas,
        selector,
        labels,
        ports,
        host_network: template.spec.host_network.unwrap_or(false),
    })
}

fn selector(value: Option<&serde_json::Value>) -> Option<BTreeMap<String, String>> {
    let value = value?;
    let chosen = value.get("matchLabels").filter(|labels| !labels.is_null());
    let labels = chosen.unwrap_or(value).as_object()?;
    let text = |value: &serde_json::Value| match value {
        serde_json::Value::Null => Some(String::new()),
        value => value.as_str().map(str::to_owned),
    };
    labels
        .iter()
        .map(|(k, v)| Some((k.clone(), text(v)?)))
        .collect()
}
