//! Changes that wait to be carried out: the latest word on each object, what is missing from
//! a list, and how much of what there is they would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::apply::{Holding, LossGuard, Verdict};
use crate::cluster::{Change, Cluster, EndpointSlice, ObjectName};
use crate::engine::Engine;
use crate::source::api::{Event, Kind, gone};

/// The latest word on objects of the API, not yet handed to the engine.
#[derive(Debug, Default)]
pub struct Pending {
    changes: BTreeMap<(Kind, ObjectName), Change>,
    /// Kinds of which a whole list arrived.
    complete: BTreeSet<Kind>,
    /// Names of a list that is still arriving.
    listing: BTreeMap<Kind, BTreeSet<ObjectName>>,
    /// A large loss: kinds whose second list is awaited.
    awaited: BTreeSet<Kind>,
    /// The second lists arrived.
    confirmed: bool,
    /// Nothing arrived since it was judged and held.
    judged: bool,
}

impl Pending {
    /// Takes in an event; true if it is a complete list. `known` are the engine's objects:
    /// what they hold and a list does not is gone.
    pub fn take(&mut self, event: Event, known: &Cluster) -> bool {
        self.judged = false;
        match event {
            Event::Listing(kind) => {
                // What a list said that never ended is said again, and is not kept: lists
                // without an end would fill the memory.
                for name in self
                    .listing
                    .insert(kind, BTreeSet::new())
                    .unwrap_or_default()
                {
                    self.changes.remove(&(kind, name));
                }
                false
            }
            Event::Listed(kind, change, _) => {
                let name = name_of(&change);
                if let Some(seen) = self.listing.get_mut(&kind) {
                    seen.insert(name.clone());
                }
                self.changes.insert((kind, name), change);
                false
            }
            Event::Changed(kind, change, _) => {
                let name = name_of(&change);
                self.changes.insert((kind, name), change);
                false
            }
            Event::Complete(kind) => {
                self.finish(kind, known);
                true
            }
            Event::Heard(_) | Event::Failed(..) | Event::Recovered(_) => false,
        }
    }

    fn finish(&mut self, kind: Kind, known: &Cluster) {
        let seen = self.listing.remove(&kind).unwrap_or_default();
        for name in names(kind, known) {
            if !seen.contains(&name) {
                let change = gone(kind, name.clone());
                self.changes.insert((kind, name), change);
            }
        }
        // What an older list or watch said and this list does not is gone as well.
        for ((of, name), change) in &mut self.changes {
            if *of == kind && !seen.contains(name) {
                *change = gone(kind, name.clone());
            }
        }
        self.complete.insert(kind);
        if self.awaited.remove(&kind) && self.awaited.is_empty() {
            self.confirmed = true;
        }
    }

    /// True once every kind was listed.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete.len() == Kind::ALL.len()
    }

    /// Kinds and whether they were listed.
    pub fn sources(&self) -> impl Iterator<Item = (Kind, bool)> {
        Kind::ALL
            .into_iter()
            .map(|kind| (kind, self.complete.contains(&kind)))
    }

    /// Objects that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True if none does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Kinds that say how many endpoints there are are listed anew; what they say then is a
    /// second reading.
    pub fn await_second_list(&mut self) {
        self.awaited = [Kind::Service, Kind::EndpointSlice].into();
        self.confirmed = false;
    }

    /// True if it waits for another word, not for us.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        self.judged
    }

    /// May it be carried out? `None` if there is nothing to carry out yet. `installed` is what
    /// the kernel holds, as long as the engine does not know. O(pending).
    pub fn verdict(
        &mut self,
        engine: &Engine,
        installed: Option<Holding>,
        guard: &mut LossGuard,
        now: Instant,
    ) -> Option<Verdict> {
        let nothing = self.changes.is_empty() && installed.is_none();
        if !self.is_complete() || nothing || self.judged {
            return None;
        }
        let (before, after) = self.holdings(engine);
        let second = std::mem::take(&mut self.confirmed);
        let verdict = guard.judge(installed.unwrap_or(before), after, second, now);
        self.judged = verdict != Verdict::Go;
        Some(verdict)
    }

    /// What there would be. O(pending).
    #[must_use]
    pub fn holding(&self, engine: &Engine) -> Holding {
        self.holdings(engine).1
    }

    /// What the engine knows, and what it would know. Each endpoint counts once: in its slice,
    /// if the slice's Service is there.
    fn holdings(&self, engine: &Engine) -> (Holding, Holding) {
        let cluster = engine.cluster();
        let before = Holding {
            objects: cluster.services.len() + cluster.pods.len() + cluster.nodes.len(),
            services: cluster.services.len(),
            endpoints: engine.endpoint_count(),
        };
        let (mut gone, mut come) = (Holding::default(), Holding::default());
        for change in self.changes.values() {
            let (was, is) = match change {
                Change::Service(name, new) => {
                    let was = cluster.services.contains_key(name);
                    gone.services += usize::from(was);
                    come.services += usize::from(new.is_some());
                    if was && new.is_none() {
                        gone.endpoints += self.endpoints_left(engine, name);
                    }
                    (was, new.is_some())
                }
                Change::Slice(name, new) => {
                    let old = engine.slice(name);
                    gone.endpoints +=
                        endpoints(old.filter(|s| cluster.services.contains_key(&s.service)));
                    come.endpoints +=
                        endpoints(new.as_deref().filter(|s| !self.is_gone(&s.service)));
                    continue;
                }
                Change::Pod(name, new) => (cluster.pods.contains_key(name), new.is_some()),
                Change::Node(name, new) => {
                    (cluster.nodes.contains_key(name.as_str()), new.is_some())
                }
                Change::ServiceCidr(..) => continue,
            };
            gone.objects += usize::from(was);
            come.objects += usize::from(is);
        }
        let rest = |before: usize, gone: usize, come: usize| before.saturating_sub(gone) + come;
        let after = Holding {
            objects: rest(before.objects, gone.objects, come.objects),
            services: rest(before.services, gone.services, come.services),
            endpoints: rest(before.endpoints, gone.endpoints, come.endpoints),
        };
        (before, after)
    }

    /// Endpoints that go with a Service: those of slices of which nothing else is pending.
    fn endpoints_left(&self, engine: &Engine, service: &ObjectName) -> usize {
        let slices = engine.cluster().slices_of(service).into_iter();
        slices
            .filter(|slice| {
                let key = (Kind::EndpointSlice, slice.name.clone());
                !self.changes.contains_key(&key)
            })
            .map(|slice| slice.endpoints.len())
            .sum()
    }

    fn is_gone(&self, service: &ObjectName) -> bool {
        let change = self.changes.get(&(Kind::Service, service.clone()));
        matches!(change, Some(Change::Service(_, None)))
    }

    /// Hands over everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Change> + use<> {
        self.confirmed = false;
        self.judged = false;
        self.awaited.clear();
        std::mem::take(&mut self.changes).into_values()
    }
}

fn endpoints(slice: Option<&EndpointSlice>) -> usize {
    slice.map_or(0, |slice| slice.endpoints.len())
}

fn name_of(change: &Change) -> ObjectName {
    match change {
        Change::Service(name, _) | Change::Slice(name, _) | Change::Pod(name, _) => name.clone(),
        Change::Node(name, _) | Change::ServiceCidr(name, _) => ObjectName::new("", name.as_str()),
    }
}

fn names(kind: Kind, known: &Cluster) -> Vec<ObjectName> {
    match kind {
        Kind::Service => known.services.keys().cloned().collect(),
        Kind::EndpointSlice => known
            .slices
            .values()
            .flat_map(|s| s.iter().map(|slice| slice.name.clone()))
            .collect(),
        Kind::Pod => known.pods.keys().cloned().collect(),
        Kind::Node => known
            .nodes
            .keys()
            .map(|n| ObjectName::new("", n.as_str()))
            .collect(),
        Kind::ServiceCidr => {
            let names = known.service_cidrs.keys();
            names.map(|n| ObjectName::new("", n.as_str())).collect()
        }
    }
}

#[cfg(test)]
mod tests;
