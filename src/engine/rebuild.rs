//! Starting over, from what the kernel holds or from what is remembered of it: everything is
//! planned and compiled anew, without the Services that are set aside.

use std::collections::{BTreeMap, BTreeSet};

use super::shared::Shared;
use super::{Engine, FamilyState};
use crate::cluster::{Family, ObjectName};
use crate::compile::{Numbers, Uses, compile_numbered, wants_external_ips};
use crate::diff::diff;
use crate::plan::{Claims, NodeContext, NodePlan, Shape, decide, plan_node_level};
use crate::problem::Problem;
use crate::ruleset::LiveRuleset;
use crate::transaction::Transaction;

impl Engine {
    /// Leaves a Service out of the ruleset, until it changes or [`Engine::try_again`]: the
    /// kernel takes none with it. False if it was left out already.
    pub fn set_aside(&mut self, name: ObjectName, reason: String) -> bool {
        self.replan = true;
        self.quarantine.add(name, reason)
    }

    /// Services that are left out, and why.
    #[must_use]
    pub const fn aside(&self) -> &BTreeMap<ObjectName, String> {
        self.quarantine.all()
    }

    /// Services that are left out are no longer, from the next step on.
    pub fn try_again(&mut self) {
        let names: Vec<ObjectName> = self.aside().keys().cloned().collect();
        for name in &names {
            self.touch(name);
        }
    }

    /// Plans and compiles everything, with the numbers and slots `live` has. Returns what
    /// leads from there to here. O(cluster).
    pub fn rebuild(&mut self, live: &LiveRuleset) -> (Transaction, NodePlan, Vec<Problem>) {
        // Who is set aside is not there while everything is planned.
        let services = &mut self.cluster.services;
        let aside = self.quarantine.all().keys();
        let aside: Vec<_> = aside
            .filter_map(|name| services.remove_entry(name))
            .collect();
        let made = self.plan_all(live);
        self.cluster.services.extend(aside);
        made
    }

    /// Plans and compiles everything anew, and compares with the ruleset in memory, which the
    /// kernel holds if every step so far was committed. O(cluster).
    pub fn replan(&mut self) -> (Transaction, NodePlan, Vec<Problem>) {
        let remembered = std::mem::take(&mut self.ruleset).into_live();
        self.rebuild(&remembered)
    }

    /// What the ruleset would change of `live` without these Services, and those that are set
    /// aside; nothing changes here but numbers. A rebuild has to follow. O(cluster).
    pub fn without(&mut self, names: &BTreeSet<ObjectName>, live: &LiveRuleset) -> Transaction {
        let services = &mut self.cluster.services;
        let aside = names.iter().chain(self.quarantine.all().keys());
        let aside: Vec<_> = aside
            .filter_map(|name| services.remove_entry(name))
            .collect();
        // What is wrong with those that are left out for a trial is still wrong.
        let known = self.known.clone();
        let (delta, ..) = self.plan_all(live);
        self.known = known;
        self.cluster.services.extend(aside);
        self.distrust();
        delta
    }

    fn plan_all(&mut self, live: &LiveRuleset) -> (Transaction, NodePlan, Vec<Problem>) {
        let (node, problems) =
            NodeContext::resolve(&self.cluster, &self.config, &self.interface_addresses);
        let external = wants_external_ips(&Shape::of(&self.config));
        let mut families: Vec<FamilyState> = Family::ALL
            .into_iter()
            .map(|family| {
                let (frame, _) = plan_node_level(&self.cluster, &self.config, &node, family);
                FamilyState {
                    shared: Shared::new(&frame, external),
                    frame,
                    numbers: Numbers::default(),
                    claims: Claims::default(),
                    uses: Uses::default(),
                }
            })
            .collect();
        let decided = decide(&self.cluster, &self.config, &node, |part| {
            let family = |state: &&mut FamilyState| state.frame.family == part.family;
            if let Some(state) = families.iter_mut().find(family) {
                state.shared.count(part);
            }
        });
        for (state, claims) in families.iter_mut().zip(decided.claims) {
            state.claims = claims;
        }
        let plan = decided.plan;
        self.node = decided.node;
        self.demand = decided.demand;
        let mut found = decided.found;
        found.node.extend(problems);
        self.known.all(found);
        let (ruleset, mut compiled) = compile_numbered(&plan, &live.sets());
        for state in &mut families {
            let of_family = compiled.remove(&state.frame.family).unwrap_or_default();
            state.numbers = of_family.numbers;
            state.uses = of_family.uses;
        }
        self.families = families;
        self.routes.clone_from(&plan.routes);
        self.ruleset = ruleset;
        self.changed.clear();
        self.node_level_changed = false;
        self.replan = false;
        self.trusted = true;
        (diff(&self.ruleset, live), plan, self.known.untold())
    }
}
