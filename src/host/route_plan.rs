//! Which routes of ours are missing, which lead elsewhere than they should, which are too
//! many. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::plan::Route;

/// The metric the kernel gives an IPv6 route that asks for none (IP6_RT_PRIO_USER in
/// linux/ipv6_route.h); an IPv4 route without one has metric 0.
const fn default_metric(destination: &IpNet) -> u32 {
    match destination {
        IpNet::V4(_) => 0,
        IpNet::V6(_) => 1024,
    }
}

/// A route of ours as the kernel holds it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LiveRoute {
    /// Destination.
    pub destination: IpNet,
    /// Next hop; `None` for a route without one or with several.
    pub via: Option<IpAddr>,
    /// Metric (priority): 0 or, in IPv6, 1024 unless somebody changed it.
    pub metric: u32,
}

impl LiveRoute {
    /// True if it is as we make them: one next hop, and the metric of a route without one.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.via.is_some() && self.metric == default_metric(&self.destination)
    }
}

impl fmt::Display for LiveRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        match self.via {
            Some(via) => write!(f, " via {via}"),
            None => Ok(()),
        }
    }
}

/// What is to be done to bring the kernel's routes to the desired ones.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RouteDelta {
    /// Routes that are missing.
    pub add: Vec<Route>,
    /// Routes with another next hop than the one there now.
    pub replace: Vec<(LiveRoute, Route)>,
    /// Routes of ours that nobody wants.
    pub delete: Vec<LiveRoute>,
}

impl RouteDelta {
    /// True if nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.replace.is_empty() && self.delete.is_empty()
    }

    /// True if `route` has to go before another one to the same destination can come.
    #[must_use]
    pub fn is_in_the_way(&self, route: &LiveRoute) -> bool {
        (self.add.iter()).any(|added| added.destination == route.destination)
    }

    /// What comes, with what stands in its way, and what is only to go: before and after the
    /// rules that lead there.
    #[must_use]
    pub fn split(mut self) -> (Self, Self) {
        let delete = std::mem::take(&mut self.delete);
        let (in_the_way, unwanted) = delete.into_iter().partition(|r| self.is_in_the_way(r));
        self.delete = in_the_way;
        let going = Self {
            delete: unwanted,
            ..Self::default()
        };
        (self, going)
    }
}

/// Pure: what to change so that `live` becomes `desired`. Of two desired routes to one
/// destination the first counts; `check` reports the other.
#[must_use]
pub fn plan(desired: &BTreeSet<Route>, live: &BTreeSet<LiveRoute>) -> RouteDelta {
    let mut delta = RouteDelta::default();
    let mut left: BTreeMap<IpNet, Vec<&LiveRoute>> = BTreeMap::new();
    for route in live {
        left.entry(route.destination.trunc())
            .or_default()
            .push(route);
    }
    let mut last = None;
    for route in desired {
        let destination = route.destination.trunc();
        if last.replace(destination) == Some(destination) {
            continue;
        }
        let mut found = left.remove(&destination).unwrap_or_default();
        // The kernel replaces by destination and metric; anything odd is removed instead.
        let plain = found.iter().position(|live| live.is_plain());
        match plain.map(|index| found.remove(index)) {
            Some(live) if live.via == Some(route.via) => {}
            Some(live) => delta.replace.push((live.clone(), route.clone())),
            None => delta.add.push(route.clone()),
        }
        delta.delete.extend(found.into_iter().cloned());
    }
    delta.delete.extend(left.into_values().flatten().cloned());
    delta
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(destination: &str, via: &str) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            via: via.parse().unwrap(),
            node: "n1".into(),
        }
    }

    fn have(destination: &str, via: Option<&str>, metric: u32) -> LiveRoute {
        LiveRoute {
            destination: destination.parse().unwrap(),
            via: via.map(|via| via.parse().unwrap()),
            metric,
        }
    }

    #[test]
    fn equal_routes_need_nothing() {
        let desired = BTreeSet::from([
            want("10.244.1.0/24", "192.0.2.7"),
            want("fd00:1::/64", "fd00::7"),
        ]);
        let live = BTreeSet::from([
            have("10.244.1.0/24", Some("192.0.2.7"), 0),
            have("fd00:1::/64", Some("fd00::7"), 1024),
        ]);
        assert!(plan(&desired, &live).is_empty());
    }

    #[test]
    fn a_changed_next_hop_is_replaced_and_an_unwanted_route_deleted() {
        let desired = BTreeSet::from([want("10.244.1.0/24", "192.0.2.8")]);
        let live = BTreeSet::from([
            have("10.244.1.0/24", Some("192.0.2.7"), 0),
            have("10.244.2.0/24", Some("192.0.2.7"), 0),
        ]);
        let delta = plan(&desired, &live);
        assert_eq!(delta.replace.len(), 1);
        assert_eq!(delta.delete, [have("10.244.2.0/24", Some("192.0.2.7"), 0)]);
        assert!(delta.add.is_empty());
    }

    #[test]
    fn what_comes_is_apart_from_what_only_goes() {
        let desired = BTreeSet::from([
            want("10.244.1.0/24", "192.0.2.7"),
            want("10.244.3.0/24", "192.0.2.8"),
        ]);
        let odd = have("10.244.1.0/24", None, 0);
        let live = BTreeSet::from([
            odd.clone(),
            have("10.244.2.0/24", Some("192.0.2.7"), 0),
            have("10.244.3.0/24", Some("192.0.2.7"), 0),
        ]);
        let (coming, going) = plan(&desired, &live).split();
        assert_eq!((coming.add.len(), coming.replace.len()), (1, 1));
        assert_eq!(coming.delete, [odd], "it stands in the way");
        assert_eq!(going.delete, [have("10.244.2.0/24", Some("192.0.2.7"), 0)]);
        assert!(going.add.is_empty() && going.replace.is_empty());
    }

    #[test]
    fn a_route_with_a_strange_metric_or_no_next_hop_gives_way_to_a_plain_one() {
        for odd in [
            have("10.244.1.0/24", Some("192.0.2.7"), 9),
            have("10.244.1.0/24", None, 0),
        ] {
            let desired = BTreeSet::from([want("10.244.1.0/24", "192.0.2.7")]);
            let delta = plan(&desired, &BTreeSet::from([odd.clone()]));
            assert_eq!(delta.add.len(), 1);
            assert_eq!(delta.delete, [odd]);
        }
    }

    #[test]
    fn of_two_nodes_with_one_pod_cidr_the_first_next_hop_counts() {
        let desired = BTreeSet::from([
            want("10.244.1.0/24", "192.0.2.7"),
            want("10.244.1.0/24", "192.0.2.8"),
        ]);
        let delta = plan(&desired, &BTreeSet::new());
        assert_eq!(delta.add, [want("10.244.1.0/24", "192.0.2.7")]);
    }
}
