//! Which fields objects have: a field that is none of them was probably meant to be one.
//!
//! The lists are those of the API's own types, so they are complete, down to where this
//! program stops reading. Only manifests are held against them: a server may be newer.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::Origin;
use crate::problem::Problem;
use crate::syntax::{Fields, fields_of};
use crate::text::did_you_mean;

/// An object or a part of one: its fields, and what is known of those below.
struct Shape {
    /// Its fields.
    fields: fn() -> Fields,
    /// Fields that earlier versions of Kubernetes had.
    past: Fields,
    /// Fields that hold such parts, or lists of them.
    below: &'static [(&'static str, &'static Shape)],
}

const fn leaf<T: for<'de> Deserialize<'de>>() -> Shape {
    part::<T>(&[])
}

const fn part<T: for<'de> Deserialize<'de>>(
    below: &'static [(&'static str, &'static Shape)],
) -> Shape {
    Shape {
        fields: fields_of::<T>,
        past: &[],
        below,
    }
}

impl Shape {
    const fn with_past(mut self, past: Fields) -> Self {
        self.past = past;
        self
    }
}

static META: Shape = leaf::<meta::ObjectMeta>().with_past(&["clusterName"]);
static REFERENCE: Shape = leaf::<core::ObjectReference>();

static SERVICE: Shape = part::<core::Service>(&[
    ("metadata", &META),
    ("spec", &SERVICE_SPEC),
    ("status", &SERVICE_STATUS),
]);
static SERVICE_SPEC: Shape = part::<core::ServiceSpec>(&[
    ("ports", &SERVICE_PORT),
    ("sessionAffinityConfig", &AFFINITY),
])
.with_past(&["ipFamily", "topologyKeys"]);
static SERVICE_PORT: Shape = leaf::<core::ServicePort>();
static AFFINITY: Shape = part::<core::SessionAffinityConfig>(&[("clientIP", &CLIENT_IP)]);
static CLIENT_IP: Shape = leaf::<core::ClientIPConfig>();
static SERVICE_STATUS: Shape = part::<core::ServiceStatus>(&[("loadBalancer", &LOAD_BALANCER)]);
static LOAD_BALANCER: Shape = part::<core::LoadBalancerStatus>(&[("ingress", &INGRESS)]);
static INGRESS: Shape = leaf::<core::LoadBalancerIngress>();

static ENDPOINT_SLICE: Shape = part::<discovery::EndpointSlice>(&[
    ("metadata", &META),
    ("endpoints", &ENDPOINT),
    ("ports", &SLICE_PORT),
]);
static ENDPOINT: Shape = part::<discovery::Endpoint>(&[
    ("conditions", &CONDITIONS),
    ("hints", &HINTS),
    ("targetRef", &REFERENCE),
])
.with_past(&["topology"]);
static CONDITIONS: Shape = leaf::<discovery::EndpointConditions>();
static HINTS: Shape =
    part::<discovery::EndpointHints>(&[("forZones", &FOR_ZONE), ("forNodes", &FOR_NODE)]);
static FOR_ZONE: Shape = leaf::<discovery::ForZone>();
static FOR_NODE: Shape = leaf::<discovery::ForNode>();
static SLICE_PORT: Shape = leaf::<discovery::EndpointPort>();

static ENDPOINTS: Shape = part::<core::Endpoints>(&[("metadata", &META), ("subsets", &SUBSET)]);
static SUBSET: Shape = part::<core::EndpointSubset>(&[
    ("addresses", &ADDRESS),
    ("notReadyAddresses", &ADDRESS),
    ("ports", &SUBSET_PORT),
]);
static ADDRESS: Shape = part::<core::EndpointAddress>(&[("targetRef", &REFERENCE)]);
static SUBSET_PORT: Shape = leaf::<core::EndpointPort>();

static POD: Shape = part::<core::Pod>(&[
    ("metadata", &META),
    ("spec", &POD_SPEC),
    ("status", &POD_STATUS),
]);
static POD_SPEC: Shape = part::<core::PodSpec>(&[
    ("containers", &CONTAINER),
    ("initContainers", &CONTAINER),
    ("ephemeralContainers", &EPHEMERAL),
])
.with_past(&["workloadRef"]);
static CONTAINER: Shape = part::<core::Container>(&[("ports", &CONTAINER_PORT)]);
static EPHEMERAL: Shape = part::<core::EphemeralContainer>(&[("ports", &CONTAINER_PORT)]);
static CONTAINER_PORT: Shape = leaf::<core::ContainerPort>();
static POD_STATUS: Shape = part::<core::PodStatus>(&[
    ("conditions", &POD_CONDITION),
    ("hostIPs", &HOST_IP),
    ("podIPs", &POD_IP),
])
.with_past(&["resize"]);
static POD_CONDITION: Shape = leaf::<core::PodCondition>();
static HOST_IP: Shape = leaf::<core::HostIP>();
static POD_IP: Shape = leaf::<core::PodIP>();

static NODE: Shape = part::<core::Node>(&[
    ("metadata", &META),
    ("spec", &NODE_SPEC),
    ("status", &NODE_STATUS),
]);
static NODE_SPEC: Shape = part::<core::NodeSpec>(&[("taints", &TAINT)]).with_past(&["externalID"]);
static TAINT: Shape = leaf::<core::Taint>();
static NODE_STATUS: Shape = part::<core::NodeStatus>(&[("addresses", &NODE_ADDRESS)]);
static NODE_ADDRESS: Shape = leaf::<core::NodeAddress>();

static TEMPLATE: Shape = part::<core::PodTemplateSpec>(&[("metadata", &META), ("spec", &POD_SPEC)]);
static SELECTOR: Shape = leaf::<meta::LabelSelector>();
static CONTROLLER: Shape =
    part::<core::ReplicationController>(&[("metadata", &META), ("spec", &CONTROLLER_SPEC)]);
static CONTROLLER_SPEC: Shape = part::<core::ReplicationControllerSpec>(&[("template", &TEMPLATE)]);
static REPLICA_SET: Shape =
    part::<apps::ReplicaSet>(&[("metadata", &META), ("spec", &REPLICA_SET_SPEC)]);
static REPLICA_SET_SPEC: Shape =
    part::<apps::ReplicaSetSpec>(&[("selector", &SELECTOR), ("template", &TEMPLATE)]);
static DEPLOYMENT: Shape =
    part::<apps::Deployment>(&[("metadata", &META), ("spec", &DEPLOYMENT_SPEC)]);
static DEPLOYMENT_SPEC: Shape =
    part::<apps::DeploymentSpec>(&[("selector", &SELECTOR), ("template", &TEMPLATE)])
        .with_past(&["rollbackTo"]);
static STATEFUL_SET: Shape =
    part::<apps::StatefulSet>(&[("metadata", &META), ("spec", &STATEFUL_SET_SPEC)]);
static STATEFUL_SET_SPEC: Shape =
    part::<apps::StatefulSetSpec>(&[("selector", &SELECTOR), ("template", &TEMPLATE)]);
static DAEMON_SET: Shape =
    part::<apps::DaemonSet>(&[("metadata", &META), ("spec", &DAEMON_SET_SPEC)]);
static DAEMON_SET_SPEC: Shape =
    part::<apps::DaemonSetSpec>(&[("selector", &SELECTOR), ("template", &TEMPLATE)])
        .with_past(&["templateGeneration"]);
static SERVICE_CIDR: Shape =
    part::<networking::ServiceCIDR>(&[("metadata", &META), ("spec", &SERVICE_CIDR_SPEC)]);
static SERVICE_CIDR_SPEC: Shape = leaf::<networking::ServiceCIDRSpec>();

fn shape(kind: &str) -> Option<&'static Shape> {
    Some(match kind {
        "Service" => &SERVICE,
        "EndpointSlice" => &ENDPOINT_SLICE,
        "Endpoints" => &ENDPOINTS,
        "Pod" => &POD,
        "Node" => &NODE,
        "ReplicationController" => &CONTROLLER,
        "ReplicaSet" => &REPLICA_SET,
        "Deployment" => &DEPLOYMENT,
        "StatefulSet" => &STATEFUL_SET,
        "DaemonSet" => &DAEMON_SET,
        "ServiceCIDR" => &SERVICE_CIDR,
        _ => return None,
    })
}

/// Annotations of this program.
const OWN: [&str; 2] = [super::service::BALANCING, super::service::WEIGHTS];

/// Warns of the fields of `object` that its kind does not have, and of annotations in this
/// program's name that it does not know; each with its path without places in lists. O(what is
/// read of the object).
pub fn check(kind: &str, object: &Value, name: &str, origin: &Origin) -> Vec<(String, Problem)> {
    let mut out = Vec::new();
    let Some(shape) = shape(kind) else { return out };
    let mut warn = |field: &str, message: String| {
        let mut parts = field.split(['[', ']']);
        // Every other part is a place, but where an annotation is named.
        let general = if field.contains('/') {
            field.to_owned()
        } else {
            let mut general = parts.next().unwrap_or_default().to_owned();
            while let (Some(_), Some(rest)) = (parts.next(), parts.next()) {
                general = general + "[]" + rest;
            }
            general
        };
        out.push((
            general,
            Problem::warning(Some(origin), name, field, message),
        ));
    };
    walk(shape, object, "", &mut warn);
    let annotations = object
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    for key in annotations.into_iter().flat_map(serde_json::Map::keys) {
        if key.starts_with("svcnat.io/") && !OWN.contains(&key.as_str()) {
            warn(
                &format!("metadata.annotations[{key}]"),
                format!("is not known{}", did_you_mean(key, OWN)),
            );
        }
    }
    out
}

fn walk(shape: &Shape, value: &Value, path: &str, warn: &mut impl FnMut(&str, String)) {
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                // The path is only made where there is something to say.
                if item.is_object() {
                    walk(shape, item, &format!("{path}[{i}]"), warn);
                }
            }
        }
        Value::Object(fields) => {
            let known = (shape.fields)();
            let join = |name: &str| {
                if path.is_empty() {
                    name.to_owned()
                } else {
                    format!("{path}.{name}")
                }
            };
            for (name, value) in fields {
                if let Some((_, below)) = shape.below.iter().find(|(n, _)| n == name) {
                    walk(below, value, &join(name), warn);
                } else if !known.contains(&name.as_str()) && !shape.past.contains(&name.as_str()) {
                    let near = did_you_mean(name, known.iter().copied());
                    warn(
                        &join(name),
                        format!("is no field here and is passed over{near}"),
                    );
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All shapes with their paths.
    fn all() -> Vec<(String, &'static Shape)> {
        let kinds = [
            "Service",
            "EndpointSlice",
            "Endpoints",
            "Pod",
            "Node",
            "ReplicationController",
            "ReplicaSet",
            "Deployment",
            "StatefulSet",
            "DaemonSet",
            "ServiceCIDR",
        ];
        let mut open: Vec<(String, &'static Shape)> = kinds
            .iter()
            .map(|kind| ((*kind).to_owned(), shape(kind).unwrap()))
            .collect();
        let mut out = Vec::new();
        while let Some((path, shape)) = open.pop() {
            open.extend(shape.below.iter().map(|(n, s)| (format!("{path}.{n}"), *s)));
            out.push((path, shape));
        }
        out
    }

    #[test]
    fn every_part_has_fields_and_every_field_that_is_walked_is_one_of_them() {
        let all = all();
        assert!(all.len() > 60, "{}", all.len());
        for (path, shape) in all {
            let fields = (shape.fields)();
            assert!(!fields.is_empty(), "{path}");
            for (name, _) in shape.below {
                assert!(fields.contains(name), "{path}.{name}");
            }
        }
    }
}
