//! externalTrafficPolicy Local: outsiders have local endpoints only and keep their address;
//! pods and this node are let around the policy.

use super::frontends::{from_pods, mark};
use super::sets::SetId;
use super::skeleton::Outline;
use super::value::{MODE_MASK, Mode};
use super::words::{frontend_key, goto, jump, load, port_key, priority_is, rule};
use crate::ruleset::{Action, Chain, Match, Rule};

/// The map of the lists that pods and this node take.
pub const fn internal(on_node: bool) -> SetId {
    if on_node {
        SetId::InternalServiceNodeports
    } else {
        SetId::InternalServiceIps
    }
}

/// Options of a frontend: its local policy.
pub fn rules(outline: &Outline<'_>) -> Vec<Rule> {
    if !in_use(outline) {
        return Vec::new();
    }
    vec![rule([
        priority_is(MODE_MASK, Mode::Local as u32),
        jump("internal-source"),
    ])]
}

fn in_use(outline: &Outline<'_>) -> bool {
    outline.parts.has_mode(Mode::Local)
        && outline
            .parts
            .has_any(&[SetId::InternalServiceIps, SetId::InternalServiceNodeports])
}

/// Who is inside, and the list they have instead.
pub fn chains(outline: &Outline<'_>) -> Vec<Chain> {
    if !in_use(outline) {
        return Vec::new();
    }
    let mut lists = Vec::new();
    if outline.has(SetId::InternalServiceIps) {
        lists.push(rule([
            load(frontend_key(), SetId::InternalServiceIps),
            Action::Return.into(),
        ]));
    }
    if outline.has(SetId::InternalServiceNodeports) {
        lists.push(rule([
            Match::DaddrLocal.into(),
            load(port_key(), SetId::InternalServiceNodeports),
        ]));
    }
    let mut sources: Vec<Rule> = from_pods(outline)
        .into_iter()
        .map(|pod| rule(pod.into_iter().chain([goto("internal-service")])))
        .collect();
    sources.push(rule([
        Match::SaddrLocal.into(),
        mark(outline),
        goto("internal-service"),
    ]));
    vec![
        Chain::regular(
            "internal-service",
            "the endpoints that pods and this node are led to",
            lists,
        ),
        Chain::regular(
            "internal-source",
            "local policy: pods and this node are led to all endpoints",
            sources,
        ),
    ]
}
