//! Long random histories: what is left of them, and what connections saw meanwhile.

use std::time::Duration;

use crate::harness::*;
use crate::server::Server;
use crate::support::{in_namespace, run};
use crate::traffic::{REFUSE, STEADY_ENDPOINTS, Traffic};

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
        for seen in [&changing, &steady] {
            assert!(seen.unanswered.is_empty(), "{:#?}", seen.unanswered);
        }
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
