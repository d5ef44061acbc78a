//! `svcnat apply`: install everything and say what changed.

use std::io::Write;

use serde_json::json;

use super::args::{ApplyArgs, DryRun, Output};
use super::error::CliError;
use super::inputs::{Inputs, report};
use crate::apply::{Outcome, drop_stale_flows, purge_affinity, reconcile};
use crate::compile::compile;
use crate::config::Sysctls;
use crate::diff::{self, Delta};
use crate::host::conntrack::Conntrack;
use crate::host::{self, interfaces, routes, sysctl};
use crate::netlink::Nfnetlink;
use crate::observe::Progress;
use crate::problem::Severity;
use crate::ruleset::LiveRuleset;

/// What one installation did.
pub struct Done {
    /// What became of the ruleset.
    pub outcome: Outcome,
    /// Generation now in force.
    pub generation: u32,
    /// What became of the routes.
    pub routes: routes::RouteReport,
    /// Kernel settings that were changed.
    pub sysctls: Vec<sysctl::Changed>,
    /// Stale flows removed.
    pub flows: usize,
    /// Clients of lost endpoints forgotten.
    pub clients: usize,
}

pub fn run(args: &ApplyArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = Inputs::resolve(&args.inputs)?;
    if args.dry_run != DryRun::None {
        return dry_run(args, &inputs, out);
    }
    let mut kernel = Nfnetlink::open()?;
    let done = install(&mut kernel, &inputs)?;
    let failed: Vec<String> = done.routes.errors.iter().map(ToString::to_string).collect();
    match args.output {
        Output::Text => text(out, &done)?,
        Output::Json => json(out, &done)?,
    }
    if failed.is_empty() {
        Ok(0)
    } else {
        out.flush()?;
        Err(CliError::Host(failed.join("\nerror: ")))
    }
}

/// Brings the host to what the inputs say: settings, routes, rules, then flows and clients
/// that lead nowhere any more.
pub fn install(kernel: &mut Nfnetlink, inputs: &Inputs) -> Result<Done, CliError> {
    reachable(inputs)?;
    let sysctls = settings(inputs)?;
    // Routes before rules: what a service leads to should be reachable when it starts to.
    let live = routes::list_ours().map_err(host_error)?;
    let delta = routes::plan(&inputs.plan.routes, &live);
    let routes = routes::apply(&delta).map_err(host_error)?;
    let wanted = |live: &LiveRuleset| compile(&inputs.plan, &live.sets());
    let outcome = Progress::during("installing", || reconcile(kernel, wanted))?;
    let clients = purge_affinity(kernel, &outcome.delta, &outcome.desired)?;
    Ok(Done {
        flows: stale_flows(inputs, &outcome.delta)?,
        generation: outcome.generation,
        outcome,
        routes,
        sysctls,
        clients,
    })
}

fn host_error(error: host::HostError) -> CliError {
    CliError::Host(error.to_string())
}

/// Next hops are checked before anything is changed: half an installation helps nobody.
fn reachable(inputs: &Inputs) -> Result<(), CliError> {
    let routes = inputs.plan.routes.iter().cloned();
    let problems = host::check::next_hops(routes, routes::next_hop).map_err(host_error)?;
    if problems.is_empty() {
        return Ok(());
    }
    report(&problems);
    Err(CliError::Host(
        "a next hop cannot be used; nothing was changed (--manage-routes=false leaves routes alone)"
            .to_owned(),
    ))
}

fn dry_run(args: &ApplyArgs, inputs: &Inputs, out: &mut impl Write) -> Result<u8, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let live = kernel.read()?;
    let delta = diff::diff(&compile(&inputs.plan, &live.sets()), &live);
    if args.dry_run == DryRun::Server && !delta.is_empty() {
        kernel.validate(&delta, live.generation)?;
    }
    let counts = delta.counts();
    let checked = match args.dry_run {
        DryRun::Server => "the kernel accepts the batch",
        DryRun::Client | DryRun::None => "compared only",
    };
    match args.output {
        Output::Text => {
            diff::write(out, &delta)?;
            writeln!(
                out,
                "dry run, {checked}: {} elements to add, {} to delete, {} rules to add",
                counts.elements_added, counts.elements_deleted, counts.rules_added
            )?;
        }
        Output::Json => writeln!(
            out,
            "{}",
            json!({
                "dryRun": if args.dry_run == DryRun::Server { "server" } else { "client" },
                "elementsAdded": counts.elements_added,
                "elementsDeleted": counts.elements_deleted,
                "rulesAdded": counts.rules_added,
            })
        )?,
    }
    Ok(0)
}

/// Sets or reports the kernel settings service NAT needs.
fn settings(inputs: &Inputs) -> Result<Vec<sysctl::Changed>, CliError> {
    if inputs.config.sysctls == Sysctls::Ignore {
        return Ok(Vec::new());
    }
    let needed = needed_sysctls(inputs)?;
    let sysctls = sysctl::Sysctls::default();
    if inputs.config.sysctls == Sysctls::Apply {
        return sysctls.apply(&needed).map_err(host_error);
    }
    let status = sysctls.status(&needed).map_err(host_error)?;
    let mut problems = host::check::sysctls(&status);
    for problem in &mut problems {
        // The rules are installed all the same; `check` is who fails for it.
        problem.severity = problem.severity.min(Severity::Warning);
    }
    report(&problems);
    Ok(Vec::new())
}

/// The settings this node needs.
pub fn needed_sysctls(inputs: &Inputs) -> Result<Vec<sysctl::Setting>, CliError> {
    let interfaces = interfaces::list().map_err(host_error)?;
    Ok(sysctl::needed_by(&inputs.node, &interfaces))
}

/// Removes tracked flows that the commit made stale.
fn stale_flows(inputs: &Inputs, committed: &Delta) -> Result<usize, CliError> {
    let mut table = Conntrack::open().map_err(host_error)?;
    let interfaces = interfaces::list().map_err(host_error)?;
    let local = interfaces::local_addresses(&interfaces);
    let closed = host::conntrack_plan::closed(committed, &local);
    drop_stale_flows(&mut table, &closed, &inputs.plan, &inputs.cluster, &local).map_err(host_error)
}

fn text(out: &mut impl Write, done: &Done) -> std::io::Result<()> {
    let counts = done.outcome.delta.counts();
    match &done.outcome.committed {
        None => writeln!(
            out,
            "nothing to change: 0 bytes sent, generation {} unchanged",
            done.generation
        )?,
        Some(committed) => writeln!(
            out,
            "applied in one transaction: {} elements added, {} deleted, {} rules added; \
             {} bytes in {} messages, {} µs, generation {}",
            counts.elements_added,
            counts.elements_deleted,
            counts.rules_added,
            committed.bytes,
            committed.messages,
            committed.micros,
            done.generation
        )?,
    }
    let routes = &done.routes;
    if routes.added + routes.replaced + routes.deleted > 0 {
        writeln!(
            out,
            "routes: {} added, {} replaced, {} deleted",
            routes.added, routes.replaced, routes.deleted
        )?;
    }
    for changed in &done.sysctls {
        let setting = &changed.setting;
        writeln!(
            out,
            "sysctl {} = {} (was {})",
            setting.name(),
            setting.wanted,
            changed.old
        )?;
    }
    if done.flows > 0 {
        writeln!(out, "conntrack: {} stale flows removed", done.flows)?;
    }
    if done.clients > 0 {
        writeln!(
            out,
            "affinity: {} clients of lost endpoints forgotten",
            done.clients
        )?;
    }
    Ok(())
}

fn json(out: &mut impl Write, done: &Done) -> std::io::Result<()> {
    let counts = done.outcome.delta.counts();
    let committed = done.outcome.committed.unwrap_or_default();
    let document = json!({
        "changed": done.outcome.committed.is_some(),
        "elementsAdded": counts.elements_added,
        "elementsDeleted": counts.elements_deleted,
        "rulesAdded": counts.rules_added,
        "bytes": committed.bytes,
        "messages": committed.messages,
        "micros": committed.micros,
        "generation": done.generation,
        "races": done.outcome.races,
        "routes": {
            "added": done.routes.added,
            "replaced": done.routes.replaced,
            "deleted": done.routes.deleted,
        },
        "staleFlowsRemoved": done.flows,
        "affinityClientsForgotten": done.clients,
    });
    writeln!(out, "{document}")
}
