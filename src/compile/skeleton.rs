//! The rules: constant for a configuration, whatever the number of services or endpoints.
//!
//! docs/packet-flow.md draws the way of a packet through these chains.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::layout::{
    CLASS_MASK, Class, DRAWS, EXACT, MARKER, MODE_MASK, Mode, PROTOCOLS, SOURCE_SEED, SOURCE_SLOTS,
    SPECIAL_MASK, STICKY_MASK, Sticky, names,
};
use super::sets;
use super::words::{
    dnat, frontend_key, goto, group, in_set, jump, list, load, not_in_set, port_key, priority_is,
    rule, slot,
};
use crate::config::{DetectLocal, Unallocated};
use crate::plan::Shape;
use crate::ruleset::{
    Action, Chain, ChainType, DataType, Family, Hook, Match, Rule, Selector, Statement, Table,
};

use Selector::{
    CtOriginalDaddr, CtOriginalDport, CtOriginalSaddr, CtReplySaddr, CtReplySport, Daddr, L4Proto,
    Priority, Saddr,
};

/// Values of the hash of an IPv6 client. nft's JSON shows more as a negative number.
const CLIENT_HASHES: u32 = 0x7fff_ffff;

/// nft's `dstnat` for the nat hooks before routing.
const DSTNAT: i32 = -100;
/// nft's `srcnat`.
const SRCNAT: i32 = 100;

/// What of the plan decides about rules rather than elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline<'a> {
    /// Family of the table.
    pub family: Family,
    /// Settings.
    pub shape: &'a Shape,
    /// Prefixes of pods, where pods are told by address.
    pub pod_sources: &'a [IpNet],
    /// Prefixes of this node's pods that are masqueraded on their way out.
    pub egress_sources: &'a [IpNet],
    /// Distinct affinity timeouts: one set and one rule each, as a rule's timeout is fixed.
    pub timeouts: BTreeSet<u32>,
}

/// The table without services: all chains, and all sets empty but the class dispatch.
#[must_use]
pub fn table(outline: &Outline<'_>) -> Table {
    let mut table = Table::new(outline.family);
    for set in sets::sets(outline) {
        table.sets.insert(set.name.clone(), set);
    }
    let mut chains = pick_chains();
    chains.extend(sticky_chains(outline.family));
    chains.extend(service_chains(outline));
    chains.extend(remember_chains(outline));
    chains.extend(refusal_chains());
    chains.extend(base_chains(outline));
    table.chains = chains;
    table
}

/// One chain per class draws a slot of the list. What misses goes on to slot 0, and from
/// there to a fresh lookup: a packet that met the old value of its frontend and the new
/// slots is translated all the same.
fn pick_chains() -> Vec<Chain> {
    let last = Chain::regular(
        "pick-any",
        vec![
            rule([dnat(slot(1), names::ENDPOINTS)]),
            rule([dnat(slot(1), names::LARGE_ENDPOINTS)]),
        ],
    );
    let again = Chain::regular(
        "look-again",
        vec![
            rule([load(frontend_key(), names::FRONTENDS), goto("pick-any")]),
            rule([
                Match::DaddrLocal.into(),
                load(port_key(), names::NODE_PORTS),
                goto("pick-any"),
            ]),
        ],
    );
    let first = Class::Exact(1);
    let mut chains = vec![last, again];
    chains.push(Chain::regular(
        first.chain(),
        vec![
            rule([dnat(slot(1), first.map())]),
            rule([goto("look-again")]),
        ],
    ));
    // At most half the slots of a large class are empty, and the first ones are not.
    chains.push(Chain::regular(
        "pick-filled",
        vec![
            rule([dnat(slot(EXACT), names::LARGE_ENDPOINTS)]),
            rule([goto(&first.chain())]),
        ],
    ));
    for class in Class::all().filter(|class| *class != first) {
        let (draws, next) = match class {
            Class::Exact(n) => (vec![slot(n)], first.chain()),
            Class::Large(exponent) => (vec![slot(1 << exponent); DRAWS], "pick-filled".to_owned()),
            Class::BySource => {
                let hash = Selector::SourceHash {
                    modulus: SOURCE_SLOTS,
                    seed: SOURCE_SEED,
                };
                (vec![vec![list(), L4Proto, hash]], first.chain())
            }
        };
        let mut rules: Vec<Rule> = draws
            .into_iter()
            .map(|key| rule([dnat(key, class.map())]))
            .collect();
        rules.push(rule([goto(&next)]));
        chains.push(Chain::regular(class.chain(), rules));
    }
    chains
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

pub(super) const fn client_type(family: Family) -> DataType {
    match family {
        Family::Ip => DataType::Ipv4Addr,
        Family::Ip6 => DataType::Slot,
    }
}

/// Session affinity: a remembered client goes to its endpoint if that is still in the
/// list; anybody else gets the list's own value back and is balanced.
fn sticky_chains(family: Family) -> Vec<Chain> {
    let views = [
        ("sticky", names::STICKY_LISTS, names::STICKY_ENDPOINTS),
        (
            "sticky-local",
            names::STICKY_LOCAL_LISTS,
            names::STICKY_LOCAL_ENDPOINTS,
        ),
    ];
    views
        .into_iter()
        .flat_map(|(name, lists, endpoints)| {
            let known = format!("{name}-known");
            [
                Chain::regular(
                    known.clone(),
                    vec![
                        rule([dnat([Priority, L4Proto], endpoints)]),
                        rule([load([group()], lists)]),
                    ],
                ),
                Chain::regular(
                    name,
                    vec![
                        rule([load([list()], names::STICKY_GROUPS)]),
                        rule([
                            load([group(), client(family, Saddr)], names::AFFINITY),
                            goto(&known),
                        ]),
                        rule([load([group()], lists)]),
                    ],
                ),
            ]
        })
        .collect()
}

/// `ip saddr PREFIX`, which a prefix of length 0 need not ask.
fn source_in(prefix: &IpNet) -> Option<Statement> {
    (prefix.prefix_len() > 0).then(|| {
        Match::SaddrIn {
            prefix: *prefix,
            negated: false,
        }
        .into()
    })
}

fn by_interface(outline: &Outline<'_>, negated: bool) -> Option<Statement> {
    let (name, prefix) = match &outline.shape.detect_local {
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => return None,
        DetectLocal::BridgeInterface(name) => (name, false),
        DetectLocal::InterfaceNamePrefix(name) => (name, true),
    };
    Some(
        Match::Iifname {
            name: name.clone(),
            prefix,
            negated,
        }
        .into(),
    )
}

/// Conditions each of which says "from a pod", by the configured detector; none without one.
fn from_pods(outline: &Outline<'_>) -> Vec<Option<Statement>> {
    match by_interface(outline, false) {
        Some(interface) => vec![Some(interface)],
        None => outline.pod_sources.iter().map(source_in).collect(),
    }
}

/// Conditions that together say "not from a pod"; `None` where that cannot be told, or is
/// never so.
fn from_outside(outline: &Outline<'_>) -> Option<Vec<Statement>> {
    if let Some(interface) = by_interface(outline, true) {
        return Some(vec![interface]);
    }
    let prefixes = outline.pod_sources;
    if prefixes.is_empty() || prefixes.iter().any(|p| p.prefix_len() == 0) {
        return None;
    }
    let outside = |prefix: &IpNet| {
        Match::SaddrIn {
            prefix: *prefix,
            negated: true,
        }
        .into()
    };
    Some(prefixes.iter().map(outside).collect())
}

/// Source ranges: others go no further. Asked only where a frontend is one that may have
/// them, or is about to be refused.
fn guard() -> Rule {
    let mut from = frontend_key();
    from.push(Saddr);
    rule([
        in_set(frontend_key(), names::GUARDED),
        not_in_set(from, names::SOURCE_RANGES),
        Action::Drop.into(),
    ])
}

fn service_chains(outline: &Outline<'_>) -> Vec<Chain> {
    let bit = 1_u32 << outline.shape.masquerade_bit;
    let mark = || Statement::from(Action::SetMark { bit });
    let not_loopback = || Statement::from(Match::DaddrLoopback { negated: true });
    let inside_list = Chain::regular(
        "inside-list",
        vec![
            rule([
                load(frontend_key(), names::INSIDE_FRONTENDS),
                Action::Return.into(),
            ]),
            rule([
                Match::DaddrLocal.into(),
                load(port_key(), names::INSIDE_NODE_PORTS),
            ]),
        ],
    );
    let mut inside: Vec<Rule> = from_pods(outline)
        .into_iter()
        .map(|pod| rule(pod.into_iter().chain([goto("inside-list")])))
        .collect();
    inside.push(rule([
        Match::SaddrLocal.into(),
        mark(),
        goto("inside-list"),
    ]));

    let special = vec![
        guard(),
        rule([priority_is(MODE_MASK, Mode::Local as u32), jump("inside")]),
        rule([priority_is(MODE_MASK, Mode::Masquerade as u32), mark()]),
        rule([
            priority_is(STICKY_MASK, Sticky::Cluster as u32),
            jump("sticky"),
        ]),
        rule([
            priority_is(STICKY_MASK, Sticky::Local as u32),
            jump("sticky-local"),
        ]),
    ];
    // What most connections need comes first: a clusterIP without affinity meets two tests
    // before its class.
    let mut door = Vec::new();
    let cluster = priority_is(MODE_MASK, Mode::Cluster as u32);
    if outline.shape.masquerade_all {
        door.push(rule([cluster, mark()]));
    } else if let Some(outside) = from_outside(outline) {
        door.push(rule([cluster].into_iter().chain(outside).chain([mark()])));
    }
    door.push(rule([
        Match::Priority {
            mask: SPECIAL_MASK,
            value: 0,
            negated: true,
        }
        .into(),
        jump("special"),
    ]));
    door.push(rule([Action::DispatchPriority {
        mask: CLASS_MASK,
        map: names::CLASSES,
    }
    .into()]));
    door.push(rule([goto("unserved")]));

    let node = vec![
        rule([
            Match::DaddrLoopback { negated: false }.into(),
            Action::Return.into(),
        ]),
        rule([
            in_set([Daddr], names::NODE_PORT_ADDRESSES),
            load(port_key(), names::NODE_PORTS),
            goto("door"),
        ]),
        rule([dnat(frontend_key(), names::HOST_PORT_ADDRESSES)]),
        rule([not_loopback(), dnat(port_key(), names::HOST_PORTS)]),
        rule([goto("unserved")]),
    ];
    vec![
        inside_list,
        Chain::regular("inside", inside),
        Chain::regular("special", special),
        Chain::regular("door", door),
        Chain::regular("node", node),
    ]
}

/// Affinity is recorded where the translation is known: from the connection's own tuples,
/// after DNAT, once per connection.
fn remember_chains(outline: &Outline<'_>) -> Vec<Chain> {
    let proto = |p| Statement::from(Match::L4Proto(p));
    let client = outline
        .timeouts
        .iter()
        .map(|timeout| {
            rule([
                Match::InSet {
                    key: vec![group()],
                    set: names::sticky_timeout(*timeout).into(),
                    negated: false,
                }
                .into(),
                Action::Remember {
                    map: names::AFFINITY,
                    key: vec![group(), client(outline.family, CtOriginalSaddr)],
                    timeout: *timeout,
                }
                .into(),
            ])
        })
        .collect();
    let endpoint = PROTOCOLS
        .iter()
        .map(|p| {
            rule([
                proto(*p),
                load(
                    [Priority, CtReplySaddr, CtReplySport],
                    names::STICKY_HANDLES,
                ),
                goto("remember-client"),
            ])
        })
        .collect();
    let doors = PROTOCOLS
        .iter()
        .map(|p| {
            rule([
                proto(*p),
                load(
                    [CtOriginalDaddr, L4Proto, CtOriginalDport],
                    names::STICKY_FRONTENDS,
                ),
                goto("remember-endpoint"),
            ])
        })
        .chain(PROTOCOLS.iter().map(|p| {
            rule([
                proto(*p),
                load([L4Proto, CtOriginalDport], names::STICKY_NODE_PORTS),
                goto("remember-endpoint"),
            ])
        }))
        .collect();
    vec![
        Chain::regular("remember-client", client),
        Chain::regular("remember-endpoint", endpoint),
        Chain::regular("remember", doors),
    ]
}

/// What nobody serves. Only a first packet comes here, so nothing is asked of others.
fn refusal_chains() -> Vec<Chain> {
    let refuse = Chain::regular(
        "refuse",
        vec![
            guard(),
            rule([
                Match::L4Proto(crate::ruleset::Protocol::Tcp).into(),
                Action::RejectTcpReset.into(),
            ]),
            rule([Action::Reject.into()]),
        ],
    );
    let on_node = |set, last: Statement| {
        rule([
            in_set(port_key(), set),
            in_set([Daddr], names::NODE_PORT_ADDRESSES),
            Match::DaddrLoopback { negated: true }.into(),
            Match::DaddrLocal.into(),
            last,
        ])
    };
    let mut unserved = unserved_frontends();
    unserved.push(on_node(names::NO_ENDPOINT_PORTS, goto("refuse")));
    unserved.push(on_node(names::NO_LOCAL_ENDPOINT_PORTS, Action::Drop.into()));
    vec![refuse, Chain::regular("unserved", unserved)]
}

fn unserved_frontends() -> Vec<Rule> {
    vec![
        rule([in_set(frontend_key(), names::NO_ENDPOINTS), goto("refuse")]),
        rule([
            in_set(frontend_key(), names::NO_LOCAL_ENDPOINTS),
            Action::Drop.into(),
        ]),
    ]
}

/// The two hooks that translate. The rules are in the base chains themselves: a jump costs
/// every new connection of the machine.
fn services(outline: &Outline<'_>) -> Vec<Rule> {
    let last = match outline.shape.unallocated {
        Unallocated::Drop => Action::Drop.into(),
        Unallocated::Reject => goto("refuse"),
    };
    let mut rules = vec![
        rule([load(frontend_key(), names::FRONTENDS), goto("door")]),
        rule([Match::DaddrLocal.into(), goto("node")]),
    ];
    rules.extend(unserved_frontends());
    rules.push(rule([in_set([Daddr], names::CLUSTER_IPS), goto("refuse")]));
    rules.push(rule([in_set([Daddr], names::SERVICE_RANGES), last]));
    rules
}

fn postrouting(outline: &Outline<'_>) -> Vec<Rule> {
    let bit = 1_u32 << outline.shape.masquerade_bit;
    let masquerade = || Statement::from(Action::Masquerade);
    let mut rules = vec![
        remember(),
        rule([
            Match::Priority {
                mask: MARKER,
                value: 0,
                negated: true,
            }
            .into(),
            Match::CtStatusDnat.into(),
            Action::ClearPriority.into(),
        ]),
        rule([
            Match::MarkSet { mask: bit }.into(),
            Action::FlipMark { bit }.into(),
            masquerade(),
        ]),
        rule([
            Match::CtStatusDnat.into(),
            in_set([Saddr, Daddr], names::HAIRPINS),
            masquerade(),
        ]),
    ];
    rules.extend(outline.egress_sources.iter().map(|prefix| {
        let leaving = [
            not_in_set([Daddr], names::NON_MASQUERADE),
            Action::Masquerade.into(),
        ];
        rule(source_in(prefix).into_iter().chain(leaving))
    }));
    rules
}

fn remember() -> Rule {
    rule([
        in_set([L4Proto], names::STICKY_PROTOCOLS),
        Match::CtStatusDnat.into(),
        jump("remember"),
    ])
}

/// Only chains of type nat: packets of connections that exist meet none of our rules.
fn base_chains(outline: &Outline<'_>) -> Vec<Chain> {
    use Hook::{Input, Output, Postrouting, Prerouting};
    let nat =
        |name, hook, priority, rules| Chain::base(name, ChainType::Nat, hook, priority, rules);
    vec![
        nat("nat-prerouting", Prerouting, DSTNAT, services(outline)),
        nat("nat-output", Output, DSTNAT, services(outline)),
        nat("nat-input", Input, SRCNAT, vec![remember()]),
        nat("nat-postrouting", Postrouting, SRCNAT, postrouting(outline)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    /// The rule of the door that marks outsiders: the prefixes they are outside of.
    fn outside_of(pod_sources: &[&str]) -> Option<Vec<String>> {
        let shape = Shape::of(&Config::default());
        let prefixes: Vec<IpNet> = pod_sources.iter().filter_map(|p| p.parse().ok()).collect();
        assert_eq!(prefixes.len(), pod_sources.len());
        let table = table(&Outline {
            family: Family::Ip,
            shape: &shape,
            pod_sources: &prefixes,
            egress_sources: &[],
            timeouts: BTreeSet::new(),
        });
        let marks = |s: &Statement| matches!(s, Statement::Action(Action::SetMark { .. }));
        let mut rules = table.chain("door").expect("a chain").rules.iter();
        let rule = rules.find(|rule| rule.statements.iter().any(marks))?;
        let prefixes = rule.statements.iter().filter_map(|s| match s {
            Statement::Match(Match::SaddrIn { prefix, negated }) if *negated => {
                Some(prefix.to_string())
            }
            _ => None,
        });
        Some(prefixes.collect())
    }

    #[test]
    fn an_outsider_is_outside_of_every_prefix_of_pods() {
        let prefixes = ["172.16.0.0/12", "10.1.0.0/16"];
        assert_eq!(
            outside_of(&prefixes),
            Some(prefixes.map(str::to_owned).to_vec())
        );
    }

    #[test]
    fn nobody_is_an_outsider_where_pods_are_everywhere_or_unknown() {
        assert_eq!(outside_of(&["0.0.0.0/0"]), None);
        assert_eq!(outside_of(&[]), None);
    }

    #[test]
    fn packets_of_connections_that_exist_meet_no_base_chain() {
        let shape = Shape::of(&Config::default());
        let table = table(&Outline {
            family: Family::Ip6,
            shape: &shape,
            pod_sources: &[],
            egress_sources: &[],
            timeouts: BTreeSet::new(),
        });
        let mut bases = table.chains.iter().filter_map(|chain| chain.base);
        assert!(bases.all(|base| base.chain_type == ChainType::Nat));
    }
}
