//! Text of others: what is safe to show of it, and which known word it is nearest to.
//!
//! Names, port names, labels and annotations come from a cluster and may hold anything. A
//! terminal acts on control characters, and marks of writing direction show text in another
//! order than it is in: none of them is ever printed raw.

pub mod comment;

use std::borrow::Cow;
use std::io::{self, Write};

/// True for characters that may be printed as they are. Those that may not are control
/// characters, format characters (category Cf: U+200B to U+200F, U+202A to U+202E, U+2066 to
/// U+2069, U+FEFF and the like), line and paragraph separators, blanks other than a space,
/// combining marks, and what is not assigned.
fn is_printable(c: char) -> bool {
    match c {
        ' '..='~' => true,
        // The standard library's tables: its escape is one character for what it prints.
        _ => c.escape_debug().len() == 1,
    }
}

/// `text` with every character that is not printable written as JSON writes it: `\u202e`.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_printable) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        push(&mut out, c);
    }
    Cow::Owned(out)
}

/// The same, cut to `most` characters with a sign of the cut.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let shown = printable(text);
    match shown.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown.into_owned(),
    }
}

fn push(out: &mut String, c: char) {
    if is_printable(c) {
        out.push(c);
        return;
    }
    for unit in c.encode_utf16(&mut [0; 2]) {
        out.push_str(&format!("\\u{unit:04x}"));
    }
}

/// A writer that lets through only printable text, line ends and tabs; the rest is escaped as
/// in [`printable`], which is right inside JSON strings as well.
#[derive(Debug)]
pub struct Printable<W: Write> {
    inner: W,
    /// The start of a character whose other bytes are still to come.
    pending: Vec<u8>,
}

impl<W: Write> Printable<W> {
    /// Writes to `inner`.
    pub const fn new(inner: W) -> Self {
        Self {
            inner,
            pending: Vec::new(),
        }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        let kept = |c: char| is_printable(c) || matches!(c, '\n' | '\t');
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| !kept(*c)) {
            self.inner.write_all(&rest.as_bytes()[..at])?;
            let mut escaped = String::new();
            push(&mut escaped, c);
            self.inner.write_all(escaped.as_bytes())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.inner.write_all(rest.as_bytes())
    }

    /// The writer it writes to.
    pub fn into_inner(self) -> W {
        self.inner
    }

    /// Writes codes that a terminal acts on: never anything but this program's own.
    ///
    /// # Errors
    /// Those of the inner writer.
    pub fn codes(&mut self, codes: &str) -> io::Result<()> {
        self.inner.write_all(codes.as_bytes())
    }

    /// Writes what is complete of `bytes`, and keeps the start of a character at their end.
    fn bytes(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        loop {
            match std::str::from_utf8(bytes) {
                Ok(text) => return self.text(text),
                Err(e) => {
                    let (good, rest) = bytes.split_at(e.valid_up_to());
                    self.text(std::str::from_utf8(good).unwrap_or_default())?;
                    match e.error_len() {
                        Some(len) => {
                            self.inner.write_all("\u{fffd}".as_bytes())?;
                            bytes = &rest[len..];
                        }
                        None => {
                            self.pending = rest.to_vec();
                            return Ok(());
                        }
                    }
                }
            }
        }
    }
}

impl<W: Write> Write for Printable<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let plain = |b: &u8| matches!(b, b' '..=b'~' | b'\n' | b'\t');
        if self.pending.is_empty() && bytes.iter().all(plain) {
            self.inner.write_all(bytes)?;
        } else if self.pending.is_empty() {
            self.bytes(bytes)?;
        } else {
            let mut all = std::mem::take(&mut self.pending);
            all.extend_from_slice(bytes);
            self.bytes(&all)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The one of `known` that `word` was probably meant to be: another spelling in upper and
/// lower case, a plural, or a slip of the hand.
#[must_use]
pub fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let lower = word.to_lowercase();
    // Longer words have room for more slips.
    let most = match lower.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        6..=11 => 2,
        _ => 3,
    };
    known
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| {
            (
                strsim::osa_distance(&lower, &candidate.to_lowercase()),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `; did you mean X?`, or nothing if there is no such X.
#[must_use]
pub fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_terminals_act_on_is_escaped() {
        for bad in [
            '\u{0}',
            '\u{1b}',
            '\u{7f}',
            '\u{9b}',
            '\u{ad}',
            '\u{200b}',
            '\u{200f}',
            '\u{202a}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2066}',
            '\u{2069}',
            '\u{feff}',
            '\u{061c}',
            '\u{e0001}',
            '\n',
            '\t',
            '\u{a0}',
        ] {
            let shown = printable(&format!("a{bad}b")).into_owned();
            assert!(
                shown.is_ascii() && shown.starts_with("a\\u"),
                "{bad:?}: {shown}"
            );
        }
        for good in ["plain", "Grüße", "日本語", "a\"b'c\\d", "…→"] {
            assert!(matches!(printable(good), Cow::Borrowed(_)), "{good}");
        }
    }

    #[test]
    fn escapes_are_right_in_json() {
        let value = serde_json::json!({"name": "a\u{202e}b\u{1b}\u{e0001}"});
        let mut out = Printable::new(Vec::new());
        write!(out, "{value}").unwrap();
        let text = String::from_utf8(out.inner).unwrap();
        assert!(text.is_ascii(), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[test]
    fn a_character_may_come_in_two_writes() {
        for text in ["a\u{202e}b", "Grüße", "日本"] {
            for cut in 0..=text.len() {
                let mut out = Printable::new(Vec::new());
                let (one, two) = text.as_bytes().split_at(cut);
                out.write_all(one).unwrap();
                out.write_all(two).unwrap();
                assert_eq!(String::from_utf8(out.inner).unwrap(), printable(text));
            }
        }
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        let known = ["clusterIP", "clusterIPs", "externalIPs", "type", "selector"];
        assert_eq!(nearest("clusterIp", known), Some("clusterIP"));
        assert_eq!(nearest("externalIps", known), Some("externalIPs"));
        assert_eq!(nearest("selectr", known), Some("selector"));
        assert_eq!(nearest("replicas", known), None);
        assert_eq!(nearest("x", known), None);
    }
}
