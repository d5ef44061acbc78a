//! Endpoints: a list's slots, and the rules that draw one.

use std::sync::Arc;

use super::maglev;
use super::sets::SetId;
use super::skeleton::Outline;
use super::value::{Class, DRAWS, LARGE_BIT, SOURCE_SEED, SOURCE_SLOTS};
use super::words::{class_is, dnat, goto, list, priority_is, rule, slot};
use super::{Sink, address_and_port};
use crate::cluster::Balancing;
use crate::plan::{Endpoint, EndpointList};
use crate::ruleset::{Chain, Element, Protocol, Rule, Selector, Value};

/// The map that holds a class's slots.
const fn map_of(class: Class) -> SetId {
    match class {
        Class::Large(_) => SetId::EndpointsLarge,
        _ => SetId::Endpoints,
    }
}

/// The rules that draw a slot by the value's class, all in one chain: a class that is not
/// the value's costs a comparison. Rules that use one map stay in one chain, where the kernel
/// need not check the map's elements again when a class comes into use.
pub fn draws(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut large = false;
    for class in outline.parts.classes() {
        let key = match class {
            // What matches no other rule draws from one slot.
            Class::Exact(1) | Class::Reject | Class::Drop => continue,
            Class::Exact(slots) => slot(slots),
            Class::BySource => {
                let hash = Selector::SourceHash {
                    modulus: SOURCE_SLOTS,
                    seed: SOURCE_SEED,
                };
                vec![list(), Selector::L4Proto, hash]
            }
            Class::Large(_) => {
                if !large {
                    let any_large = priority_is(LARGE_BIT, LARGE_BIT);
                    rules.push(rule([any_large, goto("balance-large")]));
                }
                large = true;
                continue;
            }
        };
        rules.push(rule([class_is(class), dnat(key, map_of(class))]));
    }
    rules
}

/// The draw of class 1, which is also where goes what missed its slot.
pub fn last_draw(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    if outline.has(SetId::Endpoints) {
        rules.push(rule([dnat(slot(1), SetId::Endpoints)]));
    }
    if outline
        .parts
        .has_any(&[SetId::Endpoints, SetId::EndpointsLarge])
    {
        rules.push(rule([goto("retry-lookup")]));
    }
    rules
}

/// Large classes: several draws from all slots, then one from those that are certainly
/// filled.
pub fn chains(outline: &Outline<'_>) -> Vec<Chain> {
    let mut rules = Vec::new();
    for class in outline.parts.classes() {
        let Class::Large(size) = class else { continue };
        let filled = Class::filled(size);
        for modulus in [size; DRAWS].into_iter().chain([filled]) {
            let draw = dnat(slot(modulus), SetId::EndpointsLarge);
            rules.push(rule([class_is(class), draw]));
        }
    }
    if rules.is_empty() {
        return Vec::new();
    }
    rules.push(rule([goto("retry-lookup")]));
    vec![Chain::regular(
        "balance-large",
        "large lists: draws until a slot is filled",
        rules,
    )]
}

/// The class a list needs.
#[must_use]
pub fn class_of(list: &EndpointList) -> Class {
    if list.balancing == Balancing::SourceIp && list.endpoints.len() > 1 {
        return Class::BySource;
    }
    Class::for_slots(list.endpoints.values().map(|w| *w as usize).sum())
}

/// The slot table of a source-hashed list.
#[must_use]
pub fn source_slots(list: &EndpointList) -> Vec<Endpoint> {
    maglev::table(&list.endpoints, SOURCE_SLOTS)
}

/// One slot element per slot of the list.
pub fn slots(
    sink: &mut impl Sink,
    class: Class,
    list: u32,
    protocol: Protocol,
    slots: &[Endpoint],
    comment: &Arc<str>,
) {
    for (slot, endpoint) in (0_u32..).zip(slots) {
        let key = Value::new().u32(list).proto(protocol).u32(slot);
        let element = Element::new(address_and_port(endpoint)).with_comment(Arc::clone(comment));
        sink.put(map_of(class), key, element);
    }
}
