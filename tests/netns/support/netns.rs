//! One network namespace without a name: made by a thread, entered by threads, held by an
//! open file. When the last descriptor closes the kernel takes it away with all that is in
//! it, so that a killed test run leaves nothing behind.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::{panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// Settings every namespace of a lab starts with, before it has a device: no waiting for
/// duplicate address detection, no source address checks inherited from the host, and as
/// many refusals a second as there are clients to refuse.
const SYSCTLS: [(&str, &str); 7] = [
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
];

/// A network namespace of this process.
#[derive(Clone, Debug)]
pub struct Netns {
    label: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// A new namespace with its loopback interface up. Needs root.
    pub fn new(label: &str) -> Self {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace (run as root)");
            for (name, value) in SYSCTLS {
                write_sysctl(name, value);
            }
            File::open("/proc/thread-self/ns/net").expect("open the new namespace")
        })
        .join()
        .unwrap_or_else(|panic| panic::resume_unwind(panic));
        Self {
            label: label.into(),
            file: Arc::new(file),
        }
    }

    /// What tests call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A path that other programs can open as long as this process lives, for `ip ... netns`.
    pub fn path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened and programs
    /// started there belong to it.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&*self.file, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                    work()
                })
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Runs a program inside, with `input` on its standard input.
    pub fn run(&self, program: &str, args: &[&str], input: &[u8]) -> Output {
        self.enter(|| {
            let mut child = Command::new(program)
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("start {program}: {error}"));
            let mut stdin = child.stdin.take().expect("the pipe asked for");
            thread::scope(|scope| {
                // A program that fails early leaves its input unread: its exit code and
                // message say more than the broken pipe.
                scope.spawn(move || stdin.write_all(input).ok());
                child.wait_with_output().expect("wait for the program")
            })
        })
    }

    /// Runs a program that must succeed; its standard output.
    pub fn must(&self, program: &str, args: &[&str], input: &str) -> String {
        let output = self.run(program, args, input.as_bytes());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "in {}: {program} {}: {}\n{stderr}\ninput:\n{input}",
            self.label,
            args.join(" "),
            output.status,
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a batch of `ip` commands, one a line.
    pub fn ip(&self, batch: &str) {
        self.must("ip", &["-batch", "-"], batch);
    }

    /// Loads a ruleset with `nft`: for foreign tables, and to try the lab itself.
    pub fn nft(&self, ruleset: &str) {
        self.must("nft", &["-f", "-"], ruleset);
    }

    /// `nft list ruleset`, without handles.
    pub fn ruleset(&self) -> String {
        self.must("nft", &["-s", "list", "ruleset"], "")
    }

    /// Sets a value below `net/` of `/proc/sys`.
    pub fn sysctl(&self, name: &str, value: &str) {
        self.enter(|| write_sysctl(name, value));
    }

    /// Reads a value below `net/` of `/proc/sys`.
    pub fn read_sysctl(&self, name: &str) -> String {
        self.enter(|| {
            fs::read_to_string(format!("/proc/sys/net/{name}"))
                .unwrap_or_else(|error| panic!("read net/{name}: {error}"))
                .trim()
                .to_owned()
        })
    }
}

fn write_sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/net/{name}"), value)
        .unwrap_or_else(|error| panic!("set net/{name} to {value}: {error}"));
}
