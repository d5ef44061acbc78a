//! What all verbs have: another network namespace, and silence.

use std::fs;

use super::program::svcnat;
use super::support::{in_namespace, run};
use super::{Agent, Folder, SETTINGS, eventually, ruleset, services, with};

/// A network namespace with a name, which goes with the test.
struct Named(String);

impl Named {
    fn new(name: &str) -> Self {
        let name = format!("svcnat-{name}-{}", std::process::id());
        run("ip", &["netns", "add", &name], "");
        Self(name)
    }

    fn sh(&self, script: &str) -> String {
        run("ip", &["netns", "exec", &self.0, "sh", "-ec", script], "")
    }

    /// A verb with inputs, acting on it.
    fn ask(&self, verb: &[&str]) -> super::Said {
        with(&[verb, &["--netns", &self.0]].concat(), &services(&[2]))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        run("ip", &["netns", "delete", &self.0], "");
    }
}

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

#[test]
fn another_network_namespace_is_read_and_changed_and_this_one_is_not() {
    in_namespace(|| {
        let there = Named::new("there");
        let here = |value: &str| run("sh", &["-ec", &format!("echo {value} >{FORWARD}")], "");
        // Each value on the other side, so that a look at the wrong one shows.
        here("1");
        there.sh(&format!("echo 0 >{FORWARD}"));
        let check = ["check", "--sysctls=check"];
        let input = services(&[2]);
        let args = ["--node-name=n1", "--service-cluster-ip-range=10.254.0.0/16"];
        let ask = |verb: &[&str]| {
            let netns = ["--netns", &there.0, "--manage-routes=false", "-f", "-"];
            svcnat(&[verb, &netns, &args].concat(), &input)
        };
        ask(&check).expect(1).shows(&["net.ipv4.ip_forward"]);
        ask(&["diff", "--sysctls=apply"])
            .expect(1)
            .shows(&["net.ipv4.ip_forward"]);
        here("0");
        ask(&["apply", "--sysctls=apply"])
            .expect(0)
            .shows(&["applied", "net.ipv4.ip_forward = 1 (was 0)"]);
        assert_eq!(ruleset(), "");
        assert_eq!(run("cat", &[FORWARD], ""), "0\n");
        assert_eq!(there.sh(&format!("cat {FORWARD}")), "1\n");
        assert!(there.sh("nft list ruleset").contains("table ip svcnat"));
        let said = ask(&[&check[..], &["--cluster-cidr=10.0.0.0/16"]].concat()).expect(0);
        assert!(!said.out.contains("ip_forward"), "{}", said.out);
        ask(&["diff", "--sysctls=apply"]).expect(0);

        let path = format!("/run/netns/{}", there.0);
        svcnat(&["status", "--netns", &path], "").expect(0);
        svcnat(&["status"], "").expect(3);
        svcnat(&["get", "endpoints", "--live", "--netns", &there.0], "")
            .expect(0)
            .shows(&["172.17.0.1:80"]);
        let packet = ["10.0.0.1", "10.254.0.10:80", "--live"];
        there
            .ask(&[&["explain"], &packet[..]].concat())
            .shows(&["172.17.0.2:80"]);
        svcnat(&["delete", "--netns", &there.0], "").expect(0);
        assert_eq!(there.sh("nft list ruleset"), "");
    });
}

#[test]
fn an_agent_keeps_another_network_namespace_and_is_in_nobodys_way_here() {
    in_namespace(|| {
        let there = Named::new("kept");
        let folder = Folder::new("kept");
        let input = folder.0.join("services.yaml");
        fs::write(&input, services(&[1])).unwrap();
        let log = folder.0.join("log");
        let agent = Agent::start(&input, &log, &["--netns", &there.0, "-q"]);
        eventually("rules there", || {
            there.sh("nft list ruleset").contains("172.17.0.1")
        });
        assert_eq!(ruleset(), "");
        there.ask(&["apply"]).expect(3).names(&["svcnat run"]);
        with(&["apply"], &services(&[1])).expect(0);
        assert_eq!(agent.log(), "", "nothing but errors");
    });
}

#[test]
fn a_network_namespace_that_is_none_is_named_with_the_reason() {
    in_namespace(|| {
        let there = Named::new("near");
        let typo = there.0.replace("near", "naer");
        let input = services(&[1]);
        with(&["apply", "--netns", &typo], &input)
            .expect(2)
            .names(&[&typo, "No such file", &format!("did you mean {}?", there.0)]);
        // Whoever named it is mistaken, not the host.
        with(&["apply", "--netns", "/dev/null"], &input)
            .expect(2)
            .names(&["/dev/null", "no network namespace"]);
        svcnat(&["status", "--netns", "/dev/null"], "")
            .expect(2)
            .names(&["/dev/null", "no network namespace"]);
        assert_eq!(ruleset(), "");
    });
}

#[test]
fn quiet_verbs_say_errors_alone_and_their_exit_code_the_rest() {
    in_namespace(|| {
        // With a warning.
        let odd = services(&[1]) + "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
        let without = with(&["render"], &odd).expect(0);
        assert!(
            !without.out.is_empty() && without.err.contains("ConfigMap"),
            "{}",
            without.err
        );
        let quiet = |verb: &[&str], code| {
            let said = with(&[verb, &["--quiet"]].concat(), &odd).expect(code);
            assert_eq!((said.out.as_str(), said.err.as_str()), ("", ""), "{verb:?}");
        };
        for (verb, code) in [
            (&["render"][..], 0),
            (&["get", "services", "-o", "json"], 0),
            (&["explain", "10.0.0.1", "10.254.0.10:80"], 0),
            (&["check"], 1),
            (&["check", "--cluster-cidr=10.0.0.0/16"], 0),
            (&["status"], 3),
            (&["diff"], 1),
            (&["apply", "--dry-run"], 0),
            (&["apply"], 0),
            (&["diff"], 0),
            (&["status"], 0),
        ] {
            quiet(verb, code);
        }
        let said = svcnat(&["delete", "-q"], "").expect(0);
        assert_eq!((said.out, said.err), (String::new(), String::new()));
        let said = with(&["get", "services", "nobody", "-q"], &odd).expect(2);
        assert_eq!(
            (said.out.as_str(), said.err.as_str()),
            ("", "error: service nobody not found\n")
        );
        let said = with(&["render", "-q"], "what: is this").expect(2);
        assert!(
            said.err.lines().all(|line| line.starts_with("error: ")),
            "{}",
            said.err
        );
        let args = [&["diff", "-q", "-v", "-f", "-"], &SETTINGS[..]].concat();
        svcnat(&args, "").expect(2).names(&["--quiet", "--verbose"]);
    });
}

#[test]
fn the_version_is_said_to_programs_too() {
    let said = svcnat(&["version", "-o", "json"], "").silent();
    let json: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(json["name"], "svcnat");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        json["features"],
        serde_json::json!(["cli", "cluster", "daemon"])
    );
    assert!(json["planVersion"].is_u64() && json["stateFileVersion"].is_u64());
    let first = format!("svcnat {}\n", env!("CARGO_PKG_VERSION"));
    assert!(svcnat(&["version"], "").silent().out.starts_with(&first));
    assert_eq!(svcnat(&["--version"], "").silent().out, first);
}
