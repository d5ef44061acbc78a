//! A service network on one machine: a network namespace for each node, pod and client that
//! objects speak of, with the links, addresses and routes between them, svcnat on the nodes,
//! and somebody who answers at every port of a container.
//!
//! ```no_run
//! use svcnat::config::Config;
//! use svcnat::lab::{Lab, Outcome, Topology};
//!
//! let manifests = "
//! {apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2,
//!   selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
//!   spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}}}}
//! ---
//! {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.254.0.10,
//!   selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
//! ";
//! let (lab, problems) = Lab::parse(manifests, Config::default(), Topology::default())?;
//! assert!(problems.is_empty());
//! let answer = lab.ask("pod/web-1", "10.254.0.10:80".parse()?)?;
//! assert!(matches!(answer, Outcome::Answer(pod) if pod.name.starts_with("web-")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! It needs root, or CAP_SYS_ADMIN and CAP_NET_ADMIN. Everything is of the process that made
//! it and goes with it, however it ends; the namespace that it runs in is not touched.

mod around;
mod assign;
mod client;
mod file;
mod layout;
mod manifest;
mod namespace;
mod network;
mod sctp;
mod server;
mod wire;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

pub use around::{Around, Vantage};
pub use assign::{Wishes, assign};
pub use client::{Answer, Outcome, PATIENCE, Session, Source, ask, ask_often, open};
pub use file::Topology;
pub use layout::{meant, network, place_name, pod_place, short};
pub use manifest::manifests;
pub use namespace::Namespace;
pub use network::{Cable, Kind, Network, Place, Route};
pub use server::{Answer as Serves, Servers, ports};
pub use wire::{Namespaces, make};

use crate::apply::{Anew, Installed, Installer, Manner, ThisHost, look};
use crate::cluster::{Cluster, Node, Protocol};
use crate::config::{Config, Sysctls};
use crate::engine::Engine;
use crate::plan::{NodeContext, plan};
use crate::problem::{Problem, Severity};
use crate::source::{self, Loaded};

/// Why a lab could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The inputs are no good.
    #[error("{0}")]
    Input(String),
    /// Something of it could not be made.
    #[error("{place}: cannot {what}: {why}")]
    Making {
        /// The place.
        place: String,
        /// What was to be done.
        what: String,
        /// What the system said.
        why: String,
    },
    /// svcnat could not be installed on a node.
    #[error("{node}: {why}")]
    Installing {
        /// The node.
        node: String,
        /// Why.
        why: String,
    },
    /// There is no such place.
    #[error("the lab has no {0}")]
    Absent(String),
}

impl LabError {
    /// For an error of the system.
    fn making(place: &str, what: &str) -> impl FnOnce(std::io::Error) -> Self {
        let (place, what) = (place.to_owned(), what.to_owned());
        move |error| Self::Making {
            place,
            what,
            why: error.to_string(),
        }
    }
}

/// A running lab. It ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Lab {
    /// The objects, completed.
    pub cluster: Cluster,
    /// Settings, completed but for the node's name.
    pub config: Config,
    /// The same as they were given.
    given: Config,
    /// Places and links.
    pub network: Network,
    topology: Topology,
    namespaces: Namespaces,
    servers: Servers,
    on: On,
}

/// Which nodes svcnat is installed on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum On {
    /// Each of them.
    #[default]
    Each,
    /// One. The lab sets routes and forwarding of the others.
    One(String),
    /// None yet: they are as an installer leaves them.
    None,
}

impl On {
    fn is_on(&self, node: &str) -> bool {
        match self {
            Self::Each => true,
            Self::One(only) => only == node,
            Self::None => false,
        }
    }
}

impl Lab {
    /// A lab of the documents of a text, with svcnat on each node, or on the one that
    /// `config` names; what is odd in them is returned.
    ///
    /// # Errors
    /// If an object is wrong, or the lab cannot be made: then there is none.
    pub fn parse(
        text: &str,
        config: Config,
        topology: Topology,
    ) -> Result<(Self, Vec<Problem>), LabError> {
        let loaded = source::load_text(text, config.legacy_source_ranges);
        let on = match &*config.node_name {
            "" => On::Each,
            name => On::One(name.to_owned()),
        };
        Self::up(loaded, config, topology, on)
    }

    /// A lab of objects; which node the settings name is nothing to it.
    ///
    /// # Errors
    /// As [`Lab::parse`].
    pub fn up(
        loaded: Loaded,
        config: Config,
        topology: Topology,
        on: On,
    ) -> Result<(Self, Vec<Problem>), LabError> {
        let mut lab = Self {
            cluster: Cluster::default(),
            given: config.clone(),
            config,
            network: Network::default(),
            topology,
            namespaces: Namespaces::new(),
            servers: Servers::start().map_err(LabError::making("lab", "start its servers"))?,
            on,
        };
        let problems = lab.become_of(loaded)?;
        lab.load_others_rules()?;
        lab.install()?;
        Ok((lab, problems))
    }

    /// Changes it to other objects: pods come and go, the rest stays as it is. Names,
    /// addresses and ports that were assigned before are kept.
    ///
    /// # Errors
    /// If an object is wrong, or a node or client would have to be another; nothing has
    /// changed then. If something cannot be made the lab is somewhere between.
    pub fn change(&mut self, loaded: Loaded) -> Result<Vec<Problem>, LabError> {
        let problems = self.become_of(loaded)?;
        self.install()?;
        Ok(problems)
    }

    /// Places, links and servers of these objects.
    fn become_of(&mut self, loaded: Loaded) -> Result<Vec<Problem>, LabError> {
        let (mut cluster, mut problems) = (loaded.cluster, loaded.problems);
        let mut config = self.given.clone();
        let wishes = Wishes {
            nodes: self.topology.nodes,
            families: self
                .topology
                .families
                .iter()
                .map(|name| (*name).into())
                .collect(),
        };
        problems.extend(assign(&mut cluster, &mut config, &wishes, &self.cluster));
        let managed = |node: &str| self.on == On::None || self.on.is_on(node);
        let not_route = !config.manage_routes;
        let (new, found) = network(&cluster, &self.topology, managed, not_route);
        problems.extend(found);
        let on: Vec<&Node> = cluster.nodes.values().collect();
        let on = on.into_iter().filter(|node| self.on.is_on(&node.name));
        if config.manage_routes {
            problems.extend(layout::far_apart(on.clone()));
        }
        // What is odd about Services is on all nodes: one is asked.
        if let Some(node) = on.clone().next() {
            let config = config_of(&config, &node.name);
            let (context, _) = NodeContext::resolve(&cluster, &config, &[]);
            let (_, found) = plan(&cluster, &config, &context);
            problems.extend(found);
        }
        if let On::One(only) = &self.on
            && !cluster.nodes.contains_key(only)
        {
            let message = format!("{only:?} is no Node of the lab");
            problems.push(Problem::error(None, "configuration", "nodeName", message));
        }
        let errors: Vec<String> = problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
            .map(|problem| problem.without_severity().to_string())
            .collect();
        if !errors.is_empty() {
            return Err(LabError::Input(errors.join("\n")));
        }
        self.rewire(new)?;
        (self.cluster, self.config) = (cluster, config);
        Ok(problems)
    }

    fn rewire(&mut self, mut new: Network) -> Result<(), LabError> {
        let old = std::mem::take(&mut self.network);
        let mut gone = BTreeSet::new();
        for (name, place) in &old.places {
            let same = new
                .places
                .get(name)
                .is_some_and(|other| other.is_wired_as(place));
            if same {
                continue;
            }
            if place.kind == Kind::Node || place.kind == Kind::Router {
                self.network = old.clone();
                let why = "its addresses or bridges would change; take the lab down for that";
                return Err(LabError::Input(format!("{name}: {why}")));
            }
            gone.insert(name.clone());
        }
        for name in &gone {
            self.servers.stop(name, None);
            self.namespaces.remove(name);
        }
        new.keep_ports(&old, &gone);
        wire::forget(&old, &new, &self.namespaces)?;
        wire::make(&new, &mut self.namespaces)?;
        wire::adjust(&new, &self.namespaces)?;
        for (name, place) in &new.places {
            let before = old.places.get(name).filter(|_| !gone.contains(name));
            let before = before
                .map(|place| place.answers.clone())
                .unwrap_or_default();
            for answer in before.difference(&place.answers) {
                self.servers
                    .stop(name, Some((answer.protocol, answer.port)));
            }
            let more: Vec<Serves> = place.answers.difference(&before).cloned().collect();
            let served = self
                .servers
                .serve(name, &place.name, &self.namespaces[name], &more);
            served.map_err(LabError::making(name, "answer"))?;
        }
        self.network = new;
        Ok(())
    }

    fn load_others_rules(&self) -> Result<(), LabError> {
        for rules in &self.topology.rules {
            let namespace = self.namespace(&rules.place)?;
            let load = || {
                let mut nft = Command::new("nft")
                    .args(["-f", "-"])
                    .stdin(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()?;
                if let Some(mut stdin) = nft.stdin.take() {
                    // One that fails early says more than the broken pipe.
                    stdin.write_all(rules.nft.as_bytes()).ok();
                }
                let done = nft.wait_with_output()?;
                if done.status.success() {
                    return Ok(());
                }
                Err(std::io::Error::other(
                    String::from_utf8_lossy(&done.stderr).into_owned(),
                ))
            };
            let failed = |e| LabError::making(&rules.place, "load its rules with nft")(e);
            namespace
                .enter(load)
                .and_then(|loaded| loaded)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// The nodes that svcnat is on.
    pub fn nodes(&self) -> impl Iterator<Item = &str> {
        let names = self.cluster.nodes.keys().map(String::as_str);
        names.filter(|name| self.on.is_on(name))
    }

    /// The settings of a node.
    #[must_use]
    pub fn config_of(&self, node: &str) -> Config {
        config_of(&self.config, node)
    }

    /// Installs anew on each node, so that no client is remembered.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn anew(&self) -> Result<(), LabError> {
        for node in self.nodes() {
            let name = format!("node/{node}");
            let remove = || {
                let mut host = ThisHost::open()?;
                crate::node::remove(&mut host)
            };
            let entered = self.namespace(&name)?.enter(remove);
            let removed = entered.map_err(LabError::making(&name, "enter its namespace"))?;
            removed.map_err(|error| LabError::Installing {
                node: name,
                why: error.to_string(),
            })?;
            self.install_on(node)?;
        }
        Ok(())
    }

    /// Installs once more on each node; the nodes that something was sent to.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn again(&self) -> Result<Vec<String>, LabError> {
        let mut sent = Vec::new();
        for node in self.nodes() {
            if self.install_on(node)?.rules.committed.is_some() {
                sent.push(node.to_owned());
            }
        }
        Ok(sent)
    }

    fn install(&self) -> Result<(), LabError> {
        for node in self.nodes() {
            self.install_on(node)?;
        }
        Ok(())
    }

    /// Installs on a node as `svcnat apply` would. O(objects).
    ///
    /// # Errors
    /// If the kernel refuses, or does not do all of it.
    pub fn install_on(&self, node: &str) -> Result<Installed, LabError> {
        let config = self.config_of(node);
        let cluster = self.cluster.clone();
        let work = || -> Result<Installed, String> {
            let host = ThisHost::open().map_err(|e| e.to_string())?;
            let mut installer =
                Installer::new(host, Manner::default()).map_err(|e| e.to_string())?;
            let addresses = installer.refresh_addresses().map_err(|e| e.to_string())?;
            let mut engine = Engine::with_cluster(config, addresses, cluster);
            let mut wanted = Anew::new(&mut engine);
            let found = look(installer.host(), &mut wanted).map_err(|e| e.to_string())?;
            let done = installer
                .install(&mut wanted, found)
                .map_err(|e| e.to_string())?;
            match failed(&done) {
                Some(why) => Err(why),
                None => Ok(done),
            }
        };
        let name = format!("node/{node}");
        let entered = self.namespace(&name)?.enter(work);
        let done = entered.map_err(LabError::making(&name, "enter its namespace"))?;
        done.map_err(|why| LabError::Installing { node: name, why })
    }

    /// The namespace of a place: `node/NAME`, `pod/[NAMESPACE/]NAME`, `client`, `client/NAME`,
    /// `router`.
    ///
    /// # Errors
    /// If there is none.
    pub fn namespace(&self, place: &str) -> Result<&Namespace, LabError> {
        let found = self.namespaces.get(&place_name(place));
        found.ok_or_else(|| {
            let names = self.namespaces.keys().map(String::as_str);
            LabError::Absent(format!("{place}{}", meant(place, names)))
        })
    }

    /// The places with their namespaces.
    #[must_use]
    pub const fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Asks once over TCP, as a program in that place would.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn ask(&self, from: &str, to: SocketAddr) -> Result<Outcome, LabError> {
        self.ask_over(from, Protocol::Tcp, to)
    }

    /// The same over any protocol.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn ask_over(
        &self,
        from: &str,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Result<Outcome, LabError> {
        let namespace = self.namespace(from)?;
        let asked = namespace.enter(|| ask(Source::default(), protocol, to, PATIENCE));
        asked.map_err(LabError::making(from, "enter its namespace"))
    }
}

fn config_of(config: &Config, node: &str) -> Config {
    let sysctls = match config.sysctls {
        Sysctls::Ignore => Sysctls::Ignore,
        Sysctls::Check | Sysctls::Apply => Sysctls::Apply,
    };
    Config {
        node_name: node.to_owned(),
        sysctls,
        ..config.clone()
    }
}

/// What of an installation did not work.
fn failed(done: &Installed) -> Option<String> {
    let settings = done.settings.as_ref();
    let settings = settings
        .and_then(|done| done.as_ref().err())
        .map(ToString::to_string);
    let routes = done.routes.as_ref().and_then(|done| match done {
        Ok(report) => report.errors.first().map(ToString::to_string),
        Err(error) => Some(error.to_string()),
    });
    settings.or(routes)
}
