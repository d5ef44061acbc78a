//! Ports of this node's own addresses: node ports, and host ports of this node's pods.

use std::sync::Arc;

use super::sets::SetId;
use super::skeleton::Outline;
use super::words::{dnat, frontend_key, goto, in_set, load, port_key, rule};
use super::{Sink, address_and_port};
use crate::plan::{HostPort, HostPortKey};
use crate::ruleset::{Action, Chain, Element, Match, Rule, Selector, Value};

/// True if anything answers at this node's own addresses.
pub fn has_local_address(outline: &Outline<'_>) -> bool {
    let ports = [SetId::HostPorts, SetId::HostPortIps];
    has_node_ports(outline) || outline.parts.has_any(&ports)
}

fn has_node_ports(outline: &Outline<'_>) -> bool {
    outline.has(SetId::ServiceNodeports) && outline.has(SetId::NodeportIps)
}

/// Host ports at loopback addresses: for this node's own processes alone.
pub fn on_loopback(outline: &Outline<'_>) -> Option<Rule> {
    let own = [
        Match::DaddrLoopback { negated: false }.into(),
        dnat(frontend_key(), SetId::HostPortIps),
    ];
    outline.has(SetId::HostPortIps).then(|| rule(own))
}

/// What a packet to an address of this node meets: node ports come first.
pub fn chains(outline: &Outline<'_>) -> Vec<Chain> {
    if !has_local_address(outline) {
        return Vec::new();
    }
    let mut rules = vec![rule([
        Match::DaddrLoopback { negated: false }.into(),
        Action::Return.into(),
    ])];
    if has_node_ports(outline) {
        rules.push(rule([
            in_set([Selector::Daddr], SetId::NodeportIps),
            load(port_key(), SetId::ServiceNodeports),
            goto("service"),
        ]));
    }
    if outline.has(SetId::HostPortIps) {
        rules.push(rule([dnat(frontend_key(), SetId::HostPortIps)]));
    }
    if outline.has(SetId::HostPorts) {
        rules.push(rule([dnat(port_key(), SetId::HostPorts)]));
    }
    vec![Chain::regular(
        "local-address",
        "node ports and host ports, at this node's own addresses",
        rules,
    )]
}

/// One host port.
pub fn element(sink: &mut impl Sink, key: &HostPortKey, port: &HostPort) {
    let data = address_and_port(&port.endpoint);
    let element = Element::new(data).with_comment(Arc::clone(&port.comment));
    let at = |value: Value| value.proto(key.protocol).port(key.port.get());
    match key.addr {
        Some(addr) => sink.put(SetId::HostPortIps, at(Value::new().addr(addr)), element),
        None => sink.put(SetId::HostPorts, at(Value::new()), element),
    }
}
