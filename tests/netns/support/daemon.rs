//! `svcnat run` on a node of a lab, its objects in a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::addr::{CLUSTER_CIDR, SERVICE_RANGE};
use super::lab::Lab;

/// Why the walker is not asked while a daemon is at work.
pub const FOLLOWED: &str = "what is in force is the daemon's, and changes";

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts on a node with these objects, and returns once they are in force.
    pub fn start(lab: &Lab, node: &str, objects: &str, args: &[&str]) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("svcnat-daemon-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).expect("make a folder");
        let file = folder.join("objects.json");
        fs::write(&file, objects).expect("write the objects");
        let log = fs::File::create(folder.join("log")).expect("make a log");
        let child = lab.at(node).enter(|| spawn(node, &file, args, log));
        let daemon = Self { folder, child };
        within(Duration::from_secs(20), "the first sync", || {
            daemon.log().contains("cause=start")
        });
        daemon
    }

    /// Other objects from now on.
    pub fn write(&self, objects: &str) {
        let new = self.folder.join("new");
        fs::write(&new, objects).expect("write the objects");
        fs::rename(new, self.folder.join("objects.json")).expect("replace the objects");
    }

    /// All it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).expect("read the log")
    }
}

fn spawn(node: &str, file: &Path, args: &[&str], log: fs::File) -> Child {
    Command::new(env!("CARGO_BIN_EXE_svcnat"))
        .args(["run", "--node-name", node, "--cluster-cidr", CLUSTER_CIDR])
        .args(["--service-cluster-ip-range", SERVICE_RANGE])
        .arg("-f")
        .arg(file)
        .args(args)
        .stdin(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("start svcnat")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, which the test has noticed otherwise.
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        fs::remove_dir_all(&self.folder).ok();
    }
}

/// Waits until something is so; how long that took. A panic if it takes longer than `limit`.
#[track_caller]
pub fn within(limit: Duration, what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "{what} did not come in {limit:?}");
        sleep(Duration::from_millis(10));
    }
    start.elapsed()
}
