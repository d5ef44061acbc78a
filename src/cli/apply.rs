//! `svcnat apply`: install everything and say what changed.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::json;

use super::args::{ApplyArgs, DryRun, Output};
use super::asker::Asker;
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::inputs;
use super::intent::{Intent, host, sysctls_json};
use super::kept::{self, WayBack};
use super::page;
use super::saved_plan::SavedPlan;
use super::say::{count, say};
use super::writer;
use crate::apply::{
    DesiredRules as _, Host as _, Installed, Installer, Manner, Outcome, ThisHost, Tidied,
};
use crate::cluster::ObjectName;
use crate::host::routes::RouteReport;
use crate::host::sysctl::Changed;
use crate::node::Node;
use crate::progress::Progress;
use crate::report::Report;
use crate::text::{Printable, printable};

/// What one installation did.
struct Done {
    /// What became of the ruleset.
    rules: Outcome,
    /// What became of the routes.
    routes: RouteReport,
    /// Kernel settings that were changed.
    sysctls: Vec<Changed>,
    /// Stale flows removed.
    flows: usize,
    /// Clients of lost endpoints forgotten.
    clients: usize,
    /// What failed beside the rules, which are in force.
    failed: Vec<String>,
}

pub fn run(args: &ApplyArgs, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    let saved = args.plan.as_deref().map(SavedPlan::open).transpose()?;
    let from = saved.as_ref().map_or(&args.inputs, |saved| &saved.inputs);
    if !args.loss.allow_empty {
        inputs::given(from)?;
    }
    let inputs = inputs::resolve(from)?;
    if args.dry_run != DryRun::None {
        return dry_run(args, &inputs, saved.as_ref(), out);
    }
    // It has the writer's place.
    let asker = args.confirm.map(Asker::start).transpose()?;
    let _seat = match asker {
        Some(_) => None,
        None => writer::take("apply", args.beside_run)?,
    };
    let mut this = ThisHost::open()?;
    let mut wanted = FromInputs::new(&inputs);
    wanted.exactly = saved.is_some() || asker.is_some();
    let intent = Progress::during("reading our tables back", || {
        Intent::of(&mut this, &inputs, &mut wanted)
    })?;
    intent.check(&inputs, &args.loss)?;
    if let Some(saved) = &saved {
        saved.check(&intent)?;
    }
    if args.view.verbose && args.output == Output::Text {
        let scene = intent.scene(&inputs, wanted.ruleset());
        page::plan(out, &Report::of(&scene), &args.view)?;
        out.flush()?;
    }
    let way = WayBack::of(&intent);
    let installer = Installer::new(this, Manner::default()).map_err(host)?;
    let done = match asker {
        Some(asker) => guarded(args, asker, way, installer, intent, &mut wanted, out)?,
        None => {
            let done = plainly(way, installer, intent, &mut wanted)?;
            said(args, &done, out)?;
            done
        }
    };
    if done.failed.is_empty() {
        return Ok(0);
    }
    out.flush()?;
    Err(CliError::Several(done.failed))
}

/// Installs, and keeps the way back for `rollback`.
fn plainly(
    way: Result<WayBack, String>,
    mut installer: Installer<ThisHost>,
    intent: Intent,
    wanted: &mut FromInputs<'_>,
) -> Result<Done, CliError> {
    let found = intent.rules;
    let done = match Progress::during("installing", || installer.install(wanted, found)) {
        Ok(done) => done,
        Err(error) => {
            // Routes and settings may be there already, of a plan that is all or nothing.
            if let (true, Ok(way)) = (wanted.exactly, way) {
                way.put_back(installer.host());
            }
            return Err(error.into());
        }
    };
    kept::keep(way, &done, installer.generation(), wanted.ruleset());
    Ok(Done::of(done, &wanted.aside))
}

/// Installs, and puts the state before back unless it is confirmed.
fn guarded(
    args: &ApplyArgs,
    mut asker: Asker,
    way: Result<WayBack, String>,
    mut installer: Installer<ThisHost>,
    intent: Intent,
    wanted: &mut FromInputs<'_>,
    out: &mut Printable<impl Write>,
) -> Result<Done, CliError> {
    let refused = |why: String| CliError::Host(format!("--confirm: {why}; nothing was done"));
    let mut way = way.map_err(refused)?;
    let found = intent.rules;
    if way.is_empty() {
        let done = installer.install(wanted, found)?;
        let done = Done::of(done, &wanted.aside);
        said(args, &done, out)?;
        say("nothing to confirm: nothing was changed that could be put back\n");
        return Ok(done);
    }
    way.keep_for(asker.waiting())?;
    asker.begin()?;
    let done = Progress::during("installing", || installer.install(wanted, found));
    let done = done.map_err(CliError::from).and_then(|done| {
        way.installed(asker.waiting(), installer.generation(), wanted.ruleset())?;
        Ok(done)
    });
    let done = match done {
        Ok(done) => Done::of(done, &wanted.aside),
        Err(error) => {
            say(&format!("{}\n", asker.undo()));
            return Err(error);
        }
    };
    asker.installed()?;
    said(args, &done, out)?;
    out.flush()?;
    for failed in &done.failed {
        say(&format!("warning: {failed}\n"));
    }
    asker.wait()?;
    Ok(done)
}

fn said(args: &ApplyArgs, done: &Done, out: &mut impl Write) -> std::io::Result<()> {
    match args.output {
        Output::Text => text(out, done),
        Output::Json => json(out, done),
    }
}

impl Done {
    fn of(done: Installed, aside: &BTreeMap<ObjectName, String>) -> Self {
        let mut failed = Vec::new();
        let mut but = |error: &dyn std::fmt::Display| {
            failed.push(format!("the rules are in force, but {error}"));
        };
        let settings = done.settings.transpose();
        let settings = settings.unwrap_or_else(|error| {
            but(&error);
            None
        });
        let routes = done.routes.transpose().unwrap_or_else(|error| {
            but(&error);
            None
        });
        for tidied in [&done.clients, &done.flows] {
            if let Some(Err(error)) = &tidied.owed {
                but(error);
            }
        }
        if let Some(error) = &done.rules.counters_lost {
            but(&format!(
                "counters of replaced elements start from 0: {error}"
            ));
        }
        let routes = routes.unwrap_or_default();
        failed.extend(routes.errors.iter().map(ToString::to_string));
        failed.extend(aside.iter().map(|(name, why)| {
            let what = format!("Service {name} is left out, the others are in force: {why}");
            printable(&what).into_owned()
        }));
        let removed = |tidied: Tidied| tidied.removed;
        Self {
            rules: done.rules,
            routes,
            sysctls: settings.map(|s| s.changed).unwrap_or_default(),
            flows: removed(done.flows),
            clients: removed(done.clients),
            failed,
        }
    }
}

fn dry_run(
    args: &ApplyArgs,
    inputs: &Node,
    saved: Option<&SavedPlan>,
    out: &mut Printable<impl Write>,
) -> Result<u8, CliError> {
    let mut this = ThisHost::open()?;
    let mut wanted = FromInputs::new(inputs);
    let intent = Intent::of(&mut this, inputs, &mut wanted)?;
    intent.check(inputs, &args.loss)?;
    if let Some(saved) = saved {
        saved.check(&intent)?;
    }
    let server = args.dry_run == DryRun::Server;
    if server && !intent.rules.delta.is_empty() {
        this.validate(&intent.rules.delta, intent.rules.before.generation)?;
    }
    let checked = if server {
        "the kernel accepts the batch"
    } else {
        "compared only"
    };
    let report = Report::of(&intent.scene(inputs, wanted.ruleset()));
    match args.output {
        Output::Text => {
            page::plan(out, &report, &args.view)?;
            writeln!(out, "dry run, {checked}: {}", report.closing())?;
        }
        Output::Json => {
            let mut document = intent.json(&report);
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

fn text(out: &mut impl Write, done: &Done) -> std::io::Result<()> {
    let counts = done.rules.delta.counts();
    match &done.rules.committed {
        None => writeln!(
            out,
            "nothing to change: 0 bytes sent, generation {} unchanged",
            done.rules.generation
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
            done.rules.generation
        )?,
    }
    let routes = &done.routes;
    if routes.changed() > 0 {
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
    let counts = done.rules.delta.counts();
    let committed = done.rules.committed.unwrap_or_default();
    let document = json!({
        "changed": done.rules.committed.is_some(),
        "elementsAdded": counts.elements_added,
        "elementsDeleted": counts.elements_deleted,
        "rulesAdded": counts.rules_added,
        "bytes": committed.bytes,
        "messages": committed.messages,
        "micros": committed.micros,
        "generation": done.rules.generation,
        "races": done.rules.races,
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
