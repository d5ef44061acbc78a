//! What the elements ask of the rules: a rule is there while something needs it.
//!
//! Counted element by element, so that one changed element is O(1) and only a change of
//! kinds, never of numbers, touches a rule.

use std::collections::{BTreeMap, BTreeSet};

use super::sets::SetId;
use super::value::{AFFINITY_MASK, Affinity, Class, MODE_MASK, Mode, value_of};
use crate::ruleset::{DataType, Element, FieldValue, Protocol, Value};

/// The kinds of things in use in one family: all that decides, with the configuration and
/// this node's prefixes, which rules there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    kinds: BTreeSet<Kind>,
}

/// A kind of thing that an element brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// The set is not empty.
    Set(SetId),
    /// A frontend of this class.
    Class(Class),
    /// A frontend of this mode.
    Mode(u32),
    /// A frontend with this kind of affinity.
    Affinity(u32),
    /// An element of this set is of this protocol: asked of the sets whose rules are written
    /// for each protocol.
    Protocol(SetId, Protocol),
}

impl Parts {
    /// All kinds there are, with these affinity timeouts.
    #[cfg(test)]
    #[must_use]
    pub fn all(timeouts: &[u32]) -> Self {
        use super::value::EXACT;
        let sets = SetId::FIXED.into_iter();
        let timeouts = timeouts.iter().copied().map(SetId::AffinityTimeout);
        let classes = (1..=EXACT)
            .map(Class::Exact)
            .chain(Class::large().map(Class::Large))
            .chain([Class::BySource, Class::Reject, Class::Drop]);
        let modes = [Mode::Keep, Mode::Cluster, Mode::Masquerade, Mode::Local];
        let affinity = [Affinity::None, Affinity::Cluster, Affinity::Local];
        let protocols = [SetId::AffinityServiceIps, SetId::AffinityServiceNodeports]
            .into_iter()
            .flat_map(|set| Protocol::ALL.map(|protocol| Kind::Protocol(set, protocol)));
        Self {
            kinds: (sets.chain(timeouts).map(Kind::Set))
                .chain(classes.map(Kind::Class))
                .chain(modes.map(|mode| Kind::Mode(mode as u32)))
                .chain(affinity.map(|affinity| Kind::Affinity(affinity as u32)))
                .chain(protocols)
                .collect(),
        }
    }

    /// True if the set has elements.
    #[must_use]
    pub fn has(&self, set: SetId) -> bool {
        self.kinds.contains(&Kind::Set(set))
    }

    /// True if one of the sets has elements.
    #[must_use]
    pub fn has_any(&self, sets: &[SetId]) -> bool {
        sets.iter().any(|set| self.has(*set))
    }

    /// True if a frontend has this class.
    #[must_use]
    pub fn has_class(&self, class: Class) -> bool {
        self.kinds.contains(&Kind::Class(class))
    }

    /// Classes in use, in order.
    pub fn classes(&self) -> impl Iterator<Item = Class> {
        self.kinds.iter().filter_map(|kind| match kind {
            Kind::Class(class) => Some(*class),
            _ => None,
        })
    }

    /// True if a frontend has this mode.
    #[must_use]
    pub fn has_mode(&self, mode: Mode) -> bool {
        self.kinds.contains(&Kind::Mode(mode as u32))
    }

    /// True if a frontend has this kind of affinity.
    #[must_use]
    pub fn has_affinity(&self, affinity: Affinity) -> bool {
        self.kinds.contains(&Kind::Affinity(affinity as u32))
    }

    /// Protocols of the elements of one of the affinity's sets of frontends.
    pub fn protocols(&self, set: SetId) -> impl Iterator<Item = Protocol> {
        Protocol::ALL
            .into_iter()
            .filter(move |protocol| self.kinds.contains(&Kind::Protocol(set, *protocol)))
    }

    /// Affinity timeouts in use, in seconds.
    pub fn timeouts(&self) -> impl Iterator<Item = u32> {
        self.kinds.iter().filter_map(|kind| match kind {
            Kind::Set(SetId::AffinityTimeout(seconds)) => Some(*seconds),
            _ => None,
        })
    }
}

/// How many elements bring each kind. O(1) for an element: there are at most some hundred
/// kinds, whatever the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    counts: BTreeMap<Kind, u32>,
}

impl Uses {
    /// An element is added to a set; true if it is the first of a kind.
    pub fn add(&mut self, set: SetId, key: &Value, element: &Element) -> bool {
        let mut first = false;
        for kind in kinds(set, key, element) {
            let count = self.counts.entry(kind).or_default();
            first |= *count == 0;
            *count += 1;
        }
        first
    }

    /// All elements of a set that had none. O(1) where they bring no kind but their set.
    pub fn fill(&mut self, set: SetId, elements: &BTreeMap<Value, Element>) {
        if set.holds_values() || has_protocols(set) {
            for (key, element) in elements {
                self.add(set, key, element);
            }
        } else if !elements.is_empty() {
            let count = self.counts.entry(Kind::Set(set)).or_default();
            *count += u32::try_from(elements.len()).unwrap_or(u32::MAX);
        }
    }

    /// An element is taken out of a set; true if it was the last of a kind.
    pub fn remove(&mut self, set: SetId, key: &Value, element: &Element) -> bool {
        let mut last = false;
        for kind in kinds(set, key, element) {
            if let Some(count) = self.counts.get_mut(&kind) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&kind);
                    last = true;
                }
            }
        }
        last
    }

    /// The kinds in use.
    #[must_use]
    pub fn parts(&self) -> Parts {
        Parts {
            kinds: self.counts.keys().copied().collect(),
        }
    }

    /// True if the set has elements.
    #[must_use]
    pub fn has(&self, set: SetId) -> bool {
        self.counts.contains_key(&Kind::Set(set))
    }

    /// Elements of the set.
    #[must_use]
    pub fn count(&self, set: SetId) -> usize {
        let count = self.counts.get(&Kind::Set(set));
        count.map_or(0, |count| *count as usize)
    }
}

/// The kinds one element brings.
fn kinds(set: SetId, key: &Value, element: &Element) -> impl Iterator<Item = Kind> {
    let value = if set.holds_values() {
        value_of(element)
    } else {
        None
    };
    let of_value = value.map(|value| {
        [
            Class::of(value).map(Kind::Class),
            Some(Kind::Mode(value & MODE_MASK)),
            Some(Kind::Affinity(value & AFFINITY_MASK)),
        ]
    });
    let protocol = if has_protocols(set) {
        protocol_of(set, key)
    } else {
        None
    };
    [
        Some(Kind::Set(set)),
        protocol.map(|p| Kind::Protocol(set, p)),
    ]
    .into_iter()
    .chain(of_value.into_iter().flatten())
    .flatten()
}

/// True for the sets whose rules are written for each protocol.
const fn has_protocols(set: SetId) -> bool {
    matches!(
        set,
        SetId::AffinityServiceIps | SetId::AffinityServiceNodeports
    )
}

/// The protocol in the key of a frontend.
fn protocol_of(set: SetId, key: &Value) -> Option<Protocol> {
    let port = [DataType::InetProto, DataType::InetService];
    let fields = match set {
        SetId::AffinityServiceNodeports => key.fields(&port)?,
        _ => [DataType::Ipv4Addr, DataType::Ipv6Addr]
            .into_iter()
            .find_map(|addr| key.fields(&[addr, port[0], port[1]]))?,
    };
    fields.iter().find_map(|field| match field {
        FieldValue::Proto(number) => Protocol::from_number(*number),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::value::frontend_value;
    use crate::ruleset::{Datum, ElementData};

    fn frontend(class: Class) -> (Value, Element) {
        let value = frontend_value(Mode::Cluster, Affinity::None, class, 7);
        let key = Value::new()
            .addr([10, 0, 0, 1].into())
            .proto(Protocol::Udp)
            .port(53);
        let data = ElementData::Value(Datum::new().u32(value));
        (key, Element::new(data))
    }

    #[test]
    fn only_the_first_and_the_last_of_a_kind_make_a_difference() {
        let mut uses = Uses::default();
        let (key, two) = frontend(Class::Exact(2));
        assert!(uses.add(SetId::ServiceIps, &key, &two));
        assert!(!uses.add(SetId::ServiceIps, &key, &two));
        let (key, three) = frontend(Class::Exact(3));
        assert!(uses.add(SetId::ServiceIps, &key, &three));
        assert!(uses.parts().has(SetId::ServiceIps));
        assert!(uses.parts().has_mode(Mode::Cluster));
        assert!(!uses.parts().has_mode(Mode::Local));
        let classes: Vec<Class> = uses.parts().classes().collect();
        assert_eq!(classes, [Class::Exact(2), Class::Exact(3)]);
        assert!(!uses.remove(SetId::ServiceIps, &key, &two));
        assert!(uses.remove(SetId::ServiceIps, &key, &two));
        assert!(uses.remove(SetId::ServiceIps, &key, &three));
        assert_eq!(uses, Uses::default());
    }

    #[test]
    fn a_set_filled_at_once_counts_as_element_by_element() {
        for set in [SetId::ServiceIps, SetId::ClusterIps] {
            let elements = BTreeMap::from([frontend(Class::Exact(2))]);
            let (mut one, mut all) = (Uses::default(), Uses::default());
            all.fill(set, &elements);
            for (key, element) in &elements {
                one.add(set, key, element);
            }
            assert_eq!(one, all);
        }
    }

    #[test]
    fn protocols_are_told_from_the_keys_of_either_family() {
        let mut uses = Uses::default();
        let none = Element::new(ElementData::None);
        let key = |addr: std::net::IpAddr| Value::new().addr(addr).proto(Protocol::Sctp).port(9);
        uses.add(SetId::AffinityServiceIps, &key([1, 2, 3, 4].into()), &none);
        let six = key(std::net::Ipv6Addr::LOCALHOST.into());
        uses.add(SetId::AffinityServiceIps, &six, &none);
        let port = Value::new().proto(Protocol::Tcp).port(30_000);
        uses.add(SetId::AffinityServiceNodeports, &port, &none);
        let parts = uses.parts();
        let of = |set| parts.protocols(set).collect::<Vec<_>>();
        assert_eq!(of(SetId::AffinityServiceIps), [Protocol::Sctp]);
        assert_eq!(of(SetId::AffinityServiceNodeports), [Protocol::Tcp]);
    }
}
