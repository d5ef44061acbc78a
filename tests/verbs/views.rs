//! What verbs show: the plan of `diff` and `apply -v`, and `status`.

use std::process::Command;

use super::program::svcnat;
use super::support::{in_namespace, run};
use super::{Folder, follows, services, with};

#[test]
fn a_plan_is_told_by_the_exit_code_alone_if_that_is_asked_for() {
    in_namespace(|| {
        let quiet = |verb: &[&str], code| {
            let said = with(verb, &services(&[1])).expect(code);
            assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""), "{verb:?}");
        };
        quiet(&["diff", "-q"], 1);
        quiet(&["diff", "-q", "-o", "json"], 1);
        quiet(&["apply", "--dry-run=server", "-q"], 0);
        quiet(&["apply", "-q"], 0);
        quiet(&["diff", "-q"], 0);
        with(&["diff", "-q"], "what: is this")
            .expect(2)
            .names(&["error"]);
    });
}

#[test]
fn a_plan_has_colours_where_they_are_asked_for_and_never_in_a_pipe() {
    in_namespace(|| {
        let plan = |color: &[&str]| {
            let verb = [&["diff"], color].concat();
            with(&verb, &services(&[1])).expect(1).out
        };
        let (pipe, never) = (plan(&[]), plan(&["--color=never"]));
        assert_eq!(pipe, never);
        assert!(!pipe.contains('\u{1b}'), "{pipe:?}");
        assert!(pipe.starts_with("+ Service default/s0 10.254.0.10:80/TCP  1 endpoint\n"));
        let always = plan(&["--color=always"]);
        assert!(
            always.starts_with("\u{1b}[32m+\u{1b}[0m Service "),
            "{always:?}"
        );
        assert_eq!(without_codes(&always), pipe);
    });
}

#[test]
fn apply_shows_the_plan_it_carries_out_if_told_to() {
    in_namespace(|| {
        let planned = with(&["diff", "-v"], &services(&[1])).expect(1).out;
        let planned = planned.rsplit_once("plan: ").unwrap().0.to_owned();
        let done = with(&["apply", "-v"], &services(&[1])).expect(0).out;
        assert!(done.starts_with(&planned), "{planned}\n{done}");
        assert!(done.contains("applied in one transaction"), "{done}");
    });
}

#[test]
fn status_tells_what_is_installed_who_keeps_it_and_what_is_wrong() {
    in_namespace(|| {
        let status = |code| svcnat(&["status"], "").expect(code).out;
        assert!(status(3).starts_with("not installed\n"));
        with(&["apply"], &services(&[2, 1])).expect(0);
        let said = status(0);
        assert!(
            said.starts_with("installed, no agent keeps it so\n"),
            "{said}"
        );
        assert!(
            said.contains("services    2 with 2 frontends and 3 endpoints\n"),
            "{said}"
        );
        assert!(!said.contains("attention"), "{said}");
        let said = with(&["status"], &services(&[2, 1])).expect(0).out;
        assert!(!said.contains("attention"), "{said}");
        let said = with(&["status"], &services(&[2])).expect(0).out;
        assert!(
            said.contains("attention   not as the inputs say: 0 to add, "),
            "{said}"
        );
        // Somebody takes an endpoint out.
        let list = run("nft", &["list", "map", "ip", "svcnat", "endpoints"], "");
        let (_, rest) = list.split_once("elements = { ").unwrap();
        let key = rest.split_once(" comment").unwrap().0;
        let element = format!("delete element ip svcnat endpoints {{ {key} }}");
        run("nft", &[&element], "");
        let said = status(0);
        assert!(
            said.contains("attention   1 frontend changed by another program"),
            "{said}"
        );
        let json = svcnat(&["status", "-o", "json"], "").expect(0).out;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&json["installed"], &json["frontends"]),
            (&true.into(), &2.into())
        );
        // Who may not look says so.
        let caps = ["--bounding-set=-net_admin", "--inh-caps=-net_admin"];
        let mut blind = Command::new("setpriv");
        blind
            .args(caps)
            .arg(env!("CARGO_BIN_EXE_svcnat"))
            .arg("status");
        let output = blind.output().unwrap();
        assert_eq!(output.status.code(), Some(4));
        assert!(String::from_utf8_lossy(&output.stderr).contains("CAP_NET_ADMIN"));
    });
}

#[test]
fn status_names_an_agent_that_does_not_answer() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("status"), Folder::new("status-log"));
        let agent = follows(&folder, &log);
        let pid = agent.child.id();
        let said = svcnat(&["status"], "").expect(0).out;
        let keeper = format!("installed, kept by svcnat run (process {pid}, since 20");
        assert!(said.starts_with(&keeper), "{said}");
        let silent = "attention   the agent does not answer at 127.0.0.1:10256: ";
        assert!(said.contains(silent), "{said}");
    });
}

/// A text without the codes of colours.
fn without_codes(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        let (_, rest) = part.split_once('m').unwrap();
        text + rest
    })
}
