//! Who lays claim to a frontend. Two Services may list the same external address and port;
//! the first in name order has it, and the other takes over when that one goes.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::HashMap;

use crate::cluster::ObjectName;
use crate::plan::{Frontend, FrontendKey};

/// Claimants by frontend. Nearly all frontends have one, so the others are kept apart.
#[derive(Debug, Default)]
pub(super) struct Claims {
    one: HashMap<FrontendKey, ObjectName>,
    more: HashMap<FrontendKey, BTreeSet<ObjectName>>,
}

impl Claims {
    /// All that claim `key` besides `name`.
    pub(super) fn others<'a>(
        &'a self,
        key: &FrontendKey,
        name: &'a ObjectName,
    ) -> impl Iterator<Item = &'a ObjectName> {
        let one = self.one.get(key).into_iter();
        let more = self.more.get(key).into_iter().flatten();
        one.chain(more).filter(move |claimant| *claimant != name)
    }

    /// A service gives up `before` and claims `after`. O(both).
    pub(super) fn change(
        &mut self,
        name: &ObjectName,
        before: &BTreeMap<FrontendKey, Frontend>,
        after: &BTreeMap<FrontendKey, Frontend>,
    ) {
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            self.give_up(key, name);
        }
        for key in after.keys().filter(|key| !before.contains_key(key)) {
            self.claim(*key, name);
        }
    }

    fn claim(&mut self, key: FrontendKey, name: &ObjectName) {
        match self.one.get(&key) {
            None => drop(self.one.insert(key, name.clone())),
            Some(known) if known == name => {}
            Some(_) => drop(self.more.entry(key).or_default().insert(name.clone())),
        }
    }

    fn give_up(&mut self, key: &FrontendKey, name: &ObjectName) {
        if self.one.get(key) == Some(name) {
            self.one.remove(key);
            let next = self.more.get_mut(key).and_then(BTreeSet::pop_first);
            if let Some(next) = next {
                self.one.insert(*key, next);
            }
        } else if let Some(more) = self.more.get_mut(key) {
            more.remove(name);
        }
        if self.more.get(key).is_some_and(BTreeSet::is_empty) {
            self.more.remove(key);
        }
    }
}
