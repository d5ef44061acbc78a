//! What `svcnat check` finds on this host: ranges that overlap, next hops that are not on
//! link, settings that are missing, others that do the same job.
//!
//! Every finding names both sides of the conflict and what to do. Functions here are pure:
//! their callers bring what the host says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::interfaces::{Interface, Kind};
use super::others::proxied;
pub use super::process::{capability, has_cap_net_admin, nftables_listeners};
use super::routes::{ForeignRoute, NextHop, RTPROT_SVCNAT, RouteDelta};
use super::sysctl::Status;
use crate::plan::Route;
use crate::problem::Problem;

/// The dummy interface on which kube-proxy's ipvs mode keeps service addresses.
const KUBE_IPVS: &str = "kube-ipvs0";

/// Service ranges against the subnets of this host's interfaces: an address may mean one thing
/// only. Ranges against pod CIDRs are the plan's to compare.
#[must_use]
pub fn overlaps(service_ranges: &[IpNet], interfaces: &[Interface]) -> Vec<Problem> {
    let mut problems = Vec::new();
    // One that kube-proxy keeps for its own is named once, whatever addresses it has.
    if interfaces.iter().any(|i| i.name == KUBE_IPVS) {
        let object = format!("interface {KUBE_IPVS}");
        problems.push(proxied(&object, "", "ipvs"));
    }
    for range in service_ranges {
        for interface in interfaces.iter().filter(|i| i.name != KUBE_IPVS) {
            let nets = interface.addresses.iter().filter(|net| overlap(range, net));
            problems.extend(nets.map(|net| interface_overlap(range, interface, net)));
        }
    }
    problems
}

fn interface_overlap(range: &IpNet, interface: &Interface, net: &IpNet) -> Problem {
    let object = format!("service range {range}");
    let Interface { kind, name, .. } = interface;
    let single = net.prefix_len() == net.max_prefix_len();
    if single && *kind == Kind::Virtual {
        // A DNS cache on the node answers at the service's own address that way.
        let message =
            format!("address {net} of {kind} {name} is in it: this host answers there itself");
        let repair = format!("ip addr del {net} dev {name}, unless a cache for DNS has it");
        return Problem::warning(None, object, "", message).repaired_by(repair);
    }
    let message = format!(
        "overlaps the subnet {} of {kind} {name} ({net}): hosts there could not be reached",
        net.trunc()
    );
    Problem::error(None, object, "", message)
        .repaired_by("choose another service range or another subnet")
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.addr()) || b.contains(&a.addr())
}

/// Prefixes of pods against the subnets of this host's interfaces: those of this node may be on
/// one link, those of other `nodes` on none. `routed`: they are reached by routes of ours.
#[must_use]
pub fn pod_overlaps<'n>(
    own: &[IpNet],
    nodes: impl IntoIterator<Item = (&'n str, &'n IpNet)>,
    interfaces: &[Interface],
    routed: bool,
) -> Vec<Problem> {
    let subnets = || {
        let nets = interfaces.iter().flat_map(|interface| {
            let nets = interface.addresses.iter().copied();
            nets.map(move |net| (interface, net))
        });
        nets.filter(|(i, net)| i.kind != Kind::Loopback && net.prefix_len() < net.max_prefix_len())
    };
    let mut problems = Vec::new();
    for cidr in own {
        let links: BTreeSet<String> = subnets()
            .filter(|(_, net)| overlap(cidr, net))
            .map(|(i, net)| format!("{} {} ({net})", i.kind, i.name))
            .collect();
        if links.len() > 1 {
            let links: Vec<String> = links.into_iter().collect();
            let message = format!(
                "more than one link has addresses of it: {}; pods of one of them are not reached",
                links.join(", ")
            );
            let object = format!("pod CIDR {cidr} of this node");
            let repair = "give all but the pods' own link another subnet";
            problems.push(Problem::warning(None, object, "", message).repaired_by(repair));
        }
    }
    for (node, cidr) in nodes {
        for (interface, net) in subnets().filter(|(_, net)| overlap(cidr, net)) {
            let Interface { kind, name, .. } = interface;
            let object = format!("pod CIDR {cidr} of node {node}");
            let wider = net.prefix_len() < cidr.prefix_len();
            let overlaps = format!(
                "overlaps the subnet {} of {kind} {name} ({net})",
                net.trunc()
            );
            let problem = match wider {
                // One network of all pods, which somebody else routes.
                true if !routed => continue,
                true => Problem::warning(
                    None,
                    object,
                    "",
                    format!("{overlaps}: whoever is on that link looks for these pods there"),
                ),
                false => Problem::error(
                    None,
                    object,
                    "",
                    format!("{overlaps}: packets to these pods stay on that link"),
                ),
            };
            problems.push(problem.repaired_by("choose another subnet for that link"));
        }
    }
    problems
}

/// Routes of others that lead elsewhere what is ours: into a service range, or part of another
/// node's pods by another next hop than that node.
#[must_use]
pub fn routes_in_the_way<'n>(
    service_ranges: &[IpNet],
    nodes: impl IntoIterator<Item = (&'n str, &'n IpNet, &'n [IpAddr])> + Clone,
    others: &[ForeignRoute],
) -> Vec<Problem> {
    let part_of = |whole: &IpNet, part: &IpNet| {
        whole.contains(part) && part.prefix_len() > whole.prefix_len()
    };
    let mut problems = Vec::new();
    for other in others {
        let to = &other.route.destination;
        let mut found = |object: String, what: &str| {
            let problem = Problem::warning(None, object, "", format!("{what} ({other})"));
            let owner = format!("routing protocol {}", other.protocol_name());
            problems.push(problem.of(owner).repaired_by(format!("ip route del {to}")));
        };
        for range in service_ranges.iter().filter(|range| part_of(range, to)) {
            found(
                format!("service range {range}"),
                "another program routes part of it: hosts there are not reached",
            );
        }
        for (node, cidr, addresses) in nodes.clone() {
            let elsewhere = other.route.via.is_none_or(|via| !addresses.contains(&via));
            if part_of(cidr, to) && elsewhere {
                found(
                    format!("pod CIDR {cidr} of node {node}"),
                    "another program routes part of it elsewhere",
                );
            }
        }
    }
    problems
}

/// Routes of ours that are not as they should be. `installed`: our rules are there, so the
/// routes should be, too; `refused` are those that cannot be made.
#[must_use]
pub fn routes(delta: &RouteDelta, installed: bool, refused: &BTreeSet<IpNet>) -> Vec<Problem> {
    let replaced = (delta.replace.iter()).map(|(live, route)| (Some(live), route));
    let missing = delta.add.iter().map(|route| (None, route)).chain(replaced);
    let missing = missing.filter(|(_, route)| !refused.contains(&route.destination));
    let mut problems: Vec<Problem> = missing
        .map(|(live, route)| {
            let Route {
                destination,
                via,
                node,
            } = route;
            let object = format!("route {destination} via {via}");
            let is = live.map_or_else(
                || "is not there".to_owned(),
                |live| format!("is not so: {live} is there"),
            );
            let repair = format!(
                "ip route replace {destination} via {via} proto {RTPROT_SVCNAT}, as svcnat apply \
                 and check --fix do"
            );
            let problem = match installed {
                true => Problem::error(
                    None,
                    object,
                    "",
                    format!("{is}: packets to pods of node {node} go elsewhere"),
                ),
                false => Problem::notice(
                    None,
                    object,
                    format!("{is}, and will be with svcnat apply: to pods of node {node}"),
                ),
            };
            problem.repaired_by(repair)
        })
        .collect();
    problems.extend(delta.delete.iter().map(|live| {
        let object = format!("route {live}");
        let message = "is svcnat's, and no node among the inputs has these pods";
        Problem::notice(None, object, message).repaired_by("svcnat apply")
    }));
    problems
}

/// Routes whose next hop is no neighbour. `next_hop` is commonly
/// [`super::routes::next_hop`].
///
/// # Errors
/// Those of `next_hop`.
pub fn next_hops<E>(
    routes: impl IntoIterator<Item = Route>,
    mut next_hop: impl FnMut(IpAddr) -> Result<NextHop, E>,
) -> Result<Vec<Problem>, E> {
    let mut problems = Vec::new();
    let mut known: BTreeMap<IpAddr, NextHop> = BTreeMap::new();
    for route in routes {
        let Route {
            destination,
            via,
            node,
        } = &route;
        let hop = match known.get(via) {
            Some(hop) => *hop,
            None => next_hop(*via)?,
        };
        known.insert(*via, hop);
        let why = match hop {
            NextHop::OnLink(_) => None,
            NextHop::Behind(router) => Some(format!("it is behind router {router}")),
            NextHop::Local => Some("it is an address of this host itself".to_owned()),
            NextHop::Unreachable => {
                Some("no interface of this host has a prefix that contains it".to_owned())
            }
        };
        let repair = match hop {
            NextHop::Local => "give the node an address of its own",
            _ => {
                "let a router or an overlay network lead to the pods, and switch --manage-routes off"
            }
        };
        if let Some(why) = why {
            let problem = Problem::error(
                None,
                format!("node {node}"),
                "",
                format!("route to {destination}: next hop {via} is not on link: {why}"),
            );
            problems.push(problem.repaired_by(repair));
        }
    }
    Ok(problems)
}

/// Settings that are not as they need to be.
#[must_use]
pub fn sysctls(status: &[Status]) -> Vec<Problem> {
    let problem = |status: &Status| {
        let Status { setting, current } = status;
        let object = format!("sysctl {}", setting.name());
        let wanted = setting.wanted;
        let message = match current {
            Some(value) => format!("is {value}, expected {wanted}: {}", setting.reason),
            None => format!("is not there, expected {wanted}: {}", setting.reason),
        };
        let repair = match current {
            Some(_) => format!(
                "sysctl -w {}={wanted}, as --sysctls=apply and check --fix do",
                setting.name()
            ),
            None if setting.path.starts_with("net/bridge/") => "modprobe br_netfilter".to_owned(),
            None => "a kernel that has it".to_owned(),
        };
        let problem = if setting.essential {
            Problem::error(None, object, "", message)
        } else {
            Problem::warning(None, object, "", message)
        };
        problem.repaired_by(repair)
    };
    status
        .iter()
        .filter(|status| !status.is_met())
        .map(problem)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::cluster::Family;
    use crate::host::sysctl;
    use crate::problem::Severity;

    fn interface(name: &str, kind: Kind, net: &str) -> Interface {
        Interface {
            index: 2,
            name: name.into(),
            kind,
            up: true,
            mtu: 1500,
            master: None,
            peer: None,
            peer_namespace: None,
            hairpin: false,
            isolated: false,
            mac: None,
            addresses: vec![net.parse().unwrap()],
            default_route: BTreeSet::new(),
        }
    }

    fn found(kind: Kind, name: &str, net: &str) -> Vec<Problem> {
        let range = ["10.96.0.0/12".parse().unwrap()];
        overlaps(&range, &[interface(name, kind, net)])
    }

    #[test]
    fn a_service_range_that_overlaps_a_bridge_or_card_is_an_error_naming_both() {
        for (kind, name) in [(Kind::Bridge, "docker0"), (Kind::Physical, "eth0")] {
            let problems = found(kind, name, "10.100.0.1/16");
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].severity, Severity::Error);
            let text = problems[0].to_string();
            for part in ["10.96.0.0/12", "10.100.0.0/16", name] {
                assert!(text.contains(part), "{text}");
            }
        }
        assert!(found(Kind::Bridge, "docker0", "172.17.0.1/16").is_empty());
    }

    #[test]
    fn a_wider_subnet_around_the_service_range_overlaps_too() {
        assert_eq!(found(Kind::Physical, "eth0", "10.0.0.5/8").len(), 1);
    }

    #[test]
    fn a_single_service_address_on_a_dummy_is_a_warning() {
        for name in [KUBE_IPVS, "nodelocaldns"] {
            let problems = found(Kind::Virtual, name, "10.96.0.10/32");
            assert_eq!(problems[0].severity, Severity::Warning);
        }
    }

    #[test]
    fn a_next_hop_that_is_not_on_link_is_an_error_naming_the_node() {
        let route = |node: &str, destination: &str| Route {
            destination: destination.parse().unwrap(),
            via: "192.0.2.7".parse().unwrap(),
            node: node.into(),
        };
        let routes = [route("n2", "10.244.2.0/24")];
        for hop in [
            NextHop::Unreachable,
            NextHop::Local,
            NextHop::Behind("192.0.2.1".parse().unwrap()),
        ] {
            let problems = next_hops(routes.clone(), |_| Ok::<_, ()>(hop)).unwrap();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].object, "node n2");
        }
        let on_link = |_| Ok::<_, ()>(NextHop::OnLink(2));
        assert!(next_hops(routes, on_link).unwrap().is_empty());
    }

    #[test]
    fn a_host_that_does_not_forward_is_an_error() {
        let setting = sysctl::needed(&[Family::Ip], &[], &[]).remove(0);
        let status = |current: Option<&str>| Status {
            setting: setting.clone(),
            current: current.map(str::to_owned),
        };
        let problems = sysctls(&[status(Some("0")), status(Some("1")), status(None)]);
        assert_eq!(problems.len(), 2);
        assert!(problems[0].to_string().contains("net.ipv4.ip_forward"));
    }
}
