//! The one way to bring a node to a state, for `apply` and the agent alike. In this order:
//! kernel settings, routes that come, rules, clients and flows that lead nowhere any more,
//! routes that go. What a service leads to is reachable when it begins to lead there, and as
//! long as it does (`docs/decisions/0006-one-install-path.md`).
//!
//! The commit is the rules. Whatever else fails is in the outcome, keeps nothing from being
//! done, and is owed where somebody comes back for it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::aside::suspects;
use super::host::Host;
use super::rules::{DesiredRules, Found, Manner, Outcome, bring, next};
use super::tidy::{Tidied, Tidy, stale_after};
use crate::cluster::{Cluster, ObjectName};
use crate::config::{Config, Sysctls};
use crate::engine::{Engine, Step};
use crate::host::HostError;
use crate::host::interfaces::local_addresses;
use crate::host::routes::{self, RouteDelta, RouteReport};
use crate::host::settings::{Settings, settle};
use crate::host::sysctl::{Changed, needed_by};
use crate::netlink::{Committed, NetlinkError};
use crate::plan::{NodeContext, NodePlan, Route};
use crate::problem::Problem;
use crate::ruleset::{LiveRuleset, Ruleset};
use crate::text::printable;
use crate::transaction::{Transaction, own_added, take_ahead};

/// A node's state that is wanted.
pub trait Desired: DesiredRules {
    /// What the rules were last made from.
    fn made_from(&self) -> MadeFrom<'_>;
}

/// What rules were made from.
#[derive(Clone, Copy, Debug)]
pub struct MadeFrom<'a> {
    /// Settings.
    pub config: &'a Config,
    /// This node.
    pub node: &'a NodeContext,
    /// Objects.
    pub cluster: &'a Cluster,
    /// What this node is to do.
    pub plan: &'a NodePlan,
}

/// What the engine holds, planned anew.
pub struct Anew<'e> {
    engine: &'e mut Engine,
    plan: NodePlan,
    /// What was found wrong with the objects.
    pub problems: Vec<Problem>,
    /// True if a Service was set aside.
    pub set_aside: bool,
}

impl<'e> Anew<'e> {
    /// Nothing is planned before [`DesiredRules::change`].
    pub fn new(engine: &'e mut Engine) -> Self {
        Self {
            plan: engine.empty_plan(),
            engine,
            problems: Vec::new(),
            set_aside: false,
        }
    }

    /// Planned anew, with what leads there from what the engine remembers of the kernel.
    /// O(cluster).
    pub fn remembered(engine: &'e mut Engine) -> (Self, Transaction) {
        let (delta, plan, problems) = engine.replan();
        let planned = Self {
            engine,
            plan,
            problems,
            set_aside: false,
        };
        (planned, delta)
    }
}

impl DesiredRules for Anew<'_> {
    fn change(&mut self, live: &LiveRuleset) -> Transaction {
        let (delta, plan, problems) = self.engine.rebuild(live);
        self.plan = plan;
        self.problems = problems;
        delta
    }

    fn ruleset(&self) -> &Ruleset {
        self.engine.ruleset()
    }

    fn suspects(&self) -> Vec<ObjectName> {
        suspects(self.engine.cluster(), self.engine.aside())
    }

    fn without(&mut self, names: &BTreeSet<ObjectName>, live: &LiveRuleset) -> Transaction {
        self.engine.without(names, live)
    }

    fn set_aside(&mut self, name: ObjectName, reason: String) {
        tracing::error!(
            service = &*printable(&name.to_string()),
            error = &*printable(&reason),
            "set aside: the kernel takes no rules with this Service; the others stay in force"
        );
        self.set_aside |= self.engine.set_aside(name, reason);
    }
}

impl Desired for Anew<'_> {
    fn made_from(&self) -> MadeFrom<'_> {
        MadeFrom {
            config: self.engine.config(),
            node: self.engine.node(),
            cluster: self.engine.cluster(),
            plan: &self.plan,
        }
    }
}

/// What one installation did: the commit, and apart from it everything else.
#[derive(Debug, Default)]
pub struct Installed {
    /// The rules, which are in force.
    pub rules: Outcome,
    /// Kernel settings; `None` if it was not their turn.
    pub settings: Option<Result<Settings, HostError>>,
    /// Routes; `None` likewise.
    pub routes: Option<Result<RouteReport, HostError>>,
    /// Clients of lost endpoints.
    pub clients: Tidied,
    /// Stale tracked flows.
    pub flows: Tidied,
}

/// Who installs, and what is owed from before.
pub struct Installer<H> {
    host: H,
    manner: Manner,
    /// The generation our own last commit made, as far as we know.
    generation: u32,
    local_addresses: BTreeSet<IpAddr>,
    /// Routes that were last asked for, whether or not that worked.
    routes: BTreeSet<Route>,
    /// They could not all be listed or set.
    routes_owed: bool,
    /// Settings that were changed by an installation that failed: nobody was told.
    untold: Vec<Changed>,
    tidy: Tidy,
}

impl<H: Host> Installer<H> {
    /// Reads this node's addresses and does nothing else yet.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn new(host: H, manner: Manner) -> Result<Self, HostError> {
        let mut installer = Self {
            host,
            manner,
            generation: 0,
            local_addresses: BTreeSet::new(),
            routes: BTreeSet::new(),
            routes_owed: false,
            untold: Vec::new(),
            tidy: Tidy::default(),
        };
        installer.refresh_addresses()?;
        Ok(installer)
    }

    /// The host.
    pub const fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// The time, as the host has it.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.host.now()
    }

    /// The generation our own last commit made, as far as we know.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// Our tables were seen to be whole at this generation, or are left as they are.
    pub const fn seen_at(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// Reads this node's addresses anew; returns the primary ones.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn refresh_addresses(&mut self) -> Result<Vec<IpAddr>, HostError> {
        let found = self.host.interfaces()?;
        self.local_addresses = local_addresses(&found);
        Ok(crate::host::interfaces::primary_addresses(&found))
    }

    /// Brings the node to `wanted` from what a [`look`](super::look) found. O(cluster).
    ///
    /// # Errors
    /// If the kernel does not take the rules. Settings, and routes that come, may be changed.
    pub fn install(
        &mut self,
        wanted: &mut impl Desired,
        found: Found,
    ) -> Result<Installed, NetlinkError> {
        self.all(wanted, |installer, wanted| {
            bring(&mut installer.host, wanted, &mut installer.manner, found)
        })
    }

    /// The same from what is remembered of the kernel, which is neither read nor asked twice.
    /// O(cluster).
    ///
    /// # Errors
    /// If the kernel does not take the rules: somebody meddled with what they build on.
    /// Settings, and routes that come, may be changed.
    pub fn install_remembered(
        &mut self,
        wanted: &mut impl Desired,
        mut delta: Transaction,
    ) -> Result<Installed, NetlinkError> {
        self.all(wanted, |installer, _| installer.commit(&mut delta))
    }

    /// Everything in its order, around the rules.
    fn all<W: Desired>(
        &mut self,
        wanted: &mut W,
        rules: impl FnOnce(&mut Self, &mut W) -> Result<Outcome, NetlinkError>,
    ) -> Result<Installed, NetlinkError> {
        let MadeFrom {
            config, node, plan, ..
        } = wanted.made_from();
        let settings = self.settings(config, node);
        let (mut routes, going) = self.routes_coming(config, &plan.routes);
        let rules = match rules(self, wanted) {
            Ok(rules) => rules,
            Err(error) => {
                self.untold = settings.map(|done| done.changed).unwrap_or_default();
                return Err(error);
            }
        };
        self.generation = rules.generation;
        let clients = self.forget(&rules.delta, wanted.ruleset());
        let MadeFrom { cluster, plan, .. } = wanted.made_from();
        let (host, local) = (&mut self.host, &self.local_addresses);
        let flows = self.tidy.flows_in(host, plan, cluster, &rules.delta, local);
        self.routes_going(&mut routes, &going);
        Ok(Installed {
            rules,
            settings: Some(settings),
            routes: Some(routes),
            clients,
            flows,
        })
    }

    /// Carries out what changed in the engine since its last step. O(changed).
    ///
    /// # Errors
    /// If the kernel does not take it: somebody meddled with what it builds on. Routes that
    /// come may be changed.
    pub fn increment(
        &mut self,
        engine: &Engine,
        mut step: Step,
    ) -> Result<(Installed, Step), NetlinkError> {
        let other_routes = step.node_level && self.routes != *engine.routes();
        let routes = other_routes.then(|| self.routes_coming(engine.config(), engine.routes()));
        let rules = self.commit(&mut step.delta)?;
        let clients = self.forget(&rules.delta, engine.ruleset());
        let stale = stale_after(engine, &step, &self.local_addresses);
        let flows = self.tidy.flows_after(&mut self.host, &stale);
        let routes = routes.map(|(mut routes, going)| {
            self.routes_going(&mut routes, &going);
            routes
        });
        let done = Installed {
            rules,
            settings: None,
            routes,
            clients,
            flows,
        };
        Ok((done, step))
    }

    /// Commits increments. They are not bound to a generation: elements of ours come and go
    /// whatever others write to their own tables, so a busy neighbour cannot hold us up. If
    /// one meddles with ours, the kernel refuses what does not fit, or the next look finds it.
    fn commit(&mut self, delta: &mut Transaction) -> Result<Outcome, NetlinkError> {
        let mut done = Outcome::default();
        if !delta.is_empty() {
            if self.manner.own {
                own_added(delta);
            }
            let first = take_ahead(delta);
            if !first.is_empty() {
                self.send(&first, 0)?;
            }
            done.counters_lost = self.host.carry_counters(delta).err();
            done.committed = Some(self.send(delta, 0)?);
            done.delta = std::mem::take(delta);
            done.delta.after(first);
        }
        done.generation = self.generation;
        Ok(done)
    }

    /// Commits this, if nobody committed since ours, or since our tables were last whole.
    ///
    /// # Errors
    /// If the kernel refuses, or somebody came first.
    pub fn commit_if_alone(&mut self, delta: &Transaction) -> Result<Committed, NetlinkError> {
        self.send(delta, self.generation)
    }

    fn send(&mut self, delta: &Transaction, bound: u32) -> Result<Committed, NetlinkError> {
        let committed = self.host.commit(delta, bound)?;
        self.generation = next(self.generation);
        Ok(committed)
    }

    fn forget(&mut self, delta: &Transaction, desired: &Ruleset) -> Tidied {
        let (tidied, commits) = self.tidy.clients(&mut self.host, delta, desired);
        (0..commits).for_each(|_| self.generation = next(self.generation));
        tidied
    }

    /// True if flows or clients could not be looked after.
    #[must_use]
    pub fn is_tidying_owed(&self) -> bool {
        self.tidy.is_owed()
    }

    /// Tries again what is owed of flows and clients. O(cluster).
    pub fn tidy(&mut self, engine: &Engine) -> Installed {
        let clients = self.forget(&Transaction::default(), engine.ruleset());
        let (host, local) = (&mut self.host, &self.local_addresses);
        let flows = self.tidy.owed_flows(host, engine, local);
        Installed {
            clients,
            flows,
            ..Installed::default()
        }
    }

    /// Sets or looks at the kernel settings this node needs.
    ///
    /// # Errors
    /// Naming the file, at the first that cannot be read or written.
    pub fn settings(&mut self, config: &Config, node: &NodeContext) -> Result<Settings, HostError> {
        if config.sysctls == Sysctls::Ignore {
            return Ok(Settings::default());
        }
        let needed = needed_by(node, &self.host.interfaces()?);
        let mut done = settle(&self.host.sysctls(), config.sysctls, &needed)?;
        done.changed.append(&mut self.untold);
        Ok(done)
    }

    /// True if routes failed the last time.
    #[must_use]
    pub const fn routes_owed(&self) -> bool {
        self.routes_owed
    }

    /// What is to be done about our routes; nothing if they are not ours to manage.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn other_routes(
        &mut self,
        config: &Config,
        wanted: &BTreeSet<Route>,
    ) -> Result<RouteDelta, HostError> {
        if !config.manage_routes {
            return Ok(RouteDelta::default());
        }
        Ok(routes::plan(wanted, &self.host.routes()?))
    }

    /// Puts our routes right; a route that fails does not keep the others from being made.
    pub fn repair_routes(&mut self, engine: &Engine) -> Installed {
        let (mut routes, going) = self.routes_coming(engine.config(), engine.routes());
        self.routes_going(&mut routes, &going);
        Installed {
            routes: Some(routes),
            ..Installed::default()
        }
    }

    /// Routes that come; also those that go, for afterwards.
    fn routes_coming(
        &mut self,
        config: &Config,
        wanted: &BTreeSet<Route>,
    ) -> (Result<RouteReport, HostError>, RouteDelta) {
        self.routes.clone_from(wanted);
        let (coming, going) = match self.other_routes(config, wanted) {
            Ok(delta) => delta.split(),
            Err(error) => return (Err(error), RouteDelta::default()),
        };
        (self.host.change_routes(&coming), going)
    }

    fn routes_going(&mut self, done: &mut Result<RouteReport, HostError>, going: &RouteDelta) {
        if let Ok(report) = done {
            match self.host.change_routes(going) {
                Ok(later) => report.extend(later),
                Err(error) => *done = Err(error),
            }
        }
        let all = |report: &RouteReport| report.errors.is_empty();
        self.routes_owed = !done.as_ref().is_ok_and(all);
    }
}
