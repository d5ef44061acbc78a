//! What is no result goes to standard error, each piece by one write: two programs that share
//! a terminal or a file do not mix within a line. Nobody may be there to read it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::problem::{Problem, Severity};
use crate::progress::Progress;
use crate::text::printable;

/// Whether errors alone are said (`--quiet`).
static QUIET: AtomicBool = AtomicBool::new(false);

/// From now on, nothing but errors is said, and no progress shown.
pub fn errors_only() {
    QUIET.store(true, Ordering::Relaxed);
    Progress::never();
}

/// Says what is no error.
pub fn say(text: &str) {
    if !QUIET.load(Ordering::Relaxed) {
        fail(text);
    }
}

/// Writes whole lines to standard error; what of them is others' text may hold anything.
pub fn fail(text: &str) {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    // There is nowhere left to complain to.
    let _ = std::io::stderr().write_all(lines.join("\n").as_bytes());
}

/// Prints problems, the worst last.
pub fn report(problems: &[Problem]) {
    let least = if QUIET.load(Ordering::Relaxed) {
        Severity::Error
    } else {
        Severity::Notice
    };
    let mut sorted: Vec<&Problem> = problems.iter().filter(|p| p.severity >= least).collect();
    sorted.sort();
    let lines: String = sorted
        .iter()
        .map(|problem| format!("{}\n", said_once(&problem.to_string())))
        .collect();
    fail(&lines);
}

/// A line that begins with `error:`, without the same in its midst: libraries and nested errors
/// begin theirs so.
#[must_use]
pub fn said_once(text: &str) -> String {
    text.replace(": error: ", ": ")
}

/// `1 route`, `2 routes`.
#[must_use]
pub fn count(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("{number} {noun}")
    } else {
        format!("{number} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_called_one_once() {
        let text = "error: a.yaml: malformed YAML: error: line 1: unclosed bracket";
        let once = "error: a.yaml: malformed YAML: line 1: unclosed bracket";
        assert_eq!(said_once(text), once);
        let two = "error: one\nerror: two";
        assert_eq!(said_once(two), two);
    }

    #[test]
    fn one_is_singular_and_all_others_are_plural() {
        assert_eq!(count(0, "route"), "0 routes");
        assert_eq!(count(1, "route"), "1 route");
        assert_eq!(count(2, "route"), "2 routes");
    }
}
