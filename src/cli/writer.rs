//! The writer's place, for the verbs that change something.

use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::error::CliError;
use super::say::say;
use crate::host::writer::{Holder, Place, Seat, look};
use crate::undo::{Folder, Waiting};

/// How long another one-shot verb is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// Takes the place for `verb`. `beside`: who has it already is only named.
///
/// # Errors
/// If another svcnat has it: `run` has it for good, others are waited for.
pub fn take(verb: &str, beside: bool) -> Result<Option<Seat>, CliError> {
    if let Some(waiting) = Folder::here().ok().and_then(|folder| folder.waiting()) {
        return Err(waits(&waiting));
    }
    let start = Instant::now();
    loop {
        match Seat::take(verb) {
            Ok(Ok(seat)) => return Ok(Some(seat)),
            // Given back this very moment.
            Ok(Err(Place::Free)) if start.elapsed() < PATIENCE => {}
            Ok(Err(Place::Held(holder))) if beside => {
                say(&format!("warning: {holder} writes here as well\n"));
                return Ok(None);
            }
            Ok(Err(Place::Held(holder))) => {
                let waits = holder.until.is_some();
                if holder.verb == "run" || waits || start.elapsed() >= PATIENCE {
                    return Err(refusal(verb, &holder));
                }
            }
            Ok(Err(Place::Squatted(who))) => {
                say(&format!(
                    "warning: {who} has the name by which svcnat's writers find each other; it \
                     is passed over\n"
                ));
                return Ok(None);
            }
            Ok(Err(Place::Free)) | Err(_) => {
                say("warning: cannot tell whether another svcnat writes here\n");
                return Ok(None);
            }
        }
        sleep(LOOK);
    }
}

/// The refusal while somebody may still want the state before back.
pub fn waits(waiting: &Waiting) -> CliError {
    let until = Timestamp::from_second(waiting.until).map(|until| format!(" until {until:.0}"));
    CliError::Host(format!(
        "svcnat apply --confirm (its guardian is process {}) waits for `svcnat confirm`{}: \
         nothing was done",
        waiting.pid,
        until.unwrap_or_default()
    ))
}

fn refusal(verb: &str, holder: &Holder) -> CliError {
    if holder.until.is_some() {
        return CliError::Host(format!("{holder}: nothing was done"));
    }
    let why = match (verb, holder.verb.as_str()) {
        ("run", _) => "two would undo each other's rules for ever",
        (_, "run") => "it would undo this at once",
        _ => "it does not end",
    };
    CliError::Host(format!(
        "{holder} writes to this network namespace: {why}; nothing was done (stop it first; \
         --beside-run goes on all the same)"
    ))
}

/// Who else writes here, in words; `None` if nobody does, or it cannot be told.
#[must_use]
pub fn other() -> Option<String> {
    match look() {
        Ok(Place::Held(holder)) => Some(format!("{holder} keeps its own rules installed here")),
        Ok(Place::Free | Place::Squatted(_)) | Err(_) => None,
    }
}
