//! What a person sees at a terminal, and a file or a pipe does not.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::pty::openpty;

/// Longer than `svcnat` waits before it says anything.
const SLOW: Duration = Duration::from_millis(1500);

/// No objects, and no fault.
const NONE: &[u8] = br#"{"apiVersion": "v1", "kind": "List", "items": []}"#;

/// Renders an input that takes its time to come.
fn render(stderr: Stdio, more: &[&str]) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
        .args(["render", "--elements", "-f", "-", "--node-name=n1"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(stderr)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        std::thread::sleep(SLOW);
        stdin.write_all(NONE).unwrap();
    });
    child
}

/// What is on the screen after a slow verb with these flags.
fn slow(more: &[&str]) -> String {
    let terminal = openpty(None, None).unwrap();
    let child = render(terminal.slave.into(), more);
    let mut seen = Vec::new();
    let mut screen = File::from(terminal.master);
    let mut buffer = [0; 4096];
    // The last end of the other side closes with the child: then reading is an error.
    while let Ok(read @ 1..) = screen.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
    }
    child.wait_with_output().unwrap();
    String::from_utf8(seen).unwrap()
}

#[test]
fn quiet_work_is_not_said_on_a_terminal_either() {
    assert_eq!(slow(&["--quiet"]), "");
}

#[test]
fn slow_work_is_said_on_a_terminal_and_the_line_goes_when_it_is_done() {
    let seen = slow(&[]);
    assert!(seen.contains("reading the inputs"), "{seen:?}");
    // Carriage return, and erase the line.
    let after = seen.rsplit("reading the inputs").next().unwrap();
    assert!(after.contains("\r\u{1b}[2K"), "{seen:?}");
}

/// A plan on a terminal, in a network namespace of its own.
fn plan(no_color: &str) -> String {
    let terminal = openpty(None, None).unwrap();
    let mut child = Command::new("unshare")
        .args(["-n", env!("CARGO_BIN_EXE_svcnat")])
        .args(["diff", "-f", "-", "--node-name=n1", "--sysctls=ignore"])
        .args([
            "--manage-routes=false",
            "--service-cluster-ip-range=10.254.0.0/16",
        ])
        .env("NO_COLOR", no_color)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(terminal.slave)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(NONE).unwrap();
    let mut seen = Vec::new();
    let mut screen = File::from(terminal.master);
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = screen.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..read]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    String::from_utf8(seen).unwrap()
}

#[test]
fn a_plan_has_colours_on_a_terminal_unless_they_are_not_wanted() {
    let seen = plan("");
    assert!(seen.contains("\u{1b}[32m+"), "{seen:?}");
    let seen = plan("1");
    assert!(seen.contains("+ ") && !seen.contains('\u{1b}'), "{seen:?}");
}

#[test]
fn a_pipe_gets_no_progress() {
    let output = render(Stdio::piped(), &[]).wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!stderr.contains("reading the inputs"), "{stderr:?}");
    assert!(!stderr.contains('\u{1b}'), "{stderr:?}");
}
