//! Files and folders as editors, mounts and mistakes change them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{Daemon, NOTICED, eventually, fetch, frontends, manager, service};
use crate::support::{in_namespace, run};

#[test]
fn a_changed_file_is_applied_and_a_broken_one_is_not() {
    in_namespace(|| {
        let daemon = Daemon::start("follow", &[]);
        daemon.write(&service("10.254.0.11"));
        eventually("the change", || frontends().contains("10.254.0.11"));
        daemon.write("kind: [");
        eventually("the complaint", || {
            daemon.log().contains("the last good state stays")
        });
        assert!(frontends().contains("10.254.0.11"));
        daemon.write(&service("10.254.0.12"));
        eventually("the next good one", || frontends().contains("10.254.0.12"));
    });
}

#[test]
fn a_file_written_in_place_is_taken_once_it_is_whole() {
    in_namespace(|| {
        let daemon = Daemon::start("steps", &[]);
        let path = daemon.folder.join("a.yaml");
        let text = service("10.254.0.11");
        let (begin, rest) = text.split_at(text.find("ports").unwrap());
        // Cut off, written halfway, left for a while and completed, all through one handle.
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(begin.as_bytes()).unwrap();
        std::thread::sleep(NOTICED);
        assert!(frontends().contains("10.254.0.10"));
        assert!(!daemon.log().contains("the last good state stays"));
        file.write_all(rest.as_bytes()).unwrap();
        drop(file);
        eventually("the whole file", || frontends().contains("10.254.0.11"));

        // The same in two steps, as two programs would: the half is seen, and said.
        let text = service("10.254.0.12");
        let (begin, rest) = text.split_at(text.find("ports").unwrap());
        fs::write(&path, begin).unwrap();
        eventually("the complaint", || {
            let log = daemon.log();
            log.contains("a.yaml") && log.contains("the last good state stays")
        });
        assert!(frontends().contains("10.254.0.11"));
        let mut file = fs::File::options().append(true).open(&path).unwrap();
        file.write_all(rest.as_bytes()).unwrap();
        drop(file);
        eventually("the completed file", || frontends().contains("10.254.0.12"));
    });
}

#[test]
fn a_file_emptied_before_it_is_written_takes_nothing_down() {
    in_namespace(|| {
        let daemon = Daemon::start("empty", &[]);
        let path = daemon.folder.join("a.yaml");
        fs::write(&path, "").unwrap();
        eventually("the doubt", || {
            daemon
                .log()
                .contains("held until the input holds something again")
        });
        assert!(frontends().contains("10.254.0.10"));
        fs::write(&path, service("10.254.0.11")).unwrap();
        eventually("what was written", || frontends().contains("10.254.0.11"));
    });
}

#[test]
fn editors_leave_backups_swap_files_and_locks_and_only_the_file_counts() {
    in_namespace(|| {
        let daemon = Daemon::start("editors", &[]);
        let folder = &daemon.folder;
        let path = folder.join("a.yaml");
        // vim: a swap file, the old file renamed to a backup, a new one under the old name.
        fs::write(folder.join(".a.yaml.swp"), [0xff, 0xfe]).unwrap();
        fs::rename(&path, folder.join("a.yaml~")).unwrap();
        fs::write(&path, service("10.254.0.11")).unwrap();
        fs::remove_file(folder.join("a.yaml~")).unwrap();
        fs::remove_file(folder.join(".a.yaml.swp")).unwrap();
        eventually("vim's file", || frontends().contains("10.254.0.11"));
        // A slow one: for a while there is no file at all.
        fs::rename(&path, folder.join("a.yaml~")).unwrap();
        std::thread::sleep(NOTICED);
        assert!(frontends().contains("10.254.0.11"));
        fs::write(&path, service("10.254.0.12")).unwrap();
        eventually("the slow editor's file", || {
            frontends().contains("10.254.0.12")
        });
        // Emacs: a lock that is a link to nowhere, with the file's ending, and a hidden copy.
        symlink("me@here.1234", folder.join(".#a.yaml")).unwrap();
        fs::write(folder.join(".copy.yaml"), service("10.254.0.99")).unwrap();
        daemon.write(&service("10.254.0.13"));
        eventually("Emacs' file", || frontends().contains("10.254.0.13"));
        assert!(!frontends().contains("10.254.0.99"));
        let log = daemon.log();
        assert!(!log.contains("the last good state stays"), "{log}");
    });
}

/// Puts objects into a folder as the kubelet mounts a ConfigMap: files are links into
/// `..data`, which is a link to the folder of one version and is renamed over.
fn mount(folder: &Path, version: &str, text: &str) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("a.yaml"), text).unwrap();
    symlink(format!("..{version}"), folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[test]
fn a_config_map_is_followed_as_a_folder_and_as_a_file() {
    for by_file in [false, true] {
        in_namespace(|| {
            let name = format!("svcnat-run-map-{by_file}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            let mounted = folder.join("mounted");
            fs::create_dir_all(&mounted).unwrap();
            mount(&mounted, "v1", &service("10.254.0.21"));
            symlink("..data/a.yaml", mounted.join("a.yaml")).unwrap();
            let input = if by_file {
                mounted.join("a.yaml")
            } else {
                mounted.clone()
            };
            let child = Daemon::follow(&folder, &input, &[]);
            let daemon = Daemon {
                manager: manager(&folder),
                folder,
                child,
            };
            eventually("the first version", || frontends().contains("10.254.0.21"));
            mount(&mounted, "v2", &service("10.254.0.22"));
            fs::remove_dir_all(mounted.join("..v1")).unwrap();
            eventually("the second version", || frontends().contains("10.254.0.22"));
            mount(&mounted, "v3", "kind: [");
            eventually("the complaint", || {
                daemon.log().contains("the last good state stays")
            });
            assert!(frontends().contains("10.254.0.22"));
            mount(&mounted, "v4", &service("10.254.0.24"));
            eventually("the fourth version", || frontends().contains("10.254.0.24"));
        });
    }
}

#[test]
fn a_link_to_a_file_elsewhere_and_a_folder_made_later_are_followed_too() {
    in_namespace(|| {
        let daemon = Daemon::start("elsewhere", &[]);
        // A folder that comes later, and a change in it later still.
        let later = daemon.folder.join("later");
        fs::create_dir(&later).unwrap();
        std::thread::sleep(NOTICED);
        let other = service("10.254.0.30").replace("name: a", "name: b");
        fs::write(later.join("b.yaml"), &other).unwrap();
        eventually("a file in a new folder", || {
            frontends().contains("10.254.0.30")
        });
        drop(daemon);
        let name = format!("svcnat-run-link-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("real")).unwrap();
        let real = folder.join("real/a.yaml");
        fs::write(&real, service("10.254.0.31")).unwrap();
        symlink(&real, folder.join("link.yaml")).unwrap();
        let child = Daemon::follow(&folder, &folder.join("link.yaml"), &[]);
        let _daemon = Daemon {
            manager: manager(&folder),
            folder,
            child,
        };
        eventually("the linked file", || frontends().contains("10.254.0.31"));
        fs::write(&real, service("10.254.0.32")).unwrap();
        eventually("the change behind the link", || {
            frontends().contains("10.254.0.32")
        });
    });
}

#[test]
fn a_folder_that_never_comes_to_rest_is_read_all_the_same() {
    in_namespace(|| {
        let daemon = Daemon::start("restless", &[]);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    fs::write(daemon.folder.join("noise.txt"), "noise").unwrap();
                    std::thread::sleep(Duration::from_millis(2));
                }
            });
            daemon.write(&service("10.254.0.11"));
            let start = Instant::now();
            while start.elapsed() < Duration::from_secs(3) && !frontends().contains("10.254.0.11") {
                std::thread::sleep(Duration::from_millis(20));
            }
            let taken = frontends().contains("10.254.0.11");
            stop.store(true, Ordering::Relaxed);
            assert!(taken, "the change was not taken in {:?}", start.elapsed());
        });
    });
}

#[test]
fn a_file_that_cannot_be_used_at_the_start_is_exit_code_2() {
    in_namespace(|| {
        let folder = std::env::temp_dir().join(format!("svcnat-run-broken-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        for text in [
            "kind: [",
            "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: nowhere, ports: [{port: 80}]}\n",
        ] {
            fs::write(folder.join("a.yaml"), text).unwrap();
            let mut child = Daemon::spawn(&folder, &[]);
            assert_eq!(child.wait().unwrap().code(), Some(2), "{text}");
        }
        assert_eq!(run("nft", &["list", "ruleset"], ""), "");
        fs::remove_dir_all(folder).unwrap();
    });
}

/// Lets the daemon open no further file, or as many as it likes.
fn limit_files(daemon: &Daemon, limited: bool) {
    let pid = daemon.child.id().to_string();
    // What it opened for a moment is closed again.
    std::thread::sleep(NOTICED);
    let open = |n: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{n}")).is_ok();
    let next = (0..).find(|n| !open(n)).unwrap();
    let limit = if limited { next } else { 1024 };
    run(
        "prlimit",
        &["--pid", &pid, &format!("--nofile={limit}:")],
        "",
    );
}

#[test]
fn files_that_could_not_be_read_for_want_of_descriptors_are_read_again_by_themselves() {
    in_namespace(|| {
        let daemon = Daemon::start("descriptors", &["--healthz-bind-address=none"]);
        limit_files(&daemon, true);
        daemon.write(&service("10.254.0.11"));
        eventually("the complaint", || {
            daemon.log().contains("Too many open files")
        });
        assert!(frontends().contains("10.254.0.10"));
        limit_files(&daemon, false);
        // Nobody touches the file again.
        eventually("the change", || frontends().contains("10.254.0.11"));
        eventually("the good news", || daemon.log().contains("well again"));
    });
}

#[test]
fn a_folder_that_is_moved_away_is_told_and_its_successor_is_followed() {
    in_namespace(|| {
        let base = std::env::temp_dir().join(format!("svcnat-moved-{}", std::process::id()));
        let input = base.join("in");
        fs::create_dir_all(&input).unwrap();
        fs::write(input.join("a.yaml"), service("10.254.0.10")).unwrap();
        let mut child = Daemon::follow(&base, &input, &[]);
        eventually("the first sync", || frontends().contains("10.254.0.10"));
        fs::rename(&input, base.join("old")).unwrap();
        eventually("the condition", || {
            fetch(10256, "/readyz?verbose").contains("[!]source files failing for ")
        });
        fs::create_dir(&input).unwrap();
        fs::write(input.join("a.yaml"), service("10.254.0.11")).unwrap();
        eventually("the successor", || frontends().contains("10.254.0.11"));
        // At once, without a time in which it is not there.
        fs::create_dir(base.join("next")).unwrap();
        fs::write(base.join("next/a.yaml"), service("10.254.0.12")).unwrap();
        fs::rename(&input, base.join("older")).unwrap();
        fs::rename(base.join("next"), &input).unwrap();
        eventually("the next", || frontends().contains("10.254.0.12"));
        fs::write(input.join("a.yaml"), service("10.254.0.13")).unwrap();
        eventually("a change in it", || frontends().contains("10.254.0.13"));
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(base).unwrap();
    });
}
