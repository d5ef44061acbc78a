//! What `apply` is about to do: rules, routes, kernel settings, tracked flows and remembered
//! clients, computed once. `apply` carries it out; `diff` and the dry runs show it.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::args::LossArgs;
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::say::{count, report, say};
use crate::apply::{
    DesiredRules as _, Found, Holding, Host, Limit, ThisHost, clients_of, gone_clients, look,
    stale_flows,
};
use crate::diff::{self, Delta};
use crate::host::conntrack::Flow;
use crate::host::conntrack_plan::closed;
use crate::host::routes::RouteDelta;
use crate::host::{HostError, check, interfaces, routes, settings, sysctl};
use crate::node::Node;
use crate::plan::Route;
use crate::problem::{Problem, Severity};
use crate::ruleset::{LiveRuleset, Ruleset};

/// All of it.
pub struct Intent {
    /// The ruleset.
    pub rules: Found,
    /// Our routes; none if they are not to be managed.
    pub routes: RouteDelta,
    /// Kernel settings to set; none unless told to.
    pub sysctls: Vec<sysctl::Changed>,
    /// Tracked flows to be cut.
    pub flows: Vec<Flow>,
    /// Clients of lost endpoints to be forgotten.
    pub clients: usize,
    /// Routes of ours that are there now.
    live_routes: usize,
}

impl Intent {
    /// Compares what the inputs say with what the host has.
    ///
    /// # Errors
    /// If the host cannot be asked, or a setting could not be set.
    pub fn of(
        this: &mut ThisHost,
        inputs: &Node,
        wanted: &mut FromInputs<'_>,
    ) -> Result<Self, CliError> {
        let rules = look(this, wanted)?;
        let live = this.routes().map_err(host)?;
        let routes = if inputs.config.manage_routes {
            routes::plan(&inputs.plan.routes, &live)
        } else {
            RouteDelta::default()
        };
        let flows = match flows(this, inputs, &rules.delta) {
            Ok(flows) => flows,
            Err(error) => {
                say(&format!("warning: {error}; no tracked flow is looked at\n"));
                Vec::new()
            }
        };
        Ok(Self {
            routes,
            sysctls: settings(inputs)?,
            flows,
            clients: clients(this, &rules.delta, wanted.ruleset())?,
            live_routes: live.len(),
            rules,
        })
    }

    /// What is checked before anything is changed: half an installation helps nobody.
    ///
    /// # Errors
    /// If the inputs take away more than they may, or a next hop cannot be used.
    pub fn check(&self, inputs: &Node, loss: &LossArgs) -> Result<(), CliError> {
        not_lost(&self.rules.before, self.live_routes, inputs, loss)?;
        let problems = unreachable(inputs)?;
        if problems.is_empty() {
            return Ok(());
        }
        report(&problems);
        Err(CliError::Host(
            "a route cannot be used; nothing was changed (--manage-routes=false leaves routes \
             alone)"
                .to_owned(),
        ))
    }

    /// Says, as warnings, for what reasons `apply` would refuse this or fail.
    ///
    /// # Errors
    /// If the host cannot be asked.
    pub fn warn(&self, inputs: &Node, loss: &LossArgs) -> Result<(), CliError> {
        let mut problems = unreachable(inputs)?;
        for problem in &mut problems {
            problem.severity = Severity::Warning;
        }
        report(&problems);
        let refused = not_lost(&self.rules.before, self.live_routes, inputs, loss);
        for failed in [refused, self.check_routes()] {
            let Err(error) = failed else { continue };
            let several = match error {
                CliError::Several(several) => several,
                CliError::Loss(what) => vec![format!("apply would refuse this: {what}")],
                error => return Err(error),
            };
            for what in several {
                say(&format!("warning: {what}\n"));
            }
        }
        Ok(())
    }

    /// Says what could be known to fail of the routes; the others are installed all the same.
    ///
    /// # Errors
    /// Naming the routes, if any would fail.
    pub fn check_routes(&self) -> Result<(), CliError> {
        let found = routes::obstacles(&self.routes).map_err(host)?;
        let failed: Vec<String> = found.iter().map(ToString::to_string).collect();
        if failed.is_empty() {
            Ok(())
        } else {
            Err(CliError::Several(failed))
        }
    }

    /// True if nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.rules.delta.is_empty()
            && self.routes.is_empty()
            && self.sysctls.is_empty()
            && self.flows.is_empty()
            && self.clients == 0
    }

    /// Writes it, one line for each thing.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        diff::write(out, &self.rules.delta)?;
        for line in route_lines(&self.routes) {
            writeln!(out, "{line}")?;
        }
        for changed in &self.sysctls {
            let (name, old) = (changed.setting.name(), &changed.old);
            writeln!(out, "- sysctl {name} = {old}")?;
            writeln!(out, "+ sysctl {name} = {}", changed.setting.wanted)?;
        }
        for flow in &self.flows {
            writeln!(out, "- tracked flow {flow}")?;
        }
        if self.clients > 0 {
            let clients = count(self.clients, "remembered client");
            writeln!(out, "- {clients} of lost endpoints")?;
        }
        Ok(())
    }

    /// How much it is, in one line.
    pub fn summary(&self) -> String {
        let counts = self.rules.delta.counts();
        format!(
            "{} to add, {} to delete, {} to add; routes: {} to add, {} to replace, {} to delete; \
             {} to set; {} to cut; {} to forget",
            count(counts.elements_added, "element"),
            counts.elements_deleted,
            count(counts.rules_added, "rule"),
            self.routes.add.len(),
            self.routes.replace.len(),
            self.routes.delete.len(),
            count(self.sysctls.len(), "sysctl"),
            count(self.flows.len(), "tracked flow"),
            count(self.clients, "client")
        )
    }

    /// The same as JSON.
    ///
    /// # Errors
    /// None that a buffer in memory has.
    pub fn json(&self) -> io::Result<Value> {
        let mut text = Vec::new();
        self.write(&mut text)?;
        let text = String::from_utf8_lossy(&text);
        let counts = self.rules.delta.counts();
        Ok(json!({
            "generation": self.rules.before.generation,
            "elementsAdded": counts.elements_added,
            "elementsDeleted": counts.elements_deleted,
            "rulesAdded": counts.rules_added,
            "routes": {
                "added": self.routes.add.len(),
                "replaced": self.routes.replace.len(),
                "deleted": self.routes.delete.len(),
            },
            "sysctls": sysctls_json(&self.sysctls),
            "staleFlows": self.flows.len(),
            "affinityClients": self.clients,
            "changes": text.lines().collect::<Vec<_>>(),
        }))
    }
}

/// Settings as JSON.
pub fn sysctls_json(sysctls: &[sysctl::Changed]) -> Vec<Value> {
    let one = |changed: &sysctl::Changed| {
        json!({
            "name": changed.setting.name(),
            "value": changed.setting.wanted,
            "old": changed.old,
        })
    };
    sysctls.iter().map(one).collect()
}

/// An error of the host, for the command line.
pub fn host(error: HostError) -> CliError {
    CliError::Host(error.to_string())
}

fn not_lost(
    before: &LiveRuleset,
    routes: usize,
    inputs: &Node,
    loss: &LossArgs,
) -> Result<(), CliError> {
    let after = Holding::of_cluster(&inputs.cluster);
    if after.objects == 0 && !loss.allow_empty {
        return Err(CliError::Loss(
            "the input holds no object at all (--allow-empty is for who means it)".to_owned(),
        ));
    }
    let before = Holding::of_kernel(before, routes);
    let Some(lost) = Limit::from(loss).refuses(before, after) else {
        return Ok(());
    };
    let how = if lost.total {
        "--allow-empty is for who means it".to_owned()
    } else {
        format!(
            "--max-endpoint-loss={} allows less; 1 allows any",
            loss.max_endpoint_loss
        )
    };
    Err(CliError::Loss(format!("{lost} ({how})")))
}

/// Routes whose next hop is no neighbour.
fn unreachable(inputs: &Node) -> Result<Vec<Problem>, CliError> {
    let routes = inputs.plan.routes.iter().cloned();
    check::next_hops(routes, routes::next_hop).map_err(host)
}

/// The kernel settings to set; what is missing of the others is reported.
fn settings(inputs: &Node) -> Result<Vec<sysctl::Changed>, CliError> {
    let needed = needed_sysctls(inputs)?;
    let sysctls = sysctl::Sysctls::default();
    let found = settings::review(&sysctls, inputs.config.sysctls, &needed).map_err(host)?;
    report(&found.problems);
    Ok(found.changed)
}

/// The settings this node needs.
pub fn needed_sysctls(inputs: &Node) -> Result<Vec<sysctl::Setting>, CliError> {
    let interfaces = interfaces::list().map_err(host)?;
    Ok(sysctl::needed_by(&inputs.context, &interfaces))
}

fn flows(this: &mut ThisHost, inputs: &Node, delta: &Delta) -> Result<Vec<Flow>, HostError> {
    let local = interfaces::local_addresses(&this.interfaces()?);
    let closed = closed(delta, &local);
    stale_flows(this, &closed, &inputs.plan, &inputs.cluster, &local)
}

/// How many remembered clients would be forgotten.
fn clients(this: &mut ThisHost, delta: &Delta, desired: &Ruleset) -> Result<usize, CliError> {
    let mut clients = 0;
    for (family, handles) in gone_clients(delta, desired) {
        let delta = clients_of(this, family, &handles, desired)?;
        clients += delta.map_or(0, |delta| delta.counts().elements_deleted);
    }
    Ok(clients)
}

fn route_lines(delta: &RouteDelta) -> Vec<String> {
    let new = |r: &Route| format!("+ route {} via {} (node {})", r.destination, r.via, r.node);
    let added = delta.add.iter().map(new);
    let replaced = delta.replace.iter();
    let replaced = replaced.flat_map(|(old, route)| [format!("- route {old}"), new(route)]);
    let deleted = delta.delete.iter().map(|r| format!("- route {r}"));
    deleted.chain(replaced).chain(added).collect()
}
