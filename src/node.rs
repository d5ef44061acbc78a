//! One node, from what was written to what the kernel holds: the way in for programs that use
//! this as a library, and the one that the command line takes itself.
//!
//! ```
//! use svcnat::config::Config;
//! use svcnat::node::Node;
//! use svcnat::ruleset::LiveRuleset;
//!
//! let config = Config {
//!     node_name: "n1".to_owned(),
//!     cluster_cidrs: vec!["172.17.0.0/16".parse()?],
//!     service_cidrs: vec!["10.254.0.0/16".parse()?],
//!     ..Config::default()
//! };
//! let manifest = "
//! apiVersion: v1
//! kind: Service
//! metadata: {name: web}
//! spec: {clusterIP: 10.254.0.10, ports: [{port: 80}]}
//! ";
//! let (node, problems) = Node::parse(manifest, config);
//! assert!(problems.is_empty());
//! assert!(node.plan.families[0].frontends.len() == 1);
//! // What an empty kernel lacks, in the order in which it is sent.
//! assert!(!node.diff(&LiveRuleset::default()).is_empty());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::apply::{Host, Outcome, reconcile};
use crate::cluster::{Cluster, ObjectName};
use crate::compile::compile;
use crate::config::Config;
use crate::diff::diff;
use crate::host::interfaces;
use crate::netlink::NetlinkError;
use crate::plan::{NodeContext, NodePlan, complete, plan};
use crate::problem::Problem;
use crate::ruleset::{LiveRuleset, Ruleset};
use crate::source::{self, Input, Labels, Loaded, SourceError};
use crate::transaction::Transaction;

/// Objects and settings as far as this node goes, before anything is planned.
#[derive(Debug)]
pub struct Objects {
    /// Settings.
    pub config: Config,
    /// Objects, with what a cluster would have filled in.
    pub cluster: Cluster,
    /// This node.
    pub context: NodeContext,
    /// What was found wrong or odd; objects that cannot be used are left out.
    pub problems: Vec<Problem>,
    /// Labels of Services and Nodes, if they were asked for ([`Objects::read_labelled`]).
    pub labels: Option<Labels>,
}

impl Objects {
    /// Reads files, folders and standard input. The addresses of a node that neither settings
    /// nor objects tell are those of its interfaces, if they can be asked.
    ///
    /// # Errors
    /// If an input cannot be read at all. What is wrong inside is in [`Objects::problems`].
    pub fn read(inputs: &[Input], config: Config) -> Result<Self, SourceError> {
        let loaded = source::load(inputs, config.legacy_source_ranges)?;
        Ok(Self::on_this_host(loaded, config))
    }

    /// The same, with the labels of Services and Nodes.
    ///
    /// # Errors
    /// As [`Objects::read`].
    pub fn read_labelled(inputs: &[Input], config: Config) -> Result<Self, SourceError> {
        let loaded = source::load_labelled(inputs, config.legacy_source_ranges)?;
        Ok(Self::on_this_host(loaded, config))
    }

    fn on_this_host(loaded: Loaded, config: Config) -> Self {
        // Without privileges or interfaces there is simply nothing to fall back to.
        let addresses = interfaces::list()
            .map(|found| interfaces::primary_addresses(&found))
            .unwrap_or_default();
        Self::of(loaded, config, &addresses)
    }

    /// Reads the documents of a text, and asks nothing of the host.
    #[must_use]
    pub fn parse(text: &str, config: Config) -> Self {
        let loaded = source::load_text(text, config.legacy_source_ranges);
        Self::of(loaded, config, &[])
    }

    fn of(loaded: Loaded, config: Config, addresses: &[IpAddr]) -> Self {
        let (mut cluster, mut problems) = (loaded.cluster, loaded.problems);
        let (context, found) = NodeContext::resolve(&cluster, &config, addresses);
        problems.extend(found);
        problems.extend(complete(&mut cluster, &config, &context));
        Self {
            config,
            cluster,
            context,
            problems,
            labels: loaded.labels,
        }
    }
}

/// A node and what it is to do.
#[derive(Debug)]
pub struct Node {
    /// Settings.
    pub config: Config,
    /// Objects.
    pub cluster: Cluster,
    /// Its name, addresses, prefixes and ranges.
    pub context: NodeContext,
    /// What it is to do.
    pub plan: NodePlan,
}

impl Node {
    /// Plans what these objects mean on this node; what was found wrong or odd on the way.
    #[must_use]
    pub fn of(objects: Objects) -> (Self, Vec<Problem>) {
        let Objects {
            config,
            cluster,
            context,
            mut problems,
            labels: _,
        } = objects;
        let (plan, found) = plan(&cluster, &config, &context);
        problems.extend(found);
        let node = Self {
            config,
            cluster,
            context,
            plan,
        };
        (node, problems)
    }

    /// Reads files, folders and standard input, and plans ([`Objects::read`]).
    ///
    /// # Errors
    /// If an input cannot be read at all.
    pub fn read(inputs: &[Input], config: Config) -> Result<(Self, Vec<Problem>), SourceError> {
        Objects::read(inputs, config).map(Self::of)
    }

    /// Reads the documents of a text, and plans. The same text and settings give the same node
    /// on every machine.
    #[must_use]
    pub fn parse(text: &str, config: Config) -> (Self, Vec<Problem>) {
        Self::of(Objects::parse(text, config))
    }

    /// The ruleset that a kernel without tables of ours is to hold. [`crate::print`] writes it
    /// as text or JSON, [`crate::walk`] sends made-up packets through it.
    #[must_use]
    pub fn ruleset(&self) -> Ruleset {
        compile(&self.plan, &BTreeMap::new())
    }

    /// The ruleset with the numbers that are in force: it means the same as
    /// [`Node::ruleset`], and as little as can be differs from `live`.
    #[must_use]
    pub fn ruleset_over(&self, live: &LiveRuleset) -> Ruleset {
        compile(&self.plan, &live.sets())
    }

    /// What it is to do without these Services.
    #[must_use]
    pub fn plan_without(&self, is_out: impl Fn(&ObjectName) -> bool) -> NodePlan {
        let mut cluster = self.cluster.clone();
        cluster.services.retain(|name, _| !is_out(name));
        plan(&cluster, &self.config, &self.context).0
    }

    /// What leads from `live` to this node's ruleset.
    #[must_use]
    pub fn diff(&self, live: &LiveRuleset) -> Transaction {
        diff(&self.ruleset_over(live), live)
    }

    /// Brings the tables of this thread's network namespace to this node's ruleset, in one
    /// transaction; nothing is sent if nothing differs. The tables alone: routes, kernel
    /// settings and tracked flows are left as they are.
    ///
    /// # Errors
    /// If the kernel cannot be read or refuses; nothing has changed then.
    pub fn install(&self, host: &mut impl Host) -> Result<Outcome, NetlinkError> {
        reconcile(host, |live| self.ruleset_over(live))
    }
}

/// Removes our tables from this thread's network namespace, whatever is in them.
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn remove(host: &mut impl Host) -> Result<Outcome, NetlinkError> {
    reconcile(host, |_| Ruleset::default())
}
