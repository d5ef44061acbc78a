//! Which keys a large map holds, as the maps that lead to it say.
//!
//! A dump of a map takes the square of its elements, since each page of it walks the map from
//! the start; asking for an element by its key does not depend on how many there are. What
//! leads to an endpoint says which keys it has: a frontend's value names its list and how many
//! slots that draws from. So the maps that hold an element or more per endpoint need never be
//! dumped, whoever wrote them.

use std::collections::BTreeSet;

use super::numbers::{Sets, handle_key, number, slots_of};
use super::sets::SetId;
use super::value::{Class, LIST_MASK, SOURCE_SLOTS, value_of};
use crate::plan::Endpoint;
use crate::ruleset::{FieldValue, Following, Protocol, Set, Value};

/// Asking for so many elements takes about as long as dumping them (`docs/performance.md`).
const BEYOND: usize = 50_000;

/// The sets whose keys follow from others, in an order in which those others come first.
pub const FOLLOWING: Following = Following {
    beyond: BEYOND,
    sets: &[
        (SetId::Endpoints.fixed_name(), |sets| slots(sets, false)),
        (SetId::EndpointsLarge.fixed_name(), |sets| slots(sets, true)),
        (SetId::AffinityHandles.fixed_name(), handles),
        (SetId::AffinityEndpoints.fixed_name(), |sets| {
            by_handle(sets, SetId::AffinityLists)
        }),
        (SetId::AffinityLocalEndpoints.fixed_name(), |sets| {
            by_handle(sets, SetId::AffinityLocalLists)
        }),
    ],
};

/// The lists that frontends lead to: number, protocol and class. O(frontends · log).
fn lists(sets: &Sets) -> BTreeSet<(u32, Protocol, Class)> {
    let maps = [
        SetId::ServiceIps,
        SetId::ServiceNodeports,
        SetId::InternalServiceIps,
        SetId::InternalServiceNodeports,
    ];
    let mut out = BTreeSet::new();
    for set in maps.iter().filter_map(|map| sets.get(map.fixed_name())) {
        for (key, element) in &set.elements {
            if let (Some(value), Some(protocol)) = (value_of(element), protocol(set, key))
                && let Some(class) = Class::of(value).filter(|class| class.has_list())
            {
                out.insert((value & LIST_MASK, protocol, class));
            }
        }
    }
    out
}

fn protocol(set: &Set, key: &Value) -> Option<Protocol> {
    let fields = key.fields(&set.key)?;
    fields.iter().find_map(|field| match field {
        FieldValue::Proto(number) => Protocol::from_number(*number),
        _ => None,
    })
}

/// Keys of the slots of all lists of large classes, or of all others. Of a large class up to a
/// third are not there.
fn slots(sets: &Sets, large: bool) -> Vec<Value> {
    let lists = lists(sets).into_iter();
    lists
        .flat_map(|(list, protocol, class)| {
            let count = match class {
                Class::Large(size) if large => size,
                Class::Exact(count) if !large => count,
                Class::BySource if !large => SOURCE_SLOTS,
                _ => 0,
            };
            (0..count).map(move |slot| Value::new().u32(list).proto(protocol).u32(slot))
        })
        .collect()
}

/// Lists with affinity: their group, number and protocol, and their endpoints.
fn with_affinity(sets: &Sets) -> impl Iterator<Item = (u32, u32, Protocol, BTreeSet<Endpoint>)> {
    let groups = sets.get(SetId::AffinityGroups.fixed_name());
    lists(sets)
        .into_iter()
        .filter_map(move |(list, protocol, _)| {
            let group = number(groups, &Value::new().u32(list))?;
            let endpoints = slots_of(sets, list, protocol).into_iter().flatten();
            Some((group, list, protocol, endpoints.collect()))
        })
}

/// Keys of the handles: group and endpoint.
fn handles(sets: &Sets) -> Vec<Value> {
    let keys: BTreeSet<Value> = with_affinity(sets)
        .flat_map(|(group, _, _, endpoints)| {
            let keys = endpoints.into_iter();
            keys.map(move |endpoint| handle_key(group, &endpoint))
        })
        .collect();
    keys.into_iter().collect()
}

/// Keys of the endpoints of the lists that `lists` leads back to: handle and protocol.
fn by_handle(sets: &Sets, lists: SetId) -> Vec<Value> {
    let back = sets.get(lists.fixed_name());
    let handles = sets.get(SetId::AffinityHandles.fixed_name());
    let mut keys = BTreeSet::new();
    for (group, list, protocol, endpoints) in with_affinity(sets) {
        if number(back, &Value::new().u32(group)).map(|value| value & LIST_MASK) != Some(list) {
            continue;
        }
        for endpoint in endpoints {
            let handle = number(handles, &handle_key(group, &endpoint));
            keys.extend(handle.map(|handle| Value::new().u32(handle).proto(protocol)));
        }
    }
    keys.into_iter().collect()
}
