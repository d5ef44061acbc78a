//! Endpoints: a list's slots, and the rules that draw one.

use std::sync::Arc;

use super::maglev;
use super::sets::SetId;
use super::skeleton::Outline;
use super::value::{Class, DRAWS, SOURCE_SEED, SOURCE_SLOTS};
use super::words::{class_is, dnat, jump, list, rule, slot};
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

/// The chain that draws for lists of a class.
fn chain_of(class: Class) -> String {
    match class {
        Class::Exact(slots) | Class::Large(slots) => format!("balance-{slots}"),
        _ => "balance-source".to_owned(),
    }
}

/// The chain that every list finds its first slot in.
pub const FIRST_SLOT: &str = "balance-1";
/// The same for lists of a large class.
pub const FIRST_LARGE_SLOT: &str = "balance-large-1";

/// Classes that draw, but for class 1, which is what matches no other.
fn drawing(outline: &Outline<'_>) -> impl Iterator<Item = Class> {
    let classes = outline.parts.classes();
    classes.filter(|class| !matches!(class, Class::Exact(1) | Class::Reject | Class::Drop))
}

/// A jump by the value's class: a class that is not the value's costs a comparison. What misses
/// its slot comes back, and goes on to slot 0.
///
/// The draws themselves are in a chain for each class: whenever a rule is added that uses a map,
/// the kernel walks the whole map, so a chain that changes must not hold rules of others.
pub fn draws(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules: Vec<Rule> = drawing(outline)
        .map(|class| rule([class_is(class), jump(&chain_of(class))]))
        .collect();
    rules.extend(super::frontends::unserved(outline));
    rules.extend(first_slot(outline));
    rules
}

/// To the slot that every list has.
pub fn first_slot(outline: &Outline<'_>) -> Vec<Rule> {
    let chains = [
        (SetId::Endpoints, FIRST_SLOT),
        (SetId::EndpointsLarge, FIRST_LARGE_SLOT),
    ];
    chains
        .into_iter()
        .filter(|(map, _)| outline.has(*map))
        .map(|(_, chain)| rule([jump(chain)]))
        .collect()
}

/// A chain for each class: one draw, or for a large class several from all slots and then one
/// from those that are certainly filled.
pub fn chains(outline: &Outline<'_>) -> Vec<Chain> {
    let draw = |modulus, map| rule([dnat(slot(modulus), map)]);
    let mut chains = Vec::new();
    if outline.has(SetId::Endpoints) {
        chains.push(Chain::regular(
            FIRST_SLOT,
            "the slot that every list has",
            vec![draw(1, SetId::Endpoints)],
        ));
    }
    if outline.has(SetId::EndpointsLarge) {
        chains.push(Chain::regular(
            FIRST_LARGE_SLOT,
            "the slot that every large list has",
            vec![draw(1, SetId::EndpointsLarge)],
        ));
    }
    chains.extend(drawing(outline).map(|class| {
        let map = map_of(class);
        let (comment, rules) = match class {
            Class::Large(size) => (
                "of so many slots, not all of them filled",
                [size; DRAWS]
                    .into_iter()
                    .chain([Class::filled(size)])
                    .map(|modulus| draw(modulus, map))
                    .collect(),
            ),
            Class::Exact(slots) => ("of so many slots", vec![draw(slots, map)]),
            _ => {
                let hash = Selector::SourceHash {
                    modulus: SOURCE_SLOTS,
                    seed: SOURCE_SEED,
                };
                let key = vec![list(), Selector::L4Proto, hash];
                ("by the client's address", vec![rule([dnat(key, map)])])
            }
        };
        Chain::regular(chain_of(class), comment, rules)
    }));
    chains
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
