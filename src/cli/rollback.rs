//! `svcnat rollback`: back to the state before the last `apply`.

use std::io::Write;

use jiff::Timestamp;
use serde_json::json;

use super::args::{Output, RollbackArgs};
use super::error::CliError;
use super::writer;
use crate::apply::{Host as _, ThisHost};
use crate::text::Printable;
use crate::transaction::write;
use crate::undo::{Care, Folder, Record, Refusal, put_back};

pub fn run(args: &RollbackArgs, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    let host = |error: &dyn std::fmt::Display| CliError::Host(error.to_string());
    let folder = Folder::here().map_err(|error| host(&error))?;
    let _seat = writer::take("rollback", false)?;
    let record = folder.last().map_err(|error| host(&error))?;
    let record = record.ok_or_else(|| {
        CliError::Host(
            "there is no state to go back to: no `svcnat apply` has changed this network \
             namespace since the machine started, or it was gone back from already"
                .to_owned(),
        )
    })?;
    let mut this = ThisHost::open()?;
    if args.dry_run {
        return dry_run(&record, &mut this, out);
    }
    let care = if args.force {
        Care::Whatever
    } else {
        Care::Unchanged
    };
    let done = put_back(&mut this, &record, care).map_err(refused)?;
    folder.forget().map_err(|error| host(&error))?;
    match args.output {
        Output::Text => writeln!(
            out,
            "back to the state before {} ({}): {done}",
            when(&record),
            record.summary
        )?,
        Output::Json => writeln!(
            out,
            "{}",
            json!({
                "elementsAdded": done.rules.elements_added,
                "elementsDeleted": done.rules.elements_deleted,
                "rulesAdded": done.rules.rules_added,
                "routes": {
                    "added": done.routes.added,
                    "replaced": done.routes.replaced,
                    "deleted": done.routes.deleted,
                },
                "sysctls": done.settings,
                "staleFlowsRemoved": done.flows,
                "failed": done.failed,
            })
        )?,
    }
    if done.failed.is_empty() {
        return Ok(0);
    }
    out.flush()?;
    Err(CliError::Several(done.failed))
}

fn refused(error: Refusal) -> CliError {
    match error {
        Refusal::Kernel(error) => CliError::Kernel(error),
        Refusal::Host(error) => CliError::Host(error.to_string()),
        error @ Refusal::Differs(_) => CliError::Host(format!(
            "{error}; nothing was done (--force puts back what the apply changed all the same, \
             and leaves the rest)"
        )),
    }
}

fn when(record: &Record) -> String {
    let made = Timestamp::from_second(record.made);
    made.map_or_else(|_| "then".to_owned(), |made| format!("{made:.0}"))
}

fn dry_run(
    record: &Record,
    this: &mut ThisHost,
    out: &mut Printable<impl Write>,
) -> Result<u8, CliError> {
    let host = |error: &dyn std::fmt::Display| CliError::Host(error.to_string());
    let live = this.read()?;
    let (rules, mut lost) = record.back.tables.steps(Some(&live));
    let routes = this.routes().map_err(|error| host(&error))?;
    let (routes, also_lost) = record.back.routes.steps(&routes);
    write(out, &rules)?;
    for gone in routes.delete {
        writeln!(out, "- route {gone}")?;
    }
    for (_, route) in routes.replace.iter() {
        writeln!(out, "~ route {} via {}", route.destination, route.via)?;
    }
    for route in routes.add {
        writeln!(out, "+ route {} via {}", route.destination, route.via)?;
    }
    for setting in &record.back.settings {
        writeln!(
            out,
            "~ sysctl {} = {}",
            setting.path.replace('/', "."),
            setting.before
        )?;
    }
    lost.extend(also_lost);
    for what in lost {
        writeln!(out, "not: {what}")?;
    }
    writeln!(
        out,
        "dry run: back to the state before {} ({})",
        when(record),
        record.summary
    )?;
    Ok(0)
}
