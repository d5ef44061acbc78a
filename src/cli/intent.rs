//! What `apply` is about to do: rules, routes, kernel settings, tracked flows and remembered
//! clients, computed once. `apply` carries it out; `diff` and the dry runs show it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::args::LossArgs;
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::say::{report, say};
use crate::apply::{
    DesiredRules as _, Found, Holding, Host as _, Limit, ThisHost, clients_of, gone_clients, look,
    stale_flows,
};
use crate::compile::SetId;
use crate::host::conntrack::Flow;
use crate::host::conntrack_plan::closed;
use crate::host::routes::RouteDelta;
use crate::host::{HostError, check, interfaces, routes, settings, sysctl};
use crate::node::Node;
use crate::plan::{Endpoint, Route};
use crate::problem::{Problem, Severity};
use crate::report::{self, Client, CutFlow, Host, Report, RouteChange, Scene, SysctlChange};
use crate::ruleset::{Element, FieldValue, LiveRuleset, Ruleset, Set, Value as SetKey};
use crate::transaction::{Operation, Transaction};

/// All of it.
pub struct Intent {
    /// The ruleset.
    pub rules: Found,
    /// Our routes; none if they are not to be managed.
    pub routes: RouteDelta,
    /// Kernel settings to set; none unless told to.
    pub sysctls: Vec<sysctl::Changed>,
    /// Routes and settings in the plan's terms, tracked flows to be cut, clients of lost
    /// endpoints to be forgotten.
    pub host: Host,
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
        let sysctls = settings(inputs)?;
        let clients = clients(this, &rules, wanted.ruleset())?;
        Ok(Self {
            host: shown(&routes, &sysctls, &flows, clients),
            routes,
            sysctls,
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
            && self.host.flows.is_empty()
            && self.host.clients.is_empty()
    }

    /// What the plan is made of.
    pub fn scene<'a>(&'a self, inputs: &'a Node, desired: &'a Ruleset) -> Scene<'a> {
        Scene {
            before: &self.rules.before,
            desired,
            delta: &self.rules.delta,
            plan: &inputs.plan,
            cluster: &inputs.cluster,
            node: &inputs.context,
            host: &self.host,
        }
    }

    /// The plan as JSON, with how much it is.
    pub fn json(&self, report: &Report<'_>) -> Value {
        let counts = self.rules.delta.counts();
        let mut document = report::document(report);
        let sizes = json!({
            "elementsAdded": counts.elements_added,
            "elementsDeleted": counts.elements_deleted,
            "rulesAdded": counts.rules_added,
            "routes": {
                "added": self.routes.add.len(),
                "replaced": self.routes.replace.len(),
                "deleted": self.routes.delete.len(),
            },
            "sysctls": sysctls_json(&self.sysctls),
            "staleFlows": self.host.flows.len(),
            "affinityClients": self.host.clients.len(),
        });
        if let Value::Object(sizes) = sizes {
            document.extend(sizes);
        }
        document.into()
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

fn flows(this: &mut ThisHost, inputs: &Node, delta: &Transaction) -> Result<Vec<Flow>, HostError> {
    let local = interfaces::local_addresses(&this.interfaces()?);
    let closed = closed(delta, &local);
    stale_flows(this, &closed, &inputs.plan, &inputs.cluster, &local)
}

/// The remembered clients that would be forgotten.
fn clients(this: &mut ThisHost, rules: &Found, desired: &Ruleset) -> Result<Vec<Client>, CliError> {
    let mut clients = Vec::new();
    for (family, handles) in gone_clients(&rules.delta, desired) {
        let Some(forget) = clients_of(this, family, &handles, desired)? else {
            continue;
        };
        let known = rules.before.tables.get(&family);
        let known = known.and_then(|table| table.sets.get(SetId::AffinityHandles.fixed_name()));
        let elements = known.into_iter().flat_map(|set| &set.elements);
        let by_handle: BTreeMap<_, _> = elements.map(|(key, e)| (&e.data, (key, e))).collect();
        for operation in forget.tables.iter().flat_map(|table| &table.operations) {
            let Operation::DeleteElements(_, elements) = operation else {
                continue;
            };
            for (_, client) in elements {
                let (key, handle) = by_handle.get(&client.data).copied().unzip();
                let service = handle.and_then(|handle: &Element| handle.comment.as_deref());
                clients.push(Client {
                    service: service.unwrap_or_default().to_owned(),
                    endpoint: key.zip(known).and_then(|(key, set)| remembered(set, key)),
                });
            }
        }
    }
    Ok(clients)
}

/// The endpoint in the key of a handle.
fn remembered(set: &Set, key: &SetKey) -> Option<Endpoint> {
    match key.fields(&set.key)?[..] {
        [_, FieldValue::Addr(addr), FieldValue::Port(port)] => Some(Endpoint {
            addr,
            port: port.try_into().ok()?,
        }),
        _ => None,
    }
}

/// What changes besides our tables, in the plan's terms.
fn shown(
    routes: &RouteDelta,
    sysctls: &[sysctl::Changed],
    flows: &[Flow],
    clients: Vec<Client>,
) -> Host {
    let route = |destination, before, after: Option<&Route>| RouteChange {
        destination,
        before,
        after: after.cloned(),
    };
    let deleted = routes.delete.iter();
    let deleted = deleted.map(|live| route(live.destination, Some(live.via), None));
    let replaced = routes.replace.iter();
    let replaced = replaced.map(|(live, new)| route(live.destination, Some(live.via), Some(new)));
    let added = routes.add.iter();
    let added = added.map(|new| route(new.destination, None, Some(new)));
    Host {
        routes: deleted.chain(replaced).chain(added).collect(),
        sysctls: sysctls
            .iter()
            .map(|changed| SysctlChange {
                name: changed.setting.name(),
                before: changed.old.clone(),
                after: changed.setting.wanted.to_string(),
            })
            .collect(),
        flows: flows
            .iter()
            .map(|flow| CutFlow {
                protocol: flow.protocol,
                to: (flow.original.dst, flow.original.dport),
                answered_by: (flow.reply.src, flow.reply.sport),
                text: flow.to_string(),
            })
            .collect(),
        clients,
    }
}
