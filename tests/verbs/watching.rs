//! `svcnat get -w`: the list, then what changes, until somebody has had enough.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::program::svcnat;
use super::support::{in_namespace, run};
use super::{Folder, SETTINGS, services, with};

/// A machine that does much else gets there in time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `get -w`, of which lines are read as they come.
struct Watching {
    child: Child,
    lines: Receiver<String>,
    said: ChildStderr,
}

impl Watching {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(["get", "-w"])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = channel();
        let out: ChildStdout = child.stdout.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                // The test may have seen enough.
                let _ = sender.send(line);
            }
        });
        let said = child.stderr.take().unwrap();
        Self { child, lines, said }
    }

    fn of_files(folder: &Path, args: &[&str]) -> Self {
        let folder = folder.to_str().unwrap();
        Self::start(&[args, &["-f", folder], &SETTINGS].concat())
    }

    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("another line")
    }

    #[track_caller]
    fn event(&self) -> (String, Value) {
        let event: Value = serde_json::from_str(&self.line()).unwrap();
        let kind = event["type"].as_str().unwrap().to_owned();
        (kind, event["object"].clone())
    }

    /// Ends it; how it ended, and everything on standard error.
    fn end(mut self, signal: &str) -> (ExitStatus, String) {
        run("kill", &["-s", signal, &self.child.id().to_string()], "");
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.said.read_to_string(&mut said).unwrap();
        (status, said)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Gone already, if all went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn put(folder: &Path, text: &str) {
    let new: PathBuf = folder.join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, folder.join("a.yaml")).unwrap();
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn changed_files_show_the_rows_that_changed_and_which_are_gone() {
    let folder = Folder::new("watch-files");
    put(&folder.0, &services(&[1, 2]));
    let watching = Watching::of_files(&folder.0, &["services"]);
    assert_eq!(words(&watching.line())[..2], ["NAMESPACE", "NAME"]);
    assert_eq!(words(&watching.line())[1], "s0");
    assert_eq!(words(&watching.line())[1], "s1");
    // One changes; the other is not shown again.
    put(&folder.0, &services(&[1, 3]));
    let line = watching.line();
    assert_eq!((words(&line)[1], words(&line)[7]), ("s1", "3"), "{line}");
    // What cannot be read changes nothing.
    put(&folder.0, "kind: [");
    std::thread::sleep(Duration::from_millis(300));
    put(&folder.0, &services(&[1, 3, 1]));
    let line = watching.line();
    assert_eq!(words(&line)[1], "s2", "{line}");
    put(&folder.0, &services(&[1]));
    assert_eq!(watching.line(), "service/default/s1 deleted");
    assert_eq!(watching.line(), "service/default/s2 deleted");
    let (status, said) = watching.end("INT");
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("error: "), "{said}");
}

#[test]
fn each_change_is_a_document_of_its_own() {
    let folder = Folder::new("watch-json");
    put(&folder.0, &services(&[1]));
    let watching = Watching::of_files(&folder.0, &["endpoints", "-o", "json"]);
    let (kind, object) = watching.event();
    assert_eq!(kind, "ADDED");
    assert_eq!(object["kind"], json!("Endpoints"));
    assert_eq!(object["endpoints"].as_array().unwrap().len(), 1);
    put(&folder.0, &services(&[2]));
    let (kind, object) = watching.event();
    assert_eq!(kind, "MODIFIED");
    assert_eq!(object["endpoints"].as_array().unwrap().len(), 2);
    put(&folder.0, "# nothing\n");
    let (kind, object) = watching.event();
    assert_eq!(
        (kind.as_str(), &object["service"]),
        ("DELETED", &json!("s0"))
    );
    assert_eq!(watching.end("TERM").0.code(), Some(0));
}

#[test]
fn what_is_installed_is_watched_from_the_kernel_alone() {
    in_namespace(|| {
        with(&["apply"], &services(&[1, 1])).expect(0);
        let watching = Watching::start(&["endpoints", "--live", "-o", "name"]);
        assert_eq!(watching.line(), "endpoints/default/s0");
        assert_eq!(watching.line(), "endpoints/default/s1");
        // Another program's commit is another generation, and no change of ours.
        run("nft", &["add", "table", "ip", "other"], "");
        with(&["apply"], &services(&[1, 2])).expect(0);
        assert_eq!(watching.line(), "endpoints/default/s1");
        svcnat(&["delete"], "").expect(0);
        assert_eq!(
            watching.line(),
            "endpoints/default/s0 10.254.0.10:80/TCP deleted"
        );
        assert_eq!(
            watching.line(),
            "endpoints/default/s1 10.254.0.11:80/TCP deleted"
        );
        let (status, said) = watching.end("INT");
        assert_eq!((status.code(), said.as_str()), (Some(0), ""));
    });
}

#[test]
fn installed_routes_are_watched_too() {
    in_namespace(|| {
        run(
            "ip",
            &["link", "add", "d0", "type", "veth", "peer", "d1"],
            "",
        );
        run("ip", &["link", "set", "d1", "up"], "");
        run("ip", &["address", "add", "192.0.2.1/24", "dev", "d0"], "");
        run("ip", &["link", "set", "d0", "up"], "");
        let route = |verb| {
            let to = ["172.17.1.0/24", "via", "192.0.2.2", "proto", "178"];
            run("ip", &[&["route", verb][..], &to].concat(), "");
        };
        route("add");
        let watching = Watching::start(&["routes", "--live", "-o", "name"]);
        assert_eq!(watching.line(), "route/172.17.1.0/24");
        route("delete");
        assert_eq!(watching.line(), "route/172.17.1.0/24 deleted");
        route("add");
        assert_eq!(watching.line(), "route/172.17.1.0/24");
        assert_eq!(watching.end("TERM").0.code(), Some(0));
    });
}

#[test]
fn it_ends_when_nobody_reads_any_more() {
    in_namespace(|| {
        with(&["apply"], &services(&[1])).expect(0);
        let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(["get", "services", "-w", "--live"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        assert!(line.starts_with("NAMESPACE"), "{line}");
        // Without a change, and so without anything to write.
        drop(out);
        super::eventually("the end", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn a_pipe_cannot_be_watched_and_a_name_that_is_not_there_is_said_at_once() {
    with(&["get", "services", "-w"], &services(&[1]))
        .expect(2)
        .names(&["standard input has only one reading"]);
    let folder = Folder::new("watch-absent");
    put(&folder.0, &services(&[1]));
    let file = folder.0.join("a.yaml");
    let args = [
        "get",
        "services",
        "nobody",
        "-w",
        "-f",
        file.to_str().unwrap(),
    ];
    svcnat(&[&args[..], &SETTINGS].concat(), "")
        .expect(2)
        .names(&["service nobody not found"]);
}
