//! The same objects in another order: what is made of them must not depend on it.

use serde_json::Value;

use super::Check;
use crate::node::Node;
use crate::print;
use crate::syntax::{documents, parse};

/// The documents of `texts`, and the items of those that are Lists, in another order; always the
/// same one. O(n).
#[must_use]
pub fn shuffled<'t>(texts: impl IntoIterator<Item = &'t str>) -> String {
    let mut order = Order(0x9e37_79b9_7f4a_7c15);
    let all = texts.into_iter().flat_map(documents);
    let mut all: Vec<String> = all
        .map(|document| items(document.text, &mut order))
        .collect();
    order.change(&mut all);
    all.join("\n---\n")
}

/// A document; if it is a List, with its items in another order.
fn items(document: &str, order: &mut Order) -> String {
    // Parsing is dear, and most documents are no Lists.
    let may_be = document.contains("items") && document.contains("List");
    let value = may_be.then(|| parse::value(document).ok()).flatten();
    let Some(Value::Object(mut fields)) = value else {
        return document.to_owned();
    };
    match fields.get_mut("items") {
        Some(Value::Array(items)) if items.len() > 1 => {
            order.change(items);
            Value::Object(fields).to_string()
        }
        _ => document.to_owned(),
    }
}

/// A sequence that looks random (xorshift64).
struct Order(u64);

impl Order {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from(self.0 % limit).unwrap_or_default()
    }

    /// No element stays where it was, as each goes before one of those in front of it
    /// (Sattolo's algorithm: one cycle through all).
    fn change<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last);
            items.swap(last, other);
        }
    }
}

/// Holds the ruleset of a node against that of the same objects in another order.
#[must_use]
pub fn another_order(node: &Node, other: &Node, at: &str) -> Check {
    let name = "the same objects in another order render to the same bytes";
    let (one, two) = (rendered(node), rendered(other));
    let mut lines = one.lines().zip(two.lines());
    let found = match lines.find(|(one, two)| one != two) {
        Some((_, two)) => Err(two.trim().to_owned()),
        None if one.len() != two.len() => Err("lines more or less".to_owned()),
        None => Ok(()),
    };
    Check::of(at, name, "the same bytes", found)
}

pub(super) fn rendered(node: &Node) -> String {
    let mut out = Vec::new();
    // A vector takes it.
    let _ = print::text::ruleset(&mut out, &node.ruleset());
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_document_and_item_is_there_once_in_another_order() {
        let list = r#"{"kind": "List", "items": [{"a": 1}, {"a": 2}, {"a": 3}]}"#;
        let texts = ["a: 1\n---\nb: 2\n", "c: 3\n---\n# nothing\n", list];
        let text = shuffled(texts);
        let found: Vec<&str> = documents(&text).map(|d| d.text.trim()).collect();
        assert_eq!(found.len(), 4, "{text}");
        assert_ne!(found[..3], ["a: 1", "b: 2", "c: 3"]);
        for document in ["a: 1", "b: 2", "c: 3"] {
            assert!(found.contains(&document), "{document}: {text}");
        }
        let list = found.iter().find(|text| text.starts_with('{')).unwrap();
        assert!(!list.contains(r#"[{"a":1}"#), "{list}");
        assert_eq!(list.matches(r#"{"a":"#).count(), 3, "{list}");
        assert_eq!(text, shuffled(texts), "always the same one");
    }

    #[test]
    fn one_document_stays_as_it_is() {
        assert_eq!(shuffled(["a: 1"]).trim(), "a: 1");
        assert_eq!(shuffled([]), "");
    }
}
