//! `svcnat render`: the ruleset of this node, printed.

use std::collections::BTreeMap;
use std::io::Write;

use super::args::{RenderArgs, RulesetFormat};
use super::error::CliError;
use super::inputs::Inputs;
use crate::compile::compile;
use crate::print::{json, text};

pub fn run(args: &RenderArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = Inputs::resolve(&args.inputs)?;
    Inputs::say_if_none(&args.inputs);
    let ruleset = compile(&inputs.plan, &BTreeMap::new());
    match args.output {
        RulesetFormat::Nft if args.elements => text::elements(out, &ruleset)?,
        RulesetFormat::Nft => text::ruleset(out, &ruleset)?,
        RulesetFormat::Json => json::ruleset(out, &ruleset)?,
    }
    Ok(0)
}
