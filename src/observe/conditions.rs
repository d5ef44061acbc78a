//! What is well with the agent and what is not, since when and why: the one place that
//! `/healthz`, `/livez`, `/readyz`, `/state`, metrics and log lines about the agent itself
//! are derived from.
//!
//! Pure: the time is given in. Whoever does a piece of work reports how it went each time,
//! however often; what of that is news is decided here.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use crate::text::shown;

/// A change that waits for so long is a fault of the agent: `/healthz` and `/livez` are 503
/// (kube-proxy's limit, twice its sync period of 30 s).
pub const STALE_RULES: Duration = Duration::from_secs(60);
/// Inputs that have been refused or unreachable for so long, large losses held back, and
/// tables that cannot be looked at, make `/readyz` 503. `/healthz` stays: an API server that
/// is away must not take every node out of every load balancer.
pub const STALE_INPUTS: Duration = Duration::from_secs(300);
/// A first attempt at a change that still gets on is not stale: the next sign of progress has
/// to come within this.
const PROGRESS: Duration = Duration::from_secs(30);
/// Between two log lines about one condition...
const SPACING: Duration = Duration::from_secs(2);
/// ... and between two that say the same: it is still so.
const REMINDER: Duration = Duration::from_secs(600);
/// Characters of a reason that are kept.
const REASON: usize = 500;

/// What can be well or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Objects of this kind from the API, or `files`: known, and as new as they can be.
    Source(&'static str),
    /// What the first complete inputs ask for is in the kernel.
    FirstSync,
    /// No change waits to be carried out. Set by [`Conditions::waits`] alone.
    Rules,
    /// Our tables can be read back, and are as they should be.
    Tables,
    /// Nothing is held back by the guard against large losses.
    Loss,
    /// The kernel took every object: none had to be set aside.
    Objects,
    /// Nobody else writes our tables.
    Writer,
    /// Routes to other nodes' pods are as they should be.
    Routes,
    /// This node's addresses can be read.
    Addresses,
    /// Stale tracked UDP and SCTP flows were removed.
    Conntrack,
    /// Clients of endpoints that are gone were forgotten.
    Affinity,
    /// Kernel settings can be read, and written if told to.
    Settings,
    /// The state was saved.
    State,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source(kind) => return write!(f, "source {kind}"),
            Self::FirstSync => "first sync",
            Self::Rules => "rules",
            Self::Tables => "tables",
            Self::Loss => "endpoint loss",
            Self::Objects => "objects",
            Self::Writer => "writer",
            Self::Routes => "routes",
            Self::Addresses => "addresses",
            Self::Conntrack => "conntrack",
            Self::Affinity => "affinity",
            Self::Settings => "sysctls",
            Self::State => "state file",
        })
    }
}

impl Condition {
    /// How long it may fail before the node is not ready; `None`: for ever, it is only told.
    /// Routes are only told: one node with an address that is not on the link would keep every
    /// other node from being ready.
    const fn tolerated(self) -> Option<Duration> {
        match self {
            Self::FirstSync => Some(Duration::ZERO),
            Self::Rules => Some(STALE_RULES),
            Self::Source(_) | Self::Tables | Self::Loss => Some(STALE_INPUTS),
            _ => None,
        }
    }
}

/// How a condition is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing is known yet.
    Unknown,
    /// Well.
    Good,
    /// Not well.
    Failing,
}

/// A condition as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub condition: Condition,
    /// How it is.
    pub status: Status,
    /// For how long it has been so.
    pub age: Duration,
    /// Why it fails; free of control characters.
    pub reason: String,
    /// Times it failed since it was last well.
    pub failures: u64,
    /// It keeps the node from being ready.
    pub blocks: bool,
}

/// Something to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Which condition.
    pub condition: Condition,
    /// Why it fails; `None`: it is well again.
    pub reason: Option<String>,
    /// How long it has failed, or had failed.
    pub lasted: Duration,
    /// How often.
    pub failures: u64,
}

#[derive(Clone, Debug)]
struct State {
    status: Status,
    since: Instant,
    reason: String,
    failures: u64,
    /// How long it had failed when it became well, and how often.
    past: (Duration, u64),
    /// The reason of the last line (none: well), and when that was.
    said: Option<String>,
    said_at: Option<Instant>,
}

/// All conditions of one agent.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    states: BTreeMap<Condition, State>,
    /// The last sign of a running first attempt.
    progress: Option<Instant>,
}

impl Conditions {
    /// It is to be known, and is not yet: the node is not ready before it is. Nothing if it
    /// is known already.
    pub fn expect(&mut self, condition: Condition, now: Instant) {
        self.states
            .entry(condition)
            .or_insert_with(|| State::new(Status::Unknown, now));
    }

    /// It is known now. One that fails goes on failing until it is well.
    pub fn known(&mut self, condition: Condition, now: Instant) {
        if self.state(condition, now).status == Status::Unknown {
            self.good(condition, now);
        }
    }

    /// It is well.
    pub fn good(&mut self, condition: Condition, now: Instant) {
        let state = self.state(condition, now);
        if state.failures > 0 {
            state.past = (now.duration_since(state.since), state.failures);
        }
        if state.status != Status::Good {
            state.status = Status::Good;
            state.since = now;
            state.reason.clear();
            state.failures = 0;
        }
    }

    /// It failed, now, for this reason. One that was never known stays unknown, with a reason.
    pub fn failing(&mut self, condition: Condition, reason: &str, now: Instant) {
        let state = self.state(condition, now);
        if state.status == Status::Good {
            state.status = Status::Failing;
            state.since = now;
        }
        state.failures += 1;
        state.reason = shown(reason, REASON);
    }

    /// Takes note of how something went.
    pub fn outcome<T, E: fmt::Display>(
        &mut self,
        condition: Condition,
        result: &Result<T, E>,
        now: Instant,
    ) {
        match result {
            Ok(_) => self.good(condition, now),
            Err(error) => self.failing(condition, &error.to_string(), now),
        }
    }

    /// Whether any change waits to be carried out that could be: derived anew, from what
    /// waits, whenever that may have changed.
    pub fn waits(&mut self, waits: bool, now: Instant) {
        if !waits {
            self.done(now);
            return;
        }
        let state = self.state(Condition::Rules, now);
        if state.status == Status::Good {
            state.status = Status::Failing;
            state.since = now;
            "changes wait".clone_into(&mut state.reason);
        }
    }

    /// Since when a change waits, if one does.
    #[must_use]
    pub fn waiting_since(&self) -> Option<Instant> {
        let rules = self.states.get(&Condition::Rules)?;
        (rules.status == Status::Failing).then_some(rules.since)
    }

    /// Everything that waited was carried out: what waits from now on begins now.
    pub fn done(&mut self, now: Instant) {
        self.progress = None;
        self.good(Condition::Rules, now);
    }

    /// An attempt at what waits failed; it is tried again.
    pub fn attempt_failed(&mut self, reason: &str, now: Instant) {
        self.progress = None;
        self.failing(Condition::Rules, reason, now);
    }

    /// A long piece of work is getting on.
    pub const fn progress(&mut self, now: Instant) {
        self.progress = Some(now);
    }

    /// False if a change has waited for too long, without a sign that it gets on.
    #[must_use]
    pub fn is_healthy(&self, now: Instant) -> bool {
        let Some(rules) = self.states.get(&Condition::Rules) else {
            return true;
        };
        let young = now.duration_since(rules.since) < STALE_RULES;
        let gets_on = self
            .progress
            .is_some_and(|at| now.duration_since(at) < PROGRESS);
        rules.status != Status::Failing || young || (rules.failures == 0 && gets_on)
    }

    /// True if every input is known, what they ask for is in the kernel, and nothing has
    /// failed for longer than it may.
    #[must_use]
    pub fn is_ready(&self, now: Instant) -> bool {
        self.is_healthy(now) && self.rows(now).all(|row| !row.blocks)
    }

    /// All of them, in a fixed order.
    pub fn rows(&self, now: Instant) -> impl Iterator<Item = Row> {
        let healthy = self.is_healthy(now);
        self.states.iter().map(move |(condition, state)| {
            let age = now.duration_since(state.since);
            let tolerated = condition.tolerated();
            let blocks = match state.status {
                Status::Good => false,
                Status::Unknown => tolerated.is_some(),
                Status::Failing if *condition == Condition::Rules => !healthy,
                Status::Failing => tolerated.is_some_and(|limit| age >= limit),
            };
            Row {
                condition: *condition,
                status: state.status,
                age,
                reason: state.reason.clone(),
                failures: state.failures,
                blocks,
            }
        })
    }

    /// What is to be logged now: each condition when it begins to fail, when the reason is
    /// another, when it is well again, and now and then while it stays so; never more than a
    /// line in two seconds about one, however often it fails.
    pub fn news(&mut self, now: Instant) -> Vec<News> {
        let mut news = Vec::new();
        for (condition, state) in &mut self.states {
            let quiet = state.said_at.map(|at| now.duration_since(at));
            let wants = (state.failures > 0).then(|| state.reason.clone());
            let due = if wants == state.said {
                wants.is_some() && quiet.is_some_and(|quiet| quiet >= REMINDER)
            } else {
                quiet.is_none_or(|quiet| quiet >= SPACING)
            };
            if !due {
                continue;
            }
            state.said.clone_from(&wants);
            state.said_at = Some(now);
            let (lasted, failures) = match wants {
                Some(_) => (now.duration_since(state.since), state.failures),
                None => state.past,
            };
            news.push(News {
                condition: *condition,
                reason: wants,
                lasted,
                failures,
            });
        }
        news
    }

    fn state(&mut self, condition: Condition, now: Instant) -> &mut State {
        let start = match condition {
            // What nobody expected is well until it fails.
            Condition::Source(_) | Condition::FirstSync => Status::Unknown,
            _ => Status::Good,
        };
        self.states
            .entry(condition)
            .or_insert_with(|| State::new(start, now))
    }
}

impl State {
    const fn new(status: Status, now: Instant) -> Self {
        Self {
            status,
            since: now,
            reason: String::new(),
            failures: 0,
            past: (Duration::ZERO, 0),
            said: None,
            said_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: Condition = Condition::Source("Service");

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn texts(news: Vec<News>) -> Vec<String> {
        let text = |n: News| format!("{}: {:?} {}", n.condition, n.reason, n.failures);
        news.into_iter().map(text).collect()
    }

    #[test]
    fn it_is_ready_once_every_input_is_known_and_in_the_kernel() {
        let (mut c, now) = (Conditions::default(), Instant::now());
        for condition in [SERVICES, Condition::FirstSync] {
            c.expect(condition, now);
            assert!(!c.is_ready(now) && c.is_healthy(now));
        }
        c.good(SERVICES, now);
        assert!(!c.is_ready(now));
        c.good(Condition::FirstSync, now);
        assert!(c.is_ready(now));
        c.expect(SERVICES, now);
        assert!(c.is_ready(now), "what is known stays known");
    }

    #[test]
    fn a_change_that_waits_for_a_minute_is_unhealthy_and_one_that_is_done_is_not() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        c.waits(true, start);
        c.waits(true, start + seconds(59));
        assert_eq!(c.waiting_since(), Some(start));
        assert!(c.is_healthy(start + seconds(59)));
        assert!(!c.is_healthy(start + seconds(60)) && !c.is_ready(start + seconds(60)));
        c.done(start + seconds(61));
        assert!(c.is_healthy(start + seconds(61)));
        // A busy cluster: something always waits, and something is always done.
        for second in 62..600 {
            c.waits(true, start + seconds(second));
            assert!(c.is_healthy(start + seconds(second)));
            c.done(start + seconds(second));
        }
    }

    #[test]
    fn a_first_attempt_that_gets_on_is_healthy_and_one_that_stalls_or_failed_is_not() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        c.waits(true, start);
        for second in 0..500 {
            c.progress(start + seconds(second));
            assert!(c.is_healthy(start + seconds(second)));
        }
        assert!(!c.is_healthy(start + seconds(530)));
        c.attempt_failed("refused", start + seconds(531));
        c.progress(start + seconds(532));
        assert!(!c.is_healthy(start + seconds(532)));
    }

    #[test]
    fn a_list_is_not_yet_a_source_that_is_followed() {
        let (start, source) = (Instant::now(), Condition::Source("Service"));
        let mut conditions = Conditions::default();
        conditions.expect(source, start);
        conditions.known(source, start);
        assert!(conditions.is_ready(start));
        // Watches fail, and each time a list succeeds in between.
        for second in 1..=STALE_INPUTS.as_secs() + 1 {
            let now = start + Duration::from_secs(second);
            conditions.failing(source, "ended", now);
            conditions.known(source, now);
        }
        let later = start + STALE_INPUTS + Duration::from_secs(1);
        assert!(!conditions.is_ready(later));
        conditions.good(source, later);
        assert!(conditions.is_ready(later));
    }

    #[test]
    fn stale_inputs_are_told_at_once_and_are_not_ready_after_a_while() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        c.good(SERVICES, start);
        c.failing(SERVICES, "401", start + seconds(1));
        assert_eq!(c.rows(start).next().unwrap().status, Status::Failing);
        for second in 1..=300 {
            c.failing(SERVICES, "401", start + seconds(second));
            assert!(c.is_ready(start + seconds(second)), "after {second} s");
        }
        let late = start + seconds(302);
        assert!(!c.is_ready(late) && c.is_healthy(late));
        c.good(SERVICES, late);
        assert!(c.is_ready(late));
    }

    #[test]
    fn what_is_only_told_keeps_no_node_from_being_ready() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        for condition in [
            Condition::Conntrack,
            Condition::Affinity,
            Condition::Routes,
            Condition::Settings,
            Condition::State,
            Condition::Objects,
        ] {
            c.failing(condition, "no", start);
        }
        assert!(c.is_ready(start + seconds(10_000)));
    }

    #[test]
    fn a_reason_is_said_once_and_so_is_its_end() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        let mut said = Vec::new();
        // Twenty times a second for a minute.
        for tick in 0..1200 {
            let now = start + Duration::from_millis(tick * 50);
            c.failing(Condition::Tables, "EPERM", now);
            said.extend(texts(c.news(now)));
        }
        assert_eq!(said, ["tables: Some(\"EPERM\") 1"]);
        c.good(Condition::Tables, start + seconds(60));
        assert_eq!(texts(c.news(start + seconds(60))), ["tables: None 1200"]);
        assert!(c.news(start + seconds(100)).is_empty());
    }

    #[test]
    fn what_comes_and_goes_with_changing_reasons_fills_no_log_and_ends_told() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        let mut said = Vec::new();
        for tick in 0..1200_u64 {
            let now = start + Duration::from_millis(tick * 50);
            if tick % 2 == 0 {
                c.failing(Condition::Tables, &format!("error {tick}"), now);
            } else {
                c.good(Condition::Tables, now);
            }
            said.extend(texts(c.news(now)));
        }
        assert!(said.len() <= 31, "{said:?}");
        said.extend(texts(c.news(start + seconds(70))));
        assert!(said.last().unwrap().contains("None"), "{said:?}");
    }

    #[test]
    fn what_lasts_is_said_again_now_and_then() {
        let (mut c, start) = (Conditions::default(), Instant::now());
        let mut said = 0;
        for second in 0..3600 {
            let now = start + seconds(second);
            c.failing(Condition::State, "ENOSPC", now);
            said += c.news(now).len();
        }
        assert_eq!(said, 6);
    }

    #[test]
    fn a_reason_from_elsewhere_is_printable_and_short() {
        assert_eq!(
            shown("a\u{1b}[2Jb\u{202e}c\nd", REASON),
            r"a\u001b[2Jb\u202ec\u000ad"
        );
        assert_eq!(shown(&"x".repeat(5000), REASON).chars().count(), REASON + 1);
    }
}
