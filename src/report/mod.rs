//! A plan by object: what a change means in the user's words. It turns the difference between
//! what is there and what is wanted into one change for each Service's frontend, host port,
//! prefix list, route and so on, with the kernel's operations under the object they are for.
//!
//! Pure: who asks brings both states and the difference. O(difference); where endpoints change
//! behind frontends that do not, once O(frontends) to find these.

mod describe;
mod frontend;
mod host;
mod json;
mod rules;
mod services;
mod step;
mod text;
mod touched;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

pub use frontend::{Answer, FrontendState};
pub use host::{Client, CutFlow, Host, RouteChange, SysctlChange};
pub use json::{VERSION as PLAN_VERSION, document};
pub use step::Step;
pub use text::{Page, Plain, Style, write};

use crate::cluster::{Cluster, Family, Protocol};
use crate::compile::SetId;
use crate::plan::{Endpoint, FrontendKey, NodeContext, NodePlan};
use crate::ruleset::{LiveRuleset, Ruleset};
use crate::transaction::Transaction;

/// All that a plan is made of.
#[derive(Debug)]
pub struct Scene<'a> {
    /// What the kernel holds.
    pub before: &'a LiveRuleset,
    /// What it should hold.
    pub desired: &'a Ruleset,
    /// The operations between the two.
    pub delta: &'a Transaction,
    /// What is wanted, in Kubernetes' terms.
    pub plan: &'a NodePlan,
    /// Where names of pods and nodes come from.
    pub cluster: &'a Cluster,
    /// This node.
    pub node: &'a NodeContext,
    /// What changes besides our tables.
    pub host: &'a Host,
}

/// What becomes of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// It is not there yet.
    Add,
    /// It is there, and will be otherwise.
    Change,
    /// It will not be there any more.
    Remove,
}

impl Action {
    /// From whether it was and will be there.
    const fn of(before: bool, after: bool) -> Self {
        match (before, after) {
            (false, true) => Self::Add,
            (true, false) => Self::Remove,
            _ => Self::Change,
        }
    }

    /// The sign at the start of its line.
    #[must_use]
    pub const fn sign(self) -> char {
        match self {
            Self::Add => '+',
            Self::Change => '~',
            Self::Remove => '-',
        }
    }

    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Change => "change",
            Self::Remove => "remove",
        }
    }
}

/// What kind of object changes; plans are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A frontend of a Service.
    Service,
    /// A host port of a Pod.
    HostPort,
    /// A clusterIP by itself, its frontends apart.
    ClusterIp,
    /// An external address by itself, its frontends apart.
    ExternalIp,
    /// An endpoint of this node that may reach itself through a frontend.
    LocalEndpoint,
    /// Endpoints that no frontend leads to.
    Endpoints,
    /// One of the lists of prefixes.
    Prefixes(SetId),
    /// A whole table.
    Table,
    /// Rules, chains and declarations of sets.
    Rules,
    /// A route to another node's pods.
    Route,
    /// A kernel setting.
    Sysctl,
    /// Tracked flows.
    Flow,
    /// Remembered clients of a Service with session affinity.
    Client,
}

impl Kind {
    /// What it is called in text.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::HostPort => "hostPort",
            Self::ClusterIp => "clusterIP",
            Self::ExternalIp => "external address",
            Self::LocalEndpoint => "local endpoint",
            Self::Endpoints => "endpoints",
            Self::Prefixes(SetId::ServiceCidrs) => "service ranges",
            Self::Prefixes(SetId::NodeportIps) => "node-port addresses",
            Self::Prefixes(SetId::NonMasquerade) => "destinations not masqueraded",
            Self::Prefixes(SetId::PodSources) => "prefixes of pods",
            Self::Prefixes(_) => "prefixes masqueraded on their way out",
            Self::Table => "table",
            Self::Rules => "rules of",
            Self::Route => "route",
            Self::Sysctl => "sysctl",
            Self::Flow => "tracked flows",
            Self::Client => "remembered clients of",
        }
    }

    /// What it is called in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::HostPort => "hostPort",
            Self::ClusterIp => "clusterIP",
            Self::ExternalIp => "externalAddress",
            Self::LocalEndpoint => "localEndpoint",
            Self::Endpoints => "endpoints",
            Self::Prefixes(SetId::ServiceCidrs) => "serviceRanges",
            Self::Prefixes(SetId::NodeportIps) => "nodePortAddresses",
            Self::Prefixes(SetId::NonMasquerade) => "nonMasquerade",
            Self::Prefixes(SetId::PodSources) => "podPrefixes",
            Self::Prefixes(_) => "egressSources",
            Self::Table => "table",
            Self::Rules => "rules",
            Self::Route => "route",
            Self::Sysctl => "sysctl",
            Self::Flow => "flows",
            Self::Client => "clients",
        }
    }
}

/// Why something changes, as far as it can be told: nothing remembers what was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// What is there differs from what the input asks for.
    Differs,
    /// A setting does.
    Setting,
    /// What is there has the layout of another version of svcnat.
    OtherVersion,
    /// What is there is nothing that svcnat would have written.
    OtherProgram,
}

impl Reason {
    /// Its name in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Setting => "setting",
            Self::OtherVersion => "otherVersion",
            Self::OtherProgram => "changedByAnotherProgram",
        }
    }
}

/// What something is, before or after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// A frontend.
    Frontend(FrontendState),
    /// A host port.
    HostPort {
        /// Where it leads.
        endpoint: Option<Endpoint>,
        /// The Pod, `namespace/name`.
        pod: String,
    },
    /// A list of prefixes.
    Prefixes(Vec<String>),
    /// A route.
    Route {
        /// Next hop; `None` if there is none, or several.
        via: Option<IpAddr>,
        /// The node it leads to, if that is known.
        node: Option<String>,
    },
    /// The value of a setting, or a comment.
    Text(String),
    /// How many there are.
    Count(usize),
    /// A table's chains, rules and sets.
    Table {
        /// Chains.
        chains: usize,
        /// Rules.
        rules: usize,
        /// Sets and maps.
        sets: usize,
    },
}

/// One change of one object.
#[derive(Clone, Debug)]
pub struct ObjectChange<'a> {
    /// What becomes of it; of a Service, of this frontend.
    pub action: Action,
    /// What becomes of the object as a whole.
    pub object: Action,
    /// Its kind.
    pub kind: Kind,
    /// Its name: untrusted text.
    pub name: String,
    /// The family of its table, if it is of one.
    pub family: Option<Family>,
    /// The frontend, of a Service or host port.
    pub frontend: Option<FrontendKey>,
    /// What it is now.
    pub before: Option<State>,
    /// What it will be.
    pub after: Option<State>,
    /// The change in words: untrusted text.
    pub text: String,
    /// Why.
    pub reason: Reason,
    /// What is done for it. Elements that several objects share are with the first.
    pub operations: Vec<Step<'a>>,
}

impl<'a> ObjectChange<'a> {
    fn new(kind: Kind, name: String, before: Option<State>, after: Option<State>) -> Self {
        let action = Action::of(before.is_some(), after.is_some());
        Self {
            action,
            object: action,
            kind,
            name,
            family: None,
            frontend: None,
            before,
            after,
            text: String::new(),
            reason: Reason::Differs,
            operations: Vec::new(),
        }
    }

    /// True if it is an object of its own, and not what follows from others.
    fn is_counted(&self) -> bool {
        match self.kind {
            Kind::Rules => self.reason != Reason::Differs,
            Kind::Flow | Kind::Client => false,
            _ => true,
        }
    }

    fn saying(mut self, text: String) -> Self {
        self.text = text;
        self
    }

    fn with(mut self, operations: Vec<Step<'a>>) -> Self {
        self.operations = operations;
        self
    }

    /// Of a frontend or host port; `foreign`: svcnat never writes what is there.
    fn at(mut self, key: FrontendKey, foreign: bool) -> Self {
        self.frontend = Some(key);
        if foreign {
            self.reason = Reason::OtherProgram;
        }
        self
    }

    fn in_family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }
}

/// The plan.
#[derive(Clone, Debug, Default)]
pub struct Report<'a> {
    /// The kernel's generation it was made at.
    pub generation: u32,
    /// What changes, in order: what another program changed comes last.
    pub changes: Vec<ObjectChange<'a>>,
    /// How much the kernel's tables change.
    pub kernel: crate::transaction::Counts,
    /// Tracked flows that are cut.
    pub flows: usize,
    /// Remembered clients that are forgotten.
    pub clients: usize,
}

/// How many objects a plan adds, changes and removes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Added.
    pub add: usize,
    /// Changed.
    pub change: usize,
    /// Removed.
    pub remove: usize,
    /// Of all these, those that another program changed.
    pub by_others: usize,
}

impl<'a> Report<'a> {
    /// Makes the plan.
    #[must_use]
    pub fn of(scene: &Scene<'a>) -> Self {
        let mut changes = Vec::new();
        for table in &scene.delta.tables {
            let mut touched = touched::Touched::of(scene, table);
            changes.extend(rules::changes(scene, table, &mut touched));
            changes.extend(services::changes(scene, table.family, touched));
        }
        services::settle(scene, &mut changes);
        changes.extend(host::changes(scene.host));
        let mut changes = merged(changes);
        changes.sort_by(|a, b| order(a).cmp(&order(b)));
        Self {
            generation: scene.before.generation,
            changes,
            kernel: scene.delta.counts(),
            flows: scene.host.flows.len(),
            clients: scene.host.clients.len(),
        }
    }

    /// True if nothing changes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Counts objects, each once however many of its frontends change.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut objects: BTreeMap<(Kind, &str), (Action, bool)> = BTreeMap::new();
        for change in &self.changes {
            let foreign = change.reason == Reason::OtherProgram;
            if !change.is_counted() {
                continue;
            }
            let name = (change.kind, change.name.as_str());
            let known = objects.entry(name).or_insert((change.object, false));
            known.1 |= foreign;
        }
        let mut summary = Summary::default();
        for (action, foreign) in objects.into_values() {
            match action {
                Action::Add => summary.add += 1,
                Action::Change => summary.change += 1,
                Action::Remove => summary.remove += 1,
            }
            summary.by_others += usize::from(foreign);
        }
        summary
    }
}

/// What another program changed comes last.
fn order<'c>(change: &'c ObjectChange<'_>) -> impl Ord + 'c {
    (
        change.reason == Reason::OtherProgram,
        change.kind,
        change.name.as_str(),
        change.family,
        change.frontend,
        change.action,
    )
}

/// Lists of prefixes of both families as one.
fn merged(changes: Vec<ObjectChange<'_>>) -> Vec<ObjectChange<'_>> {
    let mut out: Vec<ObjectChange<'_>> = Vec::with_capacity(changes.len());
    for change in changes {
        let same = |known: &&mut ObjectChange<'_>| {
            known.kind == change.kind && known.action == change.action
        };
        let prefixes = matches!(change.kind, Kind::Prefixes(_));
        let Some(known) = out.iter_mut().filter(|_| prefixes).find(same) else {
            out.push(change);
            continue;
        };
        known.text = [known.text.as_str(), &change.text].join(", ");
        known.family = None;
        for (mine, theirs) in [
            (&mut known.before, change.before),
            (&mut known.after, change.after),
        ] {
            if let (Some(State::Prefixes(mine)), Some(State::Prefixes(theirs))) = (mine, theirs) {
                mine.extend(theirs);
            }
        }
        known.operations.extend(change.operations);
    }
    out
}

/// `10.0.0.1:80/TCP`, for whom a frontend's own words do not fit.
fn at(addr: IpAddr, port: u16, protocol: Protocol) -> String {
    format!("{protocol} {}", std::net::SocketAddr::new(addr, port))
}

/// A few of many: `a, b, c and 7 more`.
fn few(items: &[String], most: usize) -> String {
    if items.len() <= most + 1 {
        return items.join(", ");
    }
    format!(
        "{} and {} more",
        items[..most].join(", "),
        items.len() - most
    )
}

/// A destination in words.
fn prefix(net: &IpNet) -> String {
    net.to_string()
}

/// `1 rule`, `2 rules`.
fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}
