//! The control plane: how long a change takes from memory to the kernel.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use svcnat::apply::{Host as _, ThisHost};
use svcnat::cluster::Change;
use svcnat::config::Config;
use svcnat::engine::{Engine, Next};
use svcnat::netlink::Nfnetlink;
use svcnat::print::text;
use svcnat::transaction::Transaction;

use super::cluster::{self, config, endpoint_ip, list, read, service_change, slice, slice_change};
use super::peers;
use super::report::{Report, Samples};
use super::{in_namespace, nft_file, restore_file, scratch};

/// An engine and a kernel that agree.
struct Node {
    engine: Engine,
    kernel: ThisHost,
}

/// Time of a commit and of all that led to it, and its bytes.
struct Took {
    all: Duration,
    kernel: Duration,
    bytes: usize,
    delta: Transaction,
}

impl Node {
    fn first_sync(objects: svcnat::cluster::Cluster) -> (Self, Took) {
        Self::first_sync_with(config(), objects)
    }

    fn first_sync_with(config: Config, objects: svcnat::cluster::Cluster) -> (Self, Took) {
        let mut kernel = ThisHost::open().expect("a netlink socket");
        let start = Instant::now();
        let mut engine = Engine::with_cluster(config, Vec::new(), objects);
        let live = kernel.read().expect("our tables");
        let (delta, _, _) = engine.rebuild(&live);
        let committed = kernel.commit(&delta, live.generation).expect("a commit");
        let took = Took {
            all: start.elapsed(),
            kernel: Duration::from_micros(committed.micros),
            bytes: committed.bytes,
            delta,
        };
        (Self { engine, kernel }, took)
    }

    fn change(&mut self, change: Change) -> Took {
        let start = Instant::now();
        self.engine.apply(change);
        let Next::Step(step) = self.engine.advance() else {
            panic!("a step was expected");
        };
        let committed = self.kernel.commit(&step.delta, 0).expect("a commit");
        Took {
            all: start.elapsed(),
            kernel: Duration::from_micros(committed.micros),
            bytes: committed.bytes,
            delta: step.delta,
        }
    }
}

/// Slab memory of the whole machine, in KiB: what a ruleset adds to it is the ruleset's.
fn slab() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text
        .lines()
        .find(|l| l.starts_with("Slab:"))
        .unwrap_or_default();
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

fn name(services: usize, endpoints: usize) -> String {
    format!("{services} x {endpoints}")
}

/// Everything at one size.
pub fn measure(report: &mut Report, services: usize, endpoints: usize, rounds: usize, peers: bool) {
    let size = name(services, endpoints);
    let text = list(services, endpoints);
    let objects = read(&text);
    let (mut all, mut kernel, mut floor) =
        (Samples::default(), Samples::default(), Samples::default());
    let (mut nft, mut shape) = (Samples::default(), Samples::default());
    let mut tables = Samples::default();
    let restore = scratch("peer.iptables");
    let rendered = scratch("own.nft");
    let peer = scratch("peer.nft");
    if peers {
        fs::write(&peer, peers::kube_proxy(services, endpoints)).expect("a file");
        fs::write(&restore, peers::iptables(services, endpoints)).expect("a file");
    }
    // Peers take turns, so that a busy moment of the machine hits all of them.
    for round in 0..rounds {
        let before = slab();
        let took = in_namespace(|| {
            let (node, took) = Node::first_sync(objects.clone());
            report.value(
                "kernel memory of the ruleset, KiB",
                &size,
                slab().saturating_sub(before) as f64,
            );
            if round == 0 {
                let mut out = Vec::new();
                text::ruleset(&mut out, node.engine.ruleset()).expect("text");
                fs::write(&rendered, out).expect("a file");
            }
            took
        });
        all.add(took.all);
        kernel.add(took.kernel);
        report.value("first sync, bytes", &size, took.bytes as f64);
        let replayed = in_namespace(|| {
            let mut kernel = Nfnetlink::open().expect("a netlink socket");
            kernel.commit(&took.delta, 0).expect("a commit").micros
        });
        floor.add(Duration::from_micros(replayed));
        if peers {
            nft.add(in_namespace(|| nft_file(&rendered)));
            if round == 0 || services <= 1_000 {
                shape.add(in_namespace(|| nft_file(&peer)));
                if let Some(took) = in_namespace(|| restore_file(&restore)) {
                    tables.add(took);
                }
            }
        }
    }
    report.time("first sync, objects to kernel", &size, &all);
    report.time("first sync, kernel's share", &size, &kernel);
    report.time("first sync, replay of the ready batch", &size, &floor);
    if peers {
        report.time("nft -f of our own text", &size, &nft);
        report.time("nft -f of the kube-proxy shape", &size, &shape);
        report.time("iptables-restore of the iptables shape", &size, &tables);
    }
    changes(report, services, endpoints, &objects);
    if peers {
        peer_changes(report, services, endpoints, &peer);
    }
}

fn changes(
    report: &mut Report,
    services: usize,
    endpoints: usize,
    objects: &svcnat::cluster::Cluster,
) {
    let size = name(services, endpoints);
    in_namespace(|| {
        let (mut node, _) = Node::first_sync(objects.clone());
        let (mut added, mut removed, mut replaced) =
            (Samples::default(), Samples::default(), Samples::default());
        let mut kernel = Samples::default();
        let fresh = services * endpoints;
        // As in a cluster, where services differ: the class that one more endpoint leads to is
        // in use. What the first of a class costs stands beside it.
        let other = services + 500;
        node.change(service_change(&cluster::service(other)));
        node.change(slice_change(&slice(other, fresh..=fresh + endpoints)));
        let mut first = Samples::default();
        for i in 0..20 {
            let n = i * 7919 % services;
            let own = n * endpoints..(n + 1) * endpoints;
            let two_more = own.clone().chain([fresh, fresh + 1]);
            first.add(node.change(slice_change(&slice(n, two_more))).all);
            node.change(slice_change(&slice(n, own)));
        }
        report.time("first service of its class", &size, &first);
        for i in 0..500 {
            let n = i * 7919 % services;
            let own = n * endpoints..(n + 1) * endpoints;
            let more = slice_change(&slice(n, own.clone().chain([fresh])));
            let other = slice_change(&slice(n, own.clone().chain([fresh + 1])));
            let back = slice_change(&slice(n, own));
            let took = node.change(more);
            report.value("one endpoint added, bytes", &size, took.bytes as f64);
            report.value(
                "one endpoint added, elements",
                &size,
                (took.delta.counts().elements_added + took.delta.counts().elements_deleted) as f64,
            );
            kernel.add(took.kernel);
            added.add(took.all);
            replaced.add(node.change(other).all);
            removed.add(node.change(back).all);
        }
        report.time("one endpoint added", &size, &added);
        report.time("one endpoint added, kernel's share", &size, &kernel);
        report.time("one endpoint replaced", &size, &replaced);
        report.time("one endpoint removed", &size, &removed);
        let (mut came, mut went) = (Samples::default(), Samples::default());
        for i in 0..200 {
            let n = services + i;
            node.engine.apply(slice_change(&slice(n, [fresh])));
            came.add(node.change(service_change(&cluster::service(n))).all);
            let gone = svcnat::cluster::ObjectName::new("default", format!("svc-{n}"));
            went.add(node.change(Change::Service(gone, None)).all);
        }
        report.time("one service added", &size, &came);
        report.time("one service deleted", &size, &went);
        let n = services;
        node.engine.apply(slice_change(&slice(n, 0..100)));
        node.change(service_change(&cluster::service(n)));
        let start = Instant::now();
        for i in 0..100 {
            node.change(slice_change(&slice(n, i + 1..i + 101)));
        }
        let mut rolling = Samples::default();
        rolling.add(start.elapsed());
        report.time(
            "rolling update of 100 endpoints, 100 steps",
            &size,
            &rolling,
        );
        let (mut outline, mut whole) = (Samples::default(), Samples::default());
        let (mut again, mut changed) = (Samples::default(), Samples::default());
        for _ in 0..3 {
            let start = Instant::now();
            let live = node.kernel.outline().expect("our tables");
            assert!(svcnat::diff::resembles(node.engine.ruleset(), &live));
            outline.add(start.elapsed());
            let start = Instant::now();
            let live = node.kernel.read().expect("our tables");
            assert!(svcnat::diff::diff(node.engine.ruleset(), &live).is_empty());
            whole.add(start.elapsed());
            let start = Instant::now();
            let mut fresh =
                Engine::with_cluster(config(), Vec::new(), node.engine.cluster().clone());
            let live = node.kernel.read().expect("our tables");
            assert!(
                fresh.rebuild(&live).0.is_empty(),
                "a restart writes nothing"
            );
            again.add(start.elapsed());
        }
        // While nobody followed, one service in a hundred got other endpoints, all of them: as
        // many endpoints of all are others.
        let mut later = node.engine.cluster().clone();
        for n in (0..services).step_by(100) {
            let own = (0..endpoints).map(|i| fresh + n * endpoints + i);
            if let Change::Slice(_, Some(other)) = slice_change(&slice(n, own)) {
                let slices = later.slices.entry(other.service.clone());
                slices.or_default().insert(*other);
            }
        }
        for objects in [&later, &node.engine.cluster().clone()] {
            let start = Instant::now();
            let mut restarted = Engine::with_cluster(config(), Vec::new(), objects.clone());
            let live = node.kernel.read().expect("our tables");
            let (delta, _, _) = restarted.rebuild(&live);
            assert!(!delta.is_empty(), "endpoints changed");
            node.kernel
                .commit(&delta, live.generation)
                .expect("a commit");
            changed.add(start.elapsed());
        }
        report.time("restart, 1 % of the endpoints changed", &size, &changed);
        report.time("verification by outline", &size, &outline);
        let mut asked = Samples::default();
        for _ in 0..3 {
            let start = Instant::now();
            let held = svcnat::apply::holds(&mut node.kernel, node.engine.ruleset());
            assert!(matches!(held, Ok(svcnat::apply::Verification::Whole(_))));
            asked.add(start.elapsed());
        }
        report.time("verification by asking for each element", &size, &asked);
        report.time("verification by full read-back", &size, &whole);
        report.time("restart on an unchanged cluster", &size, &again);
    });
}

/// What `--service-counters` adds to a first sync and to one change.
pub fn counters(report: &mut Report, services: usize, endpoints: usize, rounds: usize) {
    let objects = read(&list(services, endpoints));
    for service_counters in [false, true] {
        let counters = if service_counters { "on" } else { "off" };
        let size = format!("{}, counters {counters}", name(services, endpoints));
        let (mut first, mut one) = (Samples::default(), Samples::default());
        for _ in 0..rounds {
            let settings = Config {
                service_counters,
                ..config()
            };
            in_namespace(|| {
                let (mut node, took) = Node::first_sync_with(settings, objects.clone());
                first.add(took.all);
                for i in 0..100 {
                    let n = i * 79 % services;
                    let own = n * endpoints..(n + 1) * endpoints;
                    let more = slice(n, own.clone().chain([services * endpoints]));
                    one.add(node.change(slice_change(&more)).all);
                    node.change(slice_change(&slice(n, own)));
                }
            });
        }
        report.time("first sync, objects to kernel", &size, &first);
        report.time("one endpoint added", &size, &one);
    }
}

/// One endpoint more, as kube-proxy writes it, by the program it runs.
fn peer_changes(report: &mut Report, services: usize, endpoints: usize, whole: &std::path::Path) {
    let size = name(services, endpoints);
    in_namespace(|| {
        nft_file(whole);
        let file = scratch("change.nft");
        let mut samples = Samples::default();
        for i in 0..if services > 1_000 { 5 } else { 20 } {
            let n = i * 7 % services;
            let own: Vec<usize> = (n * endpoints..(n + 1) * endpoints).collect();
            let text = peers::kube_proxy_change(n, &own, services * endpoints + i);
            fs::write(&file, text).expect("a file");
            samples.add(nft_file(&file));
        }
        report.time(
            "kube-proxy shape: one endpoint added by nft -f",
            &size,
            &samples,
        );
    });
}

/// A figure of /proc/PID/status, in KiB.
fn resident(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next());
    number
        .and_then(|n| n.parse().ok())
        .expect("a field of the process's status")
}

/// Memory of the daemon on a file of this size, resident and at its peak.
pub fn memory(report: &mut Report, services: usize, endpoints: usize) {
    let size = name(services, endpoints);
    let file = scratch("list.json");
    fs::write(&file, list(services, endpoints)).expect("a file");
    in_namespace(|| {
        let log = scratch("log");
        let start = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args([
                "run",
                "--node-name=n1",
                "--node-ip=192.168.0.1",
                "--service-cluster-ip-range=10.0.0.0/8",
                "--cluster-cidr=172.16.0.0/12",
                "--manage-routes=false",
                "--sysctls=ignore",
                "--healthz-bind-address=none",
                "--metrics-bind-address=none",
                "-f",
            ])
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("the daemon");
        while !fs::read_to_string(&log)
            .unwrap_or_default()
            .contains("cause=start")
        {
            assert!(
                start.elapsed() < Duration::from_secs(300),
                "the daemon never came up"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut ready = Samples::default();
        ready.add(start.elapsed());
        report.time(
            "daemon on a file, process start to committed",
            &size,
            &ready,
        );
        let peak = resident(child.id(), "VmHWM");
        report.value("daemon on a file, peak resident KiB", &size, peak);
        // The allocator gives memory back some seconds later.
        std::thread::sleep(Duration::from_secs(12));
        let kept = resident(child.id(), "VmRSS");
        report.value("daemon on a file, resident KiB 12 s later", &size, kept);
        child.kill().expect("an end");
        child.wait().expect("an end");
    });
}

/// One service with very many endpoints.
pub fn giant(report: &mut Report, endpoints: usize) {
    let objects = read(&list(1, endpoints));
    let size = name(1, endpoints);
    let (mut first, mut one) = (Samples::default(), Samples::default());
    in_namespace(|| {
        let (mut node, took) = Node::first_sync(objects);
        first.add(took.all);
        for i in 0..3 {
            let more = slice(0, (0..endpoints).chain([endpoints + i]));
            one.add(node.change(slice_change(&more)).all);
        }
    });
    report.time("first sync, objects to kernel", &size, &first);
    report.time("one endpoint of one slice of that size added", &size, &one);
    let _ = endpoint_ip(0);
}
