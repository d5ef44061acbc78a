//! Data flows one way: the rooms of `src/` stand on floors, and each may know lower ones only.

use super::sources;

/// The rooms from the ground up. A new one finds its place here, and in docs/architecture.md.
#[rustfmt::skip]
const FLOORS: &[&str] = &[
    // What is spoken everywhere.
    "text", "net",
    // Kubernetes: objects, settings, and what they mean on this node.
    "cluster", "problem", "syntax", "config", "plan",
    // nftables: the rules that do it.
    "ruleset", "foreign", "compile", "print", "walk", "path", "transaction", "diff", "report", "engine",
    // The world: files, the API, the kernel.
    "source", "netlink", "counters", "host", "apply", "undo", "node", "explain", "lab", "verify",
    // Programs.
    "progress", "observe", "follow", "fuzzing", "cli", "lib", "main",
];

/// Rooms that must not know all that is below them: what they are about is less than that.
const NARROWER: [(&[&str], &[&str]); 6] = [
    // nftables, whatever it is used for.
    (
        &["ruleset", "print", "walk", "transaction", "netlink"],
        &[
            "text",
            "net",
            "ruleset",
            "foreign",
            "print",
            "walk",
            "transaction",
        ],
    ),
    // Others' rules, whatever ours are; a packet's way, whatever it is for.
    (&["foreign"], &["net"]),
    (&["path"], &["net", "ruleset", "foreign", "walk"]),
    (&["diff"], &["text", "net", "ruleset", "transaction"]),
    // Objects, and the settings that some of their sources bring along, whatever becomes of
    // them.
    (
        &["source"],
        &["text", "net", "cluster", "problem", "syntax", "config"],
    ),
    // How an agent is looked at, whatever it does.
    (&["observe"], &["text", "progress"]),
];

/// What a file says outside its tests, which may borrow whatever writes an example down
/// shortest; and outside its comments, which may point anywhere.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// The name at the start of `text`.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_'));
    &text[..end.unwrap_or(text.len())]
}

/// The first names of all paths in a group such as `{a::{b, c}, d}`, which `text` goes on with.
fn group(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let mut begins = false;
    let mut out = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        if depth == 1 && matches!(c, '{' | ',') {
            begins = true;
        } else if begins && !c.is_whitespace() {
            out.push(word(&text[at..]));
            begins = false;
        }
    }
    out
}

/// The rooms that this code of `name` names: by `crate::`, or by as many `super::` as lead out
/// of its own.
fn known<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
    let depth = name.trim_end_matches("/mod.rs").split('/').count();
    let outside = "super::".repeat(depth);
    let mut out = Vec::new();
    for root in ["crate::", outside.as_str()] {
        for (at, _) in text.match_indices(root) {
            // `super::` after `super::` was seen with the first of them; part of a longer name.
            let before = &text[..at];
            if before.ends_with("::") || before.ends_with(|c: char| c.is_alphanumeric()) {
                continue;
            }
            let rest = &text[at + root.len()..];
            if rest.starts_with('{') {
                out.extend(group(rest));
            } else {
                out.push(word(rest));
            }
        }
    }
    out
}

fn room(name: &str) -> &str {
    name.split('/').next().unwrap().trim_end_matches(".rs")
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|other| *other == room)
}

/// What is wrong with one file.
fn wrong(name: &str, text: &str) -> Vec<String> {
    let own = room(name);
    let Some(here) = floor(own) else {
        return vec![format!("{name}: the room {own} has no floor")];
    };
    let narrower = NARROWER.iter().find(|(rooms, _)| rooms.contains(&own));
    known(name, &code(text))
        .into_iter()
        .filter(|other| *other != own && floor(other).is_some())
        .filter(|other| {
            let lower = floor(other).is_some_and(|there| there < here);
            !lower || narrower.is_some_and(|(_, allowed)| !allowed.contains(other))
        })
        .map(|other| format!("{name}: {own} must not know {other}"))
        .collect()
}

#[test]
fn every_room_knows_lower_floors_only() {
    let found: Vec<String> = sources()
        .iter()
        // Tests in files of their own.
        .filter(|(name, _)| {
            !name
                .split('/')
                .any(|part| part.trim_end_matches(".rs").ends_with("tests"))
        })
        .flat_map(|(name, text)| wrong(name, text))
        .collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// What only the room that speaks netlink names.
const NETLINK: [&str; 5] = ["mnl", "nftnl", "nftnl_sys", "SOL_NETLINK", "NetlinkAddr"];

#[test]
fn netlink_is_spoken_in_one_room() {
    for (name, text) in sources() {
        let code = code(&text);
        let mut words = code.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let spoken = words.find(|word| NETLINK.contains(word));
        assert!(spoken.is_none() || room(&name) == "netlink", "{name}");
    }
}

#[test]
fn every_room_of_the_library_has_a_floor_and_every_floor_a_room() {
    let lib = sources()
        .into_iter()
        .find(|(name, _)| name == "lib.rs")
        .unwrap()
        .1;
    let mut rooms: Vec<&str> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .chain(["lib", "main"])
        .collect();
    let mut floors = FLOORS.to_vec();
    rooms.sort_unstable();
    floors.sort_unstable();
    assert_eq!(rooms, floors);
}

#[test]
fn an_import_from_above_is_seen_however_it_is_written() {
    for (name, text, expected) in [
        ("plan/a.rs", "use crate::compile::compile;\n", 1),
        (
            "plan/mod.rs",
            "use crate::{cluster::Cluster, compile};\n",
            1,
        ),
        (
            "plan/a.rs",
            "use crate::{\n    config::{Config, types},\n    netlink::{Nfnetlink, encode},\n};\n",
            1,
        ),
        ("plan/a.rs", "    crate::host::routes::list();\n", 1),
        ("plan/a.rs", "use super::super::netlink::Nfnetlink;\n", 1),
        ("plan/mod.rs", "use super::netlink::Nfnetlink;\n", 1),
        ("text.rs", "use super::net::Family;\n", 1),
        ("nowhere.rs", "", 1),
        // Lower, and yet none of its business.
        ("print/a.rs", "use crate::plan::NodePlan;\n", 1),
        ("observe/mod.rs", "use crate::engine::Engine;\n", 1),
        // Its own, lower ones, tests and comments.
        (
            "plan/a.rs",
            "use super::types;\nuse crate::plan::claims;\n",
            0,
        ),
        ("plan/a.rs", "use crate::cluster::Cluster;\n", 0),
        ("plan/a.rs", "//! See [`crate::compile`].\n", 0),
        (
            "plan/a.rs",
            "fn a() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::compile::compile;\n}\n",
            0,
        ),
    ] {
        assert_eq!(wrong(name, text).len(), expected, "{name}: {text}");
    }
}
