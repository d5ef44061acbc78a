//! `svcnat diff`: the plan; exit code 1 if there is anything to do.

use std::io::Write;

use super::args::{DiffArgs, LossArgs, Output};
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::inputs;
use super::intent::Intent;
use super::page;
use super::say::say;
use super::writer;
use crate::apply::{DesiredRules as _, ThisHost};
use crate::progress::Progress;
use crate::report::Report;
use crate::text::Printable;

pub fn run(args: &DiffArgs, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    inputs::given(&args.inputs)?;
    let inputs = inputs::resolve(&args.inputs)?;
    let mut this = ThisHost::open()?;
    let mut wanted = FromInputs::new(&inputs);
    let intent = Progress::during("reading our tables back", || {
        Intent::of(&mut this, &inputs, &mut wanted)
    })?;
    let differs = u8::from(!intent.is_empty());
    let report = Report::of(&intent.scene(&inputs, wanted.ruleset()));
    match args.output {
        Output::Text if report.is_empty() => {}
        Output::Text => {
            page::plan(out, &report, &args.view)?;
            writeln!(out, "plan: {}", report.closing())?;
        }
        Output::Json => writeln!(out, "{}", intent.json(&report))?,
    }
    out.flush()?;
    intent.warn(&inputs, &LossArgs::default())?;
    if let Some(other) = writer::other() {
        say(&format!("notice: {other}\n"));
    }
    if intent.is_empty() && args.output == Output::Text {
        say("no differences\n");
    }
    Ok(differs)
}
