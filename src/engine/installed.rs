//! The tables in memory, changed as a step changes the kernel's.

use crate::compile::{SetId, Uses};
use crate::diff::{Changes, TableDelta, appearance, elements_only, reshape};
use crate::ruleset::{Family, Ruleset, Table};

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
) -> Result<Option<TableDelta>, Incomplete> {
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
