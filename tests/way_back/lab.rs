//! A node and another one, as network namespaces with a cable between them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

pub const SETTINGS: [&str; 4] = [
    "--node-name=n1",
    "--service-cluster-ip-range=10.96.0.0/16",
    "--cluster-cidr=10.244.0.0/16",
    "--sysctls=apply",
];

const NODES: &str = "
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDRs: [10.244.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDRs: [10.244.9.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.N2}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-a, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.244.9.7]}MORE]
---
";

/// Another service, with what `web` has not: node port, affinity, two endpoints. And a host
/// port that takes connections away from the node's own server.
pub const SECOND: &str = "
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.96.0.20, type: NodePort, sessionAffinity: ClientIP, ports: [{port: 5432, nodePort: 30020}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: db-a, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{port: 5432}]
endpoints: [{addresses: [10.244.9.8]}, {addresses: [10.244.0.8]}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec: {nodeName: n1, containers: [{name: c, image: i, ports: [{containerPort: 80, hostPort: 2222}]}]}
status: {phase: Running, podIP: 10.244.0.5, podIPs: [{ip: 10.244.0.5}]}
---
";

pub fn before() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| NODES.replace("N2", "2").replace("MORE", ""))
}

/// The other node has another address, where nobody is: what goes to its pods gets lost.
pub fn after() -> &'static str {
    static TEXT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    TEXT.get_or_init(|| {
        let nodes = NODES
            .replace("N2", "3")
            .replace("MORE", ", {addresses: [10.244.9.9]}");
        format!("{nodes}{SECOND}")
    })
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn names(self, what: &str) -> Self {
        assert!(self.err.contains(what), "{what:?} is not in:\n{}", self.err);
        self
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

pub struct Lab {
    pub node: String,
    pub peer: String,
    pub folder: PathBuf,
    kept: PathBuf,
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {err}");
}

impl Lab {
    pub fn new(name: &str) -> Self {
        let id = std::process::id();
        let (node, peer) = (format!("wb{id}-{name}-n"), format!("wb{id}-{name}-p"));
        ip(&format!("netns add {node}"));
        ip(&format!("netns add {peer}"));
        let (n, p) = (format!("-n {node}"), format!("-n {peer}"));
        ip(&format!(
            "{n} link add eth0 type veth peer name eth0 netns {peer}"
        ));
        for (side, address) in [(&n, "192.0.2.1/24"), (&p, "192.0.2.2/24")] {
            ip(&format!("{side} link set lo up"));
            ip(&format!("{side} addr add {address} dev eth0"));
            ip(&format!("{side} link set eth0 up"));
        }
        // A pod of the other node.
        ip(&format!("{p} addr add 10.244.9.5/32 dev lo"));
        let folder = std::env::temp_dir().join(&node);
        fs::create_dir(&folder).unwrap();
        let inode = Command::new("stat")
            .args(["-L", "-c", "%i", &format!("/run/netns/{node}")])
            .output()
            .unwrap();
        let inode = String::from_utf8(inode.stdout).unwrap();
        let lab = Self {
            node,
            peer,
            folder,
            kept: PathBuf::from("/run/svcnat").join(inode.trim()),
        };
        // Of an earlier namespace with the same number.
        let _ = fs::remove_dir_all(&lab.kept);
        lab.ip_forward("0");
        lab
    }

    pub fn exec(&self, command: &str) -> Command {
        let mut exec = Command::new("ip");
        exec.args(["netns", "exec", &self.node, command]);
        exec
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.exec(env!("CARGO_BIN_EXE_svcnat"));
        command.args(args).current_dir(&self.folder);
        command
    }

    pub fn svcnat(&self, args: &[&str]) -> Said {
        self.command(args).output().unwrap().into()
    }

    /// A file with this text.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    #[track_caller]
    pub fn apply(&self, input: &str) {
        let file = self.file("input.yaml", input);
        let verb = [&["apply", "-f", &file][..], &SETTINGS].concat();
        self.svcnat(&verb).expect(0);
    }

    /// The inputs are what is installed.
    #[track_caller]
    pub fn is(&self, input: &str) {
        let file = self.file("input.yaml", input);
        let verb = [&["diff", "-f", &file][..], &SETTINGS].concat();
        // Forwarding is a setting of the input, which another state may not have.
        self.ip_forward("1");
        self.svcnat(&verb).expect(0);
    }

    pub fn nft(&self, commands: &str) {
        let output = self.exec("nft").arg(commands).output().unwrap();
        let said = Said::from(output);
        assert_eq!(said.code, Some(0), "{}", said.err);
    }

    /// Tables and routes, without the comments of chains and sets, which are for people only:
    /// what is put back has none.
    pub fn state(&self) -> String {
        let ruleset = Said::from(
            self.exec("nft")
                .args(["-s", "list", "ruleset"])
                .output()
                .unwrap(),
        );
        let routes = Said::from(self.exec("ip").args(["route"]).output().unwrap());
        let lines = ruleset
            .out
            .lines()
            .filter(|line| !line.trim().starts_with("comment \""));
        let lines: Vec<&str> = lines.collect();
        format!("{}\n{}", lines.join("\n"), routes.out)
    }

    pub fn ip_forward(&self, value: &str) {
        let write = format!("net.ipv4.ip_forward={value}");
        let set = self
            .exec("sysctl")
            .args(["-q", "-w", &write])
            .status()
            .unwrap();
        assert!(set.success());
    }

    pub fn ip_forward_is(&self) -> String {
        let read = self
            .exec("sysctl")
            .args(["-n", "net.ipv4.ip_forward"])
            .output()
            .unwrap();
        String::from_utf8(read.stdout).unwrap().trim().to_owned()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for netns in [&self.node, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
        let _ = fs::remove_dir_all(&self.kept);
    }
}
