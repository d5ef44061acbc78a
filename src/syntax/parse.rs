//! From bytes to values: encodings, YAML and JSON, and hints at what a text is that is neither.

use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_saphyr::options::AliasLimits;
use serde_saphyr::{Budget, Options, Spanned};

/// Levels of a text in YAML; `serde_json` reads as many.
const MAX_DEPTH: usize = 128;

/// Where in a text, by line from 1, and what is wrong there.
pub type Fault = (usize, String);

/// The text in `bytes`, without a byte-order mark.
///
/// # Errors
/// If it is not UTF-8, with the name of what it is instead where that can be seen.
pub fn text(bytes: &[u8]) -> Result<&str, Fault> {
    if let Some(other) = encoding(bytes) {
        return Err((1, other.to_owned()));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(e) => {
            let before = &bytes[..e.valid_up_to()];
            let line = 1 + before.iter().filter(|b| **b == b'\n').count();
            let message = format!("is not UTF-8 text: byte {} is invalid", e.valid_up_to());
            Err((line, message))
        }
    }
}

/// What `bytes` are if not UTF-8, told by their first ones.
fn encoding(bytes: &[u8]) -> Option<&'static str> {
    const UTF16: &str = "is UTF-16 text, as PowerShell's > writes it; expected UTF-8 \
        (PowerShell: Out-File -Encoding utf8, elsewhere: iconv -f UTF-16 -t UTF-8)";
    match bytes {
        [0xff, 0xfe, 0, 0, ..] | [0, 0, 0xfe, 0xff, ..] => {
            Some("is UTF-32 text; expected UTF-8 (iconv -f UTF-32 -t UTF-8)")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some(UTF16),
        // Without a mark: an ASCII character and a zero, in either order.
        [0, b'\t'..=b'~', 0, b'\t'..=b'~', ..] | [b'\t'..=b'~', 0, b'\t'..=b'~', 0, ..] => {
            Some(UTF16)
        }
        [0x1f, 0x8b, ..] => Some("is compressed (gzip); expected text (gzip -dc)"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("is compressed (zstd); expected text (zstd -dc)"),
        [b'P', b'K', 3, 4, ..] => Some("is a zip archive; expected text"),
        _ => None,
    }
}

/// JSON is parsed as such: it is much faster, and all machine-made input is JSON.
///
/// # Errors
/// With the line in `text`.
pub fn value(text: &str) -> Result<Value, Fault> {
    if text.trim_start().starts_with('{') {
        return json(text).or_else(|e| {
            // Flow style YAML also starts with a brace.
            yaml(text).map_err(|_| (e.line(), json_message(&e)))
        });
    }
    yaml(text)
}

/// Reads one JSON value; a field that is there twice is an error, as in YAML.
pub fn json(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str::<Unique>(text).map(|Unique(value)| value)
}

/// A value whose objects have each field once: of two, nobody can say which was meant.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
                let mut items = Vec::new();
                while let Some(Unique(item)) = list.next_element()? {
                    items.push(item);
                }
                Ok(items.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
                let mut fields = serde_json::Map::new();
                while let Some(key) = map.next_key::<String>()? {
                    if fields.contains_key(&key) {
                        return Err(A::Error::custom(format!("duplicate mapping key: {key}")));
                    }
                    let Unique(value) = map.next_value()?;
                    fields.insert(key, value);
                }
                Ok(fields.into())
            }
        }

        deserializer.deserialize_any(Any).map(Self)
    }
}

/// What is wrong with a JSON text, without the place.
pub fn json_message(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let message = text.rsplit_once(" at line ").map_or(&*text, |(m, _)| m);
    format!("malformed JSON: {message}")
}

/// Reads one YAML document.
///
/// # Errors
/// With the line in `text`.
pub fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, Fault> {
    serde_saphyr::from_str_with_options(text, options(text.len())).map_err(|e| {
        let line = e
            .location()
            .map_or(1, |l| usize::try_from(l.line()).unwrap_or(1));
        (line, yaml_message(e.without_snippet()))
    })
}

/// What serde says of a value of another type, in words of the format and not of this program.
pub fn expectation(message: &str) -> String {
    // Where in a text that was: the field says it better.
    let message = match message.rsplit_once(" at line ") {
        Some((before, place)) if !place.contains(['"', '`']) => before,
        _ => message,
    };
    match message.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected an object"),
        None => message
            .replace("expected i64", "expected a whole number")
            .replace("expected a sequence", "expected a list")
            .replace("expected a boolean", "expected true or false"),
    }
}

/// A List in YAML, its items as JSON texts: their trees at once would take twenty times the
/// memory of the text. `None` if `text` is not one, or not a good one.
pub fn yaml_list(text: &str) -> Option<YamlList> {
    let is_list = |line: &str| {
        let kind = line
            .strip_prefix("kind:")
            .map(|rest| rest.trim_matches([' ', '"', '\'', '\r']));
        kind.is_some_and(|kind| kind.ends_with("List"))
    };
    if !text.lines().any(is_list) {
        return None;
    }
    yaml(text).ok()
}

/// What [`yaml_list`] found.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct YamlList {
    /// Kind of the list.
    pub kind: String,
    /// Its version.
    pub api_version: Option<String>,
    /// Its items.
    pub items: Option<Items>,
}

/// Items as JSON texts, each with its line from 1.
#[derive(Debug, Default)]
pub struct Items(pub Vec<(usize, Box<str>)>);

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct One;

        impl<'de> Visitor<'de> for One {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of objects")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Items, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = list.next_element::<Spanned<Value>>()? {
                    let line = usize::try_from(item.referenced.line()).unwrap_or(1);
                    items.push((line, item.value.to_string().into_boxed_str()));
                }
                Ok(Items(items))
            }
        }

        deserializer.deserialize_seq(One)
    }
}

/// The library's limits guard against small texts that grow: aliases of aliases. A text as
/// such has at most as many nodes as bytes, and may be as large as it is.
fn options(bytes: usize) -> Options {
    let defaults = Budget::default();
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_nodes: defaults.max_nodes.max(bytes),
            max_events: defaults.max_events.max(bytes.saturating_mul(3)),
            max_total_scalar_bytes: defaults.max_total_scalar_bytes.max(bytes),
            max_total_comment_bytes: defaults.max_total_comment_bytes.max(bytes),
            max_depth: MAX_DEPTH,
        },
        alias_limits: AliasLimits::default(),
    }
}

/// The library's message without the place, and without its own settings.
fn yaml_message(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let message = text.split(" at line ").next().unwrap_or_default();
    if message.starts_with("budget breached: Depth") {
        return format!("malformed YAML: is nested deeper than {MAX_DEPTH} levels");
    }
    if message.starts_with("budget breached") || message.starts_with("alias replay") {
        return "malformed YAML: aliases make it grow beyond what is read; without aliases, or \
            as JSON, there is no such limit"
            .to_owned();
    }
    if message.starts_with("cannot deserialize null into string") {
        return "malformed YAML: a key is null; expected text".to_owned();
    }
    let message = message.split(", set DuplicateKeyPolicy").next();
    format!("malformed YAML: {}", message.unwrap_or_default())
}

/// A hint if `text`, of which something is wrong, is not a manifest but what one is made from.
/// Braces inside texts are no sign of that.
pub fn template(text: &str) -> Option<&'static str> {
    let starts = |open: &str| {
        let value = format!(": {open}");
        let item = format!("- {open}");
        text.lines()
            .map(str::trim_start)
            .any(|line| line.starts_with(open) || line.starts_with(&item) || line.contains(&value))
    };
    if starts("{{") {
        Some("this is a template: render it first (helm template)")
    } else if starts("{%") {
        Some("this is a template (Jinja): render it first")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_other_encodings_are_named() {
        let utf16: Vec<u8> = "\u{feff}kind"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let big: Vec<u8> = "\u{feff}kind"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        for bytes in [&utf16[..], &big, &utf16[2..], &big[2..]] {
            assert!(
                text(bytes).is_err_and(|(_, m)| m.contains("UTF-16")),
                "{bytes:?}"
            );
        }
        assert!(text(&[0x1f, 0x8b, 8]).is_err_and(|(_, m)| m.contains("gzip")));
        assert_eq!(text(b"\xef\xbb\xbfkind"), Ok("kind"));
        assert!(text(b"a\n\xff").is_err_and(|(line, _)| line == 2));
    }

    #[test]
    fn messages_have_no_place_of_their_own() {
        for bad in [
            "a: [\n",
            "a:\n\tb: 1\n",
            "a: *x\n",
            "a: 1\na: 2\n",
            "{\"a\": [}",
        ] {
            let (_, message) = value(bad).unwrap_err();
            assert!(!message.contains("line "), "{bad:?}: {message}");
            assert!(!message.contains("Policy"), "{message}");
        }
    }

    #[test]
    fn templates_are_told_from_texts_with_braces() {
        for yes in [
            "{{- if .x }}\nkind: A\n{{- end }}",
            "name: {{ .n }}",
            "- {{ .n }}",
            "{% if x %}",
        ] {
            assert!(template(yes).is_some(), "{yes}");
        }
        for no in [
            "a: \"{{ $labels.pod }}\"",
            "a: x {{ y }}",
            "a: {b: {c: d}}",
            "{\"a\": {}}",
        ] {
            assert!(template(no).is_none(), "{no}");
        }
    }

    #[test]
    fn a_document_may_have_as_many_nodes_as_it_has_room_for() {
        let many: Value = value(&"- a\n".repeat(400_000)).unwrap();
        assert_eq!(many.as_array().map(Vec::len), Some(400_000));
    }

    #[test]
    fn aliases_of_aliases_are_refused_in_words() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for i in 1..9 {
            let of = format!("*a{}", i - 1);
            bomb += &format!("a{i}: &a{i} [{}]\n", [&*of; 10].join(","));
        }
        // A large text around it does not make room for it.
        bomb += &format!("pad: \"{}\"\n", "x".repeat(3 << 20));
        let (_, message) = value(&bomb).unwrap_err();
        assert!(message.contains("aliases"), "{message}");
    }
}
