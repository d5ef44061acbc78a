//! What sources said and what waits to be carried out: the latest word on each object, and how
//! much of what there is that would leave.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use crate::apply::{Holding, LossGuard, Verdict};
use crate::cluster::{Change, Cluster, EndpointSlice, Kind, Object, ObjectName};
use crate::config::Config;
use crate::engine::Engine;
use crate::source::events::Event;

/// The latest word on settings and objects, not yet handed to the engine.
#[derive(Debug, Default)]
pub struct Pending {
    settings: Option<Box<Config>>,
    changes: BTreeMap<(Kind, ObjectName), Change>,
    /// Kinds of which all objects were said.
    complete: BTreeSet<Kind>,
    /// Objects of lists that are still arriving.
    arriving: BTreeMap<Kind, usize>,
    /// A large loss: kinds that are to be said once more.
    awaited: BTreeSet<Kind>,
    /// They were.
    confirmed: bool,
    /// Nothing was said since it was judged and held.
    judged: bool,
}

impl Pending {
    /// Takes in what a source said. What `engine` knows and a whole list does not is gone;
    /// what it knows just so does not wait.
    pub fn take(&mut self, event: Event, engine: &Engine) {
        match event {
            Event::Settings(settings) => {
                self.settings = (*settings != *engine.config()).then_some(settings);
            }
            Event::Listing(kind, objects) => drop(self.arriving.insert(kind, objects)),
            Event::Reset(kind, objects) => self.reset(kind, objects, engine),
            Event::Apply(object) => self.put(object.kind(), object.name(), object.into()),
            Event::Delete(kind, name) => self.put(kind, name.clone(), Change::gone(kind, name)),
            Event::Found(_) | Event::Heard(_) | Event::Lost(..) | Event::Recovered(_) => return,
        }
        self.judged = false;
    }

    fn put(&mut self, kind: Kind, name: ObjectName, change: Change) {
        self.changes.insert((kind, name), change);
    }

    fn reset(&mut self, kind: Kind, objects: Vec<Object>, engine: &Engine) {
        self.arriving.remove(&kind);
        // Whatever was said before is older than this.
        self.changes.retain(|(of, _), _| *of != kind);
        let mut gone: BTreeSet<ObjectName> = engine.cluster().names(kind).into_iter().collect();
        for object in objects {
            let name = object.name();
            gone.remove(&name);
            if !is_known(&object, engine) {
                self.put(kind, name, object.into());
            }
        }
        for name in gone {
            self.put(kind, name.clone(), Change::gone(kind, name));
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

    /// Objects that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Objects that wait or are arriving.
    #[must_use]
    pub fn heard_of(&self) -> usize {
        self.changes.len() + self.arriving.values().sum::<usize>()
    }

    /// True if nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.settings.is_none()
    }

    /// Kinds that say how many endpoints there are were asked for anew; what is said of them
    /// then is a second reading.
    pub fn await_second_reading(&mut self) {
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
        // What was held may have come back, and be what the engine knows.
        let nothing = self.is_empty() && installed.is_none() && guard.held().is_none();
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

    /// Hands everything over.
    pub fn hand_over(&mut self, engine: &mut Engine) {
        self.confirmed = false;
        self.judged = false;
        self.awaited.clear();
        if let Some(settings) = self.settings.take() {
            engine.reconfigure(*settings);
        }
        for change in std::mem::take(&mut self.changes).into_values() {
            engine.apply(change);
        }
    }
}

fn endpoints(slice: Option<&EndpointSlice>) -> usize {
    slice.map_or(0, |slice| slice.endpoints.len())
}

/// True if `engine` has an object that differs in nothing.
fn is_known(object: &Object, engine: &Engine) -> bool {
    let Cluster {
        services,
        pods,
        nodes,
        service_cidrs,
        ..
    } = engine.cluster();
    match object {
        Object::Service(new) => services.get(&new.name) == Some(new),
        Object::Slice(new) => engine.slice(&new.name) == Some(new),
        Object::Pod(new) => pods.get(&new.name) == Some(new),
        Object::Node(new) => nodes.get(&new.name) == Some(new),
        Object::ServiceCidr(new) => service_cidrs.get(&new.name) == Some(new),
    }
}

#[cfg(test)]
mod tests;
