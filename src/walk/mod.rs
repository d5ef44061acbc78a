//! Sends a made-up packet through a ruleset: the first packet of a new connection, hook by
//! hook, as the kernel would. Nothing is sent; the only inputs are the ruleset and which
//! addresses are this node's.
//!
//! Random draws are not drawn: every slot is followed, so the result is the distribution.
//! Hashes are computed as the kernel does, so a client balanced by its address, or
//! remembered in the elements walked through, has its one endpoint.

mod hash;
mod rule;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::net::Endpoint;
use crate::ruleset::{Family, Protocol, Rule, Table, Value};
use rule::{Flow, State};

/// The first packet of a connection.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Client.
    pub source: IpAddr,
    /// What it asked for.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port it asked for.
    pub port: u16,
    /// Interface it came in by; `None` if unknown or if this node sends it.
    pub iif: Option<String>,
    /// True if this node itself sends it.
    pub from_node: bool,
}

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on, translated or not.
    Accepted,
    /// Dropped without a word.
    Dropped,
    /// Refused: TCP reset, or ICMP port unreachable.
    Refused,
}

/// One place a new connection may go to.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Where.
    pub endpoint: Endpoint,
    /// How likely, 0 to 1.
    pub probability: f64,
    /// True if the endpoint sees this node's address instead of the client's.
    pub masqueraded: bool,
}

/// One rule that did something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Chain.
    pub chain: String,
    /// The rule.
    pub rule: Rule,
    /// The element that decided, if it has a comment.
    pub element: Option<String>,
}

/// What became of a packet.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Rules that matched, in order.
    pub steps: Vec<Step>,
    /// How it ends.
    pub fate: Fate,
    /// Where it may go; empty if no rule translates it.
    pub candidates: Vec<Candidate>,
    /// True if an untranslated packet is masqueraded on its way out.
    pub masqueraded: bool,
    /// Bits of the packet mark that our rules set before it is routed.
    pub mark: u32,
}

/// Keys that were looked for, by set.
pub type Asked = BTreeMap<String, BTreeSet<Value>>;

/// Walks `packet` through `table`; `is_local` says which addresses are this node's.
#[must_use]
pub fn walk(table: &Table, packet: &Packet, is_local: &dyn Fn(IpAddr) -> bool) -> Trace {
    through(State::new(table, packet, is_local), packet, is_local)
}

/// What a walk looks for in the table's sets, but for intervals, whether or not it is there: for
/// who reads from the kernel only what a packet meets. With what is found the next walk may go
/// on, and look for more.
#[must_use]
pub fn asked(table: &Table, packet: &Packet, is_local: &dyn Fn(IpAddr) -> bool) -> Asked {
    let asked = RefCell::default();
    let mut state = State::new(table, packet, is_local);
    state.asked = Some(&asked);
    through(state, packet, is_local);
    asked.into_inner()
}

fn through(mut state: State<'_>, packet: &Packet, is_local: &dyn Fn(IpAddr) -> bool) -> Trace {
    let nat = if packet.from_node {
        "nat-output"
    } else {
        "nat-prerouting"
    };
    let fate = fate_of(state.chain(nat));
    let mark = state.mark;
    let translated = std::mem::take(&mut state.candidates);
    let mut candidates = Vec::new();
    let mut masqueraded = false;
    if fate == Fate::Accepted && translated.is_empty() {
        if packet.from_node || !is_local(packet.destination) {
            masqueraded = postrouting(&mut state, packet.destination, false);
        }
    } else if fate == Fate::Accepted {
        for (endpoint, probability) in translated {
            // A packet to this node itself does not leave: postrouting never sees it.
            let leaves = packet.from_node || !is_local(endpoint.addr);
            let mut after = state.clone();
            after.steps.clear();
            let masqueraded = leaves && postrouting(&mut after, endpoint.addr, true);
            if candidates.is_empty() {
                state.steps.extend(after.steps);
            }
            candidates.push(Candidate {
                endpoint,
                probability,
                masqueraded,
            });
        }
    }
    Trace {
        steps: state.steps,
        fate,
        candidates,
        masqueraded,
        mark,
    }
}

const fn fate_of(flow: Flow) -> Fate {
    match flow {
        Flow::Drop => Fate::Dropped,
        Flow::Reject => Fate::Refused,
        Flow::Next | Flow::Return | Flow::Accept => Fate::Accepted,
    }
}

fn postrouting(state: &mut State<'_>, destination: IpAddr, translated: bool) -> bool {
    state.destination = destination;
    state.translated = translated;
    state.masqueraded = false;
    state.forwarded();
    state.chain("nat-postrouting");
    state.masqueraded
}

/// The family a packet is of.
#[must_use]
pub const fn family(packet: &Packet) -> Family {
    Family::of(&packet.destination)
}

/// Candidates by endpoint, as a map for tests and sums.
#[must_use]
pub fn shares(trace: &Trace) -> BTreeMap<Endpoint, f64> {
    trace
        .candidates
        .iter()
        .map(|c| (c.endpoint, c.probability))
        .collect()
}
