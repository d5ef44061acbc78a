//! The lab by its verbs, as a user has it: what comes up, who answers whom, what changes, and
//! that nothing is left. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod examples;
mod objects;
mod odd;
mod order;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A lab with a name of its own; it goes with the test.
struct Lab {
    name: String,
    folder: PathBuf,
}

fn svcnat(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svcnat"));
    command.args(args).output().unwrap()
}

impl Lab {
    /// Nothing yet, with a folder of manifests.
    fn new(manifests: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(format!("svcnat-lab-{name}"));
        std::fs::create_dir_all(folder.join("in")).unwrap();
        let lab = Self { name, folder };
        lab.write(manifests);
        lab
    }

    fn up(manifests: &str, more: &[&str]) -> Self {
        let lab = Self::new(manifests);
        lab.must_up(more);
        lab
    }

    fn must_up(&self, more: &[&str]) -> String {
        let input = self.input();
        self.must(&[&["up", "-f", input.to_str().unwrap()], more].concat())
    }

    fn input(&self) -> PathBuf {
        self.folder.join("in")
    }

    fn write(&self, manifests: &str) {
        std::fs::write(self.input().join("all.yaml"), manifests).unwrap();
    }

    fn topology(&self, text: &str) -> String {
        let path = self.folder.join("topology.yaml");
        let text = format!("apiVersion: svcnat/v1alpha1\nkind: Topology\n{text}");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A verb about this lab: `--name` stands before what is for a program.
    fn run(&self, args: &[&str]) -> Output {
        let (verb, rest) = args.split_first().unwrap();
        svcnat(&[&["lab", verb, "--name", &self.name], rest].concat())
    }

    fn must(&self, args: &[&str]) -> String {
        let done = self.run(args);
        let stderr = String::from_utf8_lossy(&done.stderr);
        assert!(
            done.status.success(),
            "{args:?}: {:?}: {stderr}",
            done.status
        );
        String::from_utf8(done.stdout).unwrap()
    }

    /// Who answered, and whom he saw, of each of so many questions.
    fn ask(&self, from: &str, to: &str, count: u32) -> Vec<(String, String)> {
        let count = count.to_string();
        let done = self.run(&[
            "ask",
            from,
            to,
            "-n",
            &count,
            "--timeout",
            "1s",
            "-o",
            "json",
        ]);
        let said: Value = serde_json::from_slice(&done.stdout).unwrap();
        let row = |row: &Value| {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            match row["failed"].as_str() {
                Some(how) => (how.to_owned(), String::new()),
                None => (text("name"), text("client")),
            }
        };
        said["outcomes"]
            .as_array()
            .unwrap()
            .iter()
            .map(row)
            .collect()
    }

    /// Those who answered, each once.
    fn answerers(&self, from: &str, to: &str) -> Vec<String> {
        let mut names: Vec<String> = self.ask(from, to, 40).into_iter().map(|a| a.0).collect();
        names.sort();
        names.dedup();
        names
    }

    fn view(&self) -> Value {
        serde_json::from_str(&self.must(&["show", "-o", "json"])).unwrap()
    }

    fn run_folder(&self) -> PathBuf {
        Path::new("/run/svcnat/labs").join(&self.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.run_folder().exists() {
            self.run(&["down"]);
        }
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// Two kinds of pods and all kinds of Services over them, nothing assigned.
const SHOP: &str = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 2,
  selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]}}}}
---
{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: agent}, spec: {
  selector: {matchLabels: {app: agent}}, template: {metadata: {labels: {app: agent}},
  spec: {containers: [{name: a, ports: [{containerPort: 53, protocol: UDP, hostPort: 5353}]}]}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: visitor}, spec: {containers: [{name: sh}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer,
  selector: {app: web}, ports: [{port: 80, targetPort: http, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: nobody}, spec: {selector: {app: none},
  ports: [{port: 80}]}}
";

#[test]
fn manifests_without_nodes_pods_or_addresses_become_a_working_network() {
    let lab = Lab::up(SHOP, &[]);
    assert_eq!(lab.answerers("pod/visitor", "svc/web"), ["web-1", "web-2"]);
    assert_eq!(lab.answerers("client", "lb/web"), ["web-1", "web-2"]);
    assert_eq!(
        lab.answerers("client", "node/node2:30080"),
        ["web-1", "web-2"]
    );
    let asked = lab.ask("client", "node/node1:5353/udp", 1);
    assert_eq!(
        asked,
        [("agent-node1".to_owned(), "203.0.113.9".to_owned())]
    );
    // Every pod reaches every pod as itself, and the outside as its node.
    let web = lab.view()["places"]["pod/web-2"]["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let visitor = lab.view()["places"]["pod/visitor"]["addresses"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let asked = lab.ask("pod/visitor", &format!("{web}:8080"), 1);
    assert_eq!(asked, [("web-2".to_owned(), visitor)]);
    let (who, seen) = lab.ask("pod/visitor", "203.0.113.9:80", 1).remove(0);
    assert_eq!((&*who, &seen[..11]), ("client", "192.168.50."));
    assert_eq!(lab.ask("pod/visitor", "svc/nobody", 1)[0].0, "refused");
    assert_eq!(
        lab.run(&["ask", "pod/visitor", "svc/nobody"]).status.code(),
        Some(1)
    );
}

#[test]
fn both_families_work_where_objects_ask_for_both() {
    let dual = SHOP.replace(
        "type: LoadBalancer,",
        "type: LoadBalancer, ipFamilyPolicy: RequireDualStack,",
    );
    let lab = Lab::up(&dual, &[]);
    let view = lab.view();
    let service = view["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "default/web");
    let at: Vec<&str> = service.unwrap()["at"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let six: Vec<&&str> = at.iter().filter(|at| at.starts_with('[')).collect();
    assert_eq!(six.len(), 2, "{at:?}: a clusterIP and a load balancer's");
    for at in six {
        assert_eq!(
            lab.answerers("client", "[fd00:50::11]:30080"),
            ["web-1", "web-2"]
        );
        let from = if at.starts_with("[2001:db8:100:") {
            "client"
        } else {
            "pod/visitor"
        };
        assert_eq!(lab.answerers(from, at), ["web-1", "web-2"], "{at}");
    }
}

#[test]
fn programs_run_in_a_place_with_their_own_exit_code() {
    let lab = Lab::up(SHOP, &[]);
    let done = lab.run(&[
        "exec",
        "pod/web-1",
        "--",
        "sh",
        "-c",
        "cat /proc/net/dev; exit 7",
    ]);
    assert_eq!(done.status.code(), Some(7));
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(text.contains("eth0"), "{text}");
    let done = lab.run(&["exec", "pod/wbe-1", "--", "true"]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2));
    assert!(text.contains("did you mean pod/web-1"), "{text}");
    // The objects that every verb reads mean what is installed.
    let objects = lab.run_folder().join("objects.json");
    let program = env!("CARGO_BIN_EXE_svcnat");
    let diff = [
        "exec",
        "node/node1",
        "--",
        program,
        "diff",
        "-f",
        objects.to_str().unwrap(),
        "--node-name",
        "node1",
        "--cluster-cidr",
        "172.17.0.0/23",
        "--service-cluster-ip-range",
        "10.254.0.0/16",
    ];
    let done = lab.run(&diff);
    assert_eq!(
        done.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&done.stdout)
    );
}

#[test]
fn pods_come_and_go_and_what_was_assigned_stays() {
    let lab = Lab::up(SHOP, &[]);
    let before = lab.view();
    lab.write(
        &SHOP
            .replace("replicas: 2", "replicas: 3")
            .replace("name: visitor", "name: guest"),
    );
    let input = lab.input();
    lab.must(&["change", "-f", input.to_str().unwrap()]);
    let after = lab.view();
    for kept in [
        "pod/web-1",
        "pod/web-2",
        "pod/agent-node1",
        "node/node1",
        "client",
    ] {
        assert_eq!(
            before["places"][kept]["namespace"], after["places"][kept]["namespace"],
            "{kept}"
        );
        assert_eq!(
            before["places"][kept]["addresses"], after["places"][kept]["addresses"],
            "{kept}"
        );
    }
    assert_eq!(before["services"], {
        let mut services = after["services"].clone();
        services[1]["endpoints"] = before["services"][1]["endpoints"].clone();
        services
    });
    assert!(after["places"].get("pod/visitor").is_none());
    assert_eq!(
        lab.answerers("pod/guest", "svc/web"),
        ["web-1", "web-2", "web-3"]
    );
    // What cannot be changed is refused, and nothing is.
    let node =
        "{apiVersion: v1, kind: Node, metadata: {name: node1}, spec: {podCIDR: 10.9.0.0/24}}";
    lab.write(&format!("{SHOP}\n---\n{node}"));
    let done = lab.run(&["change", "-f", input.to_str().unwrap()]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(text.contains("node/node1"), "{text}");
    assert_eq!(
        lab.answerers("pod/guest", "svc/web"),
        ["web-1", "web-2", "web-3"]
    );
}

#[test]
fn a_topology_adds_clients_links_routes_and_rules() {
    let lab = Lab::new(SHOP);
    let topology = lab.topology(
        "nodes: 3
clients: [{name: office, addresses: [198.18.0.7], ports: [8443]}]
links:
- {place: pod/web-1, mtu: 1280}
- {place: pod/web-2, up: false}
- {place: node/node2, device: eth1, addresses: [10.9.0.12/24]}
routes: [{place: router, to: 10.254.0.0/16, via: 192.168.50.11}]
rules: [{place: node/node3, nft: 'table inet guard { chain f {
  type filter hook forward priority 0; ip daddr 198.18.0.7 drop; }; }'}]
",
    );
    lab.must_up(&["--topology", &topology]);
    assert_eq!(lab.ask("pod/visitor", "198.18.0.7:8443", 1)[0].0, "office");
    let mtu = lab.must(&["exec", "pod/web-1", "--", "cat", "/proc/net/if_inet6"]);
    assert!(!mtu.is_empty());
    // A failed link takes its pod away, and a route that the router has brings clients along.
    assert_eq!(lab.ask("client", "svc/web", 1).len(), 1);
    let reached = lab.ask("client", "svc/web", 12);
    assert!(
        reached
            .iter()
            .all(|(who, _)| who == "web-1" || who == "silence" || who.contains("route"))
    );
    assert!(reached.iter().any(|(who, _)| who == "web-1"), "{reached:?}");
    let seen = lab.view()["places"]["node/node2"]["addresses"].clone();
    assert!(
        seen.as_array().unwrap().contains(&Value::from("10.9.0.12")),
        "{seen}"
    );
    // The rule of another program, on the node of the agent.
    let asked = lab.ask("pod/agent-node3", "198.18.0.7:8443", 1);
    assert_eq!(asked[0].0, "silence");
}

#[test]
fn what_is_wrong_with_objects_is_said_and_nothing_is_left() {
    let lab =
        Lab::new("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {nodeName: nowhere}}");
    let input = lab.input();
    let done = lab.run(&["up", "-f", input.to_str().unwrap()]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(
        text.contains("Pod default/p: spec.nodeName: \"nowhere\" is no Node"),
        "{text}"
    );
    assert!(!lab.run_folder().exists());
    let topology = lab.topology("links: [{place: pod/none}]");
    lab.write(SHOP);
    let done = lab.run(&["up", "-f", input.to_str().unwrap(), "--topology", &topology]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(text.contains("Topology: links[0].place"), "{text}");
    assert!(!lab.run_folder().exists());
}

/// Waits until it is so.
fn soon(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn nothing_is_left_when_a_lab_is_taken_down_or_killed() {
    let alive = |pid: u32| {
        Path::new(&format!("/proc/{pid}/ns")).exists()
            && std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok()
    };
    for killed in [false, true] {
        let lab = Lab::up(SHOP, &[]);
        let view = lab.view();
        let keeper = u32::try_from(view["pid"].as_u64().unwrap()).unwrap();
        let mut inside = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args([
                "lab",
                "exec",
                "--name",
                &lab.name,
                "pod/visitor",
                "--",
                "sleep",
                "1000",
            ])
            .spawn()
            .unwrap();
        let namespace =
            std::fs::read_link(view["places"]["pod/visitor"]["namespace"].as_str().unwrap())
                .unwrap();
        let pid = inside.id();
        soon("it is inside", || {
            std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|at| at == namespace)
        });
        if killed {
            Command::new("kill")
                .args(["-9", &keeper.to_string()])
                .status()
                .unwrap();
            soon("it is killed", || !alive(keeper));
            let listed = String::from_utf8(svcnat(&["lab", "list"]).stdout).unwrap();
            assert!(listed.contains(&format!("{}  ended", lab.name)), "{listed}");
        }
        lab.must(&["down"]);
        // Its program was ended with it.
        assert!(!inside.wait().unwrap().success());
        soon("the keeper is gone", || !alive(keeper));
        assert!(!lab.run_folder().exists());
    }
}

#[test]
fn two_labs_of_one_name_there_are_not_and_an_ended_one_makes_room() {
    let lab = Lab::up(SHOP, &[]);
    let input = lab.input();
    let done = lab.run(&["up", "-f", input.to_str().unwrap()]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(2), "{text}");
    assert!(text.contains("already"), "{text}");
    let keeper = lab.view()["pid"].to_string();
    Command::new("kill").args(["-9", &keeper]).status().unwrap();
    soon("it is killed", || !lab.run(&["show"]).status.success());
    lab.must_up(&[]);
    assert_eq!(lab.answerers("pod/visitor", "svc/web"), ["web-1", "web-2"]);
}

#[test]
fn a_lab_of_three_nodes_and_thirty_pods_is_soon_there_and_small() {
    let manifests = "
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 30,
  selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}},
  spec: {containers: [{name: web, ports: [{containerPort: 8080}]}]}}}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web},
  ports: [{port: 80, targetPort: 8080}]}}
";
    let lab = Lab::new(manifests);
    let topology = lab.topology("nodes: 3");
    let start = Instant::now();
    lab.must_up(&["--topology", &topology]);
    let up = start.elapsed();
    let pid = lab.view()["pid"].to_string();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let most = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let most: u32 = most.trim().trim_end_matches(" kB").parse().unwrap();
    let start = Instant::now();
    lab.must(&["down"]);
    let down = start.elapsed();
    // docs/performance.md has what it takes alone; here others are at work, and it is built
    // without optimization.
    println!("up {up:?}, down {down:?}, at most {most} kB");
    assert!(
        up < Duration::from_secs(20) && down < Duration::from_secs(10),
        "{up:?} {down:?}"
    );
    assert!(most < 64 * 1024, "{most} kB");
}
