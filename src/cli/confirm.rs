//! `svcnat confirm`: what `apply --confirm` installed is to stay.

use std::io::Write;

use jiff::Timestamp;

use super::error::CliError;
use super::guardian;
use crate::text::Printable;
use crate::undo::Folder;

pub fn run(out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    let folder = Folder::here().map_err(|error| CliError::Host(error.to_string()))?;
    let answer = guardian::confirm(&folder)
        .map_err(|error| CliError::Host(format!("the guardian cannot be told: {error}")))?;
    let Some(answer) = answer else {
        return Err(CliError::Host(nobody(&folder)?));
    };
    match answer.split_once(' ').unwrap_or((&answer, "")) {
        ("kept", summary) => {
            writeln!(out, "confirmed: what was applied stays ({summary})")?;
            Ok(0)
        }
        ("busy", _) => Err(CliError::Host(
            "nothing to confirm yet: the installation is under way".to_owned(),
        )),
        _ => Err(CliError::Host(
            "the guardian did not confirm it: too late, or its record cannot be written".to_owned(),
        )),
    }
}

/// Why there is nobody to tell, as far as it is known.
fn nobody(folder: &Folder) -> Result<String, CliError> {
    let record = folder
        .last()
        .map_err(|error| CliError::Host(error.to_string()))?;
    let last = folder.last_log();
    let last = last.map_or_else(String::new, |line| format!("; the last guardian: {line}"));
    let waiting = record.and_then(|record| record.waiting);
    Ok(match waiting.filter(|waiting| !waiting.is_alive()) {
        None => format!("nobody waits for a confirmation in this network namespace{last}"),
        Some(waiting) => format!(
            "nobody waits any more: the guardian (process {}) ended before its time, {}, without \
             putting anything back; what was applied is still there, and `svcnat rollback` leads \
             back{last}",
            waiting.pid,
            Timestamp::from_second(waiting.until)
                .map_or_else(|_| "unknown".to_owned(), |until| format!("{until:.0}")),
        ),
    })
}
