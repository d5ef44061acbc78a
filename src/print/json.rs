//! The ruleset as JSON in libnftables' schema: what `nft -j list ruleset` says of it, less
//! the handles.

use std::io::{self, Write};

use serde_json::{Value as Json, json};

use super::text::{self, Range};
use crate::ruleset::{
    Action, Chain, ClassId, DataType, Element, ElementData, Family, FieldValue, Match, Rule,
    Ruleset, Selector, Set, SetData, SetKind, Statement, TABLE, TABLE_COMMENT, Table, Value,
};

/// Writes the ruleset as one JSON document, an object per line.
///
/// # Errors
/// Those of the writer.
pub fn ruleset(out: &mut impl Write, ruleset: &Ruleset) -> io::Result<()> {
    out.write_all(b"{\"nftables\": [\n")?;
    write!(out, "{}", json!({"metainfo": {"json_schema_version": 1}}))?;
    for table in ruleset.tables.values() {
        for object in objects(table) {
            write!(out, ",\n{object}")?;
        }
    }
    out.write_all(b"\n]}\n")
}

/// The objects of a table in listing order: table, sets, chains, rules.
fn objects(table: &Table) -> impl Iterator<Item = Json> {
    let family = table.family;
    let head = json!({"table": {
        "family": family.nft_name(), "name": TABLE, "comment": TABLE_COMMENT,
    }});
    std::iter::once(head)
        .chain(table.sets.values().map(move |s| set(family, s)))
        .chain(table.chains.iter().map(move |c| chain(family, c)))
        .chain(table.chains.iter().flat_map(move |c| {
            c.rules.iter().map(move |r| {
                json!({"rule": {
                    "family": family.nft_name(), "table": TABLE, "chain": c.name,
                    "expr": rule(family, r),
                }})
            })
        }))
}

fn chain(family: Family, chain: &Chain) -> Json {
    let mut object = json!({"family": family.nft_name(), "table": TABLE, "name": chain.name});
    if !chain.comment.is_empty() {
        object["comment"] = json!(chain.comment);
    }
    if let Some(base) = chain.base {
        object["type"] = json!(base.chain_type.nft_name());
        object["hook"] = json!(base.hook.nft_name());
        object["prio"] = json!(base.priority);
        object["policy"] = json!("accept");
    }
    json!({ "chain": object })
}

fn set(family: Family, set: &Set) -> Json {
    let mut object = json!({"family": family.nft_name(), "name": set.name, "table": TABLE});
    if !set.comment.is_empty() {
        object["comment"] = json!(set.comment);
    }
    let names: Vec<&str> = set.key.iter().map(|t| t.nft_name()).collect();
    object["type"] = match names[..] {
        [one] => json!(one),
        _ => json!(names),
    };
    let keyword = match &set.data {
        SetData::None => "set",
        SetData::Verdict => {
            object["map"] = json!("verdict");
            "map"
        }
        SetData::Fields(fields) => {
            let fields: Vec<&str> = fields.iter().map(|t| t.nft_name()).collect();
            object["map"] = json!(fields.join(" . "));
            "map"
        }
    };
    match set.kind {
        SetKind::Exact => {}
        SetKind::Interval => object["flags"] = json!(["interval"]),
        SetKind::Dynamic { size, timeout } => {
            object["size"] = json!(size);
            // libnftables has no word for `dynamic` in a listing.
            object["flags"] = json!(["timeout"]);
            object["timeout"] = json!(timeout);
        }
    }
    if set.counted {
        object["stmt"] = json!([{"counter": null}]);
    }
    if !set.elements.is_empty() {
        object["elem"] = set
            .elements
            .iter()
            .map(|(key, element)| self::element(set, key, element))
            .collect();
    }
    json!({ keyword: object })
}

/// One element as it stands in `elem`.
#[must_use]
pub fn element(set: &Set, key: &Value, element: &Element) -> Json {
    let mut left = self::key(&set.key, key, element.end.as_deref());
    if let Some(comment) = &element.comment {
        left = json!({"elem": {"val": left, "comment": &**comment}});
    }
    match &element.data {
        ElementData::None => left,
        ElementData::Goto(chain) => json!([left, {"goto": {"target": chain}}]),
        ElementData::Value(value) => {
            let schema = match &set.data {
                SetData::Fields(schema) => schema.as_slice(),
                SetData::None | SetData::Verdict => &[],
            };
            json!([left, self::key(schema, value, None)])
        }
    }
}

fn key<const N: usize>(schema: &[DataType], key: &Value<N>, end: Option<&Value<N>>) -> Json {
    let from = key.fields(schema).unwrap_or_default();
    let to = end.and_then(|end| end.fields(schema));
    let mut fields: Vec<Json> = from
        .iter()
        .enumerate()
        .map(|(i, from)| match to.as_ref().and_then(|to| to.get(i)) {
            Some(to) if to != from => match (Range { from, to }).prefix_len() {
                Some(len) => json!({"prefix": {"addr": field(from), "len": len}}),
                None => json!({"range": [field(from), field(to)]}),
            },
            _ => field(from),
        })
        .collect();
    match fields.len() {
        1 => fields.remove(0),
        _ => json!({ "concat": fields }),
    }
}

fn field(value: &FieldValue) -> Json {
    match value {
        FieldValue::Port(number) => json!(number),
        FieldValue::Slot(number) => json!(number),
        other => json!(other.to_string()),
    }
}

fn rule(family: Family, rule: &Rule) -> Vec<Json> {
    let mut out: Vec<Json> = Vec::with_capacity(rule.statements.len());
    for statement in &rule.statements {
        match statement {
            Statement::Match(m) => out.push(matching(family, m)),
            Statement::Action(Action::RejectTcpReset) => {
                // The reset implies the protocol; a listing leaves the match out.
                out.pop();
                out.push(json!({"reject": {"type": "tcp reset"}}));
            }
            Statement::Action(a) => out.push(action(family, a)),
        }
    }
    out
}

fn payload(protocol: &str, field: &str) -> Json {
    json!({"payload": {"protocol": protocol, "field": field}})
}

fn meta(key: &str) -> Json {
    json!({"meta": {"key": key}})
}

fn masked(key: &str, mask: impl Into<Json>) -> Json {
    json!({"&": [meta(key), mask.into()]})
}

fn class_id(id: u32) -> String {
    ClassId(id).to_string()
}

fn selector(family: Family, selector: &Selector) -> Json {
    let ip = family.nft_name();
    let ct = |key: String, dir: &str| json!({"ct": {"key": key, "dir": dir}});
    match selector {
        Selector::Saddr => payload(ip, "saddr"),
        Selector::Daddr => payload(ip, "daddr"),
        Selector::L4Proto => meta("l4proto"),
        Selector::Dport => payload("th", "dport"),
        Selector::Priority => meta("priority"),
        Selector::PriorityMasked { mask } => masked("priority", class_id(*mask)),
        Selector::CtOriginalSaddr => ct(format!("{ip} saddr"), "original"),
        Selector::CtOriginalDaddr => ct(format!("{ip} daddr"), "original"),
        Selector::CtOriginalDport => ct("proto-dst".to_owned(), "original"),
        Selector::CtReplySaddr => ct(format!("{ip} saddr"), "reply"),
        Selector::CtReplySport => ct("proto-src".to_owned(), "reply"),
        Selector::Random { modulus } => {
            json!({"numgen": {"mode": "random", "mod": modulus, "offset": 0}})
        }
        Selector::SourceHash { modulus, seed } => {
            json!({"jhash": {"mod": modulus, "seed": seed, "expr": payload(ip, "saddr")}})
        }
    }
}

fn concat(family: Family, fields: &[Selector]) -> Json {
    match fields {
        [one] => selector(family, one),
        _ => json!({"concat": fields.iter().map(|s| selector(family, s)).collect::<Vec<_>>()}),
    }
}

fn compare(negated: bool, left: Json, right: impl Into<Json>) -> Json {
    let op = if negated { "!=" } else { "==" };
    json!({"match": {"op": op, "left": left, "right": right.into()}})
}

fn matching(family: Family, m: &Match) -> Json {
    let ip = family.nft_name();
    let fib = |flag: &str| json!({"fib": {"result": "type", "flags": [flag]}});
    match m {
        Match::CtStatusDnat => {
            json!({"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}})
        }
        Match::L4Proto(protocol) => compare(false, meta("l4proto"), protocol.nft_name()),
        Match::DaddrLoopback { negated } => {
            let loopback = match family {
                Family::Ip => json!({"prefix": {"addr": "127.0.0.0", "len": 8}}),
                Family::Ip6 => json!("::1"),
            };
            compare(*negated, payload(ip, "daddr"), loopback)
        }
        Match::Daddr(addr) => compare(false, payload(ip, "daddr"), addr.to_string()),
        Match::SaddrIn { prefix, negated } => {
            let (addr, len) = (prefix.network().to_string(), prefix.prefix_len());
            let right = if len == prefix.max_prefix_len() {
                json!(addr)
            } else {
                json!({"prefix": {"addr": addr, "len": len}})
            };
            compare(*negated, payload(ip, "saddr"), right)
        }
        Match::SaddrLocal => compare(false, fib("saddr"), "local"),
        Match::DaddrLocal => compare(false, fib("daddr"), "local"),
        Match::Priority {
            mask,
            value,
            negated,
        } => compare(
            *negated,
            masked("priority", class_id(*mask)),
            class_id(*value),
        ),
        Match::MarkSet { mask } => compare(true, masked("mark", *mask), 0),
        Match::Iifname {
            name,
            prefix,
            negated,
        } => {
            let star = if *prefix { "*" } else { "" };
            compare(*negated, meta("iifname"), format!("{name}{star}"))
        }
        Match::InSet { key, set, negated } => {
            compare(*negated, concat(family, key), format!("@{set}"))
        }
    }
}

fn action(family: Family, a: &Action) -> Json {
    let mangle = |key: &str, value: Json| json!({"mangle": {"key": meta(key), "value": value}});
    let map = |key: &[Selector], map: &str| json!({"map": {"key": concat(family, key), "data": format!("@{map}")}});
    match a {
        Action::LoadPriority { key, map: name } => mangle("priority", map(key, name)),
        Action::ClearPriority => mangle("priority", json!("none")),
        Action::SetMark { bit } => mangle("mark", json!({"|": [meta("mark"), bit]})),
        Action::FlipMark { bit } => mangle("mark", json!({"^": [meta("mark"), bit]})),
        Action::Dnat { key, map: name } => {
            json!({"dnat": {"family": family.nft_name(), "addr": map(key, name)}})
        }
        // libnftables has no JSON for a map update: it gives the text.
        Action::Remember { .. } => json!(text::action(family, a)),
        Action::Masquerade => json!({"masquerade": {"flags": "fully-random"}}),
        Action::RejectTcpReset => json!({"reject": {"type": "tcp reset"}}),
        Action::Reject => {
            let icmp = match family {
                Family::Ip => "icmp",
                Family::Ip6 => "icmpv6",
            };
            json!({"reject": {"type": icmp, "expr": "port-unreachable"}})
        }
        Action::Drop => json!({ "drop": null }),
        Action::Return => json!({ "return": null }),
        Action::Jump(chain) => json!({"jump": {"target": chain}}),
        Action::Goto(chain) => json!({"goto": {"target": chain}}),
    }
}
