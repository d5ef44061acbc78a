//! `svcnat run`: follows files, keeps the last good state, repairs what others change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
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
        let manager = UnixDatagram::bind(folder.join("notify")).unwrap();
        let limit = Some(Duration::from_secs(10));
        manager.set_read_timeout(limit).unwrap();
        let child = Self::spawn(&folder, args);
        let daemon = Self {
            folder,
            manager,
            child,
        };
        eventually("the first sync", || frontends().contains("10.254.0.10"));
        daemon
    }

    fn spawn(folder: &std::path::Path, args: &[&str]) -> Child {
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
            .arg(folder)
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
        let _ = fs::remove_dir_all(&self.folder);
    }
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
        .args(["list", "map", "ip", "svcnat", "frontends"])
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
