//! Changes that wait to be carried out: the latest word on each object, what is missing from
//! a list, and the guard against a source that suddenly says everything is gone.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Change, Cluster, ObjectName};
use crate::engine::Engine;
use crate::source::api::{Event, Kind, gone};

/// The guard lets go of this many endpoints without asking, however few there are.
const ALWAYS_ALLOWED: usize = 50;

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
    confirmed: bool,
}

/// What to do with what is pending.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet: not every kind was listed, nothing changed, or a second list is awaited.
    Wait,
    /// Carry it out.
    Go,
    /// It would lose this many endpoints of so many: ask for a second list.
    Doubt {
        /// Endpoints that would go.
        lost: usize,
        /// Endpoints there are.
        of: usize,
    },
}

impl Pending {
    /// Takes in an event; true if it is a complete list. `known` are the engine's objects:
    /// what they hold and a list does not is gone.
    pub fn take(&mut self, event: Event, known: &Cluster) -> bool {
        match event {
            Event::Listing(kind) => {
                self.listing.insert(kind, BTreeSet::new());
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
            Event::Failed(..) => false,
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

    /// True if a second word is awaited before it may be carried out.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// May it be carried out? `share` is the part of all endpoints that may go at once.
    /// O(pending).
    pub fn verdict(&mut self, engine: &Engine, share: f64) -> Verdict {
        if !self.is_complete() || self.changes.is_empty() {
            return Verdict::Wait;
        }
        if self.confirmed {
            return Verdict::Go;
        }
        let endpoints = engine.endpoint_count();
        let lost = self.lost(engine);
        if too_many(lost, endpoints, share) {
            if !self.awaited.is_empty() {
                return Verdict::Wait;
            }
            self.awaited = [Kind::Service, Kind::EndpointSlice].into();
            return Verdict::Doubt {
                lost,
                of: endpoints,
            };
        }
        self.awaited.clear();
        Verdict::Go
    }

    /// Endpoints that would be gone, those that come in their place subtracted.
    fn lost(&self, engine: &Engine) -> usize {
        let count = |slice: Option<&crate::cluster::EndpointSlice>| {
            slice.map_or(0, |slice| slice.endpoints.len())
        };
        let (mut before, mut after) = (0, 0);
        for change in self.changes.values() {
            match change {
                Change::Slice(name, new) => {
                    before += count(engine.slice(name));
                    after += count(new.as_deref());
                }
                Change::Service(name, None) => {
                    let slices = engine.cluster().slices_of(name);
                    before += slices.iter().map(|s| s.endpoints.len()).sum::<usize>();
                }
                _ => {}
            }
        }
        before.saturating_sub(after)
    }

    /// Hands over everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Change> + use<> {
        self.confirmed = false;
        self.awaited.clear();
        std::mem::take(&mut self.changes).into_values()
    }
}

/// True if losing `lost` of `endpoints` wants a second opinion.
#[must_use]
pub fn too_many(lost: usize, endpoints: usize, share: f64) -> bool {
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
    let limit = endpoints as f64 * share;
    #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
    let loss = lost as f64;
    lost > ALWAYS_ALLOWED && loss > limit
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
