//! The tree keeps its own rules: which room may know which, where `unsafe` may stand, that
//! every file says what it is for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::path::{Path, PathBuf};

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    assert!(found.len() > 30);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Room, and the rooms it must not know.
const ARROWS: [(&str, &[&str]); 10] = [
    (
        "ruleset/",
        &[
            "cluster", "plan", "compile", "print", "diff", "netlink", "apply", "host", "cli",
            "source", "config",
        ],
    ),
    (
        "cluster/",
        &[
            "plan", "compile", "print", "diff", "netlink", "apply", "host", "cli", "source",
        ],
    ),
    (
        "plan/",
        &[
            "compile", "print", "diff", "netlink", "apply", "host", "cli", "source",
        ],
    ),
    (
        "compile/",
        &["print", "diff", "netlink", "apply", "host", "cli", "source"],
    ),
    (
        "print/",
        &[
            "plan", "compile", "diff", "netlink", "apply", "host", "cli", "source",
        ],
    ),
    (
        "walk/",
        &[
            "compile", "diff", "netlink", "apply", "host", "cli", "source",
        ],
    ),
    (
        "diff/",
        &[
            "plan", "compile", "netlink", "apply", "host", "cli", "source",
        ],
    ),
    (
        "source/",
        &[
            "plan", "compile", "print", "diff", "netlink", "apply", "host", "cli", "engine",
            "follow",
        ],
    ),
    (
        "engine/",
        &[
            "source", "print", "netlink", "apply", "host", "cli", "follow", "observe",
        ],
    ),
    (
        "observe/",
        &[
            "source", "plan", "compile", "netlink", "apply", "host", "cli", "engine", "follow",
        ],
    ),
];

#[test]
fn data_flows_one_way() {
    // Tests may borrow a reader to write their objects down.
    for (name, text) in sources()
        .into_iter()
        .filter(|(n, _)| !n.ends_with("tests.rs"))
    {
        for (room, forbidden) in ARROWS.iter().filter(|(room, _)| name.starts_with(room)) {
            for other in *forbidden {
                let arrow = format!("crate::{other}::");
                assert!(
                    !text.contains(&arrow),
                    "{name}: {room} must not know {other}"
                );
            }
        }
    }
}

#[test]
fn unsafe_stands_in_one_file() {
    for (name, text) in sources() {
        let code = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let found = code
            .filter(|l| l.contains("unsafe ") && !l.contains("unsafe_"))
            .count();
        assert!(found == 0 || name == "netlink/ffi.rs", "{name}");
    }
}

#[test]
fn every_file_says_what_it_is_for_and_stays_readable() {
    for (name, text) in sources() {
        assert!(
            text.starts_with("//!"),
            "{name} does not say what it is for"
        );
        let lines = text.lines().count();
        assert!(
            lines <= 600,
            "{name} has {lines} lines: is it one room with one concern?"
        );
    }
}
