//! What an outline tells: our tables read without their elements.

use super::{chains, must_recreate, rules_agree, skeleton};
use crate::ruleset::{LiveRuleset, LiveTable, Ruleset, Set, SetKind, Table};
use crate::transaction::{Steps, TableChange, Transaction};

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
pub fn rules_only(desired: &Ruleset, live: &LiveRuleset) -> Option<Transaction> {
    if !desired.tables.keys().eq(live.tables.keys()) {
        return None;
    }
    let mut delta = Transaction::default();
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

fn rules_of(table: &Table, live: &LiveTable) -> Option<TableChange> {
    let mut steps = Steps::default();
    chains(&mut steps, table, live);
    let operations = steps.in_order();
    (!operations.is_empty()).then(|| TableChange {
        operations,
        skeleton: Some(skeleton(table)),
        ..TableChange::empty(table.family)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{
        Action, Chain, DataType, Element, ElementData, Family, LiveChain, Rule, Statement, Value,
        lower,
    };
    use crate::transaction::Operation;

    fn desired() -> Ruleset {
        let mut table = Table::new(Family::Ip);
        let mut set = Set::exact("s", &[DataType::Ipv4Addr]);
        for n in 0..3 {
            let key = Value::new().u32(n);
            set.elements.insert(key, Element::new(ElementData::None));
        }
        table.sets.insert("s".into(), set);
        let rule = Rule::new([Statement::Action(Action::ClearPriority)]);
        table.chains.push(Chain {
            name: "c".into(),
            base: None,
            comment: "",
            rules: vec![rule],
        });
        let mut ruleset = Ruleset::default();
        ruleset.tables.insert(Family::Ip, table);
        ruleset
    }

    /// What the kernel shows of it without elements.
    fn outline(desired: &Ruleset) -> LiveRuleset {
        let mut live = LiveRuleset::default();
        for (family, table) in &desired.tables {
            let mut found = LiveTable::default();
            for (name, set) in &table.sets {
                let count = u32::try_from(set.elements.len()).unwrap();
                found.counts.insert(name.clone(), count);
                let mut set = set.clone();
                set.elements.clear();
                found.sets.insert(name.clone(), set);
            }
            for chain in &table.chains {
                let rules = chain.rules.iter().map(|rule| lower(rule, table)).collect();
                let chain = (
                    chain.name.clone(),
                    LiveChain {
                        base: chain.base,
                        rules,
                    },
                );
                found.chains.insert(chain.0, chain.1);
            }
            live.tables.insert(*family, found);
        }
        live
    }

    #[test]
    fn rules_and_chains_that_differ_are_put_right_and_elements_are_let_be() {
        let desired = desired();
        let whole = outline(&desired);
        assert!(resembles(&desired, &whole));
        assert!(rules_only(&desired, &whole).unwrap().is_empty());
        let mut flushed = whole.clone();
        let table = flushed.tables.get_mut(&Family::Ip).unwrap();
        table.chains.get_mut("c").unwrap().rules.clear();
        let theirs = LiveChain {
            base: None,
            rules: Vec::new(),
        };
        table.chains.insert("theirs".into(), theirs);
        let delta = rules_only(&desired, &flushed).unwrap();
        let operations = &delta.tables[0].operations;
        let elements = |o: &Operation| {
            matches!(
                o,
                Operation::AddElements(..) | Operation::DeleteElements(..)
            )
        };
        assert!(!operations.iter().any(elements), "{operations:?}");
        assert!(
            operations
                .iter()
                .any(|o| matches!(o, Operation::AddRules(..)))
        );
        assert!(operations.contains(&Operation::DeleteChain("theirs".into())));
    }

    #[test]
    fn elements_sets_and_tables_that_differ_are_more_than_rules() {
        let desired = desired();
        for change in [
            (|live: &mut LiveTable| {
                live.counts.insert("s".into(), 2);
            }) as fn(&mut LiveTable),
            |live| drop(live.sets.remove("s")),
            |live| live.foreign.push("set x".into()),
        ] {
            let mut live = outline(&desired);
            change(live.tables.get_mut(&Family::Ip).unwrap());
            assert_eq!(rules_only(&desired, &live), None);
        }
        assert_eq!(rules_only(&desired, &LiveRuleset::default()), None);
    }
}
