//! How it went, as text and in the forms that test runners read.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::Found;
use super::args::VerifyFormat;
use crate::verify::{Check, Failure, Verdict, failures};

/// In one of the forms.
pub fn all(out: &mut impl Write, format: VerifyFormat, found: &[Found]) -> io::Result<()> {
    match format {
        VerifyFormat::Text => found.iter().try_for_each(|found| text(out, found)),
        VerifyFormat::Tap => tap(out, found),
        VerifyFormat::Junit => junit(out, found),
        VerifyFormat::Json => json(out, found),
    }
}

impl Found {
    fn failed(&self) -> usize {
        self.checks.iter().filter(|check| check.failed()).count()
    }

    fn skipped(&self) -> usize {
        let skipped = |check: &&Check| matches!(check.verdict, Verdict::Skipped(_));
        self.checks.iter().filter(skipped).count()
    }
}

/// What is otherwise or skipped, and a line for each file.
fn text(out: &mut impl Write, found: &Found) -> io::Result<()> {
    if found.checks.is_empty() {
        return Ok(());
    }
    write!(out, "{}", failures(&found.checks))?;
    for Check { at, name, verdict } in &found.checks {
        if let Verdict::Skipped(why) = verdict {
            writeln!(out, "{at}: {name}\n  skipped   {why}")?;
        }
    }
    let (file, all, failed) = (&found.file, found.checks.len(), found.failed());
    let tried = all - found.skipped();
    match failed {
        0 => writeln!(out, "{file}: {tried} of {all} as written"),
        _ => writeln!(out, "{file}: {failed} of {all} otherwise"),
    }
}

/// What YAML, XML and the rest have no trouble with: one line.
fn title(check: &Check) -> String {
    format!("{} {}", check.at, check.name)
}

fn tap(out: &mut impl Write, found: &[Found]) -> io::Result<()> {
    let checks: Vec<&Check> = found.iter().flat_map(|found| &found.checks).collect();
    writeln!(out, "TAP version 14\n1..{}", checks.len())?;
    for (number, check) in (1..).zip(checks) {
        // A hash would begin a directive.
        let title = title(check).replace('\\', "\\\\").replace('#', "\\#");
        match &check.verdict {
            Verdict::Passed => writeln!(out, "ok {number} - {title}")?,
            Verdict::Skipped(why) => writeln!(out, "ok {number} - {title} # SKIP {why}")?,
            Verdict::Failed(failure) => {
                writeln!(out, "not ok {number} - {title}\n  ---")?;
                // A string in JSON is one in YAML.
                for (key, text) in fields(failure) {
                    writeln!(out, "  {key}: {}", json!(text))?;
                }
                writeln!(out, "  ...")?;
            }
        }
    }
    Ok(())
}

fn fields(failure: &Failure) -> impl Iterator<Item = (&'static str, &str)> {
    let because = failure
        .because
        .as_deref()
        .map(|because| ("because", because));
    let both = [("expected", &*failure.expected), ("got", &*failure.got)];
    both.into_iter().chain(because)
}

fn junit(out: &mut impl Write, found: &[Found]) -> io::Result<()> {
    let sum = |count: fn(&Found) -> usize| found.iter().map(count).sum::<usize>();
    writeln!(
        out,
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <testsuites name=\"svcnat verify\" tests=\"{}\" failures=\"{}\" skipped=\"{}\">",
        sum(|found| found.checks.len()),
        sum(Found::failed),
        sum(Found::skipped)
    )?;
    for found in found {
        let (file, tests) = (escaped(&found.file), found.checks.len());
        let (failed, skipped) = (found.failed(), found.skipped());
        writeln!(
            out,
            "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failed}\" \
             skipped=\"{skipped}\">"
        )?;
        for check in &found.checks {
            let name = escaped(&title(check));
            write!(out, "    <testcase classname=\"{file}\" name=\"{name}\"")?;
            match &check.verdict {
                Verdict::Passed => writeln!(out, "/>")?,
                Verdict::Skipped(why) => {
                    writeln!(out, "><skipped message=\"{}\"/></testcase>", escaped(why))?
                }
                Verdict::Failed(failure) => {
                    let lines = fields(failure).map(|(key, text)| format!("{key}: {text}"));
                    let lines: Vec<String> = lines.collect();
                    writeln!(
                        out,
                        "><failure message=\"{}\">{}</failure></testcase>",
                        escaped(&format!("got {}", failure.got)),
                        escaped(&lines.join("\n"))
                    )?;
                }
            }
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

/// As text and in attributes of XML. Characters that XML does not take are no printable ones, and
/// are written as escapes on their way out.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

fn json(out: &mut impl Write, found: &[Found]) -> io::Result<()> {
    let check = |check: &Check| {
        let (verdict, failure, why) = match &check.verdict {
            Verdict::Passed => ("passed", None, None),
            Verdict::Skipped(why) => ("skipped", None, Some(why)),
            Verdict::Failed(failure) => ("failed", Some(failure), failure.because.as_ref()),
        };
        json!({
            "at": check.at,
            "name": check.name,
            "verdict": verdict,
            "expected": failure.map(|failure| &failure.expected),
            "got": failure.map(|failure| &failure.got),
            "because": why,
        })
    };
    let files: Vec<Value> = found
        .iter()
        .map(|found| {
            json!({
                "file": found.file,
                "failed": found.failed(),
                "skipped": found.skipped(),
                "checks": found.checks.iter().map(check).collect::<Vec<_>>(),
            })
        })
        .collect();
    let failed: usize = found.iter().map(Found::failed).sum();
    writeln!(out, "{}", json!({"failed": failed, "files": files}))
}
