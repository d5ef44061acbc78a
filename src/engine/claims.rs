//! Who lays claim to a frontend. Two Services may list the same external address and port;
//! the first in name order has it, and the other takes over when that one goes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::ObjectName;
use crate::plan::{Frontend, FrontendKey};

/// Claimants by frontend, in name order.
#[derive(Debug, Default)]
pub(super) struct Claims(HashMap<FrontendKey, Vec<Arc<ObjectName>>>);

impl Claims {
    /// All that claim `key` besides `name`.
    pub(super) fn others<'a>(
        &'a self,
        key: &FrontendKey,
        name: &'a ObjectName,
    ) -> impl Iterator<Item = &'a ObjectName> {
        let claimants = self.0.get(key).into_iter().flatten();
        claimants.map(|c| &**c).filter(move |c| *c != name)
    }

    /// A service gives up `before` and claims `after`. O(both).
    pub(super) fn change(
        &mut self,
        name: &ObjectName,
        before: &BTreeMap<FrontendKey, Frontend>,
        after: &BTreeMap<FrontendKey, Frontend>,
    ) {
        for key in before.keys().filter(|key| !after.contains_key(key)) {
            if let Some(claimants) = self.0.get_mut(key) {
                claimants.retain(|c| **c != *name);
                if claimants.is_empty() {
                    self.0.remove(key);
                }
            }
        }
        let mut shared = None;
        for key in after.keys().filter(|key| !before.contains_key(key)) {
            let name = Arc::clone(shared.get_or_insert_with(|| Arc::new(name.clone())));
            let claimants = self.0.entry(*key).or_insert_with(|| Vec::with_capacity(1));
            if let Err(at) = claimants.binary_search(&name) {
                claimants.insert(at, name);
            }
        }
    }
}
