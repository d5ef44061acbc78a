//! Elements that several services may want: the hairpin of a local pod, a clusterIP's entry.
//! Counted, so that the last one to go takes it along.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use super::Elements;
use crate::compile::{cluster_ip, external_ip, hairpin};
use crate::plan::{FamilyPlan, ServicePlan};

#[derive(Debug, Default)]
pub(super) struct Shared {
    hairpins: HashMap<IpAddr, u32>,
    /// External addresses, if they are elements by themselves.
    external: Option<HashMap<IpAddr, u32>>,
    cluster_ips: HashMap<IpAddr, (u32, Arc<str>)>,
    /// What the running step touched, with what it was before.
    touched_hairpins: BTreeMap<IpAddr, bool>,
    touched_ips: BTreeMap<IpAddr, Option<Arc<str>>>,
    touched_external: BTreeMap<IpAddr, bool>,
}

impl Shared {
    /// With the host ports' pods of a node-level plan.
    pub(super) fn new(frame: &FamilyPlan, external: bool) -> Self {
        let mut shared = Self {
            external: external.then(HashMap::default),
            ..Self::default()
        };
        for addr in &frame.local_endpoints {
            *shared.hairpins.entry(*addr).or_default() += 1;
        }
        shared
    }

    /// Counts a service in, as part of a rebuild.
    pub(super) fn count(&mut self, part: &ServicePlan) {
        for addr in &part.local_endpoints {
            *self.hairpins.entry(*addr).or_default() += 1;
        }
        for (addr, comment) in &part.cluster_ips {
            let entry = self.cluster_ips.entry(*addr);
            let (count, text) = entry.or_insert_with(|| (0, Arc::clone(comment)));
            *count += 1;
            *text = Arc::clone(comment);
        }
        if let Some(external) = &mut self.external {
            for addr in part.external_ips() {
                *external.entry(addr).or_default() += 1;
            }
        }
    }

    /// A service is not what it was.
    pub(super) fn change(&mut self, before: &ServicePlan, after: &ServicePlan) {
        for addr in &after.local_endpoints {
            self.add_hairpin(*addr);
        }
        for addr in &before.local_endpoints {
            self.drop_hairpin(*addr);
        }
        self.change_external(before, after);
        for (addr, comment) in &after.cluster_ips {
            let was = self.cluster_ips.get(addr).map(|(_, text)| Arc::clone(text));
            self.touched_ips.entry(*addr).or_insert(was);
            let entry = self.cluster_ips.entry(*addr);
            let (count, text) = entry.or_insert_with(|| (0, Arc::clone(comment)));
            *count += 1;
            *text = Arc::clone(comment);
        }
        for addr in before.cluster_ips.keys() {
            let Some((count, text)) = self.cluster_ips.get_mut(addr) else {
                continue;
            };
            let was = Some(Arc::clone(text));
            self.touched_ips.entry(*addr).or_insert(was);
            *count -= 1;
            if *count == 0 {
                self.cluster_ips.remove(addr);
            }
        }
    }

    /// The pods with host ports are not what they were.
    pub(super) fn change_hosts(&mut self, before: &FamilyPlan, after: &FamilyPlan) {
        for addr in &after.local_endpoints {
            self.add_hairpin(*addr);
        }
        for addr in &before.local_endpoints {
            self.drop_hairpin(*addr);
        }
    }

    fn change_external(&mut self, before: &ServicePlan, after: &ServicePlan) {
        let Some(external) = &mut self.external else {
            return;
        };
        for addr in after.external_ips() {
            let count = external.entry(addr).or_default();
            self.touched_external.entry(addr).or_insert(*count > 0);
            *count += 1;
        }
        for addr in before.external_ips() {
            if let Some(count) = external.get_mut(&addr) {
                self.touched_external.entry(addr).or_insert(*count > 0);
                *count -= 1;
                if *count == 0 {
                    external.remove(&addr);
                }
            }
        }
    }

    fn add_hairpin(&mut self, addr: IpAddr) {
        let count = self.hairpins.entry(addr).or_default();
        self.touched_hairpins.entry(addr).or_insert(*count > 0);
        *count += 1;
    }

    fn drop_hairpin(&mut self, addr: IpAddr) {
        if let Some(count) = self.hairpins.get_mut(&addr) {
            self.touched_hairpins.entry(addr).or_insert(*count > 0);
            *count -= 1;
            if *count == 0 {
                self.hairpins.remove(&addr);
            }
        }
    }

    /// Writes what the step touched, as it was and as it is. O(touched).
    pub(super) fn settle(&mut self, old: &mut Elements, new: &mut Elements) {
        for (addr, was) in std::mem::take(&mut self.touched_hairpins) {
            if was {
                hairpin(old, addr);
            }
            if self.hairpins.contains_key(&addr) {
                hairpin(new, addr);
            }
        }
        for (addr, was) in std::mem::take(&mut self.touched_external) {
            if was {
                external_ip(old, addr);
            }
            let known = self.external.as_ref();
            if known.is_some_and(|known| known.contains_key(&addr)) {
                external_ip(new, addr);
            }
        }
        for (addr, was) in std::mem::take(&mut self.touched_ips) {
            if let Some(comment) = was {
                cluster_ip(old, addr, &comment);
            }
            if let Some((_, comment)) = self.cluster_ips.get(&addr) {
                cluster_ip(new, addr, comment);
            }
        }
    }
}
