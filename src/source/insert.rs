//! One object, from its text or tree to its final type: its fields typed and checked, its name
//! its own.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::Checker;
use super::{Rules, endpoints, pod, service};
use crate::cluster::{Cluster, EndpointSlice, Kind, Names, Object, ObjectName, Origin};
use crate::problem::Problem;
use crate::syntax::name_problem;
use crate::syntax::parse::expectation;

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

/// How an object is written.
#[derive(Clone, Copy)]
enum Written<'a> {
    /// As the API sends it.
    Text(&'a str),
    /// A manifest's, which was looked through for fields that are none.
    Tree(&'a Value),
}

/// Reads the text of one object of a kind that is followed. What is odd or wrong goes to
/// `problems`; an object that cannot be used is none.
pub fn read(
    kind: Kind,
    name: ObjectName,
    text: &str,
    rules: Rules,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) -> Option<Object> {
    let mut c = checker(kind.name(), &name, rules, origin, problems);
    if !has_name(&name, &mut c) {
        return None;
    }
    followed(kind, name, Written::Text(text), &mut c)
}

fn checker<'a>(
    kind: &str,
    name: &ObjectName,
    rules: Rules,
    origin: &'a Origin,
    problems: &'a mut Vec<Problem>,
) -> Checker<'a> {
    Checker {
        origin,
        object: shown(kind, name),
        problems,
        rules,
        failed: false,
    }
}

/// Says what is wrong with a name.
fn has_name(name: &ObjectName, c: &mut Checker<'_>) -> bool {
    let parts = [
        ("metadata.name", Some(&name.name)),
        // What is in no namespace has none.
        (
            "metadata.namespace",
            Some(&name.namespace).filter(|n| !n.is_empty()),
        ),
    ];
    for (field, part) in parts {
        if let Some(problem) = part.and_then(|part| name_problem(part)) {
            c.error(field, problem);
            return false;
        }
    }
    true
}

/// Adds one object of a kind that is read in manifests to `cluster`. It shares its `names` with
/// the objects before it.
pub(super) fn insert_object(
    cluster: &mut Cluster,
    names: &mut Names,
    rules: Rules,
    object: Value,
    origin: &Origin,
    problems: &mut Vec<Problem>,
) {
    let kind = object.get("kind").and_then(Value::as_str);
    let kind = kind.unwrap_or_default().to_owned();
    let name = name_of(&object);
    let mut c = checker(&kind, &name, rules, origin, problems);
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
    if has_name(&name, &mut c) {
        insert(cluster, names, &kind, name, Written::Tree(&object), &mut c);
    }
}

fn insert(
    cluster: &mut Cluster,
    names: &mut Names,
    kind: &str,
    name: ObjectName,
    object: Written<'_>,
    c: &mut Checker<'_>,
) {
    match kind {
        "Endpoints" => {
            if let Some(raw) = typed(object, c) {
                for slice in endpoints::endpoints(&name, raw, c) {
                    let slices = cluster.slices.entry(name.clone()).or_default();
                    slices.insert(slice);
                }
            }
        }
        "ReplicationController" | "ReplicaSet" | "Deployment" | "StatefulSet" | "DaemonSet" => {
            let made = typed(object, c).and_then(|raw| pod::workload(kind, name, raw, c));
            cluster.workloads.extend(made);
        }
        _ => {
            let kind = Kind::ALL.into_iter().find(|of| of.name() == kind);
            if let Some(made) = kind.and_then(|kind| followed(kind, name, object, c)) {
                add(cluster, names, made, c);
            }
        }
    }
}

/// An object of a kind that is followed, out of its fields.
fn followed(
    kind: Kind,
    name: ObjectName,
    object: Written<'_>,
    c: &mut Checker<'_>,
) -> Option<Object> {
    let bare = || name.name.to_string();
    Some(match kind {
        Kind::Service => {
            let raw = typed(object, c)?;
            Object::Service(Box::new(service::service(name, raw, c)?))
        }
        Kind::EndpointSlice => {
            let raw = typed(object, c)?;
            Object::Slice(Box::new(endpoints::slice(name, raw, c)?))
        }
        Kind::Node => {
            let raw = typed(object, c)?;
            Object::Node(Box::new(pod::node(bare(), raw, c)?))
        }
        Kind::Pod => {
            let raw = typed(object, c)?;
            Object::Pod(Box::new(pod::pod(name, raw, c)?))
        }
        Kind::ServiceCidr => {
            let raw = typed(object, c)?;
            Object::ServiceCidr(Box::new(service::service_cidr(bare(), raw, c)?))
        }
    })
}

/// The object with its fields typed; a field of another type is an error with its path.
fn typed<T: DeserializeOwned>(object: Written<'_>, c: &mut Checker<'_>) -> Option<T> {
    let read = match object {
        Written::Text(text) => serde_json::from_str(text),
        Written::Tree(value) => T::deserialize(value),
    };
    if let Ok(raw) = read {
        return Some(raw);
    }
    // Once more, noting each field on the way, which takes as long again.
    let noted = match object {
        Written::Text(text) => {
            serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(text))
        }
        Written::Tree(value) => serde_path_to_error::deserialize(value),
    };
    match noted {
        Ok(raw) => Some(raw),
        Err(e) => {
            let path = e.path().to_string();
            let message = expectation(&e.inner().to_string());
            c.error(&path, message);
            None
        }
    }
}

/// Adds an object under its name; a second one of the same name is an error.
fn add(cluster: &mut Cluster, names: &mut Names, object: Object, c: &mut Checker<'_>) {
    match object {
        Object::Service(mut made) => {
            names.share_service(&mut made);
            let name = made.name.clone();
            put(&mut cluster.services, name, made, |s| &s.origin, c);
        }
        Object::Slice(made) => add_slice(cluster, names, *made, c),
        Object::Node(made) => {
            put(
                &mut cluster.nodes,
                made.name.clone(),
                *made,
                |n| &n.origin,
                c,
            );
        }
        Object::Pod(made) => {
            put(
                &mut cluster.pods,
                made.name.clone(),
                *made,
                |p| &p.origin,
                c,
            );
        }
        Object::ServiceCidr(made) => {
            let name = made.name.clone();
            put(&mut cluster.service_cidrs, name, *made, |s| &s.origin, c);
        }
    }
}

/// Adds a slice to its service's; a second one of the same name is an error.
fn add_slice(
    cluster: &mut Cluster,
    names: &mut Names,
    mut slice: EndpointSlice,
    c: &mut Checker<'_>,
) {
    let service = cluster.services.get_key_value(&slice.service);
    names.share_slice(&mut slice, service.map(|(name, _)| name));
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

fn put<K: Ord, T>(
    map: &mut BTreeMap<K, T>,
    key: K,
    made: T,
    origin: impl Fn(&T) -> &Origin,
    c: &mut Checker<'_>,
) {
    match map.get(&key) {
        Some(first) => taken(&origin(first).clone(), c),
        None => drop(map.insert(key, made)),
    }
}
