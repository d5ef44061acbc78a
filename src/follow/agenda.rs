//! When what is due. Pure: the time is given in; nothing here sleeps.

use std::time::{Duration, Instant};

use super::Pending;
use crate::engine::Engine;

/// How often the kernel's generation is looked at: one request of a few microseconds.
const LOOK: Duration = Duration::from_millis(50);
/// The state goes to disk when nothing has changed for so long...
const SAVE_QUIET: Duration = Duration::from_secs(2);
/// ... or at the latest after this.
const SAVE_LATEST: Duration = Duration::from_secs(60);

/// Whether anything waits that could be carried out; the one place that says so. `known`:
/// every input was read once. What a guard holds back waits for a second word, not for us.
pub(super) fn waits(known: bool, engine: &Engine, pending: &Pending) -> bool {
    known && (engine.is_dirty() || (!pending.is_empty() && !pending.is_held()))
}

/// Work that is tried again by itself after it failed, at doubling intervals.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    first: Duration,
    last: Duration,
    wait: Duration,
    at: Option<Instant>,
}

impl Retry {
    const fn new(first: Duration, last: Duration) -> Self {
        Self {
            first,
            last,
            wait: first,
            at: None,
        }
    }

    /// It went well or badly.
    pub(super) fn outcome(&mut self, good: bool, now: Instant) {
        if good {
            self.at = None;
            self.wait = self.first;
        } else {
            self.at = Some(now + self.wait);
            self.wait = (self.wait * 2).min(self.last);
        }
    }

    /// It failed, and is to be tried again by now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.at.is_some_and(|at| at <= now)
    }

    /// When it is tried again, if it failed.
    pub(super) const fn at(&self) -> Option<Instant> {
        self.at
    }
}

/// A log line that others could have us write as often as they like: a few at once, and
/// then one a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seldom {
    /// Lines that may follow each other at once.
    left: u32,
    last: Option<Instant>,
    held: u64,
}

impl Seldom {
    const AT_ONCE: u32 = 10;

    const fn new() -> Self {
        Self {
            left: Self::AT_ONCE,
            last: None,
            held: 0,
        }
    }

    /// How often it happened since it was last said, if it is to be said now.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        let quiet = self
            .last
            .map_or(0, |at| now.saturating_duration_since(at).as_secs());
        let gained = u32::try_from(quiet).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(gained).min(Self::AT_ONCE);
        self.held += 1;
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        self.last = Some(now);
        Some(std::mem::take(&mut self.held))
    }
}

/// All that the agent does at its time.
#[derive(Clone, Debug)]
pub(super) struct Agenda {
    min_sync: Duration,
    verify: Duration,
    last_commit: Option<Instant>,
    last_look: Instant,
    last_verify: Instant,
    /// Since when the state on disk is out of date, and when it last changed.
    unsaved: Option<(Instant, Instant)>,
    /// Lines about others' changes to our tables.
    pub(super) drift_line: Seldom,
    /// The commit that failed.
    pub(super) commit: Retry,
    /// The reading of files that failed.
    pub(super) reading: Retry,
    /// Routes that could not be listed or set.
    pub(super) routes: Retry,
    /// Stale flows and clients that could not be removed.
    pub(super) tidying: Retry,
    /// Kernel settings that could not be read or set.
    pub(super) settings: Retry,
    /// Addresses of this node that could not be read.
    pub(super) addresses: Retry,
    /// The state that could not be saved.
    pub(super) saving: Retry,
}

impl Agenda {
    /// Nothing happened before `now`.
    pub(super) const fn new(min_sync: Duration, verify: Duration, now: Instant) -> Self {
        const MINUTE: Duration = Duration::from_secs(60);
        let soon = Retry::new(Duration::from_secs(1), MINUTE);
        Self {
            min_sync,
            verify,
            last_commit: None,
            last_look: now,
            last_verify: now,
            unsaved: None,
            drift_line: Seldom::new(),
            // Services wait for it.
            commit: Retry::new(Duration::from_secs(1), Duration::from_secs(15)),
            reading: soon,
            routes: Retry::new(Duration::from_secs(5), MINUTE),
            tidying: soon,
            settings: soon,
            addresses: soon,
            saving: Retry::new(Duration::from_secs(5), Duration::from_secs(300)),
        }
    }

    /// A commit went through.
    pub(super) fn committed(&mut self, now: Instant) {
        self.commit.outcome(true, now);
        self.last_commit = Some(now);
        let since = self.unsaved.map_or(now, |(since, _)| since);
        self.unsaved = Some((since, now));
    }

    /// What was installed was the saved state: no reason to wait or to save it again.
    pub(super) const fn booted(&mut self) {
        self.last_commit = None;
        self.unsaved = None;
    }

    /// When the next commit may come; `None`: at once.
    pub(super) fn commit_at(&self) -> Option<Instant> {
        let after_last = self.last_commit.map(|at| at + self.min_sync);
        after_last.into_iter().chain(self.commit.at()).max()
    }

    /// True if a commit may come now.
    pub(super) fn may_commit(&self, now: Instant) -> bool {
        self.commit_at().is_none_or(|at| at <= now)
    }

    /// How long to sleep if nothing happens; something `waits` to be committed or not.
    pub(super) fn sleep(&self, waits: bool, now: Instant) -> Duration {
        let commit = self.commit_at().filter(|_| waits);
        let until = commit.map(|at| at.saturating_duration_since(now));
        until.map_or(LOOK, |until| until.min(LOOK))
    }

    /// True if the kernel's generation is to be looked at; then the next look is counted
    /// from now.
    pub(super) fn take_look(&mut self, now: Instant) -> bool {
        take(&mut self.last_look, LOOK, now)
    }

    /// The same for reading everything back.
    pub(super) fn take_verify(&mut self, now: Instant) -> bool {
        take(&mut self.last_verify, self.verify, now)
    }

    /// Everything was read back for another reason.
    pub(super) const fn verified(&mut self, now: Instant) {
        self.last_verify = now;
    }

    /// True if the state is to be saved, now at the latest if the agent ends.
    pub(super) fn must_save(&self, ends: bool, now: Instant) -> bool {
        let Some((since, last)) = self.unsaved else {
            return false;
        };
        if ends {
            return true;
        }
        match self.saving.at() {
            Some(at) => at <= now,
            None => {
                now.saturating_duration_since(last) >= SAVE_QUIET
                    || now.saturating_duration_since(since) >= SAVE_LATEST
            }
        }
    }

    /// The state was saved, or could not be.
    pub(super) fn saved(&mut self, good: bool, now: Instant) {
        self.saving.outcome(good, now);
        if good {
            self.unsaved = None;
        }
    }
}

fn take(last: &mut Instant, period: Duration, now: Instant) -> bool {
    let due = now.saturating_duration_since(*last) >= period;
    if due {
        *last = now;
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::{Limit, LossGuard, Verdict};
    use crate::cluster::{Cluster, Kind};
    use crate::config::Config;
    use crate::engine::Next;
    use crate::observe::Conditions;
    use crate::ruleset::LiveRuleset;
    use crate::source::events::Event;
    use crate::source::{Loaded, load_str};

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn read(text: &str) -> Cluster {
        let mut loaded = Loaded::default();
        load_str(text, "test", &mut loaded);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        loaded.cluster
    }

    /// An object that came again, with a new annotation, heartbeat or status.
    fn again(n: u64) -> [Event; 4] {
        let node = read(&format!(
            r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"n1","annotations":{{"heard":"{n}"}}}},
            "spec":{{"podCIDRs":["172.17.0.0/24"]}},
            "status":{{"conditions":[{{"type":"Ready","status":"True","lastHeartbeatTime":"{n}"}}],
            "addresses":[{{"type":"InternalIP","address":"192.168.50.11"}}]}}}}"#
        ));
        let service = read(&format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"a","annotations":{{"seen":"{n}"}}}},
            "spec":{{"clusterIP":"10.254.0.2","ports":[{{"port":80}}]}}}}"#
        ));
        let slice = read(&format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"a-1",
            "labels":{{"kubernetes.io/service-name":"a"}},
            "annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:{:02}Z"}}}},
            "addressType":"IPv4","ports":[{{"port":80}}],"endpoints":[{{"addresses":["172.17.0.2"]}}]}}"#,
            n % 60
        ));
        let pod = read(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p","annotations":{{"n":"{n}"}}}},
            "spec":{{"nodeName":"n1","containers":[{{"name":"c","ports":[{{"containerPort":80,"hostPort":81}}]}}]}},
            "status":{{"podIP":"172.17.0.2","startTime":"2026-01-01T00:00:{:02}Z"}}}}"#,
            n % 60
        ));
        let kinds = [Kind::Node, Kind::Service, Kind::EndpointSlice, Kind::Pod];
        let mut read = [node, service, slice, pod].into_iter();
        kinds.map(|kind| {
            let mut objects = read.next().unwrap().take(kind);
            Event::Apply(objects.pop().unwrap())
        })
    }

    /// As the agent does it: events, what may go, and a commit that always succeeds.
    fn turn(engine: &mut Engine, pending: &mut Pending, events: Vec<Event>) -> bool {
        for event in events {
            pending.take(event, engine);
        }
        let mut guard = LossGuard::new(Limit {
            share: 1.0,
            allow_empty: true,
        });
        let verdict = pending.verdict(engine, None, &mut guard, Instant::now());
        if verdict == Some(Verdict::Go) {
            pending.hand_over(engine);
        }
        let changed = engine.is_dirty();
        if changed && matches!(engine.advance(), Next::Rebuild) {
            engine.rebuild(&LiveRuleset::default());
        }
        changed
    }

    #[test]
    fn ten_minutes_of_events_that_change_nothing_leave_it_healthy_throughout() {
        let config = Config {
            node_name: "n1".into(),
            ..Config::default()
        };
        let (mut engine, mut pending) = (Engine::new(config, Vec::new()), Pending::default());
        let (mut conditions, start) = (Conditions::default(), Instant::now());
        for kind in Kind::ALL {
            pending.take(Event::Reset(kind, Vec::new()), &engine);
        }
        turn(&mut engine, &mut pending, again(0).into());
        for second in 1..600 {
            let now = start + seconds(second);
            for event in again(second) {
                // Each alone: one that does something must not cover for another.
                let changed = turn(&mut engine, &mut pending, vec![event]);
                assert!(!changed, "an event at {second} s was taken for a change");
                conditions.waits(waits(true, &engine, &pending), now);
                assert!(conditions.is_healthy(now), "after {second} s");
                assert!(conditions.is_ready(now), "after {second} s");
            }
        }
    }

    #[test]
    fn a_change_that_is_not_carried_out_waits_until_it_is() {
        let (mut engine, mut pending) = (
            Engine::new(Config::default(), Vec::new()),
            Pending::default(),
        );
        assert!(!waits(false, &engine, &pending), "nothing is known yet");
        assert!(waits(true, &engine, &pending), "the first sync");
        engine.rebuild(&LiveRuleset::default());
        assert!(!waits(true, &engine, &pending));
        let [_, service, ..] = again(0);
        pending.take(service, &engine);
        assert!(waits(true, &engine, &pending), "not handed over");
        pending.hand_over(&mut engine);
        assert!(waits(true, &engine, &pending), "not committed");
        engine.rebuild(&LiveRuleset::default());
        assert!(!waits(true, &engine, &pending));
        engine.distrust();
        assert!(waits(true, &engine, &pending), "a commit failed");
    }

    #[test]
    fn what_failed_is_tried_again_by_itself_at_growing_intervals() {
        let start = Instant::now();
        let mut retry = Agenda::new(Duration::ZERO, seconds(30), start).reading;
        assert!(!retry.is_due(start + seconds(1000)), "nothing failed");
        let (mut tries, mut now) = (Vec::new(), start);
        retry.outcome(false, now);
        while now < start + seconds(400) {
            now += Duration::from_millis(50);
            if retry.is_due(now) {
                tries.push(now.duration_since(start).as_secs());
                retry.outcome(false, now);
            }
        }
        assert_eq!(tries, [1, 3, 7, 15, 31, 63, 123, 183, 243, 303, 363]);
        retry.outcome(true, now);
        assert!(!retry.is_due(now + seconds(1000)));
        retry.outcome(false, now);
        assert!(retry.is_due(now + seconds(1)), "the next failure is young");
    }

    #[test]
    fn a_failed_commit_is_tried_again_and_a_lone_change_never_waits() {
        let start = Instant::now();
        let mut agenda = Agenda::new(seconds(1), seconds(30), start);
        assert!(agenda.may_commit(start));
        agenda.committed(start);
        assert!(!agenda.may_commit(start) && agenda.may_commit(start + seconds(1)));
        assert_eq!(agenda.sleep(false, start), LOOK);
        let later = start + Duration::from_millis(980);
        assert_eq!(agenda.sleep(true, later), Duration::from_millis(20));
        agenda.commit.outcome(false, start + seconds(10));
        assert!(!agenda.may_commit(start + seconds(10)));
        assert!(agenda.may_commit(start + seconds(11)));
        agenda.committed(start + seconds(11));
        assert!(agenda.may_commit(start + seconds(12)));
    }

    #[test]
    fn the_state_is_saved_when_it_is_quiet_or_late_and_again_if_that_fails() {
        let start = Instant::now();
        let mut agenda = Agenda::new(Duration::ZERO, seconds(30), start);
        assert!(!agenda.must_save(true, start), "nothing to save");
        agenda.committed(start);
        assert!(agenda.must_save(true, start), "it ends");
        assert!(!agenda.must_save(false, start + seconds(1)));
        assert!(agenda.must_save(false, start + seconds(2)));
        for second in 0..60 {
            agenda.committed(start + seconds(second));
            assert!(!agenda.must_save(false, start + seconds(second)));
        }
        agenda.committed(start + seconds(60));
        assert!(agenda.must_save(false, start + seconds(60)), "never quiet");
        agenda.saved(false, start + seconds(60));
        assert!(!agenda.must_save(false, start + seconds(64)));
        assert!(agenda.must_save(false, start + seconds(65)), "it failed");
        agenda.saved(true, start + seconds(65));
        assert!(!agenda.must_save(true, start + seconds(66)));
    }

    #[test]
    fn what_happens_twenty_times_a_second_is_said_a_few_times_and_then_once_a_second() {
        let (mut seldom, start) = (Seldom::new(), Instant::now());
        let said: Vec<u64> = (0..90)
            .filter_map(|tick| seldom.take(start + Duration::from_millis(tick * 50)))
            .collect();
        assert_eq!(said, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 20, 20, 20, 20]);
        let later = start + seconds(100);
        assert!(
            (0..10).all(|_| seldom.take(later).is_some()),
            "it was quiet"
        );
    }

    #[test]
    fn looks_and_verifications_come_at_their_time() {
        let start = Instant::now();
        let mut agenda = Agenda::new(Duration::ZERO, seconds(30), start);
        let (mut looks, mut verified) = (0, 0);
        for tick in 0..=6000 {
            let now = start + Duration::from_millis(tick * 10);
            looks += u32::from(agenda.take_look(now));
            verified += u32::from(agenda.take_verify(now));
        }
        assert_eq!((looks, verified), (1200, 2));
        agenda.verified(start + seconds(60));
        assert!(!agenda.take_verify(start + seconds(89)));
    }
}
