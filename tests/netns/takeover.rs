//! From kube-proxy, or from an older svcnat, to svcnat while connections are open and others are being opened.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use svcnat::cluster::{Family, Protocol};

use crate::support::{
    Cluster, Daemon, Dual, FOLLOWED, Lab, Outcome, Plan, Service, cluster_ip, ip_of,
};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(&["a0", "b0"])
}

/// What kube-proxy's nftables mode would have installed for [`web`], in its shape: a map of
/// verdicts, a chain for the service and one for each endpoint, marks for what is masqueraded.
/// Its lookups come after so many rules that a packet is a while on its way to them: the longer
/// that takes, the more packets are on it when ours come and these go.
fn kube_proxy(family: Family) -> String {
    const SLOW: usize = 5_000;
    let ip = family.nft_name();
    let vip = cluster_ip(10).of(family);
    let endpoint = |place| {
        let addr = ip_of(place).of(family);
        format!(
            "chain endpoint-{place} {{
               {ip} saddr {addr} jump mark-for-masquerade
               meta l4proto tcp dnat to {}
             }}",
            SocketAddr::new(addr, 8080)
        )
    };
    format!(
        "table {ip} kube-proxy {{
           chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
           {a0}
           {b0}
           chain service-web {{
             numgen random mod 2 vmap {{ 0 : goto endpoint-a0, 1 : goto endpoint-b0 }}
           }}
           chain external-web {{
             jump mark-for-masquerade
             goto service-web
           }}
           map service-ips {{
             type {ip}v{number}_addr . inet_proto . inet_service : verdict
             elements = {{ {vip} . tcp . 80 : goto service-web }}
           }}
           map service-nodeports {{
             type inet_proto . inet_service : verdict
             elements = {{ tcp . 30080 : goto external-web }}
           }}
           chain services {{
             {slow}
             {ip} daddr . meta l4proto . th dport vmap @service-ips
             fib daddr type local meta l4proto . th dport vmap @service-nodeports
           }}
           chain nat-prerouting {{
             type nat hook prerouting priority dstnat
             jump services
           }}
           chain nat-output {{
             type nat hook output priority -100
             jump services
           }}
           chain nat-postrouting {{
             type nat hook postrouting priority srcnat
             meta mark and 0x4000 == 0 return
             meta mark set meta mark xor 0x4000
             masquerade fully-random
           }}
         }}\n",
        slow = "meta mark 0x7fff0001 drop\n".repeat(SLOW),
        a0 = endpoint("a0"),
        b0 = endpoint("b0"),
        number = if family == Family::Ip { 4 } else { 6 },
    )
    .replace("ip6v6_addr", "ipv6_addr")
}

#[test]
fn no_connection_is_lost_or_refused_when_kube_proxys_tables_go() {
    let back = |round| {
        let mut back: String = Family::ALL.map(kube_proxy).concat();
        if round > 0 {
            back += "delete table ip svcnat\ndelete table ip6 svcnat\n";
        }
        back
    };
    let node = replaced_under_connections(back, &["--take-over-kube-proxy"]);
    assert!(!node.contains("kube-proxy"), "{node}");
}

/// What version 0.1.0 rendered for [`web`] on node `a` (`svcnat render`, unchanged).
const FIRST_LAYOUT: &str = include_str!("layouts/0.1.0.nft");

#[test]
fn no_connection_is_lost_or_refused_when_an_older_layout_is_replaced() {
    let node = replaced_under_connections(|_| FIRST_LAYOUT.to_owned(), &[]);
    assert!(node.contains("svcnat"), "{node}");
}

#[test]
fn an_older_layout_becomes_what_a_fresh_start_installs() {
    let lab = Lab::from_plan(Plan {
        routes: true,
        ..Plan::default()
    });
    let cluster = Cluster::with([web()]);
    let node = lab.at("a");
    let apply = ["apply", "--manage-routes=false"];
    // Chains and sets are listed in the order in which they were made, and those that are
    // kept have the comments, or none, that they were made with.
    let listed = || -> BTreeSet<String> {
        let text = node.must("nft", &["list", "ruleset"], "");
        let lines = text.lines();
        let lines = lines.filter(|line| !line.trim_start().starts_with("comment \""));
        let text: String = lines.flat_map(|line| [line, "\n"]).collect();
        let text = text
            .replace("\n}\n", "\n\n")
            .replace("svcnat {\n", "svcnat {\n\n");
        text.split("\n\n").map(str::to_owned).collect()
    };
    lab.svcnat("a", &apply, &cluster).expect(0);
    let fresh = listed();
    node.nft(FIRST_LAYOUT);
    assert_ne!(listed(), fresh);
    let upgraded = lab.svcnat("a", &apply, &cluster).expect(0);
    assert!(upgraded.stdout.contains("applied in one transaction"));
    assert_eq!(listed(), fresh);
    let again = lab.svcnat("a", &apply, &cluster).expect(0);
    assert!(again.stdout.contains("0 bytes sent"), "{}", again.stdout);
}

/// Has `svcnat run` replace the tables that `before` makes, given the round, while
/// connections are open and others are being opened. Returns the tables at the end.
fn replaced_under_connections(before: impl Fn(usize) -> String, how: &[&str]) -> String {
    const ROUNDS: usize = 10;
    let lab = Lab::from_plan(Plan {
        routes: true,
        ..Plan::default()
    });
    let cluster = Cluster::with([web()]);
    let node = lab.at("a");
    let frontends: [(&str, Dual, u16); 3] = [
        ("a1", cluster_ip(10), 80),
        ("a", cluster_ip(10), 80),
        ("out", ip_of("a"), 30_080),
    ];
    let caller = |from| lab.from(from).unwalked(FOLLOWED);
    let (mut connections, mut established) = (0, 0);
    for round in 0..ROUNDS {
        // Back to how it was, in one transaction too.
        node.nft(&before(round));
        let mut sessions = Vec::new();
        for (from, to, port) in frontends {
            for family in Family::ALL {
                let to = SocketAddr::new(to.of(family), port);
                let session = caller(from).open(Protocol::Tcp, to);
                sessions.push(session.expect("the rules before work"));
            }
        }
        let stop = AtomicBool::new(false);
        let outcomes: Vec<(&str, SocketAddr, Outcome)> = thread::scope(|scope| {
            let clients: Vec<_> = (frontends.iter())
                .map(|(from, to, port)| {
                    let (stop, caller) = (&stop, caller(from));
                    scope.spawn(move || {
                        let mut outcomes = Vec::new();
                        while !stop.load(Ordering::Relaxed) {
                            for family in Family::ALL {
                                let to = SocketAddr::new(to.of(family), *port);
                                let enough = |_: &[Outcome]| stop.load(Ordering::Relaxed);
                                let asked = caller.ask_until(Protocol::Tcp, to, 20, enough);
                                outcomes.extend(asked.into_iter().map(|o| (*from, to, o)));
                            }
                        }
                        outcomes
                    })
                })
                .collect();
            thread::sleep(Duration::from_millis(100));
            let args = [&["--manage-routes=false"], how].concat();
            let daemon = Daemon::start(&lab, "a", &cluster.json(), &args);
            thread::sleep(Duration::from_millis(100));
            stop.store(true, Ordering::Relaxed);
            drop(daemon);
            clients
                .into_iter()
                .flat_map(|c| c.join().expect("a client that ends"))
                .collect()
        });
        for (nth, (from, to, outcome)) in outcomes.iter().enumerate() {
            let answered =
                matches!(outcome, Outcome::Answer(a) if ["a0", "b0"].contains(&a.name.as_str()));
            assert!(
                answered,
                "round {round}: {from} asks {to}: {outcome:?}, {nth} of {}",
                outcomes.len()
            );
        }
        for session in &mut sessions {
            let (before, now) = (session.opened.clone(), session.ask().answer());
            assert_eq!(now, before, "an established connection goes on as it was");
        }
        connections += outcomes.len();
        established += sessions.len();
    }
    println!("{connections} connections opened meanwhile, {established} before");
    assert!(connections > 100 * ROUNDS, "{connections} connections");
    node.must("nft", &["list", "tables"], "")
}
