//! `svcnat run`: follows files, keeps the last good state, repairs what others change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::{in_namespace, run};

struct Daemon {
    folder: PathBuf,
    /// Where the service manager listens, if the test does.
    manager: UnixDatagram,
    child: Child,
}

impl Daemon {
    /// Starts in the current namespace, with a folder of its own, and waits until it is up.
    fn start(name: &str, args: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("svcnat-run-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.yaml"), service("10.254.0.10")).unwrap();
        let manager = manager(&folder);
        let child = Self::spawn(&folder, args);
        let daemon = Self {
            folder,
            manager,
            child,
        };
        eventually("the first sync", || frontends().contains("10.254.0.10"));
        daemon
    }

    fn spawn(folder: &Path, args: &[&str]) -> Child {
        Self::follow(folder, folder, args)
    }

    /// Follows `input`, with its log in `folder`.
    fn follow(folder: &Path, input: &Path, args: &[&str]) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args([
                "run",
                "--node-name=n1",
                "--service-cluster-ip-range=10.254.0.0/16",
                "-f",
            ])
            .arg(input)
            .args(args)
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// The next thing it tells the service manager that is no mere sign of life.
    fn told(&self) -> String {
        let mut text = String::new();
        eventually("other news", || {
            text = self.heard();
            text != "WATCHDOG=1"
        });
        text
    }

    fn heard(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.join("new"), text).unwrap();
        fs::rename(self.folder.join("new"), self.folder.join("a.yaml")).unwrap();
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        run("kill", &["-s", name, &pid], "");
    }

    fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already, if the test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Status and body of a GET of the health or metrics server.
fn fetch(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return String::new();
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Where a daemon with its log in `folder` tells the service manager.
fn manager(folder: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(folder.join("notify")).unwrap();
    let limit = Some(Duration::from_secs(10));
    manager.set_read_timeout(limit).unwrap();
    manager
}

fn service(ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [172.17.0.2]}}]\n"
    )
}

fn frontends() -> String {
    let output = Command::new("nft")
        .args(["list", "map", "ip", "svcnat", "service-ips"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

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
fn a_flush_by_others_is_repaired() {
    in_namespace(|| {
        let daemon = Daemon::start("flush", &[]);
        run("nft", &["flush", "ruleset"], "");
        eventually("the repair", || frontends().contains("10.254.0.10"));
        eventually("the log line", || daemon.log().contains("cause=drift"));
    });
}

#[test]
fn drift_is_only_reported_if_told_so() {
    in_namespace(|| {
        let daemon = Daemon::start("report", &["--drift=report"]);
        run("nft", &["flush", "ruleset"], "");
        eventually("the report", || {
            daemon.log().contains("others changed our tables")
        });
        assert_eq!(frontends(), "");
    });
}

#[test]
fn rules_outlive_the_daemon_and_a_restart_writes_nothing() {
    in_namespace(|| {
        let mut daemon = Daemon::start("restart", &[]);
        daemon.stop();
        assert!(frontends().contains("10.254.0.10"));
        daemon.child = Daemon::spawn(&daemon.folder, &[]);
        eventually("the second start", || {
            daemon.log().matches("cause=start").count() == 2
        });
        let log = daemon.log();
        let last = log.lines().rfind(|l| l.contains("cause=start")).unwrap();
        assert!(last.contains(" bytes=0 "), "{last}");
    });
}

#[test]
fn cleanup_on_exit_leaves_nothing() {
    in_namespace(|| {
        let mut daemon = Daemon::start("cleanup", &["--cleanup-on-exit"]);
        daemon.stop();
        assert_eq!(run("nft", &["list", "ruleset"], ""), "");
    });
}

/// Long enough for a change of the folder to be noticed and read.
const NOTICED: Duration = Duration::from_millis(300);

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
fn the_service_manager_hears_of_start_changes_life_and_stop() {
    in_namespace(|| {
        let mut daemon = Daemon::start("manager", &[]);
        assert_eq!(daemon.told(), "READY=1");
        let first = daemon.told();
        assert!(first.starts_with("STATUS=1 services, "), "{first}");
        let other = service("10.254.0.11")
            .replace("name: a", "name: b")
            .replace("service-name: a", "service-name: b");
        daemon.write(&format!("{}---\n{other}", service("10.254.0.10")));
        let second = daemon.told();
        assert!(second.starts_with("STATUS=2 services, "), "{second}");
        // Not more than needed for a watchdog of a second, and not less.
        let start = Instant::now();
        (0..4).for_each(|_| assert_eq!(daemon.heard(), "WATCHDOG=1"));
        let took = start.elapsed();
        let expected = Duration::from_millis(700)..Duration::from_millis(3000);
        assert!(expected.contains(&took), "{took:?}");
        daemon.stop();
        assert_eq!(daemon.told(), "STOPPING=1");
    });
}

#[test]
fn a_hanging_process_shows_no_life() {
    in_namespace(|| {
        let daemon = Daemon::start("hang", &[]);
        daemon.signal("STOP");
        daemon.manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        while daemon.manager.recv(&mut buffer).is_ok() {}
        std::thread::sleep(Duration::from_secs(1));
        assert!(daemon.manager.recv(&mut buffer).is_err());
        daemon.signal("CONT");
        eventually("life", || daemon.manager.recv(&mut buffer).is_ok());
    });
}

#[test]
fn a_service_manager_that_does_not_listen_stops_nothing() {
    in_namespace(|| {
        // So many datagrams wait at most; the next one blocks who sends it.
        run("sysctl", &["-qw", "net.unix.max_dgram_qlen=1"], "");
        let daemon = Daemon::start("deaf", &[]);
        std::thread::sleep(Duration::from_secs(1));
        daemon.write(&service("10.254.0.11"));
        eventually("the change", || frontends().contains("10.254.0.11"));
    });
}

#[test]
fn sysctls_are_set_if_told_so_and_set_again() {
    in_namespace(|| {
        let forward = "net.ipv4.ip_forward";
        let is = |value: &str| run("sysctl", &["-n", forward], "").trim() == value;
        run("sysctl", &["-qw", &format!("{forward}=0")], "");
        let daemon = Daemon::start("sysctls", &["--sysctls=apply"]);
        eventually("the setting", || is("1"));
        assert!(
            daemon
                .log()
                .contains("name=net.ipv4.ip_forward value=1 old=0")
        );
        run("sysctl", &["-qw", &format!("{forward}=0")], "");
        daemon.signal("HUP");
        eventually("the setting again", || is("1"));
    });
}

#[test]
fn a_missing_sysctl_is_said_once() {
    in_namespace(|| {
        run("sysctl", &["-qw", "net.ipv4.ip_forward=0"], "");
        let daemon = Daemon::start("check", &["--sysctls=check"]);
        eventually("the warning", || {
            daemon.log().contains("sysctl net.ipv4.ip_forward")
        });
        daemon.signal("HUP");
        daemon.write(&service("10.254.0.11"));
        eventually("the change", || frontends().contains("10.254.0.11"));
        assert_eq!(
            daemon.log().matches("sysctl net.ipv4.ip_forward").count(),
            1
        );
        assert_eq!(
            run("sysctl", &["-n", "net.ipv4.ip_forward"], "").trim(),
            "0"
        );
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

#[test]
fn a_broken_file_is_told_by_readyz_state_metrics_and_log_until_it_is_good_again() {
    in_namespace(|| {
        let daemon = Daemon::start("told", &[]);
        eventually("the server", || {
            fetch(10256, "/readyz?verbose").contains("[+]source files ok")
        });
        let metric = "svcnat_condition{condition=\"source files\"} ";
        assert!(fetch(10249, "/metrics").contains(&format!("{metric}1")));
        daemon.write("kind: [");
        eventually("the condition", || {
            fetch(10256, "/readyz?verbose").contains("[!]source files failing for ")
        });
        let ready = fetch(10256, "/readyz?verbose");
        assert!(ready.starts_with("HTTP/1.1 200"), "not stale yet: {ready}");
        assert!(ready.contains("a.yaml"), "{ready}");
        let state = fetch(10256, "/state");
        let failing = state
            .split('{')
            .find(|part| part.contains("\"source files\""));
        let failing = failing.unwrap();
        assert!(
            failing.contains("\"status\":\"False\"") && failing.contains("a.yaml"),
            "{state}"
        );
        assert!(fetch(10249, "/metrics").contains(&format!("{metric}0")));
        // It is read again by itself meanwhile, and that is no news.
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(daemon.log().matches("the last good state stays").count(), 1);
        daemon.write(&service("10.254.0.11"));
        eventually("the good file", || frontends().contains("10.254.0.11"));
        eventually("the good news", || {
            daemon
                .log()
                .contains("\"well again\" condition=\"source files\"")
        });
        assert!(fetch(10256, "/readyz?verbose").contains("[+]source files ok"));
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
fn rules_that_others_removed_are_put_back_without_reading_elements() {
    in_namespace(|| {
        let daemon = Daemon::start("rules", &[]);
        let whole = || run("nft", &["-s", "list", "table", "ip", "svcnat"], "");
        let before = whole();
        // Other rules, no rules, and no chain.
        for command in [
            "insert rule ip svcnat nodes accept",
            "flush table ip svcnat",
            "add chain ip svcnat theirs; add rule ip svcnat theirs accept",
        ] {
            let chains = run("nft", &["list", "chains", "ip"], "");
            let first = chains.lines().find_map(|l| l.trim().strip_prefix("chain "));
            let name = first.unwrap().split(' ').next().unwrap();
            let seen = daemon.log().matches("cause=drift").count();
            run("nft", &[&command.replace("nodes", name)], "");
            eventually("the repair", || whole() == before);
            eventually("the log line", || {
                daemon.log().matches("cause=drift").count() > seen
            });
        }
        let log = daemon.log();
        let repairs = log.lines().filter(|l| l.contains("cause=drift"));
        repairs.for_each(|line| assert!(line.contains("full=false"), "{line}"));
        // An element is another matter.
        run("nft", &["flush", "map", "ip", "svcnat", "service-ips"], "");
        eventually("the repair", || whole() == before);
        eventually("the log line", || {
            daemon.log().contains("cause=drift full=true")
        });
    });
}

#[test]
fn the_log_tells_what_started_which_services_changed_and_that_it_was_told_to_stop() {
    in_namespace(|| {
        let mut daemon = Daemon::start("tells", &["-vv", "--drift=report"]);
        let log = daemon.log();
        let banner = log.lines().find(|l| l.contains("svcnat starts")).unwrap();
        let version = concat!("version=", env!("CARGO_PKG_VERSION"));
        for part in [
            version,
            "node=n1",
            "sources=\"files: ",
            "drift=report",
            "10.254.0.0/16",
        ] {
            assert!(
                banner.to_lowercase().contains(part),
                "{part} is not in {banner}"
            );
        }
        let many: Vec<String> = (0..8)
            .map(|n| {
                let text = service(&format!("10.254.0.{}", 20 + n));
                text.replace("name: a", &format!("name: b{n}"))
            })
            .collect();
        daemon.write(&many.join("---\n"));
        eventually("the change", || frontends().contains("10.254.0.27"));
        eventually("the names", || daemon.log().contains("and 4 more"));
        daemon.stop();
        let log = daemon.log();
        let last = log.lines().last().unwrap();
        assert!(
            last.contains("told to stop") && last.contains("stay in force"),
            "{last}"
        );
        assert!(log.lines().count() < 40, "{log}");
    });
}

#[test]
fn long_reads_give_a_sign_of_life_with_each_page() {
    in_namespace(|| {
        let _daemon = Daemon::start("pages", &[]);
        let mut kernel = svcnat::netlink::Nfnetlink::open().unwrap();
        let pages = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&pages);
        kernel.on_progress(Box::new(move || counted.set(counted.get() + 1)));
        let live = kernel.read().unwrap();
        let sets: usize = live.tables.values().map(|table| table.sets.len()).sum();
        assert!(
            sets > 0 && pages.get() > sets,
            "{} pages, {sets} sets",
            pages.get()
        );
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
