//! The state that inputs ask for, as it is installed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::apply::{Desired, DesiredRules, MadeFrom, suspects};
use crate::cluster::ObjectName;
use crate::compile::compile;
use crate::diff::diff;
use crate::node::Node;
use crate::plan::NodePlan;
use crate::ruleset::{LiveRuleset, Ruleset};
use crate::transaction::Transaction;

/// What the inputs ask for, without the Services that are set aside.
pub struct FromInputs<'a> {
    inputs: &'a Node,
    /// Who is, and why.
    pub aside: BTreeMap<ObjectName, String>,
    /// Carried out as it was found, or not at all.
    pub exactly: bool,
    plan: Cow<'a, NodePlan>,
    ruleset: Ruleset,
}

impl<'a> FromInputs<'a> {
    /// All of it.
    pub fn new(inputs: &'a Node) -> Self {
        Self {
            inputs,
            aside: BTreeMap::new(),
            exactly: false,
            plan: Cow::Borrowed(&inputs.plan),
            ruleset: Ruleset::default(),
        }
    }

    fn leave_out(&self, more: &BTreeSet<ObjectName>) -> NodePlan {
        let is_out = |name: &ObjectName| more.contains(name) || self.aside.contains_key(name);
        self.inputs.plan_without(is_out)
    }
}

impl DesiredRules for FromInputs<'_> {
    fn change(&mut self, live: &LiveRuleset) -> Transaction {
        self.ruleset = compile(&self.plan, &live.sets());
        diff(&self.ruleset, live)
    }

    fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    fn exactly(&self) -> bool {
        self.exactly
    }

    fn suspects(&self) -> Vec<ObjectName> {
        suspects(&self.inputs.cluster, &self.aside)
    }

    fn without(&mut self, names: &BTreeSet<ObjectName>, live: &LiveRuleset) -> Transaction {
        diff(&compile(&self.leave_out(names), &live.sets()), live)
    }

    fn set_aside(&mut self, name: ObjectName, reason: String) {
        self.aside.insert(name, reason);
        self.plan = Cow::Owned(self.leave_out(&BTreeSet::new()));
    }
}

impl Desired for FromInputs<'_> {
    fn made_from(&self) -> MadeFrom<'_> {
        MadeFrom {
            config: &self.inputs.config,
            node: &self.inputs.context,
            cluster: &self.inputs.cluster,
            plan: &self.plan,
        }
    }
}
