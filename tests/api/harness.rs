//! The agent under test, the objects it is given, and what a test asks of both.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::Server;
use crate::support::run;

pub const ARGS: [&str; 5] = [
    "--node-name=n1",
    "--node-ip=192.168.50.11",
    "--service-cluster-ip-range=10.254.0.0/16",
    "--sysctls=ignore",
    "--manage-routes=false",
];

/// The one setting of an agent's own that `diff` must know too.
const SETTING: &str = "--unallocated";

pub struct Agent {
    folder: PathBuf,
    child: Child,
    args: Vec<String>,
    /// What `ulimit` is told before.
    limit: String,
}

impl Agent {
    pub fn start(name: &str, args: &[String]) -> Self {
        Self::start_limited(name, args, "-n")
    }

    /// The same with other limits, in the shell's words.
    pub fn start_limited(name: &str, args: &[String], limit: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("svcnat-api-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let args = args.to_vec();
        let child = Self::spawn(&folder, &args, limit);
        Self {
            folder,
            child,
            args,
            limit: limit.to_owned(),
        }
    }

    fn spawn(folder: &std::path::Path, args: &[String], limit: &str) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        // `exec`: the process is the agent's, not the shell's.
        let script = format!("ulimit {limit} >/dev/null && exec \"$0\" run \"$@\"");
        Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_svcnat")])
            .args(ARGS)
            .args(args)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn again(&mut self) {
        self.child = Self::spawn(&self.folder, &self.args, &self.limit);
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn stop(&mut self) {
        run("kill", &["-TERM", &self.child.id().to_string()], "");
        assert!(self.child.wait().unwrap().success());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// True if the kernel holds exactly what the objects of `server` mean.
    pub fn agrees_with(&self, server: &Server) -> bool {
        let file = self.folder.join("dump.json");
        fs::write(&file, server.dump()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .arg("diff")
            .args(ARGS)
            .args(self.args.iter().filter(|a| a.starts_with(SETTING)))
            .arg("-f")
            .arg(file)
            .output()
            .unwrap();
        output.status.success()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in KiB.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn service(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}")},
        "spec": {"clusterIP": address(n), "ports": [{"port": 80}]}})
}

pub fn address(n: usize) -> String {
    format!("10.254.{}.{}", n / 200, n % 200 + 2)
}

pub fn slice(n: usize, endpoints: &[usize]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|e| json!({"addresses": [format!("172.17.{}.{}", e / 200, e % 200 + 2)]}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{n}-a"), "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints})
}

pub fn fill(server: &Server, services: usize, endpoints: usize) {
    for n in 0..services {
        server.put(service(n));
        server.put(slice(
            n,
            &(0..endpoints)
                .map(|e| n * endpoints + e)
                .collect::<Vec<_>>(),
        ));
    }
}

pub fn listed(set: &str) -> String {
    let output = Command::new("nft")
        .args(["list", "map", "ip", "svcnat", set])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn loopback() {
    run("ip", &["link", "set", "lo", "up"], "");
}

pub fn url(port: u16) -> String {
    format!("--apiserver=http://127.0.0.1:{port}")
}

/// Status and body of a GET; 0 if nobody answers: a port that is just being closed resets
/// who has connected to it.
pub fn fetch(port: u16, path: &str) -> (u16, String) {
    fetch_at("127.0.0.1", port, path)
}

pub fn fetch_at(host: &str, port: u16, path: &str) -> (u16, String) {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((host, port))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let Ok(text) = ask() else {
        return (0, String::new());
    };
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, text)
}

/// A small generator: the same history for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

pub fn change_something(server: &Server, random: &mut Random) {
    let n = random.below(40);
    match random.below(10) {
        0 => server.delete("Service", &format!("s{n}")),
        1 => server.delete("EndpointSlice", &format!("s{n}-a")),
        2 | 3 => {
            let mut service = service(n);
            if random.below(2) == 0 {
                service["spec"]["sessionAffinity"] = "ClientIP".into();
            }
            if random.below(2) == 0 {
                service["spec"]["externalIPs"] =
                    json!([format!("203.0.113.{}", random.below(5) + 1)]);
            }
            server.put(service);
        }
        _ => {
            let count = random.below(6) + 1;
            let endpoints: Vec<usize> = (0..count).map(|_| random.below(200)).collect();
            server.put(slice(n, &endpoints));
        }
    }
}
