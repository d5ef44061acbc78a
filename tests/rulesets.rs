//! Every folder of `rulesets/` is documentation, golden and fixture at once: what its input
//! renders to, where packets go in it, and that nft and netlink install the same of it.
//!
//! `scripts/update-goldens` rewrites the expected files; review the difference.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{golden, in_namespace, listing, run};
use svcnat::verify;

fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("rulesets");
    let mut found: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    found.sort();
    assert!(found.len() >= 40);
    found
}

fn svcnat(verb: &[&str], folder: &Path) -> String {
    let input = folder.join("input.yaml").display().to_string();
    let config = folder.join("config.yaml").display().to_string();
    let args: Vec<&str> = verb
        .iter()
        .copied()
        .chain(["-f", &input, "--config", &config])
        .collect();
    run(env!("CARGO_BIN_EXE_svcnat"), &args, "")
}

#[test]
fn inputs_render_to_the_expected_ruleset() {
    for folder in folders() {
        golden(&folder.join("expected.nft"), &svcnat(&["render"], &folder));
    }
}

#[test]
fn the_lab_renders_to_the_expected_elements_and_json() {
    let folder = &folders()[0];
    golden(
        &folder.join("expected.elements"),
        &svcnat(&["render", "--elements"], folder),
    );
    golden(
        &folder.join("expected.json"),
        &svcnat(&["render", "-o", "json"], folder),
    );
}

#[test]
fn the_labs_ruleset_fits_a_screen() {
    let text = svcnat(&["render"], &folders()[0]);
    assert!(text.lines().count() <= 90, "{} lines", text.lines().count());
}

#[test]
fn rendered_text_loads_without_privileges_in_a_namespace_of_its_own() {
    for folder in folders() {
        let text = svcnat(&["render"], &folder);
        run("unshare", &["-rn", "nft", "-f", "-"], &text);
    }
}

/// The table of docs/semantics.md says of each row which folders show it, or that none can.
#[test]
fn every_folder_is_what_a_row_of_the_semantics_is_shown_by() {
    let page = include_str!("../docs/semantics.md");
    let mut linked = std::collections::BTreeSet::new();
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let cell = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let links = cell.split("](../rulesets/").skip(1);
        let names: Vec<&str> = links.map(|link| link.split(')').next().unwrap()).collect();
        assert!(!names.is_empty() || cell == "-", "{row}");
        linked.extend(names);
    }
    let folders = folders();
    let there = folders
        .iter()
        .map(|f| f.file_name().unwrap().to_str().unwrap());
    assert_eq!(
        there
            .chain(["README.md"])
            .collect::<std::collections::BTreeSet<_>>(),
        linked
    );
}

#[test]
fn packets_go_where_they_should() {
    for folder in folders() {
        let found = verify::folder(&folder).unwrap_or_else(|error| panic!("{error}"));
        let (node, packets) = found;
        let checks = verify::model(&node, &packets).unwrap_or_else(|faults| panic!("{faults}"));
        let failed = verify::failures(&checks);
        assert!(failed.is_empty(), "{failed}see scripts/update-goldens");
        assert!(checks.len() > 1, "{}: no packets", folder.display());
    }
}

#[test]
fn rendered_text_and_apply_install_the_same_and_a_second_apply_nothing() {
    for folder in folders() {
        let by_nft = in_namespace(|| {
            run("nft", &["-f", "-"], &svcnat(&["render"], &folder));
            listing()
        });
        let by_netlink = in_namespace(|| {
            let apply = ["apply", "--manage-routes=false", "--sysctls=ignore"];
            let first = svcnat(&apply, &folder);
            assert!(first.contains("applied in one transaction"), "{first}");
            let second = svcnat(&apply, &folder);
            assert!(second.contains("0 bytes sent"), "{second}");
            listing()
        });
        assert_eq!(by_nft, by_netlink, "{}", folder.display());
    }
}
