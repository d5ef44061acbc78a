//! The program as it is called: arguments and standard input in, and what it said.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part"
)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// What a verb said.
#[derive(Debug)]
pub struct Said {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// It must have ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    /// All of this must be on standard error.
    #[track_caller]
    pub fn names(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "{part:?} is not in:\n{}", self.err);
        }
        self
    }

    /// All of this must be on standard output.
    #[track_caller]
    pub fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "{part:?} is not in:\n{}", self.out);
        }
        self
    }

    /// It must have succeeded without a word on standard error.
    #[track_caller]
    pub fn silent(self) -> Self {
        assert_eq!(self.err, "");
        self.expect(0)
    }
}

/// Runs svcnat with this standard input.
pub fn svcnat(args: &[&str], input: &(impl AsRef<[u8]> + ?Sized)) -> Said {
    let input = input.as_ref();
    let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // A verb that fails early need not read all of its input.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    output.into()
}
