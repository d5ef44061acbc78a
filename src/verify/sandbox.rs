//! What must hold when a node's ruleset is installed, tried in network namespaces of their own:
//! nothing of the caller's is read or changed, and all of it goes with the threads.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write};
use std::process::{Command, Stdio};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::shuffled::rendered;
use super::{Check, Verdict};
use crate::apply::{Host as _, ThisHost};
use crate::net::Family;
use crate::netlink::NetlinkError;
use crate::node::{self, Node};
use crate::ruleset::{LiveRuleset, LiveTable, Ruleset};

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// No namespace.
    #[error("cannot make a network namespace (it takes CAP_SYS_ADMIN): {0}")]
    Namespace(nix::errno::Errno),
    /// The kernel refused the ruleset, or could not be read.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// nft cannot be run, or ended in the midst.
    #[error("nft: {0}")]
    Nft(io::Error),
}

/// Installs `node`'s ruleset in a network namespace of its own, twice, has nft load what is
/// rendered in another one, and removes it. What of it was as it should be, and the ruleset as
/// the kernel held it. The tables alone: routes and kernel settings are left as they are.
///
/// # Errors
/// If no namespace can be made, or the kernel refuses.
pub fn sandbox(node: &Node, at: &str) -> Result<(Vec<Check>, Ruleset), SandboxError> {
    let (mut checks, held) = inside(|| installed(node, at))?;
    checks.insert(1, loaded(node, &held, at)?);
    Ok((checks, node.ruleset_over(&held).holding(&held)))
}

/// Runs `work` in a thread with a network namespace of its own.
fn inside<T: Send>(
    work: impl FnOnce() -> Result<T, SandboxError> + Send,
) -> Result<T, SandboxError> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(SandboxError::Namespace)?;
            work()
        });
        let ended = thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Installs it twice and removes it; what the kernel held in between.
fn installed(node: &Node, at: &str) -> Result<(Vec<Check>, LiveRuleset), SandboxError> {
    let mut host = ThisHost::open()?;
    let before = host.read()?.tables;
    node.install(&mut host)?;
    let held = host.read()?;
    let again = node.install(&mut host)?;
    let twice = match (again.committed, host.generation()?) {
        (Some(sent), _) => Err(format!("{} bytes sent", sent.bytes)),
        (None, generation) if generation != held.generation => {
            Err(format!("generation {generation} after {}", held.generation))
        }
        (None, _) => Ok(()),
    };
    let expected = "0 bytes sent, and the same generation";
    let mut checks = vec![Check::of(at, "a second apply", expected, twice)];
    node::remove(&mut host)?;
    let after = host.read()?.tables;
    let left = match after == before && host.table_names()?.is_empty() {
        true => Ok(()),
        false => Err(differences(&before, &after)),
    };
    let expected = "no tables, as before";
    checks.push(Check::of(at, "delete after it", expected, left));
    Ok((checks, held))
}

/// Has nft load what is rendered, and holds what the kernel has then against `held`.
fn loaded(node: &Node, held: &LiveRuleset, at: &str) -> Result<Check, SandboxError> {
    let name = "what is rendered, loaded by nft";
    let by_nft = inside(|| {
        let refused = match nft(&rendered(node)) {
            Ok(refused) => refused,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(SandboxError::Nft(error)),
        };
        Ok(Some(match refused {
            Some(said) => Err(said),
            None => Ok(ThisHost::open()?.read()?.tables),
        }))
    })?;
    let found = match by_nft {
        None => {
            return Ok(Check {
                at: at.to_owned(),
                name: name.to_owned(),
                verdict: Verdict::Skipped("there is no nft here".to_owned()),
            });
        }
        Some(Ok(tables)) if tables == held.tables => Ok(()),
        Some(Ok(tables)) => Err(differences(&held.tables, &tables)),
        Some(Err(said)) => Err(said),
    };
    Ok(Check::of(at, name, "what apply installs", found))
}

/// What nft says if it refuses a text.
fn nft(text: &str) -> io::Result<Option<String>> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(text.as_bytes()) {
            // It ended before it read all: it says why.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Ok((!output.status.success()).then_some(said))
}

/// The names of what differs.
fn differences(one: &BTreeMap<Family, LiveTable>, other: &BTreeMap<Family, LiveTable>) -> String {
    let mut found = Vec::new();
    for family in Family::ALL {
        let none = LiveTable::default();
        let tables = [one, other].map(|tables| tables.get(&family).unwrap_or(&none));
        let [one, other] = tables;
        let mut add = |name: &str| found.push(format!("{} {name}", family.nft_name()));
        for (name, chain) in one.chains.iter().chain(&other.chains) {
            if one.chains.get(name) != Some(chain) || other.chains.get(name) != Some(chain) {
                add(name);
            }
        }
        for (name, set) in one.sets.iter().chain(&other.sets) {
            if one.sets.get(name) != Some(set) || other.sets.get(name) != Some(set) {
                add(name);
            }
        }
    }
    found.sort();
    found.dedup();
    match found.is_empty() {
        true => "other tables".to_owned(),
        false => format!("otherwise: {}", found.join(", ")),
    }
}
