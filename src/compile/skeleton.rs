//! The rules: constant for a configuration, whatever the number of services or endpoints.
//!
//! docs/packet-flow.md draws the way of a packet through these chains.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::layout::{
    CLASS_MASK, Class, DRAWS, EXACT, GROUP_MASK, LIST_MASK, MARKER, MODE_MASK, Mode, PROTOCOLS,
    SOURCE_SEED, SOURCE_SLOTS, STICKY_MASK, Sticky, names,
};
use super::sets;
use crate::config::{DetectLocal, Unallocated};
use crate::plan::Shape;
use crate::ruleset::{
    Action, Chain, ChainType, DataType, Family, Hook, Match, Rule, Selector, Statement, Table,
};

use Selector::{
    CtOriginalDaddr, CtOriginalDport, CtOriginalSaddr, CtReplySaddr, CtReplySport, Daddr, Dport,
    L4Proto, Priority, Saddr,
};

/// Values of the hash of an IPv6 client. nft's JSON shows more as a negative number.
const CLIENT_HASHES: u32 = 0x7fff_ffff;

/// nft's `dstnat` for the nat hooks before routing.
const DSTNAT: i32 = -100;
/// Just before: source ranges are checked on the address the client asked for.
const BEFORE_DSTNAT: i32 = DSTNAT - 10;
/// nft's `filter`.
const FILTER: i32 = 0;
/// nft's `srcnat`.
const SRCNAT: i32 = 100;

/// What of the plan decides about rules rather than elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline<'a> {
    /// Family of the table.
    pub family: Family,
    /// Settings.
    pub shape: &'a Shape,
    /// True if pods can be told by address in this family.
    pub pods_by_address: bool,
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
    chains.extend(filter_chains(outline));
    chains.extend(base_chains(outline));
    table.chains = chains;
    table
}

fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new(statements)
}

fn in_set(key: impl Into<Vec<Selector>>, set: &'static str) -> Statement {
    Match::InSet {
        key: key.into(),
        set: Cow::Borrowed(set),
        negated: false,
    }
    .into()
}

fn not_in_set(key: impl Into<Vec<Selector>>, set: &'static str) -> Statement {
    Match::InSet {
        key: key.into(),
        set: Cow::Borrowed(set),
        negated: true,
    }
    .into()
}

fn load(key: impl Into<Vec<Selector>>, map: &'static str) -> Statement {
    Action::LoadPriority {
        key: key.into(),
        map,
    }
    .into()
}

fn dnat(key: impl Into<Vec<Selector>>, map: &'static str) -> Statement {
    Action::Dnat {
        key: key.into(),
        map,
    }
    .into()
}

fn jump(chain: &str) -> Statement {
    Action::Jump(chain.to_owned()).into()
}

fn goto(chain: &str) -> Statement {
    Action::Goto(chain.to_owned()).into()
}

fn priority_is(mask: u32, value: u32) -> Statement {
    Match::Priority {
        mask,
        value,
        negated: false,
    }
    .into()
}

const fn list() -> Selector {
    Selector::PriorityMasked { mask: LIST_MASK }
}

const fn group() -> Selector {
    Selector::PriorityMasked { mask: GROUP_MASK }
}

fn slot(modulus: u32) -> Vec<Selector> {
    vec![list(), L4Proto, Selector::Random { modulus }]
}

fn frontend_key() -> Vec<Selector> {
    vec![Daddr, L4Proto, Dport]
}

fn port_key() -> Vec<Selector> {
    vec![L4Proto, Dport]
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

/// Conditions that say "from a pod", or "not from a pod", by the configured detector;
/// `None` without a detector.
fn from_pod(outline: &Outline<'_>, negated: bool) -> Option<Statement> {
    let by_name = |name: &str, prefix: bool| {
        Some(
            Match::Iifname {
                name: name.to_owned(),
                prefix,
                negated,
            }
            .into(),
        )
    };
    match &outline.shape.detect_local {
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => {
            outline.pods_by_address.then(|| match negated {
                true => not_in_set([Saddr], names::POD_SOURCES),
                false => in_set([Saddr], names::POD_SOURCES),
            })
        }
        DetectLocal::BridgeInterface(name) => by_name(name, false),
        DetectLocal::InterfaceNamePrefix(name) => by_name(name, true),
    }
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
    let mut inside = Vec::new();
    if let Some(pod) = from_pod(outline, false) {
        inside.push(rule([pod, goto("inside-list")]));
    }
    inside.push(rule([
        Match::SaddrLocal.into(),
        mark(),
        goto("inside-list"),
    ]));

    let mut door = vec![rule([
        priority_is(MODE_MASK, Mode::Local as u32),
        jump("inside"),
    ])];
    let cluster = priority_is(MODE_MASK, Mode::Cluster as u32);
    if outline.shape.masquerade_all {
        door.push(rule([cluster, mark()]));
    } else if let Some(outsider) = from_pod(outline, true) {
        door.push(rule([cluster, outsider, mark()]));
    }
    door.push(rule([
        priority_is(MODE_MASK, Mode::Masquerade as u32),
        mark(),
    ]));
    for (sticky, chain) in [(Sticky::Cluster, "sticky"), (Sticky::Local, "sticky-local")] {
        door.push(rule([priority_is(STICKY_MASK, sticky as u32), jump(chain)]));
    }
    door.push(rule([Action::DispatchPriority {
        mask: CLASS_MASK,
        map: names::CLASSES,
    }
    .into()]));

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
    ];
    let services = vec![
        rule([load(frontend_key(), names::FRONTENDS), goto("door")]),
        rule([Match::DaddrLocal.into(), goto("node")]),
    ];
    vec![
        inside_list,
        Chain::regular("inside", inside),
        Chain::regular("door", door),
        Chain::regular("node", node),
        Chain::regular("services", services),
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

fn filter_chains(outline: &Outline<'_>) -> Vec<Chain> {
    let refuse = Chain::regular(
        "refuse",
        vec![
            rule([
                Match::L4Proto(crate::ruleset::Protocol::Tcp).into(),
                Action::RejectTcpReset.into(),
            ]),
            rule([Action::Reject.into()]),
        ],
    );
    let on_node = |set, last: Statement| {
        rule([
            Match::DaddrLocal.into(),
            Match::DaddrLoopback { negated: true }.into(),
            in_set([Daddr], names::NODE_PORT_ADDRESSES),
            in_set(port_key(), set),
            last,
        ])
    };
    let unserved = vec![
        rule([in_set(frontend_key(), names::NO_ENDPOINTS), goto("refuse")]),
        rule([
            in_set(frontend_key(), names::NO_LOCAL_ENDPOINTS),
            Action::Drop.into(),
        ]),
        on_node(names::NO_ENDPOINT_PORTS, goto("refuse")),
        on_node(names::NO_LOCAL_ENDPOINT_PORTS, Action::Drop.into()),
    ];
    let last = match outline.shape.unallocated {
        Unallocated::Drop => Action::Drop.into(),
        Unallocated::Reject => goto("refuse"),
    };
    let undefined = vec![
        rule([in_set([Daddr], names::CLUSTER_IPS), goto("refuse")]),
        rule([in_set([Daddr], names::SERVICE_RANGES), last]),
    ];
    vec![
        refuse,
        Chain::regular("unserved", unserved),
        Chain::regular("undefined", undefined),
    ]
}

fn base_chains(outline: &Outline<'_>) -> Vec<Chain> {
    let bit = 1_u32 << outline.shape.masquerade_bit;
    let new = || Statement::from(Match::CtStateNew);
    let guard = || {
        let mut from = frontend_key();
        from.push(Saddr);
        vec![rule([
            new(),
            in_set(frontend_key(), names::GUARDED),
            not_in_set(from, names::SOURCE_RANGES),
            Action::Drop.into(),
        ])]
    };
    let filter = |undefined: bool| {
        let mut rules = vec![rule([new(), jump("unserved")])];
        if undefined {
            rules.push(rule([new(), jump("undefined")]));
        }
        rules
    };
    let remember = || rule([Match::CtStatusDnat.into(), jump("remember")]);
    let masquerade = || Statement::from(Action::Masquerade);
    let postrouting = vec![
        remember(),
        rule([
            Match::CtStatusDnat.into(),
            Match::Priority {
                mask: MARKER,
                value: 0,
                negated: true,
            }
            .into(),
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
        rule([
            in_set([Saddr], names::EGRESS_SOURCES),
            not_in_set([Daddr], names::NON_MASQUERADE),
            masquerade(),
        ]),
    ];
    use ChainType::{Filter, Nat};
    use Hook::{Forward, Input, Output, Postrouting, Prerouting};
    vec![
        Chain::base(
            "guard-prerouting",
            Filter,
            Prerouting,
            BEFORE_DSTNAT,
            guard(),
        ),
        Chain::base("guard-output", Filter, Output, BEFORE_DSTNAT, guard()),
        Chain::base(
            "nat-prerouting",
            Nat,
            Prerouting,
            DSTNAT,
            vec![rule([jump("services")])],
        ),
        Chain::base(
            "nat-output",
            Nat,
            Output,
            DSTNAT,
            vec![rule([jump("services")])],
        ),
        Chain::base("filter-input", Filter, Input, FILTER, filter(false)),
        Chain::base("filter-forward", Filter, Forward, FILTER, filter(true)),
        Chain::base("filter-output", Filter, Output, FILTER, filter(true)),
        Chain::base("nat-input", Nat, Input, SRCNAT, vec![remember()]),
        Chain::base("nat-postrouting", Nat, Postrouting, SRCNAT, postrouting),
    ]
}
