//! Everything that goes wrong between an API server and its client.

use std::time::Duration;

use crate::harness::*;
use crate::server::Server;
use crate::support::in_namespace;

#[test]
fn gone_cut_duplicated_and_restarted_streams_lose_nothing() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 6, 4);
        let listening = server.listen(0);
        let port = listening.address.port();
        let agent = Agent::start("faults", &[url(port)]);
        eventually("the first sync", || {
            listed("service-ips").contains(&address(5))
        });
        server.cut();
        server.put(slice(0, &[300]));
        eventually("a change after a cut", || agent.agrees_with(&server));
        // Deleted while nobody watched, and history forgotten.
        server.delete("Service", "s3");
        server.put(slice(1, &[301, 302]));
        server.compact();
        server.cut();
        eventually("the state after 410", || agent.agrees_with(&server));
        server.duplicate();
        server.put(slice(2, &[303]));
        server.put(service(8));
        eventually("duplicated events", || agent.agrees_with(&server));
        // Away, and back with another state.
        drop(listening);
        server.delete("Service", "s2");
        server.put(slice(4, &[304]));
        std::thread::sleep(Duration::from_millis(700));
        assert!(
            listed("service-ips").contains(&address(2)),
            "the last good state stays"
        );
        let _listening = server.listen(port);
        eventually("the state after the restart", || agent.agrees_with(&server));
    });
}

#[test]
fn a_server_that_answers_short_is_asked_again_before_most_endpoints_go() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 10, 10);
        let listening = server.listen(0);
        let agent = Agent::start("guard", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        server.short_lists("EndpointSlice", 1);
        server.compact();
        server.cut();
        eventually("the doubt", || agent.log().contains("held until"));
        eventually("the full list", || {
            server
                .requests()
                .iter()
                .filter(|r| r.starts_with("endpointslices") && !r.contains("watch"))
                .count()
                >= 3
        });
        std::thread::sleep(Duration::from_millis(300));
        assert!(agent.agrees_with(&server), "nothing was lost");
        // Really gone: the second list says the same.
        for n in 1..10 {
            server.delete("EndpointSlice", &format!("s{n}-a"));
        }
        eventually("the confirmed loss", || agent.agrees_with(&server));
    });
}

#[test]
fn another_api_server_takes_over_when_one_is_gone() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let first = server.listen(0);
        let second = server.listen(0);
        let both = format!(
            "--apiserver=http://127.0.0.1:{},http://127.0.0.1:{}",
            first.address.port(),
            second.address.port()
        );
        let agent = Agent::start("servers", &[both]);
        eventually("the first sync", || agent.agrees_with(&server));
        drop(first);
        server.put(slice(1, &[400]));
        eventually("the change by way of the second", || {
            agent.agrees_with(&server)
        });
    });
}
