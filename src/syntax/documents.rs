//! Cuts a text into its documents, without parsing them.
//!
//! YAML forbids `---` and `...` at the start of a line anywhere but between documents, even
//! in quoted and literal text, and JSON cannot have them there at all. So the cut is exact,
//! one malformed document does not take the others with it, and each is parsed on its own.

/// One document of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Document<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its number in the source, from 1; documents without content are not counted.
    pub number: usize,
    /// The line its text starts at, from 1.
    pub line: usize,
}

/// The documents of `text` that have content.
pub fn documents(text: &str) -> impl Iterator<Item = Document<'_>> {
    let mut chunks = Chunks {
        rest: Some(text.strip_prefix('\u{feff}').unwrap_or(text)),
        line: 1,
    };
    let mut number = 0;
    std::iter::from_fn(move || {
        let (text, line) = chunks.by_ref().find(|(text, _)| has_content(text))?;
        number += 1;
        let (text, line) = skip_blank_lines(text, line);
        // Files that were put together bring their byte-order marks with them.
        let text = text.trim_start_matches('\u{feff}');
        Some(Document { text, number, line })
    })
}

/// The pieces between marker lines, empty ones included.
struct Chunks<'a> {
    rest: Option<&'a str>,
    line: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = (&'a str, usize);

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let start = self.line;
        let mut at = 0;
        for line in rest.split_inclusive('\n') {
            let end = at + line.len();
            match marker(line) {
                // A marker with content after it opens a document: it stays with it.
                Some(content) if at > 0 && content => {
                    self.rest = Some(&rest[at..]);
                    return Some((&rest[..at], start));
                }
                Some(false) => {
                    self.line += 1;
                    self.rest = Some(&rest[end..]);
                    return Some((&rest[..at], start));
                }
                _ => {}
            }
            self.line += 1;
            at = end;
        }
        Some((rest, start))
    }
}

/// Whether `line` is a document marker, and if so whether content follows on it.
fn marker(line: &str) -> Option<bool> {
    let line = line.trim_start_matches('\u{feff}');
    let after = line
        .strip_prefix("---")
        .or_else(|| line.strip_prefix("..."))?;
    let content = after.trim();
    (content.is_empty() || after.starts_with([' ', '\t']))
        .then(|| !content.is_empty() && !content.starts_with('#'))
}

/// Whether anything but blanks, comments and YAML directives is in `text`.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        !line.starts_with('%') && {
            let line = line.trim_start();
            !line.is_empty() && !line.starts_with('#')
        }
    })
}

/// `text` from its first line that is not blank, and the number of that line.
fn skip_blank_lines(mut text: &str, mut line: usize) -> (&str, usize) {
    while let Some((first, rest)) = text.split_once('\n') {
        if !first.trim().is_empty() {
            break;
        }
        text = rest;
        line += 1;
    }
    (text, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<(&str, usize, usize)> {
        documents(text)
            .map(|d| (d.text, d.number, d.line))
            .collect()
    }

    #[test]
    fn markers_separate_documents() {
        assert_eq!(
            cut("a: 1\n---\nb: 2\n--- # two\n\nc: 3"),
            [("a: 1\n", 1, 1), ("b: 2\n", 2, 3), ("c: 3", 3, 6)]
        );
    }

    #[test]
    fn documents_without_content_are_not_counted() {
        assert_eq!(
            cut("\u{feff}# head\r\n---\r\n\r\n---\r\n%YAML 1.2\r\n---\r\na: 1\r\n...\r\n# end"),
            [("a: 1\r\n", 1, 7)]
        );
        assert_eq!(cut(""), []);
    }

    #[test]
    fn byte_order_marks_of_files_put_together_are_no_content() {
        assert_eq!(
            cut("\u{feff}a: 1\n\u{feff}---\nb: 1\n---\n\u{feff}c: 1\n"),
            [("a: 1\n", 1, 1), ("b: 1\n", 2, 3), ("c: 1\n", 3, 5)]
        );
    }

    #[test]
    fn content_on_the_marker_line_belongs_to_the_document() {
        assert_eq!(
            cut("--- {a: 1}\n--- !x\nb: 1\n"),
            [("--- {a: 1}\n", 1, 1), ("--- !x\nb: 1\n", 2, 2)]
        );
    }

    #[test]
    fn dashes_inside_lines_and_text_do_not_separate() {
        assert_eq!(cut("a: |\n  ---\n---x: 1\n").len(), 1);
    }
}
