//! loadBalancerSourceRanges: who may ask a load-balancer address.

use std::net::IpAddr;
use std::sync::Arc;

use super::numbers::frontend_value_key;
use super::sets::SetId;
use super::skeleton::Outline;
use super::words::{frontend_key, in_set, not_in_set, rule};
use super::{Sink, ranged};
use crate::plan::{Frontend, FrontendKey};
use crate::ruleset::{Action, Element, ElementData, Rule, Selector, Value};

/// Options of a frontend: others than its source ranges go no further.
pub fn rules(outline: &Outline<'_>) -> Vec<Rule> {
    if !outline.has(SetId::FirewallIps) {
        return Vec::new();
    }
    let mut statements = vec![in_set(frontend_key(), SetId::FirewallIps)];
    if outline.has(SetId::FirewallAllowed) {
        let mut from = frontend_key();
        from.push(Selector::Saddr);
        statements.push(not_in_set(from, SetId::FirewallAllowed));
    }
    statements.push(Action::Drop.into());
    vec![rule(statements)]
}

/// A frontend's source ranges.
pub fn elements(sink: &mut impl Sink, key: &FrontendKey, frontend: &Frontend) {
    let (Some(ranges), FrontendKey::Address(addr, protocol, port)) = (&frontend.source_ranges, key)
    else {
        return;
    };
    let comment = |element: Element| element.with_comment(Arc::clone(&frontend.comment));
    sink.put(
        SetId::FirewallIps,
        frontend_value_key(key),
        comment(Element::new(ElementData::None)),
    );
    for range in ranges {
        let with = |source: IpAddr| {
            Value::new()
                .addr(*addr)
                .proto(*protocol)
                .port(port.get())
                .addr(source)
        };
        let (start, end) = (with(range.network()), with(range.broadcast()));
        sink.put(SetId::FirewallAllowed, start, comment(ranged(start, end)));
    }
}
