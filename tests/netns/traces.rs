//! `svcnat trace`: real packets, and what the kernel says of them, beside what was foretold.
//! That it agrees for every line of `rulesets/*/packets.txt` is asked in `packets.rs`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Lab, Netns, PATIENCE, Run, SILENCE, Service, cluster_ip, ip_of, run_svcnat, within,
};

/// A trace under way in a namespace. It is armed once `start` returns.
pub struct Tracing {
    child: Child,
    said: String,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Tracing {
    /// Starts one with these arguments and this input.
    pub fn start(netns: &Netns, args: &[&str], input: &str) -> Self {
        let mut child = netns.enter(|| {
            Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .arg("trace")
                .args(args)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("start svcnat")
        });
        let mut stdin = child.stdin.take().expect("the pipe asked for");
        // One that reads files leaves it unread.
        stdin.write_all(input.as_bytes()).ok();
        drop(stdin);
        let stderr = child.stderr.take().expect("the pipe asked for");
        let mut tracing = Self {
            child,
            said: String::new(),
            stderr: BufReader::new(stderr),
        };
        while !tracing.said.contains("\ntracing ") && !tracing.said.starts_with("tracing ") {
            let length = tracing.stderr.read_line(&mut tracing.said);
            assert!(length.expect("its words") > 0, "it ended: {}", tracing.said);
        }
        tracing
    }

    /// What it said when it ended, with its exit code.
    pub fn end(mut self) -> Run {
        let mut stdout = String::new();
        let out = self.child.stdout.as_mut().expect("the pipe asked for");
        out.read_to_string(&mut stdout).expect("its report");
        self.stderr
            .read_to_string(&mut self.said)
            .expect("its words");
        let status = self.child.wait().expect("its end");
        Run {
            command: "svcnat trace".to_owned(),
            code: status.code().unwrap_or(-1),
            stdout,
            stderr: std::mem::take(&mut self.said),
        }
    }

    /// Ends it so that it cannot tidy up.
    fn kill(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGKILL).expect("kill it");
        self.child.wait().expect("its end");
    }
}

/// The settings of the lab's nodes, for a trace on node a.
const SETTINGS: [&str; 6] = [
    "-f",
    "-",
    "--node-name=a",
    "--cluster-cidr=172.17.0.0/16,fd00:17::/48",
    "--service-cluster-ip-range=10.254.0.0/16,fd00:254::/112",
    "--for=20s",
];

fn web(endpoints: &[&str]) -> Cluster {
    let web = Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080);
    Cluster::with([web.endpoints(endpoints)])
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(cluster_ip(10).of(family), 80)
}

/// Traces on node a what `from` sends; what the trace said.
fn traced(lab: &Lab, cluster: &Cluster, from: &str, to: SocketAddr, protocol: Protocol) -> Run {
    let source = ip_of(from).of(Family::of(&to.ip())).to_string();
    let destination = format!("{to}/{protocol}");
    let args = [&[source.as_str(), &destination], &SETTINGS[..]].concat();
    let tracing = Tracing::start(lab.at("a"), &args, &cluster.json());
    lab.from(from)
        .patience(SILENCE)
        .unwalked("it is traced")
        .ask(protocol, to);
    tracing.end()
}

fn tables(netns: &Netns) -> String {
    netns.must("nft", &["list", "tables"], "")
}

#[test]
fn a_packet_that_does_as_foretold_is_told_rule_by_rule() {
    let cluster = web(&["b0"]);
    let lab = Lab::running(&cluster);
    for family in Family::ALL {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let said = traced(&lab, &cluster, "a1", vip(family), protocol)
                .expect(0)
                .stdout;
            let endpoint = SocketAddr::new(ip_of("b0").of(family), 8080);
            let (ip, name) = (family.nft_name(), protocol.nft_name());
            for part in [
                format!("= {ip} svcnat nat-prerouting: meta priority set {ip} daddr"),
                format!("goto service   [default/web:p80-{name}]"),
                format!("= goes to {endpoint}, which sees the client's address: as foretold"),
            ] {
                assert!(said.contains(&part), "{part} is not in:\n{said}");
            }
            assert!(!said.lines().any(|line| line.starts_with('!')), "{said}");
        }
        let node_port = SocketAddr::new(ip_of("a").of(family), 30_080);
        let said = traced(&lab, &cluster, "out", node_port, Protocol::Tcp)
            .expect(0)
            .stdout;
        assert!(
            said.contains("which sees this node's address: as foretold"),
            "{said}"
        );
    }
    assert!(!tables(lab.at("a")).contains("trace"));
}

#[test]
fn the_rule_of_another_program_that_drops_it_is_named() {
    let cluster = web(&["b0"]);
    let lab = Lab::running(&cluster);
    let node = lab.at("a");
    node.nft("table inet guard { chain f { type filter hook forward priority 0; }; }");
    for family in Family::ALL {
        let drop = || node.nft("add rule inet guard f th dport 8080 counter drop");
        let by = || {
            let listed = node.must("nft", &["-a", "list", "chain", "inet", "guard", "f"], "");
            let rule = listed.lines().find(|line| line.contains("dport"));
            let (_, handle) = rule.expect("the rule").split_once("# handle ").expect("it");
            format!(
                "dropped by rule handle {} of chain f of table inet guard",
                handle.trim()
            )
        };
        // It comes when everything has been foretold.
        let (source, destination) = (ip_of("a1").of(family).to_string(), vip(family).to_string());
        let args = [&[source.as_str(), &destination], &SETTINGS[..]].concat();
        let tracing = Tracing::start(node, &args, &cluster.json());
        drop();
        let caller = lab.from("a1").patience(SILENCE).unwalked("it is traced");
        caller.ask(Protocol::Tcp, vip(family));
        let said = tracing.end().expect(1).stdout;
        assert!(
            said.contains(&format!("! {}\n  foretold: goes to ", by())),
            "{said}"
        );
        // It was there already, and explain --live names it as well.
        let said = traced(&lab, &cluster, "a1", vip(family), Protocol::Tcp)
            .expect(0)
            .stdout;
        assert!(
            said.contains(&format!("= {}: as foretold\n  forward: ", by())),
            "{said}"
        );
        node.nft("flush chain inet guard f");
    }
}

#[test]
fn the_first_rule_that_is_not_as_foretold_is_marked() {
    let lab = Lab::running(&web(&["b0"]));
    // Foretold is what no endpoint would mean, installed is one.
    let said = traced(&lab, &web(&[]), "a1", vip(Family::Ip), Protocol::Tcp).expect(1);
    assert!(said.stdout.contains("\n! "), "{}", said.stdout);
    assert!(
        said.stderr.contains("not those of this configuration"),
        "{}",
        said.stderr
    );
    let marked = said.stdout.lines().filter(|line| line.starts_with("! ip "));
    assert!(marked.count() <= 1, "{}", said.stdout);
}

#[test]
fn other_packets_are_not_traced_and_none_is_said_to_be_none() {
    let cluster = web(&["b0"]);
    let lab = Lab::running(&cluster);
    let source = ip_of("a1").of(Family::Ip).to_string();
    let args = [
        &[source.as_str(), "10.254.0.99:80"],
        &SETTINGS[..5],
        &["--for=700ms"],
    ]
    .concat();
    let tracing = Tracing::start(lab.at("a"), &args, &cluster.json());
    let caller = lab.from("a1");
    for (protocol, port) in [(Protocol::Udp, 80), (Protocol::Tcp, 80)] {
        let to = SocketAddr::new(cluster_ip(10).of(Family::Ip), port);
        caller.ask(protocol, to).answer();
    }
    let said = tracing.end().expect(4);
    assert_eq!(said.stdout, "");
    assert!(
        said.stderr.contains("no such packet came"),
        "{}",
        said.stderr
    );
}

#[test]
fn every_packet_is_told_with_all_and_tracked_ones_are_said_to_be() {
    let cluster = web(&["b0"]);
    let lab = Lab::running(&cluster);
    let to = vip(Family::Ip);
    let mut session = lab.from("a1").open(Protocol::Udp, to).expect("a flow");
    let source = ip_of("a1").of(Family::Ip).to_string();
    let destination = format!("{to}/udp");
    let settings = [&SETTINGS[..5], &["--for=3s", "--all", "-o", "json"]].concat();
    let args = [&[source.as_str(), &destination], &settings[..]].concat();
    let tracing = Tracing::start(lab.at("a"), &args, &cluster.json());
    session.ask().answer();
    session.ask().answer();
    let said = tracing.end().expect(0);
    let packets: Vec<Value> = said
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).expect("a document a line"))
        .collect();
    assert_eq!(packets.len(), 2, "{}", said.stdout);
    assert!(packets.iter().all(|packet| packet["asForetold"] == true));
}

#[test]
fn nothing_is_left_behind_by_a_trace_that_is_killed() {
    let cluster = web(&["b0"]);
    let lab = Lab::running(&cluster);
    let node = lab.at("a");
    let source = ip_of("a1").of(Family::Ip).to_string();
    let destination = vip(Family::Ip).to_string();
    let args = [&[source.as_str(), &destination], &SETTINGS[..]].concat();
    let tracing = Tracing::start(node, &args, &cluster.json());
    assert!(tables(node).contains("table ip svcnat-trace"));
    // Another one is refused, and says who is at it.
    let other = [&["trace"], &args[..]].concat();
    let said = run_svcnat(node, &other, &cluster.json()).expect(3);
    assert!(
        said.stderr.contains("another trace is under way"),
        "{}",
        said.stderr
    );
    assert!(tables(node).contains("table ip svcnat-trace"));
    tracing.kill();
    within(PATIENCE, "the end of the table", || {
        !tables(node).contains("trace")
    });

    // As an earlier kernel leaves it, where no socket owns a table.
    let left =
        "table ip svcnat-trace { chain mark-output { type filter hook output priority -350; }; }";
    node.nft(left);
    traced(&lab, &cluster, "a1", vip(Family::Ip), Protocol::Tcp).expect(0);
    assert!(!tables(node).contains("trace"));
    node.nft(left);
    run_svcnat(node, &["delete"], "").expect(0);
    assert_eq!(tables(node), "");
}
