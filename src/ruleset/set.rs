//! Named sets and maps and their elements: where all state of services lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{DataType, Datum, Value};

/// What a set is for, besides its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetData {
    /// A set: membership only.
    None,
    /// A data map: each key gives these fields.
    Fields(Vec<DataType>),
    /// A verdict map: each key gives a `goto`.
    Verdict,
}

/// What an element gives besides its presence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ElementData {
    /// Nothing: the element of a set.
    None,
    /// A data map's value.
    Value(Datum),
    /// A verdict map's target chain, reached by `goto`.
    Goto(Box<str>),
}

/// The value side of one element. Its key is the key of [`Set::elements`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Element {
    /// Last key of the range for interval sets, inclusive; `None` for a single key.
    /// In concatenated intervals every field has its own range, both ends in one [`Value`].
    pub end: Option<Box<Value>>,
    /// Map data.
    pub data: ElementData,
    /// A comment for people who read `nft list`: untrusted text, already cleaned and cut
    /// by [`crate::text::comment`].
    pub comment: Option<Arc<str>>,
}

impl Element {
    /// A set element or a map element without comment.
    #[must_use]
    pub const fn new(data: ElementData) -> Self {
        Self {
            end: None,
            data,
            comment: None,
        }
    }

    /// The same with a comment.
    #[must_use]
    pub fn with_comment(mut self, comment: Arc<str>) -> Self {
        self.comment = Some(comment);
        self
    }

    /// The same as the start of a range up to and including `end`.
    #[must_use]
    pub fn through(mut self, end: Value) -> Self {
        self.end = Some(Box::new(end));
        self
    }
}

/// How the kernel fills and matches a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SetKind {
    /// Exact keys, filled by us.
    Exact,
    /// Ranges or prefixes, filled by us (`flags interval`).
    Interval,
    /// Filled by packets (`flags dynamic,timeout`); its elements are never ours to list.
    Dynamic {
        /// Most elements it may hold.
        size: u32,
        /// Default life of an element, in seconds.
        timeout: u32,
    },
}

/// A named set or map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    /// Name, unique in the table.
    pub name: String,
    /// Fields of the key.
    pub key: Vec<DataType>,
    /// What it maps to.
    pub data: SetData,
    /// Exact, interval or dynamic.
    pub kind: SetKind,
    /// True if each element counts the packets that found it (`counter`).
    pub counted: bool,
    /// For people who read `nft list`; none if empty. As with chains, no part of any
    /// comparison with what is installed.
    #[serde(skip)]
    pub comment: &'static str,
    /// Elements by key, in byte order. Empty for dynamic sets.
    pub elements: BTreeMap<Value, Element>,
}

impl Set {
    /// An empty set of exact keys.
    #[must_use]
    pub fn exact(name: &str, key: &[DataType]) -> Self {
        Self {
            name: name.to_owned(),
            key: key.to_vec(),
            data: SetData::None,
            kind: SetKind::Exact,
            counted: false,
            comment: "",
            elements: BTreeMap::new(),
        }
    }

    /// The same with ranges as keys.
    #[must_use]
    pub fn interval(mut self) -> Self {
        self.kind = SetKind::Interval;
        self
    }

    /// The same filled by packets.
    #[must_use]
    pub fn dynamic(mut self, size: u32, timeout: u32) -> Self {
        self.kind = SetKind::Dynamic { size, timeout };
        self
    }

    /// The same as a data map.
    #[must_use]
    pub fn mapping(mut self, data: &[DataType]) -> Self {
        self.data = SetData::Fields(data.to_vec());
        self
    }

    /// The same as a verdict map.
    #[must_use]
    pub fn verdicts(mut self) -> Self {
        self.data = SetData::Verdict;
        self
    }

    /// True if the two are declared alike, whatever they hold.
    #[must_use]
    pub fn same_declaration(&self, other: &Self) -> bool {
        self.name == other.name
            && self.key == other.key
            && self.data == other.data
            && self.kind == other.kind
            && self.counted == other.counted
    }

    /// True if nft needs `typeof`: a field without a type name of fixed size.
    #[must_use]
    pub fn needs_typeof(&self) -> bool {
        self.key.contains(&DataType::Slot)
    }

    /// The element that covers `key`, as the kernel would find it. O(log n) for exact sets,
    /// O(n) for concatenated intervals.
    #[must_use]
    pub fn lookup(&self, key: &Value) -> Option<&Element> {
        if self.kind != SetKind::Interval {
            return self.elements.get(key);
        }
        self.elements.iter().find_map(|(start, element)| {
            let end = element.end.as_deref().unwrap_or(start);
            covers(&self.key, start, end, key).then_some(element)
        })
    }
}

/// True if every field of `key` lies between the same fields of `start` and `end`.
fn covers(schema: &[DataType], start: &Value, end: &Value, key: &Value) -> bool {
    let (Some(start), Some(end), Some(key)) =
        (start.fields(schema), end.fields(schema), key.fields(schema))
    else {
        return false;
    };
    key.iter()
        .zip(start.iter().zip(&end))
        .all(|(key, (start, end))| start <= key && key <= end)
}
