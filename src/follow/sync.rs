//! Between the engine and the kernel: commits steps, starts over when one fails, finds out
//! when somebody else changed our tables, and tidies up after a commit.

use std::time::{Duration, Instant};

use super::aside;
use crate::apply::{
    Anew, Holding, Host, Installed, Installer, Limit, Manner, NameWriters, ThisHost, Tidied,
    Verification, holds, installed, look,
};
use crate::cluster::ObjectName;
use crate::diff::{diff, resembles, rules_only};
use crate::engine::{Engine, Next, Step};
use crate::host::HostError;
use crate::host::routes::RouteReport;
use crate::host::settings::Settings;
use crate::netlink::{Committed, NetlinkError};
use crate::problem::Problem;
use crate::transaction::{Counts, Transaction};

/// A full read-back may take this share of the time at most, however often others commit.
const VERIFY_SHARE: u32 = 20;
/// Up to so many elements, a read-back is faster than asking for each: its pages walk the
/// set from the start (`docs/performance.md`).
const ASKED_FOR: usize = 100_000;

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
    /// True if everything was planned anew, false for an increment.
    pub full: bool,
    /// True if everything was compared with the kernel.
    pub compared: bool,
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
    /// Kernel settings; `None` if it was not their turn.
    pub settings: Option<Result<Settings, HostError>>,
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
    Drift(Box<Transaction>),
    /// Only chains and rules are not; the elements are as many as they were. Seen without
    /// reading any of them.
    Rules(Box<Transaction>),
}

/// What an outline shows.
enum Seen {
    /// As it should be, at this generation.
    Whole(u32),
    /// Rules differ, and this puts them right.
    Rules(Box<Transaction>),
    /// More than that.
    Elements,
}

/// The kernel's side of the daemon.
pub struct KernelSync<H = ThisHost> {
    pub(super) installer: Installer<H>,
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
        Self::of(
            ThisHost::listening(name_writers)?,
            Manner { own, take_over },
        )
    }

    /// `progress` is called between the pages of what is read from nf_tables.
    pub fn on_progress(&mut self, progress: Box<dyn FnMut()>) {
        self.installer.host().on_progress(progress);
    }
}

impl<H: Host> KernelSync<H> {
    /// Of this host. Nothing but its addresses is read yet.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn of(host: H, manner: Manner) -> Result<Self, SyncError> {
        let verify_after = host.now();
        Ok(Self {
            installer: Installer::new(host, manner)?,
            verify_after,
            verify_owed: false,
            aside_since: None,
        })
    }

    /// The host.
    pub const fn host(&mut self) -> &mut H {
        self.installer.host()
    }

    /// The time, as the host has it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.installer.now()
    }

    /// What is installed, as far as it takes to judge whether `after` loses too much of it.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn installed(&mut self, limit: &Limit, after: Holding) -> Result<Holding, SyncError> {
        let host = self.installer.host();
        let routes = host.routes()?.len();
        Ok(installed(host, limit, after, routes)?)
    }

    /// Carries out what changed in the engine. O(changed), or O(cluster) if that may concern
    /// every service; the kernel is read only if the engine does not trust its memory. With the rules in force this succeeded; what failed besides is told in
    /// [`Synced`], and owed ([`Installer::is_tidying_owed`], [`Installer::routes_owed`]).
    ///
    /// # Errors
    /// If the kernel refuses the rules; the engine then starts over with the next sync.
    pub fn sync(&mut self, engine: &mut Engine) -> Result<Synced, SyncError> {
        let start = self.now();
        let remembered = match engine.advance() {
            Next::Rebuild => None,
            Next::Replan => Some(self.replan(engine)),
            Next::Step(step) => Some(self.step(engine, *step)),
        };
        let result = match remembered {
            Some(Ok(synced)) => Ok(synced),
            Some(Err(error)) => {
                // Somebody meddled with what it builds on: start over.
                engine.distrust();
                let by = self.who_wrote().unwrap_or_else(|e| e.to_string());
                tracing::warn!(%error, by, "a change does not fit the kernel's state");
                self.rebuild(engine)
            }
            None => self.rebuild(engine),
        };
        let mut synced = match result {
            Ok(synced) => synced,
            Err(error) => {
                engine.distrust();
                return Err(error);
            }
        };
        engine.told();
        synced.took = self.now() - start;
        Ok(synced)
    }

    /// Carries out what changed of some services.
    fn step(&mut self, engine: &Engine, step: Step) -> Result<Synced, NetlinkError> {
        let (done, step) = self.installer.increment(engine, step)?;
        Ok(Synced {
            problems: step.problems,
            services: step.services,
            touched: step.touched,
            ..self.synced(done)
        })
    }

    /// Plans everything anew, and compares in memory.
    fn replan(&mut self, engine: &mut Engine) -> Result<Synced, NetlinkError> {
        let (mut wanted, delta) = Anew::remembered(engine);
        let done = self.installer.install_remembered(&mut wanted, delta)?;
        Ok(Synced {
            full: true,
            problems: wanted.problems,
            ..self.synced(done)
        })
    }

    /// Reads the kernel back, compares and commits the difference.
    fn rebuild(&mut self, engine: &mut Engine) -> Result<Synced, SyncError> {
        let mut wanted = Anew::new(engine);
        let found = look(self.installer.host(), &mut wanted)?;
        let done = self.installer.install(&mut wanted, found);
        if wanted.set_aside {
            self.aside_since = Some(self.now());
        }
        let problems = wanted.problems;
        let done = done?;
        self.verify_owed = false;
        Ok(Synced {
            full: true,
            compared: true,
            problems,
            ..self.synced(done)
        })
    }

    /// What was done, as it is told.
    fn synced(&self, done: Installed) -> Synced {
        if let Some(error) = &done.rules.counters_lost {
            tracing::warn!(%error, "counters of replaced elements start from 0");
        }
        Synced {
            counts: done.rules.delta.counts(),
            committed: done.rules.committed,
            clients: done.clients,
            flows: done.flows,
            routes: done.routes.map_or_else(Tidied::default, |r| routes(&r)),
            settings: done.settings,
            generation: self.installer.generation(),
            ..Synced::default()
        }
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

    /// Tries again what is owed. O(cluster).
    pub fn tidy(&mut self, engine: &Engine) -> Synced {
        let done = self.installer.tidy(engine);
        self.synced(done)
    }

    /// How many routes are not as they should be.
    ///
    /// # Errors
    /// If routes cannot be read.
    pub fn changed_routes(&mut self, engine: &Engine) -> Result<usize, SyncError> {
        let delta = (self.installer).other_routes(engine.config(), engine.routes())?;
        Ok(delta.add.len() + delta.replace.len() + delta.delete.len())
    }

    /// Puts our routes right after somebody changed routes or links.
    pub fn repair_routes(&mut self, engine: &Engine) -> Synced {
        let done = self.installer.repair_routes(engine);
        self.synced(done)
    }

    /// Looks whether somebody changed our tables. One small request if nobody wrote anything;
    /// the outline of our tables if somebody did; a full read-back only if the outline
    /// differs, or when it was long enough ago.
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn look(&mut self, engine: &Engine) -> Result<DriftCheck, SyncError> {
        let host = self.installer.host();
        host.note_writers();
        let may_verify = host.now() >= self.verify_after;
        let quiet = host.generation()? == self.installer.generation();
        if quiet && !(self.verify_owed && may_verify) {
            return Ok(DriftCheck::Quiet);
        }
        if !quiet {
            match self.outline(engine)? {
                Seen::Whole(generation) => {
                    self.installer.seen_at(generation);
                    self.verify_owed = true;
                    if !may_verify {
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
        let outline = self.host().outline()?;
        if resembles(engine.ruleset(), &outline) {
            return Ok(Seen::Whole(outline.generation));
        }
        Ok(match rules_only(engine.ruleset(), &outline) {
            Some(delta) => {
                // Left so, it is not found again with every look.
                self.installer.seen_at(outline.generation);
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
    pub fn repair_rules(&mut self, delta: &Transaction) -> Result<Synced, SyncError> {
        let start = self.now();
        let committed = self.installer.commit_if_alone(delta)?;
        Ok(Synced {
            counts: delta.counts(),
            committed: Some(committed),
            generation: self.installer.generation(),
            took: self.now() - start,
            ..Synced::default()
        })
    }

    /// Who may have changed our tables since they were last whole, in words.
    ///
    /// # Errors
    /// If the kernel does not take an empty batch.
    pub fn who_wrote(&mut self) -> Result<String, SyncError> {
        Ok(self.host().who_wrote()?)
    }

    /// Compares everything with the kernel. O(cluster), unless a large cluster differs: then
    /// it is read back whole, in O(cluster²).
    ///
    /// # Errors
    /// If the kernel cannot be read.
    pub fn verify(&mut self, engine: &Engine) -> Result<DriftCheck, SyncError> {
        let start = self.now();
        if let Seen::Rules(delta) = self.outline(engine)? {
            return Ok(DriftCheck::Rules(delta));
        }
        if engine.ruleset().element_count() > ASKED_FOR {
            let held = holds(self.host(), engine.ruleset())?;
            if held != Verification::Differs {
                self.verified_since(start);
                self.verify_owed = held == Verification::Disturbed;
            }
            match held {
                Verification::Whole(generation) => {
                    self.installer.seen_at(generation);
                    self.host().clear_writers();
                    return Ok(DriftCheck::Others);
                }
                Verification::Disturbed => return Ok(DriftCheck::Others),
                Verification::Differs => {}
            }
        }
        let live = self.host().read()?;
        let delta = diff(engine.ruleset(), &live);
        self.verified_since(start);
        self.verify_owed = false;
        self.installer.seen_at(live.generation);
        Ok(if delta.is_empty() {
            self.host().clear_writers();
            DriftCheck::Others
        } else {
            DriftCheck::Drift(Box::new(delta))
        })
    }

    /// A verification that took long is not repeated soon.
    fn verified_since(&mut self, start: Instant) {
        let now = self.now();
        self.verify_after = now + (now - start) * VERIFY_SHARE;
    }
}

/// How it went with routes, in one text.
fn routes(result: &Result<RouteReport, HostError>) -> Tidied {
    let (removed, owed) = match result {
        Ok(report) => (
            report.changed(),
            failures(report.errors.iter().map(ToString::to_string)),
        ),
        Err(error) => (0, Err(error.to_string())),
    };
    Tidied {
        removed,
        owed: Some(owed),
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

#[cfg(test)]
mod tests;
