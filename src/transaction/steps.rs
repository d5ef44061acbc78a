//! The one order of a change's operations.

use super::{Elements, Operation, without_rules};
use crate::ruleset::{Chain, LiveChain, Set};

/// The operations of a change, each at its place: what is added is there before rules use it,
/// rules let go of what is removed before it goes.
#[derive(Default)]
pub struct Steps {
    declarations: Vec<Operation>,
    rules: Vec<Operation>,
    elements: Vec<Operation>,
    /// Before chains: a verdict map holds on to chains.
    sets: Vec<Operation>,
    chains: Vec<Operation>,
}

impl Steps {
    /// A set that comes, as it is declared: without elements.
    pub fn add_set(&mut self, declaration: Set) {
        self.declarations.push(Operation::AddSet(declaration));
    }

    /// Elements that go and elements that come; one that changes is both.
    pub fn elements(&mut self, set: &str, removed: Elements, added: Elements) {
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
    pub fn chain(&mut self, chain: &Chain, is_new: bool, had_rules: bool) {
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

    /// A chain as it was. `is_new` as for [`Steps::chain`].
    pub fn restore_chain(&mut self, name: &str, chain: &LiveChain, is_new: bool, had_rules: bool) {
        if is_new {
            let bare = Chain {
                base: chain.base,
                ..Chain::regular(name, "", Vec::new())
            };
            self.declarations.push(Operation::AddChain(bare));
        }
        if had_rules {
            self.rules.push(Operation::FlushChain(name.to_owned()));
        }
        if !chain.rules.is_empty() {
            let rules = chain.rules.clone();
            self.rules
                .push(Operation::RestoreRules(name.to_owned(), rules));
        }
    }

    /// Sets that are no more.
    pub fn remove_sets<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        let operations = names.map(|name| Operation::DeleteSet(name.clone()));
        self.sets.extend(operations);
    }

    /// Chains that are no more.
    pub fn remove_chains<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.rules.push(Operation::FlushChain(name.clone()));
            self.chains.push(Operation::DeleteChain(name.clone()));
        }
    }

    /// True if a rule is added or removed.
    #[must_use]
    pub const fn has_rules(&self) -> bool {
        !self.rules.is_empty()
    }

    /// All of them, in the order of the fields above.
    #[must_use]
    pub fn in_order(self) -> Vec<Operation> {
        let removals = [self.sets, self.chains].concat();
        [self.declarations, self.rules, self.elements, removals].concat()
    }
}
