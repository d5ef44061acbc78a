//! Long random histories: what is left of them, whatever happened in between.

use std::time::Duration;

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;

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
