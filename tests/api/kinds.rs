//! Rules that come and go with what uses them, while clients connect.

use std::sync::Arc;

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;
use crate::traffic::{REFUSE, Traffic};

/// One service that changes and one that never does; each step names the endpoints of the
/// first. Nobody may be refused, left unanswered, or answered by another's endpoint.
fn costs_no_connection(name: &str, steps: impl Iterator<Item = Vec<usize>> + Send) {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        let traffic = Arc::new(Traffic::new(&server, 1, 1));
        let listening = server.listen(0);
        let agent = Agent::start(name, &[url(listening.address.port()), REFUSE.into()]);
        let agreement = || {
            eventually("agreement", || agent.agrees_with(&server));
            traffic.agreed();
        };
        agreement();
        let (steps, [changing, steady]) = traffic.during(|| {
            let mut count = 0;
            for endpoints in steps {
                traffic.put(0, false, &endpoints);
                count += 1;
                // By turns: one change that is waited for, and some that pile up.
                if count % 3 == 0 {
                    agreement();
                } else {
                    std::thread::sleep(std::time::Duration::from_millis(3));
                }
            }
            agreement();
            count
        });
        println!("{steps} changes; changing: {changing}; steady: {steady}");
        for seen in [&changing, &steady] {
            assert!(seen.answered > steps, "{seen}");
            assert_eq!(seen.refused, 0, "{seen}");
            assert!(seen.unanswered.is_empty(), "{:#?}", seen.unanswered);
        }
    });
}

#[test]
fn the_first_and_last_of_a_class_by_turns_cost_no_connection() {
    let flaps = (0..150).map(|n| (0..2 + n % 2 * 2).collect());
    costs_no_connection("flap", flaps);
}

#[test]
fn the_first_of_every_class_costs_no_connection() {
    // Past 32 endpoints lists are large; then back again, the last of every class.
    let up = 1..=70;
    let sizes = up.clone().chain(up.rev());
    costs_no_connection("classes", sizes.map(|n| (0..n).collect()));
}
