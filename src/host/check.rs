//! What `svcnat check` finds on this host: ranges that overlap, next hops that are not on
//! link, settings that are missing, others that do the same job.
//!
//! Every finding names both sides of the conflict and what to do. Functions here are pure:
//! their callers bring what the host says.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::interfaces::{Interface, Kind};
pub use super::process::{capability, has_cap_net_admin, nftables_listeners};
use super::routes::NextHop;
use super::sysctl::Status;
use crate::plan::Route;
use crate::problem::Problem;

/// The dummy interface on which kube-proxy's ipvs mode keeps service addresses.
const KUBE_IPVS: &str = "kube-ipvs0";

/// A chain of somebody else's nftables table.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ForeignChain {
    /// nft's name of the family: `ip`, `ip6`, `inet`, ….
    pub family: String,
    /// The table.
    pub table: String,
    /// The chain; empty for a table without chains.
    pub chain: String,
    /// Hook of a base chain: `forward`.
    pub hook: Option<String>,
    /// True for a base chain with policy drop.
    pub policy_drop: bool,
}

/// Service ranges against pod CIDRs (with a name for each, as `node n1`) and against the
/// subnets of this host's interfaces: an address may mean one thing only.
#[must_use]
pub fn overlaps(
    service_ranges: &[IpNet],
    pod_cidrs: &[(String, IpNet)],
    interfaces: &[Interface],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for range in service_ranges {
        for (owner, cidr) in pod_cidrs.iter().filter(|(_, cidr)| overlap(range, cidr)) {
            problems.push(Problem::error(
                None,
                format!("service range {range}"),
                "",
                format!(
                    "overlaps pod CIDR {cidr} of {owner}: an address in both would be a \
                     service and a pod; choose ranges that do not overlap"
                ),
            ));
        }
        for interface in interfaces {
            let nets = interface.addresses.iter().filter(|net| overlap(range, net));
            problems.extend(nets.map(|net| interface_overlap(range, interface, net)));
        }
    }
    problems
}

fn interface_overlap(range: &IpNet, interface: &Interface, net: &IpNet) -> Problem {
    let object = format!("service range {range}");
    let Interface { kind, name, .. } = interface;
    if name == KUBE_IPVS {
        return Problem::warning(
            None,
            object,
            "",
            format!(
                "interface {name} holds service address {net}: kube-proxy in ipvs mode runs or \
                 ran here; stop it, then `kube-proxy --cleanup`"
            ),
        );
    }
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

/// Routes whose next hop is no neighbour, and pod CIDRs that two nodes claim. `next_hop` is
/// commonly [`super::routes::next_hop`].
///
/// # Errors
/// Those of `next_hop`.
pub fn next_hops<E>(
    routes: impl IntoIterator<Item = Route>,
    mut next_hop: impl FnMut(IpAddr) -> Result<NextHop, E>,
) -> Result<Vec<Problem>, E> {
    let mut problems = Vec::new();
    let mut known: BTreeMap<IpAddr, NextHop> = BTreeMap::new();
    let mut seen: Vec<Route> = Vec::new();
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
        if let Some(other) = seen
            .iter()
            .find(|other| overlap(&other.destination, destination))
        {
            problems.push(Problem::error(
                None,
                format!("node {node}"),
                "spec.podCIDRs",
                format!(
                    "{destination} overlaps {} of node {}: traffic can go to one only",
                    other.destination, other.node
                ),
            ));
        }
        seen.push(route);
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

/// Others that do the same job, or drop what services send: from everybody's nftables chains.
#[must_use]
pub fn foreign_tables(chains: &[ForeignChain]) -> Vec<Problem> {
    let mut problems = BTreeMap::new();
    for found in chains {
        let ForeignChain {
            family,
            table,
            chain,
            ..
        } = found;
        let message = if table == "kube-proxy" {
            "kube-proxy (nftables mode) translates services here as well: whoever comes first \
             decides; stop it, then `kube-proxy --cleanup`"
                .to_owned()
        } else if table == "nat" && chain == "KUBE-SERVICES" {
            "kube-proxy (iptables mode) translates services here as well: whoever comes first \
             decides; stop it, then `kube-proxy --cleanup`"
                .to_owned()
        } else if found.policy_drop && found.hook.as_deref() == Some("forward") {
            format!(
                "its chain {chain} drops forwarded packets by policy: pods and services get \
                 through only as far as its rules accept them"
            )
        } else {
            continue;
        };
        problems
            .entry((family, table, message.clone()))
            .or_insert_with(|| {
                Problem::warning(
                    None,
                    format!("nftables table {family} {table}"),
                    "",
                    message,
                )
            });
    }
    problems.into_values().collect()
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
            addresses: vec![net.parse().unwrap()],
            default_route: BTreeSet::new(),
        }
    }

    fn found(kind: Kind, name: &str, net: &str) -> Vec<Problem> {
        let range = ["10.96.0.0/12".parse().unwrap()];
        overlaps(&range, &[], &[interface(name, kind, net)])
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
    fn a_service_range_that_overlaps_a_pod_cidr_names_its_node() {
        let pods = [("node n2".to_owned(), "10.97.0.0/24".parse().unwrap())];
        let problems = overlaps(&["10.96.0.0/12".parse().unwrap()], &pods, &[]);
        assert!(problems[0].message.contains("node n2"), "{}", problems[0]);
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
        let twice = [route("n2", "10.244.2.0/24"), route("n3", "10.244.2.0/24")];
        assert_eq!(next_hops(twice, on_link).unwrap().len(), 1);
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

    #[test]
    fn kube_proxy_and_dropping_forward_chains_are_found() {
        let chain = |table: &str, chain: &str, hook: Option<&str>, policy_drop| ForeignChain {
            family: "ip".into(),
            table: table.into(),
            chain: chain.into(),
            hook: hook.map(str::to_owned),
            policy_drop,
        };
        let problems = foreign_tables(&[
            chain("kube-proxy", "services", None, false),
            chain("kube-proxy", "nat-prerouting", Some("prerouting"), false),
            chain("nat", "KUBE-SERVICES", None, false),
            chain("filter", "FORWARD", Some("forward"), true),
            chain("filter", "INPUT", Some("input"), true),
        ]);
        assert_eq!(problems.len(), 3, "{problems:?}");
    }
}
