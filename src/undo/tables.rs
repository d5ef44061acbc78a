//! The tables as they were, as far as a transaction changes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ruleset::bytecode::Instr;
use crate::ruleset::{
    Chain, Element, Family, LiveChain, LiveRuleset, LiveTable, Set, SetKind, Table, Value, lower,
};
use crate::transaction::{Operation, Steps, TableChange, Transaction};

/// What a transaction changes of our tables, before and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablesBack(BTreeMap<Family, TableBack>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum TableBack {
    /// It was not there.
    Added,
    /// It was removed or built anew: all that was in it.
    Whole {
        sets: BTreeMap<String, Set>,
        chains: BTreeMap<String, LiveChain>,
        /// It was built anew.
        stays: bool,
    },
    /// Some of what is in it changed.
    Changed {
        sets: BTreeMap<String, SetBack>,
        chains: BTreeMap<String, ChainBack>,
    },
}

/// A set that came, went, or has other elements.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct SetBack {
    /// Its declaration, if it was there.
    before: Option<Set>,
    /// The same afterwards.
    after: Option<Set>,
    /// Elements that differ.
    elements: BTreeMap<Value, (Option<Element>, Option<Element>)>,
}

/// A chain that came, went, or has other rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ChainBack {
    before: Option<LiveChain>,
    after: Option<LiveChain>,
}

impl TablesBack {
    /// What leads back from what `delta` makes of `before`, and what of it cannot be put back
    /// because it is not ours, in words. O(delta).
    #[must_use]
    pub fn of(before: &LiveRuleset, delta: &Transaction) -> (Self, Vec<String>) {
        let mut all = BTreeMap::new();
        let mut obstacles = Vec::new();
        for change in &delta.tables {
            let is_new = |o: &Operation| matches!(o, Operation::AddTable | Operation::OwnTable);
            let stays = change.operations.iter().any(is_new);
            let goes = change.operations.contains(&Operation::DeleteTable);
            let back = match before.tables.get(&change.family) {
                None if stays => TableBack::Added,
                None => continue,
                Some(table) if goes => {
                    obstacles.extend(table.foreign.iter().cloned());
                    TableBack::Whole {
                        sets: table.sets.clone(),
                        chains: table.chains.clone(),
                        stays,
                    }
                }
                Some(table) => changed(table, change),
            };
            obstacles.extend(back.unknown().map(|chain| {
                let family = change.family.nft_name();
                format!("chain {chain} of {family} svcnat has rules of another program")
            }));
            all.insert(change.family, back);
        }
        (Self(all), obstacles)
    }

    /// True if nothing is to be put back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if `delta` changes nothing that this does not know the state before of.
    #[must_use]
    pub fn covers(&self, delta: &Transaction) -> bool {
        delta.tables.iter().all(|change| {
            let Some(TableBack::Changed { sets, chains }) = self.0.get(&change.family) else {
                return self.0.contains_key(&change.family);
            };
            let keys = |name: &String, elements: &[(Value, Element)]| {
                let known = sets.get(name);
                known.is_some_and(|set| elements.iter().all(|(k, _)| set.elements.contains_key(k)))
            };
            change.operations.iter().all(|operation| match operation {
                Operation::AddElements(name, e) | Operation::DeleteElements(name, e) => {
                    keys(name, e)
                }
                Operation::AddSet(set) => sets.contains_key(&set.name),
                Operation::DeleteSet(name) => sets.contains_key(name),
                Operation::AddChain(chain) => chains.contains_key(&chain.name),
                Operation::DeleteChain(name)
                | Operation::FlushChain(name)
                | Operation::AddRules(name, _)
                | Operation::RestoreRules(name, _) => chains.contains_key(name),
                Operation::DeleteTable
                | Operation::AddTable
                | Operation::OwnTable
                | Operation::DeleteOtherTable(_) => false,
            })
        })
    }

    /// The steps back from `live`, or, without it, from exactly what was left; and what cannot
    /// be done, in words: the rest can. O(difference).
    #[must_use]
    pub fn steps(&self, live: Option<&LiveRuleset>) -> (Transaction, Vec<String>) {
        let mut delta = Transaction::default();
        let mut lost = Vec::new();
        for (family, back) in &self.0 {
            let table = live.map(|live| live.tables.get(family));
            let change = match back {
                TableBack::Added => {
                    let is_there = table.is_none_or(|table| table.is_some());
                    only(*family, is_there.then_some(Operation::DeleteTable))
                }
                TableBack::Whole {
                    sets,
                    chains,
                    stays,
                } => {
                    let is_there = table.map_or(*stays, |table| table.is_some());
                    let same = |t: &LiveTable| t.sets == *sets && t.chains == *chains;
                    if table.flatten().is_some_and(same) {
                        continue;
                    }
                    whole(*family, sets, chains, is_there)
                }
                TableBack::Changed { .. } if table == Some(None) => {
                    lost.push(format!(
                        "the table {} svcnat is gone, and only what changed of it was kept",
                        family.nft_name()
                    ));
                    continue;
                }
                TableBack::Changed { sets, chains } => {
                    piecewise(*family, sets, chains, table.flatten(), &mut lost)
                }
            };
            if !change.operations.is_empty() {
                delta.tables.push(change);
            }
        }
        (delta, lost)
    }
}

impl TableBack {
    /// Chains whose rules hold what we never write, and cannot write back.
    fn unknown(&self) -> impl Iterator<Item = &String> {
        let chains: Vec<(&String, &LiveChain)> = match self {
            Self::Added => Vec::new(),
            Self::Whole { chains, .. } => chains.iter().collect(),
            Self::Changed { chains, .. } => (chains.iter())
                .filter_map(|(name, chain)| Some((name, chain.before.as_ref()?)))
                .collect(),
        };
        let unknown = |code: &Instr| matches!(code, Instr::Unknown { .. });
        (chains.into_iter())
            .filter(move |(_, chain)| chain.rules.iter().flatten().any(unknown))
            .map(|(name, _)| name)
    }
}

fn declaration(set: &Set) -> Set {
    Set {
        name: set.name.clone(),
        key: set.key.clone(),
        data: set.data.clone(),
        elements: BTreeMap::new(),
        ..*set
    }
}

/// What a change of `table` touches.
fn changed(table: &LiveTable, change: &TableChange) -> TableBack {
    let mut sets: BTreeMap<String, SetBack> = BTreeMap::new();
    let mut chains: BTreeMap<String, ChainBack> = BTreeMap::new();
    let empty = Table::new(change.family);
    let skeleton = change.skeleton.as_ref().unwrap_or(&empty);
    for operation in &change.operations {
        match operation {
            Operation::AddSet(set) => {
                set_back(&mut sets, table, &set.name).after = Some(declaration(set));
            }
            Operation::DeleteSet(name) => {
                let back = set_back(&mut sets, table, name);
                back.after = None;
                let held = table.sets.get(name).map(|set| set.elements.iter());
                let held = held.into_iter().flatten();
                back.elements
                    .extend(held.map(|(key, element)| (*key, (Some(element.clone()), None))));
            }
            Operation::DeleteElements(name, elements) => {
                let back = set_back(&mut sets, table, name);
                for (key, _) in elements {
                    element_back(back, table, name, key).1 = None;
                }
            }
            Operation::AddElements(name, elements) => {
                let back = set_back(&mut sets, table, name);
                for (key, element) in elements {
                    element_back(back, table, name, key).1 = Some(element.clone());
                }
            }
            Operation::AddChain(chain) => {
                let (base, rules) = (chain.base, Vec::new());
                let back = chain_back(&mut chains, table, &chain.name);
                back.after = Some(LiveChain { base, rules });
            }
            Operation::DeleteChain(name) => chain_back(&mut chains, table, name).after = None,
            Operation::FlushChain(name) => {
                if let Some(after) = &mut chain_back(&mut chains, table, name).after {
                    after.rules.clear();
                }
            }
            Operation::AddRules(name, rules) => {
                if let Some(after) = &mut chain_back(&mut chains, table, name).after {
                    let rules = rules.iter().map(|rule| lower(rule, skeleton));
                    after.rules.extend(rules);
                }
            }
            Operation::RestoreRules(name, rules) => {
                if let Some(after) = &mut chain_back(&mut chains, table, name).after {
                    after.rules.extend(rules.iter().cloned());
                }
            }
            Operation::DeleteTable
            | Operation::AddTable
            | Operation::OwnTable
            | Operation::DeleteOtherTable(_) => {}
        }
    }
    TableBack::Changed { sets, chains }
}

fn set_back<'s>(
    sets: &'s mut BTreeMap<String, SetBack>,
    table: &LiveTable,
    name: &str,
) -> &'s mut SetBack {
    sets.entry(name.to_owned()).or_insert_with(|| {
        let before = table.sets.get(name).map(declaration);
        SetBack {
            after: before.clone(),
            before,
            elements: BTreeMap::new(),
        }
    })
}

fn element_back<'s>(
    back: &'s mut SetBack,
    table: &LiveTable,
    name: &str,
    key: &Value,
) -> &'s mut (Option<Element>, Option<Element>) {
    back.elements.entry(*key).or_insert_with(|| {
        let set = table.sets.get(name);
        (set.and_then(|set| set.elements.get(key)).cloned(), None)
    })
}

fn chain_back<'c>(
    chains: &'c mut BTreeMap<String, ChainBack>,
    table: &LiveTable,
    name: &str,
) -> &'c mut ChainBack {
    chains.entry(name.to_owned()).or_insert_with(|| {
        let before = table.chains.get(name).cloned();
        ChainBack {
            after: before.clone(),
            before,
        }
    })
}

fn only(family: Family, operation: Option<Operation>) -> TableChange {
    TableChange {
        operations: operation.into_iter().collect(),
        ..TableChange::empty(family)
    }
}

/// A table as it was. Rules come before elements: binding a map to a rule walks its elements.
fn whole(
    family: Family,
    sets: &BTreeMap<String, Set>,
    chains: &BTreeMap<String, LiveChain>,
    replace: bool,
) -> TableChange {
    let bare = |(name, chain): (&String, &LiveChain)| {
        Operation::AddChain(Chain {
            base: chain.base,
            ..Chain::regular(name.clone(), "", Vec::new())
        })
    };
    let rules = |(name, chain): (&String, &LiveChain)| {
        let rules = || Operation::RestoreRules(name.clone(), chain.rules.clone());
        (!chain.rules.is_empty()).then(rules)
    };
    let filled =
        |set: &&Set| !set.elements.is_empty() && !matches!(set.kind, SetKind::Dynamic { .. });
    let elements = |set: &Set| {
        let elements = set.elements.iter().map(|(key, e)| (*key, e.clone()));
        Operation::AddElements(set.name.clone(), elements.collect())
    };
    let operations = (replace.then_some(Operation::DeleteTable).into_iter())
        .chain([Operation::AddTable])
        .chain(sets.values().map(|s| Operation::AddSet(declaration(s))))
        .chain(chains.iter().map(bare))
        .chain(chains.iter().filter_map(rules))
        .chain(sets.values().filter(filled).map(elements));
    TableChange {
        operations: operations.collect(),
        sets: (sets.iter())
            .map(|(name, set)| (name.clone(), declaration(set)))
            .collect(),
        ..TableChange::empty(family)
    }
}

/// What changed of a table, put back.
fn piecewise(
    family: Family,
    sets: &BTreeMap<String, SetBack>,
    chains: &BTreeMap<String, ChainBack>,
    live: Option<&LiveTable>,
    lost: &mut Vec<String>,
) -> TableChange {
    let mut steps = Steps::default();
    let mut declared = BTreeMap::new();
    let mut gone = Vec::new();
    for (name, back) in sets {
        let found = live.map(|live| live.sets.get(name));
        let now = found.unwrap_or(back.after.as_ref());
        let Some(before) = &back.before else {
            gone.extend(now.is_some().then_some(name));
            continue;
        };
        if now.is_some_and(|now| !now.same_declaration(before)) {
            lost.push(format!("set {name} is declared in another way now"));
            continue;
        }
        if now.is_none() {
            steps.add_set(before.clone());
            if back.after.is_some() {
                lost.push(format!(
                    "set {name} is gone, and only what changed was kept"
                ));
            }
        }
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (key, (before, after)) in &back.elements {
            let held = found.map(|set| set.and_then(|set| set.elements.get(key)));
            let held = held.unwrap_or(after.as_ref()).filter(|_| now.is_some());
            if held != before.as_ref() {
                removed.extend(held.map(|element| (*key, element.clone())));
                added.extend(before.as_ref().map(|element| (*key, element.clone())));
            }
        }
        if !(removed.is_empty() && added.is_empty()) {
            declared.insert(name.clone(), before.clone());
            steps.elements(name, removed, added);
        }
    }
    let mut ended = Vec::new();
    for (name, back) in chains {
        let found = live.map(|live| live.chains.get(name));
        let now = found.unwrap_or(back.after.as_ref());
        let Some(before) = &back.before else {
            ended.extend(now.is_some().then_some(name));
            continue;
        };
        if now.is_some_and(|now| now.base != before.base) {
            lost.push(format!("chain {name} has another hook now"));
        } else if now != Some(before) {
            let had_rules = now.is_some_and(|now| !now.rules.is_empty());
            steps.restore_chain(name, before, now.is_none(), had_rules);
        }
    }
    steps.remove_sets(gone.into_iter());
    steps.remove_chains(ended.into_iter());
    TableChange {
        operations: steps.in_order(),
        sets: declared,
        ..TableChange::empty(family)
    }
}
