//! The way back from an installation, in network namespaces with real connections: `apply
//! --confirm`, its guardian, `confirm`, `rollback`, and plans in files.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod connection;
mod lab;
mod plans;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use connection::{Connection, echo};
use lab::{Lab, Said, after, before};

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// An `apply --confirm` that waits.
struct Asking {
    child: Child,
    err: BufReader<ChildStderr>,
    guardian: i32,
}

impl Asking {
    /// Applies, and returns once it waits.
    fn start(lab: &Lab, input: &str, time: &str) -> Self {
        let mut child = lab
            .command(&["apply", "--confirm", time])
            .args(["-f", &lab.file("input.yaml", input)])
            .args(lab::SETTINGS)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let guardian = asked(&mut err);
        Self {
            child,
            err,
            guardian,
        }
    }

    /// How it ends.
    fn ends(mut self) -> Said {
        let code = self.child.wait().unwrap().code();
        let (mut out, mut err) = (String::new(), String::new());
        self.child.stdout.unwrap().read_to_string(&mut out).unwrap();
        self.err.read_to_string(&mut err).unwrap();
        Said { code, out, err }
    }
}

/// Reads until it asks; the guardian's process id.
fn asked(from: &mut impl BufRead) -> i32 {
    let mut seen = String::new();
    loop {
        let mut line = String::new();
        assert_ne!(
            from.read_line(&mut line).unwrap(),
            0,
            "it never asked: {seen}"
        );
        seen.push_str(&line);
        if let Some((_, rest)) = line.split_once("(process ") {
            assert!(line.contains("svcnat confirm"), "{line}");
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return digits.parse().unwrap();
        }
    }
}

fn is_alive(pid: i32) -> bool {
    // One that nobody waited for yet is gone all the same.
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit_once(')')
            .unwrap()
            .1
            .trim_start()
            .starts_with('Z')
    })
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
}

#[test]
fn who_cut_off_his_own_connection_gets_it_back_though_everything_of_his_is_gone() {
    let lab = Lab::new("cut");
    lab.apply(before());
    let old = lab.state();
    echo(&lab, 2222);
    let mut connection = Connection::open(&lab, 2222);
    assert!(connection.answers(LONG));
    // On a terminal of its own, whose other side closes.
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut child = Command::new("setsid")
        .args(["--ctty", "--wait", "ip", "netns", "exec", &lab.node])
        .arg(env!("CARGO_BIN_EXE_svcnat"))
        .args([
            "apply",
            "--confirm",
            "5s",
            "-f",
            &lab.file("input.yaml", after()),
        ])
        .args(lab::SETTINGS)
        .stdin(terminal.slave.try_clone().unwrap())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave)
        .spawn()
        .unwrap();
    let mut screen = BufReader::new(fs::File::from(terminal.master));
    let guardian = asked(&mut screen);
    let asking = fs::read_to_string(format!("/proc/{guardian}/stat")).unwrap();
    let fields: Vec<&str> = asking
        .rsplit_once(')')
        .unwrap()
        .1
        .split_whitespace()
        .collect();
    let (parent, session, terminal) = (fields[1], fields[3], fields[4]);
    assert_eq!(
        (session, terminal),
        (&*guardian.to_string(), "0"),
        "a session without a terminal"
    );
    assert_ne!(lab.state(), old, "nothing was applied");
    assert!(
        !connection.answers(Duration::from_millis(300)),
        "the change does not cut it"
    );
    // The asking process is killed, and its terminal goes.
    kill(parent.parse().unwrap());
    drop(screen);
    child.wait().unwrap();
    assert!(is_alive(guardian));
    // Meanwhile others are told who waits, whatever they want.
    let file = lab.file("input.yaml", before());
    for verb in [
        &["apply", "-f", &file][..],
        &["apply", "--confirm", "5s", "-f", &file],
        &["apply", "--beside-run", "-f", &file],
        &[
            "run",
            "-f",
            &file,
            "--healthz-bind-address=none",
            "--metrics-bind-address=none",
        ],
    ] {
        let said = lab.svcnat(&[verb, &lab::SETTINGS].concat());
        assert_eq!(said.code, Some(3), "{verb:?}: {said:?}");
        assert!(
            said.err.contains("waits for `svcnat confirm` until "),
            "{verb:?}: {said:?}"
        );
        assert!(
            said.err.contains(&guardian.to_string()),
            "{verb:?}: {said:?}"
        );
    }
    for verb in ["delete", "rollback"] {
        lab.svcnat(&[verb])
            .expect(3)
            .names("waits for `svcnat confirm` until ");
    }
    assert!(is_alive(guardian), "they took longer than the time");
    until("the state before is back", || lab.state() == old);
    assert!(connection.answers(LONG), "the connection did not survive");
    until("the guardian ends", || !is_alive(guardian));
    let late = lab.svcnat(&["confirm"]).expect(3);
    let late = late.names("nobody waits").names("the state before is back");
    assert!(late.err.contains("nobody confirmed in time"), "{late:?}");
    // It can be applied again, and there is nothing to go back to from what was never kept.
    lab.svcnat(&["rollback"])
        .expect(3)
        .names("no state to go back to");
    lab.apply(before());
}

#[test]
fn what_is_confirmed_stays_and_rollback_leads_back_from_it_once() {
    let lab = Lab::new("kept");
    lab.apply(before());
    lab.ip_forward("0");
    let old = lab.state();
    let asking = Asking::start(&lab, after(), "10m");
    let new = lab.state();
    assert_ne!(new, old);
    assert_eq!(lab.ip_forward_is(), "1");
    let said = lab.svcnat(&["confirm"]).expect(0);
    assert!(said.out.contains("what was applied stays"), "{said:?}");
    assert!(said.out.contains("element"), "{said:?}");
    let guardian = asking.guardian;
    asking.ends().expect(0).names("confirmed");
    until("the guardian ends", || !is_alive(guardian));
    assert_eq!(lab.state(), new);
    lab.svcnat(&["confirm"]).expect(3).names("nobody waits");
    let shown = lab.svcnat(&["rollback", "--dry-run"]).expect(0);
    assert!(
        shown.out.contains("10.244.9.0/24 via 192.0.2.2"),
        "{shown:?}"
    );
    assert_eq!(lab.state(), new);
    lab.svcnat(&["rollback"]).expect(0);
    assert_eq!(lab.state(), old);
    assert_eq!(lab.ip_forward_is(), "0");
    lab.svcnat(&["rollback"])
        .expect(3)
        .names("no state to go back to");
}

#[test]
fn a_key_on_the_terminal_confirms_too() {
    let lab = Lab::new("key");
    let terminal = nix::pty::openpty(None, None).unwrap();
    let mut child = lab
        .command(&["apply", "--confirm", "10m"])
        .args(["-f", &lab.file("input.yaml", before())])
        .args(lab::SETTINGS)
        .stdin(terminal.slave)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    asked(&mut err);
    fs::File::from(terminal.master).write_all(b"\n").unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lab.state().contains("10.96.0.10"));
}

#[test]
fn nobody_confirms_and_apply_says_so() {
    let lab = Lab::new("late");
    let old = lab.state();
    let asking = Asking::start(&lab, before(), "1s");
    asking.ends().expect(3).names("the state before is back");
    assert_eq!(lab.state(), old);
}

#[test]
fn what_others_change_meanwhile_stays_when_the_state_before_comes_back() {
    let lab = Lab::new("others");
    lab.apply(before());
    let asking = Asking::start(&lab, after(), "2s");
    lab.nft("add element ip svcnat cluster-ips { 10.96.77.7 }; add table ip theirs");
    asking.ends().expect(3).names("the state before is back");
    let now = lab.state();
    assert!(
        now.contains("10.96.77.7") && now.contains("table ip theirs"),
        "{now}"
    );
    lab.nft("delete element ip svcnat cluster-ips { 10.96.77.7 }; delete table ip theirs");
    lab.is(before());
}

#[test]
fn a_guardian_that_was_killed_is_named_and_rollback_leads_back() {
    let lab = Lab::new("killed");
    lab.apply(before());
    let old = lab.state();
    let asking = Asking::start(&lab, after(), "10m");
    let guardian = asking.guardian;
    kill(guardian);
    asking.ends().expect(3).names("svcnat rollback");
    let said = lab.svcnat(&["confirm"]).expect(3);
    let said = said.names("ended before its time").names("svcnat rollback");
    assert!(said.err.contains(&guardian.to_string()), "{said:?}");
    assert_ne!(lab.state(), old);
    lab.svcnat(&["rollback"]).expect(0);
    assert_eq!(lab.state(), old);
}

#[test]
fn a_guardian_that_is_told_to_end_puts_the_state_before_back_first() {
    let lab = Lab::new("term");
    lab.apply(before());
    let old = lab.state();
    let asking = Asking::start(&lab, after(), "10m");
    let guardian = nix::unistd::Pid::from_raw(asking.guardian);
    nix::sys::signal::kill(guardian, nix::sys::signal::SIGHUP).unwrap();
    assert_ne!(lab.state(), old);
    nix::sys::signal::kill(guardian, nix::sys::signal::SIGTERM).unwrap();
    asking
        .ends()
        .expect(3)
        .names("told to end")
        .names("the state before is back");
    assert_eq!(lab.state(), old);
}

#[test]
fn an_installation_that_ends_before_it_is_done_is_put_back_at_once() {
    let lab = Lab::new("half");
    lab.apply(before());
    let old = lab.state();
    lab.apply(after());
    // The guardian of an apply that is killed in the midst of it: what was to be changed is
    // kept, and nobody says that it is installed.
    let mut guardian = lab
        .command(&["guardian", "--time", "10m"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut from = BufReader::new(guardian.stdout.take().unwrap());
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut to = guardian.stdin.take().unwrap();
    to.write_all(b"begin\n").unwrap();
    lab.svcnat(&["confirm"]).expect(3).names("under way");
    drop(to);
    guardian.wait().unwrap();
    assert_eq!(lab.state(), old);
}

#[test]
fn rollback_is_refused_when_somebody_changed_what_was_left() {
    let lab = Lab::new("changed");
    lab.apply(before());
    let old = lab.state();
    lab.apply(after());
    lab.nft("delete element ip svcnat cluster-ips { 10.96.0.10 }");
    let left = lab.state();
    let said = lab.svcnat(&["rollback"]).expect(3);
    said.names("set cluster-ips of ip svcnat differs")
        .names("--force");
    assert_eq!(lab.state(), left);
    lab.svcnat(&["rollback", "--force"]).expect(0);
    lab.nft("add element ip svcnat cluster-ips { 10.96.0.10 comment \"default/web\" }");
    assert_eq!(lab.state(), old);
}

#[test]
fn nothing_to_change_is_nothing_to_confirm() {
    let lab = Lab::new("nothing");
    lab.apply(before());
    let file = lab.file("input.yaml", before());
    let verb = ["apply", "--confirm", "10m", "-f", &file];
    let said = lab.svcnat(&[&verb[..], &lab::SETTINGS].concat());
    said.expect(0).names("nothing to confirm");
    // And the place is free again.
    lab.apply(after());
    // What is deleted is not gone back from.
    lab.svcnat(&["delete"]).expect(0);
    lab.svcnat(&["rollback"])
        .expect(3)
        .names("no state to go back to");
}

#[test]
fn no_network_namespace_is_taken_for_one_that_went() {
    // An inode is given away again as soon as its namespace is gone.
    let one = || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        svcnat::undo::network_namespace().unwrap()
    };
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let number = std::thread::spawn(one).join().unwrap();
        assert!(seen.insert(number), "{number} was that of another");
        // Namespaces are taken down in the background.
        std::thread::sleep(Duration::from_millis(20));
    }
}
