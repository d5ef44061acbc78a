//! What is kept of an installation: what it changed, and what it left.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::fingerprint::Fingerprint;
use super::tables::TablesBack;
use crate::host::routes::{LiveRoute, RouteDelta, plan};
use crate::host::sysctl::Changed;
use crate::plan::Route;
use std::collections::BTreeSet;

/// All that an installation changes and that can be put back. What packets made (tracked
/// flows, remembered clients) cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Back {
    /// Our tables.
    pub tables: TablesBack,
    /// Our routes.
    pub routes: RoutesBack,
    /// Kernel settings.
    pub settings: Vec<SettingBack>,
}

impl Back {
    /// True if nothing was changed that could be put back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.routes.0.is_empty() && self.settings.is_empty()
    }
}

/// Destinations whose routes change, with those there were and the next hop there is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutesBack(BTreeMap<IpNet, (Vec<KeptRoute>, Option<IpAddr>)>);

/// A route as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptRoute {
    via: Option<IpAddr>,
    metric: u32,
}

impl RoutesBack {
    /// What leads back from what `delta` changes. O(delta).
    #[must_use]
    pub fn of(delta: &RouteDelta) -> Self {
        let mut all: BTreeMap<IpNet, (Vec<KeptRoute>, Option<IpAddr>)> = BTreeMap::new();
        let replaced = delta.replace.iter().map(|(live, _)| live);
        for live in delta.delete.iter().chain(replaced) {
            let kept = KeptRoute {
                via: live.via,
                metric: live.metric,
            };
            all.entry(live.destination).or_default().0.push(kept);
        }
        let new = delta.replace.iter().map(|(_, route)| route);
        for route in delta.add.iter().chain(new) {
            all.entry(route.destination.trunc()).or_default().1 = Some(route.via);
        }
        Self(all)
    }

    /// The steps back from these routes of ours, and what cannot be done, in words: a route
    /// that we never make, with several next hops or another metric.
    #[must_use]
    pub fn steps(&self, live: &BTreeSet<LiveRoute>) -> (RouteDelta, Vec<String>) {
        let touched = live
            .iter()
            .filter(|r| self.0.contains_key(&r.destination.trunc()));
        let touched: BTreeSet<LiveRoute> = touched.cloned().collect();
        let (mut wanted, mut lost) = (BTreeSet::new(), Vec::new());
        for (destination, (before, _)) in &self.0 {
            for route in before {
                let kept = LiveRoute {
                    destination: *destination,
                    via: route.via,
                    metric: route.metric,
                };
                match route.via {
                    Some(via) if kept.is_plain() => drop(wanted.insert(Route {
                        destination: *destination,
                        via,
                        node: "that it was before".to_owned(),
                    })),
                    _ => lost.push(format!("the route {kept} was none of our making")),
                }
            }
        }
        (plan(&wanted, &touched), lost)
    }

    /// What of these routes is not as it was left, in words.
    #[must_use]
    pub fn differences(&self, live: &BTreeSet<LiveRoute>) -> Vec<String> {
        let mut found = Vec::new();
        for (destination, (_, via)) in &self.0 {
            let now: Vec<&LiveRoute> = (live.iter())
                .filter(|r| r.destination.trunc() == *destination)
                .collect();
            let same = match (&now[..], via) {
                ([], None) => true,
                ([one], Some(via)) => one.via == Some(*via),
                _ => false,
            };
            if !same {
                found.push(format!("the route to {destination} differs"));
            }
        }
        found
    }
}

/// A kernel setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingBack {
    /// Path below `/proc/sys`.
    pub path: String,
    /// What it was.
    pub before: String,
    /// What it was set to.
    pub after: String,
}

impl From<&Changed> for SettingBack {
    fn from(changed: &Changed) -> Self {
        Self {
            path: changed.setting.path.to_owned(),
            before: changed.old.clone(),
            after: changed.setting.wanted.to_owned(),
        }
    }
}

/// Who waits for a confirmation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// The guardian's process id.
    pub pid: i32,
    /// When it started, in clock ticks since the machine did: with the id, nobody else's.
    pub started: u64,
    /// When it puts the state before back, in seconds since 1970.
    pub until: i64,
}

/// What is kept of the last installation that changed something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which start of the machine it was.
    pub boot_id: String,
    /// Which network namespace it was.
    pub namespace: u64,
    /// When, in seconds since 1970.
    pub made: i64,
    /// What it did, in words.
    pub summary: String,
    /// The kernel's generation afterwards; 0 if it is not done, or that is not known.
    pub generation: u32,
    /// What our tables held afterwards.
    pub after: Fingerprint,
    /// What it changed.
    pub back: Back,
    /// Who waits, if it is not confirmed.
    pub waiting: Option<Waiting>,
}
