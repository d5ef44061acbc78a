//! The svcnat binary, run in the namespace of a lab's node.

use std::time::Duration;

use super::addr::SERVICE_RANGE;
use super::lab::Lab;
use super::manifest::Cluster;
use super::netns::Netns;

/// What a run said.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; -1 if a signal ended it.
    pub code: i32,
    /// Results.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

impl Run {
    /// The run, if it ended with this code; a panic with all it said otherwise.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "{}\nstdout:\n{}\nstderr:\n{}",
            self.command, self.stdout, self.stderr
        );
        self
    }
}

/// Runs svcnat with exactly these arguments in a namespace.
pub fn run_svcnat(netns: &Netns, args: &[&str], input: &str) -> Run {
    let output = netns.run(env!("CARGO_BIN_EXE_svcnat"), args, input.as_bytes());
    Run {
        command: format!("{}: svcnat {}", netns.label(), args.join(" ")),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Lab {
    /// Runs a verb that takes inputs on a node, with the lab's ranges, the lab's `args` and
    /// the objects on standard input.
    pub fn svcnat(&self, node: &str, verb: &[&str], cluster: &Cluster) -> Run {
        let mut args = vec!["-f", "-", "--node-name", node];
        if !self.plan.cluster_cidr.is_empty() {
            args.extend(["--cluster-cidr", self.plan.cluster_cidr]);
        }
        args.extend(["--service-cluster-ip-range", SERVICE_RANGE]);
        args.extend(self.args.iter().map(String::as_str));
        if verb == ["apply"] {
            let given = args.iter().map(|arg| (*arg).to_owned()).collect();
            let mut applied = self.applied.lock().expect("no test panics holding it");
            applied.insert(node.to_owned(), (given, cluster.json()));
        }
        // Labs take services away on purpose; what keeps others from it has tests of its own.
        let on_purpose: &[&str] = match verb {
            ["apply", ..] => &["--allow-empty", "--max-endpoint-loss=1"],
            _ => &[],
        };
        let all = [verb, on_purpose, &args].concat();
        let run = run_svcnat(self.at(node), &all, &cluster.json());
        let mut opinions = self.opinions.lock().expect("no test panics holding it");
        opinions.clear();
        run
    }

    /// Applies the objects on every node.
    #[track_caller]
    pub fn apply(&self, cluster: &Cluster) {
        for node in self.nodes() {
            self.svcnat(&node, &["apply"], cluster).expect(0);
        }
    }

    /// The same objects, applied: a lab in one line.
    #[track_caller]
    pub fn running(cluster: &Cluster) -> Self {
        let lab = Self::start();
        lab.apply(cluster);
        lab
    }
}

/// Time for what a kernel timeout of this many seconds is to expire in.
pub fn after(seconds: u64) {
    std::thread::sleep(Duration::from_millis(seconds * 1000 + 300));
}
