//! Every frontend and host port of this node, asked by whom it is for, each packet over its whole way: what
//! ends it here besides our own rules.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::check::missing_routes;
use crate::cluster::{Family, Protocol};
use crate::config::Sysctls;
use crate::foreign::Rules;
use crate::host::HostError;
use crate::host::surroundings::Surroundings;
use crate::node::Node;
use crate::path::{self, At, Hop, Ours, State, follow};
use crate::plan::{FamilyPlan, FrontendKey, FrontendKind, Target};
use crate::problem::Problem;
use crate::ruleset::{Ruleset, Table};
use crate::walk::{Packet, walk};

/// Findings named at each point of the way; the rest are counted.
const NAMED: usize = 5;
/// Somebody outside: addresses that documentation uses and nobody has (RFC 5737, RFC 3849).
const OUTSIDE: [&str; 2] = ["198.51.100.1", "2001:db8::1"];

/// Something that is broken: where it is met with first, by whom, and the repair.
struct Broken {
    at: At,
    what: String,
    first: String,
    /// Whom it was asked for last, and how many besides the first.
    last: Asked,
    others: usize,
    owner: Option<String>,
    repair: Option<String>,
}

/// What a packet asks for.
type Asked = (IpAddr, Protocol, u16);

/// Findings, each cause once: by the sentence, or by the family that has no way out at all.
type Found = BTreeMap<Result<String, Family>, Broken>;

/// What was said before of the host.
struct Said {
    /// The node does not forward, by family.
    forwarding: Vec<Family>,
    /// Routes of ours that are missing.
    routes: Vec<IpNet>,
}

impl Said {
    fn look(inputs: &Node, host: &Surroundings) -> Result<Self, HostError> {
        let delta = missing_routes(inputs)?;
        let replaced = delta.replace.iter().map(|(_, route)| route);
        let missing = delta.add.iter().chain(replaced);
        let is_off = |family: &Family| {
            let path = match family {
                Family::Ip => "net/ipv4/ip_forward",
                Family::Ip6 => "net/ipv6/conf/all/forwarding",
            };
            path::Node::setting(host, path).is_some_and(|value| value.trim() == "0")
        };
        let looked_at = inputs.config.sysctls != Sysctls::Ignore;
        let families = Family::ALL.into_iter().filter(|_| looked_at);
        Ok(Self {
            forwarding: families.filter(is_off).collect(),
            routes: missing.map(|route| route.destination).collect(),
        })
    }

    /// True if a hop towards `to` shows no more than that.
    fn has(&self, at: At, to: IpAddr) -> bool {
        match at {
            At::Forwarding => self.forwarding.contains(&Family::of(&to)),
            At::Route(_) => self.routes.iter().any(|net| net.contains(&to)),
            _ => false,
        }
    }
}

/// Walks them. `desired` is what our rules are to be. O(frontends · endpoints · others' rules).
pub fn broken(inputs: &Node, desired: &Ruleset, others: Rules) -> Result<Vec<Problem>, HostError> {
    let mut host = Surroundings::new(others)?;
    host.looks_at_flows = false;
    let said = Said::look(inputs, &host)?;
    let mut found = Found::new();
    for plan in &inputs.plan.families {
        let Some(table) = desired.tables.get(&plan.family) else {
            continue;
        };
        let pods = &inputs.context.pod_cidrs;
        for (packet, whom) in packets(inputs, plan, &mut host) {
            let asked = (packet.destination, packet.protocol, packet.port);
            walked(&mut host, (table, pods), &packet, |to, hop| {
                if said.has(hop.at, to) {
                    return;
                }
                found
                    .entry(match hop.at {
                        At::Sent => Err(plan.family),
                        _ => Ok(hop.found.clone()),
                    })
                    .and_modify(|broken| {
                        broken.others += usize::from(broken.last != asked);
                        broken.last = asked;
                        broken.at = broken.at.min(hop.at);
                    })
                    .or_insert_with(|| Broken {
                        at: hop.at,
                        what: hop.found.clone(),
                        first: whom.clone(),
                        last: asked,
                        others: 0,
                        owner: hop.owner.clone(),
                        repair: hop.repair.clone(),
                    });
            });
        }
    }
    Ok(told(found))
}

/// Hands what ends a packet besides our rules to `broken`, with where it was going: nothing later
/// is looked at.
fn walked(
    host: &mut Surroundings,
    (table, pods): (&Table, &[IpNet]),
    packet: &Packet,
    mut broken: impl FnMut(IpAddr, &Hop),
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
    let legs = path.legs.iter().map(|leg| {
        let to = leg.to.map_or(packet.destination, |to| to.addr);
        (to, &leg.hops)
    });
    for (to, hops) in std::iter::once((packet.destination, &path.hops)).chain(legs) {
        // What our rules refuse is the inputs' business, and the client is one of many.
        let mut hops = hops.iter().filter(|hop| hop.at != At::Client);
        let ends = hops.find(|hop| hop.state == State::Broken);
        if let Some(hop) = ends.filter(|hop| hop.at != At::Svcnat) {
            broken(to, hop);
        }
    }
}

/// A packet for each frontend and host port that somebody serves, from each kind of client that it is for.
fn packets(inputs: &Node, plan: &FamilyPlan, host: &mut Surroundings) -> Vec<(Packet, String)> {
    let pod = a_pod(inputs, plan.family).or_else(|| made_up(inputs, plan.family, host));
    let node = own_address(inputs, plan.family);
    let outside = OUTSIDE
        .iter()
        .filter_map(|text| text.parse::<IpAddr>().ok());
    let outside = outside
        .filter(|address| Family::of(address) == plan.family)
        .find(|address| host.leads_to(*address));
    let mut out = Vec::new();
    let mut ask = |to: Asked, what: &str, for_outside: bool| {
        let mut add = |source: IpAddr, whom: &str, from_node: bool| {
            let packet = Packet {
                source,
                destination: to.0,
                protocol: to.1,
                port: to.2,
                iif: None,
                from_node,
            };
            out.push((packet, format!("{whom} to {what}")));
        };
        if let Some((address, name)) = &pod {
            add(*address, name, false);
        }
        if let Some(address) = node {
            add(address, "of this node", true);
        }
        if let Some(address) = outside.filter(|_| for_outside) {
            add(address, "from outside", false);
        }
    };
    for (key, frontend) in &plan.frontends {
        if matches!(frontend.target, Target::Reject | Target::Drop) {
            continue;
        }
        let to = match key {
            FrontendKey::Address(address, ..) => Some(*address),
            FrontendKey::NodePort(..) => node,
        };
        let is_external = frontend.kind != FrontendKind::ClusterIp;
        let for_outside = is_external && frontend.source_ranges.is_none();
        if let Some(to) = to {
            let what = format!("{key} of Service {}", frontend.owner.service);
            ask((to, key.protocol(), key.port().get()), &what, for_outside);
        }
    }
    for (key, host_port) in &plan.host_ports {
        // One at 127.0.0.1 is for this node alone.
        if let Some(to) = key.addr.or(node).filter(|to| !to.is_loopback()) {
            let (port, protocol) = (key.port.get(), key.protocol);
            let what = format!("hostPort {port}/{protocol} of Pod {}", host_port.owner);
            ask((to, protocol, port), &what, true);
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

/// Some pod on the bridge of this node's pods, where no Pod is known.
fn made_up(inputs: &Node, family: Family, host: &Surroundings) -> Option<(IpAddr, String)> {
    let net = host.pod_subnet(family, &inputs.context.pod_cidrs)?;
    let candidates = (2..=254).rev().filter_map(|n| {
        let address = match net.network() {
            IpAddr::V4(base) => IpAddr::from((u32::from(base).checked_add(n)?).to_be_bytes()),
            IpAddr::V6(base) => {
                IpAddr::from((u128::from(base).checked_add(n.into())?).to_be_bytes())
            }
        };
        (net.contains(&address) && address != net.broadcast()).then_some(address)
    });
    let mut candidates = candidates.filter(|address| !path::Node::is_local(host, *address));
    let address = candidates.next()?;
    Some((address, format!("from a pod, say {address},")))
}

fn own_address(inputs: &Node, family: Family) -> Option<IpAddr> {
    let mut addresses = inputs.context.addresses.iter();
    addresses
        .find(|address| Family::of(address) == family)
        .copied()
}

fn told(found: Found) -> Vec<Problem> {
    let mut found: Vec<Broken> = found.into_values().collect();
    found.sort_by_key(|broken| broken.at);
    let mut by_place: BTreeMap<At, usize> = BTreeMap::new();
    let mut problems = Vec::new();
    for broken in found {
        let at = broken.at;
        let count = by_place.entry(at).or_default();
        *count += 1;
        if *count > NAMED {
            continue;
        }
        let others = match broken.others {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let object = format!("packets {}{others}", broken.first);
        let problem = match at {
            // Whether anybody on this node asks is not known.
            At::Sent => Problem::warning(None, object, at.to_string(), broken.what),
            _ => Problem::error(None, object, at.to_string(), broken.what),
        };
        problems.push(
            problem
                .of(broken.owner.unwrap_or_default())
                .repaired_by(broken.repair.unwrap_or_default()),
        );
    }
    for (at, count) in by_place {
        if let Some(more) = count.checked_sub(NAMED).filter(|more| *more > 0) {
            let message = format!("{more} more are broken there");
            let problem = Problem::error(None, "packets", at.to_string(), message);
            problems.push(problem.repaired_by("svcnat explain --live"));
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
                at: At::Route(false),
                what: format!("no way to {n}"),
                first: format!("from Pod default/a to {n}"),
                last: ([10, 0, 0, 1].into(), Protocol::Tcp, 80),
                others: 2,
                owner: None,
                repair: Some("ip route add".to_owned()),
            };
            (Ok(format!("{n}")), value)
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
