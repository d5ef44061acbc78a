//! What an API server's answers say: pages of a list, lines of a watch, and the objects in
//! them, turned into the cluster's own types.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::api::{Fault, Kind, Reason};
use super::{Rules, read};
use crate::cluster::{Object, ObjectName, Origin};
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

/// An object of which only name and version matter.
#[derive(Deserialize, Default)]
pub(super) struct Stub {
    #[serde(default)]
    metadata: StubMetadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct StubMetadata {
    namespace: Option<String>,
    name: Option<String>,
    resource_version: Option<String>,
}

impl Stub {
    /// Nothing but that of an object, or nothing at all.
    pub fn of(object: &RawValue) -> Self {
        serde_json::from_str(object.get()).unwrap_or_default()
    }

    /// The object's name.
    pub fn name(&self) -> ObjectName {
        let StubMetadata {
            namespace, name, ..
        } = &self.metadata;
        let [namespace, name] = [namespace, name].map(|n| n.as_deref().unwrap_or_default());
        ObjectName::new(namespace, name)
    }

    /// Its version; empty if it has none.
    pub fn version(self) -> String {
        self.metadata.resource_version.unwrap_or_default()
    }
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

/// An object of a list or a watch, and what is wrong with it. What cannot be used counts as
/// absent; one of more than `most` bytes costs only itself.
pub(super) fn object(
    kind: Kind,
    server: &str,
    rules: Rules,
    text: &RawValue,
    most: usize,
) -> (Option<Object>, Vec<Problem>) {
    let origin = Origin {
        source: server.into(),
        ..Origin::default()
    };
    let (name, size) = (Stub::of(text).name(), text.get().len());
    if size > most {
        let object = format!("{} {name}", kind.name());
        let why = format!("has {size} bytes, more than {most}, the limit of one object; left out");
        return (None, vec![Problem::error(Some(&origin), object, "", why)]);
    }
    let mut problems = Vec::new();
    let object = read(kind, name, text.get(), rules, &origin, &mut problems);
    (object, problems)
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
