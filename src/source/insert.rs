//! Adds one object to the cluster: its fields typed and checked, its name its own.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::Checker;
use super::{Rules, endpoints, pod, service};
use crate::cluster::{Cluster, EndpointSlice, Names, ObjectName, Origin};
use crate::problem::Problem;
use crate::syntax::parse::expectation;
use crate::syntax::{drop_nulls, name_problem};

/// Namespace and name, of which the first is `default` where it is left out.
pub(super) fn name_of(object: &Value) -> ObjectName {
    let meta = object.get("metadata");
    let field = |name: &str| meta.and_then(|m| m.get(name)).and_then(Value::as_str);
    ObjectName::new(
        field("namespace")
            .filter(|n| !n.is_empty())
            .unwrap_or("default"),
        field("name").unwrap_or_default(),
    )
}

/// The object for messages.
pub(super) fn shown(kind: &str, name: &ObjectName) -> String {
    if matches!(kind, "Node" | "ServiceCIDR") {
        format!("{kind} {}", name.name)
    } else {
        format!("{kind} {name}")
    }
}

/// Adds one object of a kind that is read to `cluster`. With `names`, it shares its names with
/// the objects before it.
pub fn insert_object(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    rules: Rules,
    mut object: Value,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) {
    let kind = object.get("kind").and_then(Value::as_str);
    let kind = kind.unwrap_or_default().to_owned();
    let name = name_of(&object);
    let mut c = Checker {
        origin,
        object: shown(&kind, &name),
        problems,
        rules,
        failed: false,
    };
    let meta = object.get("metadata").filter(|meta| !meta.is_null());
    if meta.is_some_and(|meta| !meta.is_object()) {
        c.error("metadata", "is no object with a name");
        return;
    }
    for field in ["name", "namespace"] {
        let value = meta.and_then(|meta| meta.get(field));
        if let Some(other) = value.filter(|value| !value.is_string() && !value.is_null()) {
            c.error(
                &format!("metadata.{field}"),
                format!("is {other}; expected text"),
            );
            return;
        }
    }
    if let Some(problem) = name_problem(&name.name) {
        c.error("metadata.name", problem);
        return;
    }
    if let Some(problem) = name_problem(&name.namespace) {
        c.error("metadata.namespace", problem);
        return;
    }
    drop_nulls(&mut object);
    insert(cluster, names, &kind, name, object, &mut c);
}

fn insert(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    kind: &str,
    name: ObjectName,
    object: Value,
    c: &mut Checker<'_>,
) {
    match kind {
        "Service" => {
            let mut made = typed(object, c).and_then(|raw| service::service(name, raw, c));
            if let (Some(names), Some(service)) = (names, &mut made) {
                names.share_service(service);
            }
            if let Some(made) = made {
                let name = made.name.clone();
                add(
                    &mut cluster.services,
                    name,
                    Some(Box::new(made)),
                    |s| &s.origin,
                    c,
                );
            }
        }
        "EndpointSlice" => {
            if let Some(slice) = typed(object, c).and_then(|raw| endpoints::slice(name, raw, c)) {
                add_slice(cluster, names, slice, c);
            }
        }
        "Endpoints" => {
            if let Some(raw) = typed(object, c) {
                for slice in endpoints::endpoints(&name, raw, c) {
                    let slices = cluster.slices.entry(name.clone()).or_default();
                    slices.insert(slice);
                }
            }
        }
        "Pod" => {
            let made = typed(object, c).and_then(|raw| pod::pod(name.clone(), raw, c));
            add(&mut cluster.pods, name, made, |p| &p.origin, c);
        }
        "Node" => {
            let made = typed(object, c).and_then(|raw| pod::node(name.name.to_string(), raw, c));
            add(
                &mut cluster.nodes,
                name.name.to_string(),
                made,
                |n| &n.origin,
                c,
            );
        }
        "ServiceCIDR" => {
            let made = typed(object, c)
                .and_then(|raw| service::service_cidr(name.name.to_string(), raw, c));
            add(
                &mut cluster.service_cidrs,
                name.name.to_string(),
                made,
                |s| &s.origin,
                c,
            );
        }
        "ReplicationController" | "ReplicaSet" | "Deployment" => {
            let made = typed(object, c).and_then(|raw| pod::workload(kind, name, raw, c));
            cluster.workloads.extend(made);
        }
        _ => {}
    }
}

/// The object with its fields typed; a field of another type is an error with its path.
fn typed<T: DeserializeOwned>(object: Value, c: &mut Checker<'_>) -> Option<T> {
    match serde_path_to_error::deserialize(object) {
        Ok(raw) => Some(raw),
        Err(e) => {
            let path = e.path().to_string();
            let message = expectation(&e.inner().to_string());
            c.error(&path, message);
            None
        }
    }
}

/// Adds a slice to its service's; a second one of the same name is an error.
fn add_slice(
    cluster: &mut Cluster,
    names: Option<&mut Names>,
    mut slice: EndpointSlice,
    c: &mut Checker<'_>,
) {
    let service = cluster.services.get_key_value(&slice.service);
    if let Some(names) = names {
        names.share_slice(&mut slice, service.map(|(name, _)| name));
    }
    let slices = cluster.slices.entry(slice.service.clone()).or_default();
    match slices.get(&slice.name) {
        Some(first) => taken(&first.origin.clone(), c),
        None => slices.insert(slice),
    }
}

fn taken(first: &Origin, c: &mut Checker<'_>) {
    c.error(
        "metadata.name",
        format!("is taken: the same object is at {first}, which is kept"),
    );
}

/// Adds an object under its name; a second one of the same name is an error.
fn add<K: Ord, T>(
    map: &mut BTreeMap<K, T>,
    key: K,
    made: Option<T>,
    origin: impl Fn(&T) -> &Origin,
    c: &mut Checker<'_>,
) {
    let Some(made) = made else { return };
    if let Some(first) = map.get(&key) {
        taken(origin(first), c);
        return;
    }
    map.insert(key, made);
}
