//! The plan for people: a line for what changes alike of one object.

use std::io;

use super::{Action, Kind, ObjectChange, Reason, Report, count, few};

/// Frontends that a line shows.
const MOST_FRONTENDS: usize = 4;

/// How a piece of text is marked, where that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// What comes.
    Add,
    /// What changes.
    Change,
    /// What goes.
    Remove,
    /// A heading.
    Heading,
}

/// What a plan is written on.
pub trait Page {
    /// Writes text as it is: it may hold others' text.
    ///
    /// # Errors
    /// Those of the writer.
    fn text(&mut self, text: &str) -> io::Result<()>;

    /// Writes text that is marked.
    ///
    /// # Errors
    /// Those of the writer.
    fn styled(&mut self, style: Style, text: &str) -> io::Result<()>;
}

/// A page without marks.
#[derive(Debug)]
pub struct Plain<W: io::Write>(pub W);

impl<W: io::Write> Page for Plain<W> {
    fn text(&mut self, text: &str) -> io::Result<()> {
        self.0.write_all(text.as_bytes())
    }

    fn styled(&mut self, _: Style, text: &str) -> io::Result<()> {
        self.text(text)
    }
}

/// Writes the plan; with `operations`, what the kernel is told under each object.
///
/// # Errors
/// Those of the page.
pub fn write(page: &mut impl Page, report: &Report<'_>, operations: bool) -> io::Result<()> {
    let mut foreign = false;
    for line in lines(&report.changes) {
        if line.reason == Reason::OtherProgram && !foreign {
            foreign = true;
            page.styled(Style::Heading, "changed by another program:")?;
            page.text("\n")?;
        }
        self::line(page, &line)?;
        for change in line.changes.iter().filter(|_| operations) {
            for step in &change.operations {
                for text in step.to_string().lines() {
                    page.text(&format!("      {text}\n"))?;
                }
            }
        }
    }
    Ok(())
}

/// Changes that are said in one line.
struct Line<'c, 'a> {
    changes: Vec<&'c ObjectChange<'a>>,
    kind: Kind,
    name: &'c str,
    object: Action,
    action: Action,
    reason: Reason,
    text: &'c str,
}

/// Of one object, what changes in the same way is one line.
fn lines<'c, 'a>(changes: &'c [ObjectChange<'a>]) -> Vec<Line<'c, 'a>> {
    let mut out: Vec<Line<'c, 'a>> = Vec::new();
    // Changes of an object are one after the other.
    let mut first = 0;
    for change in changes {
        let same_object =
            |line: &Line<'_, '_>| line.kind == change.kind && line.name == change.name;
        if out.last().is_none_or(|last| !same_object(last)) {
            first = out.len();
        }
        let known = out[first..].iter_mut().find(|line| {
            line.action == change.action && line.reason == change.reason && line.text == change.text
        });
        match known {
            Some(line) => line.changes.push(change),
            None => out.push(Line {
                changes: vec![change],
                kind: change.kind,
                name: &change.name,
                object: change.object,
                action: change.action,
                reason: change.reason,
                text: &change.text,
            }),
        }
    }
    out
}

fn line(page: &mut impl Page, line: &Line<'_, '_>) -> io::Result<()> {
    let style = match line.object {
        Action::Add => Style::Add,
        Action::Change => Style::Change,
        Action::Remove => Style::Remove,
    };
    page.styled(style, &line.object.sign().to_string())?;
    let mut words = vec![line.kind.label().to_owned()];
    match (line.kind, line.name) {
        (Kind::Service | Kind::Endpoints, "") => words.push("without a name".to_owned()),
        (_, "") => {}
        (_, name) => words.push(name.to_owned()),
    }
    if line.kind == Kind::Service {
        let mut frontends: Vec<String> = Vec::new();
        for key in line.changes.iter().filter_map(|change| change.frontend) {
            let key = key.to_string();
            // A node port is in the tables of both families.
            if !frontends.contains(&key) {
                frontends.push(key);
            }
        }
        // A Service that stays gets or loses a frontend.
        if line.action != line.object {
            words.push(line.action.sign().to_string());
        }
        words.push(few(&frontends, MOST_FRONTENDS));
    }
    page.text(&format!(" {}", words.join(" ")))?;
    if !line.text.is_empty() {
        page.text(&format!("  {}", line.text))?;
    }
    page.text("\n")
}

impl Report<'_> {
    /// How much it is, in one line.
    #[must_use]
    pub fn closing(&self) -> String {
        if self.is_empty() {
            return "nothing to change".to_owned();
        }
        let summary = self.summary();
        let mut parts = vec![format!(
            "{} to add, {} to change, {} to remove",
            summary.add, summary.change, summary.remove
        )];
        if summary.by_others > 0 {
            parts.push(format!("{} changed by another program", summary.by_others));
        }
        let counts = self.kernel;
        // A chain of which a rule changes is written whole.
        let kernel = [
            (counts.elements_added, "element", "added"),
            (counts.elements_deleted, "element", "deleted"),
            (counts.rules_added, "rule", "written"),
        ];
        let kernel: Vec<String> = kernel
            .into_iter()
            .filter(|(number, ..)| *number > 0)
            .map(|(number, noun, verb)| format!("{} {verb}", count(number, noun)))
            .collect();
        if !kernel.is_empty() {
            parts.push(format!("in the kernel {}", kernel.join(", ")));
        }
        if self.flows > 0 {
            parts.push(format!("{} cut", count(self.flows, "tracked flow")));
        }
        if self.clients > 0 {
            parts.push(format!(
                "{} forgotten",
                count(self.clients, "remembered client")
            ));
        }
        parts.join("; ")
    }
}
