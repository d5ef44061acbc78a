//! What a commit does: operations in an order the kernel accepts, carried out all or none.
//!
//! Who compares makes one ([`crate::diff`]), who writes to the kernel sends it
//! ([`crate::netlink`]); here are its words, its order and its text.

mod ahead;
pub mod render;
mod steps;

use std::collections::{BTreeMap, HashMap};

pub use ahead::{ahead, take_ahead, take_first};
pub use render::write;
pub use steps::Steps;

use crate::ruleset::bytecode::Instr;
use crate::ruleset::{Chain, Element, Family, Rule, Set, Table, Value};

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
    /// Appends rules that were there before, as the kernel told them.
    RestoreRules(String, Vec<Vec<Instr>>),
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
pub struct TableChange {
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

impl TableChange {
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
pub struct Transaction {
    /// Per table, IPv4 first; tables without change are left out.
    pub tables: Vec<TableChange>,
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

impl Transaction {
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
                Operation::RestoreRules(_, r) => counts.rules_added += r.len(),
                _ => counts.objects += 1,
            }
        }
        counts
    }
}

/// Elements with their keys.
pub type Elements = Vec<(Value, Element)>;

/// Has the sending socket own the tables that `delta` adds.
pub fn own_added(delta: &mut Transaction) {
    for operation in delta.tables.iter_mut().flat_map(|t| &mut t.operations) {
        if *operation == Operation::AddTable {
            *operation = Operation::OwnTable;
        }
    }
}

/// A chain as it is before its rules are added.
#[must_use]
pub fn without_rules(chain: &Chain) -> Chain {
    Chain {
        name: chain.name.clone(),
        rules: Vec::new(),
        ..*chain
    }
}
