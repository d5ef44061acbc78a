//! The data plane: what a connection's first packet and the next ones cost, through three
//! namespaces joined by veth: client, node (with the rules), server.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use svcnat::engine::Engine;
use svcnat::netlink::Nfnetlink;

use super::cluster::{config, list, read, service_ip};
use super::report::{Report, Samples};
use super::{nft_file, run, scratch};

const SERVER: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 2);
const FLOWS: u16 = 4_000;

/// Three namespaces, gone when dropped.
struct Bench {
    names: [String; 3],
}

impl Bench {
    fn new() -> Self {
        let names =
            ["c", "n", "s"].map(|part| format!("svcnat-bench-{}-{part}", std::process::id()));
        for name in &names {
            run("ip", &["netns", "add", name]);
        }
        let [c, n, s] = &names;
        let ip = |ns: &str, args: &str| {
            let mut all = vec!["-n", ns];
            all.extend(args.split(' '));
            run("ip", &all);
        };
        ip(
            n,
            &format!("link add to-c type veth peer name eth0 netns {c}"),
        );
        ip(
            n,
            &format!("link add to-s type veth peer name eth0 netns {s}"),
        );
        for (ns, args) in [
            (c, "addr add 192.0.2.2/24 dev eth0"),
            (n, "addr add 192.0.2.1/24 dev to-c"),
            (n, "addr add 172.16.0.1/12 dev to-s"),
            (s, "addr add 172.16.0.2/12 dev eth0"),
            (c, "link set eth0 up"),
            (n, "link set to-c up"),
            (n, "link set to-s up"),
            (s, "link set eth0 up"),
            (c, "route add default via 192.0.2.1"),
            (s, "route add default via 172.16.0.1"),
        ] {
            ip(ns, args);
        }
        let bench = Self { names };
        bench.within(1, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding");
        });
        bench
    }

    /// Runs on a thread inside one of the namespaces.
    fn within<T: Send>(&self, which: usize, body: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.names[which]);
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let file = File::open(path).expect("the namespace");
                setns(file, CloneFlags::CLONE_NEWNET).expect("to enter it");
                body()
            });
            inside.join().expect("no panic inside")
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for name in &self.names {
            run("ip", &["netns", "delete", name]);
        }
    }
}

/// The server's socket. What is measured is the way to it, which veth pairs carry out within
/// the sender's system call: no scheduler comes in between.
fn serve(bench: &Bench) -> UdpSocket {
    let socket = bench.within(2, || {
        UdpSocket::bind((SERVER, 8080)).expect("the server's port")
    });
    socket.set_nonblocking(true).expect("a mode");
    socket
}

/// Takes what arrived.
fn received(socket: &UdpSocket) -> usize {
    let mut buffer = [0; 64];
    std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count()
}

/// One packet of each of many new flows, then as many of one established flow. All of them
/// must arrive.
fn flows(
    bench: &Bench,
    server: &UdpSocket,
    to: SocketAddr,
    first: &mut Samples,
    next: &mut Samples,
) {
    let send = |socket: &UdpSocket| {
        let start = Instant::now();
        socket.send(b"x").expect("a packet");
        start.elapsed()
    };
    let client = |port| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
        socket.connect(to).expect("a destination");
        socket
    };
    bench.within(0, || {
        let mut arrived = 0;
        for i in 0..FLOWS {
            first.add(send(&client(20_000 + i)));
            arrived += if i % 50 == 49 { received(server) } else { 0 };
        }
        let socket = client(19_999);
        send(&socket);
        for i in 0..FLOWS {
            next.add(send(&socket));
            arrived += if i % 50 == 49 { received(server) } else { 0 };
        }
        std::thread::sleep(Duration::from_millis(20));
        arrived += received(server);
        assert_eq!(
            arrived,
            2 * usize::from(FLOWS) + 1,
            "packets were lost on the way to {to}"
        );
    });
    bench.within(1, || run("conntrack", &["-F"]));
}

fn udp(text: String) -> String {
    text.replace("\"port\":80", "\"protocol\":\"UDP\",\"port\":80")
        .replace("\"port\":8080", "\"protocol\":\"UDP\",\"port\":8080")
}

/// Our rules for so many services; all endpoints are the one server.
fn ours(bench: &Bench, services: usize, classes: usize, affinity: bool) {
    let mut text = udp(list(services, 1));
    if affinity {
        text = text.replace(
            "\"ports\":[{\"name\":\"http\",\"protocol\"",
            "\"sessionAffinity\":\"ClientIP\",\"ports\":[{\"name\":\"http\",\"protocol\"",
        );
    }
    let mut objects = read(&text);
    for (n, slices) in objects.slices.values_mut().enumerate() {
        for slice in slices.iter_mut() {
            // Ports tell endpoints apart; the server answers on one, so a service with more
            // endpoints repeats it by weight.
            for endpoint in &mut slice.endpoints {
                endpoint.address = SERVER.into();
                endpoint.pod = Some("p".into());
            }
        }
        if let Some(service) = objects.services.values_mut().nth(n) {
            let weight = u32::try_from(n % classes + 1).expect("few classes");
            service.weights.insert("pod/p".into(), weight);
        }
    }
    bench.within(1, || {
        let mut kernel = Nfnetlink::open().expect("a netlink socket");
        let mut engine = Engine::with_cluster(config(), Vec::new(), objects);
        let live = kernel.read().expect("our tables");
        let (delta, _, _) = engine.rebuild(&live);
        kernel.commit(&delta, 0).expect("a commit");
    });
}

fn flush(bench: &Bench) {
    bench.within(1, || run("nft", &["flush", "ruleset"]));
}

fn load(bench: &Bench, file: &Path) {
    bench.within(1, || nft_file(file));
}

/// All setups, in turns.
pub fn measure(report: &mut Report, sizes: &[usize], rounds: usize) {
    if Command::new("conntrack").arg("-V").output().is_err() {
        eprintln!("conntrack is not installed: no data plane figures");
        return;
    }
    let bench = Bench::new();
    let server = serve(&bench);
    let vip = |n: usize| SocketAddr::from((service_ip(n), 80));
    let mut results: Vec<(String, Samples, Samples)> = Vec::new();
    let mut note = |name: &str, first: Samples, next: Samples| match results
        .iter_mut()
        .find(|(known, ..)| known == name)
    {
        Some((_, a, b)) => {
            a.extend(first);
            b.extend(next);
        }
        None => results.push((name.to_owned(), first, next)),
    };
    let file = scratch("data.nft");
    for _ in 0..rounds {
        let mut measured = |name: &str, to: SocketAddr| {
            let (mut first, mut next) = (Samples::default(), Samples::default());
            flows(&bench, &server, to, &mut first, &mut next);
            note(name, first, next);
            flush(&bench);
        };
        // Tracked but not translated: what NAT adds is the rest.
        fs::write(&file, "table ip t {\n chain c {\n type filter hook prerouting priority 0;\n ct state new accept\n }\n}\n").expect("a file");
        load(&bench, &file);
        measured("no NAT", (SERVER, 8080).into());
        fs::write(&file, format!("table ip t {{\n chain c {{\n type nat hook prerouting priority -100;\n ip daddr {} udp dport 80 dnat to {SERVER}:8080\n }}\n}}\n", service_ip(0))).expect("a file");
        load(&bench, &file);
        measured("one hand-written dnat rule", vip(0));
        for services in sizes {
            ours(&bench, *services, 1, false);
            measured(&format!("svcnat, {services} services"), vip(services / 2));
            let shape = super::peers::kube_proxy(*services, 1).replace("tcp", "udp");
            let shape = shape
                .lines()
                .map(|line| match line.find("dnat to ") {
                    Some(at) => format!("{}dnat to {SERVER}:8080\n", &line[..at]),
                    None => format!("{line}\n"),
                })
                .collect::<String>();
            fs::write(&file, shape).expect("a file");
            load(&bench, &file);
            measured(
                &format!("kube-proxy shape, {services} services"),
                vip(services / 2),
            );
        }
        for classes in [8, 30] {
            ours(&bench, 1_000, classes, false);
            measured(
                &format!("svcnat, 1000 services in {classes} classes"),
                vip(500),
            );
        }
        ours(&bench, 1_000, 1, true);
        measured("svcnat, 1000 services with affinity", vip(500));
    }
    for (name, first, next) in &results {
        report.time("first packet of a flow, one way", name, first);
        report.time("packet of an established flow, one way", name, next);
    }
}
