//! `svcnat diff`: desired against live, readable; exit code 1 if they differ.

use std::io::Write;

use serde_json::json;

use super::args::{DiffArgs, Output};
use super::error::CliError;
use super::inputs::Inputs;
use crate::compile::compile;
use crate::diff;
use crate::host::routes;
use crate::netlink::Nfnetlink;
use crate::observe::Progress;

pub fn run(args: &DiffArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = Inputs::resolve(&args.inputs)?;
    let mut kernel = Nfnetlink::open()?;
    let live = Progress::during("reading our tables back", || kernel.read())?;
    let delta = diff::diff(&compile(&inputs.plan, &live.sets()), &live);
    let ours = routes::list_ours().map_err(|e| CliError::Host(e.to_string()))?;
    let routes = routes::plan(&inputs.plan.routes, &ours);
    let lines = route_lines(&routes);
    match args.output {
        Output::Text => {
            diff::write(out, &delta)?;
            for line in &lines {
                writeln!(out, "{line}")?;
            }
        }
        Output::Json => {
            let mut text = Vec::new();
            diff::write(&mut text, &delta)?;
            let text = String::from_utf8_lossy(&text);
            let all: Vec<&str> = text
                .lines()
                .chain(lines.iter().map(String::as_str))
                .collect();
            writeln!(
                out,
                "{}",
                json!({"generation": live.generation, "changes": all})
            )?;
        }
    }
    let same = delta.is_empty() && routes.is_empty();
    if same && args.output == Output::Text {
        eprintln!("no differences");
    }
    Ok(u8::from(!same))
}

fn route_lines(delta: &routes::RouteDelta) -> Vec<String> {
    let added = delta
        .add
        .iter()
        .map(|r| format!("+ route {} via {} (node {})", r.destination, r.via, r.node));
    let replaced = delta.replace.iter().flat_map(|(old, new)| {
        [
            format!("- route {old}"),
            format!(
                "+ route {} via {} (node {})",
                new.destination, new.via, new.node
            ),
        ]
    });
    let deleted = delta.delete.iter().map(|r| format!("- route {r}"));
    deleted.chain(replaced).chain(added).collect()
}
