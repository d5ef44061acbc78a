//! Each folder of examples/ comes up with one command, and its packets do as they are written.

use std::fs;
use std::path::{Path, PathBuf};

use super::svcnat;

/// The folders that have packets.
fn folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let entries = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn run(args: &[&str]) -> String {
    let done = svcnat(args);
    let said = String::from_utf8(done.stdout).unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{args:?}\n{said}{stderr}");
    said
}

#[test]
fn what_people_post_works() {
    let folders = folders();
    assert!(folders.len() >= 7, "{folders:?}");
    for folder in folders {
        let (path, packets) = (folder.to_str().unwrap(), folder.join("packets.txt"));
        let short = folder.file_name().unwrap().to_str().unwrap();
        let name = format!("{short}-{}", std::process::id());
        run(&["lab", "up", "--name", &name, "-f", path]);
        let sent = svcnat(&[
            "verify",
            "--lab",
            &name,
            "--packets",
            packets.to_str().unwrap(),
        ]);
        run(&["lab", "down", "--name", &name]);
        let said = String::from_utf8(sent.stdout).unwrap();
        assert!(
            sent.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&sent.stderr)
        );
    }
}
