//! New connections per frontend and per endpoint, as the kernel counts them
//! (`--service-counters`).
//!
//! Every element of the maps that the first packet of a connection meets carries a counter.
//! An element tells by itself whose it is: its comment names the service port, its key or its
//! data the frontend or the endpoint. So counts are read from the kernel alone, without a
//! plan. A change that replaces an element takes its counter with it: what it had counted is
//! read just before and kept in [`Retired`], as long as the frontend or endpoint lives on.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cluster::Protocol;
use crate::compile::layout::{Counted, counted};
use crate::diff::{Delta, Operation};
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::plan::{Endpoint, FrontendKey, NodePlan};
use crate::ruleset::{Element, ElementData, FieldValue, Set, SetData, Value};

/// Readings tried until one comes through without a commit in between.
const TRIES: usize = 20;

/// What is counted at a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// Connections to this frontend.
    Frontend(FrontendKey),
    /// Connections to this frontend that were refused or dropped for want of endpoints.
    Refused(FrontendKey),
    /// Connections that this endpoint was chosen for.
    Endpoint(Endpoint),
}

/// Whose connections are counted, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    /// `namespace/name:port`, or without `:port` if that has no name: the comment of the
    /// elements. Cut, with a `~`, if it is longer than nft lets comments be.
    pub port: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Which of its connections.
    pub what: What,
}

impl Subject {
    /// Whom an element of `set` counts for; `None` if it counts nothing.
    fn of(set: &Set, key: &Value, element: &Element) -> Option<Self> {
        let kind = counted(&set.name)?;
        let fields = key.fields(&set.key)?;
        let (protocol, what) = match kind {
            Counted::Frontends => {
                let at = frontend(&fields)?;
                (at.protocol(), What::Frontend(at))
            }
            Counted::Refusals => {
                let at = frontend(&fields)?;
                (at.protocol(), What::Refused(at))
            }
            Counted::Endpoints => (
                fields.iter().find_map(protocol)?,
                What::Endpoint(endpoint(set, element)?),
            ),
        };
        Some(Self {
            port: element.comment.clone()?,
            protocol,
            what,
        })
    }

    /// Namespace, name and port name.
    #[must_use]
    pub fn names(&self) -> (&str, &str, &str) {
        let (service, port) = self.port.split_once(':').unwrap_or((&self.port, ""));
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        (namespace, name, port)
    }
}

fn protocol(field: &FieldValue) -> Option<Protocol> {
    match field {
        FieldValue::Proto(number) => Protocol::from_number(*number),
        _ => None,
    }
}

fn frontend(fields: &[FieldValue]) -> Option<FrontendKey> {
    match fields {
        [FieldValue::Addr(addr), proto, FieldValue::Port(port)] => Some(FrontendKey::Address(
            *addr,
            protocol(proto)?,
            NonZeroU16::new(*port)?,
        )),
        [proto, FieldValue::Port(port)] => Some(FrontendKey::NodePort(
            protocol(proto)?,
            NonZeroU16::new(*port)?,
        )),
        _ => None,
    }
}

fn endpoint(set: &Set, element: &Element) -> Option<Endpoint> {
    let (SetData::Fields(schema), ElementData::Value(data)) = (&set.data, &element.data) else {
        return None;
    };
    match data.fields(schema)?[..] {
        [FieldValue::Addr(addr), FieldValue::Port(port)] => Some(Endpoint {
            addr,
            port: NonZeroU16::new(port)?,
        }),
        _ => None,
    }
}

/// Connections by subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Subject, u64>);

impl Counts {
    fn add(&mut self, subject: Option<Subject>, connections: u64) {
        if let Some(subject) = subject {
            *self.0.entry(subject).or_default() += connections;
        }
    }

    /// Adds those of `other` whose subject is counted here already.
    fn add_known(&mut self, other: &Self) {
        for (subject, count) in &mut self.0 {
            *count += other.0.get(subject).copied().unwrap_or_default();
        }
    }

    /// All of them, by service port.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, u64)> {
        self.0.iter().map(|(subject, count)| (subject, *count))
    }

    /// Reads what the kernel has counted; `None` if nothing counts. O(elements).
    ///
    /// # Errors
    /// If the kernel cannot be read, or does not hold still.
    pub fn read(kernel: &mut Nfnetlink) -> Result<Option<Self>, NetlinkError> {
        for _ in 0..TRIES {
            let mut counts = Self::default();
            let read = kernel.counters(|set, key, element, packets| {
                counts.add(Subject::of(set, key, element), packets);
            });
            match read {
                Err(NetlinkError::Interrupted) => {}
                result => return Ok(result?.then_some(counts)),
            }
        }
        Err(NetlinkError::Interrupted)
    }

    /// What the elements that `delta` deletes have counted so far. O(these); nothing is asked
    /// if nothing counts.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn of_deleted(kernel: &mut Nfnetlink, delta: &Delta) -> Result<Self, NetlinkError> {
        let mut counts = Self::default();
        for table in &delta.tables {
            for operation in &table.operations {
                let Operation::DeleteElements(name, elements) = operation else {
                    continue;
                };
                let Some(set) = table.sets.get(name).filter(|set| set.counted) else {
                    continue;
                };
                let keys: Vec<Value> = elements.iter().map(|(key, _)| *key).collect();
                kernel.counters_of(table.family, set, &keys, |key, element, packets| {
                    counts.add(Subject::of(set, key, element), packets);
                })?;
            }
        }
        Ok(counts)
    }
}

/// Everything that may be counted under a plan. O(plan).
fn subjects(plan: &NodePlan) -> BTreeSet<Subject> {
    let mut out = BTreeSet::new();
    for family in &plan.families {
        for (key, frontend) in &family.frontends {
            for what in [What::Frontend(*key), What::Refused(*key)] {
                out.insert(Subject {
                    port: Arc::clone(&frontend.comment),
                    protocol: key.protocol(),
                    what,
                });
            }
        }
        for (key, list) in &family.lists {
            out.extend(list.endpoints.keys().map(|endpoint| Subject {
                port: Arc::clone(&list.comment),
                protocol: key.port.protocol,
                what: What::Endpoint(*endpoint),
            }));
        }
    }
    out
}

/// What replaced elements had counted. The agent writes, who reads counters reads.
#[derive(Clone, Debug, Default)]
pub struct Retired(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    /// Odd while the kernel has lost counters that are not here yet.
    revision: u64,
}

impl Retired {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics between two writes that belong together.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit that deletes counted elements is about to be sent.
    pub fn begin(&self) {
        self.state().revision |= 1;
    }

    /// It was sent, and has lost these; nothing if it failed. O(these).
    pub fn finish(&self, lost: Counts) {
        let mut state = self.state();
        for (subject, connections) in lost.0 {
            state.counts.add(Some(subject), connections);
        }
        state.revision = (state.revision | 1) + 1;
    }

    /// Forgets what only `before` had. O(both).
    pub fn settle(&self, before: &NodePlan, after: &NodePlan) {
        let mut state = self.state();
        if !state.counts.0.is_empty() {
            for gone in &subjects(before) - &subjects(after) {
                state.counts.0.remove(&gone);
            }
        }
    }

    /// Forgets what is not in `plan`. O(plan), if anything is remembered.
    pub fn keep(&self, plan: &NodePlan) {
        let mut state = self.state();
        if !state.counts.0.is_empty() {
            let alive = subjects(plan);
            state.counts.0.retain(|subject, _| alive.contains(subject));
        }
    }

    /// What the kernel counts and what is remembered, together; `None` if nothing counts.
    /// A commit in between makes it start over, so that no count goes back.
    ///
    /// # Errors
    /// As [`Counts::read`].
    pub fn totals(&self, kernel: &mut Nfnetlink) -> Result<Option<Counts>, NetlinkError> {
        for _ in 0..TRIES {
            let before = self.state().revision;
            let Some(mut live) = Counts::read(kernel)? else {
                return Ok(None);
            };
            let state = self.state();
            if state.revision == before && before.is_multiple_of(2) {
                live.add_known(&state.counts);
                return Ok(Some(live));
            }
        }
        Err(NetlinkError::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::layout::names;
    use crate::ruleset::DataType;

    fn set() -> Set {
        Set::exact(
            names::ENDPOINTS,
            &[DataType::ClassId, DataType::InetProto, DataType::Slot],
        )
        .mapping(&[DataType::Ipv4Addr, DataType::InetService])
    }

    fn slot(n: u32, last: u8) -> (Value, Element) {
        let key = Value::new().u32(7).proto(Protocol::Udp).u32(n);
        let data = Value::new().addr([10, 0, 0, last].into()).port(53);
        let element = Element::new(ElementData::Value(data));
        (key, element.with_comment("kube-system/dns:udp".into()))
    }

    #[test]
    fn slots_of_one_endpoint_are_one_subject_and_names_come_apart() {
        let mut counts = Counts::default();
        for (n, last) in [(0, 1), (1, 1), (2, 2)] {
            let (key, element) = slot(n, last);
            counts.add(Subject::of(&set(), &key, &element), 10);
        }
        let found: Vec<u64> = counts.iter().map(|(_, n)| n).collect();
        assert_eq!(found, [20, 10]);
        let (first, _) = counts.iter().next().unwrap();
        assert_eq!(first.names(), ("kube-system", "dns", "udp"));
        assert_eq!(first.protocol, Protocol::Udp);
    }

    #[test]
    fn an_element_of_another_set_counts_for_nobody() {
        let (key, element) = slot(0, 1);
        let mut other = set();
        other.name = names::STICKY_GROUPS.to_owned();
        assert_eq!(Subject::of(&other, &key, &element), None);
    }

    #[test]
    fn what_was_retired_is_added_only_to_what_lives() {
        let subject = |last| {
            let (key, element) = slot(0, last);
            Subject::of(&set(), &key, &element)
        };
        let (mut live, mut retired) = (Counts::default(), Counts::default());
        live.add(subject(1), 1);
        retired.add(subject(1), 4);
        retired.add(subject(2), 9);
        live.add_known(&retired);
        assert_eq!(live.iter().map(|(_, n)| n).collect::<Vec<_>>(), [5]);
    }
}
