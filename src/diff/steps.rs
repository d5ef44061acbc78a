//! The one order of a change's operations.

use super::{Elements, Operation, without_rules};
use crate::ruleset::Chain;

/// The operations of a change, each at its place: what is added is there before rules use it,
/// rules let go of what is removed before it goes.
#[derive(Default)]
pub(super) struct Steps {
    pub(super) declarations: Vec<Operation>,
    pub(super) rules: Vec<Operation>,
    pub(super) elements: Vec<Operation>,
    /// Before chains: a verdict map holds on to chains.
    pub(super) sets: Vec<Operation>,
    pub(super) chains: Vec<Operation>,
}

impl Steps {
    pub(super) fn elements(&mut self, set: &str, removed: Elements, added: Elements) {
        if !removed.is_empty() {
            let removed = Operation::DeleteElements(set.to_owned(), removed);
            self.elements.push(removed);
        }
        if !added.is_empty() {
            let added = Operation::AddElements(set.to_owned(), added);
            self.elements.push(added);
        }
    }

    /// A chain as it is to be. `is_new` chains are added, others emptied if they `had_rules`.
    pub(super) fn chain(&mut self, chain: &Chain, is_new: bool, had_rules: bool) {
        let name = || chain.name.clone();
        if is_new {
            self.declarations
                .push(Operation::AddChain(without_rules(chain)));
        }
        if had_rules {
            self.rules.push(Operation::FlushChain(name()));
        }
        if !chain.rules.is_empty() {
            let rules = chain.rules.clone();
            self.rules.push(Operation::AddRules(name(), rules));
        }
    }

    /// Sets that are no more.
    pub(super) fn remove_sets<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let operations = names.map(|name| Operation::DeleteSet(name.clone()));
        self.sets.extend(operations);
    }

    /// Chains that are no more.
    pub(super) fn remove_chains<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.rules.push(Operation::FlushChain(name.clone()));
            self.chains.push(Operation::DeleteChain(name.clone()));
        }
    }

    pub(super) fn in_order(self) -> Vec<Operation> {
        let removals = [self.sets, self.chains].concat();
        [self.declarations, self.rules, self.elements, removals].concat()
    }
}
