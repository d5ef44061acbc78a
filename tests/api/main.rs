//! `svcnat run` against an API server: real lists and watches, and everything that goes wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod server;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use server::Server;
use support::{in_namespace, run};

const ARGS: [&str; 5] = [
    "--node-name=n1",
    "--node-ip=192.168.50.11",
    "--service-cluster-ip-range=10.254.0.0/16",
    "--sysctls=ignore",
    "--manage-routes=false",
];

struct Agent {
    folder: PathBuf,
    child: Child,
    args: Vec<String>,
}

impl Agent {
    fn start(name: &str, args: &[String]) -> Self {
        let folder = std::env::temp_dir().join(format!("svcnat-api-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let args = args.to_vec();
        let child = Self::spawn(&folder, &args);
        Self {
            folder,
            child,
            args,
        }
    }

    fn spawn(folder: &std::path::Path, args: &[String]) -> Child {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(folder.join("log"))
            .unwrap();
        Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .arg("run")
            .args(ARGS)
            .args(args)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn again(&mut self) {
        self.child = Self::spawn(&self.folder, &self.args);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn stop(&mut self) {
        run("kill", &["-TERM", &self.child.id().to_string()], "");
        assert!(self.child.wait().unwrap().success());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }

    /// True if the kernel holds exactly what the objects of `server` mean.
    fn agrees_with(&self, server: &Server) -> bool {
        let file = self.folder.join("dump.json");
        fs::write(&file, server.dump()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .arg("diff")
            .args(ARGS)
            .arg("-f")
            .arg(file)
            .output()
            .unwrap();
        output.status.success()
    }

    /// Resident memory in KiB.
    fn memory(&self) -> u64 {
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

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{what} never came"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn service(n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{n}")},
        "spec": {"clusterIP": address(n), "ports": [{"port": 80}]}})
}

fn address(n: usize) -> String {
    format!("10.254.{}.{}", n / 200, n % 200 + 2)
}

fn slice(n: usize, endpoints: &[usize]) -> Value {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|e| json!({"addresses": [format!("172.17.{}.{}", e / 200, e % 200 + 2)]}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": format!("s{n}-a"), "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints})
}

fn fill(server: &Server, services: usize, endpoints: usize) {
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

fn listed(set: &str) -> String {
    let output = Command::new("nft")
        .args(["list", "map", "ip", "svcnat", set])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn loopback() {
    run("ip", &["link", "set", "lo", "up"], "");
}

fn url(port: u16) -> String {
    format!("--apiserver=http://127.0.0.1:{port}")
}

/// Status and body of a GET.
fn fetch(port: u16, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
        return (0, String::new());
    };
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split(' ').nth(1).unwrap().parse().unwrap();
    (code, text)
}

#[test]
fn lists_in_pages_then_follows_and_asks_only_for_what_it_needs() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 5, 3);
        let listening = server.listen(0);
        let agent = Agent::start(
            "follow",
            &[url(listening.address.port()), "--api-page-size=2".into()],
        );
        eventually("the first sync", || {
            listed("frontends").contains(&address(4))
        });
        assert!(agent.agrees_with(&server));
        server.put(slice(2, &[100, 101]));
        eventually("a changed slice", || agent.agrees_with(&server));
        server.delete("Service", "s1");
        eventually("a deleted service", || {
            !listed("frontends").contains(&address(1))
        });
        // A slice may come before its service.
        server.put(slice(7, &[70]));
        server.put(service(7));
        eventually("the late service", || {
            listed("frontends").contains(&address(7))
        });
        assert!(agent.agrees_with(&server));
        let requests = server.requests();
        let asked = |what: &str| requests.iter().any(|r| r.contains(what));
        assert!(
            asked("services {") && asked("\"continue\""),
            "{requests:#?}"
        );
        assert!(
            requests
                .iter()
                .filter(|r| r.starts_with("pods"))
                .all(|r| r.contains("spec.nodeName=n1"))
        );
        assert!(
            requests
                .iter()
                .filter(|r| r.starts_with("endpointslices"))
                .all(|r| r.contains("!service.kubernetes.io/headless"))
        );
        assert!(agent.log().contains("cause=change"), "{}", agent.log());
    });
}

#[test]
fn health_metrics_and_state_tell_what_is() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let mut local = service(9);
        local["spec"]["type"] = "LoadBalancer".into();
        local["spec"]["externalTrafficPolicy"] = "Local".into();
        local["spec"]["healthCheckNodePort"] = 31999.into();
        server.put(local);
        server.forbid("Service", true);
        let listening = server.listen(0);
        let agent = Agent::start(
            "health",
            &[
                url(listening.address.port()),
                "--kube-proxy-metric-names".into(),
            ],
        );
        eventually("the server", || fetch(10256, "/healthz").0 == 200);
        let (code, body) = fetch(10256, "/readyz?verbose");
        assert_eq!(code, 503, "{body}");
        assert!(body.contains("[-]first sync"), "{body}");
        assert_eq!(
            run("nft", &["list", "ruleset"], ""),
            "",
            "nothing before all sources are complete"
        );
        assert!(
            agent.log().contains("the test says Forbidden"),
            "{}",
            agent.log()
        );
        server.forbid("Service", false);
        eventually("readiness", || fetch(10256, "/readyz").0 == 200);
        eventually("the health check port", || fetch(31999, "/").0 == 503);
        let mut here = slice(9, &[90]);
        here["endpoints"][0]["nodeName"] = "n1".into();
        server.put(here);
        eventually("a local endpoint", || fetch(31999, "/").0 == 200);
        let (_, body) = fetch(31999, "/");
        assert!(
            body.contains("\"localEndpoints\":1")
                && body
                    .to_lowercase()
                    .contains("x-load-balancing-endpoint-weight: 1"),
            "{body}"
        );
        let (_, metrics) = fetch(10249, "/metrics");
        for name in [
            "svcnat_commits_total",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "kubeproxy_network_programming_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "svcnat_source_failures_total{kind=\"Service\"}",
        ] {
            assert!(metrics.contains(name), "{name} is not in {metrics}");
        }
        let (_, state) = fetch(10256, "/state");
        assert!(state.contains("\"services\":4"), "{state}");
        server.put(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]}}),
        );
        eventually("the taint", || fetch(10256, "/healthz").0 == 503);
        assert_eq!(fetch(10256, "/livez").0, 200);
        server.delete("Service", "s9");
        eventually("the port closed", || fetch(31999, "/").0 == 0);
    });
}

#[test]
fn gone_cut_duplicated_and_restarted_streams_lose_nothing() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 6, 4);
        let listening = server.listen(0);
        let port = listening.address.port();
        let agent = Agent::start("faults", &[url(port)]);
        eventually("the first sync", || {
            listed("frontends").contains(&address(5))
        });
        server.cut();
        server.put(slice(0, &[300]));
        eventually("a change after a cut", || agent.agrees_with(&server));
        // Deleted while nobody watched, and history forgotten.
        server.delete("Service", "s3");
        server.put(slice(1, &[301, 302]));
        server.compact();
        server.cut();
        eventually("the state after 410", || agent.agrees_with(&server));
        server.duplicate();
        server.put(slice(2, &[303]));
        server.put(service(8));
        eventually("duplicated events", || agent.agrees_with(&server));
        // Away, and back with another state.
        drop(listening);
        server.delete("Service", "s2");
        server.put(slice(4, &[304]));
        std::thread::sleep(Duration::from_millis(700));
        assert!(
            listed("frontends").contains(&address(2)),
            "the last good state stays"
        );
        let _listening = server.listen(port);
        eventually("the state after the restart", || agent.agrees_with(&server));
    });
}

#[test]
fn a_server_that_answers_short_is_asked_again_before_most_endpoints_go() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 10, 10);
        let listening = server.listen(0);
        let agent = Agent::start("guard", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        server.short_lists("EndpointSlice", 1);
        server.compact();
        server.cut();
        eventually("the doubt", || {
            agent.log().contains("held until a second list")
        });
        eventually("the full list", || {
            server
                .requests()
                .iter()
                .filter(|r| r.starts_with("endpointslices") && !r.contains("watch"))
                .count()
                >= 3
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(agent.agrees_with(&server), "nothing was lost");
        // Really gone: the second list says the same.
        for n in 0..10 {
            server.delete("EndpointSlice", &format!("s{n}-a"));
        }
        eventually("the confirmed loss", || agent.agrees_with(&server));
    });
}

#[test]
fn the_last_good_state_is_installed_before_the_api_answers() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 4, 2);
        let listening = server.listen(0);
        let folder = std::env::temp_dir().join(format!("svcnat-state-{}", std::process::id()));
        let mut agent = Agent::start(
            "boot",
            &[
                url(listening.address.port()),
                format!("--state-dir={}", folder.display()),
            ],
        );
        eventually("the first sync", || agent.agrees_with(&server));
        agent.stop();
        drop(listening);
        run("nft", &["flush", "ruleset"], "");
        agent.again();
        eventually("the saved state", || agent.agrees_with(&server));
        eventually("the server", || fetch(10256, "/readyz").0 == 503);
        agent.stop();
        // A damaged file is not believed.
        let file = folder.join("state.json");
        let mut bytes = fs::read(&file).unwrap();
        bytes.truncate(bytes.len() - 3);
        fs::write(&file, bytes).unwrap();
        run("nft", &["flush", "ruleset"], "");
        agent.again();
        eventually("the complaint", || agent.log().contains("is damaged"));
        assert_eq!(run("nft", &["list", "ruleset"], ""), "");
        fs::remove_dir_all(folder).unwrap();
    });
}

#[test]
fn another_api_server_takes_over_when_one_is_gone() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let first = server.listen(0);
        let second = server.listen(0);
        let both = format!(
            "--apiserver=http://127.0.0.1:{},http://127.0.0.1:{}",
            first.address.port(),
            second.address.port()
        );
        let agent = Agent::start("servers", &[both]);
        eventually("the first sync", || agent.agrees_with(&server));
        drop(first);
        server.put(slice(1, &[400]));
        eventually("the change by way of the second", || {
            agent.agrees_with(&server)
        });
    });
}

#[test]
fn tls_works_and_a_wrong_authority_is_named() {
    in_namespace(|| {
        loopback();
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(
            made.signing_key.serialize_der(),
        )
        .unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = tokio_rustls::rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let server = Server::new();
        fill(&server, 2, 2);
        let listening =
            server.listen_with(0, Some(tokio_rustls::TlsAcceptor::from(Arc::new(config))));
        let folder = std::env::temp_dir().join(format!("svcnat-tls-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let kubeconfig = |name: &str, ca: &str| {
            let (file, pem) = (folder.join(name), folder.join(format!("{name}.pem")));
            fs::write(&pem, ca).unwrap();
            let text = json!({"apiVersion": "v1", "kind": "Config", "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": format!("https://127.0.0.1:{}", listening.address.port()),
                    "certificate-authority": pem}}],
                "users": [{"name": "u", "user": {"token": "t"}}]});
            fs::write(&file, text.to_string()).unwrap();
            format!("--kubeconfig={}", file.display())
        };
        let mut wrong = Agent::start("wrong", &[kubeconfig("wrong", &other.cert.pem())]);
        eventually("the complaint", || wrong.log().contains("certificate"));
        wrong.kill();
        let right = Agent::start("right", &[kubeconfig("right", &made.cert.pem())]);
        eventually("the first sync", || right.agrees_with(&server));
        fs::remove_dir_all(&folder).unwrap();
    });
}

/// A small generator: the same history for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % n as u64).unwrap()
    }
}

fn change_something(server: &Server, random: &mut Random) {
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

/// `SVCNAT_SOAK` changes; the longer run of the documentation uses 10,000.
#[test]
fn a_long_random_history_leaves_kernel_and_memory_as_a_fresh_start_would() {
    in_namespace(|| {
        loopback();
        let changes: usize = std::env::var("SVCNAT_SOAK").map_or(1_500, |n| n.parse().unwrap());
        let server = Server::new();
        fill(&server, 40, 3);
        let listening = server.listen(0);
        let agent = Agent::start("soak", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        let mut random = Random(0x5eed);
        let mut early = 0;
        for i in 0..changes {
            change_something(&server, &mut random);
            std::thread::sleep(Duration::from_micros(500));
            if i % 500 == 499 {
                eventually("agreement", || agent.agrees_with(&server));
                if early == 0 {
                    early = agent.memory();
                }
            }
        }
        eventually("the end", || agent.agrees_with(&server));
        let late = agent.memory();
        assert!(
            late < early + early / 5 + 1024,
            "memory grew from {early} to {late} KiB"
        );
        let full = agent.log().matches("full=true").count();
        assert!(full < 5, "increments fell back to {full} full syncs");
    });
}

#[test]
fn killed_at_random_moments_it_ends_where_it_should() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 40, 3);
        let listening = server.listen(0);
        let mut agent = Agent::start("kill", &[url(listening.address.port())]);
        let mut random = Random(0xdead);
        for i in 0..1_000 {
            change_something(&server, &mut random);
            if i % 50 == 49 {
                std::thread::sleep(Duration::from_millis(random.below(120) as u64));
                agent.kill();
                agent.again();
            }
        }
        eventually("the end", || agent.agrees_with(&server));
    });
}

#[test]
fn a_neighbour_that_commits_all_the_time_does_not_hold_us_up() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 40, 3);
        let listening = server.listen(0);
        let agent = Agent::start("neighbour", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        let stop = AtomicBool::new(false);
        let commits = AtomicUsize::new(0);
        run(
            "nft",
            &["-f", "-"],
            "table ip other {\n set s { type ipv4_addr; }\n}\n",
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut nft = Command::new("nft")
                    .arg("-i")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()
                    .unwrap();
                let mut input = nft.stdin.take().unwrap();
                while !stop.load(Ordering::Relaxed) {
                    // nft reads a line, commits it, reads the next.
                    writeln!(input, "flush set ip other s").unwrap();
                    commits.fetch_add(1, Ordering::Relaxed);
                }
                drop(input);
                nft.wait().unwrap();
            });
            let mut random = Random(0xbeef);
            for _ in 0..300 {
                change_something(&server, &mut random);
                std::thread::sleep(Duration::from_millis(1));
            }
            eventually("agreement beside a busy neighbour", || {
                agent.agrees_with(&server)
            });
            stop.store(true, Ordering::Relaxed);
        });
        assert!(commits.load(Ordering::Relaxed) > 100);
        assert!(run("nft", &["list", "table", "ip", "other"], "").contains("set s"));
    });
}

#[test]
fn kube_proxys_tables_go_out_in_the_transaction_that_brings_ours_in() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let listening = server.listen(0);
        for family in ["ip", "ip6"] {
            run(
                "nft",
                &["-f", "-"],
                &format!(
                    "table {family} kube-proxy {{\n chain c {{ type nat hook prerouting priority -100; }}\n}}\n"
                ),
            );
        }
        run("nft", &["add", "table", "ip", "bystander"], "");
        let before = generation();
        let agent = Agent::start(
            "takeover",
            &[
                url(listening.address.port()),
                "--take-over-kube-proxy".into(),
            ],
        );
        eventually("the first sync", || agent.agrees_with(&server));
        assert_eq!(generation(), before + 1, "one transaction");
        let tables = run("nft", &["list", "tables"], "");
        assert!(
            !tables.contains("kube-proxy") && tables.contains("bystander"),
            "{tables}"
        );
    });
}

fn generation() -> u32 {
    svcnat::netlink::Nfnetlink::open()
        .unwrap()
        .generation()
        .unwrap()
        .id
}

#[test]
fn a_flush_is_repaired_within_a_fraction_of_a_second() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 100, 3);
        let listening = server.listen(0);
        let agent = Agent::start("flush", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        let mut times = Vec::new();
        for _ in 0..10 {
            run("nft", &["flush", "ruleset"], "");
            let start = Instant::now();
            eventually("the repair", || listed("frontends").contains(&address(99)));
            times.push(start.elapsed());
        }
        times.sort();
        println!(
            "repair after a flush: median {:?}, worst {:?}",
            times[5], times[9]
        );
        assert!(times[5] < Duration::from_millis(500), "{times:?}");
        assert!(agent.agrees_with(&server));
    });
}

#[test]
fn owned_tables_survive_flushes_and_kills_and_no_connection_fails() {
    in_namespace(|| {
        loopback();
        // The node is client and server: the way to the service address is loopback.
        run("ip", &["addr", "add", "172.17.0.2/32", "dev", "lo"], "");
        run("ip", &["route", "add", "10.254.0.0/16", "dev", "lo"], "");
        let listener = std::net::TcpListener::bind("172.17.0.2:8080").unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
            }
        });
        let server = Server::new();
        server.put(service(0));
        server.put(slice(0, &[0]));
        let listening = server.listen(0);
        let mut agent = Agent::start(
            "owned",
            &[url(listening.address.port()), "--own-tables".into()],
        );
        eventually("the first sync", || agent.agrees_with(&server));
        let reach = || {
            let to = format!("{}:80", address(0)).parse().unwrap();
            TcpStream::connect_timeout(&to, Duration::from_secs(2))
        };
        reach().expect("the service answers");
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let client = scope.spawn(|| {
                let mut connections = 0;
                while !stop.load(Ordering::Relaxed) {
                    reach().expect("a connection during a flush");
                    connections += 1;
                }
                connections
            });
            for _ in 0..50 {
                run("nft", &["flush", "ruleset"], "");
            }
            stop.store(true, Ordering::Relaxed);
            assert!(client.join().unwrap() > 50);
        });
        assert!(agent.agrees_with(&server));
        assert_eq!(
            agent.log().matches("cause=drift").count(),
            0,
            "{}",
            agent.log()
        );
        let foreign = Command::new("nft")
            .args([
                "add",
                "element",
                "ip",
                "svcnat",
                "cluster-ips",
                "{ 10.254.9.9 }",
            ])
            .output()
            .unwrap();
        assert!(!foreign.status.success(), "others cannot write");
        // Killed, the rules stay; the next one adopts them and changes nothing else.
        agent.kill();
        reach().expect("rules outlive the daemon");
        agent.again();
        eventually("the adoption", || {
            agent.log().matches("cause=start").count() == 2
        });
        let log = agent.log();
        let last = log.lines().rfind(|l| l.contains("cause=start")).unwrap();
        assert!(last.contains(" added=0 deleted=0 "), "{last}");
        run("nft", &["flush", "ruleset"], "");
        reach().expect("adopted tables survive a flush");
        server.put(slice(0, &[0, 1]));
        eventually("a change", || agent.agrees_with(&server));
        agent.kill();
        let deleted = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .arg("delete")
            .output()
            .unwrap();
        assert!(
            deleted.status.success(),
            "{}",
            String::from_utf8_lossy(&deleted.stderr)
        );
        assert!(!run("nft", &["list", "tables"], "").contains("svcnat"));
    });
}
