//! Desired minus live: the operations that lead from what the kernel holds to what it
//! should hold, in an order it accepts.

mod ahead;
mod outline;
pub mod render;
mod steps;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

pub use ahead::{ahead, take_ahead, take_first};
pub use outline::{resembles, rules_only};
pub use render::write;
use steps::Steps;

use crate::ruleset::{
    Chain, Element, Family, LiveRuleset, LiveTable, Rule, Ruleset, Set, SetKind, Table, Value,
    lower,
};

/// One step. A batch carries them out in order, all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Removes the whole table.
    DeleteTable,
    /// Adds the table, or adopts one whose owner is gone, for the socket that sends this:
    /// nobody else can change or flush it then, and it outlives us.
    OwnTable,
    /// Removes another program's table, which was asked for by name.
    DeleteOtherTable(String),
    /// Adds the table.
    AddTable,
    /// Removes a chain that is empty and that nothing leads to any more.
    DeleteChain(String),
    /// Adds a chain without rules.
    AddChain(Chain),
    /// Removes all rules of a chain.
    FlushChain(String),
    /// Appends rules to a chain.
    AddRules(String, Vec<Rule>),
    /// Removes a set that no rule uses any more.
    DeleteSet(String),
    /// Declares a set without elements.
    AddSet(Set),
    /// Removes elements.
    DeleteElements(String, Vec<(Value, Element)>),
    /// Adds elements.
    AddElements(String, Vec<(Value, Element)>),
}

/// The steps for one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDelta {
    /// Family of the table.
    pub family: Family,
    /// Declarations of the sets whose elements change, without elements.
    pub sets: BTreeMap<String, Set>,
    /// Steps in order.
    pub operations: Vec<Operation>,
    /// The table the steps lead to, for rules that name its sets; without elements.
    pub skeleton: Option<Table>,
    /// What added elements of counted sets start from, by set and key; others start from 0.
    pub carried: BTreeMap<String, HashMap<Value, Count>>,
}

impl TableDelta {
    /// No steps yet.
    #[must_use]
    pub const fn empty(family: Family) -> Self {
        Self {
            family,
            sets: BTreeMap::new(),
            operations: Vec::new(),
            skeleton: None,
            carried: BTreeMap::new(),
        }
    }
}

/// What an element has counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Count {
    /// Packets that found it: first packets, in the maps of ours that count.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
    }
}

/// All steps.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Delta {
    /// Per table, IPv4 first; tables without change are left out.
    pub tables: Vec<TableDelta>,
}

/// How much a delta changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counts {
    /// Elements added; a changed one counts here and in `elements_deleted`.
    pub elements_added: usize,
    /// Elements deleted.
    pub elements_deleted: usize,
    /// Rules added.
    pub rules_added: usize,
    /// Tables, chains and sets added, deleted or emptied.
    pub objects: usize,
}

impl Delta {
    /// True if there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Says what was done before as well.
    pub fn after(&mut self, first: Self) {
        for done in first.tables {
            match self.tables.iter_mut().find(|t| t.family == done.family) {
                Some(table) => {
                    table.operations.splice(0..0, done.operations);
                    table.sets.extend(done.sets);
                }
                None => self.tables.push(done),
            }
        }
    }

    /// How much it changes.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for operation in self.tables.iter().flat_map(|t| &t.operations) {
            match operation {
                Operation::AddElements(_, e) => counts.elements_added += e.len(),
                Operation::DeleteElements(_, e) => counts.elements_deleted += e.len(),
                Operation::AddRules(_, r) => counts.rules_added += r.len(),
                _ => counts.objects += 1,
            }
        }
        counts
    }
}

/// The delta from `live` to `desired`. O(elements of both).
#[must_use]
pub fn diff(desired: &Ruleset, live: &LiveRuleset) -> Delta {
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
    Delta { tables }
}

/// Turns `delta`, which leads from `live` to `desired`, into one after which the sending
/// socket owns the tables. A table that was made without an owner cannot be given one, and
/// is built anew in the same transaction.
pub fn own(delta: &mut Delta, desired: &Ruleset, live: &LiveRuleset) {
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
            None => TableDelta::empty(*family),
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

/// Has the sending socket own the tables that `delta` adds.
pub fn own_added(delta: &mut Delta) {
    for operation in delta.tables.iter_mut().flat_map(|t| &mut t.operations) {
        if *operation == Operation::AddTable {
            *operation = Operation::OwnTable;
        }
    }
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
fn removal<'a>(family: Family, sets: impl Iterator<Item = &'a Set>) -> TableDelta {
    let mut delta = TableDelta::empty(family);
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

/// A chain as it is before its rules are added.
fn without_rules(chain: &Chain) -> Chain {
    Chain {
        name: chain.name.clone(),
        rules: Vec::new(),
        ..*chain
    }
}

fn owned(elements: &BTreeMap<Value, Element>) -> Vec<(Value, Element)> {
    elements.iter().map(|(k, e)| (*k, e.clone())).collect()
}

/// A whole table. Rules come before elements: binding a map to a rule walks its elements.
fn creation(table: &Table, replace: bool) -> TableDelta {
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
    TableDelta {
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
pub fn reshape(before: &Table, skeleton: &Table, changes: Changes) -> Option<TableDelta> {
    let mut steps = Steps::default();
    let mut sets = BTreeMap::new();
    for (name, set) in &skeleton.sets {
        if !before.sets.contains_key(name) {
            steps.declarations.push(Operation::AddSet(declaration(set)));
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
    let has_rules = !steps.rules.is_empty();
    let operations = steps.in_order();
    (!operations.is_empty()).then(|| TableDelta {
        family: skeleton.family,
        sets,
        operations,
        skeleton: has_rules.then(|| self::skeleton(skeleton)),
        carried: BTreeMap::new(),
    })
}

fn change(table: &Table, live_table: &LiveTable) -> Option<TableDelta> {
    let live = live_table;
    let mut steps = Steps::default();
    let mut sets = BTreeMap::new();
    for (name, set) in &table.sets {
        let empty = BTreeMap::new();
        let before = live.sets.get(name).map_or(&empty, |live| &live.elements);
        if !live.sets.contains_key(name) {
            steps.declarations.push(Operation::AddSet(declaration(set)));
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
    (!operations.is_empty()).then(|| TableDelta {
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

/// Elements with their keys.
pub type Elements = Vec<(Value, Element)>;

/// Elements to remove and to add, by set.
pub type Changes = BTreeMap<Cow<'static, str>, (Elements, Elements)>;

/// A table of which only elements change. `changes` is what to remove and what to add, by
/// set; `table` has the sets' declarations. `None` if nothing changes. O(changes).
#[must_use]
pub fn elements_only(table: &Table, changes: Changes) -> Option<TableDelta> {
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
    (!sets.is_empty()).then(|| TableDelta {
        family: table.family,
        sets,
        operations: steps.in_order(),
        skeleton: None,
        carried: BTreeMap::new(),
    })
}

/// A table that was not there, or one that goes.
#[must_use]
pub fn appearance(before: Option<&Table>, after: Option<&Table>) -> Option<TableDelta> {
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
