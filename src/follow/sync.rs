//! Between the engine and the kernel: commits steps, starts over when one fails, finds out
//! when somebody else changed our tables, and tidies up after a commit.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::aside::{self, set_aside};
use super::tidy::{Tidied, Tidy};
use super::writer_log::{NameWriters, WriterLog};
use crate::apply::{Holding, Limit, MOST_ASIDE, TRIES, Verification, bound_to, holds, installed};
use crate::cluster::ObjectName;
use crate::counters;
use crate::diff::{
    Counts, Delta, Operation, TableDelta, ahead, diff, own, own_added, resembles, rules_only,
    take_ahead, take_first,
};
use crate::engine::{Engine, Next, Step};
use crate::host::interfaces::{self, local_addresses};
use crate::host::{HostError, routes};
use crate::netlink::{Committed, NetlinkError, Nfnetlink};
use crate::plan::Route;
use crate::problem::Problem;

/// A full read-back may take this share of the time at most, however often others commit.
const VERIFY_SHARE: u32 = 20;
/// Up to so many elements, a read-back is faster than asking for each: its pages walk the
/// set from the start (`docs/performance.md`).
const ASKED_FOR: usize = 100_000;
/// Name of kube-proxy's tables (both families).
const KUBE_PROXY_TABLE: &str = "kube-proxy";

/// Why a sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// nf_tables refused.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Routes, addresses or tracked connections.
    #[error(transparent)]
    Host(#[from] HostError),
}

/// What one sync did.
#[derive(Debug, Default)]
pub struct Synced {
    /// True if everything was compared with the kernel, false for an increment.
    pub full: bool,
    /// Elements, rules and objects changed.
    pub counts: Counts,
    /// What the commit took; `None` if there was nothing to commit.
    pub committed: Option<Committed>,
    /// Stale tracked flows removed.
    pub flows: Tidied,
    /// Clients of lost endpoints forgotten.
    pub clients: Tidied,
    /// Routes added, replaced and deleted.
    pub routes: Tidied,
    /// Services that were planned anew; empty, for all of them, if [`Synced::full`].
    pub services: Vec<ObjectName>,
    /// Services that changed at all; likewise.
    pub touched: Vec<ObjectName>,
    /// What was found wrong with the objects.
    pub problems: Vec<Problem>,
    /// Generation in force.
    pub generation: u32,
    /// All of it.
    pub took: Duration,
}

/// What a look at the kernel found.
#[derive(Debug)]
pub enum DriftCheck {
    /// Nobody but us wrote.
    Quiet,
    /// Somebody wrote, but our tables are as they were.
    Others,
    /// Our tables are not what they were.
    Drift(Box<Delta>),
    /// Only chains and rules are not; the elements are as many as they were. Seen without
    /// reading any of them.
    Rules(Box<Delta>),
}

/// What an outline shows.
enum Seen {
    /// As it should be, at this generation.
    Whole(u32),
    /// Rules differ, and this puts them right.
    Rules(Box<Delta>),
    /// More than that.
    Elements,
}

/// The kernel's side of the daemon.
pub struct KernelSync {
    kernel: Nfnetlink,
    writers: WriterLog,
    tidy: Tidy,
    /// The generation our own last commit made, as far as we know.
    generation: u32,
    local_addresses: BTreeSet<IpAddr>,
    /// Routes that were last asked for, whether or not that worked.
    routes: BTreeSet<Route>,
    /// They could not all be listed or set.
    routes_owed: bool,
    take_over: bool,
    /// Own the tables, as long as the kernel can.
    own: bool,
    /// No full read-back before this.
    verify_after: Instant,
    /// A full read-back is owed: somebody wrote since the last one.
    verify_owed: bool,
    /// Since when Services have been set aside.
    aside_since: Option<Instant>,
}

impl KernelSync {
    /// Opens the sockets.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn open(take_over: bool, own: bool, name_writers: NameWriters) -> Result<Self, SyncError> {
        let kernel = Nfnetlink::open()?;
        let mut sync = Self {
            writers: WriterLog::open(name_writers, kernel.port())?,
            kernel,
            tidy: Tidy::default(),
            generation: 0,
            local_addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            routes_owed: false,
            take_over,
            own,
            verify_after: Instant::now(),
            verify_owed: false,
            aside_since: None,
        };
        sync.refresh_addresses()?;
        Ok(sync)
    }

    /// `progress` is called between the pages of what is read from nf_tables.
    pub fn on_progress(&mut self, progress: Box<dyn FnMut()>) {
        self.kernel.on_progress(progress);
    }

    /// Reads this node's addresses anew; returns the primary ones.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn refresh_addresses(&mut self) -> Result<Vec<IpAddr>, SyncError> {
        let found = interfaces::list()?;
        self.local_addresses = local_addresses(&found);
        Ok(interfaces::primary_addresses(&found))
    }

    /// What is installed, as far as it takes to judge whether `after` loses too much of it.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn installed(&mut self, limit: &Limit, after: Holding) -> Result<Holding, SyncError> {
        let routes = routes::list_ours()?.len();
        Ok(installed(&mut self.kernel, limit, after, routes)?)
    }

    /// Addresses of this node, loopback included.
    #[must_use]
    pub const fn local_addresses(&self) -> &BTreeSet<IpAddr> {
        &self.local_addresses
    }

    /// Carries out what changed in the engine. O(changed), or O(cluster) if the engine asks
    /// for a new start. Flows, clients and routes are looked after once the rules are in
    /// force; what fails of that is told in [`Synced`], and owed ([`KernelSync::is_tidying_owed`],
    /// [`KernelSync::routes_owed`]).
    ///
    /// # Errors
    /// If the kernel refuses the rules; the engine then starts over with the next sync.
    pub fn sync(&mut self, engine: &mut Engine) -> Result<Synced, SyncError> {
        let start = Instant::now();
        let result = match engine.advance() {
            Next::Rebuild => self.rebuild(engine),
            Next::Step(mut step) => match self.commit(&mut step.delta) {
                Ok(committed) => Ok(self.after_step(engine, *step, committed)),
                Err(error) => {
                    // Somebody meddled with what the step builds on: start over.
                    engine.distrust();
                    let by = self.who_wrote().unwrap_or_else(|e| e.to_string());
                    tracing::warn!(%error, by, "an increment does not fit the kernel's state");
                    engine.advance();
                    self.rebuild(engine)
                }
            },
        };
        let mut synced = match result {
            Ok(synced) => synced,
            Err(error) => {
                engine.distrust();
                return Err(error);
            }
        };
        engine.told();
        if synced.full || self.routes != *engine.routes() {
            synced.routes = self.routes(engine);
        }
        synced.generation = self.generation;
        synced.took = start.elapsed();
        Ok(synced)
    }

    /// Tidies up after an increment: clients of lost endpoints, stale flows.
    fn after_step(&mut self, engine: &Engine, step: Step, committed: Option<Committed>) -> Synced {
        Synced {
            counts: step.delta.counts(),
            committed,
            clients: self.forget(&step.delta, engine),
            flows: self.tidy.flows_after(engine, &step, &self.local_addresses),
            problems: step.problems,
            services: step.services,
            touched: step.touched,
            ..Synced::default()
        }
    }

    /// Commits increments. They are not bound to a generation: elements of ours come and go
    /// whatever others write to their own tables, so a busy neighbour cannot hold us up. If
    /// one meddles with ours, the kernel refuses what does not fit, or [`KernelSync::look`] finds it.
    fn commit(&mut self, delta: &mut Delta) -> Result<Option<Committed>, SyncError> {
        if delta.is_empty() {
            return Ok(None);
        }
        if self.own {
            own_added(delta);
        }
        let first = take_ahead(delta);
        if !first.is_empty() {
            self.commit_ahead(&first, 0)?;
        }
        self.carry_counters(delta);
        let kernel = &mut self.kernel;
        let committed = self
            .writers
            .while_committing(delta, || kernel.commit(delta, 0))?;
        self.generation = next(self.generation);
        Ok(Some(committed))
    }

    /// Commits sets that no rule uses yet.
    fn commit_ahead(&mut self, first: &Delta, bound: u32) -> Result<(), NetlinkError> {
        let kernel = &mut self.kernel;
        self.writers
            .while_committing(first, || kernel.commit(first, bound))?;
        self.generation = next(self.generation);
        Ok(())
    }

    /// Counts that are lost hold up no endpoint.
    fn carry_counters(&mut self, delta: &mut Delta) {
        if let Err(error) = counters::carry(&mut self.kernel, delta) {
            tracing::warn!(%error, "counters of replaced elements start from 0");
        }
    }

    /// Reads the kernel back, compares and commits the difference, bound to what was read
    /// unless others keep coming first ([`bound_to`]).
    fn rebuild(&mut self, engine: &mut Engine) -> Result<Synced, SyncError> {
        // Who is set aside takes a try, but is no race.
        let mut asides = 0;
        for tries in 0..TRIES + MOST_ASIDE {
            let races = tries - asides;
            let live = self.kernel.read()?;
            let (mut delta, plan, problems) = engine.rebuild(&live);
            let counts = delta.counts();
            if self.own {
                own(&mut delta, engine.ruleset(), &live);
            }
            let taking_over = self.add_take_over(&mut delta)?;
            let first = if taking_over {
                ahead(&delta)
            } else {
                take_first(&mut delta)
            };
            if !first.is_empty() {
                match self.commit_ahead(&first, bound_to(live.generation, races)) {
                    Ok(()) | Err(NetlinkError::Raced) => {}
                    Err(error) => self.give_up_owning(error)?,
                }
                continue;
            }
            let committed = if delta.is_empty() {
                self.generation = live.generation;
                None
            } else {
                self.carry_counters(&mut delta);
                let bound = bound_to(live.generation, races);
                let kernel = &mut self.kernel;
                let result = self
                    .writers
                    .while_committing(&delta, || kernel.commit(&delta, bound));
                match result {
                    Err(NetlinkError::Raced) => continue,
                    Err(error) => {
                        match self.give_up_owning(error) {
                            Ok(()) => {}
                            // Somebody may have come between reading and writing.
                            Err(error) if bound == 0 => return Err(error.into()),
                            Err(error) => {
                                set_aside(&mut self.kernel, engine, &live, error)?;
                                self.aside_since = Some(Instant::now());
                                asides += 1;
                            }
                        }
                        continue;
                    }
                    result => {
                        self.generation = next(live.generation);
                        Some(result?)
                    }
                }
            };
            drop(live);
            if taking_over {
                tracing::info!("took over from kube-proxy");
            }
            self.take_over = false;
            self.verify_owed = false;
            return Ok(Synced {
                full: true,
                counts,
                committed,
                clients: self.forget(&delta, engine),
                flows: self
                    .tidy
                    .flows_in(engine, &plan, &delta, &self.local_addresses),
                problems,
                ..Synced::default()
            });
        }
        Err(NetlinkError::Raced.into())
    }

    /// True if Services have been set aside for so long that they are to be tried again; then
    /// not before as long again.
    pub(super) fn is_aside_due(&mut self, now: Instant) -> bool {
        let due = self.aside_since.is_some_and(|at| now >= at + aside::AGAIN);
        if due {
            self.aside_since = None;
        }
        due
    }

    /// Goes on without owning tables if that is what the kernel refused.
    fn give_up_owning(&mut self, error: NetlinkError) -> Result<(), NetlinkError> {
        match error {
            NetlinkError::Refused {
                operation, errno, ..
            } if self.own && operation.starts_with("to own") => {
                tracing::warn!(%errno, "this kernel has no owned tables (Linux 6.9): foreign changes are repaired instead");
                self.own = false;
                Ok(())
            }
            error => Err(error),
        }
    }

    /// kube-proxy's tables go out in the transaction that brings our rules in. True if there
    /// are any.
    fn add_take_over(&mut self, delta: &mut Delta) -> Result<bool, SyncError> {
        if !self.take_over {
            return Ok(false);
        }
        let mut found = false;
        for (family, name) in self.kernel.table_names()? {
            if name != KUBE_PROXY_TABLE {
                continue;
            }
            let operation = Operation::DeleteOtherTable(name);
            match delta.tables.iter_mut().find(|t| t.family == family) {
                Some(table) => table.operations.push(operation),
                None => delta.tables.push(TableDelta {
                    operations: vec![operation],
                    ..TableDelta::empty(family)
                }),
            }
            tracing::debug!(family = family.nft_name(), "kube-proxy's table goes");
            found = true;
        }
        Ok(found)
    }

    fn forget(&mut self, delta: &Delta, engine: &Engine) -> Tidied {
        let (tidied, commits) = self.tidy.clients(&mut self.kernel, delta, engine);
        (0..commits).for_each(|_| self.generation = next(self.generation));
        tidied
    }

    /// True if flows or clients could not be looked after.
    #[must_use]
    pub fn is_tidying_owed(&self) -> bool {
        self.tidy.is_owed()
    }

    /// Tries again what is owed. O(cluster).
    pub fn tidy(&mut self, engine: &Engine) -> Synced {
        Synced {
            clients: self.forget(&Delta::default(), engine),
            flows: self.tidy.owed_flows(engine, &self.local_addresses),
            generation: self.generation,
            ..Synced::default()
        }
    }

    /// Puts our routes right; a route that fails does not keep the others from being made.
    /// Those that are not ours to manage are left as they are.
    fn routes(&mut self, engine: &Engine) -> Tidied {
        self.routes.clone_from(engine.routes());
        if !engine.config().manage_routes {
            self.routes_owed = false;
            return Tidied {
                removed: 0,
                owed: Some(Ok(())),
            };
        }
        let done = routes::list_ours()
            .and_then(|live| routes::apply(&routes::plan(engine.routes(), &live)));
        let (removed, result) = match done {
            Ok(report) => (
                report.added + report.replaced + report.deleted,
                failures(report.errors.iter().map(ToString::to_string)),
            ),
            Err(error) => (0, Err(error.to_string())),
        };
        self.routes_owed = result.is_err();
        Tidied {
            removed,
            owed: Some(result),
        }
    }

    /// True if routes failed the last time.
    #[must_use]
    pub const fn routes_owed(&self) -> bool {
        self.routes_owed
    }

    /// How many routes are not as they should be.
    ///
    /// # Errors
    /// If routes cannot be read.
    pub fn changed_routes(&self, engine: &Engine) -> Result<usize, SyncError> {
        if !engine.config().manage_routes {
            return Ok(0);
        }
        let delta = routes::plan(engine.routes(), &routes::list_ours()?);
        Ok(delta.add.len() + delta.replace.len() + delta.delete.len())
    }

    /// Puts our routes right after somebody changed routes or links.
    pub fn repair_routes(&mut self, engine: &Engine) -> Synced {
        Synced {
            routes: self.routes(engine),
            generation: self.generation,
            ..Synced::default()
        }
    }

    /// Looks whether somebody changed our tables. One small request if nobody wrote anything;
    /// the outline of our tables if somebody did; a full read-back only if the outline
    /// differs, or when it was long enough ago.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn look(&mut self, engine: &Engine) -> Result<DriftCheck, SyncError> {
        self.writers.note();
        let quiet = self.kernel.generation()? == self.generation;
        if quiet && !(self.verify_owed && Instant::now() >= self.verify_after) {
            return Ok(DriftCheck::Quiet);
        }
        if !quiet {
            match self.outline(engine)? {
                Seen::Whole(generation) => {
                    self.generation = generation;
                    self.verify_owed = true;
                    if Instant::now() < self.verify_after {
                        return Ok(DriftCheck::Others);
                    }
                }
                Seen::Rules(delta) => return Ok(DriftCheck::Rules(delta)),
                Seen::Elements => {}
            }
        }
        self.verify(engine)
    }

    /// Our tables without their elements. O(1).
    fn outline(&mut self, engine: &Engine) -> Result<Seen, SyncError> {
        let outline = self.kernel.outline()?;
        if resembles(engine.ruleset(), &outline) {
            return Ok(Seen::Whole(outline.generation));
        }
        Ok(match rules_only(engine.ruleset(), &outline) {
            Some(delta) => {
                // Left so, it is not found again with every look.
                self.generation = outline.generation;
                self.verify_owed = true;
                Seen::Rules(Box::new(delta))
            }
            None => Seen::Elements,
        })
    }

    /// Carries out what [`DriftCheck::Rules`] found, if nobody committed since. The elements are
    /// compared with the next verification.
    ///
    /// # Errors
    /// If the kernel refuses, or somebody came first.
    pub fn repair_rules(&mut self, delta: &Delta) -> Result<Synced, SyncError> {
        let start = Instant::now();
        let committed = self.kernel.commit(delta, self.generation)?;
        self.generation = next(self.generation);
        Ok(Synced {
            counts: delta.counts(),
            committed: Some(committed),
            generation: self.generation,
            took: start.elapsed(),
            ..Synced::default()
        })
    }

    /// Who may have changed our tables since they were last whole, in words.
    ///
    /// # Errors
    /// If the kernel does not take an empty batch.
    pub fn who_wrote(&mut self) -> Result<String, SyncError> {
        // A new generation is in force some time before its writer is announced. An empty
        // batch changes nothing, but waits for the commit under way, announcement included.
        self.kernel.commit(&Delta::default(), 0)?;
        Ok(self.writers.name())
    }

    /// Compares everything with the kernel. O(cluster), unless a large cluster differs: then
    /// it is read back whole, in O(cluster²).
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn verify(&mut self, engine: &Engine) -> Result<DriftCheck, SyncError> {
        let start = Instant::now();
        if let Seen::Rules(delta) = self.outline(engine)? {
            return Ok(DriftCheck::Rules(delta));
        }
        if engine.ruleset().element_count() > ASKED_FOR {
            let held = holds(&mut self.kernel, engine.ruleset())?;
            if held != Verification::Differs {
                self.verify_after = Instant::now() + start.elapsed() * VERIFY_SHARE;
                self.verify_owed = held == Verification::Disturbed;
            }
            match held {
                Verification::Whole(generation) => {
                    self.generation = generation;
                    self.writers.clear();
                    return Ok(DriftCheck::Others);
                }
                Verification::Disturbed => return Ok(DriftCheck::Others),
                Verification::Differs => {}
            }
        }
        let live = self.kernel.read()?;
        let delta = diff(engine.ruleset(), &live);
        self.verify_after = Instant::now() + start.elapsed() * VERIFY_SHARE;
        self.verify_owed = false;
        self.generation = live.generation;
        Ok(if delta.is_empty() {
            self.writers.clear();
            DriftCheck::Others
        } else {
            DriftCheck::Drift(Box::new(delta))
        })
    }
}

/// The first few of many, in one text.
fn failures(errors: impl ExactSizeIterator<Item = String>) -> Result<(), String> {
    const SHOWN: usize = 3;
    let count = errors.len();
    let first: Vec<String> = errors.take(SHOWN).collect();
    match count.saturating_sub(SHOWN) {
        _ if count == 0 => Ok(()),
        0 => Err(first.join("; ")),
        more => Err(format!("{}; and {more} more", first.join("; "))),
    }
}

/// A commit counts one up, and 0 means "any", so it is passed over.
fn next(generation: u32) -> u32 {
    generation.checked_add(1).unwrap_or(1)
}
