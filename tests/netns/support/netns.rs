//! A network namespace of a test: the lab's, with a name for messages, and panics where
//! something cannot be done.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::thread;

use svcnat::lab::Namespace;

/// A network namespace of this process.
#[derive(Clone, Debug)]
pub struct Netns {
    label: Arc<str>,
    namespace: Namespace,
}

impl Netns {
    /// A new namespace. Needs root.
    pub fn new(label: &str) -> Self {
        let namespace = Namespace::new().expect("make a network namespace (run as root)");
        Self::of(label, &namespace)
    }

    /// One that a lab made.
    pub fn of(label: &str, namespace: &Namespace) -> Self {
        Self {
            label: label.into(),
            namespace: namespace.clone(),
        }
    }

    /// What tests call it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// As the lab has it.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// A path that other programs can open as long as this process lives, for `ip ... netns`.
    pub fn path(&self) -> String {
        self.namespace.path().display().to_string()
    }

    /// Runs `work` on a thread of its own inside the namespace. Sockets opened and programs
    /// started there belong to it.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.namespace.enter(work).expect("enter the namespace")
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
