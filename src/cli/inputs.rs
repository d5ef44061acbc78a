//! From what was typed to something to act on: flags over file over defaults, objects
//! read, problems printed, this node's plan made.

use std::path::PathBuf;

use super::error::CliError;
use super::input_args::InputArgs;
use super::say::{report, say};
use crate::config::{Config, PartialConfig, Setting, file};
use crate::node::{Node, Objects};
use crate::problem::{Problem, Severity};
use crate::progress::Progress;
use crate::source::{self, Input, Labels, SourceError};

/// What installs needs an input: nothing given is not the same as nothing wanted.
///
/// # Errors
/// If no file, folder or standard input was named.
pub fn given(args: &InputArgs) -> Result<(), CliError> {
    if args.filename.is_empty() {
        return Err(CliError::Usage(
            "must specify -f or a cluster: -f FILE, -f FOLDER or -f - (`run` also takes \
             --kubernetes, --kubeconfig or --apiserver)"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Says that there are no objects if none were given, where that is allowed: settings alone
/// have a ruleset too.
pub fn say_if_none(args: &InputArgs) {
    if args.filename.is_empty() {
        say("notice: no objects were given (-f)\n");
    }
}

/// Resolves and prints problems on standard error.
///
/// # Errors
/// If something cannot be used and `--skip-invalid` was not given.
pub fn resolve(args: &InputArgs) -> Result<Node, CliError> {
    resolve_from(args, Severity::Notice)
}

/// The same, saying of the problems only those that are as bad as `least`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_from(args: &InputArgs, least: Severity) -> Result<Node, CliError> {
    let (node, problems) = collect(args)?;
    judge(args, node, &problems, least)
}

/// [`resolve_from`], with the labels of Services and Nodes.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_labelled(args: &InputArgs, least: Severity) -> Result<(Node, Labels), CliError> {
    let mut objects = Progress::during("reading the inputs", || {
        objects_by(args, Objects::read_labelled)
    })?;
    let labels = objects.labels.take().unwrap_or_default();
    let (node, problems) = Node::of(objects);
    Ok((judge(args, node, &problems, least)?, labels))
}

/// Prints problems, and hands on the node if they let it.
fn judge(
    args: &InputArgs,
    node: Node,
    problems: &[Problem],
    least: Severity,
) -> Result<Node, CliError> {
    let said = problems.iter().filter(|p| p.severity >= least);
    report(&said.cloned().collect::<Vec<Problem>>());
    let errors = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    if errors > 0 && !args.skip_invalid {
        let noun = if errors == 1 { "error" } else { "errors" };
        return Err(CliError::Invalid(format!("{errors} {noun} in the input")));
    }
    Ok(node)
}

/// The same, with the problems handed back instead of printed.
///
/// # Errors
/// If a flag or a file cannot be used at all.
pub fn collect(args: &InputArgs) -> Result<(Node, Vec<Problem>), CliError> {
    let objects = Progress::during("reading the inputs", || objects(args))?;
    Ok(Node::of(objects))
}

/// Settings and objects, without a plan.
///
/// # Errors
/// If a flag or a file cannot be used at all.
pub fn objects(args: &InputArgs) -> Result<Objects, CliError> {
    objects_by(args, Objects::read)
}

fn objects_by(
    args: &InputArgs,
    read: impl FnOnce(&[Input], Config) -> Result<Objects, SourceError>,
) -> Result<Objects, CliError> {
    let (config, notes) = config(args)?;
    let input = |path: &PathBuf| match path.to_str() {
        Some("-") => (args.stdin.clone()).map_or(Input::Stdin, Input::Given),
        _ => Input::Path(path.clone()),
    };
    let sources: Vec<Input> = args.filename.iter().map(input).collect();
    let mut objects = read(&sources, config).map_err(usage)?;
    objects.problems.splice(0..0, notes);
    Ok(objects)
}

fn usage(error: impl std::fmt::Display) -> CliError {
    CliError::Usage(error.to_string())
}

/// The settings, flags over file over defaults, and what was found odd in them. One that is
/// wrong is an error whatever becomes of invalid objects: everything else depends on them.
///
/// # Errors
/// If a flag or the file cannot be used.
pub fn config(args: &InputArgs) -> Result<(Config, Vec<Problem>), CliError> {
    let (mut file, mut notes) = (PartialConfig::default(), Vec::new());
    if let Some(path) = &args.config {
        let read = file::read(path).map_err(usage)?;
        (file, notes) = (read.settings, read.notes);
    }
    let mut config = flags(args)?.or(file).or_defaults();
    if config.node_name.is_empty() {
        config.node_name = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().trim().to_lowercase())
            .unwrap_or_default();
    }
    let wrong: Vec<String> = config
        .validate()
        .iter()
        .map(|p| format!("{}: {}: {}", p.object, p.field, p.message))
        .collect();
    if wrong.is_empty() {
        Ok((config, notes))
    } else {
        Err(CliError::Usage(wrong.join("; ")))
    }
}

/// The node that flags or the file name, if they do.
///
/// # Errors
/// If a flag or the file cannot be used.
#[cfg(feature = "lab")]
pub fn named_node(args: &InputArgs) -> Result<Option<String>, CliError> {
    let given = flags(args)?.node_name;
    match (&args.config, given) {
        (Some(path), None) => Ok(file::read(path).map_err(usage)?.settings.node_name),
        (_, given) => Ok(given),
    }
}

/// What the flags say.
fn flags(args: &InputArgs) -> Result<PartialConfig, CliError> {
    let draft = args.settings.0.clone();
    let name = |setting: &Setting| format!("--{}", setting.flag.map_or(setting.key, |f| f.name));
    let mut flags = draft.finish(name).map_err(usage)?;
    if let Some(path) = &args.service_cluster_ip_range_from {
        flags.service_cidrs = Some(source::service_ranges_from(path).map_err(usage)?);
    }
    Ok(flags)
}
