//! Who asks for health, and how many: connections of strangers cost the agent nothing that it
//! needs itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;

use crate::harness::*;
use crate::server::{Fault, Server};
use crate::support::{in_namespace, run};

/// Services with a healthCheckNodePort from 31000.
fn local_services(server: &Server, count: usize) {
    for n in 0..count {
        let mut service = service(n);
        service["spec"]["type"] = "LoadBalancer".into();
        service["spec"]["externalTrafficPolicy"] = "Local".into();
        service["spec"]["healthCheckNodePort"] = (31_000 + n).into();
        server.put(service);
        let mut slice = slice(n, &[n]);
        slice["endpoints"][0]["nodeName"] = "n1".into();
        server.put(slice);
    }
}

/// As many connections as a test may want.
fn many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

fn node_port(n: usize) -> u16 {
    u16::try_from(31_000 + n).unwrap()
}

#[test]
fn eleven_hundred_health_check_ports_are_served() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        local_services(&server, 1100);
        let listening = server.listen(0);
        // The usual soft limit.
        let args = [url(listening.address.port())];
        let agent = Agent::start_limited("ports", &args, "-S -n 1024");
        let start = Instant::now();
        while fetch(10256, "/readyz").0 != 200 || fetch(node_port(1099), "/").0 != 200 {
            assert!(start.elapsed() < Duration::from_secs(60), "never ready");
            std::thread::sleep(Duration::from_millis(100));
        }
        for n in 0..1100 {
            assert_eq!(fetch(node_port(n), "/").0, 200, "port {n}");
        }
        server.put(slice(7, &[2000]));
        eventually("a change", || agent.agrees_with(&server));
    });
}

#[test]
fn a_thousand_idle_connections_keep_nobody_from_anything() {
    in_namespace(|| {
        loopback();
        many_descriptors();
        let server = Server::new();
        local_services(&server, 20);
        let listening = server.listen(0);
        let args = [url(listening.address.port())];
        let agent = Agent::start_limited("idle", &args, "-n 512");
        eventually("the first sync", || agent.agrees_with(&server));
        eventually("the ports", || fetch(node_port(19), "/").0 == 200);
        let mut idle = Vec::new();
        for port in [node_port(3), node_port(4), 10256, 10249] {
            for _ in 0..1000 {
                let to = SocketAddr::from(([127, 0, 0, 1], port));
                // A full backlog makes the kernel try again a second later.
                idle.extend(TcpStream::connect_timeout(&to, Duration::from_secs(10)).ok());
            }
        }
        assert!(idle.len() > 3000, "{} connections", idle.len());
        for port in [node_port(3), node_port(5), 10256, 10249] {
            let path = if port >= 31_000 { "/" } else { "/healthz" };
            assert_eq!(fetch(port, path).0, 200, "port {port}");
        }
        server.put(slice(7, &[2000]));
        eventually("a change", || agent.agrees_with(&server));
        assert_eq!(fetch(10256, "/livez").0, 200);
    });
}

#[test]
fn more_health_check_ports_than_descriptors_cost_no_commit() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        local_services(&server, 300);
        let listening = server.listen(0);
        let args = [url(listening.address.port())];
        let agent = Agent::start_limited("few", &args, "-n 256");
        eventually("the complaint", || {
            agent
                .log()
                .contains("not all healthCheckNodePorts can be served")
        });
        eventually("the first ports", || fetch(node_port(0), "/").0 == 200);
        eventually("the first sync", || agent.agrees_with(&server));
        server.put(slice(7, &[2000]));
        eventually("a change", || agent.agrees_with(&server));
        assert_eq!(fetch(10256, "/healthz").0, 200);
    });
}

/// Status of an answer from this address; 0 if nobody listens there.
fn status_at(address: &str, port: u16) -> u16 {
    let Ok(mut stream) = TcpStream::connect((address, port)) else {
        return 0;
    };
    let question = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(question).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn health_check_ports_listen_on_node_port_addresses_and_nowhere_else() {
    in_namespace(|| {
        loopback();
        for address in ["192.168.50.11/32", "192.168.50.12/32"] {
            run("ip", &["addr", "add", address, "dev", "lo"], "");
        }
        let server = Server::new();
        local_services(&server, 1);
        let listening = server.listen(0);
        let port = node_port(0);
        let primary = [url(listening.address.port())];
        let mut agent = Agent::start("primary", &primary);
        eventually("the port", || status_at("192.168.50.11", port) == 200);
        assert_eq!(status_at("192.168.50.12", port), 0);
        assert_eq!(status_at("127.0.0.1", port), 0);
        agent.stop();
        let both = [
            url(listening.address.port()),
            "--nodeport-addresses=192.168.50.12/32,127.0.0.0/8".to_owned(),
        ];
        let _agent = Agent::start("both", &both);
        eventually("the port", || status_at("127.0.0.1", port) == 200);
        eventually("the other", || status_at("192.168.50.12", port) == 200);
        assert_eq!(status_at("192.168.50.11", port), 0);
        // An address that comes later.
        run("ip", &["addr", "add", "127.9.9.9/32", "dev", "lo"], "");
        eventually("the new address", || status_at("127.9.9.9", port) == 200);
    });
}

#[test]
fn a_silent_api_server_does_not_keep_an_agent_from_its_first_sync() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let silent = server.twin();
        silent.misbehave(Fault::Silent);
        let (first, second) = (silent.listen(0), server.listen(0));
        let both = format!(
            "--apiserver=http://{},http://{}",
            first.address, second.address
        );
        let start = Instant::now();
        let agent = Agent::start("silent", &[both]);
        while !agent.agrees_with(&server) {
            // What it takes without load is held by a test of the deadlines themselves.
            assert!(start.elapsed() < Duration::from_secs(40), "no first sync");
            std::thread::sleep(Duration::from_millis(200));
        }
        println!("the first sync after {:?}", start.elapsed());
        let log = agent.log();
        assert!(log.contains("silent: http"), "{log}");
        // Told once per kind, not once per attempt.
        assert_eq!(log.matches("silent: http").count(), 5, "{log}");
        server.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}}));
        eventually("readiness", || fetch(10256, "/readyz").0 == 200);
    });
}
