//! API servers that misbehave, and what is made of them: with short deadlines, and without an
//! agent behind.

use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::json;
use svcnat::cluster::Object;
use svcnat::source::api::{Event, Failure, Follower, Kind, Limits, Reason, Settings, follow};

use crate::harness::{loopback, service, slice};
use crate::server::{Fault, Server};
use crate::support::{in_namespace, run};

/// More than a machine that does much else may lose.
pub const SLACK: Duration = Duration::from_secs(10);

pub fn short() -> Limits {
    Limits {
        connect: Duration::from_millis(500),
        head: Duration::from_millis(500),
        window: Duration::from_millis(500),
        watch: Duration::from_secs(2),
        silence: Duration::from_millis(2500),
        mute: Duration::from_secs(5),
        steady: Duration::from_millis(700),
        first_wait: Duration::from_millis(20),
        last_wait: Duration::from_millis(500),
        dispensed: Duration::from_millis(500),
        ..Limits::default()
    }
}

/// A follower, and what it said.
pub struct Following {
    follower: Follower,
    pub events: Vec<Event>,
}

impl Following {
    pub fn of(addresses: &[SocketAddr], limits: Limits) -> Self {
        Self::with(Settings {
            servers: addresses.iter().map(|a| format!("http://{a}")).collect(),
            node_name: "n1".to_owned(),
            all_nodes: true,
            page_size: 100,
            limits,
            ..Settings::default()
        })
    }

    pub fn with(settings: Settings) -> Self {
        Self {
            follower: follow(&settings).unwrap(),
            events: Vec::new(),
        }
    }

    /// Waits until an event is such; how long that took.
    pub fn until(&mut self, what: &str, most: Duration, such: impl Fn(&Event) -> bool) -> Duration {
        let start = Instant::now();
        loop {
            let from = self.events.len();
            self.events.extend(self.follower.events());
            if self.events[from..].iter().any(&such) {
                return start.elapsed();
            }
            assert!(
                start.elapsed() < most,
                "{what} did not come within {most:?}: {:#?}",
                self.failures()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a list of every kind was complete.
    pub fn until_complete(&mut self, most: Duration) {
        let start = Instant::now();
        let complete = |events: &[Event], kind| {
            let is = |e: &Event| matches!(e, Event::Reset(k, _) if *k == kind);
            events.iter().any(is)
        };
        while !Kind::ALL.iter().all(|kind| complete(&self.events, *kind)) {
            self.events.extend(self.follower.events());
            assert!(
                start.elapsed() < most,
                "not complete within {most:?}: {:#?}",
                self.failures()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Failures, each of the kind of that name.
    pub fn failures(&mut self) -> Vec<(&'static str, Failure)> {
        self.events.extend(self.follower.events());
        let failure = |event: &Event| match event {
            Event::Lost(kind, failure) => Some((*kind, failure.clone())),
            _ => None,
        };
        self.events.iter().filter_map(failure).collect()
    }
}

/// Objects that an event brings.
pub fn brought(event: &Event) -> &[Object] {
    match event {
        Event::Reset(_, objects) => objects,
        Event::Apply(object) => std::slice::from_ref(object),
        _ => &[],
    }
}

pub fn is_slice(event: &Event, name: &str) -> bool {
    let is = |object: &Object| object.kind() == Kind::EndpointSlice && &*object.name().name == name;
    brought(event).iter().any(is)
}

#[test]
fn a_server_that_does_not_answer_is_left_for_the_next() {
    for (fault, reason) in [
        (Some(Fault::Silent), Reason::Silent),
        (Some(Fault::Drip), Reason::Silent),
        (Some(Fault::StatusForAnHour(429)), Reason::Busy),
        (Some(Fault::StatusForAnHour(503)), Reason::Busy),
        (Some(Fault::Status(504)), Reason::Busy),
        (Some(Fault::Status(500)), Reason::ServerError),
        (Some(Fault::Status(302)), Reason::ServerError),
        (Some(Fault::Status(403)), Reason::Forbidden),
        (Some(Fault::Status(401)), Reason::Unauthorized),
        (Some(Fault::Status(404)), Reason::NotServed),
        (Some(Fault::EndlessPage), Reason::TooLarge),
        (Some(Fault::EndlessList), Reason::TooLarge),
        (Some(Fault::CircularList), Reason::NotUnderstood),
        // Nobody accepts, and the kernel says that somebody will.
        (None, Reason::Silent),
    ] {
        in_namespace(|| {
            loopback();
            let good = Server::new();
            good.put(service(1));
            good.put(slice(1, &[1]));
            let listening = good.listen(0);
            let bad = good.twin();
            bad.misbehave(fault);
            let bad_listening = bad.listen(0);
            let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
            let bad_address = match fault {
                Some(_) => bad_listening.address,
                None => deaf.local_addr().unwrap(),
            };
            let limits = Limits {
                page_bytes: 256 << 10,
                list_objects: 1000,
                ..short()
            };
            let most = limits.first_answer() + SLACK;
            let mut following = Following::of(&[bad_address, listening.address], limits);
            following.until_complete(most);
            let failures = following.failures();
            let reasons: Vec<Reason> = failures
                .iter()
                .filter(|(kind, _)| *kind == "Service")
                .map(|(_, failure)| failure.reason)
                .collect();
            assert!(reasons.contains(&reason), "{fault:?}: {failures:#?}");
        });
    }
}

/// Drops what goes to a port, as when the host behind it lost its power.
fn unplug(port: u16) {
    let rules = format!(
        "table inet unplugged-{port} {{\n chain c {{\n type filter hook input priority -300;
           tcp dport {port} drop; tcp sport {port} drop;\n }}\n}}"
    );
    run("nft", &["-f", "-"], &rules);
}

#[test]
fn a_server_that_vanishes_in_mid_watch_is_left_for_the_next() {
    for fault in [Some(Fault::Silent), None] {
        in_namespace(|| {
            loopback();
            let first = Server::new();
            first.put(service(1));
            first.put(slice(1, &[1]));
            let (one, second) = (first.listen(0), first.twin());
            let two = second.listen(0);
            let limits = short();
            let most = limits.mid_watch() + SLACK;
            let mut following = Following::of(&[one.address, two.address], limits);
            following.until_complete(SLACK);
            following.until("a sign of life", SLACK, |e| {
                matches!(e, Event::Heard(Kind::EndpointSlice))
            });
            match fault {
                Some(_) => first.misbehave(fault),
                None => unplug(one.address.port()),
            }
            second.put(slice(1, &[1, 2]));
            second.put(slice(2, &[3]));
            let took = following.until("the change", most, |e| is_slice(e, "s2-a"));
            println!("{fault:?}: seen after {took:?}");
            assert!(!following.failures().is_empty(), "nothing was said");
        });
    }
}

#[test]
fn watches_that_say_nothing_at_a_server_that_lives_lose_no_change() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let listening = server.listen(0);
        let limits = Limits {
            watch: Duration::from_secs(600),
            ..short()
        };
        let most = limits.mute + limits.first_answer() + SLACK;
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        following.until("a sign of life", SLACK, |e| {
            matches!(e, Event::Heard(Kind::EndpointSlice))
        });
        // Watches that begin from here on are well.
        server.mute();
        server.put(slice(2, &[2]));
        following.until("the change", most, |e| is_slice(e, "s2-a"));
        assert_eq!(following.failures(), []);
    });
}

/// Our ends of the connections to a port.
fn ends_of(port: u16) -> Vec<u16> {
    let text = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
    let end = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
    let ends = text.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (ours, theirs) = (end(fields.next()?)?, end(fields.next()?)?);
        (theirs == port).then_some(ours)
    });
    ends.collect()
}

#[test]
fn connections_that_died_are_found_by_the_kernel_where_the_server_lives() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let listening = server.listen(0);
        let forever = Duration::from_secs(600);
        let limits = Limits {
            watch: forever,
            silence: forever,
            mute: forever,
            keepalive: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            ..short()
        };
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        following.until("a sign of life", SLACK, |e| {
            matches!(e, Event::Heard(Kind::EndpointSlice))
        });
        let died = ends_of(listening.address.port());
        assert!(died.len() >= Kind::ALL.len(), "{died:?}");
        for end in died {
            unplug(end);
        }
        server.put(slice(2, &[2]));
        following.until("the change", SLACK * 2, |e| is_slice(e, "s2-a"));
    });
}

#[test]
fn a_server_that_is_heard_on_one_connection_is_not_asked_whether_it_lives() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let listening = server.listen(0);
        let limits = Limits {
            watch: Duration::from_secs(600),
            silence: Duration::from_secs(2),
            mute: Duration::from_secs(600),
            ..short()
        };
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        let heard = |events: &[Event], kind| {
            let is = |e: &Event| matches!(e, Event::Heard(k) if *k == kind);
            events.iter().any(is)
        };
        let start = Instant::now();
        while !Kind::ALL.iter().all(|kind| heard(&following.events, *kind)) {
            assert!(start.elapsed() < SLACK);
            following.events.extend(following.follower.events());
        }
        let before = server.requests().len();
        // Bookmarks come all the while; then nothing comes any more on any connection.
        std::thread::sleep(Duration::from_secs(5));
        assert_eq!(server.requests().len(), before);
        server.mute();
        std::thread::sleep(Duration::from_secs(5));
        let asked = server.requests().len() - before;
        assert!(
            (1..=2).contains(&asked),
            "{:?}",
            &server.requests()[before..]
        );
        assert_eq!(following.failures(), []);
    });
}

#[test]
fn an_only_server_is_asked_again_and_what_stands_is_told_both_ways() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let listening = server.listen(0);
        let limits = short();
        let most = limits.mid_watch() + SLACK;
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        server.misbehave(Fault::Silent);
        let silent = |kind: &'static str| move |e: &Event| matches!(e, Event::Lost(k, f) if *k == kind && f.reason == Reason::Silent);
        following.until("the failure", most, silent("Node"));
        server.put(slice(2, &[2]));
        server.misbehave(None);
        following.until("the recovery", most + SLACK, |e| {
            matches!(e, Event::Recovered("Node"))
        });
        let seen = following.events.iter().any(|e| is_slice(e, "s2-a"));
        if !seen {
            following.until("the change", most, |e| is_slice(e, "s2-a"));
        }
    });
}

#[test]
fn an_hour_of_retry_after_is_not_waited_for() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        let listening = server.listen(0);
        server.misbehave(Fault::StatusForAnHour(429));
        let mut following = Following::of(&[listening.address], short());
        following.until(
            "the failure",
            SLACK,
            |e| matches!(e, Event::Lost("Service", f) if f.reason == Reason::Busy),
        );
        server.misbehave(None);
        following.until_complete(SLACK);
    });
}

#[test]
fn watches_that_end_at_once_are_begun_more_and_more_seldom() {
    for (fault, reason) in [
        (Fault::ShortWatches, Reason::Ended),
        (Fault::ExpiredWatches, Reason::Expired),
    ] {
        in_namespace(|| {
            loopback();
            let server = Server::new();
            server.put(slice(1, &[1]));
            server.misbehave(fault);
            let listening = server.listen(0);
            let mut following = Following::of(&[listening.address], short());
            following.until(
                "the failure",
                SLACK,
                |e| matches!(e, Event::Lost("Service", f) if f.reason == reason),
            );
            std::thread::sleep(Duration::from_secs(3));
            let of_slices = |r: &&String| r.starts_with("endpointslices");
            let before = server.requests().iter().filter(of_slices).count();
            std::thread::sleep(Duration::from_secs(3));
            let asked = server.requests().iter().filter(of_slices).count() - before;
            // A list, or a look whether the server is there, and a watch each 0.4 to 0.6 s.
            assert!(asked <= 18, "{fault:?}: {asked} requests in 3 s");
            assert!(asked >= 1, "{fault:?}: given up");
            server.misbehave(None);
            following.until("the recovery", SLACK, |e| {
                matches!(e, Event::Recovered("Service"))
            });
        });
    }
}

#[test]
fn a_lone_cut_is_no_failure() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let listening = server.listen(0);
        let mut following = Following::of(&[listening.address], short());
        following.until_complete(SLACK);
        std::thread::sleep(Duration::from_secs(1));
        server.cut();
        server.put(slice(2, &[2]));
        following.until("the change", SLACK, |e| is_slice(e, "s2-a"));
        assert_eq!(following.failures(), []);
    });
}

#[test]
fn what_is_forbidden_is_called_so_and_repeated_as_such() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.forbid("Service", true);
        let listening = server.listen(0);
        let mut following = Following::of(&[listening.address], short());
        following.until(
            "a repetition",
            SLACK,
            |e| matches!(e, Event::Lost("Service", f) if f.repeated),
        );
        let failures = following.failures();
        let first = &failures[0].1;
        assert!(
            failures.iter().all(|(kind, _)| *kind == "Service")
                && first.reason == Reason::Forbidden
                && !first.repeated
                && !first.dispensable
                && failures[1..].iter().all(|(_, f)| f.repeated),
            "{failures:#?}"
        );
        let words = "403 Forbidden: the test says Forbidden";
        assert!(
            first
                .message
                .contains("not allowed to list and watch services")
                && first.message.contains(words),
            "{first:?}"
        );
        server.forbid("Service", false);
        following.until("the recovery", SLACK, |e| {
            matches!(e, Event::Recovered("Service"))
        });
    });
}

#[test]
fn service_cidrs_that_are_forbidden_or_unknown_are_done_without() {
    for forbidden in [true, false] {
        in_namespace(|| {
            loopback();
            let server = Server::new();
            if forbidden {
                server.forbid("ServiceCIDR", true);
            } else {
                server.unknown("ServiceCIDR", true);
            }
            let listening = server.listen(0);
            let mut following = Following::of(&[listening.address], short());
            following.until_complete(SLACK);
            std::thread::sleep(Duration::from_secs(2));
            let failures = following.failures();
            // Before Kubernetes 1.33 there are none, which is nothing to tell.
            assert_eq!(!failures.is_empty(), forbidden, "{failures:#?}");
            let told = failures.iter().filter(|(_, f)| !f.repeated).count();
            assert_eq!(told, usize::from(forbidden), "{failures:#?}");
            assert!(failures.iter().all(|(kind, failure)| {
                *kind == "ServiceCIDR" && failure.dispensable && failure.reason == Reason::Forbidden
            }));
            server.forbid("ServiceCIDR", false);
            server.unknown("ServiceCIDR", false);
            server.put(
                json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
                "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.254.0.0/16"]}}),
            );
            following.until("the range", SLACK, |e| {
                let is = |object: &Object| object.kind() == Kind::ServiceCidr;
                brought(e).iter().any(is)
            });
        });
    }
}

#[test]
fn only_this_nodes_node_is_asked_for_if_the_others_do_not_matter() {
    for all_nodes in [true, false] {
        in_namespace(|| {
            loopback();
            let server = Server::new();
            let listening = server.listen(0);
            let mut following = Following::with(Settings {
                servers: vec![format!("http://{}", listening.address)],
                node_name: "n1".to_owned(),
                all_nodes,
                limits: short(),
                ..Settings::default()
            });
            following.until_complete(SLACK);
            following.until("the watch", SLACK, |e| {
                matches!(e, Event::Heard(Kind::Node))
            });
            let requests = server.requests();
            let mut nodes = requests.iter().filter(|r| r.starts_with("nodes"));
            assert!(
                nodes.all(|r| r.contains("metadata.name=n1") != all_nodes),
                "{requests:#?}"
            );
        });
    }
}

#[test]
fn a_store_that_was_set_back_to_a_copy_is_listed_anew() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        server.put(slice(1, &[1]));
        let old = server.version();
        for n in 0..50 {
            server.put(slice(2, &[n]));
        }
        let listening = server.listen(0);
        let mut following = Following::of(&[listening.address], short());
        following.until_complete(SLACK);
        following.until("a sign of life", SLACK, |e| {
            matches!(e, Event::Heard(Kind::EndpointSlice))
        });
        server.set_back(old);
        server.put(slice(3, &[3]));
        following.until("the change", SLACK, |e| is_slice(e, "s3-a"));
    });
}
