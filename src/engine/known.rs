//! What is wrong with the objects, so that each thing is told once: when it begins.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Found;
use crate::problem::Problem;

/// Problems that stand, and those among them that nobody was told of yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Of Services, with how many families have each.
    services: BTreeMap<Problem, usize>,
    node: BTreeSet<Problem>,
    host_ports: BTreeSet<Problem>,
    pods: BTreeSet<Problem>,
    untold: Vec<Problem>,
}

/// A problem is the same wherever its object was read.
fn anywhere(problem: &Problem) -> Problem {
    Problem {
        origin: None,
        ..problem.clone()
    }
}

impl Known {
    /// What some Services had wrong with them, and what they have now. O(both).
    pub(super) fn services(&mut self, were: &[Problem], are: Vec<Problem>) {
        for problem in are {
            let count = self.services.entry(anywhere(&problem)).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.untold.push(problem);
            }
        }
        for problem in were {
            let key = anywhere(problem);
            if let Some(count) = self.services.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.services.remove(&key);
                }
            }
        }
    }

    /// All that is wrong with this node, its pods and other nodes.
    pub(super) fn node(&mut self, are: Vec<Problem>) {
        replace(&mut self.node, are, &mut self.untold);
    }

    /// All host ports that frontends come before.
    pub(super) fn host_ports(&mut self, are: impl Iterator<Item = Problem>) {
        replace(&mut self.host_ports, are, &mut self.untold);
    }

    /// All about pods that cannot be told from others.
    pub(super) fn pods(&mut self, are: Vec<Problem>) {
        replace(&mut self.pods, are, &mut self.untold);
    }

    /// All that is wrong.
    pub(super) fn all(&mut self, found: Found) {
        let Self {
            services, untold, ..
        } = self;
        let before = std::mem::take(services);
        for problem in found.services {
            let key = anywhere(&problem);
            let count = services.entry(key).or_insert_with_key(|key| {
                if !before.contains_key(key) {
                    untold.push(problem);
                }
                0
            });
            *count += 1;
        }
        self.node(found.node);
        self.host_ports(found.host_ports.into_iter());
        self.pods(found.pods);
    }

    /// What began since somebody was last told.
    pub(super) fn untold(&self) -> Vec<Problem> {
        let mut untold = self.untold.clone();
        untold.sort();
        untold.dedup();
        untold
    }

    /// Somebody was.
    pub(super) fn told(&mut self) {
        self.untold.clear();
    }

    /// All that stand.
    #[cfg(test)]
    pub(super) fn standing(&self) -> BTreeSet<Problem> {
        let services = self.services.keys();
        let others = self.node.iter().chain(&self.host_ports).chain(&self.pods);
        services.chain(others).cloned().collect()
    }
}

fn replace(
    known: &mut BTreeSet<Problem>,
    are: impl IntoIterator<Item = Problem>,
    untold: &mut Vec<Problem>,
) {
    let mut now = BTreeSet::new();
    for problem in are {
        let key = anywhere(&problem);
        if !known.contains(&key) && now.insert(key.clone()) {
            untold.push(problem);
        }
        now.insert(key);
    }
    *known = now;
}
