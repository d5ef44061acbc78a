//! What an outline tells: our tables read without their elements.

use super::{Delta, Steps, TableDelta, chains, must_recreate, rules_agree, skeleton};
use crate::ruleset::{LiveRuleset, LiveTable, Ruleset, Set, SetKind, Table};

/// Whether `live`, read without elements, looks like `desired`: the same sets, chains and
/// rules, and as many elements in the exact sets. O(1): neither depends on the cluster.
#[must_use]
pub fn resembles(desired: &Ruleset, live: &LiveRuleset) -> bool {
    desired.tables.len() == live.tables.len()
        && desired.tables.iter().all(|(family, table)| {
            live.tables.get(family).is_some_and(|live| {
                sets_agree(table, live)
                    && table.chains.len() == live.chains.len()
                    && table
                        .chains
                        .iter()
                        .all(|chain| rules_agree(table, chain, live))
            })
        })
}

/// Ranges are kept as bounds, and dynamic sets fill themselves: only exact sets count.
fn count_agrees(set: &Set, live: &LiveTable) -> bool {
    live.sets.contains_key(&set.name)
        && (set.kind != SetKind::Exact
            || live
                .counts
                .get(&set.name)
                .is_none_or(|count| *count as usize == set.elements.len()))
}

/// What puts `live`, read without elements, right, if no more than chains and rules differ:
/// the same tables and sets, and as many elements in the exact sets. `None` if there is more
/// to it; empty if nothing differs. O(1).
#[must_use]
pub fn rules_only(desired: &Ruleset, live: &LiveRuleset) -> Option<Delta> {
    if !desired.tables.keys().eq(live.tables.keys()) {
        return None;
    }
    let mut delta = Delta::default();
    for (table, live) in desired.tables.values().zip(live.tables.values()) {
        if !sets_agree(table, live) {
            return None;
        }
        delta.tables.extend(rules_of(table, live));
    }
    Some(delta)
}

fn sets_agree(table: &Table, live: &LiveTable) -> bool {
    table.sets.len() == live.sets.len()
        && !must_recreate(table, live)
        && table.sets.values().all(|set| count_agrees(set, live))
}

fn rules_of(table: &Table, live: &LiveTable) -> Option<TableDelta> {
    let mut steps = Steps::default();
    chains(&mut steps, table, live);
    let operations = steps.in_order();
    (!operations.is_empty()).then(|| TableDelta {
        operations,
        skeleton: Some(skeleton(table)),
        ..TableDelta::empty(table.family)
    })
}
