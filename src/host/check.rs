//! What `svcnat check` finds on this host: ranges that overlap, next hops that are not on
//! link, settings that are missing, others that do the same job.
//!
//! Every finding names both sides of the conflict and what to do. Functions here are pure:
//! their callers bring what the host says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::interfaces::{Interface, Kind};
use super::others::proxy;
pub use super::process::{capability, has_cap_net_admin, nftables_listeners};
use super::routes::NextHop;
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
    let proxied = interfaces.iter().any(|i| i.name == KUBE_IPVS);
    if proxied {
        let object = format!("interface {KUBE_IPVS}");
        problems.push(Problem::warning(None, object, "", proxy("ipvs")));
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
        return Problem::warning(
            None,
            object,
            "",
            format!("address {net} of {kind} {name} is in it: this host answers there itself"),
        );
    }
    Problem::error(
        None,
        object,
        "",
        format!(
            "overlaps the subnet {} of {kind} {name} ({net}): hosts there could not be \
             reached; choose another service range or another subnet",
            net.trunc()
        ),
    )
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.addr()) || b.contains(&a.addr())
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
            NextHop::Behind(router) => Some(format!(
                "it is behind router {router}; let that router route the pod CIDR, or use an \
                 overlay network, and switch --manage-routes off"
            )),
            NextHop::Local => Some("it is an address of this host itself".to_owned()),
            NextHop::Unreachable => {
                Some("no interface of this host has a prefix that contains it".to_owned())
            }
        };
        if let Some(why) = why {
            problems.push(Problem::error(
                None,
                format!("node {node}"),
                "",
                format!("route to {destination}: next hop {via} is not on link: {why}"),
            ));
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
            Some(value) => format!(
                "is {value}, expected {wanted}: {}; set it, or use --sysctls=apply",
                setting.reason
            ),
            None => format!(
                "is not there, expected {wanted}: {}; load the kernel module that has it{}",
                setting.reason,
                if setting.path.starts_with("net/bridge/") {
                    " (br_netfilter)"
                } else {
                    ""
                }
            ),
        };
        if setting.essential {
            Problem::error(None, object, "", message)
        } else {
            Problem::warning(None, object, "", message)
        }
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
            master: None,
            peer: None,
            hairpin: false,
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
