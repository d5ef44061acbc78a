//! The tables in memory, changed as a step changes the kernel's.

use std::collections::{BTreeMap, BTreeSet};

use crate::compile::{SetId, Sink, Uses};
use crate::diff::{Changes, appearance, elements, elements_only, reshape};
use crate::ruleset::{Element, Family, Ruleset, Table, Value};
use crate::transaction::TableChange;

/// Elements by set.
#[derive(Default)]
pub(super) struct Elements(BTreeMap<SetId, BTreeMap<Value, Element>>);

impl Sink for Elements {
    fn put(&mut self, set: SetId, key: Value, element: Element) {
        self.0.entry(set).or_default().insert(key, element);
    }
}

impl Elements {
    /// What to remove and what to add to get from `self` to `after`, noted in `uses`. True if
    /// the first or the last of a kind is among them.
    pub(super) fn changes_to(&self, after: &Self, uses: &mut Uses, changes: &mut Changes) -> bool {
        let none = BTreeMap::new();
        let mut other_kinds = false;
        let sets: BTreeSet<SetId> = self.0.keys().chain(after.0.keys()).copied().collect();
        for set in sets {
            let (removed, added) = elements(
                self.0.get(&set).unwrap_or(&none),
                after.0.get(&set).unwrap_or(&none),
            );
            // First what comes: what is merely replaced is no other kind.
            for (key, element) in &added {
                other_kinds |= uses.add(set, key, element);
            }
            for (key, element) in &removed {
                other_kinds |= uses.remove(set, key, element);
            }
            changes.insert(set.name(), (removed, added));
        }
        other_kinds
    }
}

/// A set came into use whose elements are not all known: only a plan from scratch will do.
#[derive(Debug)]
pub(super) struct Incomplete;

/// Changes the table of `family` and returns what the kernel is to be told. `rules` is the
/// table's new skeleton if rules may differ: none if nothing is left of it. O(changes).
pub(super) fn change(
    ruleset: &mut Ruleset,
    family: Family,
    rules: Option<Option<Table>>,
    changes: Changes,
    uses: &Uses,
) -> Result<Option<TableChange>, Incomplete> {
    let table = ruleset.tables.get_mut(&family);
    let (table, skeleton) = match (table, rules) {
        (None, None | Some(None)) => return Ok(None),
        (Some(_), Some(None)) => {
            let gone = ruleset.tables.remove(&family);
            return Ok(appearance(gone.as_ref(), None));
        }
        (None, Some(Some(mut table))) => {
            complete(&Table::new(family), &table, &changes, uses)?;
            carry_out(&mut table, &changes);
            let delta = appearance(None, Some(&table));
            ruleset.tables.insert(family, table);
            return Ok(delta);
        }
        (Some(table), None) => {
            carry_out(table, &changes);
            return Ok(elements_only(table, changes));
        }
        (Some(table), Some(Some(skeleton))) => (table, skeleton),
    };
    complete(table, &skeleton, &changes, uses)?;
    // A set that comes into use was empty.
    let delta = reshape(table, &skeleton, changes.clone());
    table
        .sets
        .retain(|name, _| skeleton.sets.contains_key(name));
    for (name, set) in skeleton.sets {
        table.sets.entry(name).or_insert(set);
    }
    table.chains = skeleton.chains;
    carry_out(table, &changes);
    Ok(delta)
}

/// Checks that sets which come into use are filled by these changes alone.
fn complete(
    before: &Table,
    after: &Table,
    changes: &Changes,
    uses: &Uses,
) -> Result<(), Incomplete> {
    for name in after.sets.keys().filter(|n| !before.sets.contains_key(*n)) {
        let added = changes
            .get(name.as_str())
            .map_or(0, |(_, added)| added.len());
        let wanted = SetId::named(name).map_or(0, |id| uses.count(id));
        if added != wanted {
            return Err(Incomplete);
        }
    }
    Ok(())
}

fn carry_out(table: &mut Table, changes: &Changes) {
    for (name, (removed, added)) in changes {
        if let Some(set) = table.sets.get_mut(&**name) {
            for (key, _) in removed {
                set.elements.remove(key);
            }
            set.elements.extend(added.iter().cloned());
        }
    }
}
