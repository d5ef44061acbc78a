//! The guard against losing services by accident: an input that suddenly holds nothing, or far
//! less than is in force, is more often a folder that is not mounted, a pipe that failed or an
//! API server that answers short than a wish.
//!
//! Pure: who asks brings what there is, what there would be, and the time.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Slices};
use crate::compile::{SetId, endpoint_of};
use crate::ruleset::LiveRuleset;

/// So many endpoints may go at once without asking, however few there are.
pub const ALWAYS_ALLOWED: usize = 50;
/// A large loss is believed when a second reading, so much later, says the same.
pub const SECOND_READING: Duration = Duration::from_secs(2);
/// While a loss is held, inputs are read again after twice as long as the last time, but not
/// after more than this: a folder that is mounted over another one tells nobody.
const READ_LATEST: Duration = Duration::from_secs(10);

/// Sets of frontends, each element one address or port that answers.
const FRONTENDS: [&str; 2] = [
    SetId::ServiceIps.fixed_name(),
    SetId::ServiceNodeports.fixed_name(),
];
/// Sets of host ports.
const HOST_PORTS: [&str; 2] = [
    SetId::HostPorts.fixed_name(),
    SetId::HostPortIps.fixed_name(),
];
/// Maps that lead to endpoints.
pub(super) const ENDPOINTS: [&str; 2] = [
    SetId::Endpoints.fixed_name(),
    SetId::EndpointsLarge.fixed_name(),
];

/// How much an input holds, or the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Holding {
    /// Objects of any kind; of the kernel, frontends, host ports and routes.
    pub objects: usize,
    /// Services; of the kernel, frontends.
    pub services: usize,
    /// Endpoints of Services that exist, each counted once in its slice; of the kernel,
    /// addresses, so that this is never more than in the input it came from.
    pub endpoints: usize,
}

impl Holding {
    /// Of an input. O(slices).
    #[must_use]
    pub fn of_cluster(cluster: &Cluster) -> Self {
        let slices = cluster.slices.values().map(Slices::len).sum::<usize>();
        let others = cluster.pods.len() + cluster.nodes.len() + cluster.service_cidrs.len();
        let endpoints = cluster
            .services_with_slices()
            .flat_map(|(_, slices)| slices)
            .map(|slice| slice.endpoints.len())
            .sum();
        Self {
            objects: cluster.services.len() + slices + others + cluster.workloads.len(),
            services: cluster.services.len(),
            endpoints,
        }
    }

    /// Of the kernel, with so many routes of ours. O(elements).
    #[must_use]
    pub fn of_kernel(live: &LiveRuleset, routes: usize) -> Self {
        let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
        for (_, set) in sets(live, &ENDPOINTS) {
            let found = set.elements.values().filter_map(|e| endpoint_of(set, e));
            addresses.extend(found.map(|endpoint| endpoint.addr));
        }
        Self::counted(live, routes, addresses.len())
    }

    /// Of the kernel, with one endpoint for each element that leads to one, as far as the
    /// kernel counts its elements; `None` if it does not. O(1).
    #[must_use]
    pub fn at_most(outline: &LiveRuleset, routes: usize) -> Option<Self> {
        let mut endpoints = 0;
        for table in outline.tables.values() {
            for name in ENDPOINTS
                .iter()
                .filter(|name| table.sets.contains_key(**name))
            {
                endpoints += *table.counts.get(*name)? as usize;
            }
        }
        Some(Self::counted(outline, routes, endpoints))
    }

    fn counted(live: &LiveRuleset, routes: usize, endpoints: usize) -> Self {
        let count = |names: &[&str]| {
            sets(live, names)
                .map(|(counted, set)| counted.map_or(set.elements.len(), |n| n as usize))
                .sum::<usize>()
        };
        let services = count(&FRONTENDS);
        Self {
            objects: services + count(&HOST_PORTS) + routes,
            services,
            endpoints,
        }
    }
}

/// The sets of these names in both tables, with how many elements the kernel says they have.
fn sets<'a>(
    live: &'a LiveRuleset,
    names: &'a [&str],
) -> impl Iterator<Item = (Option<u32>, &'a crate::ruleset::Set)> {
    live.tables.values().flat_map(move |table| {
        names.iter().filter_map(|name| {
            let set = table.sets.get(*name)?;
            Some((table.counts.get(*name).copied(), set))
        })
    })
}

/// What would be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What there is.
    pub before: Holding,
    /// What there would be.
    pub after: Holding,
    /// True if nothing would be left: no object, no Service, or none of many endpoints.
    pub total: bool,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, after, .. } = self;
        let lacks = if after.objects == 0 {
            "object"
        } else if after.services == 0 && before.services > 0 {
            "Service"
        } else {
            ""
        };
        let lost = before.endpoints.saturating_sub(after.endpoints);
        match (lacks, lost) {
            ("", _) => {}
            (what, 0) => return write!(f, "the input holds no {what} at all"),
            (what, _) => write!(f, "the input holds no {what} at all, ")?,
        }
        write!(f, "{lost} of {} endpoints would go", before.endpoints)
    }
}

/// What may be lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// The share of all endpoints that may go at once, 0 to 1 (`--max-endpoint-loss`).
    pub share: f64,
    /// An empty input is meant (`--allow-empty`).
    pub allow_empty: bool,
}

impl Limit {
    /// The loss from `before` to `after`, if it is more than may go without asking.
    #[must_use]
    pub fn loss(&self, before: Holding, after: Holding) -> Option<Loss> {
        let lost = before.endpoints.saturating_sub(after.endpoints);
        let total = (before.objects > 0 && after.objects == 0)
            || (before.services > 0 && after.services == 0)
            || (lost > ALWAYS_ALLOWED && after.endpoints == 0);
        #[expect(clippy::cast_precision_loss, reason = "a share needs no more")]
        let large = lost > ALWAYS_ALLOWED && lost as f64 > before.endpoints as f64 * self.share;
        // Few, but all of them: a file is often written in steps.
        let all = lost > 0 && after.endpoints == 0;
        (total || large || all).then_some(Loss {
            before,
            after,
            total,
        })
    }

    /// Why a one-shot verb must not install this; there is no second reading for it.
    #[must_use]
    pub fn refuses(&self, before: Holding, after: Holding) -> Option<Loss> {
        let loss = self.loss(before, after)?;
        let lost = before.endpoints - after.endpoints.min(before.endpoints);
        if loss.total {
            (!self.allow_empty).then_some(loss)
        } else {
            (lost > ALWAYS_ALLOWED).then_some(loss)
        }
    }
}

/// What to do with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Carry it out.
    Go,
    /// Change nothing; `news` if that was not so, or not so bad, before.
    Hold {
        /// What would be lost.
        loss: Loss,
        /// True if nobody was told yet.
        news: bool,
    },
}

/// A loss that is not believed yet.
#[derive(Clone, Copy, Debug)]
struct Held {
    loss: Loss,
    since: Instant,
    wait: Duration,
    ask_at: Instant,
}

/// Holds back what loses too much until another reading, some time later, says the same; what
/// loses everything, until the input holds something again.
#[derive(Debug)]
pub struct LossGuard {
    limit: Limit,
    held: Option<Held>,
}

impl LossGuard {
    /// One that holds nothing.
    #[must_use]
    pub const fn new(limit: Limit) -> Self {
        Self { limit, held: None }
    }

    /// What may be lost.
    #[must_use]
    pub const fn limit(&self) -> &Limit {
        &self.limit
    }

    /// Judges a reading that leads from `before` to `after`. `second`: it was made because
    /// [`LossGuard::ask`] said so.
    pub fn judge(
        &mut self,
        before: Holding,
        after: Holding,
        second: bool,
        now: Instant,
    ) -> Verdict {
        let Some(loss) = self.limit.loss(before, after) else {
            self.held = None;
            return Verdict::Go;
        };
        let Some(held) = &mut self.held else {
            self.held = Some(Held {
                loss,
                since: now,
                wait: SECOND_READING,
                ask_at: now + SECOND_READING,
            });
            return Verdict::Hold { loss, news: true };
        };
        let believable = !loss.total || self.limit.allow_empty;
        // Worse than the first time is not the same.
        if second && believable && after.endpoints >= held.loss.after.endpoints {
            self.held = None;
            return Verdict::Go;
        }
        let news = held.loss.total != loss.total;
        held.loss = loss;
        Verdict::Hold { loss, news }
    }

    /// True, once, when it is time for another reading of what is held.
    pub fn ask(&mut self, now: Instant) -> bool {
        let Some(held) = self.held.as_mut().filter(|held| now >= held.ask_at) else {
            return false;
        };
        held.wait = (held.wait * 2).min(READ_LATEST);
        held.ask_at = now + held.wait;
        true
    }

    /// What is held, and since when.
    #[must_use]
    pub fn held(&self) -> Option<(Loss, Instant)> {
        self.held.map(|held| (held.loss, held.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Limit = Limit {
        share: 0.5,
        allow_empty: false,
    };

    fn holding(services: usize, endpoints: usize) -> Holding {
        Holding {
            objects: services * 2,
            services,
            endpoints,
        }
    }

    fn held(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Hold { .. })
    }

    #[test]
    fn small_losses_and_gains_go_at_once() {
        let mut guard = LossGuard::new(LIMIT);
        let now = Instant::now();
        let before = holding(10, 100);
        for after in [holding(10, 101), holding(9, 50), holding(1, 50)] {
            assert_eq!(guard.judge(before, after, false, now), Verdict::Go);
        }
        // Fifty may always go, but for the last.
        let few = holding(10, 51);
        assert_eq!(guard.judge(few, holding(9, 1), false, now), Verdict::Go);
    }

    #[test]
    fn a_large_loss_is_believed_when_a_second_reading_some_time_later_says_the_same() {
        let mut guard = LossGuard::new(LIMIT);
        let start = Instant::now();
        let (before, after) = (holding(10, 200), holding(5, 90));
        let first = guard.judge(before, after, false, start);
        assert!(matches!(first, Verdict::Hold { news: true, .. }));
        // A change in between is no second reading, and no news.
        let soon = start + Duration::from_millis(100);
        assert!(!guard.ask(soon));
        let again = guard.judge(before, after, false, soon);
        assert!(matches!(again, Verdict::Hold { news: false, .. }));
        let later = start + SECOND_READING;
        assert!(guard.ask(later));
        assert!(!guard.ask(later), "asked once");
        assert_eq!(guard.judge(before, after, true, later), Verdict::Go);
        assert!(guard.held().is_none());
    }

    #[test]
    fn a_second_reading_that_is_worse_is_not_the_same() {
        let mut guard = LossGuard::new(LIMIT);
        let start = Instant::now();
        let before = holding(10, 200);
        assert!(held(guard.judge(before, holding(5, 90), false, start)));
        let later = start + SECOND_READING;
        assert!(guard.ask(later));
        assert!(held(guard.judge(before, holding(5, 20), true, later)));
        let last = later + SECOND_READING * 2;
        assert!(guard.ask(last));
        assert_eq!(guard.judge(before, holding(5, 20), true, last), Verdict::Go);
    }

    #[test]
    fn a_total_loss_is_never_believed_and_asked_about_without_end() {
        for (before, after) in [
            (holding(1, 2), Holding::default()),
            // Nodes are still there, services are not.
            (
                holding(3, 4),
                Holding {
                    objects: 2,
                    ..Holding::default()
                },
            ),
            (holding(10, 100), holding(10, 0)),
            // Routes alone.
            (
                Holding {
                    objects: 2,
                    ..Holding::default()
                },
                Holding::default(),
            ),
        ] {
            let mut guard = LossGuard::new(LIMIT);
            let mut now = Instant::now();
            assert!(held(guard.judge(before, after, false, now)));
            for _ in 0..100 {
                now += READ_LATEST;
                assert!(guard.ask(now));
                assert!(held(guard.judge(before, after, true, now)), "{after:?}");
            }
            assert_eq!(guard.judge(before, before, false, now), Verdict::Go);
        }
    }

    #[test]
    fn who_means_an_empty_input_gets_it_at_the_second_reading_and_a_one_shot_verb_at_once() {
        let limit = Limit {
            allow_empty: true,
            ..LIMIT
        };
        let (before, after) = (holding(10, 100), Holding::default());
        let mut guard = LossGuard::new(limit);
        let start = Instant::now();
        assert!(held(guard.judge(before, after, false, start)));
        let later = start + SECOND_READING;
        assert!(guard.ask(later));
        assert_eq!(guard.judge(before, after, true, later), Verdict::Go);
        assert_eq!(limit.refuses(before, after), None);
        assert!(LIMIT.refuses(before, after).is_some());
        // A large loss that is not everything is not covered by that.
        assert!(limit.refuses(before, holding(5, 1)).is_some());
    }

    #[test]
    fn the_last_of_few_endpoints_waits_for_a_second_reading_and_a_one_shot_verb_takes_it() {
        let (before, after) = (holding(2, 3), holding(2, 0));
        let mut guard = LossGuard::new(LIMIT);
        let start = Instant::now();
        assert!(held(guard.judge(before, after, false, start)));
        let later = start + SECOND_READING;
        assert!(guard.ask(later));
        assert_eq!(guard.judge(before, after, true, later), Verdict::Go);
        assert_eq!(LIMIT.refuses(before, after), None);
    }

    #[test]
    fn nothing_is_lost_where_nothing_was() {
        let mut guard = LossGuard::new(LIMIT);
        let nothing = Holding::default();
        let verdict = guard.judge(nothing, nothing, false, Instant::now());
        assert_eq!(verdict, Verdict::Go);
    }
}
