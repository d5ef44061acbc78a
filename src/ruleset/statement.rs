//! Rules as a list of statements, each of which is one thing nft can write.
//!
//! This is the whole vocabulary of svcnat's data plane: small on purpose, so that the text
//! printer, the JSON printer, the netlink encoder and the packet walker can each be read in
//! one sitting, and a new statement fails to compile until all four know it.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Protocol;

/// A packet or connection property that a rule reads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selector {
    /// `ip saddr` or `ip6 saddr`.
    Saddr,
    /// `ip daddr` or `ip6 daddr`.
    Daddr,
    /// `meta l4proto`.
    L4Proto,
    /// `th dport`.
    Dport,
    /// `meta priority`: our scratch register, see docs/packet-flow.md.
    Priority,
    /// `meta priority & MASK`. nft's grammar takes it as the first field of a key only.
    PriorityMasked {
        /// Bits kept.
        mask: u32,
    },
    /// `ct original ip saddr` or its IPv6 twin: the client before any translation.
    CtOriginalSaddr,
    /// `ct original ip daddr` or its IPv6 twin: the frontend the client asked for.
    CtOriginalDaddr,
    /// `ct original proto-dst`: the port the client asked for.
    CtOriginalDport,
    /// `ct reply ip saddr` or its IPv6 twin: the endpoint that answers.
    CtReplySaddr,
    /// `ct reply proto-src`: the endpoint's port.
    CtReplySport,
    /// `numgen random mod N`: uniform in `0..N`.
    Random {
        /// How many slots to choose from; at least 1.
        modulus: u32,
    },
    /// `jhash ip saddr mod N seed S`: the same slot for the same client on every node.
    SourceHash {
        /// How many slots to choose from; at least 1.
        modulus: u32,
        /// Seed of the hash, the same on every node.
        seed: u32,
    },
}

/// A condition: the rule ends here for packets that do not meet it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// `ct status dnat`: some rule, ours or another's, has translated the destination.
    CtStatusDnat,
    /// `meta l4proto tcp`.
    L4Proto(Protocol),
    /// `ip daddr 127.0.0.0/8` or `ip6 daddr ::1`, or their negation.
    DaddrLoopback {
        /// True for `!=`.
        negated: bool,
    },
    /// `ip daddr == ADDR`.
    Daddr(IpAddr),
    /// `ip saddr PREFIX` or its negation. Much cheaper than a set of one range.
    SaddrIn {
        /// The prefix, of length 1 at least: nothing is outside one of length 0.
        prefix: IpNet,
        /// True for `!=`.
        negated: bool,
    },
    /// `fib saddr type local`: the packet comes from an address of this node.
    SaddrLocal,
    /// `fib daddr type local`: the packet goes to an address of this node.
    DaddrLocal,
    /// `meta priority & MASK == VALUE` or `!=`.
    Priority {
        /// Bits looked at.
        mask: u32,
        /// What they are compared with.
        value: u32,
        /// True for `!=`.
        negated: bool,
    },
    /// `meta mark & MASK != 0`.
    MarkSet {
        /// The bit of ours.
        mask: u32,
    },
    /// `iifname "NAME"` or `iifname "PREFIX*"`, or their negation.
    Iifname {
        /// Interface name without the star.
        name: String,
        /// True if any name starting with `name` matches.
        prefix: bool,
        /// True for `!=`.
        negated: bool,
    },
    /// `KEY @SET` or `KEY != @SET`.
    InSet {
        /// Fields of the key, in the set's order.
        key: Vec<Selector>,
        /// Name of the set.
        set: Cow<'static, str>,
        /// True for `!=`.
        negated: bool,
    },
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// `meta priority set KEY map @MAP`; a key that the map lacks ends the rule.
    LoadPriority {
        /// Fields of the key.
        key: Vec<Selector>,
        /// Name of the map; its data is a `classid`.
        map: &'static str,
    },
    /// `meta priority set none`.
    ClearPriority,
    /// `meta mark set meta mark | BIT`.
    SetMark {
        /// The bit of ours.
        bit: u32,
    },
    /// `meta mark set meta mark ^ BIT`.
    FlipMark {
        /// The bit of ours.
        bit: u32,
    },
    /// `dnat ip to KEY map @MAP`; a key that the map lacks ends the rule.
    Dnat {
        /// Fields of the key.
        key: Vec<Selector>,
        /// Name of the map; its data is an address and a port.
        map: &'static str,
    },
    /// `update @MAP { KEY timeout T : meta priority }`.
    Remember {
        /// Name of the map.
        map: &'static str,
        /// Fields of the key.
        key: Vec<Selector>,
        /// How long, in seconds.
        timeout: u32,
    },
    /// `masquerade fully-random`.
    Masquerade,
    /// `reject with tcp reset`.
    RejectTcpReset,
    /// `reject` (ICMP or ICMPv6 port unreachable).
    Reject,
    /// `drop`.
    Drop,
    /// `return`.
    Return,
    /// `jump CHAIN`.
    Jump(String),
    /// `goto CHAIN`.
    Goto(String),
}

/// One statement of a rule, left to right as nft writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Statement {
    /// A condition.
    Match(Match),
    /// An action.
    Action(Action),
}

impl Statement {
    /// The set or map it looks into, if any.
    #[must_use]
    pub fn set(&self) -> Option<&str> {
        match self {
            Self::Match(Match::InSet { set, .. }) => Some(set),
            Self::Action(
                Action::LoadPriority { map, .. }
                | Action::Dnat { map, .. }
                | Action::Remember { map, .. },
            ) => Some(map),
            Self::Match(_) | Self::Action(_) => None,
        }
    }
}

impl From<Match> for Statement {
    fn from(m: Match) -> Self {
        Self::Match(m)
    }
}

impl From<Action> for Statement {
    fn from(a: Action) -> Self {
        Self::Action(a)
    }
}

/// One rule of a chain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    /// Its statements, evaluated in order.
    pub statements: Vec<Statement>,
}

impl Rule {
    /// A rule of these statements.
    #[must_use]
    pub fn new(statements: impl IntoIterator<Item = Statement>) -> Self {
        Self {
            statements: statements.into_iter().collect(),
        }
    }
}
