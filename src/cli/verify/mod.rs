//! `svcnat verify`: packets and what becomes of them, held against what is.

pub(super) mod args;
#[cfg(feature = "lab")]
mod in_lab;
mod live;
mod print;
#[cfg(feature = "lab")]
mod send;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::error::CliError;
use super::input_args::InputArgs;
use super::inputs;
use super::say::{count, say};
use crate::node::Node;
use crate::problem::Severity;
use crate::ruleset::Ruleset;
use crate::source;
use crate::verify::{self, Asked, Check, Packets, SandboxError, Walker};
use args::VerifyArgs;

/// Objects, settings and the packets that are theirs.
struct Scenario {
    inputs: InputArgs,
    packets: PathBuf,
}

/// What was found of one scenario.
struct Found {
    /// The file of its packets.
    file: String,
    checks: Vec<Check>,
}

pub fn run(args: &VerifyArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let mut found = in_lab(args)?;
    if found.is_empty() {
        for mut scenario in scenarios(args)? {
            found.push(one(&mut scenario, args)?);
        }
    }
    print::all(out, args.output, &found)?;
    let mut all = found.iter().flat_map(|found| &found.checks);
    Ok(u8::from(all.any(Check::failed)))
}

/// What was found in a lab, with `--lab`.
#[cfg(feature = "lab")]
fn in_lab(args: &VerifyArgs) -> Result<Vec<Found>, CliError> {
    match (&args.lab, &args.packets) {
        (None, _) => Ok(Vec::new()),
        (Some(name), Some(packets)) => {
            let found = in_lab::found(name, packets, &args.namespace)?;
            Ok(vec![found])
        }
        (Some(_), None) => Err(CliError::Usage("must specify --packets FILE".to_owned())),
    }
}

/// Without a lab there is none.
#[cfg(not(feature = "lab"))]
fn in_lab(_: &VerifyArgs) -> Result<Vec<Found>, CliError> {
    Ok(Vec::new())
}

fn scenarios(args: &VerifyArgs) -> Result<Vec<Scenario>, CliError> {
    if args.folders.is_empty() {
        inputs::given(&args.inputs)?;
        let packets = args.packets.clone().ok_or_else(|| {
            CliError::Usage("must specify --packets FILE, or folders that have one".to_owned())
        })?;
        let inputs = args.inputs.clone();
        return Ok(vec![Scenario { inputs, packets }]);
    }
    if args.live && args.folders.len() > 1 {
        let message = "--live: one folder at a time is installed here; --sandbox takes many";
        return Err(CliError::Usage(message.to_owned()));
    }
    Ok(args.folders.iter().map(|f| folder(f, args)).collect())
}

/// `input.yaml` and `packets.txt`, and `config.yaml` if it is there.
fn folder(folder: &Path, args: &VerifyArgs) -> Scenario {
    let config = folder.join("config.yaml");
    Scenario {
        inputs: InputArgs {
            filename: vec![folder.join("input.yaml")],
            config: config.exists().then_some(config),
            ..args.inputs.clone()
        },
        packets: folder.join("packets.txt"),
    }
}

fn one(scenario: &mut Scenario, args: &VerifyArgs) -> Result<Found, CliError> {
    let file = scenario.packets.display().to_string();
    let read = fs::read_to_string(&scenario.packets);
    let text = read.map_err(|error| CliError::Usage(format!("cannot read {file}: {error}")))?;
    let packets = Packets::parse(&file, &text)?;
    let texts = texts(&mut scenario.inputs)?;
    let node = inputs::resolve_from(&scenario.inputs, Severity::Error)?;
    let asked = Asked::of(&packets, &node, &args.namespace)?;
    let mut checks = if args.live {
        live::checks(&node, &file, &asked)?
    } else if let Some(sent) = sent(args, &node, &file, &asked)? {
        sent
    } else {
        let (ruleset, more) = match args.sandbox {
            true => sandbox(&node, &file)?,
            false => (
                node.ruleset(),
                vec![verify::differs_from_itself(&node, &file)],
            ),
        };
        let local = verify::addresses(&node);
        let walker = Walker {
            node: &node,
            ruleset: &ruleset,
            local: &local,
            absent: false,
        };
        if args.write {
            write(&walker, &asked, &packets, &scenario.packets)?;
            let checks = Vec::new();
            return Ok(Found { file, checks });
        }
        let mut checks = verify::walked(&walker, &file, &asked);
        checks.extend(more);
        checks
    };
    let shuffled = verify::shuffled(texts.iter().map(String::as_str));
    scenario.inputs.filename = vec![PathBuf::from("-")];
    scenario.inputs.stdin = Some(shuffled);
    let (other, _) = inputs::collect(&scenario.inputs)?;
    checks.push(verify::another_order(&node, &other, &file));
    Ok(Found { file, checks })
}

/// What the inputs hold; what standard input does is in them then.
fn texts(inputs: &mut InputArgs) -> Result<Vec<String>, CliError> {
    let wrong = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
    let mut texts = Vec::new();
    for path in &inputs.filename {
        if path.to_str() == Some("-") {
            let read = std::io::read_to_string(std::io::stdin());
            let text = read.map_err(|error| wrong(&format!("standard input: {error}")))?;
            inputs.stdin = Some(text.clone());
            texts.push(text);
            continue;
        }
        for file in source::files(path).map_err(|error| wrong(&error))? {
            let read = fs::read_to_string(&file);
            let name = file.display();
            texts.push(read.map_err(|error| wrong(&format!("cannot read {name}: {error}")))?);
        }
    }
    Ok(texts)
}

/// With `--send`.
#[cfg(feature = "lab")]
fn sent(
    args: &VerifyArgs,
    node: &Node,
    file: &str,
    asked: &[Asked<'_>],
) -> Result<Option<Vec<Check>>, CliError> {
    if !args.send {
        return Ok(None);
    }
    let mut checks = send::checks(node, file, asked)?;
    checks.extend(sandbox(node, file)?.1);
    Ok(Some(checks))
}

/// Without a lab there is none.
#[cfg(not(feature = "lab"))]
fn sent(
    _: &VerifyArgs,
    _: &Node,
    _: &str,
    _: &[Asked<'_>],
) -> Result<Option<Vec<Check>>, CliError> {
    Ok(None)
}

fn sandbox(node: &Node, file: &str) -> Result<(Ruleset, Vec<Check>), CliError> {
    let (checks, ruleset) = verify::sandbox(node, file).map_err(|error| match error {
        SandboxError::Kernel(error) => CliError::Kernel(error),
        error => CliError::Host(error.to_string()),
    })?;
    Ok((ruleset, checks))
}

/// Puts into the file what becomes of packets now, where that is otherwise.
fn write(
    walker: &Walker<'_>,
    asked: &[Asked<'_>],
    packets: &Packets,
    path: &Path,
) -> Result<(), CliError> {
    let mut written = packets.clone();
    let mut lines = 0;
    for asked in asked {
        let found = walker.walk(asked);
        if !found.as_written {
            written.set(asked.packet.line, found.end);
            lines += 1;
        }
    }
    if lines > 0 {
        let file = &packets.file;
        let done = fs::write(path, written.to_string());
        done.map_err(|error| CliError::Host(format!("cannot write {file}: {error}")))?;
        say(&format!("{file}: {} written\n", count(lines, "line")));
    }
    Ok(())
}
