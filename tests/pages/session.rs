//! A shell that runs a page's commands: as root, in namespaces of its own, with the program
//! on its path and the project's files in its folder.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::compare::agrees;
use super::page::Step;
use super::root;

/// A machine that does much else gets there in time.
const PATIENCE: Duration = Duration::from_secs(60);

/// `lab` makes the machines of lab.yaml: the nodes, pods and the client that pages are about.
const PREAMBLE: &str = "
mount -t tmpfs tmpfs /run
hostname node1
ip link set lo up
echo 0 >/proc/sys/net/ipv4/ip_forward
set -a
lab() {
    svcnat lab up -q --bare -f tests/pages/lab.yaml || return
    # Not every kernel has it: pages say nothing of it.
    for node in node1 node2; do
        svcnat lab exec node/$node -- sh -c '
            hooks=/proc/sys/net/bridge/bridge-nf-call-iptables
            [ ! -e $hooks ] || echo 1 >$hooks'
    done
}
";

/// What the lab calls a machine of a page.
fn place(name: &str) -> String {
    let kind = match name {
        "client" | "router" => return name.to_owned(),
        node if node.starts_with("node") => "node",
        _ => "pod",
    };
    format!("{kind}/{name}")
}

pub struct Session {
    child: Child,
    folder: PathBuf,
    steps: usize,
}

impl Session {
    pub fn start(name: &str) -> Self {
        let name = format!("svcnat-pages-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        for part in ["bin", "state", "work"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        let program = env!("CARGO_BIN_EXE_svcnat");
        symlink(program, folder.join("bin/svcnat")).unwrap();
        for entry in fs::read_dir(root()).unwrap() {
            let entry = entry.unwrap();
            let to = folder.join("work").join(entry.file_name());
            symlink(entry.path(), to).unwrap();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        let mut child = Command::new("unshare")
            .args(["--net", "--mount", "--uts", "--pid", "--fork"])
            .args(["--kill-child", "--mount-proc", "bash", "--norc"])
            .current_dir(folder.join("work"))
            .env("PATH", format!("{}:{path}", folder.join("bin").display()))
            .env("STATE", folder.join("state"))
            // What is asked of the tests is not asked of the programs.
            .env_remove("SVCNAT_UPDATE_GOLDENS")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.as_mut().unwrap();
        stdin.write_all(PREAMBLE.as_bytes()).unwrap();
        Self {
            child,
            folder,
            steps: 0,
        }
    }

    /// Runs a command; what it prints on standard output and standard error. Of one in the
    /// background that is what it has printed when it agrees with the page, or much later.
    pub fn run(&mut self, step: &Step) -> String {
        if let Some(file) = step.shows().map(|file| self.folder.join("work").join(file))
            && !file.exists()
        {
            fs::write(file, &step.expected).unwrap();
        }
        self.steps += 1;
        let state = |what: &str| {
            self.folder
                .join("state")
                .join(format!("{what}.{}", self.steps))
        };
        let (body, out, code) = (state("body"), state("out"), state("code"));
        fs::write(&body, &step.command).unwrap();
        let body = body.display();
        let command = match &step.place {
            None => format!(". {body}"),
            // A machine knows its name.
            Some(name) => format!(
                "svcnat lab exec {} -- unshare --uts bash -c 'hostname {name}; . {body}'",
                place(name)
            ),
        };
        let done = state("done");
        let line = format!(
            "{command} >{out} 2>&1 </dev/null; echo $? >{code}; touch {done}\n",
            out = out.display(),
            code = code.display(),
            done = done.display(),
        );
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
        let printed = || fs::read_to_string(&out).unwrap_or_default();
        let start = Instant::now();
        let wait = |what: &dyn Fn() -> bool| {
            while !what() && start.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        wait(&|| done.exists());
        assert!(done.exists(), "{step:?} does not end:\n{}", printed());
        if step.in_background() {
            wait(&|| agrees(&step.expected, &printed()));
        }
        if step.hidden {
            let code = fs::read_to_string(code).unwrap();
            assert_eq!(code.trim(), "0", "{step:?}:\n{}", printed());
        }
        printed()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // With the first process of its namespace go all others.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
