//! `--service-counters`: what was asked is what is counted, across changes, a restart and the
//! agent's own metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{self, Child, Command, Stdio};
use std::time::Duration;
use std::{env, fs, thread};

use serde_json::Value;
use svcnat::cluster::Family::{self, Ip, Ip6};
use svcnat::cluster::Protocol::{Tcp, Udp};

use crate::support::{
    CLUSTER_CIDR, Cluster, Lab, Outcome, Plan, SERVICE_RANGE, Service, cluster_ip, generation,
    ip_of, run_svcnat,
};

const COUNT: &str = "--service-counters";

fn web(endpoints: &[&str]) -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints)
}

fn counting(cluster: &Cluster) -> Lab {
    let mut lab = Lab::start();
    lab.args.push(COUNT.to_owned());
    lab.apply(cluster);
    lab
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(cluster_ip(10).of(family), 80)
}

/// The rows of `svcnat get RESOURCE -o json`.
fn rows(lab: &Lab, resource: &str, cluster: &Cluster) -> Vec<Value> {
    let run = lab.svcnat("a", &["get", resource, "-o", "json"], cluster);
    let document: Value = serde_json::from_str(&run.expect(0).stdout).expect("JSON");
    document["items"].as_array().expect("items").clone()
}

/// Connections, refused ones, and those of each endpoint, of one frontend.
fn of_frontend(lab: &Lab, cluster: &Cluster, frontend: &str) -> (u64, u64, Vec<(String, u64)>) {
    let rows = rows(lab, "endpoints", cluster);
    let row = rows.iter().find(|row| row["frontend"] == frontend);
    let row = row.unwrap_or_else(|| panic!("no {frontend} in {rows:?}"));
    let number = |key: &str| row[key].as_u64().expect("a number");
    let by_endpoint = row["byEndpoint"].as_object().expect("endpoints").iter();
    let by_endpoint =
        by_endpoint.map(|(endpoint, count)| (endpoint.clone(), count.as_u64().expect("a number")));
    (
        number("connections"),
        number("refused"),
        by_endpoint.collect(),
    )
}

/// How many of the answers came from this pod.
fn from(outcomes: &[Outcome], pod: &str) -> u64 {
    let answers = outcomes.iter().filter(|outcome| match outcome {
        Outcome::Answer(answer) => answer.name == pod,
        _ => false,
    });
    answers.count() as u64
}

#[test]
fn every_connection_is_counted_once_at_its_frontend_and_at_its_endpoint() {
    let cluster = Cluster::with([web(&["a0", "b0"])]);
    let lab = counting(&cluster);
    for (family, frontend) in [(Ip, "10.254.0.10:80/TCP"), (Ip6, "[fd00:254::a]:80/TCP")] {
        let outcomes = lab.from("a1").ask_many(Tcp, vip(family), 30);
        let more = SocketAddr::new(ip_of("a").of(family), 30_080);
        let others = lab.from("out").ask_many(Tcp, more, 7);
        let (connections, refused, by_endpoint) = of_frontend(&lab, &cluster, frontend);
        assert_eq!((connections, refused), (30, 0), "{family}");
        let sum = |pod| from(&outcomes, pod) + from(&others, pod);
        let at = |pod| SocketAddr::new(ip_of(pod).of(family), 8080).to_string();
        let mut expected = ["a0", "b0"].map(|pod| (at(pod), sum(pod))).to_vec();
        expected.sort();
        assert_eq!(by_endpoint, expected, "{family}");
        assert_eq!(expected.iter().map(|(_, count)| count).sum::<u64>(), 37);
    }
    // UDP and the other protocols of the same number are counted apart.
    let before = of_frontend(&lab, &cluster, "10.254.0.10:80/UDP").0;
    lab.from("a1").ask_many(Udp, vip(Ip), 3);
    assert_eq!(
        of_frontend(&lab, &cluster, "10.254.0.10:80/UDP").0,
        before + 3
    );
    let services = rows(&lab, "services", &cluster);
    assert_eq!(services[0]["connections"], 2 * 37 + 3);
    assert_eq!(services[0]["refused"], 0);
}

#[test]
fn counts_survive_changes_of_their_service_and_a_second_apply() {
    let cluster = Cluster::with([web(&["a0", "b0"])]);
    let lab = counting(&cluster);
    let frontend = "10.254.0.10:80/TCP";
    lab.from("a1").ask_many(Tcp, vip(Ip), 20);
    let before = of_frontend(&lab, &cluster, frontend);
    assert_eq!(before.0, 20);
    let number = generation(lab.at("a"));
    lab.apply(&cluster);
    assert_eq!(generation(lab.at("a")), number, "nothing is written");
    assert_eq!(of_frontend(&lab, &cluster, frontend), before);
    // Each step replaces the frontend's element, and moves slots about.
    for endpoints in [&["a0", "b0", "b1"][..], &["b0", "b1"], &["b0"]] {
        let cluster = Cluster::with([web(endpoints)]);
        lab.apply(&cluster);
        let now = of_frontend(&lab, &cluster, frontend);
        assert_eq!(now.0, 20, "{endpoints:?}");
        let of_b0 = |counts: &[(String, u64)]| {
            let b0 = format!("{}:8080", ip_of("b0").v4);
            let found = counts.iter().find(|(endpoint, _)| *endpoint == b0);
            found.map(|(_, count)| *count)
        };
        assert_eq!(of_b0(&now.2), of_b0(&before.2), "{endpoints:?}");
    }
}

#[test]
fn refused_connections_are_counted_too() {
    let cluster = Cluster::with([web(&[])]);
    let lab = counting(&cluster);
    let outcomes = lab.from("a1").ask_many(Tcp, vip(Ip), 4);
    assert!(
        outcomes.iter().all(|o| *o == Outcome::Refused),
        "{outcomes:?}"
    );
    let (connections, refused, by_endpoint) = of_frontend(&lab, &cluster, "10.254.0.10:80/TCP");
    assert_eq!((connections, refused, by_endpoint), (0, 4, Vec::new()));
    assert_eq!(rows(&lab, "services", &cluster)[0]["refused"], 4);
}

#[test]
fn without_the_flag_nothing_counts_and_get_says_so() {
    let cluster = Cluster::with([web(&["a0"])]);
    let lab = Lab::running(&cluster);
    lab.from("a1").ask_many(Tcp, vip(Ip), 2);
    assert!(!lab.at("a").ruleset().contains("counter"));
    let input = cluster.json();
    let args = [
        "get",
        "services",
        "-o",
        "wide",
        COUNT,
        "-f",
        "-",
        "--node-name",
        "a",
    ];
    let run = run_svcnat(lab.at("a"), &args, &input).expect(0);
    assert!(run.stderr.contains("no counters"), "{}", run.stderr);
    assert!(!run.stdout.contains("CONNECTIONS"), "{}", run.stdout);
}

/// `svcnat run` on node `a`, following one file; ended when dropped.
struct Agent<'l> {
    lab: &'l Lab,
    child: Child,
    file: PathBuf,
}

impl<'l> Agent<'l> {
    fn start(lab: &'l Lab, cluster: &Cluster) -> Self {
        let file = env::temp_dir().join(format!("svcnat-counters-{}.json", process::id()));
        fs::write(&file, cluster.json()).expect("a file");
        let child = lab.at("a").enter(|| {
            Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .args([
                    "run",
                    "--node-name=a",
                    COUNT,
                    "--cluster-cidr",
                    CLUSTER_CIDR,
                ])
                .args(["--service-cluster-ip-range", SERVICE_RANGE, "-f"])
                .arg(&file)
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("svcnat run")
        });
        Self { lab, child, file }
    }

    fn replace(&self, cluster: &Cluster) {
        let new = self.file.with_extension("new");
        fs::write(&new, cluster.json()).expect("a file");
        fs::rename(new, &self.file).expect("a rename");
    }

    /// The value of a series of the agent's metrics, once it is there and `good`.
    fn series(&self, name: &str, good: impl Fn(u64) -> bool) -> u64 {
        let curl = ["-s", "http://127.0.0.1:10249/metrics"];
        for _ in 0..200 {
            let output = self.lab.at("a").run("curl", &curl, b"");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
            match value {
                Some(value) if good(value) => return value,
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
        panic!("{name} never came to be as expected");
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.child.kill().expect("an end");
        self.child.wait().expect("an end");
        fs::remove_file(&self.file).expect("the file");
    }
}

#[test]
fn the_agents_metrics_count_across_its_increments_and_its_restart() {
    let cluster = Cluster::with([web(&["a0", "b0"])]);
    let lab = Lab::from_plan(Plan {
        routes: true,
        ..Plan::default()
    });
    let of_frontend = "svcnat_service_connections_total{namespace=\"default\",service=\"web\",\
                       port=\"p80-tcp\",protocol=\"TCP\",family=\"IPv4\",\
                       frontend=\"10.254.0.10:80/TCP\"}";
    {
        let agent = Agent::start(&lab, &cluster);
        agent.series("svcnat_commits_total", |n| n > 0);
        lab.from("a1").ask_many(Tcp, vip(Ip), 12);
        agent.series(of_frontend, |n| n == 12);
        let commits = agent.series("svcnat_commits_total", |_| true);
        agent.replace(&Cluster::with([web(&["a0", "b0", "b1"])]));
        agent.series("svcnat_commits_total", |n| n > commits);
        lab.from("a1").ask_many(Tcp, vip(Ip), 3);
        assert_eq!(agent.series(of_frontend, |_| true), 15);
    }
    let agent = Agent::start(&lab, &Cluster::with([web(&["a0", "b0", "b1"])]));
    assert_eq!(agent.series(of_frontend, |_| true), 15, "restarted");
}
