//! The node agent: follows its sources, carries out what changed, keeps it that way.
//!
//! One thread does everything that touches the engine or the kernel; it sleeps in `poll` on
//! inotify (files), rtnetlink (links, addresses, routes) and a wake-up from the thread that
//! talks to the API. Whoever is late or gone (API, disk, service manager) never keeps a
//! commit from happening.

mod blame;
mod files;
mod pending;
mod saved;
mod service_manager;
mod settings;
mod sync;
mod tell;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use blame::NameWriters;
pub use files::Watch;
pub use pending::{Pending, Verdict};
pub use saved::{Saved, SavedError};
pub use service_manager::notify;
pub use sync::{Look, Sync, SyncError, Synced};

use crate::cluster::{Cluster, Slices};
use crate::config::Config;
use crate::diff::Delta;
use crate::engine::Engine;
use crate::host::monitor::Monitor;
use crate::observe::{HealthPorts, Progress, Shared};
use crate::plan::Route;
use crate::problem::{Problem, Severity};
use crate::source::api;
use service_manager::Told;
use tell::report;

/// How often the kernel's generation is looked at: one request of a few microseconds.
const LOOK: Duration = Duration::from_millis(50);
/// Between two syncs after one failed.
const RETRY: Duration = Duration::from_secs(1);
/// Between two attempts at routes of which some failed.
const ROUTES_RETRY: Duration = Duration::from_secs(5);
/// The state goes to disk when nothing has changed for so long...
const SAVE_QUIET: Duration = Duration::from_secs(2);
/// ... or at the latest after this.
const SAVE_LATEST: Duration = Duration::from_secs(60);
/// A large loss in files is believed when a second reading after this says the same.
const SECOND_READING: Duration = Duration::from_secs(2);

/// What to do when others change our tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// Put them right at once.
    Repair,
    /// Say so.
    Report,
    /// Do not look.
    Ignore,
}

/// How to follow.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do about foreign changes.
    pub drift: Drift,
    /// Least time between two commits; a lone change never waits.
    pub min_sync_period: Duration,
    /// How often everything is read back and compared.
    pub verify_period: Duration,
    /// The share of all endpoints that may go at once without a second list, 0 to 1.
    pub max_endpoint_loss: f64,
    /// Where the last good state is kept.
    pub state_dir: Option<PathBuf>,
    /// When to listen for who commits.
    pub name_writers: NameWriters,
    /// Own our tables, so that nobody else can change or flush them.
    pub own_tables: bool,
    /// Remove kube-proxy's tables in the first transaction.
    pub take_over: bool,
    /// Leave invalid objects out of files instead of keeping the last good state.
    pub skip_invalid: bool,
}

/// Objects read from files, with the settings that go with them.
pub struct Reading {
    /// Settings.
    pub config: Config,
    /// Objects, completed.
    pub cluster: Cluster,
    /// What was found.
    pub problems: Vec<Problem>,
}

/// Where objects come from.
pub enum Sources<'a> {
    /// Files: what changed there, and how to read them.
    Files {
        /// Tells when to read again.
        watch: Watch,
        /// Reads everything.
        read: Box<dyn Fn() -> Result<Reading, String> + 'a>,
    },
    /// The Kubernetes API.
    Api(api::Follower),
}

/// A wake-up that other threads may call.
#[derive(Clone)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    /// A new one.
    ///
    /// # Errors
    /// If the kernel has no descriptor to give.
    pub fn new() -> Result<Self, Errno> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    /// Ends the agent's sleep.
    pub fn wake(&self) {
        // A full counter wakes just as well.
        let _ = self.0.write(1);
    }
}

/// Signals that were received.
#[derive(Clone, Default)]
pub struct Signals {
    /// End.
    pub stop: Arc<AtomicBool>,
    /// Read the files again, verify everything.
    pub reload: Arc<AtomicBool>,
}

/// The agent.
pub struct Agent<'a> {
    options: Options,
    sources: Sources<'a>,
    engine: Engine,
    sync: Sync,
    monitor: Monitor,
    waker: Waker,
    pending: Pending,
    saved: Option<Saved>,
    /// The first sync from complete sources is done.
    ready: bool,
    last_commit: Option<Instant>,
    retry_at: Option<Instant>,
    last_look: Instant,
    last_verify: Instant,
    last_routes: Instant,
    /// Since when the state on disk is out of date, and when it last changed.
    unsaved: Option<(Instant, Instant)>,
    /// A reading of files that lost too much, and when it is read again.
    doubted: Option<Instant>,
    progress: Instant,
    observed: Arc<Shared>,
    health_ports: HealthPorts,
    /// Kernel settings found wrong.
    settings: Vec<Problem>,
    told: Told,
    /// What takes so long, on a terminal, until it is ready.
    line: Progress,
}

impl<'a> Agent<'a> {
    /// An agent that has not done anything yet.
    ///
    /// # Errors
    /// If the kernel does not give us the sockets.
    pub fn new(
        options: Options,
        config: Config,
        sources: Sources<'a>,
        waker: Waker,
        observed: Arc<Shared>,
        line: Progress,
    ) -> Result<Self, SyncError> {
        let monitor = Monitor::open()?;
        let mut sync = Sync::open(options.take_over, options.own_tables, options.name_writers)?;
        let addresses = sync.refresh_addresses()?;
        let now = Instant::now();
        Ok(Self {
            options,
            sources,
            engine: Engine::new(config, addresses),
            sync,
            monitor,
            waker,
            pending: Pending::default(),
            saved: None,
            ready: false,
            last_commit: None,
            retry_at: None,
            last_look: now,
            last_verify: now,
            last_routes: now,
            unsaved: None,
            doubted: None,
            progress: now,
            observed,
            health_ports: HealthPorts::new(),
            settings: Vec::new(),
            told: Told::default(),
            line,
        })
    }

    /// Follows until told to stop.
    ///
    /// # Errors
    /// If the first sync from files fails: then nothing was installed, and somebody is
    /// watching. Later errors are logged and tried again.
    pub fn run(&mut self, signals: &Signals) -> Result<(), String> {
        self.open_state();
        if matches!(self.sources, Sources::Files { .. }) {
            self.line.say("reading the inputs");
            self.read_files(true)?;
            let services = self.engine.cluster().services.len();
            self.line.say(format!("installing {services} services"));
            self.flush("start").map_err(|e| e.to_string())?;
            self.become_ready();
        }
        while !signals.stop.load(Ordering::Relaxed) {
            let files = self.wait().map_err(|e| format!("cannot wait: {e}"))?;
            let reload = signals.reload.swap(false, Ordering::Relaxed);
            self.host_changes();
            self.api_events();
            let again = self.doubted.is_some_and(|at| Instant::now() >= at);
            let reread = files || again || reload;
            if reread && let Err(error) = self.read_files(false) {
                tracing::error!(error, "the last good state stays");
            }
            self.flush_if_due();
            if reload || self.last_verify.elapsed() >= self.options.verify_period {
                self.last_verify = Instant::now();
                self.repair_routes();
                self.look(true);
                self.host_settings();
            } else if self.last_look.elapsed() >= LOOK {
                self.look(false);
            }
            self.save_if_due(false);
            let (ready, engine) = (self.ready, &self.engine);
            self.told.alive(|| ready.then(|| status(engine)));
        }
        self.save_if_due(true);
        Ok(())
    }

    /// Sleeps until something happens; true if files may have changed.
    fn wait(&mut self) -> Result<bool, Errno> {
        let mut timeout = LOOK;
        if let (false, Some(at)) = (self.pending.is_empty(), self.due_at()) {
            timeout = timeout.min(at.saturating_duration_since(Instant::now()));
        }
        let watched = match &self.sources {
            Sources::Files { watch, .. } => Some(watch),
            Sources::Api(_) => None,
        };
        let mut fds = vec![
            PollFd::new(self.waker.0.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.monitor.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(watched.map(|w| PollFd::new(w.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout.max(Duration::from_millis(1)))
            .unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        drop(fds);
        // Nothing there means nobody called.
        let _ = self.waker.0.read();
        match watched {
            Some(watch) => watch.wait(Duration::ZERO),
            None => Ok(false),
        }
    }

    /// When the next commit may come.
    fn due_at(&self) -> Option<Instant> {
        let after_last = self.last_commit.map(|at| at + self.options.min_sync_period);
        after_last.into_iter().chain(self.retry_at).max()
    }

    /// Links, addresses and routes.
    fn host_changes(&mut self) {
        let routes = self.engine.routes();
        let changed = self.monitor.drain(|to| leads_to(routes, to));
        if changed.addresses {
            match self.sync.refresh_addresses() {
                Ok(addresses) => self.engine.set_interface_addresses(addresses),
                Err(error) => tracing::error!(%error, "cannot read this node's addresses"),
            }
        }
        let owed = self.sync.routes_owed() && self.last_routes.elapsed() >= ROUTES_RETRY;
        if changed.routes || owed {
            self.repair_routes();
        }
    }

    fn repair_routes(&mut self) {
        if !self.ready || self.options.drift == Drift::Ignore {
            return;
        }
        self.last_routes = Instant::now();
        let done = if self.options.drift == Drift::Report {
            self.sync.changed_routes(&self.engine).map(|changed| {
                if changed > 0 {
                    tracing::warn!(routes = changed, "others changed our routes");
                }
            })
        } else {
            let repaired = self.sync.repair_routes(&self.engine);
            repaired.map(|synced| self.tell("routes", &synced))
        };
        if let Err(error) = done {
            tracing::error!(%error, "cannot look after our routes");
        }
    }

    fn api_events(&mut self) {
        let Sources::Api(follower) = &self.sources else {
            return;
        };
        for event in follower.events() {
            match &event {
                api::Event::Failed(kind, error) => {
                    tracing::warn!(kind = kind.name(), error, "the API does not answer");
                    self.observed.source_failed(kind.name());
                }
                api::Event::Listed(_, _, problems) | api::Event::Changed(_, _, problems) => {
                    report(problems);
                }
                api::Event::Listing(_) | api::Event::Complete(_) => {}
            }
            if let api::Event::Changed(kind, ..) = event {
                self.observed.queued(
                    u64::from(kind == api::Kind::Service),
                    u64::from(kind == api::Kind::EndpointSlice),
                );
            }
            if self.pending.take(event, self.engine.cluster()) {
                let sources = self.pending.sources();
                self.observed
                    .set_sources(sources.map(|(kind, ok)| (kind.name(), ok)));
            }
        }
        if !self.ready && self.progress.elapsed() >= Duration::from_secs(1) {
            self.progress = Instant::now();
            let listing = format!("listing: {} objects so far", self.pending.len());
            self.line.say(&listing);
            self.told.status(listing);
            tracing::info!(objects = self.pending.len(), "listing");
        }
    }

    /// Hands pending changes to the engine if they may go, and commits.
    fn flush_if_due(&mut self) {
        if self.due_at().is_some_and(|at| at > Instant::now()) {
            return;
        }
        let share = self.options.max_endpoint_loss;
        match self.pending.verdict(&self.engine, share) {
            Verdict::Go => {
                for change in self.pending.drain() {
                    self.engine.apply(change);
                }
            }
            Verdict::Doubt { lost, of } => {
                tracing::warn!(
                    lost,
                    of,
                    "most endpoints would go: held until a second list"
                );
                self.observed.held_back();
                if let Sources::Api(follower) = &self.sources {
                    follower.relist();
                }
            }
            Verdict::Wait => {}
        }
        if matches!(self.sources, Sources::Api(_)) && !self.ready && !self.pending.is_complete() {
            return;
        }
        if !self.engine.is_dirty() {
            return;
        }
        let cause = if self.ready { "change" } else { "start" };
        match self.flush(cause) {
            Ok(()) if !self.ready => self.become_ready(),
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "sync failed; tried again");
                self.observed.failed(&error.to_string());
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn flush(&mut self, cause: &str) -> Result<(), SyncError> {
        let synced = self.sync.sync(&mut self.engine)?;
        let now = Instant::now();
        self.retry_at = None;
        self.last_commit = Some(now);
        let since = self.unsaved.map_or(now, |(since, _)| since);
        self.unsaved = Some((since, now));
        report(&synced.problems);
        self.tell(cause, &synced);
        self.observe(cause, &synced);
        if synced.full {
            self.host_settings();
        }
        Ok(())
    }

    fn become_ready(&mut self) {
        self.ready = true;
        self.observed.set_ready();
        self.told.ready();
        self.told.status(status(&self.engine));
        self.line.done();
    }

    /// Reads files again. What cannot be used changes nothing: a half-written file is followed
    /// by a whole one, and the last good state stays until then.
    fn read_files(&mut self, first: bool) -> Result<(), String> {
        let Sources::Files { read, .. } = &self.sources else {
            return Ok(());
        };
        let confirmed = self.doubted.take().is_some_and(|at| Instant::now() >= at);
        let reading = read()?;
        report(&reading.problems);
        let is_error = |p: &&Problem| p.severity == Severity::Error;
        let errors = reading.problems.iter().filter(is_error).count();
        if errors > 0 && !self.options.skip_invalid {
            return Err(format!("{errors} errors in the input"));
        }
        let before = self.engine.endpoint_count();
        let slices = reading.cluster.slices.values().flat_map(Slices::iter);
        let after: usize = slices.map(|slice| slice.endpoints.len()).sum();
        let lost = before.saturating_sub(after);
        // A file is often emptied, or moved away, just before it is written anew.
        let too_many = pending::too_many(lost, before, self.options.max_endpoint_loss)
            || (before > 0 && after == 0);
        if !first && !confirmed && too_many {
            tracing::warn!(
                lost,
                of = before,
                "most endpoints would go: held until a second reading"
            );
            self.observed.held_back();
            self.doubted = Some(Instant::now() + SECOND_READING);
            return Ok(());
        }
        let addresses = self.sync.refresh_addresses().map_err(|e| e.to_string())?;
        self.engine.reconfigure(reading.config, addresses);
        self.engine.replace(reading.cluster);
        Ok(())
    }

    /// Looks whether somebody changed our tables, and does what was asked for then.
    fn look(&mut self, whole: bool) {
        self.last_look = Instant::now();
        if self.options.drift == Drift::Ignore || self.engine.is_dirty() {
            return;
        }
        let found = if whole {
            self.sync.verify(&self.engine)
        } else {
            self.sync.look(&self.engine)
        };
        match found {
            Ok(Look::Drift(delta)) => self.drift(&delta),
            Ok(Look::Quiet | Look::Others) => {}
            Err(error) => tracing::error!(%error, "cannot read our tables back"),
        }
    }

    fn drift(&mut self, delta: &Delta) {
        let counts = delta.counts();
        let by = self.sync.blame().unwrap_or_else(|error| error.to_string());
        tracing::warn!(
            by,
            missing = counts.elements_added,
            foreign = counts.elements_deleted,
            rules = counts.rules_added,
            objects = counts.objects,
            "others changed our tables"
        );
        self.observed.drifted(&by);
        if self.options.drift == Drift::Repair {
            self.engine.distrust();
            if let Err(error) = self.flush("drift") {
                tracing::error!(%error, "cannot repair our tables; tried again");
                self.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    fn open_state(&mut self) {
        let Some(folder) = &self.options.state_dir else {
            return;
        };
        match Saved::in_folder(folder) {
            Ok(saved) => {
                if matches!(self.sources, Sources::Api(_)) {
                    self.boot(&saved);
                }
                self.saved = Some(saved);
            }
            Err(error) => tracing::error!(%error, "no state is kept"),
        }
    }

    /// Installs the last good state until the API answers.
    fn boot(&mut self, saved: &Saved) {
        let cluster = match saved.read() {
            Ok(Some(cluster)) => cluster,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the saved state cannot be used");
                return;
            }
        };
        self.engine.replace(cluster);
        if let Err(error) = self.flush("saved-state") {
            tracing::error!(%error, "cannot install the saved state");
        }
        self.last_commit = None;
        self.unsaved = None;
    }

    fn save_if_due(&mut self, now: bool) {
        let (Some(saved), Some((since, last)), true) = (&self.saved, self.unsaved, self.ready)
        else {
            return;
        };
        if !now && last.elapsed() < SAVE_QUIET && since.elapsed() < SAVE_LATEST {
            return;
        }
        self.unsaved = None;
        match saved.write(self.engine.cluster()) {
            Ok(bytes) => tracing::debug!(bytes, "state saved"),
            Err(error) => tracing::error!(%error, "cannot save the state"),
        }
    }
}

/// True if one of `routes` leads to `to`. O(log routes).
fn leads_to(routes: &BTreeSet<Route>, to: IpNet) -> bool {
    let first = Route {
        destination: to,
        via: Ipv4Addr::UNSPECIFIED.into(),
        node: String::new(),
    };
    let next = routes.range(first..).next();
    next.is_some_and(|route| route.destination.trunc() == to)
}

/// One line for the service manager.
fn status(engine: &Engine) -> String {
    format!(
        "{} services, {} elements",
        engine.cluster().services.len(),
        engine.ruleset().element_count()
    )
}
