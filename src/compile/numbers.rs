//! Numbers for lists, groups and handles, and slots for endpoints: stable ones.
//!
//! A number is a hash of what it names, so the same cluster gives the same ruleset
//! everywhere. Only when two names hash alike does history decide: who has the number in
//! the kernel keeps it, a newcomer takes the next of its own sequence. Slots go the same
//! way: an endpoint that stays keeps its slot, a hole is filled by whoever stood behind the
//! new end. So one removed endpoint moves at most one other.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};

use foldhash::{HashMap, HashMapExt, HashSet};

use super::sets::SetId;
use super::value::{Class, GROUP_MARKER, LIST_BITS, LIST_MASK, MAX_SLOTS, value_of};
use crate::plan::{Endpoint, FamilyPlan, FrontendKey, ListKey, Target, WeightedEndpoints};
use crate::ruleset::{Element, ElementData, FieldValue, Protocol, Set, SetData, Value};

/// Numbers tried before a name is given up on. With half a million lists in a million numbers
/// the chance of needing this many is 2^-256.
const PROBES: u64 = 256;

/// What the kernel already holds for one family: sets by name.
pub type Sets = BTreeMap<String, Set>;

/// A 64-bit FNV-1a with a final mix: the same on every node and in every version, which
/// the standard library's hasher does not promise.
pub fn hash(value: &impl Hash) -> u64 {
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            let mut h = self.0;
            h = (h ^ (h >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
            h = (h ^ (h >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
            h ^ (h >> 33)
        }
        fn write(&mut self, bytes: &[u8]) {
            for byte in bytes {
                self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
    }
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    value.hash(&mut hasher);
    hasher.finish()
}

/// A pool of numbers in use.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    taken: HashSet<u32>,
}

impl Pool {
    fn sequence(seed: u64, bits: u32) -> impl Iterator<Item = u32> {
        // An odd step visits every number of a power-of-two range.
        let step = (seed >> 40) | 1;
        let mask = (1_u64 << bits) - 1;
        (0..PROBES).map(move |i| {
            #[expect(clippy::cast_possible_truncation, reason = "masked to at most 20 bits")]
            let number = (seed.wrapping_add(i.wrapping_mul(step)) & mask) as u32;
            number
        })
    }

    /// Takes `wanted` if it is one of the numbers this seed may have and is free, else the
    /// first free one. `None` only if all of them are taken.
    fn take(
        &mut self,
        seed: u64,
        bits: u32,
        shape: impl Fn(u32) -> u32,
        wanted: Option<u32>,
    ) -> Option<u32> {
        let mut numbers = Self::sequence(seed, bits).map(&shape);
        if let Some(wanted) = wanted
            && !self.taken.contains(&wanted)
            && numbers.any(|n| n == wanted)
        {
            self.taken.insert(wanted);
            return Some(wanted);
        }
        let free = Self::sequence(seed, bits)
            .map(shape)
            .find(|n| !self.taken.contains(n))?;
        self.taken.insert(free);
        Some(free)
    }
}

/// The numbers in use in one family.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    /// Of lists.
    pub(super) lists: Pool,
    /// Of affinity groups.
    pub(super) groups: Pool,
    /// Of endpoints in them.
    pub(super) handles: Pool,
}

impl Numbers {
    /// Gives up `others`. O(others).
    pub fn release(&mut self, others: &Self) {
        for (pool, gone) in [
            (&mut self.lists, &others.lists),
            (&mut self.groups, &others.groups),
            (&mut self.handles, &others.handles),
        ] {
            for number in &gone.taken {
                pool.taken.remove(number);
            }
        }
    }
}

/// A number for a list, within [`LIST_MASK`].
pub fn list_number(pool: &mut Pool, key: &ListKey, wanted: Option<u32>) -> Option<u32> {
    pool.take(hash(key), LIST_BITS, |n| n, wanted)
}

/// A number for an affinity group, in the upper 16 bits.
pub fn group_number(pool: &mut Pool, name: &impl Hash, wanted: Option<u32>) -> Option<u32> {
    let shape = |n: u32| (n << 16) | GROUP_MARKER;
    pool.take(hash(name), 16, shape, wanted)
}

/// A handle for an endpoint of `group`.
pub fn handle(
    pool: &mut Pool,
    group: u32,
    endpoint: &Endpoint,
    wanted: Option<u32>,
) -> Option<u32> {
    pool.take(hash(endpoint), 16, |n| group | n, wanted)
}

/// The slots of a list: `previous` with as few changes as possible, now holding `desired`
/// (each endpoint as often as its weight). O(previous + desired).
pub fn slots(previous: &[Option<Endpoint>], desired: &WeightedEndpoints) -> Vec<Endpoint> {
    let all = || {
        let endpoints = desired.iter();
        endpoints.flat_map(|(endpoint, count)| (0..*count).map(|_| *endpoint))
    };
    if previous.is_empty() {
        return all().collect();
    }
    let total = all().count();
    let mut left: Vec<u32> = desired.values().copied().collect();
    let mut slots: Vec<Option<Endpoint>> = (0..total)
        .map(|i| {
            let endpoint = previous.get(i).copied().flatten()?;
            let count = left.get_mut(desired.position(&endpoint)?);
            let count = count.filter(|count| **count > 0)?;
            *count -= 1;
            Some(endpoint)
        })
        .collect();
    let mut rest = desired
        .keys()
        .zip(left)
        .flat_map(|(endpoint, count)| (0..count).map(|_| *endpoint));
    for slot in &mut slots {
        if slot.is_none() {
            *slot = rest.next();
        }
    }
    slots.into_iter().flatten().collect()
}

/// The number that is the data of an element.
pub(super) fn number(set: Option<&Set>, key: &Value) -> Option<u32> {
    value_of(set?.elements.get(key)?)
}

/// What the kernel holds, in the plan's terms.
pub struct InstalledNumbers<'a> {
    sets: &'a Sets,
    lists: HashMap<ListKey, u32>,
}

impl<'a> InstalledNumbers<'a> {
    /// Finds the numbers of the plan's lists through their frontends. O(frontends).
    pub fn new(sets: &'a Sets, plan: &FamilyPlan) -> Self {
        let mut lists = HashMap::new();
        let installed = |id: SetId| sets.get(id.fixed_name());
        let holds = |id| installed(id).is_some_and(|set: &Set| !set.elements.is_empty());
        if holds(SetId::Endpoints) || holds(SetId::EndpointsLarge) {
            for (key, frontend) in &plan.frontends {
                let (list, inside) = match &frontend.target {
                    Target::List(list) => (Some(list), None),
                    Target::Split { outside, inside } => (outside.as_ref(), inside.as_ref()),
                    Target::Reject | Target::Drop => (None, None),
                };
                for (list, maps) in [
                    (list, [SetId::ServiceIps, SetId::ServiceNodeports]),
                    (
                        inside,
                        [SetId::InternalServiceIps, SetId::InternalServiceNodeports],
                    ),
                ] {
                    let Some(list) = list else { continue };
                    let map = match key {
                        FrontendKey::Address(..) => maps[0],
                        FrontendKey::NodePort(..) => maps[1],
                    };
                    if let Some(value) = number(installed(map), &frontend_value_key(key))
                        && Class::of(value).is_some_and(Class::has_list)
                    {
                        lists.entry(list.clone()).or_insert(value & LIST_MASK);
                    }
                }
            }
        }
        Self { sets, lists }
    }

    /// The number a list has in the kernel.
    pub fn list(&self, key: &ListKey) -> Option<u32> {
        self.lists.get(key).copied()
    }

    /// The slots behind a list number in the kernel. O(slots log n).
    pub fn slots(&self, list: u32, protocol: Protocol) -> Vec<Option<Endpoint>> {
        slots_of(self.sets, list, protocol)
    }

    /// The group a list has in the kernel.
    pub fn group(&self, list: u32) -> Option<u32> {
        let groups = self.sets.get(SetId::AffinityGroups.fixed_name());
        number(groups, &Value::new().u32(list))
    }

    /// The handle an endpoint has in the kernel.
    pub fn handle(&self, group: u32, endpoint: &Endpoint) -> Option<u32> {
        let handles = self.sets.get(SetId::AffinityHandles.fixed_name());
        number(handles, &handle_key(group, endpoint))
    }
}

/// The slots behind a list number, up to the last that is filled. O(slots log n).
#[must_use]
pub fn slots_of(sets: &Sets, list: u32, protocol: Protocol) -> Vec<Option<Endpoint>> {
    let mut out = Vec::new();
    let key = |slot| Value::new().u32(list).proto(protocol).u32(slot);
    let maps = [SetId::Endpoints, SetId::EndpointsLarge];
    let found = maps.iter().filter_map(|map| sets.get(map.fixed_name()));
    let slots = found.flat_map(|set| {
        let range = set.elements.range(key(0)..=key(u32::MAX));
        range.map(move |(key, element)| (set, key, element))
    });
    for (set, key, element) in slots {
        let slot = match key.fields(&set.key).as_deref() {
            Some([_, _, FieldValue::Slot(slot)]) => *slot as usize,
            _ => continue,
        };
        if slot >= MAX_SLOTS {
            continue;
        }
        if out.len() <= slot {
            out.resize(slot + 1, None);
        }
        out[slot] = endpoint_of(set, element);
    }
    out
}

/// The endpoint that an element of such a map leads to.
pub fn endpoint_of(set: &Set, element: &Element) -> Option<Endpoint> {
    let (SetData::Fields(schema), ElementData::Value(data)) = (&set.data, &element.data) else {
        return None;
    };
    match data.fields(schema)?[..] {
        [FieldValue::Addr(addr), FieldValue::Port(port)] => Some(Endpoint {
            addr,
            port: port.try_into().ok()?,
        }),
        _ => None,
    }
}

/// Key of a frontend in its map.
pub fn frontend_value_key(key: &FrontendKey) -> Value {
    match *key {
        FrontendKey::Address(addr, protocol, port) => {
            Value::new().addr(addr).proto(protocol).port(port.get())
        }
        FrontendKey::NodePort(protocol, port) => Value::new().proto(protocol).port(port.get()),
    }
}

/// The frontend, or the host port, that a key of such a map stands for.
pub fn frontend_key_of(set: &Set, key: &Value) -> Option<FrontendKey> {
    let protocol = |number| Protocol::from_number(number);
    match key.fields(&set.key)?[..] {
        [
            FieldValue::Addr(addr),
            FieldValue::Proto(p),
            FieldValue::Port(port),
        ] => Some(FrontendKey::Address(
            addr,
            protocol(p)?,
            port.try_into().ok()?,
        )),
        [FieldValue::Proto(p), FieldValue::Port(port)] => {
            Some(FrontendKey::NodePort(protocol(p)?, port.try_into().ok()?))
        }
        _ => None,
    }
}

/// Key of an endpoint in the handles map.
pub fn handle_key(group: u32, endpoint: &Endpoint) -> Value {
    Value::new()
        .u32(group)
        .addr(endpoint.addr)
        .port(endpoint.port.get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    fn endpoint(n: u8) -> Endpoint {
        Endpoint {
            addr: IpAddr::from([10, 0, 0, n]),
            port: NonZeroU16::MIN,
        }
    }

    fn desired(numbers: &[u8]) -> WeightedEndpoints {
        numbers.iter().map(|n| (endpoint(*n), 1)).collect()
    }

    #[test]
    fn a_removed_endpoint_moves_only_the_last_slot_into_the_hole() {
        let before = slots(&[], &desired(&[1, 2, 3, 4, 5]));
        let previous: Vec<_> = before.iter().copied().map(Some).collect();
        let after = slots(&previous, &desired(&[1, 3, 4, 5]));
        assert_eq!(after, [1, 5, 3, 4].map(endpoint));
    }

    #[test]
    fn an_added_endpoint_moves_nothing() {
        let before = slots(&[], &desired(&[1, 3, 5]));
        let previous: Vec<_> = before.iter().copied().map(Some).collect();
        let after = slots(&previous, &desired(&[1, 2, 3, 5]));
        assert_eq!(after[..3], before);
        assert_eq!(after[3], endpoint(2));
    }

    #[test]
    fn weights_are_repeated_slots() {
        let weights = [(endpoint(1), 3), (endpoint(2), 1)].into_iter().collect();
        let slots = slots(&[], &weights);
        assert_eq!(slots.iter().filter(|e| **e == endpoint(1)).count(), 3);
        assert_eq!(slots.len(), 4);
    }

    #[test]
    fn who_has_a_number_keeps_it_and_the_newcomer_gets_another() {
        let mut pool = Pool::default();
        let first = pool.take(7, LIST_BITS, |n| n, None).unwrap();
        let mut again = Pool::default();
        assert_eq!(again.take(7, LIST_BITS, |n| n, Some(first)), Some(first));
        assert_ne!(again.take(7, LIST_BITS, |n| n, Some(first)), Some(first));
    }

    #[test]
    fn a_number_that_the_name_could_not_have_is_not_taken_over() {
        let mut pool = Pool::default();
        let natural = Pool::default().take(7, LIST_BITS, |n| n, None);
        let other = natural.map(|n| n ^ 1);
        assert_eq!(pool.take(7, LIST_BITS, |n| n, other), natural);
    }
}
