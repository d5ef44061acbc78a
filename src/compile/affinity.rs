//! Session affinity: who was sent where is remembered, per client and service port, in one
//! map that packets fill.
//!
//! A service port with affinity has a group; an endpoint of it has a handle, a number that no
//! other endpoint of the group has. Clients are remembered by group, with the handle; a handle
//! that the list has no more leads nowhere, and the client is balanced anew.

use std::sync::Arc;

use super::numbers::handle_key;
use super::sets::SetId;
use super::skeleton::Outline;
use super::value::{AFFINITY_MASK, Affinity, GROUP_MASK, Mode, SOURCE_SEED, frontend_value};
use super::words::{dnat, goto, group, in_set, jump, list, load, priority_is, rule};
use super::{ListRef, Sink, address_and_port, number};
use crate::plan::{Endpoint, EndpointList, ListKey, View};
use crate::ruleset::{
    Action, Chain, Element, ElementData, Family, Match, Rule, Selector, Statement, Value,
};

use Selector::{
    CtOriginalDaddr, CtOriginalDport, CtOriginalSaddr, CtReplySaddr, CtReplySport, L4Proto,
    Priority, Saddr,
};

/// Values of the hash of an IPv6 client. nft's JSON shows more as a negative number.
const CLIENT_HASHES: u32 = 0x7fff_ffff;

/// The frontends whose clients are remembered.
const FRONTENDS: [SetId; 2] = [SetId::AffinityServiceIps, SetId::AffinityServiceNodeports];

/// The set that says which group a frontend's clients are remembered in.
pub const fn of_frontend(on_node: bool) -> SetId {
    if on_node {
        SetId::AffinityServiceNodeports
    } else {
        SetId::AffinityServiceIps
    }
}

/// How a client is remembered: by its address in IPv4, by a 32-bit hash of it in IPv6. An
/// update statement keeps its data right behind the first 16 bytes of the key, so with an
/// IPv6 address in a longer key nft 1.0.6 would have the one overwrite the other. Two
/// clients that hash alike, one pair in two billion, stay with the same endpoint.
fn client(family: Family, address: Selector) -> Selector {
    match family {
        Family::Ip => address,
        Family::Ip6 => Selector::SourceHash {
            modulus: CLIENT_HASHES,
            seed: SOURCE_SEED,
        },
    }
}

/// The affinity of each view: its flag, its chain, its maps.
const VIEWS: [(Affinity, &str, SetId, SetId); 2] = [
    (
        Affinity::Cluster,
        "affinity-lookup",
        SetId::AffinityLists,
        SetId::AffinityEndpoints,
    ),
    (
        Affinity::Local,
        "affinity-local-lookup",
        SetId::AffinityLocalLists,
        SetId::AffinityLocalEndpoints,
    ),
];

/// Options of a frontend: its list's affinity.
pub fn lookup_rules(outline: &Outline<'_>) -> Vec<Rule> {
    VIEWS
        .into_iter()
        .filter(|(affinity, ..)| outline.parts.has_affinity(*affinity))
        .map(|(affinity, chain, ..)| {
            rule([priority_is(AFFINITY_MASK, affinity as u32), jump(chain)])
        })
        .collect()
}

/// A remembered client goes to its endpoint if that is still in the list; anybody else gets
/// the list's own value back and is balanced.
pub fn lookup_chains(outline: &Outline<'_>) -> Vec<Chain> {
    VIEWS
        .into_iter()
        .filter(|(affinity, ..)| outline.parts.has_affinity(*affinity))
        .flat_map(|(_, name, lists, endpoints)| {
            let known = name.replace("lookup", "use");
            [
                Chain::regular(
                    known.clone(),
                    "a client that is known: to its endpoint, if that is still there",
                    vec![
                        rule([dnat([Priority, L4Proto], endpoints)]),
                        rule([load([group()], lists)]),
                    ],
                ),
                Chain::regular(
                    name,
                    "session affinity: is the client known?",
                    vec![
                        rule([load([list()], SetId::AffinityGroups)]),
                        rule([
                            load(
                                [group(), client(outline.family, Saddr)],
                                SetId::AffinityClients,
                            ),
                            goto(&known),
                        ]),
                        rule([load([group()], lists)]),
                    ],
                ),
            ]
        })
        .collect()
}

/// Affinity is recorded where the translation is known: from the connection's own tuples,
/// after DNAT, once per connection. Only protocols with affinity are looked at.
pub fn update_rules(outline: &Outline<'_>) -> Vec<Rule> {
    let protocols: std::collections::BTreeSet<_> = FRONTENDS
        .into_iter()
        .flat_map(|set| outline.parts.protocols(set))
        .collect();
    protocols
        .into_iter()
        .map(|protocol| {
            rule([
                Match::L4Proto(protocol).into(),
                Match::CtStatusDnat.into(),
                jump("affinity-update"),
            ])
        })
        .collect()
}

/// Finds the group by the frontend, the handle by the endpoint, and writes the client down.
pub fn update_chains(outline: &Outline<'_>) -> Vec<Chain> {
    // nft types `ct original proto-dst` by the protocol matched before it, so there is a rule
    // for each.
    let proto = |p| Statement::from(Match::L4Proto(p));
    let mut protocols = std::collections::BTreeSet::new();
    let mut update = Vec::new();
    for set in FRONTENDS {
        for protocol in outline.parts.protocols(set) {
            protocols.insert(protocol);
            let key = match set {
                SetId::AffinityServiceNodeports => vec![L4Proto, CtOriginalDport],
                _ => vec![CtOriginalDaddr, L4Proto, CtOriginalDport],
            };
            update.push(rule([
                proto(protocol),
                load(key, set),
                goto("affinity-update-endpoint"),
            ]));
        }
    }
    if update.is_empty() {
        return Vec::new();
    }
    let endpoint = protocols
        .into_iter()
        .map(|p| {
            rule([
                proto(p),
                load(
                    [Priority, CtReplySaddr, CtReplySport],
                    SetId::AffinityHandles,
                ),
                goto("affinity-update-client"),
            ])
        })
        .collect();
    let client = outline
        .parts
        .timeouts()
        .map(|timeout| {
            rule([
                in_set([group()], SetId::AffinityTimeout(timeout)),
                Action::Remember {
                    map: SetId::AffinityClients.fixed_name(),
                    key: vec![group(), client(outline.family, CtOriginalSaddr)],
                    timeout,
                }
                .into(),
            ])
        })
        .collect();
    vec![
        Chain::regular(
            "affinity-update-client",
            "remembers which endpoint answered, for the list's timeout",
            client,
        ),
        Chain::regular(
            "affinity-update-endpoint",
            "which endpoint answered",
            endpoint,
        ),
        Chain::regular(
            "affinity-update",
            "session affinity: which service was asked",
            update,
        ),
    ]
}

/// Affinity of a list: its group, the way back to its own value, and one handle per
/// endpoint. `handles` gives the handle of an endpoint in the group.
pub fn elements(
    sink: &mut impl Sink,
    key: &ListKey,
    list: &EndpointList,
    numbered: &ListRef,
    mut handles: impl FnMut(u32, &Endpoint) -> Option<u32>,
) {
    let (Some(group), Some(timeout)) = (numbered.group, list.affinity_timeout) else {
        return;
    };
    debug_assert_eq!(group & !GROUP_MASK, 0);
    let comment = |element: Element| element.with_comment(Arc::clone(&list.comment));
    let of = |id| Value::new().u32(id);
    let (lists, endpoints) = match numbered.view {
        View::Cluster => (SetId::AffinityLists, SetId::AffinityEndpoints),
        View::Local => (SetId::AffinityLocalLists, SetId::AffinityLocalEndpoints),
    };
    sink.put(
        SetId::AffinityGroups,
        of(numbered.number),
        comment(Element::new(number(group))),
    );
    sink.put(
        SetId::AffinityTimeout(timeout),
        of(group),
        comment(Element::new(ElementData::None)),
    );
    let back = frontend_value(Mode::Keep, Affinity::None, numbered.class, numbered.number);
    sink.put(lists, of(group), comment(Element::new(number(back))));
    for endpoint in list.endpoints.keys() {
        let Some(handle) = handles(group, endpoint) else {
            continue;
        };
        sink.put(
            SetId::AffinityHandles,
            handle_key(group, endpoint),
            comment(Element::new(number(handle))),
        );
        sink.put(
            endpoints,
            Value::new().u32(handle).proto(key.port.protocol),
            comment(Element::new(address_and_port(endpoint))),
        );
    }
}
