//! `svcnat flows`: what is tracked of real connections, by names.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Lab, Service, cluster_ip, ip_of, pod, run_svcnat};

/// The Service `web` with these endpoints, and the pods of the lab.
fn cluster(endpoints: &[&str]) -> Cluster {
    let web = Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(endpoints);
    ["a0", "a1", "b0"]
        .iter()
        .fold(Cluster::with([web]), |all, place| {
            all.object(pod(place, json!({}), json!({})))
        })
}

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(cluster_ip(10).of(family), 80)
}

/// What `flows` prints on node a, sorted.
fn lines(lab: &Lab, cluster: &Cluster, args: &[&str]) -> Vec<String> {
    let verb = [&["flows"], args].concat();
    let said = lab.svcnat("a", &verb, cluster).expect(0).stdout;
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn flows_are_named_with_their_state_and_masquerade() {
    let cluster = cluster(&["b0"]);
    let lab = Lab::running(&cluster);
    for family in Family::ALL {
        let node_port = SocketAddr::new(ip_of("a").of(family), 30_080);
        let open = |from: &str, protocol, to| lab.from(from).open(protocol, to).expect("a flow");
        let sessions = [
            open("a1", Protocol::Tcp, vip(family)),
            open("a1", Protocol::Udp, vip(family)),
            open("out", Protocol::Tcp, node_port),
            open("a", Protocol::Tcp, vip(family)),
        ];
        let outside = ip_of("out").of(family);
        let mut expected = [
            "pod/a1 -> svc/web:80 -> pod/b0 b, ESTABLISHED".to_owned(),
            "pod/a1 -> svc/web:80/UDP -> pod/b0 b, replied".to_owned(),
            format!("{outside} -> node/a:30080 (svc/web) -> pod/b0 b, masqueraded, ESTABLISHED"),
            "node/a -> svc/web:80 -> pod/b0 b, masqueraded, ESTABLISHED".to_owned(),
        ];
        expected.sort();
        assert_eq!(lines(&lab, &cluster, &[]), expected, "{family}");

        let count = |args: &[&str]| lines(&lab, &cluster, args).len();
        assert_eq!(count(&["--state", "established"]), 3);
        assert_eq!(count(&["--pod", "a1"]), 2);
        assert_eq!(count(&["--pod", "default/b0", "--state", "replied"]), 1);
        assert_eq!(count(&["--service", "web"]), 4);
        assert_eq!(count(&["-n", "kube-system"]), 0);
        let said = lab.svcnat("a", &["flows", "--service", "wbe"], &cluster);
        assert!(said.expect(2).stderr.contains("did you mean default/web?"));

        // From the kernel alone: the Service's name is in a comment, nobody else's.
        let said = run_svcnat(lab.at("a"), &["flows", "--state=replied", "-owide"], "");
        let said = said.expect(0).stdout;
        let (client, endpoint) = (ip_of("a1").of(family), ip_of("b0").of(family));
        let endpoint = SocketAddr::new(endpoint, 8080);
        let begin = format!("{client} -> svc/web:80/UDP -> {endpoint}, replied  [");
        assert!(said.starts_with(&begin), "{said}");
        assert!(said.contains(&format!("{} -> {}", ip_port(client, &said), vip(family))));
        drop(sessions);
        lab.at("a").must("conntrack", &["-F"], "");
    }
}

/// The address with the port that it has in this line.
fn ip_port(addr: IpAddr, line: &str) -> String {
    let (_, inside) = line.split_once("  [").expect("addresses");
    let (client, _) = inside.split_once(" -> ").expect("a client");
    let client: SocketAddr = client.parse().expect("an address and port");
    assert_eq!(client.ip(), addr);
    client.to_string()
}

#[test]
fn counters_are_shown_where_the_kernel_counts() {
    let cluster = cluster(&["b0"]);
    let lab = Lab::running(&cluster);
    lab.at("a").sysctl("netfilter/nf_conntrack_acct", "1");
    let caller = lab.from("a1");
    let _flow = caller.open(Protocol::Udp, vip(Family::Ip)).expect("a flow");
    let said = lab
        .svcnat("a", &["flows", "-o", "json"], &cluster)
        .expect(0);
    let said: Value = serde_json::from_str(&said.stdout).expect("a document");
    let flow = &said["flows"][0];
    assert_eq!(flow["counters"]["out"]["packets"], 1, "{said}");
    assert_eq!(flow["counters"]["back"]["packets"], 1, "{said}");
    assert_eq!(flow["destination"]["service"], "default/web");
    assert_eq!(flow["endpoint"]["node"], "b");
    assert_eq!(flow["stale"], false);
}

#[test]
fn stale_flows_are_those_that_apply_cuts() {
    let (before, after) = (cluster(&["b0"]), cluster(&["a0"]));
    let lab = Lab::running(&before);
    let sessions = Family::ALL.map(|family| {
        let open = |protocol| lab.from("a1").open(protocol, vip(family)).expect("a flow");
        [Protocol::Udp, Protocol::Tcp].map(open)
    });
    assert_eq!(lines(&lab, &before, &["--stale"]), [""; 0]);
    let stale = "pod/a1 -> svc/web:80/UDP -> pod/b0 b, replied, stale: its endpoint is gone";
    assert_eq!(lines(&lab, &after, &["--stale"]), [stale; 2]);
    lab.svcnat("a", &["apply"], &after).expect(0);
    assert_eq!(lines(&lab, &after, &["--stale"]), [""; 0]);
    drop(sessions);
    let said = run_svcnat(lab.at("a"), &["flows", "--stale"], "");
    assert!(said.expect(2).stderr.contains("-f"));
}

#[test]
fn host_ports_are_flows_of_ours_and_others_are_not() {
    let ports = json!({"containers": [{
        "name": "main",
        "ports": [{"containerPort": 8080, "hostPort": 80}],
    }]});
    let cluster = Cluster::with([]).object(pod("a0", json!({}), ports));
    let lab = Lab::running(&cluster);
    for family in Family::ALL {
        let to = SocketAddr::new(ip_of("a").of(family), 80);
        let other = SocketAddr::new(ip_of("out").of(family), 8053);
        let open = |from: &str, to| lab.from(from).open(Protocol::Tcp, to).expect("a flow");
        let sessions = [open("out", to), open("a", other)];
        let outside = ip_of("out").of(family);
        let line = "node/a:80 (hostPort of pod/a0) -> pod/a0 a, ESTABLISHED";
        let expected = format!("{outside} -> {line}");
        assert_eq!(lines(&lab, &cluster, &[]), [expected]);
        drop(sessions);
        lab.at("a").must("conntrack", &["-F"], "");
    }
}

/// `flows --follow` on a node.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Follower {
    fn start(lab: &Lab, cluster: &Cluster) -> Self {
        let mut child = lab.at("a").enter(|| {
            Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .args([
                    "flows",
                    "--follow",
                    "-o",
                    "json",
                    "--node-name=a",
                    "-f",
                    "-",
                ])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("start svcnat")
        });
        let mut stdin: ChildStdin = child.stdin.take().expect("the pipe asked for");
        stdin
            .write_all(cluster.json().as_bytes())
            .expect("its input");
        drop(stdin);
        let (send, lines) = mpsc::channel();
        let stdout = BufReader::new(child.stdout.take().expect("the pipe asked for"));
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let document = serde_json::from_str(&line).expect("a document a line");
                if send.send(document).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for an event of this kind to this destination.
    fn wait(&self, event: &str, name: &str) -> Value {
        loop {
            let found = self.lines.recv_timeout(Duration::from_secs(20));
            let found = found.unwrap_or_else(|_| panic!("no {event} of {name}"));
            if found["event"] == event && found["destination"]["name"] == name {
                return found;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn what_happens_is_followed_from_what_there_is() {
    let cluster = cluster(&["b0"]);
    let lab = Lab::running(&cluster);
    let caller = lab.from("a1");
    let _there = caller.open(Protocol::Udp, vip(Family::Ip)).expect("a flow");
    let follower = Follower::start(&lab, &cluster);
    let listed = follower.wait("listed", "svc/web:80/UDP");
    assert_eq!(listed["state"], "replied");
    for family in Family::ALL {
        let _session = caller.open(Protocol::Tcp, vip(family)).expect("a flow");
        let new = follower.wait("new", "svc/web:80");
        let address = ip_of("a1").of(family).to_string();
        assert_eq!(new["client"]["address"], address);
        assert_eq!(new["client"]["name"], "pod/a1");
        assert_eq!(new["endpoint"]["name"], "pod/b0");
        let update = follower.wait("update", "svc/web:80");
        assert!(update["state"].is_string(), "{update}");
        lab.at("a").must(
            "conntrack",
            &[
                "-D",
                "-p",
                "tcp",
                "-f",
                match family {
                    Family::Ip => "ipv4",
                    Family::Ip6 => "ipv6",
                },
            ],
            "",
        );
        let gone = follower.wait("gone", "svc/web:80");
        assert_eq!(gone["client"]["address"], address);
    }
}
