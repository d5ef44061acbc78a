//! What leaves with this node's address: what frontends marked, pods that reach themselves
//! through a frontend, and this node's pods on their way out of the cluster.

use std::net::IpAddr;

use super::Sink;
use super::frontends::{marks, source_in};
use super::sets::SetId;
use super::skeleton::Outline;
use super::words::{in_set, not_in_set, rule};
use crate::ruleset::{Action, Element, ElementData, Match, Rule, Selector, Value};

use Selector::{Daddr, Saddr};

/// Rules of postrouting.
pub fn rules(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    if marks(outline) {
        let bit = outline.shape.masquerade_bit.mask();
        rules.push(rule([
            Match::MarkSet { mask: bit }.into(),
            Action::FlipMark { bit }.into(),
            Action::Masquerade.into(),
        ]));
    }
    if outline.has(SetId::HairpinIps) {
        rules.push(rule([
            Match::CtStatusDnat.into(),
            in_set([Saddr, Daddr], SetId::HairpinIps),
            Action::Masquerade.into(),
        ]));
    }
    rules.extend(outline.egress_sources.iter().map(|prefix| {
        let inside = outline
            .has(SetId::NonMasquerade)
            .then(|| not_in_set([Daddr], SetId::NonMasquerade));
        let leaving = inside.into_iter().chain([Action::Masquerade.into()]);
        rule(source_in(prefix).into_iter().chain(leaving))
    }));
    rules
}

/// A local endpoint that may talk to itself through a frontend.
pub fn hairpin(sink: &mut impl Sink, addr: IpAddr) {
    sink.put(
        SetId::HairpinIps,
        Value::new().addr(addr).addr(addr),
        Element::new(ElementData::None),
    );
}
