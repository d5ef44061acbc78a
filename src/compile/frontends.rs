//! Frontends: what an address and port, or a node port, leads to, and what becomes of those
//! that nobody serves.

use ipnet::IpNet;

use super::affinity;
use super::endpoints;
use super::local_policy;
use super::numbers::frontend_value_key;
use super::sets::SetId;
use super::skeleton::Outline;
use super::source_ranges;
use super::value::{Affinity, Class, MODE_MASK, Mode, OPTIONS_MASK, frontend_value};
use super::words::{
    class_is, frontend_key, goto, in_set, jump, load, not_in_set, port_key, priority_is, rule,
};
use super::{ListRef, Sink, number, ranged};
use crate::config::{DetectLocal, Unallocated, UnservedExternal};
use crate::plan::{Frontend, FrontendKey, FrontendKind, ListKey, Target};
use crate::ruleset::{
    Action, Chain, Element, ElementData, Match, Protocol, Rule, Selector, Statement, Value,
};

/// What nobody serves. Only a first packet comes here, so nothing is asked of others.
pub fn reject_chain(outline: &Outline<'_>) -> Vec<Chain> {
    let unallocated =
        outline.shape.unallocated == Unallocated::Reject && outline.has(SetId::ServiceCidrs);
    let external = outline.shape.unserved_external == UnservedExternal::Reject
        && outline.has(SetId::ExternalIps);
    let unserved = outline.has(SetId::ClusterIps) || outline.parts.has_class(Class::Reject);
    if !(unallocated || external || unserved) {
        return Vec::new();
    }
    vec![Chain::regular(
        "reject-chain",
        "no endpoint, or no such port",
        vec![
            rule([
                Match::L4Proto(Protocol::Tcp).into(),
                Action::RejectTcpReset.into(),
            ]),
            rule([Action::Reject.into()]),
        ],
    )]
}

/// Rules for the classes without endpoints.
pub fn unserved(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = Vec::new();
    if outline.parts.has_class(Class::Reject) {
        rules.push(rule([class_is(Class::Reject), goto("reject-chain")]));
    }
    if outline.parts.has_class(Class::Drop) {
        rules.push(rule([class_is(Class::Drop), Action::Drop.into()]));
    }
    rules
}

/// A packet that met the old value of its frontend and the new slots, or the other way
/// round, is looked up afresh and goes to slot 0, which every list has. One that is between
/// generations even so is dropped: the client sends it again.
pub fn retry_chain(outline: &Outline<'_>) -> Vec<Chain> {
    let parts = outline.parts;
    if !parts.has_any(&[SetId::Endpoints, SetId::EndpointsLarge]) {
        return Vec::new();
    }
    // A chain of its own, that no class changes: see `endpoints::draws`.
    let mut lookup = Vec::new();
    if parts.has(SetId::ServiceIps) {
        lookup.push(rule([load(frontend_key(), SetId::ServiceIps)]));
    }
    if parts.has(SetId::ServiceNodeports) {
        lookup.push(rule([
            Match::DaddrLocal.into(),
            load(port_key(), SetId::ServiceNodeports),
        ]));
    }
    let mut rules = vec![rule([jump("lookup")])];
    rules.extend(unserved(outline));
    rules.extend(endpoints::first_slot(outline));
    rules.push(rule([Action::Drop.into()]));
    vec![
        Chain::regular("lookup", "the frontend's value", lookup),
        Chain::regular(
            "retry-lookup",
            "endpoints changed since the frontend was looked up: once more",
            rules,
        ),
    ]
}

/// The chain that a found frontend leads to, and its options.
pub fn chains(outline: &Outline<'_>) -> Vec<Chain> {
    if !outline.has_frontends() {
        return Vec::new();
    }
    let options = options(outline);
    // What most connections need comes first: a clusterIP without affinity meets two tests
    // before its class.
    let mut service = Vec::new();
    if let Some(outside) = outsiders(outline) {
        let cluster = priority_is(MODE_MASK, Mode::Cluster as u32);
        service.push(rule(
            [cluster].into_iter().chain(outside).chain([mark(outline)]),
        ));
    }
    if !options.is_empty() {
        service.push(rule([
            Match::Priority {
                mask: OPTIONS_MASK,
                value: 0,
                negated: true,
            }
            .into(),
            jump("service-options"),
        ]));
    }
    service.extend(endpoints::draws(outline));
    if outline
        .parts
        .has_any(&[SetId::Endpoints, SetId::EndpointsLarge])
    {
        service.push(rule([goto("retry-lookup")]));
    }
    let mut chains = Vec::new();
    if !options.is_empty() {
        chains.push(Chain::regular(
            "service-options",
            "source ranges, local policy and session affinity",
            options,
        ));
    }
    chains.push(Chain::regular(
        "service",
        "from a frontend's value to one of its endpoints",
        service,
    ));
    chains
}

fn options(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = source_ranges::rules(outline);
    rules.extend(local_policy::rules(outline));
    if outline.parts.has_mode(Mode::Masquerade) {
        rules.push(rule([
            priority_is(MODE_MASK, Mode::Masquerade as u32),
            mark(outline),
        ]));
    }
    rules.extend(affinity::lookup_rules(outline));
    rules
}

/// Has postrouting masquerade the connection.
pub fn mark(outline: &Outline<'_>) -> Statement {
    Action::SetMark {
        bit: outline.shape.masquerade_bit.mask(),
    }
    .into()
}

/// True if some rule asks postrouting to masquerade.
pub fn marks(outline: &Outline<'_>) -> bool {
    outsiders(outline).is_some()
        || outline.parts.has_mode(Mode::Masquerade)
        || outline.parts.has_mode(Mode::Local)
}

/// Conditions under which a clusterIP's connection is masqueraded; `None` if it never is.
fn outsiders(outline: &Outline<'_>) -> Option<Vec<Statement>> {
    if !outline.parts.has_mode(Mode::Cluster) {
        return None;
    }
    if outline.shape.masquerade_all {
        return Some(Vec::new());
    }
    from_outside(outline)
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
            name: name.to_string(),
            prefix,
            negated,
        }
        .into(),
    )
}

/// Conditions each of which says "from a pod", by the configured detector; none without one.
pub fn from_pods(outline: &Outline<'_>) -> Vec<Option<Statement>> {
    match by_interface(outline, false) {
        Some(interface) => vec![Some(interface)],
        None => sources_in(outline.pod_sources, SetId::PodSources),
    }
}

/// Conditions each of which says "from one of these": one for each of a few, one for all of
/// many.
pub fn sources_in(prefixes: &[IpNet], set: SetId) -> Vec<Option<Statement>> {
    if is_set(prefixes) {
        return vec![Some(in_set([Selector::Saddr], set))];
    }
    prefixes.iter().map(source_in).collect()
}

/// True if prefixes are elements of a set: then no rule grows with their number. A few are
/// compared in rules, which is faster.
pub const fn is_set(prefixes: &[IpNet]) -> bool {
    prefixes.len() > 2
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
    if is_set(prefixes) {
        return Some(vec![not_in_set([Selector::Saddr], SetId::PodSources)]);
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

const fn mode_of(kind: FrontendKind) -> Mode {
    match kind {
        FrontendKind::ClusterIp => Mode::Cluster,
        FrontendKind::ExternalIp | FrontendKind::LoadBalancer | FrontendKind::NodePort => {
            Mode::Masquerade
        }
    }
}

/// One frontend: its value, and what its local policy, affinity and source ranges add.
pub fn frontend<'n>(
    sink: &mut impl Sink,
    key: &FrontendKey,
    frontend: &Frontend,
    numbered: impl Fn(&ListKey) -> Option<&'n ListRef>,
) {
    let at = frontend_value_key(key);
    let on_node = matches!(key, FrontendKey::NodePort(..));
    let map = if on_node {
        SetId::ServiceNodeports
    } else {
        SetId::ServiceIps
    };
    let commented =
        |data| Element::new(data).with_comment(std::sync::Arc::clone(&frontend.comment));
    // Source ranges are looked at among the options, which this mode asks for.
    let unserved_mode = match frontend.source_ranges {
        Some(_) => Mode::Masquerade,
        None => Mode::Keep,
    };
    let without = |mode, class| Some(frontend_value(mode, Affinity::None, class, 0));
    let mut group = None;
    let value = match &frontend.target {
        Target::List(list) => numbered(list).map(|list| {
            group = list.group;
            list.value(mode_of(frontend.kind))
        }),
        Target::Split { outside, inside } => {
            let outside = outside.as_ref().and_then(&numbered);
            let inside = inside.as_ref().and_then(&numbered);
            if let Some(list) = inside {
                let data = number(list.value(Mode::Keep));
                sink.put(local_policy::internal(on_node), at, commented(data));
            }
            group = [outside, inside]
                .into_iter()
                .flatten()
                .find_map(|list| list.group);
            outside.map_or_else(
                || without(Mode::Local, Class::Drop),
                |list| Some(list.value(Mode::Local)),
            )
        }
        Target::Reject => without(unserved_mode, Class::Reject),
        Target::Drop => without(unserved_mode, Class::Drop),
    };
    if let Some(value) = value {
        sink.put(map, at, commented(number(value)));
    }
    if let Some(group) = group {
        sink.put(affinity::of_frontend(on_node), at, commented(number(group)));
    }
    source_ranges::elements(sink, key, frontend);
}

/// A clusterIP in use.
pub fn cluster_ip(sink: &mut impl Sink, addr: std::net::IpAddr, comment: &std::sync::Arc<str>) {
    let element = Element::new(ElementData::None).with_comment(std::sync::Arc::clone(comment));
    sink.put(SetId::ClusterIps, Value::new().addr(addr), element);
}

/// What becomes of packets from outside to ports of external addresses that nobody serves:
/// pods' own are left alone, they do not come back.
pub fn external_chain(outline: &Outline<'_>) -> Vec<Chain> {
    let last = match outline.shape.unserved_external {
        UnservedExternal::Reject => goto("reject-chain"),
        UnservedExternal::Drop | UnservedExternal::Forward => Action::Drop.into(),
    };
    if !outline.has(SetId::ExternalIps) {
        return Vec::new();
    }
    // An external address that this node has is the node's own at all other ports.
    let mut rules = vec![rule([Match::DaddrLocal.into(), Action::Return.into()])];
    let pods = from_pods(outline).into_iter();
    rules.extend(pods.map(|pod| rule(pod.into_iter().chain([Action::Return.into()]))));
    rules.push(rule([last]));
    vec![Chain::regular(
        "external-address",
        "an external address, at a port that no service has",
        rules,
    )]
}

/// An external address in use.
pub fn external_ip(sink: &mut impl Sink, addr: std::net::IpAddr) {
    let element = Element::new(ElementData::None);
    sink.put(SetId::ExternalIps, Value::new().addr(addr), element);
}

/// Prefixes of a set of ranges; they must not overlap.
pub fn prefixes(sink: &mut impl Sink, set: SetId, prefixes: &[IpNet]) {
    for prefix in prefixes {
        let start = Value::new().addr(prefix.network());
        let end = Value::new().addr(prefix.broadcast());
        sink.put(set, start, ranged(start, end));
    }
}

#[cfg(test)]
mod tests {
    use super::super::parts::{Parts, Uses};
    use super::super::skeleton::table;
    use super::*;
    use crate::config::Config;
    use crate::plan::Shape;
    use crate::ruleset::Family;

    /// A clusterIP with one endpoint is in use.
    fn parts() -> Parts {
        let mut uses = Uses::default();
        let value = frontend_value(Mode::Cluster, Affinity::None, Class::Exact(1), 1);
        let key = Value::new()
            .addr([10, 0, 0, 1].into())
            .proto(Protocol::Tcp)
            .port(80);
        uses.add(SetId::ServiceIps, &key, &Element::new(number(value)));
        uses.parts()
    }

    /// The rule that marks outsiders: the prefixes they are outside of.
    fn outside_of(pod_sources: &[&str]) -> Option<Vec<String>> {
        let shape = Shape::of(&Config::default());
        let prefixes: Vec<IpNet> = pod_sources.iter().filter_map(|p| p.parse().ok()).collect();
        assert_eq!(prefixes.len(), pod_sources.len());
        let table = table(&Outline {
            family: Family::Ip,
            shape: &shape,
            pod_sources: &prefixes,
            egress_sources: &[],
            parts: &parts(),
        });
        let marks = |s: &Statement| matches!(s, Statement::Action(Action::SetMark { .. }));
        let mut rules = table.chain("service").expect("a chain").rules.iter();
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
    fn no_rule_grows_with_the_number_of_prefixes() {
        let shape = Shape::of(&Config::default());
        let all: Vec<IpNet> = (0..5000_u32)
            .map(|n| {
                let net = std::net::Ipv4Addr::from(0x0a00_0000 + (n << 9));
                IpNet::new(net.into(), 24).expect("a prefix")
            })
            .collect();
        let of = |prefixes: &[IpNet]| {
            table(&Outline {
                family: Family::Ip,
                shape: &shape,
                pod_sources: prefixes,
                egress_sources: prefixes,
                parts: &parts(),
            })
        };
        assert_eq!(of(&all[..3]), of(&all));
        let rules = |table: crate::ruleset::Table| -> usize {
            table.chains.iter().map(|chain| chain.rules.len()).sum()
        };
        assert_eq!(rules(of(&all[..1])), rules(of(&all)));
    }

    #[test]
    fn nobody_is_an_outsider_where_pods_are_everywhere_or_unknown() {
        assert_eq!(outside_of(&["0.0.0.0/0"]), None);
        assert_eq!(outside_of(&[]), None);
    }
}
