//! An agent that follows files in the namespace of the test, and who it talks to.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::run;

pub struct Daemon {
    pub folder: PathBuf,
    /// Where the service manager listens, if the test does.
    pub manager: UnixDatagram,
    pub child: Child,
}

impl Daemon {
    /// Starts in the current namespace, with a folder of its own, and waits until it is up.
    pub fn start(name: &str, args: &[&str]) -> Self {
        let folder = std::env::temp_dir().join(format!("svcnat-run-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("a.yaml"), service("10.254.0.10")).unwrap();
        let manager = manager(&folder);
        let child = Self::spawn(&folder, args);
        let daemon = Self {
            folder,
            manager,
            child,
        };
        eventually("the first sync", || frontends().contains("10.254.0.10"));
        daemon
    }

    pub fn spawn(folder: &Path, args: &[&str]) -> Child {
        Self::follow(folder, folder, args)
    }

    /// Follows `input`, with its log in `folder`.
    pub fn follow(folder: &Path, input: &Path, args: &[&str]) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args([
                "run",
                "--node-name=n1",
                "--service-cluster-ip-range=10.254.0.0/16",
                "-f",
            ])
            .arg(input)
            .args(args)
            .env("NOTIFY_SOCKET", folder.join("notify"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// The next thing it tells the service manager that is no mere sign of life.
    pub fn told(&self) -> String {
        let mut text = String::new();
        eventually("other news", || {
            text = self.heard();
            text != "WATCHDOG=1"
        });
        text
    }

    pub fn heard(&self) -> String {
        let mut buffer = [0; 256];
        let length = self.manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    pub fn write(&self, text: &str) {
        fs::write(self.folder.join("new"), text).unwrap();
        fs::rename(self.folder.join("new"), self.folder.join("a.yaml")).unwrap();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        run("kill", &["-s", name, &pid], "");
    }

    pub fn stop(&mut self) {
        self.signal("TERM");
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Gone already, if the test stopped it.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Status and body of a GET of the health or metrics server.
pub fn fetch(port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return String::new();
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Where a daemon with its log in `folder` tells the service manager.
pub fn manager(folder: &Path) -> UnixDatagram {
    let manager = UnixDatagram::bind(folder.join("notify")).unwrap();
    let limit = Some(Duration::from_secs(10));
    manager.set_read_timeout(limit).unwrap();
    manager
}

pub fn service(ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}\n\
         addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [172.17.0.2]}}]\n"
    )
}

pub fn frontends() -> String {
    let output = Command::new("nft")
        .args(["list", "map", "ip", "svcnat", "service-ips"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Long enough for a change of the folder to be noticed and read.
pub const NOTICED: Duration = Duration::from_millis(300);
