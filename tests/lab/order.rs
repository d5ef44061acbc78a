//! Verbs at once, in an odd order, and ends at any moment: nothing is left but what `lab list`
//! names and `lab down` takes away.

use std::process::{Child, Command, Stdio};

use crate::{Lab, SHOP, soon};

fn start(lab: &Lab, args: &[&str]) -> Child {
    let (verb, rest) = args.split_first().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_svcnat"));
    command.args([&["lab", verb, "--name", &lab.name], rest].concat());
    command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn up(lab: &Lab) -> Child {
    start(lab, &["up", "-f", lab.input().to_str().unwrap()])
}

fn end(child: Child) -> (Option<i32>, String) {
    let done = child.wait_with_output().unwrap();
    (done.status.code(), String::from_utf8(done.stderr).unwrap())
}

/// The processes that keep this lab.
fn keepers(lab: &Lab) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let keeps = |pid: &String| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.contains(&format!("lab\0keep\0--name\0{}\0", lab.name))
    };
    let pids = processes.filter_map(|entry| entry.file_name().into_string().ok());
    pids.filter(keeps).collect()
}

fn nothing_is_left(lab: &Lab) {
    assert!(!lab.run_folder().exists());
    soon("no keeper is left", || keepers(lab).is_empty());
}

#[test]
fn of_several_at_once_one_wins_and_the_others_are_told() {
    let lab = Lab::new(SHOP);
    let all: Vec<Child> = (0..4).map(|_| up(&lab)).collect();
    let mut codes = Vec::new();
    for child in all {
        let (code, text) = end(child);
        assert!(
            code == Some(0) || text.contains("already"),
            "{code:?} {text}"
        );
        codes.push(code);
    }
    codes.sort();
    assert_eq!(codes, [Some(0), Some(2), Some(2), Some(2)]);
    assert_eq!(keepers(&lab).len(), 1);
    assert_eq!(lab.answerers("pod/visitor", "svc/web"), ["web-1", "web-2"]);
    let all: Vec<Child> = (0..3).map(|_| start(&lab, &["down"])).collect();
    for child in all {
        let (code, text) = end(child);
        assert!(
            code == Some(0) || text.contains("there is no lab"),
            "{code:?} {text}"
        );
    }
    nothing_is_left(&lab);
}

#[test]
fn what_is_asked_of_a_lab_that_is_being_built_waits_for_it() {
    let lab = Lab::new(SHOP);
    let building = up(&lab);
    soon("it has begun", || lab.run_folder().exists());
    lab.must(&["change", "-f", lab.input().to_str().unwrap()]);
    assert_eq!(end(building).0, Some(0));
    lab.must(&["down"]);
    let building = up(&lab);
    soon("it has begun", || lab.run_folder().exists());
    lab.must(&["down"]);
    nothing_is_left(&lab);
    end(building);
}

#[test]
fn a_keeper_that_is_killed_at_any_moment_leaves_what_can_be_taken_away() {
    let lab = Lab::new(SHOP);
    for delay in [0, 3, 10, 30, 60, 100, 200] {
        let building = up(&lab);
        soon("it has begun", || lab.run_folder().exists());
        std::thread::sleep(std::time::Duration::from_millis(delay));
        soon("somebody keeps it", || !keepers(&lab).is_empty());
        for pid in keepers(&lab) {
            Command::new("kill").args(["-9", &pid]).status().unwrap();
        }
        end(building);
        soon("it is killed", || keepers(&lab).is_empty());
        assert!(!lab.run(&["show"]).status.success());
        lab.must(&["down"]);
        nothing_is_left(&lab);
    }
}

#[test]
fn an_up_that_is_killed_takes_what_it_built_along() {
    let lab = Lab::new(SHOP);
    let mut building = up(&lab);
    soon("it has begun", || lab.run_folder().exists());
    building.kill().unwrap();
    building.wait().unwrap();
    // It may have been up before the signal came.
    soon("it is gone, or up", || {
        !lab.run_folder().exists() || lab.run(&["show"]).status.success()
    });
    if lab.run_folder().exists() {
        lab.must(&["down"]);
    }
    nothing_is_left(&lab);
}

#[test]
fn a_load_balancers_clients_follow_its_endpoint_to_another_node() {
    let at = |node| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: w, labels: {{app: web}}}}, spec: {{nodeName: {node},
  containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{type: LoadBalancer,
  externalTrafficPolicy: Local, selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}}}"
        )
    };
    let lab = Lab::up(&at("node1"), &[]);
    for node in ["node1", "node2", "node1"] {
        lab.write(&at(node));
        lab.must(&["change", "-f", lab.input().to_str().unwrap()]);
        let asked = lab.ask("client", "lb/web", 1);
        assert_eq!(
            asked,
            [("w".to_owned(), "203.0.113.9".to_owned())],
            "{node}"
        );
    }
}

#[test]
fn what_runs_in_a_pod_ends_with_it() {
    let lab = Lab::up(SHOP, &[]);
    let said = "echo inside >&2; exec sleep 1000";
    let mut inside = start(&lab, &["exec", "pod/visitor", "--", "sh", "-c", said]);
    let mut stays = start(&lab, &["exec", "pod/web-1", "--", "sleep", "1000"]);
    let mut begun = [0; 6];
    let stderr = inside.stderr.as_mut().unwrap();
    std::io::Read::read_exact(stderr, &mut begun).unwrap();
    lab.write(&SHOP.replace("name: visitor", "name: guest"));
    lab.must(&["change", "-f", lab.input().to_str().unwrap()]);
    let mut ended = None;
    for _ in 0..2000 {
        ended = inside.try_wait().unwrap();
        if ended.is_some() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
    assert_eq!(stays.try_wait().unwrap(), None);
    lab.must(&["down"]);
    assert!(!stays.wait().unwrap().success());
}

#[test]
fn few_descriptors_at_the_terminal_are_no_limit() {
    let lab = Lab::new(SHOP);
    let script = "ulimit -S -n 24; exec \"$@\"";
    let program = env!("CARGO_BIN_EXE_svcnat");
    let input = lab.input();
    let flags = [
        "lab",
        "up",
        "--name",
        &lab.name,
        "-f",
        input.to_str().unwrap(),
    ];
    let mut shell = Command::new("sh");
    let done = shell
        .args(["-c", script, "sh", program])
        .args(flags)
        .output()
        .unwrap();
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{text}");
}
