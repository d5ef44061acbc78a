//! `svcnat delete`: remove everything that is ours.

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::json;

use super::args::{DeleteArgs, Output};
use super::error::CliError;
use super::intent::host;
use super::say::{count, say};
use super::writer;
use crate::apply::{Host as _, ThisHost};
use crate::host::routes;
use crate::netlink::Nfnetlink;
use crate::node;
use crate::undo::Folder;

pub fn run(args: &DeleteArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let _seat = writer::take("delete", args.beside_run)?;
    all(args.output, out)
}

/// Removes it; the caller has the writer's place.
pub fn all(output: Output, out: &mut impl Write) -> Result<u8, CliError> {
    let mut this = ThisHost::open()?;
    let outcome = node::remove(&mut this)?;
    let live = this.routes().map_err(host)?;
    let delta = routes::plan(&BTreeSet::new(), &live);
    let report = this.change_routes(&delta).map_err(host)?;
    // What is gone is not gone back from.
    if let Err(error) = Folder::here().and_then(|folder| folder.remove()) {
        say(&format!(
            "warning: the state before is still kept: {error}\n"
        ));
    }
    // What a killed trace left behind, on kernels that do not remove it themselves.
    let traces = Nfnetlink::open()?.remove_old_traces()?;
    let tables = outcome.delta.tables.len() + traces;
    match output {
        Output::Text if tables + report.deleted == 0 => writeln!(out, "nothing to delete")?,
        Output::Text => writeln!(
            out,
            "deleted {} and {}",
            count(tables, "table"),
            count(report.deleted, "route")
        )?,
        Output::Json => writeln!(
            out,
            "{}",
            json!({"tables": tables, "routes": report.deleted})
        )?,
    }
    if report.errors.is_empty() {
        return Ok(0);
    }
    let errors = report.errors.iter().map(ToString::to_string).collect();
    Err(CliError::Several(errors))
}
