//! `svcnat diff`: the plan; exit code 1 if there is anything to do.

use std::io::Write;

use super::args::{DiffArgs, LossArgs, Output};
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::inputs;
use super::intent::Intent;
use super::page;
use super::saved_plan;
use super::say::say;
use super::writer;
use crate::apply::{DesiredRules as _, ThisHost};
use crate::progress::Progress;
use crate::report::Report;
use crate::text::Printable;

pub fn run(args: &DiffArgs, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    inputs::given(&args.inputs)?;
    let mut from = args.inputs.clone();
    let noted = match args.out {
        Some(_) => Some(saved_plan::Inputs::note(&mut from)?),
        None => None,
    };
    let inputs = inputs::resolve(&from)?;
    let mut this = ThisHost::open()?;
    let mut wanted = FromInputs::new(&inputs);
    let intent = Progress::during("reading our tables back", || {
        Intent::of(&mut this, &inputs, &mut wanted)
    })?;
    let differs = u8::from(!intent.is_empty());
    let report = Report::of(&intent.scene(&inputs, wanted.ruleset()));
    if let (Some(file), Some(noted)) = (&args.out, noted) {
        saved_plan::keep(file, noted, &intent, intent.json(&report))?;
    }
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
    if let Some(file) = &args.out {
        say(&format!(
            "kept: `svcnat apply {}` carries out exactly this\n",
            file.display()
        ));
    }
    if intent.is_empty() && args.output == Output::Text {
        say("no differences\n");
    }
    Ok(differs)
}
