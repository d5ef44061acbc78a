//! What the verbs that change a node refuse to do, and what they say of it: nothing is removed
//! by accident, and there is one writer.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod common;
#[path = "../support/program.rs"]
mod program;
#[path = "../support/mod.rs"]
mod support;
mod verify;
mod views;
mod watching;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use program::{Said, svcnat};
use support::{in_namespace, run};

const SETTINGS: [&str; 4] = [
    "--node-name=n1",
    "--service-cluster-ip-range=10.254.0.0/16",
    "--sysctls=ignore",
    "--manage-routes=false",
];

/// A verb with inputs from standard input.
fn with(verb: &[&str], input: &str) -> Said {
    svcnat(&[verb, &["-f", "-"], &SETTINGS].concat(), input)
}

/// Services, each with so many endpoints.
fn services(sizes: &[usize]) -> String {
    let mut text = String::new();
    for (n, size) in sizes.iter().enumerate() {
        let endpoints: Vec<String> = (1..=*size)
            .map(|e| format!("{{addresses: [172.17.{n}.{e}]}}"))
            .collect();
        write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s{n}}}\nspec: {{clusterIP: \
             10.254.0.{}, ports: [{{port: 80}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
             EndpointSlice\nmetadata: {{name: s{n}-a, labels: {{kubernetes.io/service-name: \
             s{n}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{}]\n---\n",
            n + 10,
            endpoints.join(", ")
        )
        .unwrap();
    }
    text
}

fn ruleset() -> String {
    run("nft", &["-s", "list", "ruleset"], "")
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("svcnat-verbs-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `svcnat run`, killed when dropped.
struct Agent {
    log: PathBuf,
    child: Child,
}

impl Agent {
    fn start(input: &Path, log: &Path, args: &[&str]) -> Self {
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .arg("run")
            .args(SETTINGS)
            .args(["--healthz-bind-address=none", "--metrics-bind-address=none"])
            .args(args)
            .arg("-f")
            .arg(input)
            .stdin(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self {
            log: log.to_owned(),
            child,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    #[track_caller]
    fn says(&self, what: &str) {
        eventually(what, || self.log().contains(what));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

#[track_caller]
fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        let waited = start.elapsed();
        assert!(waited < Duration::from_secs(40), "{what} never came");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_verb_that_installs_needs_an_input() {
    in_namespace(|| {
        with(&["apply"], &services(&[2])).expect(0);
        let before = ruleset();
        for verb in [
            &["apply"][..],
            &["apply", "--dry-run=client"],
            &["apply", "--dry-run=server"],
            &["diff"],
            &["run"],
        ] {
            svcnat(verb, "")
                .expect(2)
                .names(&["must specify -f or a cluster"]);
        }
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn an_input_without_objects_takes_nothing_down() {
    in_namespace(|| {
        let folder = Folder::new("empty");
        with(&["apply"], &services(&[2])).expect(0);
        let before = ruleset();
        let list = r#"{"apiVersion": "v1", "kind": "List", "items": []}"#;
        for input in ["", "\n---\n", "# nothing\n", list] {
            for verb in [&["apply"][..], &["apply", "--dry-run=server"]] {
                with(verb, input)
                    .expect(2)
                    .names(&["no object", "--allow-empty"]);
            }
        }
        let from_folder = [&["apply", "-f", folder.path()], &SETTINGS[..]].concat();
        svcnat(&from_folder, "").expect(2).names(&["no object"]);
        // Nodes are there, and no Service.
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
        with(&["apply"], node)
            .expect(2)
            .names(&["no Service at all", "2 of 2 endpoints"]);
        // The left side of a pipe fails.
        let pipe = format!(
            "false | {} apply -f - {}",
            env!("CARGO_BIN_EXE_svcnat"),
            SETTINGS.join(" ")
        );
        let output = Command::new("sh").args(["-c", &pipe]).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(ruleset(), before);
        with(&["apply", "--allow-empty"], "").expect(0);
        assert!(!ruleset().contains("10.254.0.10"));
    });
}

#[test]
fn an_input_that_holds_far_less_than_is_installed_is_refused_by_how_much() {
    in_namespace(|| {
        with(&["apply"], &services(&[60, 60])).expect(0);
        let before = ruleset();
        for verb in [&["apply"][..], &["apply", "--dry-run=client"]] {
            with(verb, &services(&[50, 0]))
                .expect(2)
                .names(&["70 of 120 endpoints", "--max-endpoint-loss"]);
        }
        // Another share, by which it is still too much.
        with(&["apply", "--max-endpoint-loss=0.55"], &services(&[50, 0])).expect(2);
        assert_eq!(ruleset(), before);
        // All endpoints of a large input: the Services alone are not enough.
        with(&["apply", "--max-endpoint-loss=1"], &services(&[0, 0]))
            .expect(2)
            .names(&["120 of 120", "--allow-empty"]);
        assert_eq!(ruleset(), before);
        with(&["apply", "--max-endpoint-loss=1"], &services(&[50, 0])).expect(0);
        // Fifty may go.
        with(&["apply"], &services(&[0, 0])).expect(0);
    });
}

#[test]
fn run_over_installed_rules_holds_an_empty_folder_and_goes_on_when_it_fills() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("hold"), Folder::new("hold-log"));
        with(&["apply"], &services(&[2])).expect(0);
        let before = ruleset();
        let agent = Agent::start(&folder.0, &log.0.join("log"), &[]);
        agent.says("no object at all");
        // Longer than a second reading takes.
        std::thread::sleep(Duration::from_secs(3));
        assert_eq!(ruleset(), before);
        fs::write(folder.0.join("a.yaml"), services(&[2, 1])).unwrap();
        eventually("the new service", || ruleset().contains("10.254.0.11"));
        // And again, once it follows.
        fs::remove_file(folder.0.join("a.yaml")).unwrap();
        eventually("the second hold", || {
            agent.log().matches("message=\"held until").count() == 2
        });
        std::thread::sleep(Duration::from_secs(3));
        assert!(ruleset().contains("10.254.0.11"));
        drop(agent);
        // Who means it says so; a second reading is made all the same.
        let _agent = Agent::start(&folder.0, &log.0.join("log"), &["--allow-empty"]);
        eventually("the end of all services", || {
            !ruleset().contains("10.254.0.1")
        });
    });
}

#[test]
fn run_with_an_empty_folder_starts_where_nothing_is_installed() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("fresh"), Folder::new("fresh-log"));
        let agent = Agent::start(&folder.0, &log.0.join("log"), &[]);
        agent.says("cause=start");
        fs::write(folder.0.join("a.yaml"), services(&[1])).unwrap();
        eventually("the service", || ruleset().contains("10.254.0.10"));
    });
}

#[test]
fn a_folder_that_is_unmounted_takes_nothing_down_and_is_followed_when_it_is_mounted_again() {
    in_namespace(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        run("mount", &["--make-rprivate", "/"], "");
        let (folder, log) = (Folder::new("mount"), Folder::new("mount-log"));
        let mount = |text: &str| {
            run("mount", &["-t", "tmpfs", "none", folder.path()], "");
            fs::write(folder.0.join("a.yaml"), text).unwrap();
        };
        mount(&services(&[2]));
        let agent = Agent::start(&folder.0, &log.0.join("log"), &[]);
        eventually("the first sync", || ruleset().contains("10.254.0.10"));
        // The agent has its own view of the mounts of this test: the same namespace.
        run("umount", &[folder.path()], "");
        agent.says("no object at all");
        std::thread::sleep(Duration::from_secs(3));
        assert!(ruleset().contains("10.254.0.10"));
        mount(&services(&[2, 1]));
        eventually("what is mounted now", || ruleset().contains("10.254.0.11"));
        fs::write(folder.0.join("a.yaml"), services(&[2, 1, 1])).unwrap();
        eventually("a change of it", || ruleset().contains("10.254.0.12"));
        drop(agent);
        run("umount", &[folder.path()], "");
    });
}

#[test]
fn run_believes_a_large_loss_when_a_second_reading_says_the_same() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("large"), Folder::new("large-log"));
        let file = folder.0.join("a.yaml");
        fs::write(&file, services(&[60, 60])).unwrap();
        let agent = Agent::start(&folder.0, &log.0.join("log"), &[]);
        agent.says("cause=start");
        fs::write(&file, services(&[40])).unwrap();
        agent.says("80 of 120 endpoints would go");
        assert!(ruleset().contains("10.254.0.11"), "held at first");
        eventually("the loss", || !ruleset().contains("10.254.0.11"));
        drop(agent);
        // The same at the start, against what the kernel holds.
        run("nft", &["flush", "ruleset"], "");
        with(&["apply"], &services(&[60, 60])).expect(0);
        let agent = Agent::start(&folder.0, &log.0.join("second"), &[]);
        agent.says("80 of 120 endpoints would go");
        assert!(ruleset().contains("10.254.0.11"), "held at first");
        agent.says("cause=start");
        assert!(!ruleset().contains("10.254.0.11"));
    });
}

/// The line of the log that says which process the agent is.
fn follows(folder: &Folder, log: &Folder) -> Agent {
    fs::write(folder.0.join("a.yaml"), services(&[1])).unwrap();
    let agent = Agent::start(&folder.0, &log.0.join("log"), &[]);
    agent.says("cause=start");
    agent
}

#[test]
fn beside_a_running_agent_nothing_is_changed_and_the_agent_is_named() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("writer"), Folder::new("writer-log"));
        let agent = follows(&folder, &log);
        let before = ruleset();
        let pid = format!("process {}", agent.child.id());
        let other = services(&[1, 1]);
        let names = ["svcnat run", pid.as_str(), "since 20", "--beside-run"];
        with(&["apply"], &other).expect(3).names(&names);
        with(&["apply", "--dry-run=server"], &other)
            .expect(3)
            .names(&names[..3]);
        with(&["apply", "--dry-run=client"], &other)
            .expect(0)
            .names(&names[..3]);
        svcnat(&["delete"], "").expect(3).names(&names);
        let second = [&["run", "-f", folder.path()], &SETTINGS[..]].concat();
        svcnat(&second, "").expect(3).names(&names);
        assert_eq!(ruleset(), before);
        with(&["diff"], &other).expect(1).names(&names[..3]);
        let check = with(&["check"], &other);
        assert!(check.out.contains(&pid), "{}", check.out);
        // Told to, it goes on.
        with(&["apply", "--beside-run"], &other)
            .expect(0)
            .names(&["warning", &pid]);
        drop(agent);
        // Killed, it holds nothing.
        with(&["apply"], &other).expect(0);
        svcnat(&["delete"], "").expect(0);
    });
}

#[test]
fn a_writer_of_another_network_namespace_is_none_of_ours() {
    in_namespace(|| {
        let (folder, log) = (Folder::new("other"), Folder::new("other-log"));
        let _agent = follows(&folder, &log);
        in_namespace(|| with(&["apply"], &services(&[1])).expect(0));
    });
}

#[test]
fn two_applies_at_once_wait_for_each_other() {
    in_namespace(|| {
        let input = services(&[200, 200]);
        std::thread::scope(|scope| {
            let both: Vec<_> = (0..4)
                .map(|_| {
                    // A thread starts where the one is that makes it.
                    scope.spawn(|| with(&["apply"], &input))
                })
                .collect();
            for one in both {
                one.join().unwrap().expect(0);
            }
        });
    });
}

#[test]
fn who_may_not_write_cannot_keep_the_writer_out_by_taking_its_name() {
    in_namespace(|| {
        let script = "use Socket; socket(S, AF_UNIX, SOCK_STREAM, 0) or die; \
                      bind(S, pack('S a*', AF_UNIX, qq(\\0svcnat-writer))) or die; \
                      listen(S, 1) or die; print qq(up\\n); $| = 1; close STDOUT; sleep 100";
        let mut squatter = Command::new("setpriv")
            .args(["--reuid=65534", "--clear-groups", "perl", "-e", script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut up = String::new();
        std::io::Read::read_to_string(squatter.stdout.as_mut().unwrap(), &mut up).unwrap();
        assert_eq!(up, "up\n");
        for _ in 0..4 {
            // Again and again: its queue is full in the end.
            with(&["apply"], &services(&[1]))
                .expect(0)
                .names(&["warning", "passed over"]);
        }
        squatter.kill().unwrap();
        squatter.wait().unwrap();
        let said = with(&["apply"], &services(&[1])).expect(0);
        assert!(!said.err.contains("passed over"), "{}", said.err);
    });
}

#[test]
fn diff_says_what_apply_would_refuse() {
    in_namespace(|| {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: \
                    [172.17.2.0/24]}\nstatus: {addresses: [{type: InternalIP, address: \
                    192.168.50.12}]}\n---\n";
        let input = format!("{node}{}", services(&[1]));
        // All settings but the last, which leaves routes alone.
        svcnat(&[&["diff", "-f", "-"], &SETTINGS[..3]].concat(), &input)
            .expect(1)
            .names(&["warning: node n2", "192.168.50.12 is not on link"]);
    });
}

#[test]
fn check_beside_a_daemon_that_owns_the_tables_finds_no_fault_in_that() {
    in_namespace(|| {
        let folder = Folder::new("owned");
        let input = folder.0.join("a.yaml");
        fs::write(&input, services(&[1])).unwrap();
        let agent = Agent::start(&input, &folder.0.join("log"), &["--own-tables"]);
        agent.says("cause=start");
        let said = with(&["check", "--cluster-cidr=10.0.0.0/16"], &services(&[1])).expect(0);
        let owner = format!("belong to process {}", agent.child.id());
        assert!(said.out.contains(&owner), "{}", said.out);
        assert!(said.out.contains("0 errors"), "{}", said.out);
    });
}

#[test]
fn run_says_what_it_cannot_start_with_once_and_by_the_right_code() {
    in_namespace(|| {
        with(&["apply"], &services(&[1])).expect(0);
        let folder = Folder::new("start");
        let input = folder.0.join("a.yaml");
        fs::write(&input, services(&[1])).unwrap();
        // The host refuses: no object is to blame.
        let may_not = Command::new("setpriv")
            .args([
                "--bounding-set=-net_admin",
                env!("CARGO_BIN_EXE_svcnat"),
                "run",
            ])
            .args(SETTINGS)
            .args([
                "--healthz-bind-address=none",
                "--metrics-bind-address=none",
                "-f",
            ])
            .arg(&input)
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&may_not.stderr);
        assert_eq!(may_not.status.code(), Some(3), "{error}");
        assert!(
            error.contains("CAP_NET_ADMIN") && !error.contains("--skip-invalid"),
            "{error}"
        );
        // A file that is not there is no invalid object either.
        let missing = folder.0.join("missing");
        let said = svcnat(
            &[&["run", "-f", missing.to_str().unwrap()], &SETTINGS[..]].concat(),
            "",
        );
        let said = said.expect(2).names(&["No such file"]);
        assert!(!said.err.contains("--skip-invalid"), "{}", said.err);
        let kubeconfig = ["run", "--kubeconfig", missing.to_str().unwrap()];
        let said = svcnat(&[&kubeconfig, &SETTINGS[..]].concat(), "").expect(2);
        let error = said.err.lines().find(|l| l.starts_with("error")).unwrap();
        assert_eq!(error.matches("missing").count(), 1, "{error}");
    });
}

#[test]
fn a_line_of_the_log_says_once_how_bad_it_is() {
    in_namespace(|| {
        let folder = Folder::new("level");
        let input = folder.0.join("a.yaml");
        let misspelt = services(&[1]).replace("clusterIP:", "sessionAfinity: x, clusterIP:");
        fs::write(&input, misspelt).unwrap();
        let agent = Agent::start(&input, &folder.0.join("log"), &[]);
        agent.says("sessionAfinity");
        let log = agent.log();
        let line = log.lines().find(|l| l.contains("sessionAfinity")).unwrap();
        assert!(line.contains("level=warn"), "{line}");
        assert!(!line.contains("warning:"), "{line}");
    });
}
