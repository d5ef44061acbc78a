//! New connections per frontend and per endpoint, as the kernel counts them
//! (`--service-counters`).
//!
//! Every element of the maps that the first packet of a connection meets carries a counter.
//! An element tells by itself whose it is: its comment names the service port, its key or its
//! data the frontend or the endpoint. So counts are read from the kernel alone, without a
//! plan, and outlive whoever wrote the elements. A change that replaces an element would take
//! its counter along: [`carry`] reads it first and hands it to the element that comes in its
//! place. What is counted between that reading and the commit, some microseconds, is lost.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::cluster::Protocol;
use crate::compile::value::{Class, value_of};
use crate::compile::{Counted, SetId};
use crate::compile::{endpoint_of, frontend_key_of};
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::plan::{Endpoint, FrontendKey};
use crate::ruleset::{Element, Family, FieldValue, Set, Value};
use crate::transaction::{Count, Operation, TableChange, Transaction};

/// Readings tried until one comes through without a commit in between; the last one counts
/// all the same.
const TRIES: usize = 4;

/// What is counted at a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// Connections to this frontend.
    Frontend(FrontendKey),
    /// Connections to this frontend that were refused or dropped for want of endpoints.
    Refused(FrontendKey),
    /// Connections of pods and this node to this frontend, which has a local policy.
    Internal(FrontendKey),
    /// Connections that this endpoint was chosen for.
    Endpoint(Endpoint),
}

/// Whose connections are counted, and which.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject {
    /// Family.
    pub family: Family,
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
    fn of(family: Family, set: &Set, key: &Value, element: &Element) -> Option<Self> {
        let (protocol, what) = match SetId::named(&set.name)?.counted()? {
            Counted::Frontends => {
                let at = frontend_key_of(set, key)?;
                let served = Class::of(value_of(element)?)?.has_list();
                let what = if served {
                    What::Frontend(at)
                } else {
                    What::Refused(at)
                };
                (at.protocol(), what)
            }
            Counted::Internal => {
                let at = frontend_key_of(set, key)?;
                (at.protocol(), What::Internal(at))
            }
            Counted::Endpoints => (
                key.fields(&set.key)?.iter().find_map(protocol)?,
                What::Endpoint(endpoint_of(set, element)?),
            ),
        };
        Some(Self {
            family,
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

/// Connections by subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<Subject, u64>);

impl Counts {
    fn add(&mut self, subject: Option<Subject>, connections: u64) {
        if let Some(subject) = subject {
            *self.0.entry(subject).or_default() += connections;
        }
    }

    /// A frontend without local endpoints drops what comes from outside, and serves the rest:
    /// its element counts both.
    fn settle(self) -> Self {
        let is_internal = |subject: &Subject| matches!(subject.what, What::Internal(_));
        let (internal, mut counts): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .0
            .into_iter()
            .partition(|(subject, _)| is_internal(subject));
        for (subject, served) in internal {
            let What::Internal(at) = subject.what else {
                continue;
            };
            let with = |what| Subject {
                what,
                ..subject.clone()
            };
            if let Some(refused) = counts.get_mut(&with(What::Refused(at))) {
                let served = served.min(*refused);
                *refused -= served;
                *counts.entry(with(What::Frontend(at))).or_default() += served;
            }
        }
        Self(counts)
    }

    /// Connections of one subject; 0 if nothing counts it.
    #[must_use]
    pub fn of(&self, family: Family, port: &Arc<str>, protocol: Protocol, what: What) -> u64 {
        let subject = Subject {
            family,
            port: Arc::clone(port),
            protocol,
            what,
        };
        self.0.get(&subject).copied().unwrap_or_default()
    }

    /// All of them, by service port.
    pub fn iter(&self) -> impl Iterator<Item = (&Subject, u64)> {
        self.0.iter().map(|(subject, count)| (subject, *count))
    }

    /// Reads what the kernel has counted; `None` if nothing counts. O(elements).
    ///
    /// # Errors
    /// If the kernel cannot be read, or our tables come and go.
    pub fn read(kernel: &mut Nfnetlink) -> Result<Option<Self>, NetlinkError> {
        for tries in 1..=TRIES {
            let mut counts = Self::default();
            let read = kernel.counters(|family, set, key, element, count| {
                counts.add(Subject::of(family, set, key, element), count.packets);
            });
            match read {
                Err(NetlinkError::Interrupted) => {}
                // A neighbour that commits all the time to its own tables disturbs nothing.
                Ok((any, undisturbed)) if undisturbed || tries == TRIES => {
                    return Ok(any.then(|| counts.settle()));
                }
                Ok(_) => {}
                Err(error) => return Err(error),
            }
        }
        Err(NetlinkError::Interrupted)
    }
}

/// Has the elements that `delta` adds go on from what those it deletes have counted: per
/// frontend and per endpoint, as far as it stays. O(delta); nothing is asked if nothing counts.
///
/// # Errors
/// If the kernel cannot be read.
pub fn carry(kernel: &mut Nfnetlink, delta: &mut Transaction) -> Result<(), NetlinkError> {
    for table in &mut delta.tables {
        let mut found: HashMap<Subject, Count> = HashMap::new();
        for (set, elements) in elements(table, false) {
            let keys: Vec<Value> = elements.iter().map(|(key, _)| *key).collect();
            kernel.counters_of(table.family, set, &keys, |key, element, count| {
                if let Some(subject) = Subject::of(table.family, set, key, element) {
                    *found.entry(subject).or_default() += count;
                }
            })?;
        }
        found.retain(|_, count| *count != Count::default());
        hand_over(table, found);
    }
    Ok(())
}

/// The elements of counted sets that a delta adds, or those it deletes.
fn elements(
    table: &TableChange,
    added: bool,
) -> impl Iterator<Item = (&Set, &Vec<(Value, Element)>)> {
    table.operations.iter().filter_map(move |operation| {
        let (name, elements) = match operation {
            Operation::AddElements(name, elements) if added => (name, elements),
            Operation::DeleteElements(name, elements) if !added => (name, elements),
            _ => return None,
        };
        let set = table.sets.get(name).filter(|set| set.counted)?;
        Some((set, elements))
    })
}

/// Gives each count to one of the elements that are added for the same subject.
fn hand_over(table: &mut TableChange, mut counts: HashMap<Subject, Count>) {
    if counts.is_empty() {
        return;
    }
    let mut carried: BTreeMap<String, HashMap<Value, Count>> = BTreeMap::new();
    for (set, elements) in elements(table, true) {
        for (key, element) in elements {
            let heir = Subject::of(table.family, set, key, element).and_then(|s| counts.remove(&s));
            if let Some(count) = heir {
                let set = carried.entry(set.name.clone()).or_default();
                set.insert(*key, count);
            }
        }
    }
    table.carried = carried;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::{DataType, Datum, ElementData};

    fn set() -> Set {
        Set::exact(
            SetId::Endpoints.fixed_name(),
            &[DataType::ClassId, DataType::InetProto, DataType::Slot],
        )
        .mapping(&[DataType::Ipv4Addr, DataType::InetService])
    }

    fn slot(n: u32, last: u8) -> (Value, Element) {
        let key = Value::new().u32(7).proto(Protocol::Udp).u32(n);
        let data = Datum::new().addr([10, 0, 0, last].into()).port(53);
        let element = Element::new(ElementData::Value(data));
        (key, element.with_comment("kube-system/dns:udp".into()))
    }

    #[test]
    fn slots_of_one_endpoint_are_one_subject_and_names_come_apart() {
        let mut counts = Counts::default();
        for (n, last) in [(0, 1), (1, 1), (2, 2)] {
            let (key, element) = slot(n, last);
            counts.add(Subject::of(Family::Ip, &set(), &key, &element), 10);
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
        other.name = SetId::AffinityGroups.fixed_name().to_owned();
        assert_eq!(Subject::of(Family::Ip, &other, &key, &element), None);
    }

    #[test]
    fn counts_go_to_one_element_of_the_same_endpoint_and_to_nobody_else() {
        let (gone, last, heir) = (slot(0, 1), slot(1, 2), slot(0, 2));
        let mut table = TableChange::empty(Family::Ip);
        table
            .sets
            .insert(SetId::Endpoints.fixed_name().to_owned(), {
                let mut set = set();
                set.counted = true;
                set
            });
        let list =
            |elements| Operation::AddElements(SetId::Endpoints.fixed_name().to_owned(), elements);
        table.operations.push(list(vec![heir.clone(), slot(3, 2)]));
        let subject =
            |(key, element): &(Value, Element)| Subject::of(Family::Ip, &set(), key, element);
        let count = |packets| Count { packets, bytes: 9 };
        let found = [(subject(&gone), count(5)), (subject(&last), count(7))];
        let found = found.into_iter().map(|(s, c)| (s.unwrap(), c)).collect();
        hand_over(&mut table, found);
        let carried = &table.carried[SetId::Endpoints.fixed_name()];
        assert_eq!(carried.len(), 1);
        assert_eq!(carried[&heir.0], count(7));
    }
}
