//! `svcnat apply`: install everything and say what changed.

use std::io::Write;

use serde_json::json;

use super::args::{ApplyArgs, DryRun, Output};
use super::error::CliError;
use super::inputs;
use super::intent::{Intent, host, sysctls_json};
use super::say::{count, say};
use super::writer;
use crate::apply::{Outcome, carry_out_setting_aside, drop_stale_flows, purge_affinity};
use crate::cluster::ObjectName;
use crate::diff::Delta;
use crate::host::conntrack::Conntrack;
use crate::host::conntrack_plan::closed;
use crate::host::{HostError, interfaces, routes, sysctl};
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::progress::Progress;
use crate::text::printable;

/// What one installation did.
pub struct Done {
    /// What became of the ruleset.
    pub outcome: Outcome,
    /// What became of the routes.
    pub routes: routes::RouteReport,
    /// Kernel settings that were changed.
    pub sysctls: Vec<sysctl::Changed>,
    /// Stale flows removed.
    pub flows: usize,
    /// Clients of lost endpoints forgotten.
    pub clients: usize,
    /// What failed once the rules were in force: routes, and what tidies up.
    pub failed: Vec<String>,
}

pub fn run(args: &ApplyArgs, out: &mut impl Write) -> Result<u8, CliError> {
    if !args.loss.allow_empty {
        inputs::given(&args.inputs)?;
    }
    let inputs = inputs::resolve(&args.inputs)?;
    if args.dry_run != DryRun::None {
        return dry_run(args, &inputs, out);
    }
    let _seat = writer::take("apply", args.beside_run)?;
    let mut kernel = Nfnetlink::open()?;
    let intent = Progress::during("reading our tables back", || {
        Intent::of(&mut kernel, &inputs)
    })?;
    intent.check(&inputs, &args.loss)?;
    let done = install(&mut kernel, &inputs, intent)?;
    match args.output {
        Output::Text => text(out, &done)?,
        Output::Json => json(out, &done)?,
    }
    if done.failed.is_empty() {
        return Ok(0);
    }
    out.flush()?;
    Err(CliError::Several(done.failed))
}

/// Carries it out: settings, routes, rules, then flows and clients that lead nowhere any more.
fn install(kernel: &mut Nfnetlink, inputs: &Node, intent: Intent) -> Result<Done, CliError> {
    let settings: Vec<_> = intent.sysctls.iter().map(|c| c.setting.clone()).collect();
    let sysctls = sysctl::Sysctls::default().apply(&settings).map_err(host)?;
    // Routes before rules: what a service leads to should be reachable when it starts to.
    let routes = routes::apply(&intent.routes).map_err(host)?;
    let services: Vec<ObjectName> = inputs.cluster.services.keys().cloned().collect();
    let (outcome, aside) = Progress::during("installing", || {
        carry_out_setting_aside(kernel, intent.rules, &services, |aside, live| {
            inputs.ruleset_without(aside, live)
        })
    })?;
    let mut failed: Vec<String> = routes.errors.iter().map(ToString::to_string).collect();
    failed.extend(aside.iter().map(|(name, why)| {
        let what = format!("Service {name} is left out, the others are in force: {why}");
        printable(&what).into_owned()
    }));
    let mut or_none = |done: Result<usize, String>| {
        done.unwrap_or_else(|error| {
            failed.push(format!("the rules are in force, but {error}"));
            0
        })
    };
    let clients = purge_affinity(kernel, &outcome.delta, &outcome.desired);
    let clients = or_none(clients.map_err(|e| e.to_string()));
    let flows = or_none(cut_flows(inputs, &outcome.delta).map_err(|e| e.to_string()));
    Ok(Done {
        outcome,
        routes,
        sysctls,
        flows,
        clients,
        failed,
    })
}

fn dry_run(args: &ApplyArgs, inputs: &Node, out: &mut impl Write) -> Result<u8, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let intent = Intent::of(&mut kernel, inputs)?;
    intent.check(inputs, &args.loss)?;
    let server = args.dry_run == DryRun::Server;
    if server && !intent.rules.delta.is_empty() {
        kernel.validate(&intent.rules.delta, intent.rules.before.generation)?;
    }
    let checked = if server {
        "the kernel accepts the batch"
    } else {
        "compared only"
    };
    match args.output {
        Output::Text => {
            intent.write(out)?;
            writeln!(out, "dry run, {checked}: {}", intent.summary())?;
        }
        Output::Json => {
            let mut document = intent.json()?;
            document["dryRun"] = json!(if server { "server" } else { "client" });
            writeln!(out, "{document}")?;
        }
    }
    out.flush()?;
    if let Some(other) = writer::other().filter(|_| !args.beside_run) {
        if server {
            return Err(CliError::Host(format!(
                "{other}: apply would be refused (--beside-run)"
            )));
        }
        say(&format!("notice: {other}: apply would be refused\n"));
    }
    intent.check_routes()?;
    Ok(0)
}

/// Removes tracked flows that the commit made stale.
fn cut_flows(inputs: &Node, committed: &Delta) -> Result<usize, HostError> {
    let local = interfaces::local_addresses(&interfaces::list()?);
    let closed = closed(committed, &local);
    let mut table = Conntrack::open()?;
    drop_stale_flows(&mut table, &closed, &inputs.plan, &inputs.cluster, &local)
}

fn text(out: &mut impl Write, done: &Done) -> std::io::Result<()> {
    let counts = done.outcome.delta.counts();
    match &done.outcome.committed {
        None => writeln!(
            out,
            "nothing to change: 0 bytes sent, generation {} unchanged",
            done.outcome.generation
        )?,
        Some(committed) => writeln!(
            out,
            "applied in one transaction: {} added, {} deleted, {} added; \
             {} in {}, {} µs, generation {}",
            count(counts.elements_added, "element"),
            counts.elements_deleted,
            count(counts.rules_added, "rule"),
            count(committed.bytes, "byte"),
            count(committed.messages as usize, "message"),
            committed.micros,
            done.outcome.generation
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
        let flows = count(done.flows, "stale flow");
        writeln!(out, "conntrack: {flows} removed")?;
    }
    if done.clients > 0 {
        let clients = count(done.clients, "client");
        writeln!(out, "affinity: {clients} of lost endpoints forgotten")?;
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
        "generation": done.outcome.generation,
        "races": done.outcome.races,
        "routes": {
            "added": done.routes.added,
            "replaced": done.routes.replaced,
            "deleted": done.routes.deleted,
        },
        "sysctls": sysctls_json(&done.sysctls),
        "staleFlowsRemoved": done.flows,
        "affinityClientsForgotten": done.clients,
        "failed": done.failed,
    });
    writeln!(out, "{document}")
}
