//! `svcnat version`: what this program is, and which forms it reads and writes.

use std::io::Write;

use serde_json::json;

use super::args::Output;
use super::error::CliError;
use super::saved_plan;
use crate::report::PLAN_VERSION;

/// What of it is built, of what can be left out.
const FEATURES: [(&str, bool); 3] = [
    ("cli", true),
    ("cluster", cfg!(feature = "cluster")),
    ("daemon", cfg!(feature = "daemon")),
];

/// The state file that `run --state-dir` reads and writes; none without the agent.
#[cfg(feature = "daemon")]
const STATE_FILE: Option<u32> = Some(crate::follow::STATE_VERSION);
#[cfg(not(feature = "daemon"))]
const STATE_FILE: Option<u32> = None;

pub fn run(output: Output, out: &mut impl Write) -> Result<u8, CliError> {
    let (name, version) = (env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    let built = FEATURES.iter().filter(|(_, built)| *built);
    let features: Vec<&str> = built.map(|(feature, _)| *feature).collect();
    match output {
        Output::Text => {
            writeln!(out, "{name} {version}")?;
            writeln!(out, "features       {}", features.join(", "))?;
            writeln!(out, "configuration  {}", crate::config::API_VERSION)?;
            writeln!(out, "plan           version {PLAN_VERSION}")?;
            writeln!(out, "plan file      version {}", saved_plan::VERSION)?;
            if let Some(version) = STATE_FILE {
                writeln!(out, "state file     version {version}")?;
            }
        }
        Output::Json => {
            let document = json!({
                "name": name,
                "version": version,
                "features": features,
                "configuration": crate::config::API_VERSION,
                "planVersion": PLAN_VERSION,
                "planFileVersion": saved_plan::VERSION,
                "stateFileVersion": STATE_FILE,
            });
            writeln!(out, "{document}")?;
        }
    }
    Ok(0)
}
