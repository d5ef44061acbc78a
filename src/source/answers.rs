//! What an API server's answers say: pages of a list, lines of a watch, and the objects in
//! them, turned into the cluster's own types.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::api::{Fault, Kind, Reason, found, gone};
use super::{Rules, insert_object};
use crate::cluster::{Change, Cluster, ObjectName, Origin};
use crate::problem::Problem;

/// A page of a list.
#[derive(Deserialize)]
pub(super) struct Page<'a> {
    pub metadata: PageMetadata,
    /// Nothing is written as null.
    #[serde(borrow)]
    pub items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
pub(super) struct PageMetadata {
    #[serde(default, rename = "resourceVersion")]
    pub resource_version: String,
    #[serde(default, rename = "continue")]
    pub continue_: Option<String>,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "type")]
    pub kind: &'a str,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

/// An object of which only the name matters.
#[derive(Deserialize, Default)]
struct Named {
    #[serde(default)]
    metadata: NamedMetadata,
}

#[derive(Deserialize, Default)]
struct NamedMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
}

pub(super) fn read_page(text: &[u8]) -> Result<Page<'_>, Fault> {
    serde_json::from_slice(text)
        .map_err(|e| Fault::new(Reason::NotUnderstood, format!("the answer is no list: {e}")))
}

pub(super) fn no_version() -> Fault {
    Fault::new(
        Reason::NotUnderstood,
        "the answer has no metadata.resourceVersion",
    )
}

/// True if the first version is less than the second. Versions of one kind are numbers that
/// grow (KEP-5504); of any that are not, nothing is said.
pub(super) fn is_older(now: &str, before: &str) -> bool {
    match (now.parse::<u128>(), before.parse::<u128>()) {
        (Ok(now), Ok(before)) => now < before,
        _ => false,
    }
}

/// An item of a list. One that is too large costs only itself.
pub(super) fn listed(
    kind: Kind,
    server: &str,
    rules: Rules,
    item: &RawValue,
    most: usize,
) -> (Change, Vec<Problem>) {
    let size = item.get().len();
    let refuse = |why: String| {
        let named: Named = serde_json::from_str(item.get()).unwrap_or_default();
        let name = ObjectName::new(named.metadata.namespace, named.metadata.name);
        let object = format!("{} {name}", kind.name());
        let problem = Problem::error(Some(&origin(server)), object, "", why);
        (gone(kind, name), vec![problem])
    };
    if size > most {
        return refuse(format!(
            "has {size} bytes, more than {most}, the limit of one object; left out"
        ));
    }
    match serde_json::from_str(item.get()) {
        Ok(object) => read(kind, server, rules, object),
        Err(error) => refuse(format!("cannot be read: {error}; left out")),
    }
}

/// An object. What cannot be used counts as absent, and is reported.
pub(super) fn read(
    kind: Kind,
    server: &str,
    rules: Rules,
    mut object: Value,
) -> (Change, Vec<Problem>) {
    let name = name_of(&object);
    let (group, version, _) = kind.resource();
    if let Value::Object(fields) = &mut object {
        let version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        // Items of a list do not say what they are.
        fields.insert("apiVersion".to_owned(), version.into());
        fields.insert("kind".to_owned(), kind.name().into());
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.remove("managedFields");
        }
    }
    let mut cluster = Cluster::default();
    let mut problems = Vec::new();
    let origin = origin(server);
    insert_object(&mut cluster, None, rules, object, &origin, &mut problems);
    (found(kind, name, cluster), problems)
}

fn origin(server: &str) -> Origin {
    Origin {
        source: server.into(),
        ..Origin::default()
    }
}

/// A field of the object's metadata; empty if there is none.
pub(super) fn metadata(object: &Value, field: &str) -> String {
    let found = object.pointer("/metadata").and_then(|m| m.get(field));
    found.and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The object's name.
pub(super) fn name_of(object: &Value) -> ObjectName {
    ObjectName::new(metadata(object, "namespace"), metadata(object, "name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_went_back_is_noticed_by_its_version() {
        assert!(is_older("99", "100"));
        assert!(!is_older("100", "99") && !is_older("100", "100"));
        assert!(!is_older("", "100") && !is_older("a", "b"));
    }

    #[test]
    fn a_page_may_hold_nothing_and_is_not_anything() {
        for text in [
            r#"{"metadata":{"resourceVersion":"7"},"items":null}"#,
            r#"{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":""}}"#,
        ] {
            let page = read_page(text.as_bytes()).unwrap();
            assert!(page.items.unwrap_or_default().is_empty());
            assert_eq!(page.metadata.resource_version, "7");
        }
        for text in ["", "{}", "[]", "<html>", r#"{"metadata":{},"items":{}}"#] {
            let fault = read_page(text.as_bytes()).err().unwrap();
            assert_eq!(fault.reason, Reason::NotUnderstood, "{text}");
        }
    }
}
