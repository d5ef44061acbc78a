//! Whose code this is built of: licences, and crates that are there more than once.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that a dependency may have.
const LICENCES: [&str; 7] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Zlib",
];

/// Crates that may be there in more than one version, and why.
const TWICE: [(&str, &str); 4] = [
    (
        "base64",
        "tower-http of the Kubernetes client is a version behind",
    ),
    ("bit-vec", "of proptest, which only tests have"),
    (
        "getrandom",
        "ring, which TLS stands on, is a version behind",
    ),
    ("syn", "of macros, at compile time: most have not moved yet"),
];

/// Name, version and licence of all that the program and its tests are built of on this
/// machine. Asks no registry.
fn packages() -> Vec<(String, String, String)> {
    let version = Command::new("rustc").arg("-vV").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--offline", "--locked", "--format-version=1"])
        .args(["--filter-platform", host])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |package: &serde_json::Value, field: &str| {
        package[field].as_str().unwrap_or_default().to_owned()
    };
    all["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (text(p, "name"), text(p, "version"), text(p, "license")))
        .collect()
}

/// The licences of an SPDX expression among which one must be kept, each with those that must
/// be kept along with it: alternatives of conjunctions. Older crates write `A/B` for `A OR B`.
fn alternatives(expression: &str) -> Vec<BTreeSet<String>> {
    let text = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let (out, rest) = either(&words);
    assert!(rest.is_empty(), "{expression}: not understood at {rest:?}");
    out
}

type Parsed<'w> = (Vec<BTreeSet<String>>, &'w [&'w str]);

fn either<'w>(words: &'w [&'w str]) -> Parsed<'w> {
    let (mut out, mut rest) = both(words);
    while let ["OR", more @ ..] = rest {
        let (next, after) = both(more);
        out.extend(next);
        rest = after;
    }
    (out, rest)
}

fn both<'w>(words: &'w [&'w str]) -> Parsed<'w> {
    let (mut out, mut rest) = one(words);
    while let ["AND", more @ ..] = rest {
        let (next, after) = one(more);
        out = out
            .iter()
            .flat_map(|left| next.iter().map(move |right| left | right))
            .collect();
        rest = after;
    }
    (out, rest)
}

fn one<'w>(words: &'w [&'w str]) -> Parsed<'w> {
    match words {
        ["(", inner @ ..] => match either(inner) {
            (out, [")", rest @ ..]) => (out, rest),
            (_, rest) => panic!("a parenthesis is not closed at {rest:?}"),
        },
        [name, "WITH", exception, rest @ ..] => {
            let licence = format!("{name} WITH {exception}");
            (vec![BTreeSet::from([licence])], rest)
        }
        [name, rest @ ..] => (vec![BTreeSet::from([(*name).to_owned()])], rest),
        [] => (Vec::new(), words),
    }
}

fn allowed(expression: &str) -> bool {
    alternatives(expression)
        .iter()
        .any(|all| all.iter().all(|one| LICENCES.contains(&one.as_str())))
}

#[test]
fn every_dependency_has_a_licence_that_is_on_the_list() {
    let packages = packages();
    assert!(packages.len() > 100, "{} packages", packages.len());
    let wrong: Vec<String> = packages
        .iter()
        .filter(|(_, _, licence)| !allowed(licence))
        .map(|(name, version, licence)| format!("{name} {version}: {licence:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_dependency_is_there_twice_without_a_reason() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, version, _) in packages() {
        versions.entry(name).or_default().insert(version);
    }
    versions.retain(|_, versions| versions.len() > 1);
    let found: Vec<&str> = versions.keys().map(String::as_str).collect();
    let expected = TWICE.map(|(name, _)| name);
    assert_eq!(found, expected, "{versions:?}");
}

#[test]
fn licence_expressions_are_read_as_spdx_has_them() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0-only OR MIT",
        "(GPL-3.0-only OR MIT) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception",
    ] {
        assert!(allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "GPL-2.0-only WITH LLVM-exception",
        "MIT AND (GPL-3.0-only OR LGPL-3.0-only)",
    ] {
        assert!(!allowed(bad), "{bad}");
    }
}
