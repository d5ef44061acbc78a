//! Comments: names from the cluster made safe to stand in a ruleset.
//!
//! nft 1.0.6 knows no escape inside a quoted string, so a quote or a newline in a comment
//! would end it; and it refuses comments of more than 128 bytes. Names are untrusted text.

use std::sync::Arc;

/// The longest comment nft accepts, in bytes, without the NUL.
pub const MAX_LEN: usize = 127;

/// `text` with every character that could end a quoted string, or that a terminal would
/// act on, replaced by `?`, cut to [`MAX_LEN`] bytes with `~` as the sign of the cut.
#[must_use]
pub fn clean(text: &str) -> Arc<str> {
    let harmless = |b: u8| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\');
    if text.len() <= MAX_LEN && text.bytes().all(harmless) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len().min(MAX_LEN));
    for c in text.chars() {
        let c = if c.is_control()
            || matches!(c, '"' | '\\')
            || !(c.is_ascii() || c.is_alphanumeric())
        {
            '?'
        } else {
            c
        };
        if out.len() + c.len_utf8() > MAX_LEN {
            while out.len() > MAX_LEN - 1 {
                out.pop();
            }
            out.push('~');
            break;
        }
        out.push(c);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_newlines_and_escapes_do_not_survive() {
        assert_eq!(&*clean("a\"b\nc}d\u{1b}[0m"), "a?b?c}d?[0m");
    }

    #[test]
    fn long_names_are_cut_and_marked() {
        let cut = clean(&"x".repeat(300));
        assert_eq!(cut.len(), MAX_LEN);
        assert!(cut.ends_with('~'));
        assert!(clean(&"é".repeat(300)).len() <= MAX_LEN);
    }
}
