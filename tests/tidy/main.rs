//! The tree keeps its own rules: which room may know which, where `unsafe` may stand, that
//! every file says what it is for, and whose code it is built of.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod dependencies;
mod floors;

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

/// The sources below a folder of the project: name and text.
fn sources_in(folder: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    files(&root, &mut found);
    assert!(found.len() > 30, "{folder} has {} files", found.len());
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

fn sources() -> Vec<(String, String)> {
    sources_in("src")
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
    for folder in ["src", "tests"] {
        for (name, text) in sources_in(folder) {
            assert!(
                text.starts_with("//!"),
                "{folder}/{name} does not say what it is for"
            );
            let lines = text.lines().count();
            assert!(
                lines <= 600,
                "{folder}/{name} has {lines} lines: has it one concern?"
            );
        }
    }
}
