//! The elements: everything that depends on services, endpoints and pods.
//!
//! Each function writes the elements of one object and is called alike for a whole plan
//! and for one changed object.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::allocate::{frontend_value_key, handle_key};
use super::layout::{Class, Mode, SOURCE_SLOTS, Sticky, frontend_value, names};
use super::maglev;
use crate::cluster::Balancing;
use crate::plan::{
    Endpoint, EndpointList, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey, ListKey,
    Target, View,
};
use crate::ruleset::{Datum, Element, ElementData, Protocol, Value};

/// Takes elements: a set's name, the key and the element.
pub trait Sink {
    /// Adds one element to a set.
    fn put(&mut self, set: &str, key: Value, element: Element);
}

/// What a list was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its number.
    pub number: u32,
    /// Its class.
    pub class: Class,
    /// Its affinity group, if it is sticky.
    pub group: Option<u32>,
    /// Which endpoints it holds.
    pub view: View,
}

impl Numbered {
    /// The value of a frontend that leads here.
    #[must_use]
    pub fn value(&self, mode: Mode) -> u32 {
        let sticky = match (self.group, self.view) {
            (None, _) => Sticky::No,
            (Some(_), View::Cluster) => Sticky::Cluster,
            (Some(_), View::Local) => Sticky::Local,
        };
        frontend_value(mode, sticky, self.class, self.number)
    }
}

/// The class a list needs.
#[must_use]
pub fn class_of(list: &EndpointList) -> Class {
    if list.balancing == Balancing::SourceIp && list.endpoints.len() > 1 {
        return Class::BySource;
    }
    Class::for_slots(list.endpoints.values().map(|w| *w as usize).sum())
}

/// The slot table of a source-hashed list.
#[must_use]
pub fn source_slots(list: &EndpointList) -> Vec<Endpoint> {
    maglev::table(&list.endpoints, SOURCE_SLOTS)
}

fn number(id: u32) -> ElementData {
    ElementData::Value(Datum::new().u32(id))
}

fn address_and_port(endpoint: &Endpoint) -> ElementData {
    ElementData::Value(Datum::new().addr(endpoint.addr).port(endpoint.port.get()))
}

/// One slot element per slot of the list.
pub fn slots(
    sink: &mut impl Sink,
    class: Class,
    list: u32,
    protocol: Protocol,
    slots: &[Endpoint],
    comment: &Arc<str>,
) {
    for (slot, endpoint) in (0_u32..).zip(slots) {
        let key = Value::new().u32(list).proto(protocol).u32(slot);
        let element = Element::new(address_and_port(endpoint)).with_comment(Arc::clone(comment));
        sink.put(class.map(), key, element);
    }
}

/// Affinity of a list: its group, the way back to its own value, and one handle per
/// endpoint. `handles` gives the handle of an endpoint in the group.
pub fn sticky(
    sink: &mut impl Sink,
    key: &ListKey,
    list: &EndpointList,
    numbered: &Numbered,
    mut handles: impl FnMut(u32, &Endpoint) -> Option<u32>,
) {
    let (Some(group), Some(timeout)) = (numbered.group, list.affinity_timeout) else {
        return;
    };
    let comment = |element: Element| element.with_comment(Arc::clone(&list.comment));
    let of = |id| Value::new().u32(id);
    let (lists, endpoints) = match numbered.view {
        View::Cluster => (names::STICKY_LISTS, names::STICKY_ENDPOINTS),
        View::Local => (names::STICKY_LOCAL_LISTS, names::STICKY_LOCAL_ENDPOINTS),
    };
    sink.put(
        names::STICKY_GROUPS,
        of(numbered.number),
        comment(Element::new(number(group))),
    );
    sink.put(
        &names::sticky_timeout(timeout),
        of(group),
        comment(Element::new(ElementData::None)),
    );
    let back = frontend_value(Mode::Keep, Sticky::No, numbered.class, numbered.number);
    sink.put(lists, of(group), comment(Element::new(number(back))));
    for endpoint in list.endpoints.keys() {
        let Some(handle) = handles(group, endpoint) else {
            continue;
        };
        sink.put(
            names::STICKY_HANDLES,
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

const fn mode_of(kind: FrontendKind) -> Mode {
    match kind {
        FrontendKind::ClusterIp => Mode::Cluster,
        FrontendKind::ExternalIp | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            Mode::Masquerade
        }
    }
}

/// One frontend: its value, its verdict without endpoints, its guard, its affinity.
pub fn frontend<'n>(
    sink: &mut impl Sink,
    key: &FrontendKey,
    frontend: &Frontend,
    numbered: impl Fn(&ListKey) -> Option<&'n Numbered>,
) {
    let on_node = matches!(key, FrontendKey::NodePort(..));
    let pick = |by_address, by_port| if on_node { by_port } else { by_address };
    let at = frontend_value_key(key);
    let comment = |element: Element| element.with_comment(Arc::clone(&frontend.comment));
    let doors = pick(names::FRONTENDS, names::NODE_PORTS);
    let remember = pick(names::STICKY_FRONTENDS, names::STICKY_NODE_PORTS);
    let refused = pick(names::NO_ENDPOINTS, names::NO_ENDPOINT_PORTS);
    let dropped = pick(names::NO_LOCAL_ENDPOINTS, names::NO_LOCAL_ENDPOINT_PORTS);
    let group = |list: Option<&Numbered>| list.and_then(|n| n.group);
    let mut sticky = None;
    match &frontend.target {
        Target::List(list) => {
            if let Some(list) = numbered(list) {
                let value = list.value(mode_of(frontend.kind));
                sink.put(doors, at, comment(Element::new(number(value))));
                sticky = list.group;
            }
        }
        Target::Split { outside, inside } => {
            let outside = outside.as_ref().and_then(&numbered);
            let inside = inside.as_ref().and_then(&numbered);
            let value = outside.map_or(Mode::Local as u32, |list| list.value(Mode::Local));
            sink.put(doors, at, comment(Element::new(number(value))));
            if let Some(list) = inside {
                let doors = pick(names::INSIDE_FRONTENDS, names::INSIDE_NODE_PORTS);
                sink.put(
                    doors,
                    at,
                    comment(Element::new(number(list.value(Mode::Keep)))),
                );
            }
            if outside.is_none() {
                sink.put(dropped, at, comment(Element::new(ElementData::None)));
            }
            sticky = group(outside).or(group(inside));
        }
        Target::Reject => sink.put(refused, at, comment(Element::new(ElementData::None))),
        Target::Drop => sink.put(dropped, at, comment(Element::new(ElementData::None))),
    }
    if let Some(group) = sticky {
        sink.put(remember, at, comment(Element::new(number(group))));
    }
    if let (Some(ranges), FrontendKey::Address(addr, protocol, port)) =
        (&frontend.source_ranges, key)
    {
        sink.put(names::GUARDED, at, comment(Element::new(ElementData::None)));
        for range in ranges {
            let with = |source: IpAddr| {
                Value::new()
                    .addr(*addr)
                    .proto(*protocol)
                    .port(port.get())
                    .addr(source)
            };
            let (start, end) = (with(range.network()), with(range.broadcast()));
            sink.put(names::SOURCE_RANGES, start, comment(ranged(start, end)));
        }
    }
}

/// One host port.
pub fn host_port(sink: &mut impl Sink, key: &HostPortKey, port: &HostPort) {
    let data = address_and_port(&port.endpoint);
    let element = Element::new(data).with_comment(Arc::clone(&port.comment));
    let at = |value: Value| value.proto(key.protocol).port(key.port.get());
    match key.addr {
        Some(addr) => sink.put(
            names::HOST_PORT_ADDRESSES,
            at(Value::new().addr(addr)),
            element,
        ),
        None => sink.put(names::HOST_PORTS, at(Value::new()), element),
    }
}

/// A local endpoint that may talk to itself through a frontend.
pub fn hairpin(sink: &mut impl Sink, addr: IpAddr) {
    sink.put(
        names::HAIRPINS,
        Value::new().addr(addr).addr(addr),
        Element::new(ElementData::None),
    );
}

/// A clusterIP in use.
pub fn cluster_ip(sink: &mut impl Sink, addr: IpAddr, comment: &Arc<str>) {
    let element = Element::new(ElementData::None).with_comment(Arc::clone(comment));
    sink.put(names::CLUSTER_IPS, Value::new().addr(addr), element);
}

/// A protocol of which a list is sticky.
pub fn sticky_protocol(sink: &mut impl Sink, protocol: Protocol) {
    sink.put(
        names::STICKY_PROTOCOLS,
        Value::lone_proto(protocol),
        Element::new(ElementData::None),
    );
}

/// Prefixes of a set of ranges; they must not overlap.
pub fn prefixes(sink: &mut impl Sink, set: &str, prefixes: &[IpNet]) {
    for prefix in prefixes {
        let start = Value::new().addr(prefix.network());
        let end = Value::new().addr(prefix.broadcast());
        sink.put(set, start, ranged(start, end));
    }
}

fn ranged(start: Value, end: Value) -> Element {
    let element = Element::new(ElementData::None);
    if start == end {
        element
    } else {
        element.through(end)
    }
}
