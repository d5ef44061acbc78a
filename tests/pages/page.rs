//! What of a page is run: the commands of its `console` blocks, and comments that begin with
//! `run:`, which the reader does not see.

use std::ops::Range;

/// A fenced block.
pub struct Block<'t> {
    /// What stands behind the opening fence.
    pub info: &'t str,
    /// Number of its first line, from 0.
    pub start: usize,
    pub lines: Vec<&'t str>,
}

/// All fenced blocks of a page.
pub fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut out = Vec::new();
    let mut open: Option<Block<'_>> = None;
    for (number, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                open = Some(Block {
                    info,
                    start: number + 1,
                    lines: Vec::new(),
                });
            }
            (Some(_), Some(_)) => out.extend(open.take()),
            (None, Some(block)) => block.lines.push(line),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    out
}

/// A command.
#[derive(Debug)]
pub struct Step {
    /// Number of the line it is in, from 0.
    pub line: usize,
    /// The machine of the lab it is run on: `node1$ svcnat status`.
    pub place: Option<String>,
    pub command: String,
    /// What the page says it prints, and in which lines.
    pub expected: String,
    pub output: Range<usize>,
    /// In a comment: it must succeed, and what it prints is nobody's concern.
    pub hidden: bool,
}

impl Step {
    /// The file that it shows, if that is all it does.
    pub fn shows(&self) -> Option<&str> {
        let file = self.command.strip_prefix("cat ")?;
        (!file.contains(char::is_whitespace)).then_some(file)
    }

    pub fn in_background(&self) -> bool {
        self.command.trim_end().ends_with('&')
    }
}

/// The commands of a page, in their order.
pub fn steps(text: &str) -> Vec<Step> {
    let blocks = blocks(text).into_iter().filter(|b| b.info == "console");
    let mut out: Vec<Step> = blocks.flat_map(|block| commands(&block)).collect();
    out.extend(hidden(text));
    out.sort_by_key(|step| step.line);
    out
}

/// `$ command`, or `place$ command`.
fn prompt(line: &str) -> Option<(Option<String>, &str)> {
    let (place, command) = line.split_once("$ ")?;
    let is_name = place.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    is_name.then(|| (Some(place.to_owned()).filter(|p| !p.is_empty()), command))
}

fn commands(block: &Block<'_>) -> Vec<Step> {
    let mut out: Vec<Step> = Vec::new();
    for (number, line) in block.lines.iter().enumerate() {
        let number = block.start + number;
        if let Some((place, command)) = prompt(line) {
            out.push(Step {
                line: number,
                place,
                command: command.to_owned(),
                expected: String::new(),
                output: number + 1..number + 1,
                hidden: false,
            });
            continue;
        }
        let step = out.last_mut().expect("a console block begins with $");
        match line.strip_prefix("> ") {
            Some(more) if step.output.is_empty() => {
                step.command.push('\n');
                step.command.push_str(more);
                step.output = number + 1..number + 1;
            }
            _ => {
                step.expected.push_str(line);
                step.expected.push('\n');
                step.output.end = number + 1;
            }
        }
    }
    out
}

fn hidden(text: &str) -> Vec<Step> {
    let mut out = Vec::new();
    for (at, _) in text.match_indices("<!-- run:") {
        let rest = &text[at + "<!-- run:".len()..];
        let command = rest.split_once("-->").expect("a comment without an end").0;
        let line = text[..at].lines().count();
        out.push(Step {
            line,
            place: None,
            command: command.trim().to_owned(),
            expected: String::new(),
            output: 0..0,
            hidden: true,
        });
    }
    out
}

#[test]
fn commands_and_what_they_print_are_told_apart() {
    let page = "<!-- run: lab -->\n\n```console\n$ a b \\\n> c\nout\n\nmore\nnode1$ d &\n```\n\
                ```\n$ not this\n```\n";
    let steps = steps(page);
    let told: Vec<_> = steps
        .iter()
        .map(|s| (s.line, s.place.as_deref(), &*s.command, s.expected.clone()))
        .collect();
    assert_eq!(
        told,
        [
            (0, None, "lab", String::new()),
            (3, None, "a b \\\nc", "out\n\nmore\n".to_owned()),
            (8, Some("node1"), "d &", String::new()),
        ]
    );
    assert!(steps[2].in_background() && !steps[1].in_background());
}
