//! Standard output and error that are full, closed or read by nobody: no verb panics, and its
//! exit code says what it did.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use support::{in_namespace, run};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: \
    10.254.0.10, ports: [{port: 80}]}\n";
/// One with a warning.
const ODD: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {clusterIP: \
    10.254.0.10, ports: [{port: 80}]}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
const INPUTS: &str = "-f - --node-name=n1 --service-cluster-ip-range=10.254.0.0/16 \
    --sysctls=ignore --manage-routes=false";
/// Every verb that ends by itself, the reading ones first; with inputs or without.
const VERBS: [(&str, bool); 20] = [
    ("render", true),
    ("render -o json", true),
    ("get services", true),
    ("get endpoints", true),
    ("get routes", true),
    ("get services -o json", true),
    ("explain 172.17.0.2 10.254.0.10:80/tcp", true),
    ("explain --live 172.17.0.2 10.254.0.10:80/tcp", true),
    ("completions bash", false),
    ("man", false),
    ("reference", false),
    ("version", false),
    ("--help", false),
    ("check", true),
    ("apply --dry-run=server", true),
    ("apply", true),
    ("diff", true),
    ("status", true),
    ("apply -o json", true),
    ("delete", false),
];

fn shell(verb: (&str, bool), redirect: &str) -> Output {
    let inputs = if verb.1 { INPUTS } else { "" };
    let script = format!(
        "{} {} {inputs} {redirect}",
        env!("CARGO_BIN_EXE_svcnat"),
        verb.0
    );
    let mut child = Command::new("sh")
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Some read no input.
    let _ = child.stdin.take().unwrap().write_all(ODD.as_bytes());
    child.wait_with_output().unwrap()
}

/// The verb's exit code with each stream as it should be.
fn code(verb: (&str, bool)) -> Option<i32> {
    shell(verb, "").status.code()
}

#[test]
fn a_standard_error_that_cannot_be_written_changes_no_verb() {
    in_namespace(|| {
        for redirect in ["2>/dev/full", "2>&-"] {
            for verb in VERBS {
                let expected = code(verb);
                // Once more: what was applied is, what was deleted is.
                let output = shell(verb, redirect);
                assert_eq!(output.status.code(), expected, "{verb:?} {redirect}");
            }
        }
    });
}

#[test]
fn a_standard_output_that_is_full_is_an_error_of_the_host_and_no_panic() {
    in_namespace(|| {
        for verb in VERBS {
            let output = shell(verb, ">/dev/full");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(!error.contains("panicked"), "{verb:?}: {error}");
            // `get routes` has nothing to print, and `diff` nothing new.
            let printed = !shell(verb, "").stdout.is_empty();
            if printed && !matches!(verb.0, "apply" | "apply -o json" | "delete") {
                assert_eq!(output.status.code(), Some(3), "{verb:?}: {error}");
                assert!(error.contains("cannot write output"), "{verb:?}: {error}");
            }
        }
    });
}

#[test]
fn a_reader_that_leaves_ends_a_verb_quietly() {
    in_namespace(|| {
        for verb in VERBS {
            let inputs = if verb.1 { INPUTS } else { "" };
            let words = [verb.0, inputs].join(" ");
            let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .args(words.split_whitespace())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            drop(child.stdout.take());
            let _ = child.stdin.take().unwrap().write_all(SERVICE.as_bytes());
            let output = child.wait_with_output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code().is_some(), "{verb:?}: a signal");
            assert!(
                !error.contains("panicked") && !error.contains("Broken"),
                "{verb:?}: {error}"
            );
        }
    });
}

#[test]
fn an_agent_whose_log_cannot_be_written_works_on() {
    in_namespace(|| {
        let folder = std::env::temp_dir().join(format!("svcnat-streams-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let file = folder.join("a.yaml");
        for (form, address) in [("logfmt", "10.254.0.11"), ("json", "10.254.0.12")] {
            fs::write(&file, ODD).unwrap();
            let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .arg("run")
                .arg("-f")
                .arg(&file)
                .args(INPUTS.split_whitespace().skip(2))
                .args(["--healthz-bind-address=none", "--metrics-bind-address=none"])
                .args(["--log-format", form])
                .stderr(
                    fs::OpenOptions::new()
                        .write(true)
                        .open("/dev/full")
                        .unwrap(),
                )
                .spawn()
                .unwrap();
            // No log says when it is up: a change that is followed does.
            let start = Instant::now();
            loop {
                fs::write(&file, ODD.replace("10.254.0.10", address)).unwrap();
                let list = Command::new("nft")
                    .args(["list", "ruleset"])
                    .output()
                    .unwrap();
                if String::from_utf8_lossy(&list.stdout).contains(address) {
                    break;
                }
                assert!(start.elapsed() < Duration::from_secs(20), "{form}");
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(child.try_wait().unwrap().is_none(), "it works on");
            run("kill", &[&child.id().to_string()], "");
            assert!(child.wait().unwrap().success(), "{form}");
        }
        fs::remove_dir_all(&folder).unwrap();
    });
}

#[test]
fn what_is_said_comes_in_whole_reports() {
    in_namespace(|| {
        // As many warnings as it takes for a pipe to mix two writers.
        let many: String = (0..200)
            .map(|n| format!("apiVersion: v1\nkind: Kind{n}\nmetadata: {{name: c}}\n---\n"))
            .collect();
        let path = std::env::temp_dir().join(format!("svcnat-report-{}", std::process::id()));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let children: Vec<_> = (0..4)
            .map(|_| {
                let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
                    .arg("render")
                    .args(INPUTS.split_whitespace())
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(log.try_clone().unwrap())
                    .spawn()
                    .unwrap();
                let mut input = child.stdin.take().unwrap();
                input
                    .write_all((many.clone() + SERVICE).as_bytes())
                    .unwrap();
                child
            })
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(&path).unwrap();
        // Each report whole: the notices of one program are in order, then those of the next.
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len() % 4, 0, "{}", lines.len());
        let report = lines.len() / 4;
        for other in lines.chunks(report) {
            assert_eq!(other, &lines[..report]);
        }
    });
}
