//! Objects as manifests, so that every verb reads what the lab made of them: fields that this
//! program knows, as a JSON List.

use serde_json::{Map, Value, json};

use crate::cluster::{
    Cluster, ContainerPort, EndpointSlice, Family, FamilyPolicy, Node, ObjectName, Pod, Service,
    ServiceType, TargetPort, TrafficPolicy, Workload,
};

/// The objects as one List, in the order of their kinds and names.
#[must_use]
pub fn manifests(cluster: &Cluster) -> Value {
    let mut items: Vec<Value> = cluster.nodes.values().map(node).collect();
    items.extend(cluster.pods.values().map(pod));
    items.extend(
        cluster
            .services
            .values()
            .map(|service| self::service(service)),
    );
    let slices = cluster.slices.values().flat_map(|slices| slices.iter());
    items.extend(slices.map(slice));
    items.extend(cluster.service_cidrs.values().map(|range| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
            "metadata": {"name": range.name}, "spec": {"cidrs": range.cidrs},
        })
    }));
    items.extend(cluster.workloads.iter().map(workload));
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

fn meta(name: &ObjectName) -> Map<String, Value> {
    let mut meta = Map::new();
    meta.insert("name".to_owned(), json!(name.name));
    meta.insert("namespace".to_owned(), json!(name.namespace));
    meta
}

/// What is left out means the same.
fn without_nulls(mut value: Value) -> Value {
    fn clean(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.retain(|_, value| {
                    clean(value);
                    !value.is_null()
                });
            }
            Value::Array(items) => items.iter_mut().for_each(clean),
            _ => {}
        }
    }
    clean(&mut value);
    value
}

fn node(node: &Node) -> Value {
    let addresses: Vec<Value> = node
        .addresses
        .iter()
        .map(|addr| json!({"type": "InternalIP", "address": addr}))
        .collect();
    let zone = node
        .zone
        .as_ref()
        .map(|zone| json!({"topology.kubernetes.io/zone": zone}));
    let taint = json!([{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]);
    without_nulls(json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {
            "name": node.name, "labels": zone,
            "deletionTimestamp": node.deleting.then_some(LONG_AGO),
        },
        "spec": {
            "podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs,
            "taints": node.autoscaler_taint.then_some(taint),
        },
        "status": {"addresses": addresses},
    }))
}

/// When things that are going were told to.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

fn containers(ports: &[ContainerPort]) -> Value {
    let mut out: Vec<(String, Vec<Value>)> = Vec::new();
    for port in ports {
        let written = json!({
            "name": (!port.name.is_empty()).then_some(&port.name),
            "protocol": port.protocol.to_string(), "containerPort": port.port,
            "hostPort": port.host_port, "hostIP": port.host_ip,
        });
        match out.last_mut().filter(|(name, _)| *name == port.container) {
            Some((_, ports)) => ports.push(written),
            None => out.push((port.container.clone(), vec![written])),
        }
    }
    out.into_iter()
        .map(|(name, ports)| json!({"name": name, "ports": ports}))
        .collect()
}

fn pod(pod: &Pod) -> Value {
    let mut metadata = meta(&pod.name);
    metadata.insert("labels".to_owned(), json!(pod.labels));
    metadata.insert("creationTimestamp".to_owned(), json!(pod.created));
    metadata.insert(
        "deletionTimestamp".to_owned(),
        json!(pod.terminating.then_some(LONG_AGO)),
    );
    let ips: Vec<Value> = pod
        .addresses
        .iter()
        .map(|addr| json!({"ip": addr}))
        .collect();
    let phase = match (pod.finished, pod.addresses.is_empty()) {
        (true, _) => "Succeeded",
        (false, true) => "Pending",
        (false, false) => "Running",
    };
    let ready = if pod.ready { "True" } else { "False" };
    without_nulls(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": {
            "nodeName": pod.node_name, "hostNetwork": pod.host_network.then_some(true),
            "containers": containers(&pod.ports),
        },
        "status": {
            "phase": phase, "podIP": pod.addresses.first(), "podIPs": ips,
            "conditions": [{"type": "Ready", "status": ready}],
        },
    }))
}

const fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

const fn family_name(family: Family) -> &'static str {
    match family {
        Family::Ip => "IPv4",
        Family::Ip6 => "IPv6",
    }
}

fn service(service: &Service) -> Value {
    let mut metadata = meta(&service.name);
    metadata.insert("creationTimestamp".to_owned(), json!(service.created));
    let mut annotations = Map::new();
    if service.balancing == crate::cluster::Balancing::SourceIp {
        annotations.insert("svcnat.io/balancing".to_owned(), json!("source-ip"));
    }
    if !service.weights.is_empty() {
        let weights: Vec<String> = service
            .weights
            .iter()
            .map(|(who, n)| format!("{who}={n}"))
            .collect();
        annotations.insert("svcnat.io/weights".to_owned(), json!(weights.join(",")));
    }
    metadata.insert("annotations".to_owned(), json!(annotations));
    if service.other_proxy {
        let label = json!({"service.kubernetes.io/service-proxy-name": "another"});
        metadata.insert("labels".to_owned(), label);
    }
    let external =
        service.service_type != ServiceType::ClusterIp || !service.external_ips.is_empty();
    let ports: Vec<Value> = service
        .ports
        .iter()
        .map(|port| {
            let target = match &port.target_port {
                TargetPort::Number(number) => json!(number),
                TargetPort::Name(name) => json!(name),
            };
            json!({
                "name": (!port.name.is_empty()).then_some(&port.name),
                "protocol": port.protocol.to_string(), "port": port.port, "targetPort": target,
                "nodePort": port.node_port,
            })
        })
        .collect();
    let selector: Map<String, Value> = service
        .selector
        .iter()
        .map(|(key, value)| (key.to_string(), json!(value)))
        .collect();
    let (ip, ips) = if service.headless {
        (Some(json!("None")), Some(json!(["None"])))
    } else {
        let first = service.cluster_ips.first().map(|ip| json!(ip));
        (
            first,
            (!service.cluster_ips.is_empty()).then(|| json!(service.cluster_ips)),
        )
    };
    let families: Vec<&str> = match &service.ip_families[..] {
        [] => service
            .cluster_ips
            .iter()
            .map(|ip| family_name(Family::of(ip)))
            .collect(),
        named => named.iter().copied().map(family_name).collect(),
    };
    let family_policy = match service.family_policy {
        FamilyPolicy::SingleStack => "SingleStack",
        FamilyPolicy::PreferDualStack => "PreferDualStack",
        FamilyPolicy::RequireDualStack => "RequireDualStack",
    };
    let ingress: Vec<Value> = service
        .load_balancer_ips
        .iter()
        .map(|ip| json!({"ip": ip}))
        .collect();
    let affinity = service
        .affinity_timeout
        .map(|seconds| json!({"clientIP": {"timeoutSeconds": seconds}}));
    without_nulls(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {
            "type": service.service_type.to_string(),
            "clusterIP": ip, "clusterIPs": ips,
            "ipFamilies": (!families.is_empty()).then_some(families), "ipFamilyPolicy": family_policy,
            "ports": ports, "selector": (!selector.is_empty()).then_some(selector),
            "externalIPs": (!service.external_ips.is_empty()).then_some(&service.external_ips),
            "loadBalancerIP": service.load_balancer_ip,
            "loadBalancerSourceRanges": (!service.source_ranges.is_empty()).then_some(&service.source_ranges),
            "externalTrafficPolicy": external.then(|| policy(service.external_traffic_policy)),
            "internalTrafficPolicy": policy(service.internal_traffic_policy),
            "sessionAffinity": service.affinity_timeout.map(|_| "ClientIP"),
            "sessionAffinityConfig": affinity,
            "healthCheckNodePort": service.health_check_node_port,
            "publishNotReadyAddresses": service.publish_not_ready.then_some(true),
        },
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
}

fn slice(slice: &EndpointSlice) -> Value {
    let mut metadata = meta(&slice.name);
    metadata.insert(
        "labels".to_owned(),
        json!({"kubernetes.io/service-name": slice.service.name}),
    );
    let endpoints: Vec<Value> = slice.endpoints.iter().map(|endpoint| {
        let named = |names: &[crate::cluster::Name]| -> Option<Vec<Value>> {
            (!names.is_empty()).then(|| names.iter().map(|name| json!({"name": name})).collect())
        };
        let hints = endpoint.hints.as_ref().map(|hints| {
            json!({"forZones": named(&hints.for_zones), "forNodes": named(&hints.for_nodes)})
        });
        let pod = endpoint.pod.as_ref().map(|pod| {
            json!({"kind": "Pod", "name": pod, "namespace": slice.name.namespace})
        });
        json!({
            "addresses": [endpoint.address],
            "conditions": {
                "ready": endpoint.ready, "serving": endpoint.serving,
                "terminating": endpoint.terminating,
            },
            "nodeName": endpoint.node_name, "zone": endpoint.zone, "targetRef": pod, "hints": hints,
        })
    }).collect();
    let ports: Vec<Value> = slice.ports.iter().map(|port| {
        json!({"name": port.name, "protocol": port.protocol.to_string(), "port": port.port})
    }).collect();
    without_nulls(json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": family_name(slice.family), "endpoints": endpoints, "ports": ports,
    }))
}

fn workload(workload: &Workload) -> Value {
    let (version, selector) = match workload.kind.as_str() {
        "ReplicationController" => ("v1", json!(workload.selector)),
        _ => ("apps/v1", json!({"matchLabels": workload.selector})),
    };
    without_nulls(json!({
        "apiVersion": version, "kind": workload.kind, "metadata": meta(&workload.name),
        "spec": {
            "replicas": workload.replicas, "selector": selector,
            "template": {
                "metadata": {"labels": workload.labels},
                "spec": {
                    "hostNetwork": workload.host_network.then_some(true),
                    "containers": containers(&workload.ports),
                },
            },
        },
    }))
}
