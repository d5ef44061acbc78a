//! Which services a step is about: those that changed, and those with a claim to what changed
//! hands thereby.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, FamilyState};
use crate::cluster::ObjectName;
use crate::plan::{ServicePlan, Serving, serving_of};
use crate::problem::Problem;

/// What one service asks for, in both families.
pub(super) type Parts = Vec<ServicePlan>;

/// A service before it changed.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) parts: Parts,
    /// Its UDP and SCTP endpoints that served.
    pub(super) serving: Serving,
}

/// One service's step: what was and what is its own.
pub(super) struct Unit {
    pub(super) before: Parts,
    pub(super) after: Parts,
}

impl Engine {
    /// Changed services: what they asked for and what they do now. With the endpoints that
    /// served them.
    pub(super) fn asked(&mut self) -> (BTreeMap<ObjectName, (Parts, Parts)>, Serving) {
        let mut asked = BTreeMap::new();
        let mut served = Serving::new();
        for (name, mut before) in std::mem::take(&mut self.changed) {
            let after = self.parts(&name);
            // An endpoint may leave the lists long before it stops serving.
            if before.parts != after || before.serving != serving_of(&self.cluster, [&name]) {
                served.append(&mut before.serving);
                asked.insert(name, (before.parts, after));
            }
        }
        (asked, served)
    }

    /// The same with those that have a claim to what changed hands, and what of it all was
    /// and is whose.
    pub(super) fn units(
        &mut self,
        mut asked: BTreeMap<ObjectName, (Parts, Parts)>,
        served: &mut Serving,
    ) -> BTreeMap<ObjectName, Unit> {
        let mut rivals = BTreeSet::new();
        for (before, after) in asked.values() {
            for (state, (before, after)) in self.families.iter().zip(before.iter().zip(after)) {
                let claims = &state.claims;
                claims.rivals(before, after, |name| {
                    rivals.insert(name.clone());
                });
            }
        }
        for name in rivals {
            if let Entry::Vacant(vacant) = asked.entry(name) {
                let parts = self.parts(vacant.key());
                served.append(&mut serving_of(&self.cluster, [vacant.key()]));
                vacant.insert((parts.clone(), parts));
            }
        }
        let award = |families: &[FamilyState], parts: &Parts, problems: &mut Vec<Problem>| {
            let parts = families.iter().zip(parts);
            let own = parts.map(|(state, part)| {
                problems.extend(part.problems.iter().cloned());
                let (own, lost) = state.claims.award(part.clone());
                problems.extend(lost);
                own
            });
            own.collect::<Parts>()
        };
        let mut were = Vec::new();
        let before = asked.values().map(|(before, _)| before);
        let before: Vec<Parts> = before
            .map(|parts| award(&self.families, parts, &mut were))
            .collect();
        for (before, after) in asked.values() {
            for (state, (before, after)) in self.families.iter_mut().zip(before.iter().zip(after)) {
                state.claims.change(before, after);
            }
        }
        let mut are = Vec::new();
        let units = asked.into_iter().zip(before);
        let units = units.map(|((name, (_, asked)), before)| {
            let after = award(&self.families, &asked, &mut are);
            (name, Unit { before, after })
        });
        let units = units.collect();
        self.known.services(&were, are);
        units
    }
}
