//! Long random histories: what is left of them, and what connections saw meanwhile.

use std::time::{Duration, Instant};

use crate::harness::*;
use crate::server::Server;
use crate::support::{in_namespace, run};
use crate::traffic::Traffic;

/// Services that have and had no endpoints refuse, rather than let clients wait.
const REFUSE: &str = "--unallocated=reject";
/// Endpoints that answer for five services that never change: three each, but of the one
/// with session affinity always the same.
const STEADY_ENDPOINTS: usize = 4 * 3 + 1;

/// `SVCNAT_SOAK` changes; the longer run of the documentation uses 10,000.
#[test]
fn a_long_random_history_leaves_kernel_and_memory_as_a_fresh_start_would() {
    in_namespace(|| {
        loopback();
        let changes: usize = std::env::var("SVCNAT_SOAK").map_or(1_500, |n| n.parse().unwrap());
        let server = Server::new();
        let traffic = Traffic::new(&server, 40, 5);
        let listening = server.listen(0);
        let args = [url(listening.address.port()), REFUSE.into()];
        let agent = Agent::start("soak", &args);
        eventually("the first sync", || agent.agrees_with(&server));
        traffic.agreed();
        let mut random = Random(0x5eed);
        let (early, [changing, steady]) = traffic.during(|| {
            let mut early = 0;
            for i in 0..changes {
                traffic.change(&mut random);
                std::thread::sleep(Duration::from_micros(500));
                if i % 500 == 499 {
                    eventually("agreement", || agent.agrees_with(&server));
                    traffic.agreed();
                    if early == 0 {
                        early = agent.memory();
                    }
                }
            }
            eventually("the end", || agent.agrees_with(&server));
            early
        });
        let late = agent.memory();
        println!("{early} KiB, then {late} KiB; changing: {changing}; steady: {steady}");
        assert!(
            late < early + early / 16,
            "memory grew from {early} to {late} KiB"
        );
        assert!(changing.answered > 100 && steady.answered > 100);
        assert_eq!(steady.refused, 0);
        assert_eq!(
            steady.endpoints.len(),
            STEADY_ENDPOINTS,
            "{:?}",
            steady.endpoints
        );
        // What the agent thinks is in the kernel is there: it looks itself when told to.
        run("kill", &["-HUP", &agent.id().to_string()], "");
        server.put(slice(0, &[1, 2, 3]));
        eventually("a change after the look", || agent.agrees_with(&server));
        let log = agent.log();
        assert!(!log.contains("others changed our tables"), "{log}");
        let full = log.matches("full=true").count();
        assert!(full < 5, "increments fell back to {full} full syncs");
    });
}

#[test]
fn killed_at_random_moments_it_misroutes_no_connection_and_ends_where_it_should() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        let traffic = Traffic::new(&server, 40, 5);
        let listening = server.listen(0);
        let args = [url(listening.address.port()), REFUSE.into()];
        let mut agent = Agent::start("kill", &args);
        eventually("the first sync", || agent.agrees_with(&server));
        traffic.agreed();
        let mut random = Random(0xdead);
        let mut kills = 0;
        let start = Instant::now();
        let ((), [changing, steady]) = traffic.during(|| {
            for round in 0..40 {
                // In every second round on average.
                let kill_at = random.below(50);
                for i in 0..25 {
                    traffic.change(&mut random);
                    if i % 5 == 4 {
                        std::thread::sleep(Duration::from_millis(2));
                    }
                    if i != kill_at {
                        continue;
                    }
                    loop {
                        std::thread::sleep(Duration::from_millis(random.below(100) as u64));
                        agent.kill();
                        agent.again();
                        kills += 1;
                        // Now and then the start is what is killed.
                        if random.below(3) > 0 {
                            break;
                        }
                    }
                }
                if round % 2 == 1 {
                    eventually("agreement", || agent.agrees_with(&server));
                    traffic.agreed();
                }
            }
        });
        let took = start.elapsed();
        println!("{kills} kills in {took:?}; changing: {changing}; steady: {steady}");
        assert!(kills > 15, "{kills} kills");
        assert!(changing.answered > 100 && steady.answered > 100);
        assert_eq!(steady.refused, 0);
        assert_eq!(
            steady.endpoints.len(),
            STEADY_ENDPOINTS,
            "{:?}",
            steady.endpoints
        );
    });
}
