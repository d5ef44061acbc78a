//! `svcnat lab ask`: questions of a place, and who answered them.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use serde_json::json;

use super::args::AskArgs;
use super::folder::Folder;
use super::namespace;
use crate::cli::args::Output;
use crate::cli::error::CliError;
use crate::config::Config;
use crate::explain::Names;
use crate::lab::{Namespace, Outcome, Source, ask};
use crate::node::Node;
use crate::source::Input;

pub fn run(args: &AskArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let view = Folder::meant(args.lab.name.as_deref())?.view()?;
    let path = namespace(&view, &args.from)?;
    let read = Node::read(&[Input::Path(view.objects.clone())], Config::default());
    let (objects, _) = read.map_err(|error| CliError::Host(error.to_string()))?;
    let hosts = view.hosts();
    let found = Names::with_hosts(&objects, "default", &hosts).ends(&args.from, &args.to)?;
    let to = SocketAddr::new(found.destination, found.port);
    let host =
        |error: std::io::Error| CliError::Host(format!("cannot enter {}: {error}", args.from));
    let inside = Namespace::open(&path).map_err(host)?;
    let questions = || -> Vec<Outcome> {
        let once = |_| ask(Source::default(), found.protocol, to, args.timeout);
        (0..args.count).map(once).collect()
    };
    let outcomes = inside.enter(questions).map_err(host)?;
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for outcome in &outcomes {
        *counts.entry(outcome.to_string()).or_default() += 1;
    }
    match args.output {
        Output::Json => {
            let rows: Vec<_> = outcomes.iter().map(row).collect();
            writeln!(
                out,
                "{}",
                json!({"from": args.from, "to": to, "protocol": found.protocol.to_string(), "outcomes": rows})
            )?;
        }
        Output::Text if args.count == 1 => {
            for outcome in counts.keys() {
                writeln!(out, "{outcome}")?;
            }
        }
        Output::Text => {
            let width = counts
                .keys()
                .map(|text| text.chars().count())
                .max()
                .unwrap_or(0);
            for (outcome, count) in &counts {
                writeln!(
                    out,
                    "{outcome:width$} {count:4} {}",
                    bar(*count, outcomes.len())
                )?;
            }
        }
    }
    let all = outcomes
        .iter()
        .all(|outcome| matches!(outcome, Outcome::Answer(_)));
    Ok(u8::from(!all))
}

/// As long as the share, of up to 60.
fn bar(count: usize, of: usize) -> String {
    "█".repeat((count * 60).div_ceil(of.max(60)))
}

fn row(outcome: &Outcome) -> serde_json::Value {
    match outcome {
        Outcome::Answer(answer) => {
            json!({"name": answer.name, "port": answer.port, "client": answer.client.ip()})
        }
        Outcome::Refused => json!({"failed": "refused"}),
        Outcome::Silence => json!({"failed": "silence"}),
        Outcome::Failed(why) => json!({"failed": why}),
    }
}
