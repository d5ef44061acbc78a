//! Pages hold what the program prints: every command of a `console` block in README.md and in
//! docs/ is run, in namespaces of its own, and what it prints is held against the page.
//! CONTRIBUTING.md has the rules; `scripts/update-goldens` writes the pages anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod compare;
mod page;
mod session;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use compare::agrees;
use page::{Block, Step, blocks, steps};
use session::Session;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Runs a page from top to bottom.
fn holds(path: &str) {
    let path = root().join(path);
    let text = fs::read_to_string(&path).unwrap();
    let update = std::env::var_os("SVCNAT_UPDATE_GOLDENS").is_some();
    let mut session = Session::start(path.file_stem().unwrap().to_str().unwrap());
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    // From the end, so that the lines before keep their numbers.
    let mut replaced: Vec<(std::ops::Range<usize>, String)> = Vec::new();
    let mut wrong = Vec::new();
    for step in steps(&text) {
        let printed = session.run(&step);
        let expected = &step.expected;
        if step.hidden || agrees(expected, &printed) {
            continue;
        }
        if update && !expected.lines().any(|line| line == compare::ANYTHING) {
            // With the empty line that sets the next command apart.
            let apart = expected.lines().next_back().is_some_and(str::is_empty);
            replaced.push((step.output, printed + if apart { "\n" } else { "" }));
            continue;
        }
        wrong.push(format!(
            "{}:{}: {}\n-- the page has\n{expected}-- it prints\n{printed}",
            path.display(),
            step.line + 1,
            step.command,
        ));
    }
    for (range, printed) in replaced.into_iter().rev() {
        lines.splice(range, printed.lines().map(str::to_owned));
    }
    if update {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {
        /// Pages with commands.
        const PAGES: &[&str] = &[$($path),*];
        $(#[test]
        fn $name() {
            holds($path);
        })*
    };
}

pages! {
    the_readme: "README.md",
    two_nodes_without_kubernetes: "docs/two-nodes.md",
    host_ports: "docs/host-ports.md",
    egress: "docs/egress.md",
    instead_of_kube_proxy: "docs/instead-of-kube-proxy.md",
    a_lab: "docs/lab.md",
    in_tests: "docs/in-tests.md",
    packets: "docs/packets.md",
    when_a_service_does_not_work: "docs/when-a-service-does-not-work.md",
}

fn markdown(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
}

#[test]
fn every_page_with_commands_is_run_and_linked_and_no_command_is_left_out() {
    let mut found = Vec::new();
    for folder in ["", "docs", "docs/decisions", "rulesets"] {
        markdown(&root().join(folder), &mut found);
    }
    let mut with_commands = BTreeSet::new();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for path in found {
        let text = fs::read_to_string(&path).unwrap();
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap();
        for Block { info, lines, .. } in blocks(&text) {
            if info == "console" {
                with_commands.insert(name.to_owned());
                continue;
            }
            // What cannot be run here says so with another word, `text` say.
            let command = lines.iter().find(|line| line.starts_with("$ svcnat"));
            assert!(
                !info.is_empty() || command.is_none(),
                "{name}: {command:?} is in no console block"
            );
        }
        if name != "README.md" && with_commands.contains(name) {
            assert!(readme.contains(&format!("({name})")), "{name}: no link");
        }
    }
    let listed: BTreeSet<String> = PAGES.iter().map(|&page| page.to_owned()).collect();
    assert_eq!(with_commands, listed);
}

#[test]
fn a_page_that_says_something_else_is_found() {
    let page = "```console\n$ echo one; echo two\none\ntwo\n$ echo three\nfour\n```\n";
    let mut session = Session::start("wrong");
    let found: Vec<bool> = steps(page)
        .iter()
        .map(|step: &Step| agrees(&step.expected, &session.run(step)))
        .collect();
    assert_eq!(found, [true, false]);
}
