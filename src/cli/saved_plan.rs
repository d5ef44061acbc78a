//! A plan in a file: what was to be done, and what it was made from, so that exactly that is
//! done later, or nothing.
//!
//! The file does not hold the steps: they are made anew from the same inputs, and must come
//! out the same (`docs/plan.md`).

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Parser;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::args::{Cli, Verb};
use super::error::CliError;
use super::input_args::InputArgs;
use super::intent::Intent;
use crate::host::routes::RouteDelta;
use crate::source;
use crate::transaction::write;
use crate::undo::sealed::{self, SealedError, digest};
use crate::undo::{Fingerprint, boot_id, network_namespace};

const KIND: &str = "plan of svcnat";
/// Counted up when the file's form changes.
pub const VERSION: u32 = 1;

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Content {
    /// Version of the program: another one may do the same in another way.
    program: String,
    /// When, in seconds since 1970.
    made: i64,
    /// Which start of the machine.
    boot_id: String,
    /// Which network namespace.
    network_namespace: u64,
    /// The kernel's generation that the plan was made at.
    generation: u32,
    /// The folder in which relative names of inputs mean something.
    folder: PathBuf,
    /// The command line, from the verb on.
    arguments: Vec<String>,
    /// What was read of standard input, if it was.
    stdin: Option<String>,
    /// SHA-256 of each file that was read.
    inputs: BTreeMap<PathBuf, String>,
    /// What our tables held.
    tables: Fingerprint,
    /// SHA-256 of what is to be done.
    steps: Steps,
    /// What is to be done, as `diff -o json` shows it.
    plan: Value,
}

/// SHA-256 of each part of what is to be done.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steps {
    rules: String,
    routes: String,
    sysctls: String,
}

impl Steps {
    fn of(intent: &Intent) -> Result<Self, CliError> {
        let mut rules = Vec::new();
        write(&mut rules, &intent.rules.delta)?;
        let RouteDelta {
            add,
            replace,
            delete,
        } = &intent.routes;
        Ok(Self {
            rules: digest(&rules),
            routes: digest(format!("{add:?} {replace:?} {delete:?}").as_bytes()),
            sysctls: digest(format!("{:?}", intent.sysctls).as_bytes()),
        })
    }
}

/// A plan that is kept.
pub struct SavedPlan {
    /// The inputs it was made from.
    pub inputs: InputArgs,
    content: Content,
}

fn usage(error: impl std::fmt::Display) -> CliError {
    CliError::Usage(error.to_string())
}

fn host(error: impl std::fmt::Display) -> CliError {
    CliError::Host(error.to_string())
}

/// What a plan is made from, noted before it is read: if it changes meanwhile, the plan is of
/// no use, and says so when it is applied.
pub struct Inputs {
    arguments: Vec<String>,
    folder: PathBuf,
    files: BTreeMap<PathBuf, String>,
    stdin: Option<String>,
}

impl Inputs {
    /// Reads them; what standard input holds is in `args` then.
    ///
    /// # Errors
    /// If they cannot be read, or not once more later.
    pub fn note(args: &mut InputArgs) -> Result<Self, CliError> {
        let text = |argument: std::ffi::OsString| {
            argument.into_string().map_err(|argument| {
                usage(format!(
                    "--out: the argument {argument:?} is not UTF-8, and cannot be kept"
                ))
            })
        };
        if args.filename.iter().any(|path| path.as_os_str() == "-") {
            let mut held = String::new();
            let read = std::io::stdin().lock().read_to_string(&mut held);
            read.map_err(|error| usage(format!("--out: cannot read <stdin>: {error}")))?;
            args.stdin = Some(held);
        }
        Ok(Self {
            arguments: std::env::args_os()
                .skip(1)
                .map(text)
                .collect::<Result<_, _>>()?,
            folder: std::env::current_dir().map_err(host)?,
            files: files(args)?,
            stdin: args.stdin.clone(),
        })
    }
}

/// All files that are read, with what they hold.
fn files(args: &InputArgs) -> Result<BTreeMap<PathBuf, String>, CliError> {
    let named = args.filename.iter().filter(|path| path.as_os_str() != "-");
    let mut paths = Vec::new();
    for path in named {
        paths.extend(source::files(path).map_err(usage)?);
    }
    paths.extend(args.config.clone());
    paths.extend(args.service_cluster_ip_range_from.clone());
    let mut all = BTreeMap::new();
    for path in paths {
        let unreadable = |error: std::io::Error| usage(format!("{}: {error}", path.display()));
        if !std::fs::metadata(&path).map_err(unreadable)?.is_file() {
            return Err(usage(format!(
                "{}: is no regular file, and cannot be read once more when the plan is applied \
                 (-f - keeps what standard input holds)",
                path.display()
            )));
        }
        let sum = digest(&std::fs::read(&path).map_err(unreadable)?);
        all.insert(path, sum);
    }
    Ok(all)
}

/// Keeps a plan.
///
/// # Errors
/// If the file cannot be written.
pub fn keep(file: &Path, from: Inputs, intent: &Intent, plan: Value) -> Result<(), CliError> {
    let content = Content {
        program: env!("CARGO_PKG_VERSION").to_owned(),
        made: Timestamp::now().as_second(),
        boot_id: boot_id().map_err(host)?,
        network_namespace: network_namespace().map_err(host)?,
        generation: intent.rules.before.generation,
        folder: from.folder,
        arguments: from.arguments,
        stdin: from.stdin,
        inputs: from.files,
        tables: Fingerprint::of_live(&intent.rules.before),
        steps: Steps::of(intent)?,
        plan,
    };
    sealed::write(file, KIND, VERSION, &content).map_err(|error| {
        let text = format!("--out: {error}");
        if error.is_full() {
            host(text)
        } else {
            usage(text)
        }
    })
}

impl SavedPlan {
    /// Reads a plan, and holds what it was made from against what is there now.
    ///
    /// # Errors
    /// If it is no plan, or of another place, or an input changed since.
    pub fn open(file: &Path) -> Result<Self, CliError> {
        let content: Content = sealed::read(file, KIND, VERSION).map_err(|error| {
            let hint = match error {
                SealedError::Content { .. } => "; manifests are given with -f",
                SealedError::Io { .. } => "",
            };
            usage(format!("{error}{hint}"))
        })?;
        let stale = |what: String| {
            usage(format!(
                "{}: {what}; nothing was done (`svcnat diff --out` makes a new plan)",
                file.display()
            ))
        };
        if content.program != env!("CARGO_PKG_VERSION") {
            let what = format!("was made by svcnat {}", content.program);
            return Err(stale(what));
        }
        if content.boot_id != boot_id().map_err(host)? {
            return Err(stale("was made before the machine started anew".to_owned()));
        }
        if content.network_namespace != network_namespace().map_err(host)? {
            return Err(stale(
                "was made in another network namespace (--netns goes there)".to_owned(),
            ));
        }
        let words = ["svcnat".to_owned()].into_iter();
        let words = words.chain(content.arguments.iter().cloned());
        let cli = Cli::try_parse_from(words).map_err(|error| stale(error.to_string()))?;
        let Verb::Diff(args) = cli.verb else {
            return Err(stale("was not made by `svcnat diff`".to_owned()));
        };
        std::env::set_current_dir(&content.folder)
            .map_err(|error| stale(format!("{}: {error}", content.folder.display())))?;
        let mut inputs = args.inputs;
        inputs.stdin.clone_from(&content.stdin);
        let now = files(&inputs)
            .map_err(|error| stale(format!("an input cannot be read any more: {error}")))?;
        let moved = moved(&content.inputs, &now);
        if !moved.is_empty() {
            return Err(stale(format!("an input moved since: {}", moved.join("; "))));
        }
        Ok(Self { inputs, content })
    }

    /// Whether what is about to be done is what was planned.
    ///
    /// # Errors
    /// Saying what moved, if it is not.
    pub fn check(&self, intent: &Intent) -> Result<(), CliError> {
        let content = &self.content;
        let before = &intent.rules.before;
        let mut moved = Vec::new();
        if before.generation != content.generation {
            let differs = content.tables.differences(&Fingerprint::of_live(before));
            let what = if differs.is_empty() {
                "our tables are as they were, but somebody committed since".to_owned()
            } else {
                format!("in our tables {}", differs.join("; "))
            };
            moved.push(format!(
                "the ruleset, from generation {} to {}: {what}",
                content.generation, before.generation
            ));
        }
        let steps = Steps::of(intent)?;
        if steps.rules != content.steps.rules && moved.is_empty() {
            moved
                .push("what the inputs come to: this node's addresses or name, perhaps".to_owned());
        }
        if steps.routes != content.steps.routes {
            moved.push("our routes".to_owned());
        }
        if steps.sysctls != content.steps.sysctls {
            moved.push("kernel settings".to_owned());
        }
        if moved.is_empty() {
            return Ok(());
        }
        Err(CliError::Host(format!(
            "the plan is of no use any more, this moved since: {}; nothing was done (`svcnat diff \
             --out` makes a new one)",
            moved.join("; ")
        )))
    }
}

fn moved(then: &BTreeMap<PathBuf, String>, now: &BTreeMap<PathBuf, String>) -> Vec<String> {
    let gone_or_other = then.iter().filter_map(|(path, sum)| match now.get(path) {
        None => Some(format!("{} is gone", path.display())),
        Some(found) if found != sum => Some(format!("{} changed", path.display())),
        Some(_) => None,
    });
    let new = now.keys().filter(|path| !then.contains_key(*path));
    let new = new.map(|path| format!("{} is new", path.display()));
    gone_or_other.chain(new).collect()
}
