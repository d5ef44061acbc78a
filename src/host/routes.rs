//! Routes to other nodes' pods: ours are told from others by their protocol number, so that
//! diff, repair and removal touch no other route.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use super::error::HostError;
pub use super::route_plan::{LiveRoute, RouteDelta, plan};
use crate::cluster::Family;
use crate::netlink::exchange::Exchange;
use crate::netlink::route::{self, Existing};
use crate::netlink::socket::Bus;
use crate::netlink::{ExchangeError, Refusal};
use crate::plan::Route;

/// `rtm_protocol` of our routes. The kernel gives values above RTPROT_STATIC (4) no meaning;
/// 178 is taken neither in linux/rtnetlink.h (… 42 babel, 99 openr, 186-189 and 192 routing
/// daemons) nor in iproute2's `rt_protos`, nor by FRR (up to 17 and 186-199) or
/// systemd-networkd. `ip route show proto 178` lists them.
pub const RTPROT_SVCNAT: u8 = 178;
/// RTPROT_UNSPEC: whoever made them.
pub(super) const EVERY_PROTOCOL: u8 = 0;

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

impl RouteError {
    /// Where the route leads.
    #[must_use]
    pub const fn destination(&self) -> IpNet {
        match self {
            Self::NotOnLink { route, .. }
            | Self::OwnAddress { route }
            | Self::Foreign { route, .. }
            | Self::Refused { route, .. } => route.destination,
            Self::Delete { route, .. } => route.destination,
        }
    }
}

/// Somebody else's route, for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRoute {
    /// What it says.
    pub route: LiveRoute,
    /// Its protocol number.
    pub protocol: u8,
    /// RTN_*: what becomes of packets.
    pub kind: u8,
}

impl fmt::Display for ForeignRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind != route::UNICAST {
            write!(f, "{} ", route::kind_name(self.kind))?;
        }
        let protocol = route::protocol_name(self.protocol);
        write!(f, "{} proto {protocol}", self.route)
    }
}

impl ForeignRoute {
    /// Who made it, as iproute2 has it.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        route::protocol_name(self.protocol)
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
    let routes = dump(RTPROT_SVCNAT)?.into_iter();
    Ok(routes
        .filter(|found| found.protocol == RTPROT_SVCNAT)
        .map(live)
        .collect())
}

fn live(found: route::Route) -> LiveRoute {
    LiveRoute {
        destination: found.destination,
        via: found.via,
        metric: found.metric,
    }
}

fn open() -> Result<Exchange, HostError> {
    Exchange::open(Bus::Route).map_err(HostError::of("look at routes"))
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
    let mut exchange = open()?;
    let foreign = if delta.add.is_empty() && delta.replace.is_empty() {
        BTreeMap::new()
    } else {
        foreign_routes()?
    };
    // What stands in the way of an addition goes first; what nobody wants, last: pod CIDRs
    // that are cut anew then have a route throughout.
    let (in_the_way, unwanted): (Vec<&LiveRoute>, Vec<_>) =
        (delta.delete.iter()).partition(|route| delta.is_in_the_way(route));
    remove(&mut exchange, &in_the_way, &mut report)?;
    let adds = delta.add.iter().map(|route| (route, Existing::Keep));
    let replacements = (delta.replace.iter()).map(|(_, route)| (route, Existing::Replace));
    for (route, existing) in adds.chain(replacements) {
        match install(&mut exchange, route, existing, &foreign)? {
            Ok(()) if existing == Existing::Keep => report.added += 1,
            Ok(()) => report.replaced += 1,
            Err(error) => report.errors.push(error),
        }
    }
    remove(&mut exchange, &unwanted, &mut report)?;
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
    let mut exchange = open()?;
    let foreign = foreign_routes()?;
    let mut found = Vec::new();
    let wanted = delta
        .add
        .iter()
        .chain(delta.replace.iter().map(|(_, new)| new));
    for route in wanted {
        found.extend(obstacle(&mut exchange, route, &foreign)?);
    }
    Ok(found)
}

fn obstacle(
    exchange: &mut Exchange,
    route: &Route,
    foreign: &BTreeMap<IpNet, ForeignRoute>,
) -> Result<Option<RouteError>, HostError> {
    if let Some(foreign) = foreign.get(&route.destination.trunc()) {
        return Ok(Some(RouteError::Foreign {
            route: route.clone(),
            foreign: foreign.clone(),
        }));
    }
    let own = ask_next_hop(exchange, route.via)? == NextHop::Local;
    Ok(own.then(|| RouteError::OwnAddress {
        route: route.clone(),
    }))
}

/// Where packets to `via` go, by the kernel's own routing.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn next_hop(via: IpAddr) -> Result<NextHop, HostError> {
    ask_next_hop(&mut open()?, via)
}

fn ask_next_hop(exchange: &mut Exchange, via: IpAddr) -> Result<NextHop, HostError> {
    Ok(match route_to(exchange, via)? {
        None => NextHop::Unreachable,
        Some(found) => match (found.kind, found.via, found.interface) {
            (route::LOCAL, ..) => NextHop::Local,
            (route::UNICAST, None, Some(index)) => NextHop::OnLink(index),
            (route::UNICAST, Some(gateway), _) => NextHop::Behind(gateway),
            _ => NextHop::Unreachable,
        },
    })
}

/// The route the kernel takes to `addr`, `None` if it has none.
fn route_to(exchange: &mut Exchange, addr: IpAddr) -> Result<Option<route::Route>, HostError> {
    let mut found = None;
    let answer = exchange.request(&route::look_up(addr), |message| {
        found = route::decode(message)?;
        Ok(())
    });
    match answer {
        Ok(_) => Ok(found),
        // EACCES, EINVAL: prohibit and blackhole routes.
        Err(ExchangeError::Refused(refusal))
            if matches!(
                refusal.errno,
                Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(HostError::of("look up a route")(error)),
    }
}

/// Routes of the main table, of both families; the kernel filters by protocol if it can.
pub(super) fn dump(protocol: u8) -> Result<Vec<route::Route>, HostError> {
    let failed = HostError::of("list routes");
    let mut exchange = open()?;
    exchange.socket().filter_dumps().map_err(&failed)?;
    let mut routes = Vec::new();
    for family in Family::ALL {
        match exchange.list(&route::dump(family, protocol), route::decode) {
            Ok(found) => routes.extend(found),
            // ENOENT: the table is still empty; EOPNOTSUPP: no IPv6 in this kernel.
            Err(ExchangeError::Refused(refusal))
                if matches!(
                    refusal.errno,
                    Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT
                ) => {}
            Err(error) => return Err(failed(error)),
        }
    }
    routes.retain(|found| found.table == u32::from(route::MAIN_TABLE) && !found.cloned);
    Ok(routes)
}

/// Routes of others by destination.
fn foreign_routes() -> Result<BTreeMap<IpNet, ForeignRoute>, HostError> {
    let routes = others()?.into_iter();
    Ok(routes
        .map(|foreign| (foreign.route.destination, foreign))
        .collect())
}

/// Routes of others in the main table, both families.
fn others() -> Result<Vec<ForeignRoute>, HostError> {
    let routes = dump(EVERY_PROTOCOL)?.into_iter();
    Ok(routes
        .filter(|found| found.protocol != RTPROT_SVCNAT)
        .map(|found| ForeignRoute {
            protocol: found.protocol,
            kind: found.kind,
            route: live(found),
        })
        .collect())
}

/// Those that somebody made, and that the kernel did not make with an address.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn made_by_others() -> Result<Vec<ForeignRoute>, HostError> {
    let mut routes = others()?;
    routes.retain(|other| {
        other.protocol != route::BY_KERNEL && other.route.destination.prefix_len() > 0
    });
    Ok(routes)
}

fn install(
    exchange: &mut Exchange,
    route: &Route,
    existing: Existing,
    foreign: &BTreeMap<IpNet, ForeignRoute>,
) -> Result<Result<(), RouteError>, HostError> {
    if let Some(error) = obstacle(exchange, route, foreign)? {
        return Ok(Err(error));
    }
    let request = route::add(&route.destination, route.via, RTPROT_SVCNAT, existing);
    let refusal = match exchange.request(&request, |_| Ok(())) {
        Ok(_) => return Ok(Ok(())),
        Err(ExchangeError::Refused(refusal)) => refusal,
        Err(error) => return Err(HostError::of("add a route")(error)),
    };
    let route = route.clone();
    // IPv4 answers ENETUNREACH, IPv6 EHOSTUNREACH; EINVAL is one of many things.
    let unreachable = matches!(refusal.errno, Errno::ENETUNREACH | Errno::EHOSTUNREACH);
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
    exchange: &mut Exchange,
    routes: &[&LiveRoute],
    report: &mut RouteReport,
) -> Result<(), HostError> {
    let requests: Vec<_> = routes
        .iter()
        .map(|live| route::delete(&live.destination, live.via, live.metric, RTPROT_SVCNAT))
        .collect();
    let results = (exchange.pipeline(&requests)).map_err(HostError::of("remove routes"))?;
    for (route, result) in routes.iter().zip(results) {
        match result {
            Ok(()) => report.deleted += 1,
            // Gone already, with its interface for example.
            Err(reason) if reason.errno == Errno::ESRCH => {}
            Err(reason) => report.errors.push(RouteError::Delete {
                route: (*route).clone(),
                reason,
            }),
        }
    }
    Ok(())
}
