//! The agent killed over and over while services change and clients connect.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;
use crate::traffic::{REFUSE, STEADY_ENDPOINTS, Seen, Traffic};

/// Changes for each kill.
const CHANGES: usize = 12;

/// A server, its clients and the agent between them.
struct Scene {
    server: Server,
    traffic: Arc<Traffic>,
    agent: Agent,
    random: Random,
}

impl Scene {
    fn agreement(&self) {
        eventually("agreement", || self.agent.agrees_with(&self.server));
        self.traffic.agreed();
    }

    /// `CHANGES` changes, in the midst of which the agent may be killed. How often it was.
    fn round(&mut self, kill: bool) -> usize {
        let mut kills = 0;
        let kill_at = self.random.below(CHANGES);
        for i in 0..CHANGES {
            self.traffic.change(&mut self.random);
            if i % 5 == 4 {
                std::thread::sleep(Duration::from_millis(2));
            }
            if !kill || i != kill_at {
                continue;
            }
            loop {
                // While it commits, while it rests, and, again, while it starts.
                let longest = [2_000, 20_000, 150_000][self.random.below(3)];
                std::thread::sleep(Duration::from_micros(self.random.below(longest) as u64));
                self.agent.kill();
                self.agent.again();
                kills += 1;
                if self.random.below(3) > 0 {
                    break;
                }
            }
        }
        kills
    }
}

/// Of `kills` rounds without kills and then with at least as many, what clients saw.
fn seen_by_clients(scene: &mut Scene, kills: usize) -> [[Seen; 2]; 2] {
    let traffic = Arc::clone(&scene.traffic);
    [false, true].map(|kill| {
        let start = Instant::now();
        let (killed, seen) = traffic.during(|| {
            let mut killed = 0;
            for round in 0.. {
                killed += scene.round(kill);
                if round % 4 == 3 {
                    scene.agreement();
                }
                if round + 1 >= kills && (!kill || killed >= kills) {
                    break;
                }
            }
            scene.agreement();
            killed
        });
        let took = start.elapsed();
        let [changing, steady] = &seen;
        println!("{killed} kills in {took:?}; changing: {changing}; steady: {steady}");
        seen
    })
}

/// `SVCNAT_KILLS` kills; the longer run of the documentation uses 500.
fn kill_with(name: &str, arguments: &[&str]) {
    in_namespace(|| {
        loopback();
        let kills: usize = std::env::var("SVCNAT_KILLS").map_or(50, |n| n.parse().unwrap());
        let server = Server::new();
        let traffic = Arc::new(Traffic::new(&server, 40, 5));
        let listening = server.listen(0);
        let mut args = vec![url(listening.address.port()), REFUSE.into()];
        args.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let agent = Agent::start(name, &args);
        let random = Random(0xdead);
        let mut scene = Scene {
            server,
            traffic,
            agent,
            random,
        };
        scene.agreement();
        // Whoever refuses wrongly or answers for another has ended the test by now.
        let [without, with] = seen_by_clients(&mut scene, kills);
        for [changing, steady] in [&without, &with] {
            assert!(changing.answered > 100 && steady.answered > 100);
            assert_eq!(steady.refused, 0);
            assert_eq!(
                steady.endpoints.len(),
                STEADY_ENDPOINTS,
                "{:?}",
                steady.endpoints
            );
        }
        // A machine that is busy may cost a connection; a kill may not.
        for (without, with) in without.iter().zip(&with) {
            let rate = |seen: &Seen, of: &Seen| seen.unanswered.len() * of.answered;
            assert!(
                rate(with, without) <= rate(without, with),
                "without kills: {without} {:#?}, with: {with} {:#?}",
                without.unanswered,
                with.unanswered
            );
        }
    });
}

#[test]
fn killed_at_random_moments_it_costs_no_connection_and_ends_where_it_should() {
    kill_with("kill", &[]);
}

#[test]
fn killed_while_the_tables_are_its_own_it_costs_no_connection() {
    kill_with("kill-own", &["--own-tables"]);
}

#[test]
fn killed_while_it_saves_its_state_it_costs_no_connection() {
    let folder = std::env::temp_dir().join(format!("svcnat-kill-state-{}", std::process::id()));
    kill_with(
        "kill-state",
        &[&format!("--state-dir={}", folder.display())],
    );
    std::fs::remove_dir_all(folder).unwrap();
}
