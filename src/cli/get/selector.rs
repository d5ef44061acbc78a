//! Label selectors, as kubectl writes them.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Requirements on labels, all of which must be met; without any, everything is selected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    /// `=`, `==`, `in`.
    In(BTreeSet<String>),
    /// `!=`, `notin`: met where the label is absent, too.
    NotIn(BTreeSet<String>),
}

impl Selector {
    /// True if labels meet every requirement.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| {
            let value = labels.get(&requirement.key);
            match &requirement.test {
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = Rest(tokens(text));
        let mut requirements = Vec::new();
        if rest.peek().is_none() {
            return Ok(Self::default());
        }
        loop {
            requirements.push(requirement(&mut rest)?);
            match rest.take() {
                None => return Ok(Self(requirements)),
                Some(",") => {}
                Some(other) => return Err(unexpected(Some(other), "a comma or the end")),
            }
        }
    }
}

/// What is still to be read, the next token last.
struct Rest<'t>(Vec<&'t str>);

impl<'t> Rest<'t> {
    fn peek(&self) -> Option<&'t str> {
        self.0.last().copied()
    }

    fn take(&mut self) -> Option<&'t str> {
        self.0.pop()
    }
}

const SIGNS: [char; 7] = ['(', ')', ',', '!', '=', '<', '>'];

/// Words and signs, the first last.
fn tokens(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let mut text = text.trim_start();
    while !text.is_empty() {
        let length = if ["==", "!="].iter().any(|sign| text.starts_with(sign)) {
            2
        } else {
            match text.find(|c: char| SIGNS.contains(&c) || c.is_whitespace()) {
                Some(0) => 1,
                Some(end) => end,
                None => text.len(),
            }
        };
        out.push(&text[..length]);
        text = text[length..].trim_start();
    }
    out.reverse();
    out
}

fn unexpected(found: Option<&str>, expected: &str) -> String {
    match found {
        Some(found) => format!("found {found:?}; expected {expected}"),
        None => format!("ends early; expected {expected}"),
    }
}

fn requirement(rest: &mut Rest<'_>) -> Result<Requirement, String> {
    let absent = rest.peek() == Some("!");
    if absent {
        rest.take();
    }
    let key = key(rest.take())?;
    if absent {
        let test = Test::Absent;
        return Ok(Requirement { key, test });
    }
    let test = match rest.peek() {
        None | Some(",") => Test::Exists,
        Some(sign @ ("=" | "==" | "!=")) => {
            rest.take();
            // Nothing is the empty value.
            let value = match rest.peek() {
                None | Some(",") => String::new(),
                _ => value(rest.take())?,
            };
            let values = BTreeSet::from([value]);
            match sign {
                "!=" => Test::NotIn(values),
                _ => Test::In(values),
            }
        }
        Some("in") => {
            rest.take();
            Test::In(values(rest)?)
        }
        Some("notin") => {
            rest.take();
            Test::NotIn(values(rest)?)
        }
        other => return Err(unexpected(other, "=, ==, !=, in, notin or a comma")),
    };
    Ok(Requirement { key, test })
}

/// `(a,b)`.
fn values(rest: &mut Rest<'_>) -> Result<BTreeSet<String>, String> {
    let open = rest.take();
    if open != Some("(") {
        return Err(unexpected(open, "values in parentheses"));
    }
    if rest.peek() == Some(")") {
        return Err(unexpected(rest.peek(), "a label's value"));
    }
    let mut out = BTreeSet::new();
    loop {
        let next = match rest.peek() {
            // Nothing is the empty value.
            Some("," | ")") => String::new(),
            _ => value(rest.take())?,
        };
        out.insert(next);
        match rest.take() {
            Some(",") => {}
            Some(")") => return Ok(out),
            other => return Err(unexpected(other, "a comma or )")),
        }
    }
}

/// Letters, digits and some signs between them, as labels have them; at most 63 (RFC 1123).
fn is_word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inner)
        && outer(text.chars().next())
        && outer(text.chars().next_back())
}

fn key(found: Option<&str>) -> Result<String, String> {
    let is_key = |text: &&str| match text.split_once('/') {
        Some((domain, name)) => {
            let parts = || domain.split('.');
            domain.len() <= 253 && parts().all(is_word) && is_word(name)
        }
        None => is_word(text),
    };
    match found.filter(is_key) {
        Some(key) => Ok(key.to_owned()),
        None => Err(unexpected(
            found,
            "a label's key, such as app or example.com/app",
        )),
    }
}

fn value(found: Option<&str>) -> Result<String, String> {
    match found.filter(|text| is_word(text)) {
        Some(value) => Ok(value.to_owned()),
        None => Err(unexpected(found, "a label's value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_kubectl_selects_is_selected() {
        let web = labels(&[("app", "web"), ("tier", ""), ("example.com/team", "a-1")]);
        for (text, expected) in [
            ("", true),
            ("  ", true),
            ("app=web", true),
            ("app==web", true),
            (" app = web ", true),
            ("app=db", false),
            ("other=web", false),
            ("app!=web", false),
            ("app!=db", true),
            // What is absent is not this.
            ("other!=web", true),
            ("app in (web,db)", true),
            ("app in ( db , web )", true),
            ("app in (db)", false),
            ("other in (web)", false),
            ("app notin (web)", false),
            ("app notin (db,x)", true),
            ("other notin (web)", true),
            ("app", true),
            ("other", false),
            ("!other", true),
            ("! app", false),
            ("tier=", true),
            ("tier in (,x)", true),
            ("app=,tier=", false),
            ("example.com/team=a-1,app", true),
            ("app=web,!tier", false),
            ("app in (web),tier,example.com/team notin (b)", true),
            // Words that are operators elsewhere.
            ("!in", true),
            ("in=x", false),
            ("notin notin (x)", true),
        ] {
            let selector: Selector = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(selector.selects(&web), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_selector_is_refused_with_what_was_expected() {
        for (text, expected) in [
            (",", "a label's key"),
            ("app,", "ends early; expected a label's key"),
            ("app=web,,tier", "found \",\""),
            ("app web", "found \"web\"; expected =, ==, !=, in, notin"),
            ("app in web", "values in parentheses"),
            ("app in (web", "a comma or )"),
            ("app in ()", "found \")\"; expected a label's value"),
            ("app in", "ends early; expected values"),
            ("app>1", "found \">\""),
            ("app=web db", "a comma or the end"),
            ("!app=web", "a comma or the end"),
            ("-app", "a label's key"),
            ("/app", "a label's key"),
            ("a/b/c=1", "a label's key"),
            ("app=we/b", "a label's value"),
            ("app=\u{202e}", "a label's value"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(format!("a={}", "x".repeat(64)).parse::<Selector>().is_err());
        assert!(format!("a={}", "x".repeat(63)).parse::<Selector>().is_ok());
    }
}
