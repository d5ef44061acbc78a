//! Desired minus live: the operations that lead from what the kernel holds to what it
//! should hold, in an order it accepts.

mod outline;

use std::borrow::Cow;
use std::collections::BTreeMap;

pub use outline::{resembles, rules_only};

use crate::ruleset::{
    Chain, Element, Family, LiveRuleset, LiveTable, Ruleset, Set, SetKind, Table, Value, lower,
};
use crate::transaction::{Elements, Operation, Steps, TableChange, Transaction, without_rules};

/// The delta from `live` to `desired`. O(elements of both).
#[must_use]
pub fn diff(desired: &Ruleset, live: &LiveRuleset) -> Transaction {
    let mut tables = Vec::new();
    for family in Family::ALL {
        let delta = match (desired.tables.get(&family), live.tables.get(&family)) {
            (None, None) => None,
            (None, Some(live)) => Some(removal(family, live.sets.values())),
            (Some(table), None) => Some(creation(table, false)),
            (Some(table), Some(live)) if must_recreate(table, live) => Some(creation(table, true)),
            (Some(table), Some(live)) => change(table, live),
        };
        tables.extend(delta);
    }
    Transaction { tables }
}

/// Turns `delta`, which leads from `live` to `desired`, into one after which the sending
/// socket owns the tables. A table that was made without an owner cannot be given one, and
/// is built anew in the same transaction.
pub fn own(delta: &mut Transaction, desired: &Ruleset, live: &LiveRuleset) {
    for (family, table) in &desired.tables {
        let found = live.tables.get(family);
        if found.is_some_and(|found| found.owned) {
            continue;
        }
        let orphan = found.is_some_and(|found| found.orphan);
        let at = delta.tables.iter().position(|t| t.family == *family);
        let mut change = match at.map(|at| delta.tables.remove(at)) {
            _ if found.is_some() && !orphan => creation(table, true),
            Some(change) => change,
            None => TableChange::empty(*family),
        };
        let adds = |o: &&mut Operation| **o == Operation::AddTable;
        match change.operations.iter_mut().find(adds) {
            Some(add) => *add = Operation::OwnTable,
            None => change.operations.insert(0, Operation::OwnTable),
        }
        delta.tables.push(change);
    }
    delta.tables.sort_by_key(|table| table.family);
}

fn rules_agree(table: &Table, chain: &Chain, live: &LiveTable) -> bool {
    live.chains.get(&chain.name).is_some_and(|live| {
        live.rules.len() == chain.rules.len()
            && chain
                .rules
                .iter()
                .zip(&live.rules)
                .all(|(rule, live)| lower(rule, table) == *live)
    })
}

/// A table goes: its elements one by one, for who looks at what became of them.
fn removal<'a>(family: Family, sets: impl Iterator<Item = &'a Set>) -> TableChange {
    let mut delta = TableChange::empty(family);
    let filled =
        sets.filter(|set| !set.elements.is_empty() && !matches!(set.kind, SetKind::Dynamic { .. }));
    for set in filled {
        delta.sets.insert(set.name.clone(), declaration(set));
        let elements = owned(&set.elements);
        delta
            .operations
            .push(Operation::DeleteElements(set.name.clone(), elements));
    }
    delta.operations.push(Operation::DeleteTable);
    delta
}

/// Sets and hooks cannot be changed in place. That a table is built anew, in the same
/// transaction, happens only when svcnat itself was changed, or somebody else meddled.
fn must_recreate(table: &Table, live: &LiveTable) -> bool {
    let set_differs = |set: &Set| {
        live.sets
            .get(&set.name)
            .is_some_and(|live| !set.same_declaration(live))
    };
    let hook_differs = |chain: &Chain| {
        live.chains
            .get(&chain.name)
            .is_some_and(|live| live.base != chain.base)
    };
    !live.foreign.is_empty()
        || table.sets.values().any(set_differs)
        || table.chains.iter().any(hook_differs)
}

/// The table without elements.
fn skeleton(table: &Table) -> Table {
    let sets = table
        .sets
        .iter()
        .map(|(name, set)| (name.clone(), declaration(set)))
        .collect();
    Table {
        family: table.family,
        sets,
        chains: Vec::new(),
    }
}

fn declaration(set: &Set) -> Set {
    Set {
        name: set.name.clone(),
        key: set.key.clone(),
        data: set.data.clone(),
        kind: set.kind,
        counted: set.counted,
        comment: set.comment,
        elements: BTreeMap::new(),
    }
}

fn owned(elements: &BTreeMap<Value, Element>) -> Vec<(Value, Element)> {
    elements.iter().map(|(k, e)| (*k, e.clone())).collect()
}

/// A whole table. Rules come before elements: binding a map to a rule walks its elements.
fn creation(table: &Table, replace: bool) -> TableChange {
    let mut operations = Vec::new();
    if replace {
        operations.push(Operation::DeleteTable);
    }
    operations.push(Operation::AddTable);
    operations.extend(
        table
            .sets
            .values()
            .map(|s| Operation::AddSet(declaration(s))),
    );
    operations.extend(
        table
            .chains
            .iter()
            .map(|c| Operation::AddChain(without_rules(c))),
    );
    operations.extend(
        table
            .chains
            .iter()
            .filter(|c| !c.rules.is_empty())
            .map(|c| Operation::AddRules(c.name.clone(), c.rules.clone())),
    );
    operations.extend(
        table
            .sets
            .values()
            .filter(|s| !s.elements.is_empty())
            .map(|s| Operation::AddElements(s.name.clone(), owned(&s.elements))),
    );
    let skeleton = skeleton(table);
    TableChange {
        family: table.family,
        sets: skeleton.sets.clone(),
        operations,
        skeleton: Some(skeleton),
        carried: BTreeMap::new(),
    }
}

/// The steps from one state of a table to the next, both in memory: its skeleton, and the
/// elements that change, by set. O(changes + skeleton), whatever the table holds.
#[must_use]
pub fn reshape(before: &Table, skeleton: &Table, changes: Changes) -> Option<TableChange> {
    let mut steps = Steps::default();
    let mut sets = BTreeMap::new();
    for (name, set) in &skeleton.sets {
        if !before.sets.contains_key(name) {
            steps.add_set(declaration(set));
        }
    }
    for (name, (removed, added)) in changes {
        let set = skeleton.sets.get(&*name);
        let Some(set) = set.or_else(|| before.sets.get(&*name)) else {
            continue;
        };
        if !(removed.is_empty() && added.is_empty()) {
            sets.insert(set.name.clone(), declaration(set));
            steps.elements(&name, removed, added);
        }
    }
    for chain in &skeleton.chains {
        let old = before.chain(&chain.name);
        if old.is_none_or(|old| old != chain) {
            let had_rules = old.is_some_and(|old| !old.rules.is_empty());
            steps.chain(chain, old.is_none(), had_rules);
        }
    }
    let stays = |name: &str| skeleton.chain(name).is_some();
    let sets_gone = before
        .sets
        .keys()
        .filter(|name| !skeleton.sets.contains_key(*name));
    steps.remove_sets(sets_gone);
    let chains = before.chains.iter().map(|chain| &chain.name);
    steps.remove_chains(chains.filter(|name| !stays(name)));
    let has_rules = steps.has_rules();
    let operations = steps.in_order();
    (!operations.is_empty()).then(|| TableChange {
        family: skeleton.family,
        sets,
        operations,
        skeleton: has_rules.then(|| self::skeleton(skeleton)),
        carried: BTreeMap::new(),
    })
}

fn change(table: &Table, live_table: &LiveTable) -> Option<TableChange> {
    let live = live_table;
    let mut steps = Steps::default();
    let mut sets = BTreeMap::new();
    for (name, set) in &table.sets {
        let empty = BTreeMap::new();
        let before = live.sets.get(name).map_or(&empty, |live| &live.elements);
        if !live.sets.contains_key(name) {
            steps.add_set(declaration(set));
        }
        if matches!(set.kind, SetKind::Dynamic { .. }) {
            continue;
        }
        let (removed, added) = elements(before, &set.elements);
        if removed.is_empty() && added.is_empty() {
            continue;
        }
        sets.insert(name.clone(), declaration(set));
        steps.elements(name, removed, added);
    }
    chains(&mut steps, table, live);
    let gone = || (live.sets.values()).filter(|set| !table.sets.contains_key(&set.name));
    for set in gone().filter(|set| !matches!(set.kind, SetKind::Dynamic { .. })) {
        // Said one by one for who looks at what became of them.
        sets.insert(set.name.clone(), declaration(set));
        steps.elements(&set.name, owned(&set.elements), Vec::new());
    }
    steps.remove_sets(gone().map(|set| &set.name));
    let operations = steps.in_order();
    let has_rules = operations
        .iter()
        .any(|o| matches!(o, Operation::AddRules(..)));
    (!operations.is_empty()).then(|| TableChange {
        family: table.family,
        sets,
        operations,
        skeleton: has_rules.then(|| skeleton(table)),
        carried: BTreeMap::new(),
    })
}

/// What is to be done about chains.
fn chains(steps: &mut Steps, table: &Table, live_table: &LiveTable) {
    let live = live_table;
    for chain in &table.chains {
        let live = live.chains.get(&chain.name);
        if !rules_agree(table, chain, live_table) {
            let had_rules = live.is_some_and(|live| !live.rules.is_empty());
            steps.chain(chain, live.is_none(), had_rules);
        }
    }
    let gone = live
        .chains
        .keys()
        .filter(|name| table.chain(name).is_none());
    steps.remove_chains(gone);
}

/// Elements to remove and to add, by set.
pub type Changes = BTreeMap<Cow<'static, str>, (Elements, Elements)>;

/// A table of which only elements change. `changes` is what to remove and what to add, by
/// set; `table` has the sets' declarations. `None` if nothing changes. O(changes).
#[must_use]
pub fn elements_only(table: &Table, changes: Changes) -> Option<TableChange> {
    let mut sets = BTreeMap::new();
    let mut steps = Steps::default();
    for (name, (removed, added)) in changes {
        let Some(set) = table.sets.get(&*name) else {
            continue;
        };
        if removed.is_empty() && added.is_empty() {
            continue;
        }
        steps.elements(&name, removed, added);
        sets.insert(set.name.clone(), declaration(set));
    }
    (!sets.is_empty()).then(|| TableChange {
        family: table.family,
        sets,
        operations: steps.in_order(),
        skeleton: None,
        carried: BTreeMap::new(),
    })
}

/// A table that was not there, or one that goes.
#[must_use]
pub fn appearance(before: Option<&Table>, after: Option<&Table>) -> Option<TableChange> {
    match (before, after) {
        (_, Some(after)) => Some(creation(after, before.is_some())),
        (Some(before), None) => Some(removal(before.family, before.sets.values())),
        (None, None) => None,
    }
}

/// What to remove and what to add, by walking both in key order. A changed element is both.
#[must_use]
pub fn elements(
    before: &BTreeMap<Value, Element>,
    after: &BTreeMap<Value, Element>,
) -> (Elements, Elements) {
    let (mut removed, mut added) = (Vec::new(), Vec::new());
    walk(before, after, |come, (key, element)| {
        let to = if come { &mut added } else { &mut removed };
        to.push((*key, element.clone()));
    });
    (removed, added)
}

/// Shows `seen` what to remove (`false`) and what to add (`true`), in key order.
pub fn walk<'a>(
    before: &'a BTreeMap<Value, Element>,
    after: &'a BTreeMap<Value, Element>,
    mut seen: impl FnMut(bool, (&'a Value, &'a Element)),
) {
    let mut old = before.iter().peekable();
    let mut new = after.iter().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let gone = if order.is_le() { old.next() } else { None };
        let come = if order.is_ge() { new.next() } else { None };
        if let (Some((_, a)), Some((_, b))) = (gone, come)
            && a == b
        {
            continue;
        }
        gone.into_iter().for_each(|gone| seen(false, gone));
        come.into_iter().for_each(|come| seen(true, come));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{DataType, Datum, ElementData};

    fn map(pairs: &[(u32, u32)]) -> BTreeMap<Value, Element> {
        pairs
            .iter()
            .map(|(k, v)| {
                let data = ElementData::Value(Datum::new().u32(*v));
                (Value::new().u32(*k), Element::new(data))
            })
            .collect()
    }

    #[test]
    fn equal_elements_give_nothing_and_changed_ones_are_removed_and_added() {
        let before = map(&[(1, 1), (2, 2), (3, 3)]);
        assert_eq!(elements(&before, &before), (vec![], vec![]));
        let (removed, added) = elements(&before, &map(&[(1, 1), (2, 9), (4, 4)]));
        assert_eq!(removed.len(), 2);
        assert_eq!(added.len(), 2);
    }

    #[test]
    fn a_table_with_another_set_declaration_is_built_anew() {
        let mut table = Table::new(Family::Ip);
        let set = Set::exact("s", &[DataType::Ipv4Addr]);
        table.sets.insert("s".into(), set.clone());
        let mut live = LiveTable::default();
        live.sets.insert("s".into(), set.interval());
        let mut desired = Ruleset::default();
        desired.tables.insert(Family::Ip, table);
        let mut found = LiveRuleset::default();
        found.tables.insert(Family::Ip, live);
        let delta = diff(&desired, &found);
        assert_eq!(delta.tables[0].operations[0], Operation::DeleteTable);
    }

    #[test]
    fn a_table_that_is_not_wanted_is_removed() {
        let mut found = LiveRuleset::default();
        found.tables.insert(Family::Ip6, LiveTable::default());
        let delta = diff(&Ruleset::default(), &found);
        assert_eq!(delta.tables[0].operations, [Operation::DeleteTable]);
        assert!(diff(&Ruleset::default(), &LiveRuleset::default()).is_empty());
    }
}
