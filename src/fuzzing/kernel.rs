//! nf_tables in memory: tables that only transactions change, as strict as the kernel's about
//! what must be there. What tests and fuzz targets commit to; there is no other model.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;

use crate::ruleset::{
    Action, Chain, Element, Family, LiveChain, LiveRuleset, LiveTable, Ruleset, Set, SetKind,
    Statement, Table, Value, lower,
};
use crate::transaction::{Operation, TableChange, Transaction};

/// An operation that was refused: nothing of its transaction is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Table and operation in the delta.
    pub at: (usize, usize),
    /// What the kernel would say.
    pub errno: Errno,
    /// What is wrong, for who reads a failed test.
    pub what: String,
    /// The element, if it is about one.
    pub element: Option<Box<(Value, Element)>>,
}

impl Refused {
    fn new(errno: Errno, what: impl Into<String>) -> Self {
        Self {
            at: (0, 0),
            errno,
            what: what.into(),
            element: None,
        }
    }

    fn missing(what: impl Into<String>) -> Self {
        Self::new(Errno::ENOENT, what)
    }

    fn about(mut self, key: Value, element: &Element) -> Self {
        self.element = Some(Box::new((key, element.clone())));
        self
    }
}

/// Whose a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Everybody's.
    #[default]
    Nobody,
    /// That of the socket that commits.
    Us,
    /// Another socket's: nobody else may change it.
    Another,
    /// Its owner is gone, and it can be adopted.
    Gone,
}

/// The tables of a network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kernel {
    /// Ours. Chains are in the order in which they were added.
    pub tables: BTreeMap<Family, Table>,
    /// Whose they are.
    pub owners: BTreeMap<Family, Owner>,
    /// Other programs' tables.
    pub others: BTreeSet<(Family, String)>,
}

impl Kernel {
    /// Carries out `delta`, all of it or nothing.
    ///
    /// # Errors
    /// If an operation does not fit what is there.
    pub fn carry_out(&mut self, delta: &Transaction) -> Result<(), Refused> {
        let mut after = self.clone();
        for (t, table) in delta.tables.iter().enumerate() {
            for (o, operation) in table.operations.iter().enumerate() {
                let done = after.operation(table.family, operation);
                done.map_err(|wrong| Refused {
                    at: (t, o),
                    ..wrong
                })?;
            }
            after.check(table);
        }
        *self = after;
        Ok(())
    }

    /// Rules name sets of the table they are said to lead to.
    fn check(&self, delta: &TableChange) {
        let (Some(said), Some(table)) = (&delta.skeleton, self.tables.get(&delta.family)) else {
            return;
        };
        for (name, set) in &said.sets {
            let held = table.sets.get(name);
            let same = held.is_some_and(|held| held.same_declaration(set));
            assert!(same, "rules are written for another set {name}");
        }
    }

    fn operation(&mut self, family: Family, operation: &Operation) -> Result<(), Refused> {
        let owner = self.owners.get(&family).copied().unwrap_or_default();
        if owner == Owner::Another && !matches!(operation, Operation::DeleteOtherTable(_)) {
            return Err(Refused::new(Errno::EPERM, "belongs to another socket"));
        }
        match operation {
            Operation::AddTable if self.tables.contains_key(&family) => {
                return Err(Refused::new(Errno::EEXIST, "the table was there"));
            }
            Operation::AddTable => {}
            Operation::OwnTable if self.tables.contains_key(&family) && owner != Owner::Gone => {
                return Err(Refused::new(Errno::EOPNOTSUPP, "the table had no owner"));
            }
            Operation::OwnTable => drop(self.owners.insert(family, Owner::Us)),
            Operation::DeleteTable => {
                self.owners.remove(&family);
                let gone = self.tables.remove(&family).map(drop);
                return gone.ok_or_else(|| Refused::missing("no table"));
            }
            Operation::DeleteOtherTable(name) => {
                let was = self.others.remove(&(family, name.clone()));
                return was
                    .then_some(())
                    .ok_or_else(|| Refused::missing(format!("no table {name}")));
            }
            _ => {
                let table = self.tables.get_mut(&family);
                let table = table.ok_or_else(|| Refused::missing("no table"))?;
                return change(table, operation);
            }
        }
        let table = self.tables.entry(family);
        table.or_insert_with(|| Table::new(family));
        Ok(())
    }

    /// What reading it back gives.
    #[must_use]
    pub fn live(&self, generation: u32) -> LiveRuleset {
        let tables = self.tables.iter();
        let tables = tables.map(|(family, table)| {
            let owner = self.owners.get(family).copied().unwrap_or_default();
            (*family, live(table, owner))
        });
        LiveRuleset {
            generation,
            tables: tables.collect(),
        }
    }

    /// True if it holds `ruleset` and nothing else of ours, whatever packets filled.
    #[must_use]
    pub fn holds(&self, ruleset: &Ruleset) -> bool {
        let by_name = |table: &Table| -> BTreeMap<String, Chain> {
            let chains = table.chains.iter();
            chains.map(|c| (c.name.clone(), c.clone())).collect()
        };
        self.tables.keys().eq(ruleset.tables.keys())
            && self.tables.iter().all(|(family, held)| {
                let wanted = &ruleset.tables[family];
                let sets = held.sets.values().map(of_ours);
                sets.eq(wanted.sets.values().map(of_ours)) && by_name(held) == by_name(wanted)
            })
    }
}

/// A set without what packets filled in.
fn of_ours(set: &Set) -> Set {
    let mut set = set.clone();
    if is_dynamic(&set) {
        set.elements.clear();
    }
    set
}

const fn is_dynamic(set: &Set) -> bool {
    matches!(set.kind, SetKind::Dynamic { .. })
}

fn live(table: &Table, owner: Owner) -> LiveTable {
    let chains = table.chains.iter().map(|chain| {
        let rules = chain.rules.iter().map(|rule| lower(rule, table)).collect();
        let base = chain.base;
        (chain.name.clone(), LiveChain { base, rules })
    });
    let counted = table.sets.values().filter(|s| s.kind == SetKind::Exact);
    let count = |set: &Set| u32::try_from(set.elements.len()).unwrap_or(u32::MAX);
    LiveTable {
        sets: (table.sets.iter())
            .map(|(name, set)| (name.clone(), of_ours(set)))
            .collect(),
        chains: chains.collect(),
        owned: matches!(owner, Owner::Us | Owner::Another),
        orphan: owner == Owner::Gone,
        counts: counted.map(|set| (set.name.clone(), count(set))).collect(),
        foreign: Vec::new(),
    }
}

fn change(table: &mut Table, operation: &Operation) -> Result<(), Refused> {
    let in_use = |name: &str| Refused::new(Errno::EBUSY, format!("{name} is used"));
    let there = |name: &str| Refused::new(Errno::EEXIST, format!("{name} was there"));
    match operation {
        Operation::AddSet(set) => {
            let before = table.sets.insert(set.name.clone(), set.clone());
            before.map_or(Ok(()), |_| Err(there(&set.name)))
        }
        Operation::AddChain(chain) => {
            if table.chain(&chain.name).is_some() {
                return Err(there(&chain.name));
            }
            table.chains.push(chain.clone());
            Ok(())
        }
        Operation::FlushChain(name) => {
            chain(table, name)?.rules.clear();
            Ok(())
        }
        Operation::AddRules(name, rules) => {
            for statement in rules.iter().flat_map(|rule| &rule.statements) {
                let set = statement.set();
                let target = target(statement);
                if set.is_some_and(|set| !table.sets.contains_key(set))
                    || target.is_some_and(|to| table.chain(to).is_none())
                {
                    return Err(Refused::missing(format!("no {set:?} or {target:?}")));
                }
            }
            chain(table, name)?.rules.extend(rules.iter().cloned());
            Ok(())
        }
        // This one holds statements; what knows instructions is the real kernel.
        Operation::RestoreRules(..) => Err(Refused::new(Errno::EOPNOTSUPP, "instructions")),
        Operation::DeleteElements(name, elements) => {
            let held = set(table, name)?;
            for (key, element) in elements {
                if held.elements.remove(key).is_none() {
                    let what = format!("{name} has no {key:?}");
                    return Err(Refused::missing(what).about(*key, element));
                }
            }
            Ok(())
        }
        Operation::AddElements(name, elements) => {
            let held = set(table, name)?;
            for (key, element) in elements {
                if held.elements.insert(*key, element.clone()).is_some() {
                    let what = format!("{name} already has {key:?}");
                    return Err(Refused::new(Errno::EEXIST, what).about(*key, element));
                }
            }
            Ok(())
        }
        Operation::DeleteSet(name) => {
            if refers(table, |statement| statement.set() == Some(name)) {
                return Err(in_use(name));
            }
            set(table, name)?;
            table.sets.remove(name);
            Ok(())
        }
        Operation::DeleteChain(name) => {
            let used = refers(table, |statement| target(statement) == Some(name));
            if used || !chain(table, name)?.rules.is_empty() {
                return Err(in_use(name));
            }
            table.chains.retain(|chain| chain.name != *name);
            Ok(())
        }
        Operation::DeleteTable
        | Operation::OwnTable
        | Operation::AddTable
        | Operation::DeleteOtherTable(_) => Err(Refused::new(Errno::EINVAL, "is about tables")),
    }
}

fn chain<'t>(table: &'t mut Table, name: &str) -> Result<&'t mut Chain, Refused> {
    let found = table.chains.iter_mut().find(|chain| chain.name == name);
    found.ok_or_else(|| Refused::missing(format!("no chain {name}")))
}

fn set<'t>(table: &'t mut Table, name: &str) -> Result<&'t mut Set, Refused> {
    let found = table.sets.get_mut(name);
    found.ok_or_else(|| Refused::missing(format!("no set {name}")))
}

fn refers(table: &Table, to: impl Fn(&Statement) -> bool) -> bool {
    let rules = table.chains.iter().flat_map(|chain| &chain.rules);
    rules.flat_map(|rule| &rule.statements).any(to)
}

/// The chain a statement leads to.
#[must_use]
pub fn target(statement: &Statement) -> Option<&str> {
    match statement {
        Statement::Action(Action::Jump(chain) | Action::Goto(chain)) => Some(chain),
        _ => None,
    }
}
