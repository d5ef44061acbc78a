//! `svcnat get`: what was applied is what the kernel is found to hold, and lists as one asks.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{Said, svcnat};
use serde_json::{Value, json};
use support::{in_namespace, run};

const SVCNAT: &str = env!("CARGO_BIN_EXE_svcnat");

fn rulesets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rulesets")
}

fn inputs(folder: &Path) -> [String; 4] {
    let path = |file: &str| folder.join(file).display().to_string();
    [
        "-f".into(),
        path("input.yaml"),
        "--config".into(),
        path("config.yaml"),
    ]
}

fn get(args: &[&str], inputs: &[String]) -> String {
    let inputs = inputs.iter().map(String::as_str);
    let all: Vec<&str> = ["get"]
        .into_iter()
        .chain(args.iter().copied())
        .chain(inputs)
        .collect();
    run(SVCNAT, &all, "")
}

fn items(args: &[&str], inputs: &[String]) -> Vec<Value> {
    let all = [args, &["-o", "json"]].concat();
    let list: Value = serde_json::from_str(&get(&all, inputs)).unwrap();
    list["items"].as_array().unwrap().clone()
}

/// What the kernel alone cannot tell, or only less exactly, is taken out of what was planned.
fn as_installed(resource: &str, mut row: Value) -> Option<Value> {
    let object = row.as_object_mut().unwrap();
    match resource {
        "endpoints" => {
            let from_inside = |policy: &Value| *policy == json!("Local (from inside)");
            if let Some(policy) = object.remove("policy").filter(from_inside) {
                object.insert("policy".into(), policy);
            }
            assert_eq!(object["kind"], json!("Endpoints"));
            let kind = object["frontendKind"].as_str().unwrap().to_owned();
            if kind == "ExternalIP" || kind == "LoadBalancer" {
                object.insert("frontendKind".into(), json!("External"));
            }
        }
        "services" => {
            // Headless Services are not installed.
            if object["clusterIPs"].as_array().unwrap().is_empty() {
                return None;
            }
            for field in ["type", "selector", "creationTimestamp"] {
                object.remove(field);
            }
            // Nor are external addresses of a family that the Service does not have.
            let six = |ip: &Value| ip.as_str().unwrap().contains(':');
            let own: Vec<bool> = object["clusterIPs"]
                .as_array()
                .unwrap()
                .iter()
                .map(six)
                .collect();
            if let Some(external) = object["externalIPs"].as_array_mut() {
                external.retain(|ip| own.contains(&six(ip)));
            }
            for ips in ["clusterIPs", "externalIPs"] {
                let mut sorted = object[ips].as_array().unwrap().clone();
                sorted.sort_by_key(Value::to_string);
                object.insert(ips.into(), sorted.into());
            }
        }
        _ => {}
    }
    Some(row)
}

#[test]
fn what_is_installed_is_what_was_applied() {
    let mut seen = 0;
    for folder in fs::read_dir(rulesets()).unwrap() {
        let folder = folder.unwrap().path();
        if !folder.is_dir() {
            continue;
        }
        let inputs = inputs(&folder);
        in_namespace(|| {
            let apply = ["apply", "--manage-routes=false", "--sysctls=ignore"];
            let all: Vec<&str> = apply
                .into_iter()
                .chain(inputs.iter().map(String::as_str))
                .collect();
            run(SVCNAT, &all, "");
            for resource in ["services", "endpoints", "hostports"] {
                let all = |rows: Vec<Value>| -> Vec<Value> {
                    rows.into_iter()
                        .filter_map(|row| as_installed(resource, row))
                        .collect()
                };
                // Other proxies' Services are planned by nobody here.
                let own: &[&str] = match resource {
                    "services" => &["-l", "!service.kubernetes.io/service-proxy-name"],
                    _ => &[],
                };
                let planned = all(items(&[&[resource], own].concat(), &inputs));
                let live = all(items(&[resource, "--live"], &[]));
                assert_eq!(live, planned, "{resource} of {}", folder.display());
                seen += live.len();
            }
        });
    }
    assert!(seen > 25, "{seen}");
}

const TWO: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "a"},
     "spec": {"clusterIP": "10.254.0.1", "ports": [{"name": "http", "port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "b"},
     "spec": {"clusterIP": "10.254.0.2", "ports": [{"port": 80}, {"port": 53, "protocol": "UDP"}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "namespace": "b"},
     "spec": {"clusterIP": "10.254.0.3", "ports": [{"port": 5432}]}}]}"#;

/// Exit code, what was printed, and what was said.
fn of_two(args: &[&str]) -> (i32, String, String) {
    use std::io::Write as _;
    let base = [
        "-f",
        "-",
        "--node-name=n",
        "--service-cluster-ip-range=10.254.0.0/16",
    ];
    let mut child = Command::new(SVCNAT)
        .arg("get")
        .args(args)
        .args(base)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(TWO.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code().unwrap(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn objects_are_chosen_by_namespace_and_name() {
    let names = |args: &[&str]| {
        let (code, out, error) = of_two(&[args, &["-o", "name"]].concat());
        assert_eq!(code, 0, "{error}");
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["service/a/web", "service/b/db", "service/b/web"];
    assert_eq!(names(&["services"]), all);
    assert_eq!(names(&["svc", "-A"]), all);
    assert_eq!(
        names(&["services", "-n", "b"]),
        ["service/db", "service/web"]
    );
    assert_eq!(
        names(&["services", "web"]),
        ["service/a/web", "service/b/web"]
    );
    assert_eq!(
        names(&["services", "b/web", "a/web"]),
        ["service/a/web", "service/b/web"]
    );
    assert_eq!(names(&["services", "web", "-n", "a"]), ["service/web"]);
}

#[test]
fn a_name_that_is_not_there_is_said_and_fails() {
    let (code, out, error) = of_two(&["services", "web", "a/db", "nobody"]);
    assert_eq!(code, 2);
    assert!(
        out.contains("10.254.0.1") && !out.contains("10.254.0.3"),
        "{out}"
    );
    for missing in ["a/db", "nobody"] {
        assert!(
            error.contains(&format!("service {missing} not found")),
            "{error}"
        );
    }
    assert!(!error.contains("service web"), "{error}");
}

#[test]
fn json_and_yaml_hold_the_same_typed_objects() {
    let (_, text, _) = of_two(&["services", "b/web", "-o", "json"]);
    let list: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({"kind": "List", "items": [{
        "kind": "Service", "namespace": "b", "name": "web", "type": "ClusterIP",
        "clusterIPs": ["10.254.0.2"], "externalIPs": [],
        "ports": [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        "endpoints": 0, "selector": {}}]});
    assert_eq!(list, expected);
    let (_, text, _) = of_two(&["services", "b/web", "-o", "yaml"]);
    let yaml: Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(yaml, expected, "{text}");
}

#[test]
fn of_one_namespace_the_column_is_left_out() {
    let (_, out, _) = of_two(&["services", "-n", "a"]);
    assert!(out.starts_with("NAME  "), "{out}");
    let (code, out, error) = of_two(&["services", "-n", "nowhere"]);
    assert_eq!((code, out.as_str()), (0, ""));
    assert!(error.contains("No resources found"), "{error}");
}

/// Objects of each kind with labels, on node n.
const LABELLED: &str = r#"{"apiVersion": "v1", "kind": "List", "items": [
    {"apiVersion": "v1", "kind": "Service",
     "metadata": {"name": "web", "labels": {"app": "web", "tier": "front"}},
     "spec": {"clusterIP": "10.254.0.1", "ports": [{"port": 80}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db", "labels": {"app": "db"}},
     "spec": {"clusterIP": "10.254.0.2", "ports": [{"port": 5432}]}},
    {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "plain"},
     "spec": {"clusterIP": "10.254.0.3", "ports": [{"port": 80}]}},
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"app": "web"}},
     "spec": {"nodeName": "n", "containers":
        [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]},
     "status": {"phase": "Running", "podIP": "172.17.0.2"}},
    {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "b"},
     "spec": {"nodeName": "n", "containers":
        [{"name": "c", "ports": [{"containerPort": 81, "hostPort": 81}]}]},
     "status": {"phase": "Running", "podIP": "172.17.0.3"}},
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"},
     "spec": {"podCIDR": "172.17.0.0/24"},
     "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]}},
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "m", "labels": {"rack": "1"}},
     "spec": {"podCIDR": "172.17.1.0/24"},
     "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.2"}]}},
    {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "o", "labels": {"rack": "2"}},
     "spec": {"podCIDR": "172.17.2.0/24"},
     "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.3"}]}}]}"#;

fn of_labelled(args: &[&str]) -> Said {
    let all = [&["get"], args, &["-f", "-", "--node-name=n"]].concat();
    svcnat(&all, LABELLED)
}

#[test]
fn objects_are_chosen_by_their_labels() {
    for (resource, selector, expected) in [
        ("services", "app=web", &["service/default/web"][..]),
        (
            "services",
            "app in (web, db),!tier",
            &["service/default/db"],
        ),
        (
            "services",
            "app!=web",
            &["service/default/db", "service/default/plain"],
        ),
        ("services", "!app", &["service/default/plain"]),
        (
            "services",
            "",
            &[
                "service/default/db",
                "service/default/plain",
                "service/default/web",
            ],
        ),
        ("services", "app=other", &[]),
        // As an EndpointSlice has them.
        ("endpoints", "tier", &["endpoints/default/web"]),
        (
            "endpoints",
            "kubernetes.io/service-name=plain",
            &["endpoints/default/plain"],
        ),
        ("hostports", "app=web", &["hostport/default/a"]),
        ("hostports", "app notin (web)", &["hostport/default/b"]),
        ("routes", "rack=2", &["route/172.17.2.0/24"]),
        ("routes", "!rack", &[]),
    ] {
        let said = of_labelled(&[resource, "-l", selector, "-o", "name"]);
        assert_eq!(said.code, Some(0), "{resource} {selector}: {}", said.err);
        let names: Vec<&str> = said.out.lines().collect();
        assert_eq!(names, expected, "{resource} {selector}");
    }
}

#[test]
fn labels_that_cannot_be_selected_by_are_bad_usage() {
    for (args, expected) in [
        (
            &["services", "-l", "app in web"][..],
            "values in parentheses",
        ),
        (&["services", "web", "-l", "app=web"], "cannot be used with"),
    ] {
        let said = of_labelled(args);
        assert_eq!(said.code, Some(2), "{args:?}");
        assert!(said.err.contains(expected), "{args:?}: {}", said.err);
    }
    let said = svcnat(&["get", "services", "--live", "-l", "app"], "");
    assert_eq!(said.code, Some(2));
    assert!(
        said.err.contains("the kernel holds no labels"),
        "{}",
        said.err
    );
}
