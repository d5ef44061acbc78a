//! Network namespaces without names: each lives as long as the value that stands for it.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub struct Netns(File);

impl Netns {
    /// A new one with its loopback interface up.
    pub fn new() -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("cannot make a network namespace");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let netns = Self(file.join().unwrap());
        netns.sh("ip link set lo up");
        netns
    }

    /// Runs `work` in a thread inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs shell commands inside; returns what they print.
    pub fn sh(&self, script: &str) -> String {
        let output = self.run(|| {
            let mut command = Command::new("sh");
            command.args(["-e", "-c", script]).output().unwrap()
        });
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// How `ip link ... netns` finds it.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Joins it with `other` by a veth pair: `veth0` with `addr` here, and with
    /// `other_addr` there (prefixes).
    pub fn connect(&self, addr: &str, other: &Self, other_addr: &str) {
        let path = other.path();
        self.sh(&format!(
            "ip link add veth0 type veth peer name veth0 netns {path}; \
             ip addr add {addr} dev veth0; ip link set veth0 up"
        ));
        other.sh(&format!(
            "ip addr add {other_addr} dev veth0; ip link set veth0 up"
        ));
    }
}
