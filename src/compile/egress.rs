//! What leaves with this node's address: what frontends marked, pods that reach themselves
//! through a frontend, and this node's pods on their way out of the cluster.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Sink;
use super::frontends::{marks, sources_in};
use super::sets::SetId;
use super::skeleton::Outline;
use super::words::{in_set, not_in_set, rule};
use crate::ruleset::{Action, Element, ElementData, Family, Match, Rule, Selector, Value};

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
    if outline.has(SetId::HostPortIps) {
        // From a loopback address to the host port of a pod: no answer would find its way back.
        rules.push(rule([
            Match::SaddrIn {
                prefix: loopback(outline.family),
                negated: false,
            }
            .into(),
            Match::DaddrLoopback { negated: true }.into(),
            Match::CtStatusDnat.into(),
            Action::Masquerade.into(),
        ]));
    }
    let pods = sources_in(outline.egress_sources, SetId::EgressSources);
    rules.extend(pods.into_iter().map(|pod| {
        let inside = outline
            .has(SetId::NonMasquerade)
            .then(|| not_in_set([Daddr], SetId::NonMasquerade));
        let leaving = inside.into_iter().chain([Action::Masquerade.into()]);
        rule(pod.into_iter().chain(leaving))
    }));
    rules
}

/// RFC 1122 and RFC 4291.
fn loopback(family: Family) -> IpNet {
    match family {
        Family::Ip => Ipv4Net::new_assert([127, 0, 0, 0].into(), 8).into(),
        Family::Ip6 => Ipv6Net::from(std::net::Ipv6Addr::LOCALHOST).into(),
    }
}

/// A local endpoint that may talk to itself through a frontend.
pub fn hairpin(sink: &mut impl Sink, addr: IpAddr) {
    sink.put(
        SetId::HairpinIps,
        Value::new().addr(addr).addr(addr),
        Element::new(ElementData::None),
    );
}
