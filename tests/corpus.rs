//! The seeds of the fuzz targets, and what they have found, as ordinary tests.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::path::Path;

use svcnat::fuzzing;

/// Runs a target over every file of its corpus, and over beginnings of each.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        eprintln!("{}", path.display());
        let data = std::fs::read(path).unwrap();
        target(&data);
        for share in [1, 2, 3] {
            target(&data[..data.len() * share / 4]);
        }
        count += 1;
    }
    assert!(count >= 3, "the corpus of {name} has {count} files");
}

#[test]
fn netlink_replies_of_the_corpus_are_read_without_a_panic() {
    replay("netlink_replies", fuzzing::netlink_replies);
}

#[test]
fn manifests_of_the_corpus_are_sent_as_they_are_meant() {
    replay("manifests", fuzzing::manifests);
}

#[test]
fn configurations_of_the_corpus_are_used_or_refused() {
    replay("configuration", fuzzing::configuration);
}

#[test]
fn states_of_the_corpus_are_read_back_as_they_were_saved() {
    replay("saved_state", fuzzing::saved_state);
}

#[test]
fn histories_of_the_corpus_add_up_to_a_plan_from_scratch() {
    replay("histories", fuzzing::histories);
}
