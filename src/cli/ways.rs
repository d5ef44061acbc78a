//! Every frontend of this node, asked by whom it is for, each packet over its whole way: what
//! ends it here besides our own rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::Family;
use crate::config::Sysctls;
use crate::foreign::Rules;
use crate::host::HostError;
use crate::host::surroundings::Surroundings;
use crate::node::Node;
use crate::path::{self, At, Ours, State, follow};
use crate::plan::{FamilyPlan, FrontendKey, FrontendKind, Target};
use crate::problem::Problem;
use crate::ruleset::{Ruleset, Table};
use crate::walk::{Packet, walk};

/// Findings named at each point of the way; the rest are counted.
const NAMED: usize = 5;
/// Somebody outside: addresses that documentation uses and nobody has (RFC 5737, RFC 3849).
const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

/// What is broken at one point: what was found, who would meet with it, and the repair.
struct Broken {
    first: String,
    others: usize,
    repair: Option<String>,
}

/// Walks them. `desired` is what our rules are to be. O(frontends · endpoints · others' rules).
pub fn broken(inputs: &Node, desired: &Ruleset, others: Rules) -> Result<Vec<Problem>, HostError> {
    let mut host = Surroundings::new(others)?;
    host.looks_at_flows = false;
    // Otherwise settings are looked at by themselves.
    let forwarding = inputs.config.sysctls == Sysctls::Ignore;
    let mut found: BTreeMap<(At, String), Broken> = BTreeMap::new();
    for plan in &inputs.plan.families {
        let Some(table) = desired.tables.get(&plan.family) else {
            continue;
        };
        let pods = &inputs.context.pod_cidrs;
        for (packet, whom) in packets(inputs, plan, &mut host) {
            walked(&mut host, (table, pods), &packet, |at, what, repair| {
                if at == At::Forwarding && !forwarding {
                    return;
                }
                found
                    .entry((at, what))
                    .and_modify(|broken| broken.others += 1)
                    .or_insert_with(|| Broken {
                        first: whom.clone(),
                        others: 0,
                        repair,
                    });
            });
        }
    }
    Ok(told(found))
}

/// Hands what ends a packet besides our rules to `broken`: nothing later is looked at.
fn walked(
    host: &mut Surroundings,
    (table, pods): (&Table, &[IpNet]),
    packet: &Packet,
    mut broken: impl FnMut(At, String, Option<String>),
) {
    let trace = {
        let host: &Surroundings = host;
        walk(table, packet, &|address| {
            path::Node::is_local(host, address)
        })
    };
    let ours = Ours {
        table,
        trace: &trace,
        reason: "",
        expected: true,
        pods,
        altered: false,
    };
    let path = follow(host, packet, &ours);
    let ways = std::iter::once(&path.hops).chain(path.legs.iter().map(|leg| &leg.hops));
    for hops in ways {
        // What our rules refuse is the inputs' business.
        let ends = hops.iter().find(|hop| hop.state == State::Broken);
        if let Some(hop) = ends.filter(|hop| hop.at != At::Svcnat) {
            broken(hop.at, hop.found.clone(), hop.repair.clone());
        }
    }
}

/// A packet for each frontend that somebody serves, from each kind of client that it is for.
fn packets(inputs: &Node, plan: &FamilyPlan, host: &mut Surroundings) -> Vec<(Packet, String)> {
    let pod = a_pod(inputs, plan.family);
    let node = own_address(inputs, plan.family);
    let outside = OUTSIDE
        .iter()
        .filter_map(|text| text.parse::<IpAddr>().ok());
    let outside = outside
        .filter(|address| Family::of(address) == plan.family)
        .find(|address| host.leads_to(*address));
    let mut out = Vec::new();
    for (key, frontend) in &plan.frontends {
        if matches!(frontend.target, Target::Reject | Target::Drop) {
            continue;
        }
        let to = match key {
            FrontendKey::Address(address, ..) => Some(*address),
            FrontendKey::NodePort(..) => node,
        };
        let Some(to) = to else { continue };
        let service = &frontend.owner.service;
        let mut add = |source: IpAddr, whom: &str| {
            let packet = Packet {
                source,
                destination: to,
                protocol: key.protocol(),
                port: key.port().get(),
                iif: None,
                from_node: false,
            };
            out.push((packet, format!("{whom} to {key} of Service {service}")));
        };
        if let Some((address, name)) = &pod {
            add(*address, name);
        }
        if frontend.kind != FrontendKind::ClusterIp
            && frontend.source_ranges.is_none()
            && let Some(address) = outside
        {
            add(address, "from outside");
        }
    }
    out
}

/// A pod of this node with an address of its own, and what it is called.
fn a_pod(inputs: &Node, family: Family) -> Option<(IpAddr, String)> {
    let mut pods = inputs.cluster.pods.values().filter(|pod| {
        let here = pod.node_name.as_deref() == Some(inputs.context.name.as_str());
        here && !pod.host_network && !pod.finished
    });
    pods.find_map(|pod| {
        let mut addresses = pod.addresses.iter();
        let address = addresses.find(|address| Family::of(address) == family)?;
        Some((*address, format!("from Pod {}", pod.name)))
    })
}

fn own_address(inputs: &Node, family: Family) -> Option<IpAddr> {
    let mut addresses = inputs.context.addresses.iter();
    addresses
        .find(|address| Family::of(address) == family)
        .copied()
}

fn told(found: BTreeMap<(At, String), Broken>) -> Vec<Problem> {
    let mut by_place: BTreeMap<At, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for ((at, what), broken) in found {
        let count = by_place.entry(at).or_default();
        *count += 1;
        if *count > NAMED {
            continue;
        }
        let others = match broken.others {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let repair = broken
            .repair
            .map_or_else(String::new, |repair| format!("; {repair}"));
        let object = format!("packets {}{others}", broken.first);
        problems.push(Problem::error(
            None,
            object,
            at.to_string(),
            format!("{what}{repair}"),
        ));
    }
    for (at, count) in by_place {
        if let Some(more) = count.checked_sub(NAMED).filter(|more| *more > 0) {
            let message = format!("{more} more are broken there: svcnat explain --live");
            problems.push(Problem::error(None, "packets", at.to_string(), message));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_findings_at_one_place_are_counted() {
        let broken = |n: usize| {
            let value = Broken {
                first: format!("from Pod default/a to {n}"),
                others: 2,
                repair: Some("ip route add".to_owned()),
            };
            ((At::Route(false), format!("no way to {n}")), value)
        };
        let problems = told((0..8).map(broken).collect());
        assert_eq!(problems.len(), NAMED + 1);
        let text = problems[0].to_string();
        assert!(
            text.contains("from Pod default/a to 0 and 2 more"),
            "{text}"
        );
        assert!(text.contains("no way to 0; ip route add"), "{text}");
        assert!(problems[NAMED].to_string().contains("3 more"));
    }
}
