//! Answers that are larger than what is taken from a server, and what becomes of the rest.

use serde_json::json;
use svcnat::source::api::{Event, Failure, Kind, Limits};

use crate::harness::{loopback, slice};
use crate::misbehaviour::{Following, SLACK, is_slice, short};
use crate::server::{Fault, Server};
use crate::support::in_namespace;

#[test]
fn an_object_that_is_too_large_costs_only_itself() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        let mut large = slice(1, &[1]);
        large["metadata"]["annotations"] = json!({"a": "x".repeat(100_000)});
        server.put(large.clone());
        server.put(slice(2, &[2]));
        let listening = server.listen(0);
        let limits = Limits {
            object_bytes: 64 << 10,
            ..short()
        };
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        let problems: Vec<String> = following
            .events
            .iter()
            .filter_map(|e| match e {
                Event::Found(problems) => problems.first().map(ToString::to_string),
                _ => None,
            })
            .collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(
            problems[0].contains("EndpointSlice default/s1-a")
                && problems[0].contains("the limit of one object"),
            "{problems:?}"
        );
        assert!(following.events.iter().any(|e| is_slice(e, "s2-a")));
        // In a watch it cannot be told whose line it is. The list can.
        large["metadata"]["annotations"] = json!({"a": "y".repeat(100_000)});
        server.put(large);
        server.put(slice(3, &[3]));
        following.until("the change", SLACK, |e| is_slice(e, "s3-a"));
        let is_named = |(kind, f): &(&str, Failure)| {
            *kind == "EndpointSlice" && f.message.contains("the limit of one object")
        };
        let failures = following.failures();
        assert!(failures.iter().any(is_named), "{failures:#?}");
    });
}

#[test]
fn pages_that_are_too_large_are_asked_for_with_fewer_objects() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        for n in 0..40 {
            let mut object = slice(n, &[n]);
            object["metadata"]["annotations"] = json!({"a": "x".repeat(3000)});
            server.put(object);
        }
        let listening = server.listen(0);
        let limits = Limits {
            page_bytes: 32 << 10,
            ..short()
        };
        let mut following = Following::of(&[listening.address], limits);
        following.until_complete(SLACK);
        let listed = following.events.iter().map(|event| match event {
            Event::Reset(Kind::EndpointSlice, objects) => objects.len(),
            _ => 0,
        });
        assert_eq!(listed.sum::<usize>(), 40);
        assert_eq!(following.failures(), []);
    });
}

#[test]
fn lists_pages_and_lines_without_an_end_name_their_limit() {
    for (fault, name) in [
        (Fault::EndlessList, "the limits of one list"),
        (Fault::EndlessPage, "one page of the list is larger than"),
        (Fault::EndlessLine, "the limit of one object"),
        (Fault::CircularList, "metadata.continue is the same again"),
    ] {
        in_namespace(|| {
            loopback();
            let server = Server::new();
            server.misbehave(fault);
            let listening = server.listen(0);
            let limits = Limits {
                object_bytes: 64 << 10,
                page_bytes: 256 << 10,
                list_objects: 2000,
                ..short()
            };
            let mut following = Following::of(&[listening.address], limits);
            following.until(
                name,
                SLACK,
                |e| matches!(e, Event::Lost("Service", f) if f.message.contains(name)),
            );
        });
    }
}
