//! The node agent: follows its sources, carries out what changed, keeps it that way.
//!
//! One thread does everything that touches the engine or the kernel; it sleeps in `poll` on
//! its source (inotify, or a wake-up from the thread that talks to the API) and on rtnetlink
//! (links, addresses, routes). Whoever is late or gone (API, disk, service manager) never keeps a
//! commit from happening.

mod agenda;
#[cfg(test)]
mod agent_tests;
mod aside;
mod drift;
mod health_checks;
mod hold;
mod pending;
mod saved;
mod service_manager;
mod settings;
mod sources;
mod state;
mod sync;
mod tell;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use crate::apply::{NameWriters, Tidied};
pub use pending::Pending;
pub use saved::VERSION as STATE_VERSION;
pub use saved::{Saved, SavedError};
pub use service_manager::notify;
pub use sync::{DriftCheck, KernelSync, SyncError, Synced};

use crate::apply::{Host, Limit, LossGuard, ThisHost};
use crate::cluster::Kind;
use crate::config::Config;
use crate::engine::Engine;
use crate::host::monitor::{Changed, Monitor};
use crate::observe::{Condition, Shared};
use crate::plan::Route;
use crate::problem::Problem;
use crate::progress::Progress;
use crate::source::events::{Failure, Reason, Source};
use agenda::{Agenda, waits};
use health_checks::HealthChecks;
use service_manager::ServiceManager;
use tell::report;

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
    /// What may be lost at once without a second reading.
    pub limit: Limit,
    /// Where the last good state is kept.
    pub state_dir: Option<PathBuf>,
    /// When to listen for who commits.
    pub name_writers: NameWriters,
    /// Own our tables, so that nobody else can change or flush them.
    pub own_tables: bool,
    /// Remove kube-proxy's tables in the first transaction.
    pub take_over: bool,
}

/// What ended the agent's sleep, besides the time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Woken {
    /// Everything is to be read and verified.
    reload: bool,
    /// Links, addresses or routes changed.
    host: Changed,
}

/// Signals that were received.
#[derive(Clone, Default)]
pub struct Signals {
    /// End.
    pub stop: Arc<AtomicBool>,
    /// Read the files again, verify everything.
    pub reload: Arc<AtomicBool>,
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The files cannot be read at the start.
    #[error("{0}")]
    Input(String),
    /// They hold what cannot be used.
    #[error("{0}")]
    Objects(String),
    /// The first sync from files failed.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// The kernel does not let it sleep.
    #[error("cannot wait: {0}")]
    Wait(Errno),
}

impl From<Failure> for RunError {
    fn from(failure: Failure) -> Self {
        match failure.reason {
            Reason::Invalid => Self::Objects(failure.message),
            _ => Self::Input(failure.to_string()),
        }
    }
}

/// The agent. All of it but [`Agent::run`] goes by the host's time, and neither sleeps nor
/// listens.
pub struct Agent<'a, H = ThisHost> {
    options: Options,
    source: Box<dyn Source + 'a>,
    engine: Engine,
    sync: KernelSync<H>,
    pending: Pending,
    agenda: Agenda,
    /// The first sync from complete sources is done.
    ready: bool,
    /// Others changed our tables, and they are left so.
    drifted: bool,
    /// Holds back what loses too much.
    guard: LossGuard,
    /// The saved state was installed.
    booted: bool,
    progress: Instant,
    observed: Arc<Shared>,
    health_checks: HealthChecks,
    /// Kernel settings found wrong.
    settings: Vec<Problem>,
    told: Rc<RefCell<ServiceManager>>,
    /// What takes so long, on a terminal, until it is ready.
    line: Progress,
}

impl<'a> Agent<'a> {
    /// An agent of this host that has not done anything yet, and what it sleeps on besides its
    /// source.
    ///
    /// # Errors
    /// If the kernel does not give us the sockets.
    pub fn new(
        options: Options,
        config: Config,
        source: Box<dyn Source + 'a>,
        observed: Arc<Shared>,
        line: Progress,
    ) -> Result<(Self, Monitor), SyncError> {
        let monitor = Monitor::open()?;
        let mut sync =
            KernelSync::open(options.take_over, options.own_tables, options.name_writers)?;
        let told = Rc::new(RefCell::new(ServiceManager::default()));
        let (life, watched) = (Rc::clone(&told), Arc::clone(&observed));
        sync.on_progress(Box::new(move || {
            life.borrow_mut().alive();
            watched.progress();
        }));
        let agent = Self::over(sync, options, config, source, observed, line, told)?;
        Ok((agent, monitor))
    }

    /// Follows until told to stop. The only place that sleeps.
    ///
    /// # Errors
    /// If the first reading of files or the first sync from them fails: then nothing was
    /// installed, and somebody is watching. Later errors are logged and tried again.
    pub fn run(&mut self, monitor: &Monitor, signals: &Signals) -> Result<(), RunError> {
        self.start()?;
        while !signals.stop.load(Ordering::Relaxed) {
            let mut woken = self.wait(monitor).map_err(RunError::Wait)?;
            woken.reload = signals.reload.swap(false, Ordering::Relaxed);
            self.turn(woken);
        }
        self.save_if_due(true);
        self.tell_news();
        Ok(())
    }

    /// Sleeps until something happens.
    fn wait(&self, monitor: &Monitor) -> Result<Woken, Errno> {
        let timeout = self.agenda.sleep(!self.pending.is_empty(), self.now());
        let mut fds =
            [self.source.as_fd(), monitor.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        let timeout = PollTimeout::try_from(timeout.max(Duration::from_millis(1)))
            .unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
        let routes = self.engine.routes();
        Ok(Woken {
            reload: false,
            host: monitor.drain(|to| leads_to(routes, to)),
        })
    }
}

impl<'a, H: Host> Agent<'a, H> {
    /// An agent over `sync` that has not done anything yet.
    fn over(
        mut sync: KernelSync<H>,
        options: Options,
        config: Config,
        source: Box<dyn Source + 'a>,
        observed: Arc<Shared>,
        line: Progress,
        told: Rc<RefCell<ServiceManager>>,
    ) -> Result<Self, SyncError> {
        let addresses = sync.installer.refresh_addresses()?;
        let now = sync.now();
        for kind in Kind::ALL {
            observed.expect(Condition::Source(source.part(kind)));
        }
        observed.expect(Condition::FirstSync);
        let guard = LossGuard::new(options.limit);
        Ok(Self {
            agenda: Agenda::new(options.min_sync_period, options.verify_period, now),
            options,
            source,
            engine: Engine::new(config, addresses),
            sync,
            pending: Pending::default(),
            ready: false,
            drifted: false,
            guard,
            booted: false,
            progress: now,
            observed,
            health_checks: HealthChecks::default(),
            settings: Vec::new(),
            told,
            line,
        })
    }

    /// The time, as the host has it.
    fn now(&self) -> Instant {
        self.sync.now()
    }

    /// What is done before the first turn.
    fn start(&mut self) -> Result<(), RunError> {
        self.open_state();
        if self.source.is_remote() {
            return Ok(());
        }
        self.line.say("reading the inputs");
        self.source.ask_again();
        if let Some(failure) = self.source_events() {
            return Err(failure.into());
        }
        if self.hand_over()? {
            let services = self.engine.cluster().services.len();
            self.line.say(format!("installing {services} services"));
            self.flush("start")?;
            self.become_ready();
        } else {
            self.line
                .say("held: the inputs lose too much of what is installed");
        }
        Ok(())
    }

    /// All that is to be done by now.
    fn turn(&mut self, woken: Woken) {
        self.host_changes(woken.host);
        let verify = self.agenda.take_verify(self.sync.now()) || woken.reload;
        // A folder may have been moved, or mounted over, without a word to us.
        self.ask_again(woken.reload || (verify && !self.source.is_remote()));
        // What was lost is told, and stands as it was.
        self.source_events();
        self.note_what_waits();
        self.flush_if_due();
        self.try_again();
        if verify {
            self.agenda.verified(self.sync.now());
            self.repair_routes();
            self.look(true);
            self.host_settings();
        } else if self.agenda.take_look(self.sync.now()) {
            self.look(false);
        }
        self.save_if_due(false);
        self.note_what_waits();
        self.tell_news();
        let (ready, engine) = (self.ready, &self.engine);
        let mut told = self.told.borrow_mut();
        told.how(|| ready.then(|| status(engine)));
    }

    /// Links, addresses and routes.
    fn host_changes(&mut self, changed: Changed) {
        let now = self.now();
        if changed.addresses || self.agenda.addresses.is_due(now) {
            let addresses = self.sync.installer.refresh_addresses();
            self.observed.outcome(Condition::Addresses, &addresses);
            self.agenda.addresses.outcome(addresses.is_ok(), now);
            if let Ok(addresses) = addresses {
                self.engine.set_interface_addresses(addresses);
            }
        }
        if changed.routes || self.agenda.routes.is_due(now) {
            self.repair_routes();
        }
    }

    /// What failed beside the rules, which are in force.
    fn try_again(&mut self) {
        if self.agenda.tidying.is_due(self.now()) && !self.engine.is_dirty() {
            let synced = self.sync.tidy(&self.engine);
            self.tidied(&synced);
            self.tell("tidying", &synced);
        }
        if self.agenda.settings.is_due(self.now()) {
            self.host_settings();
        }
    }

    /// Derived anew each time, so that nobody can forget to take it back.
    fn note_what_waits(&mut self) {
        let known = self.ready || self.pending.is_complete();
        // Held at the start, nothing is known that could be carried out.
        let known = known && !self.held_at_start();
        // Before that, only a saved state can have failed; it is tried again, and stays so.
        if known {
            let waits = waits(known, &self.engine, &self.pending);
            self.observed.waits(waits);
        }
    }

    /// Hands pending changes to the engine if they may go, and commits.
    fn flush_if_due(&mut self) {
        if !self.agenda.may_commit(self.sync.now()) {
            return;
        }
        if let Err(error) = self.hand_over() {
            let reason = format!("cannot read what is installed: {error}");
            self.observed.failing(Condition::Tables, &reason);
            self.agenda.commit.outcome(false, self.now());
        }
        if !self.ready && !self.pending.is_complete() {
            if self.agenda.commit.is_due(self.sync.now()) {
                self.install_saved();
            }
            return;
        }
        if self.held_at_start() {
            return;
        }
        self.try_aside_again();
        if !self.engine.is_dirty() {
            return;
        }
        let cause = if self.ready { "change" } else { "start" };
        if self.try_flush(cause) && !self.ready {
            self.become_ready();
        }
    }

    /// The same as [`Agent::flush`]; what fails is told, and tried again by itself. True if
    /// it went well.
    fn try_flush(&mut self, cause: &str) -> bool {
        let result = self.flush(cause);
        if let Err(error) = &result {
            self.observed.failed(&error.to_string());
            self.agenda.commit.outcome(false, self.sync.now());
        }
        result.is_ok()
    }

    /// Carries out what the engine holds. With the rules in force this succeeded, whatever
    /// else was to be done.
    fn flush(&mut self, cause: &str) -> Result<(), SyncError> {
        let mut synced = self.sync.sync(&mut self.engine)?;
        self.agenda.committed(self.sync.now());
        if let Some(settings) = synced.settings.take() {
            self.tell_settings(settings);
        }
        report(&synced.problems);
        self.tidied(&synced);
        self.tell_aside();
        self.tell(cause, &synced);
        self.observe(cause, &synced);
        if synced.compared {
            self.drifted = false;
            self.observed.good(Condition::Tables);
        }
        Ok(())
    }

    /// How it went with flows, clients and routes, and when it is tried again.
    fn tidied(&mut self, synced: &Synced) {
        let parts = [
            (Condition::Conntrack, &synced.flows),
            (Condition::Affinity, &synced.clients),
            (Condition::Routes, &synced.routes),
        ];
        for (condition, tidied) in parts {
            if let Some(result) = &tidied.owed {
                self.observed.outcome(condition, result);
            }
        }
        let now = self.sync.now();
        if synced.flows.owed.is_some() || synced.clients.owed.is_some() {
            let good = !self.sync.installer.is_tidying_owed();
            self.agenda.tidying.outcome(good, now);
        }
        if synced.routes.owed.is_some() {
            let good = !self.sync.installer.routes_owed();
            self.agenda.routes.outcome(good, now);
        }
    }

    fn become_ready(&mut self) {
        self.ready = true;
        self.observed.good(Condition::FirstSync);
        let mut told = self.told.borrow_mut();
        told.ready();
        told.status(status(&self.engine));
        drop(told);
        self.line.done();
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
