//! `svcnat run`: follows files, keeps the last good state, repairs what others change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::{in_namespace, run};

struct Daemon {
    folder: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts in the current namespace, with a folder of its own, and waits until it is up.
    fn start(name: &str, args: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("svcnat-run-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.yaml"), service("10.254.0.10")).unwrap();
        let child = Self::spawn(&folder, args);
        let daemon = Self { folder, child };
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
                "--sysctls=ignore",
                "-f",
            ])
            .arg(folder)
            .args(args)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    fn write(&self, text: &str) {
        fs::write(self.folder.join("new"), text).unwrap();
        fs::rename(self.folder.join("new"), self.folder.join("a.yaml")).unwrap();
    }

    fn stop(&mut self) {
        run("kill", &["-TERM", &self.child.id().to_string()], "");
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
