//! `svcnat diff`: desired against live, readable; exit code 1 if they differ.

use std::io::Write;

use super::args::{DiffArgs, LossArgs, Output};
use super::error::CliError;
use super::from_inputs::FromInputs;
use super::inputs;
use super::intent::Intent;
use super::say::say;
use super::writer;
use crate::apply::ThisHost;
use crate::progress::Progress;

pub fn run(args: &DiffArgs, out: &mut impl Write) -> Result<u8, CliError> {
    inputs::given(&args.inputs)?;
    let inputs = inputs::resolve(&args.inputs)?;
    let mut this = ThisHost::open()?;
    let intent = Progress::during("reading our tables back", || {
        Intent::of(&mut this, &inputs, &mut FromInputs::new(&inputs))
    })?;
    match args.output {
        Output::Text => intent.write(out)?,
        Output::Json => writeln!(out, "{}", intent.json()?)?,
    }
    out.flush()?;
    intent.warn(&inputs, &LossArgs::default())?;
    if let Some(other) = writer::other() {
        say(&format!("notice: {other}\n"));
    }
    if intent.is_empty() && args.output == Output::Text {
        say("no differences\n");
    }
    Ok(u8::from(!intent.is_empty()))
}
