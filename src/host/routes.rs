//! Routes to other nodes' pods: ours are told from others by their protocol number, so that
//! diff, repair and removal touch no other route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{RouteHeader, RouteProtocol, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::error::{HostError, Refusal};
use super::route_messages::{
    Decoded, Existing, decode, delete_route, dump_routes, look_up, new_route,
};
pub use super::route_plan::{LiveRoute, RouteDelta, plan};
use super::socket::{Request, Socket};
use crate::cluster::Family;
use crate::plan::Route;

/// `rtm_protocol` of our routes. The kernel gives values above RTPROT_STATIC (4) no meaning;
/// 178 is taken neither in linux/rtnetlink.h (… 42 babel, 99 openr, 186-189 and 192 routing
/// daemons) nor in iproute2's `rt_protos`, nor by FRR (up to 17 and 186-199) or
/// systemd-networkd. `ip route show proto 178` lists them.
pub const RTPROT_SVCNAT: u8 = 178;

/// Why one route could not be installed or removed. The others were.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The next hop is not a neighbour.
    #[error(
        "node {}: route to {} via {}: the next hop is not on link: no interface of this host \
         has a prefix that contains it ({reason})",
        route.node, route.destination, route.via
    )]
    NotOnLink {
        /// The route.
        route: Route,
        /// The kernel's answer.
        reason: Refusal,
    },
    /// The next hop is this host itself; the kernel would take it, and lose the packets.
    #[error(
        "node {}: route to {} via {}: the next hop is an address of this host itself",
        route.node, route.destination, route.via
    )]
    OwnAddress {
        /// The route.
        route: Route,
    },
    /// Somebody else routes the same destination.
    #[error(
        "node {}: route to {} via {}: there is already a route of another program, {foreign}, \
         which is left alone",
        route.node, route.destination, route.via
    )]
    Foreign {
        /// The route.
        route: Route,
        /// The other one.
        foreign: ForeignRoute,
    },
    /// Refused for another reason.
    #[error("node {}: route to {} via {}: {reason}", route.node, route.destination, route.via)]
    Refused {
        /// The route.
        route: Route,
        /// The kernel's answer.
        reason: Refusal,
    },
    /// A route of ours could not be removed.
    #[error("cannot remove the route {route}: {reason}")]
    Delete {
        /// The route.
        route: LiveRoute,
        /// The kernel's answer.
        reason: Refusal,
    },
}

/// Somebody else's route, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// What it says.
    pub route: LiveRoute,
    /// Its protocol number.
    pub protocol: u8,
    /// What becomes of packets, if they are not sent on: `blackhole`, `unreachable` and others.
    pub kind: Option<RouteType>,
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{} ", format!("{kind:?}").to_lowercase())?;
        }
        write!(f, "{} proto ", self.route)?;
        match RouteProtocol::from(self.protocol) {
            RouteProtocol::Other(number) => write!(f, "{number}"),
            known => f.write_str(&format!("{known:?}").to_lowercase()),
        }
    }
}

/// What `apply` did.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RouteReport {
    /// Routes added.
    pub added: usize,
    /// Routes whose next hop was replaced.
    pub replaced: usize,
    /// Routes removed.
    pub deleted: usize,
    /// What failed, route by route.
    pub errors: Vec<RouteError>,
}

impl RouteReport {
    /// Routes that were changed.
    #[must_use]
    pub const fn changed(&self) -> usize {
        self.added + self.replaced + self.deleted
    }

    /// What was done after that as well.
    pub fn extend(&mut self, later: Self) {
        self.added += later.added;
        self.replaced += later.replaced;
        self.deleted += later.deleted;
        self.errors.extend(later.errors);
    }
}

/// Where packets to a next hop go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Straight to it, out of the interface with this index.
    OnLink(u32),
    /// By way of another router: no next hop for our routes.
    Behind(IpAddr),
    /// It is an address of this host.
    Local,
    /// Nowhere.
    Unreachable,
}

/// Our routes in the main table, both families.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn list_ours() -> Result<BTreeSet<LiveRoute>, HostError> {
    let routes = dump(RouteProtocol::from(RTPROT_SVCNAT))?;
    Ok(routes
        .into_iter()
        .filter(|found| found.protocol == RTPROT_SVCNAT)
        .map(|found| found.route)
        .collect())
}

/// Carries out a delta. A route that cannot be installed is reported, the others are
/// installed all the same. A route of another program to the same destination is never
/// replaced or removed.
///
/// # Errors
/// If the kernel cannot be asked at all; refusals are in the report.
pub fn apply(delta: &RouteDelta) -> Result<RouteReport, HostError> {
    let mut report = RouteReport::default();
    if delta.is_empty() {
        return Ok(report);
    }
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let foreign = if delta.add.is_empty() && delta.replace.is_empty() {
        BTreeMap::new()
    } else {
        foreign_routes()?
    };
    // What stands in the way of an addition goes first; what nobody wants, last: pod CIDRs
    // that are cut anew then have a route throughout.
    let (in_the_way, unwanted): (Vec<&LiveRoute>, Vec<_>) =
        (delta.delete.iter()).partition(|route| delta.is_in_the_way(route));
    remove(&mut socket, &in_the_way, &mut report)?;
    let adds = delta.add.iter().map(|route| (route, Existing::Keep));
    let replacements = (delta.replace.iter()).map(|(_, route)| (route, Existing::Replace));
    for (route, existing) in adds.chain(replacements) {
        match install(&mut socket, route, existing, &foreign)? {
            Ok(()) if existing == Existing::Keep => report.added += 1,
            Ok(()) => report.replaced += 1,
            Err(error) => report.errors.push(error),
        }
    }
    remove(&mut socket, &unwanted, &mut report)?;
    Ok(report)
}

/// What would fail of a delta, as far as it can be known without trying: routes of other
/// programs to the same destination, and next hops that are this host itself.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn obstacles(delta: &RouteDelta) -> Result<Vec<RouteError>, HostError> {
    if delta.add.is_empty() && delta.replace.is_empty() {
        return Ok(Vec::new());
    }
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let foreign = foreign_routes()?;
    let mut found = Vec::new();
    let wanted = delta
        .add
        .iter()
        .chain(delta.replace.iter().map(|(_, new)| new));
    for route in wanted {
        found.extend(obstacle(&mut socket, route, &foreign)?);
    }
    Ok(found)
}

fn obstacle(
    socket: &mut Socket,
    route: &Route,
    foreign: &BTreeMap<IpNet, ForeignRoute>,
) -> Result<Option<RouteError>, HostError> {
    if let Some(foreign) = foreign.get(&route.destination.trunc()) {
        return Ok(Some(RouteError::Foreign {
            route: route.clone(),
            foreign: foreign.clone(),
        }));
    }
    let own = ask_next_hop(socket, route.via)? == NextHop::Local;
    Ok(own.then(|| RouteError::OwnAddress {
        route: route.clone(),
    }))
}

/// Where packets to `via` go, by the kernel's own routing.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn next_hop(via: IpAddr) -> Result<NextHop, HostError> {
    ask_next_hop(&mut Socket::open(NETLINK_ROUTE)?, via)
}

fn ask_next_hop(socket: &mut Socket, via: IpAddr) -> Result<NextHop, HostError> {
    Ok(match route_to(socket, via)? {
        None => NextHop::Unreachable,
        Some(found) => match (found.kind, found.route.via, found.interface) {
            (RouteType::Local, ..) => NextHop::Local,
            (RouteType::Unicast, None, Some(index)) => NextHop::OnLink(index),
            (RouteType::Unicast, Some(gateway), _) => NextHop::Behind(gateway),
            _ => NextHop::Unreachable,
        },
    })
}

/// True if `via` is a neighbour: a packet to it takes no further hop.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn on_link(via: IpAddr) -> Result<bool, HostError> {
    Ok(matches!(next_hop(via)?, NextHop::OnLink(_)))
}

/// The route the kernel takes to `addr`, `None` if it has none.
fn route_to(socket: &mut Socket, addr: IpAddr) -> Result<Option<Decoded>, HostError> {
    const WHAT: &str = "look up a route";
    match socket.request(WHAT, &look_up(addr)) {
        Ok(answers) => match answers.first() {
            Some(answer) => {
                decode(&answer.payload).map_err(|source| HostError::Decode { what: WHAT, source })
            }
            None => Ok(None),
        },
        // EACCES, EINVAL: prohibit and blackhole routes.
        Err(error)
            if matches!(
                error.refusal().map(|refusal| refusal.errno),
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL)
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Routes of the main table, of both families; the kernel filters by protocol if it can.
pub(super) fn dump(protocol: RouteProtocol) -> Result<Vec<Decoded>, HostError> {
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    socket.filter_dumps()?;
    let mut routes = Vec::new();
    for family in Family::ALL {
        let request: Request = dump_routes(family, protocol);
        let found = socket.dump("list routes", &request, |found, answer| {
            if answer.message_type == libc::RTM_NEWROUTE {
                found.extend(decode(&answer.payload)?);
            }
            Ok(())
        });
        match found {
            Ok(found) => routes.extend(found.into_iter().filter(|found| {
                found.table == u32::from(RouteHeader::RT_TABLE_MAIN) && !found.cloned
            })),
            // ENOENT: the table is still empty; EOPNOTSUPP: no IPv6 in this kernel.
            Err(error)
                if matches!(
                    error.refusal().map(|refusal| refusal.errno),
                    Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(routes)
}

/// Routes of others by destination.
fn foreign_routes() -> Result<BTreeMap<IpNet, ForeignRoute>, HostError> {
    let routes = dump(RouteProtocol::Unspec)?.into_iter();
    Ok(routes
        .filter(|found| found.protocol != RTPROT_SVCNAT)
        .map(|found| {
            let foreign = ForeignRoute {
                protocol: found.protocol,
                kind: (found.kind != RouteType::Unicast).then_some(found.kind),
                route: found.route,
            };
            (foreign.route.destination, foreign)
        })
        .collect())
}

fn install(
    socket: &mut Socket,
    route: &Route,
    existing: Existing,
    foreign: &BTreeMap<IpNet, ForeignRoute>,
) -> Result<Result<(), RouteError>, HostError> {
    if let Some(error) = obstacle(socket, route, foreign)? {
        return Ok(Err(error));
    }
    let refusal = match socket.request("add a route", &new_route(route, existing)) {
        Ok(_) => return Ok(Ok(())),
        Err(HostError::Refused { source, .. }) => source,
        Err(error) => return Err(error),
    };
    let route = route.clone();
    // IPv4 answers ENETUNREACH, IPv6 EHOSTUNREACH; EINVAL is one of many things.
    let unreachable = matches!(refusal.errno, libc::ENETUNREACH | libc::EHOSTUNREACH);
    Ok(Err(if unreachable {
        RouteError::NotOnLink {
            route,
            reason: refusal,
        }
    } else {
        RouteError::Refused {
            route,
            reason: refusal,
        }
    }))
}

fn remove(
    socket: &mut Socket,
    routes: &[&LiveRoute],
    report: &mut RouteReport,
) -> Result<(), HostError> {
    let requests: Vec<Request> = routes.iter().map(|route| delete_route(route)).collect();
    let results = socket.pipeline("remove routes", &requests)?;
    for (route, result) in routes.iter().zip(results) {
        match result {
            Ok(()) => report.deleted += 1,
            // Gone already, with its interface for example.
            Err(reason) if reason.errno == libc::ESRCH => {}
            Err(reason) => report.errors.push(RouteError::Delete {
                route: (*route).clone(),
                reason,
            }),
        }
    }
    Ok(())
}
