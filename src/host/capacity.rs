//! What of this host is used up, or will be: connection tracking, neighbours, ports that the
//! kernel hands out, the size of packets on their way to other nodes.
//!
//! Judging is pure; what is judged is read by the functions at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::HostError;
use super::interfaces::{Interface, Kind};
use super::sysctl::pod_bridge;
use crate::cluster::Family;
use crate::netlink::ExchangeError;
use crate::netlink::conntrack::{self, Stats};
use crate::netlink::exchange::Exchange;
use crate::netlink::neighbour::{self, Table};
use crate::netlink::route;
use crate::netlink::socket::Bus;
use crate::plan::{FrontendKey, NodePlan};
use crate::problem::Problem;

/// As of so many hundredths a table is said to be nearly full.
const NEARLY: u64 = 90;
/// Packets of no connection that are worth a word; a few there are everywhere.
const MANY_INVALID: u32 = 1000;

/// Connection tracking of this network namespace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracking {
    /// Tracked connections, and how many there may be; `None` if nothing is tracked yet.
    pub used: Option<(u64, u64)>,
    /// What it has counted.
    pub stats: Stats,
    /// Packets outside a TCP window are taken for part of their connection.
    pub liberal: bool,
}

/// How much of `most` is used, as a finding would say it: with true if all of it is.
fn fullness(used: u64, most: u64) -> Option<bool> {
    (most > 0 && used.saturating_mul(100) >= most.saturating_mul(NEARLY)).then_some(used >= most)
}

impl Tracking {
    /// What is wrong with it.
    #[must_use]
    pub fn problems(&self) -> Vec<Problem> {
        const OBJECT: &str = "connection tracking";
        let Stats {
            invalid,
            insert_failed,
            drop,
            early_drop,
        } = self.stats;
        let mut problems = Vec::new();
        let (count, max) = self.used.unwrap_or_default();
        let more = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2);
        let full = fullness(count, max);
        match full {
            Some(true) => problems.push(
                Problem::error(
                    None,
                    OBJECT,
                    "",
                    format!(
                        "the table is full: {count} of {max} connections are tracked, and new ones \
                         are dropped"
                    ),
                )
                .repaired_by(&more),
            ),
            Some(false) => problems.push(
                Problem::warning(
                    None,
                    OBJECT,
                    "",
                    format!("the table is nearly full: {count} of {max} connections are tracked"),
                )
                .repaired_by(&more),
            ),
            None => {}
        }
        if early_drop > 0 && full.is_none() {
            let message = format!(
                "the table has been full: {early_drop} connections were thrown out of it for others"
            );
            problems.push(Problem::warning(None, OBJECT, "", message).repaired_by(&more));
        }
        if drop > 0 || insert_failed > 0 {
            let message = format!(
                "{drop} packets were dropped and {insert_failed} connections came too late since \
                 this network namespace began: a full table, or two first packets of one flow at \
                 once, as some resolvers send them"
            );
            problems.push(Problem::notice(None, OBJECT, message).repaired_by("conntrack -S"));
        }
        if invalid >= MANY_INVALID && !self.liberal {
            let message = format!(
                "{invalid} packets were of no tracked connection since this network namespace \
                 began: what an endpoint answers outside a TCP window is not translated back, and \
                 its client resets the connection"
            );
            let repair = "sysctl -w net.netfilter.nf_conntrack_tcp_be_liberal=1";
            problems.push(Problem::notice(None, OBJECT, message).repaired_by(repair));
        }
        problems
    }
}

/// Tables of neighbours with no room left.
#[must_use]
pub fn neighbours(tables: &[Table]) -> Vec<Problem> {
    let one = |table: &Table| {
        let Table {
            family,
            entries,
            most,
        } = table;
        let full = fullness((*entries).into(), (*most).into())?;
        let version = match family {
            Family::Ip => "ipv4",
            Family::Ip6 => "ipv6",
        };
        let object = format!("neighbours ({version})");
        let message = format!(
            "{entries} of at most {most} are known on this machine: {}",
            if full {
                "nobody new is found on any link"
            } else {
                "soon nobody new is found on any link"
            }
        );
        let problem = if full {
            Problem::error(None, object, "", message)
        } else {
            Problem::warning(None, object, "", message)
        };
        let setting = format!("net.{version}.neigh.default.gc_thresh3");
        Some(problem.repaired_by(format!("sysctl -w {setting}={}", u64::from(*most) * 2)))
    };
    tables.iter().filter_map(one).collect()
}

/// Node ports and host ports among those that the kernel gives to sockets that ask for any:
/// `range` and `reserved` are `net.ipv4.ip_local_port_range` and `ip_local_reserved_ports`.
#[must_use]
pub fn ports(plan: &NodePlan, range: &str, reserved: &str) -> Option<Problem> {
    let mut bounds = range
        .split_whitespace()
        .filter_map(|n| n.parse::<u16>().ok());
    let (from, to) = (bounds.next()?, bounds.next()?);
    let spans: Vec<(u16, u16)> = reserved.split(',').filter_map(span).collect();
    let is_free = |port: &u16| {
        (from..=to).contains(port) && !spans.iter().any(|(a, b)| (*a..=*b).contains(port))
    };
    let ours = plan.families.iter().flat_map(|family| {
        let nodes = family.frontends.keys().filter_map(|key| match key {
            FrontendKey::NodePort(_, port) => Some(port.get()),
            FrontendKey::Address(..) => None,
        });
        nodes.chain(family.host_ports.keys().map(|key| key.port.get()))
    });
    let taken: BTreeSet<u16> = ours.filter(is_free).collect();
    if taken.is_empty() {
        return None;
    }
    let list = joined(&taken);
    let message = format!(
        "{from} to {to} has ports of ours in it ({list}): what others send to a socket of this \
         node that the kernel gave one of them goes to a Service or pod instead"
    );
    let both: Vec<&str> = [reserved.trim(), &list]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    let repair = format!(
        "sysctl -w net.ipv4.ip_local_reserved_ports={}",
        both.join(",")
    );
    let object = "sysctl net.ipv4.ip_local_port_range";
    Some(Problem::warning(None, object, "", message).repaired_by(repair))
}

/// `30000-32767` or `10250`.
fn span(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.trim().split_once('-').unwrap_or((text, text));
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}

/// `30080,30443-30445`.
fn joined(ports: &BTreeSet<u16>) -> String {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for port in ports {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            _ => spans.push((*port, *port)),
        }
    }
    let texts: Vec<String> = spans
        .into_iter()
        .map(|(from, to)| match from == to {
            true => from.to_string(),
            false => format!("{from}-{to}"),
        })
        .collect();
    texts.join(",")
}

/// Pods that send larger packets than the way to other nodes' pods takes. `nodes` are the
/// others with their pods' prefixes; `way` says by which interface packets go there, and what
/// the route itself has as the size of the largest.
///
/// # Errors
/// Those of `way`.
pub fn sizes<'n, E>(
    interfaces: &[Interface],
    pod_cidrs: &[IpNet],
    nodes: impl IntoIterator<Item = (&'n str, &'n IpNet)>,
    mut way: impl FnMut(IpAddr) -> Result<Option<(u32, Option<u32>)>, E>,
) -> Result<Vec<Problem>, E> {
    // By the narrowest place: its device, what it takes, what pods send, and by which link.
    let mut found: BTreeMap<(&str, u32, u32, &str), (&str, usize)> = BTreeMap::new();
    for (node, net) in nodes {
        let family = Family::of(&net.addr());
        let Some(pods) = largest(family, pod_cidrs, interfaces) else {
            continue;
        };
        let Some((index, mtu)) = way(net.network())? else {
            continue;
        };
        let Some(device) = interfaces.iter().find(|i| i.index == index) else {
            continue;
        };
        let takes = mtu.unwrap_or(device.mtu);
        if device.kind != Kind::Loopback && device.index != pods.index && takes < pods.mtu {
            let place = (&*device.name, takes, pods.mtu, &*pods.name);
            let seen = found.entry(place).or_insert((node, 0));
            seen.1 += usize::from(seen.0 != node);
        }
    }
    let told = found.into_iter().map(|(place, (node, others))| {
        let (device, takes, send, link) = place;
        let more = match others {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let message = format!(
            "takes packets of {takes} bytes by {device}, and pods of this node send up to {send} \
             (MTU of {link}): larger ones depend on ICMP that says so, and on who lets it through"
        );
        let repair = format!("give pods an MTU of {takes}, in the settings of their CNI plugin");
        let object = format!("the way to pods of node {node}{more}");
        Problem::warning(None, object, "", message).repaired_by(repair)
    });
    Ok(told.collect())
}

/// The interface of this node's pods that has the largest packets: a port of their bridge, else
/// a veth whose other end is elsewhere and that has no address of its own.
fn largest<'a>(
    family: Family,
    pod_cidrs: &[IpNet],
    interfaces: &'a [Interface],
) -> Option<&'a Interface> {
    let bridge = pod_bridge(family, pod_cidrs, interfaces);
    let of_pods = interfaces.iter().filter(|i| match bridge {
        Some(bridge) => i.index == bridge.index || i.master == Some(bridge.index),
        None => i.kind == Kind::Veth && i.master.is_none() && !i.addresses.iter().any(is_global),
    });
    of_pods.filter(|i| i.up).max_by_key(|i| i.mtu)
}

fn is_global(net: &IpNet) -> bool {
    match net.addr() {
        IpAddr::V4(addr) => !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_unicast_link_local(),
    }
}

/// Reads how connection tracking is.
///
/// # Errors
/// If the kernel cannot be asked what it has counted.
pub fn tracking() -> Result<Tracking, HostError> {
    let failed = HostError::of("ask what connection tracking has counted");
    let mut exchange = Exchange::open(Bus::Netfilter).map_err(&failed)?;
    let stats = match exchange.list(&conntrack::dump_stats(), conntrack::decode_stats) {
        Ok(stats) => stats.into_iter().sum(),
        // A kernel without ctnetlink: others say so who need it.
        Err(ExchangeError::Refused(_)) => Stats::default(),
        Err(error) => return Err(failed(error)),
    };
    Ok(Tracking {
        used: tracked(),
        stats,
        liberal: setting("netfilter/nf_conntrack_tcp_be_liberal").is_some_and(|v| v != "0"),
    })
}

/// Tracked connections, and how many there may be.
pub(super) fn tracked() -> Option<(u64, u64)> {
    let number = |name: &str| {
        setting(&format!("netfilter/nf_conntrack_{name}"))?
            .parse()
            .ok()
    };
    Some((number("count")?, number("max")?))
}

/// A setting below `net` of /proc/sys.
#[must_use]
pub fn setting(path: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    Some(text.trim().to_owned())
}

/// How full the tables of neighbours are.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn neighbour_tables() -> Result<Vec<Table>, HostError> {
    let failed = HostError::of("ask how many neighbours there are");
    let mut exchange = Exchange::open(Bus::Route).map_err(&failed)?;
    let tables = exchange.list(&neighbour::dump_tables(), neighbour::decode_table);
    tables.map_err(failed)
}

/// Asks the routing tables of this network namespace.
#[derive(Debug)]
pub struct Ways(Exchange);

impl Ways {
    /// Opens the socket.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn open() -> Result<Self, HostError> {
        let exchange = Exchange::open(Bus::Route).map_err(HostError::of("look up a route"))?;
        Ok(Self(exchange))
    }

    /// By which interface packets to an address leave, and the size of the largest that the
    /// route itself allows, if it says so; `None` if they do not leave.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn to(&mut self, address: IpAddr) -> Result<Option<(u32, Option<u32>)>, HostError> {
        let mut found = None;
        let answer = self.0.request(&route::look_up(address), |message| {
            found = route::decode(message)?;
            Ok(())
        });
        match answer {
            Ok(_) => Ok(found.and_then(|route: route::Route| {
                let unicast = route.kind == route::UNICAST;
                Some((route.interface.filter(|_| unicast)?, route.mtu))
            })),
            Err(ExchangeError::Refused(_)) => Ok(None),
            Err(error) => Err(HostError::of("look up a route")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Severity;

    fn tracking(used: (u64, u64), stats: Stats) -> Vec<Problem> {
        let tracking = Tracking {
            used: Some(used),
            stats,
            liberal: false,
        };
        tracking.problems()
    }

    #[test]
    fn a_table_of_connections_is_full_nearly_full_or_fine() {
        let severity = |count| {
            let found = tracking((count, 1000), Stats::default());
            found.first().map(|problem| problem.severity)
        };
        assert_eq!(severity(899), None);
        assert_eq!(severity(900), Some(Severity::Warning));
        assert_eq!(severity(1000), Some(Severity::Error));
        let found = tracking((1000, 1000), Stats::default());
        assert_eq!(
            found[0].repair,
            "sysctl -w net.netfilter.nf_conntrack_max=2000"
        );
        assert!(tracking((0, 0), Stats::default()).is_empty());
    }

    #[test]
    fn what_connection_tracking_lost_is_told_once_and_a_few_invalid_packets_are_not() {
        let stats = Stats {
            early_drop: 3,
            drop: 2,
            ..Stats::default()
        };
        let found = tracking((0, 1000), stats);
        let severities: Vec<Severity> = found.iter().map(|p| p.severity).collect();
        assert_eq!(severities, [Severity::Warning, Severity::Notice]);
        let found = tracking((1000, 1000), stats);
        assert_eq!(found[0].severity, Severity::Error);
        assert_eq!(found.len(), 2, "that it is full now says that it has been");
        let invalid = |invalid| {
            let stats = Stats {
                invalid,
                ..Stats::default()
            };
            tracking((0, 1000), stats)
        };
        assert!(invalid(999).is_empty());
        assert!(invalid(1000)[0].repair.contains("tcp_be_liberal=1"));
    }

    #[test]
    fn a_table_of_neighbours_is_full_nearly_full_or_fine() {
        let found = |entries| {
            neighbours(&[Table {
                family: Family::Ip6,
                entries,
                most: 1024,
            }])
        };
        assert!(found(921).is_empty());
        assert_eq!(found(922)[0].severity, Severity::Warning);
        assert_eq!(found(1024)[0].severity, Severity::Error);
        assert_eq!(
            found(1024)[0].repair,
            "sysctl -w net.ipv6.neigh.default.gc_thresh3=2048"
        );
    }

    #[test]
    fn ports_are_joined_to_spans() {
        let ports = BTreeSet::from([30_080, 30_443, 30_444, 65_535]);
        assert_eq!(joined(&ports), "30080,30443-30444,65535");
        assert_eq!(span("1-3"), Some((1, 3)));
        assert_eq!(span(" 7"), Some((7, 7)));
        assert_eq!(span(""), None);
    }
}
