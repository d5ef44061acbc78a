//! What the kernel was found to hold in our tables.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::bytecode::Instr;
use super::{BaseChain, Chain, Family, Ruleset, Set, Value, lower};

/// A chain as found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveChain {
    /// Its hook, if it is a base chain of a kind that we know.
    pub base: Option<BaseChain>,
    /// Its rules as instructions.
    pub rules: Vec<Vec<Instr>>,
}

/// One of our tables as found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LiveTable {
    /// Sets and maps. The elements of dynamic ones are not read.
    pub sets: BTreeMap<String, Set>,
    /// Chains.
    pub chains: BTreeMap<String, LiveChain>,
    /// True if a socket owns the table: only that one can change it.
    pub owned: bool,
    /// True if the owner is gone: the table can be adopted.
    pub orphan: bool,
    /// Elements by set, as the kernel counts them; what it does not tell is missing.
    pub counts: BTreeMap<String, u32>,
    /// Things in our table that are not of our making, in words.
    pub foreign: Vec<String>,
}

/// Our tables at one generation of the namespace's ruleset.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LiveRuleset {
    /// Generation id: any commit by anyone changes it.
    pub generation: u32,
    /// At most one table per family.
    pub tables: BTreeMap<Family, LiveTable>,
}

impl LiveRuleset {
    /// The sets of each table, as `compile` wants them.
    #[must_use]
    pub fn sets(&self) -> BTreeMap<Family, &BTreeMap<String, Set>> {
        self.tables.iter().map(|(f, t)| (*f, &t.sets)).collect()
    }
}

impl Ruleset {
    /// These rules with the elements that `live` holds: what is installed, unless somebody
    /// changed the rules. O(elements).
    #[must_use]
    pub fn holding(mut self, live: &LiveRuleset) -> Self {
        for (family, table) in &mut self.tables {
            let found = live.tables.get(family);
            for (name, set) in &mut table.sets {
                let held = found.and_then(|table| table.sets.get(name));
                set.elements = held.map(|set| set.elements.clone()).unwrap_or_default();
            }
        }
        self
    }

    /// The same as a kernel that holds it would be read. O(rules).
    #[must_use]
    pub fn into_live(self) -> LiveRuleset {
        let tables = self.tables.into_iter().map(|(family, mut table)| {
            let live = |chain: &Chain| {
                let rules = chain.rules.iter().map(|rule| lower(rule, &table));
                let live = LiveChain {
                    base: chain.base,
                    rules: rules.collect(),
                };
                (chain.name.clone(), live)
            };
            let found = LiveTable {
                chains: table.chains.iter().map(live).collect(),
                sets: std::mem::take(&mut table.sets),
                ..LiveTable::default()
            };
            (family, found)
        });
        LiveRuleset {
            generation: 0,
            tables: tables.collect(),
        }
    }
}

/// Large sets whose keys follow from what other sets hold, so that they can be asked for one by
/// one instead of dumped.
#[derive(Clone, Copy, Debug, Default)]
pub struct Following {
    /// Up to so many elements they are dumped all the same.
    pub beyond: usize,
    /// The name of each, and its keys. Some may not be there; no others are.
    pub sets: &'static [FollowingSet],
}

/// A set's name, and its keys by what those sets hold that are read before it.
pub type FollowingSet = (&'static str, fn(&BTreeMap<String, Set>) -> Vec<Value>);
