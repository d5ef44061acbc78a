//! What of a delta can be committed before the rest, and should be where packets must not
//! notice the change.
//!
//! A transaction takes effect at one moment, but interval sets seem to come last: on Linux
//! 6.18, with sets and rules in one commit, some 5 of 60 take-overs under traffic refused
//! connections to node ports, whose rule looks into one; with the sets committed ahead, none
//! did (`tests/netns/takeover.rs`). The same goes for a table of ours whose rules come to use
//! such a set: an older layout, or the first of a kind. A table that is built anew under its own
//! name, to be owned, has no moment in which its sets could go ahead.

use std::collections::BTreeSet;

use super::{Operation, TableChange, Transaction};
use crate::ruleset::{SetData, SetKind, Value};

/// The interval sets that `delta` declares in tables it does not build anew, and what is in
/// them. No rule uses them yet, so that committing this changes nothing for any packet.
#[must_use]
pub fn ahead(delta: &Transaction) -> Transaction {
    Transaction {
        tables: delta.tables.iter().filter_map(of_table).collect(),
    }
}

/// Takes out of `delta` what [`ahead`] would commit first, of tables that are in force: the
/// rules that come to use these sets replace others that packets are meeting.
#[must_use]
pub fn take_ahead(delta: &mut Transaction) -> Transaction {
    let mut first = Transaction::default();
    for table in &mut delta.tables {
        let is_new = |o: &Operation| matches!(o, Operation::AddTable | Operation::OwnTable);
        if table.operations.iter().any(is_new) {
            continue;
        }
        if let Some(part) = of_table(table) {
            table.operations.retain(|o| !part.operations.contains(o));
            first.tables.push(part);
        }
    }
    first
}

/// What of `delta` is to be committed before the rest, if anything: [`take_ahead`], then
/// `without_removals`.
#[must_use]
pub fn take_first(delta: &mut Transaction) -> Transaction {
    let first = take_ahead(delta);
    if first.is_empty() {
        return without_removals(delta).unwrap_or_default();
    }
    first
}

/// Of a change from an older layout, which is told by its verdict map, all but what is only
/// removed: a packet that is still on the old rules finds what they look into. `None` if this
/// is no such change, or nothing but removals is left of it.
fn without_removals(delta: &Transaction) -> Option<Transaction> {
    let is_older = |table: &&TableChange| {
        table.operations.iter().any(|operation| match operation {
            Operation::DeleteSet(name) => {
                let set = table.sets.get(name);
                set.is_some_and(|set| set.data == SetData::Verdict)
            }
            _ => false,
        })
    };
    let parts = delta.tables.iter().filter(is_older).map(kept);
    let tables: Vec<TableChange> = parts.filter(|part| !part.operations.is_empty()).collect();
    (!tables.is_empty()).then_some(Transaction { tables })
}

/// A table's operations without those that only remove.
fn kept(table: &TableChange) -> TableChange {
    let mut added: BTreeSet<(&str, &Value)> = BTreeSet::new();
    let mut gone: BTreeSet<&str> = BTreeSet::new();
    for operation in &table.operations {
        match operation {
            Operation::AddElements(set, elements) => {
                added.extend(elements.iter().map(|(key, _)| (set.as_str(), key)));
            }
            Operation::DeleteChain(name) | Operation::DeleteSet(name) => {
                gone.insert(name);
            }
            _ => {}
        }
    }
    let operations = table
        .operations
        .iter()
        .filter_map(|operation| match operation {
            Operation::DeleteChain(_) | Operation::DeleteSet(_) => None,
            Operation::FlushChain(name) if gone.contains(name.as_str()) => None,
            Operation::DeleteElements(name, _) if gone.contains(name.as_str()) => None,
            Operation::DeleteElements(name, elements)
                if table
                    .sets
                    .get(name)
                    .is_some_and(|s| s.kind == SetKind::Exact) =>
            {
                let replaced = elements
                    .iter()
                    .filter(|(key, _)| added.contains(&(name.as_str(), key)));
                let replaced: Vec<_> = replaced.cloned().collect();
                (!replaced.is_empty()).then(|| Operation::DeleteElements(name.clone(), replaced))
            }
            other => Some(other.clone()),
        });
    TableChange {
        operations: operations.collect(),
        ..table.clone()
    }
}

fn of_table(table: &TableChange) -> Option<TableChange> {
    if table.operations.contains(&Operation::DeleteTable) {
        return None;
    }
    let sets: std::collections::BTreeMap<_, _> = (table.operations.iter())
        .filter_map(|operation| match operation {
            Operation::AddSet(set) if set.kind == SetKind::Interval => {
                Some((set.name.clone(), set.clone()))
            }
            _ => None,
        })
        .collect();
    if sets.is_empty() {
        return None;
    }
    let goes = |operation: &&Operation| match operation {
        Operation::AddTable | Operation::OwnTable => true,
        Operation::AddSet(set) => sets.contains_key(&set.name),
        Operation::AddElements(set, _) => sets.contains_key(set),
        _ => false,
    };
    Some(TableChange {
        operations: table.operations.iter().filter(goes).cloned().collect(),
        sets,
        ..TableChange::empty(table.family)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{Chain, DataType, Family, Set};

    fn delta(operations: Vec<Operation>) -> Transaction {
        Transaction {
            tables: vec![TableChange {
                operations,
                ..TableChange::empty(Family::Ip)
            }],
        }
    }

    #[test]
    fn only_new_interval_sets_go_ahead_and_none_of_a_table_built_anew() {
        let exact = Set::exact("exact", &[DataType::Ipv4Addr]);
        let ranges = Set::exact("ranges", &[DataType::Ipv4Addr]).interval();
        let add = |set: &str| Operation::AddElements(set.to_owned(), Vec::new());
        let whole = vec![
            Operation::AddTable,
            Operation::AddSet(exact),
            Operation::AddSet(ranges.clone()),
            Operation::AddChain(Chain::regular("c", "", Vec::new())),
            add("exact"),
            add("ranges"),
        ];
        let first = ahead(&delta(whole.clone()));
        assert_eq!(
            first.tables[0].operations,
            [
                Operation::AddTable,
                Operation::AddSet(ranges.clone()),
                add("ranges")
            ]
        );
        let anew = [vec![Operation::DeleteTable], whole.clone()].concat();
        assert_eq!(ahead(&delta(anew)), Transaction::default());
        assert_eq!(
            take_ahead(&mut delta(whole.clone())),
            Transaction::default()
        );
        let mut change = delta(whole[1..].to_vec());
        let first = take_ahead(&mut change);
        assert_eq!(
            first.tables[0].operations,
            [Operation::AddSet(ranges), add("ranges")]
        );
        let left = &change.tables[0].operations;
        assert_eq!(left.len(), whole.len() - 3);
        assert!(take_ahead(&mut change).is_empty());
        assert_eq!(ahead(&delta(vec![add("ranges")])), Transaction::default());
    }
}
