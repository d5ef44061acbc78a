//! Which tracked flows are stale once a new plan is in force. Pure; UDP and SCTP only: a TCP
//! connection to a vanished endpoint ends by itself, and one to a terminating endpoint is to
//! be finished (kube-proxy-behaviour L6).
//!
//! Beyond kube-proxy this covers deleted services, services without endpoints left, host
//! ports that moved to another pod, and frontends that are new (Z1, Z6); and node ports only
//! at this node's own addresses (Z2). SCTP is included because its entries outlive an
//! endpoint for days, and an association cannot move to another one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::conntrack::{Flow, StaleFlow};
use crate::cluster::{Family, Protocol};
use crate::compile::{SetId, frontend_key_of};
use crate::plan::{
    Endpoint, FamilyPlan, FrontendKey, ListKey, NodePlan, ServicePortKey, Serving, Target, View,
    is_kept,
};
use crate::transaction::{Operation, Transaction};

/// What besides the plans decides.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// This node's own addresses, loopback included: where node ports and host ports answer.
    pub local_addresses: &'a BTreeSet<IpAddr>,
    /// Flows to these stay: readiness, policy and topology decide about new flows only (L4).
    /// Endpoints in the plan's lists need not be here.
    pub serving: &'a Serving,
}

/// Address, protocol and port, as in the original direction of a flow.
pub type FrontendAddress = (IpAddr, Protocol, u16);

/// All that is behind an address and port of this node or of a service.
#[derive(Default)]
struct Behind {
    /// Endpoints a flow may lead to: those it leads new ones to, under any policy, and those
    /// that serve the service port, which a flow that has one keeps.
    endpoints: BTreeSet<Endpoint>,
    /// True if it leads somewhere now.
    open: bool,
}

/// What became stale by going from one plan to another: flows to endpoints that are no more,
/// and flows that passed a frontend untranslated before it had endpoints.
///
/// Both plans, each with what was or is besides it, may be cut down to the frontends that
/// changed, with their lists. An endpoint that left the lists while it still served is stale
/// only now that it no longer does.
#[must_use]
pub fn stale_after(
    (previous, then): (&NodePlan, &Context<'_>),
    (desired, now): (&NodePlan, &Context<'_>),
) -> Vec<StaleFlow> {
    let before = by_address(previous, then);
    let after = by_address(desired, now);
    let closed = Behind::default();
    let mut stale = Vec::new();
    for (key, old) in &before {
        let new = after.get(key).unwrap_or(&closed);
        for endpoint in &old.endpoints {
            if !new.endpoints.contains(endpoint) {
                stale.push(stale_flow(key, endpoint.addr, endpoint.port.get()));
            }
        }
    }
    for (key, new) in &after {
        // One that is closed refuses first packets only: a flow from before it goes on.
        if before.get(key).is_none_or(|old| new.open && !old.open) {
            stale.push(stale_flow(key, key.0, key.2));
        }
    }
    stale
}

/// The frontends and host ports that `delta` takes out of the kernel, or replaces.
#[must_use]
pub fn closed(
    delta: &Transaction,
    local_addresses: &BTreeSet<IpAddr>,
) -> BTreeSet<FrontendAddress> {
    let mut by_address = BTreeSet::new();
    for table in &delta.tables {
        for operation in &table.operations {
            let Operation::DeleteElements(name, elements) = operation else {
                continue;
            };
            let Some(set) = table.sets.get(name).filter(|set| is_frontend(&set.name)) else {
                continue;
            };
            for key in elements
                .iter()
                .filter_map(|(key, _)| frontend_key_of(set, key))
            {
                let (protocol, port) = (key.protocol(), key.port().get());
                match key {
                    FrontendKey::Address(addr, ..) => {
                        by_address.insert((addr, protocol, port));
                    }
                    FrontendKey::NodePort(..) => by_address.extend(
                        local_of(table.family, local_addresses).map(|addr| (addr, protocol, port)),
                    ),
                }
            }
        }
    }
    by_address
}

fn is_frontend(set: &str) -> bool {
    matches!(
        SetId::named(set),
        Some(SetId::ServiceIps | SetId::ServiceNodeports | SetId::HostPorts | SetId::HostPortIps)
    )
}

/// Which of `flows`, a dump of the table, are stale under a plan when of the one before only
/// `closed` is known: at a first sync, or for a one-shot `apply`.
#[must_use]
pub fn stale_in(
    desired: &NodePlan,
    closed: &BTreeSet<FrontendAddress>,
    flows: Vec<Flow>,
    context: &Context<'_>,
) -> Vec<Flow> {
    let by_address = by_address(desired, context);
    let in_service_range = |addr: IpAddr| {
        let mut ranges = desired
            .families
            .iter()
            .flat_map(|plan| &plan.service_ranges);
        ranges.any(|range| range.contains(&addr))
    };
    let is_stale = |flow: &Flow| {
        let key = (flow.original.dst, flow.protocol, flow.original.dport);
        let untranslated = (flow.reply.src, flow.reply.sport) == (key.0, key.2);
        match by_address.get(&key) {
            // Translated if it leads somewhere; refused, as a new one would be, if not.
            Some(_) if untranslated => true,
            Some(behind) => {
                endpoint_of(flow).is_none_or(|endpoint| !behind.endpoints.contains(&endpoint))
            }
            // A service that is no more; the range is nobody else's to translate.
            None if untranslated => {
                in_service_range(key.0) && !context.local_addresses.contains(&key.0)
            }
            None => flow.is_dst_nat() && (in_service_range(key.0) || closed.contains(&key)),
        }
    };
    let concerned = flows.into_iter().filter(|flow| is_kept(flow.protocol));
    concerned.filter(is_stale).collect()
}

fn endpoint_of(flow: &Flow) -> Option<Endpoint> {
    Some(Endpoint {
        addr: flow.reply.src,
        port: flow.reply.sport.try_into().ok()?,
    })
}

fn stale_flow(
    &(addr, protocol, port): &FrontendAddress,
    reply_src: IpAddr,
    reply_sport: u16,
) -> StaleFlow {
    StaleFlow {
        family: Family::of(&addr),
        protocol,
        original_dst: Some(addr),
        original_dport: port,
        reply_src: Some(reply_src),
        reply_sport: Some(reply_sport),
    }
}

/// Every UDP and SCTP frontend of a plan. Where a host port and a node port claim the same one,
/// flows to the endpoints of either are good.
fn by_address(plan: &NodePlan, context: &Context<'_>) -> BTreeMap<FrontendAddress, Behind> {
    let mut by_address: BTreeMap<FrontendAddress, Behind> = BTreeMap::new();
    for family in &plan.families {
        for (key, frontend) in &family.frontends {
            if !is_kept(key.protocol()) {
                continue;
            }
            let endpoints = endpoints_of(family, &frontend.owner, context.serving);
            for addr in addresses(key, family, context.local_addresses) {
                let behind = by_address
                    .entry((addr, key.protocol(), key.port().get()))
                    .or_default();
                behind.endpoints.extend(&endpoints);
                behind.open |= leads_somewhere(&frontend.target);
            }
        }
        for (key, host_port) in &family.host_ports {
            if !is_kept(key.protocol) {
                continue;
            }
            let local = local_of(family.family, context.local_addresses);
            let addresses = key.addr.map_or_else(|| local.collect(), |addr| vec![addr]);
            for addr in addresses {
                let behind = by_address
                    .entry((addr, key.protocol, key.port.get()))
                    .or_default();
                behind.endpoints.insert(host_port.endpoint);
                behind.open = true;
            }
        }
    }
    by_address
}

/// The endpoints of a service port in any list, and those that serve: what a policy would not
/// choose now is still good for a flow that has it.
fn endpoints_of(
    family: &FamilyPlan,
    owner: &Arc<ServicePortKey>,
    serving: &Serving,
) -> BTreeSet<Endpoint> {
    let serving = serving.get(&**owner).into_iter().flatten().copied();
    let serving = serving.filter(|endpoint| Family::of(&endpoint.addr) == family.family);
    [View::Cluster, View::Local]
        .into_iter()
        .filter_map(|view| {
            let port = Arc::clone(owner);
            family.lists.get(&ListKey { port, view })
        })
        .flat_map(|list| list.endpoints.keys().copied())
        .chain(serving)
        .collect()
}

const fn leads_somewhere(target: &Target) -> bool {
    match target {
        Target::List(_) => true,
        Target::Split { outside, inside } => outside.is_some() || inside.is_some(),
        Target::Reject | Target::Drop => false,
    }
}

/// The addresses at which a frontend answers on this node.
fn addresses(key: &FrontendKey, family: &FamilyPlan, local: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    match key {
        FrontendKey::Address(addr, ..) => vec![*addr],
        FrontendKey::NodePort(..) => local_of(family.family, local)
            .filter(|addr| {
                let prefixes = &family.node_port_addresses;
                !addr.is_loopback() && prefixes.iter().any(|prefix| prefix.contains(addr))
            })
            .collect(),
    }
}

fn local_of(family: Family, local: &BTreeSet<IpAddr>) -> impl Iterator<Item = IpAddr> {
    local
        .iter()
        .copied()
        .filter(move |addr| Family::of(addr) == family)
}

#[cfg(test)]
mod tests;
