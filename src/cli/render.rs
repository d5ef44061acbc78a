//! `svcnat render`: the ruleset of this node, printed.

use std::io::Write;

use super::args::{RenderArgs, RulesetFormat};
use super::error::CliError;
use super::inputs;
use crate::print::{json, text};

pub fn run(args: &RenderArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    inputs::say_if_none(&args.inputs);
    let ruleset = inputs.ruleset();
    match args.output {
        RulesetFormat::Nft if args.elements => text::elements(out, &ruleset)?,
        RulesetFormat::Nft => text::ruleset(out, &ruleset)?,
        RulesetFormat::Json => json::ruleset(out, &ruleset)?,
    }
    Ok(0)
}
