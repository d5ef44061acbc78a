//! Other programs on the same host: busy ones, a proxy before us, one that flushes everything.

use std::io::Write;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::server::Server;
use crate::support::{in_namespace, run};

/// Another program that commits to its own table as fast as it can, until dropped.
struct Neighbour {
    nft: Child,
    writer: Option<std::thread::JoinHandle<()>>,
}

impl Neighbour {
    fn start() -> Self {
        let table = "table ip other {\n set s { type ipv4_addr; }\n}\n";
        run("nft", &["-f", "-"], table);
        let mut nft = Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = nft.stdin.take().unwrap();
        // nft reads a line, commits it, reads the next; a dead one takes no more lines. What
        // changes nothing would be no commit.
        let mut line = move |verb| writeln!(input, "{verb} element ip other s {{ 192.0.2.1 }}");
        let writer = std::thread::spawn(
            move || {
                while line("add").is_ok() && line("delete").is_ok() {}
            },
        );
        Self {
            nft,
            writer: Some(writer),
        }
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Ended already if the test failed.
        let _ = self.nft.kill();
        let _ = self.nft.wait();
        drop(self.writer.take().map(std::thread::JoinHandle::join));
    }
}

/// Commits that are not ours, while `work` runs: what the generation went up beyond what our
/// log says.
fn commits_of_others(agent: &Agent, work: impl FnOnce()) -> usize {
    let ours = || agent.log().matches(" commit_us=").count();
    let (before, log) = (generation(), ours());
    work();
    let (all, ours) = ((generation() - before) as usize, ours() - log);
    all.saturating_sub(ours)
}

#[test]
fn a_neighbour_that_commits_all_the_time_and_we_do_not_hold_each_other_up() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 400, 3);
        let listening = server.listen(0);
        let mut agent = Agent::start("neighbour", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        let neighbour = Neighbour::start();
        let mut random = Random(0xbeef);
        let start = Instant::now();
        let others = commits_of_others(&agent, || {
            for _ in 0..300 {
                change_something(&server, &mut random);
                std::thread::sleep(Duration::from_millis(1));
            }
            eventually("increments beside a busy neighbour", || {
                agent.agrees_with(&server)
            });
        });
        println!(
            "{others} commits of the neighbour beside increments in {:?}",
            start.elapsed()
        );
        assert!(others > 100, "{others} commits of the neighbour");
        // A start compares everything, and must not be outrun by the neighbour for ever.
        agent.kill();
        for _ in 0..30 {
            change_something(&server, &mut random);
        }
        let start = Instant::now();
        agent.again();
        let others = commits_of_others(&agent, || {
            eventually("a start beside a busy neighbour", || {
                agent.agrees_with(&server)
            });
        });
        println!(
            "{others} commits of the neighbour beside a start in {:?}",
            start.elapsed()
        );
        assert!(others > 100, "{others} commits of the neighbour");
        drop(neighbour);
        assert!(!agent.log().contains("sync failed"), "{}", agent.log());
        assert!(run("nft", &["list", "table", "ip", "other"], "").contains("set s"));
    });
}

#[test]
fn kube_proxys_tables_go_once_ours_are_in_force() {
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
        // Interval sets go ahead, as nothing uses them yet; the rest is one transaction, and
        // when no packet is on its way through theirs any more, they go in another.
        assert_eq!(generation(), before + 3);
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
            eventually("the repair", || {
                listed("service-ips").contains(&address(99))
            });
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

/// Flushes the ruleset; the process id of who did it.
fn flush() -> u32 {
    let mut nft = Command::new("nft")
        .args(["flush", "ruleset"])
        .spawn()
        .unwrap();
    let pid = nft.id();
    assert!(nft.wait().unwrap().success());
    pid
}

#[test]
fn who_flushes_again_is_named_and_always_if_so_asked() {
    for (when, named_at_once) in [("after-drift", false), ("always", true)] {
        in_namespace(|| {
            loopback();
            let server = Server::new();
            fill(&server, 3, 2);
            let listening = server.listen(0);
            let flag = format!("--name-writers={when}");
            let agent = Agent::start(when, &[url(listening.address.port()), flag]);
            // It does not listen while it commits so much; afterwards it says what it did.
            let repaired = |times: usize| {
                eventually("a commit", || {
                    agent.log().matches("message=committed").count() == times
                });
                assert!(agent.agrees_with(&server));
            };
            repaired(1);
            let first = flush();
            repaired(2);
            let by = |pid: u32| format!("by=\"nft (pid {pid})\"");
            assert_eq!(
                agent.log().contains(&by(first)),
                named_at_once,
                "{}",
                agent.log()
            );
            let second = flush();
            repaired(3);
            assert!(agent.log().contains(&by(second)), "{}", agent.log());
            let (_, state) = fetch(10256, "/state");
            assert!(state.contains(&format!("nft (pid {second})")), "{state}");
            // Whoever only writes his own is not blamed for what another does later.
            run("nft", &["add", "table", "ip", "theirs"], "");
            std::thread::sleep(Duration::from_millis(300));
            let third = flush();
            repaired(4);
            let log = agent.log();
            assert!(log.contains(&by(third)), "{log}");
        });
    }
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

#[test]
fn the_health_listener_tells_the_network_verdicts_and_this_host_reasons_and_state() {
    in_namespace(|| {
        loopback();
        run("ip", &["addr", "add", "192.0.2.1/32", "dev", "lo"], "");
        let server = Server::new();
        server.put(service(0));
        server.forbid("Node", true);
        let listening = server.listen(0);
        let agent = Agent::start(
            "told-whom",
            &[
                url(listening.address.port()),
                "--healthz-bind-address=[::]:10256".into(),
            ],
        );
        eventually("the failure", || {
            agent.log().contains("not allowed to list and watch nodes")
        });
        // From its own address, as another host would ask.
        let ask = |path: &str| fetch_at("192.0.2.1", 10256, path);
        for path in ["/state", "/metrics", "/", "/debug/pprof/"] {
            assert_eq!(ask(path).0, 404, "{path}");
        }
        assert_eq!(ask("/healthz").0, 200);
        let (_, told) = ask("/readyz?verbose");
        assert!(told.contains("[-]source Node "), "{told}");
        assert!(!told.contains("not allowed"), "{told}");
        for (port, host) in [(10256, "127.0.0.1"), (10249, "127.0.0.1")] {
            let (_, told) = fetch_at(host, port, "/readyz?verbose");
            assert!(
                told.contains("not allowed to list and watch nodes"),
                "{told}"
            );
            assert_eq!(fetch_at(host, port, "/state").0, 200);
        }
    });
}
