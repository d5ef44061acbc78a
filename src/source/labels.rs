//! Labels of Services and Nodes. No decision about traffic depends on them, so the objects do
//! not keep them; whoever selects by them asks for them when reading ([`load_labelled`]).

use std::collections::BTreeMap;

use serde_json::Value;

use super::insert::name_of;
use super::{Input, Loaded, SourceError, load_over};
use crate::cluster::ObjectName;

/// Label keys and values of one object.
pub type LabelMap = BTreeMap<String, String>;

/// Labels by object; of objects without labels, nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    services: BTreeMap<ObjectName, LabelMap>,
    nodes: BTreeMap<String, LabelMap>,
}

/// [`super::load`], with the labels of Services and Nodes ([`Loaded::labels`]).
///
/// # Errors
/// As [`super::load`].
pub fn load_labelled(inputs: &[Input], legacy_source_ranges: bool) -> Result<Loaded, SourceError> {
    let loaded = Loaded {
        legacy_source_ranges,
        labels: Some(Labels::default()),
        ..Loaded::default()
    };
    load_over(inputs, loaded)
}

impl Labels {
    /// Labels of this Service.
    #[must_use]
    pub fn of_service(&self, name: &ObjectName) -> LabelMap {
        self.services.get(name).cloned().unwrap_or_default()
    }

    /// Labels of this Node.
    #[must_use]
    pub fn of_node(&self, name: &str) -> LabelMap {
        self.nodes.get(name).cloned().unwrap_or_default()
    }

    /// Takes the labels of an object. Of two with the same name the first is kept, as of the
    /// objects themselves.
    pub(super) fn note(&mut self, kind: &str, object: &Value) {
        let labels = object.get("metadata").and_then(|m| m.get("labels"));
        let Some(labels) = labels.and_then(Value::as_object) else {
            return;
        };
        let labels = || {
            let pairs = labels.iter();
            pairs
                // null is empty, as the API server has it; other values are errors elsewhere.
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect()
        };
        let name = name_of(object);
        match kind {
            "Service" => drop(self.services.entry(name).or_insert_with(labels)),
            "Node" => drop(
                self.nodes
                    .entry(name.name.to_string())
                    .or_insert_with(labels),
            ),
            _ => {}
        }
    }
}
