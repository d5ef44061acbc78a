//! Lists, watches and what is told of them; the state kept on disk until the API answers.

use std::fs;

use serde_json::json;

use crate::harness::*;
use crate::server::Server;
use crate::support::{in_namespace, run};

#[test]
fn lists_in_pages_then_follows_and_asks_only_for_what_it_needs() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 5, 3);
        let listening = server.listen(0);
        let agent = Agent::start(
            "follow",
            &[url(listening.address.port()), "--api-page-size=2".into()],
        );
        eventually("the first sync", || {
            listed("service-ips").contains(&address(4))
        });
        assert!(agent.agrees_with(&server));
        server.put(slice(2, &[100, 101]));
        eventually("a changed slice", || agent.agrees_with(&server));
        server.delete("Service", "s1");
        eventually("a deleted service", || {
            !listed("service-ips").contains(&address(1))
        });
        // A slice may come before its service.
        server.put(slice(7, &[70]));
        server.put(service(7));
        eventually("the late service", || {
            listed("service-ips").contains(&address(7))
        });
        assert!(agent.agrees_with(&server));
        let requests = server.requests();
        let asked = |what: &str| requests.iter().any(|r| r.contains(what));
        assert!(
            asked("services {") && asked("\"continue\""),
            "{requests:#?}"
        );
        assert!(
            requests
                .iter()
                .filter(|r| r.starts_with("pods"))
                .all(|r| r.contains("spec.nodeName=n1"))
        );
        assert!(
            requests
                .iter()
                .filter(|r| r.starts_with("endpointslices"))
                .all(|r| r.contains("!service.kubernetes.io/headless"))
        );
        assert!(agent.log().contains("cause=change"), "{}", agent.log());
    });
}

#[test]
fn health_metrics_and_state_tell_what_is() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let mut local = service(9);
        local["spec"]["type"] = "LoadBalancer".into();
        local["spec"]["externalTrafficPolicy"] = "Local".into();
        local["spec"]["healthCheckNodePort"] = 31999.into();
        server.put(local);
        server.forbid("Service", true);
        let listening = server.listen(0);
        let agent = Agent::start(
            "health",
            &[
                url(listening.address.port()),
                "--kube-proxy-metric-names".into(),
            ],
        );
        eventually("the server", || fetch(10256, "/healthz").0 == 200);
        let (code, body) = fetch(10256, "/readyz?verbose");
        assert_eq!(code, 503, "{body}");
        assert!(body.contains("[-]first sync"), "{body}");
        assert_eq!(
            run("nft", &["list", "ruleset"], ""),
            "",
            "nothing before all sources are complete"
        );
        assert!(
            agent.log().contains("the test says Forbidden"),
            "{}",
            agent.log()
        );
        server.forbid("Service", false);
        eventually("readiness", || fetch(10256, "/readyz").0 == 200);
        eventually("the health check port", || fetch(31999, "/").0 == 503);
        let mut here = slice(9, &[90]);
        here["endpoints"][0]["nodeName"] = "n1".into();
        server.put(here);
        eventually("a local endpoint", || fetch(31999, "/").0 == 200);
        let (_, body) = fetch(31999, "/");
        assert!(
            body.contains("\"localEndpoints\":1")
                && body
                    .to_lowercase()
                    .contains("x-load-balancing-endpoint-weight: 1"),
            "{body}"
        );
        let (_, metrics) = fetch(10249, "/metrics");
        for name in [
            "svcnat_commits_total",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "kubeproxy_network_programming_duration_seconds_count",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "svcnat_source_failures_total{kind=\"Service\"}",
        ] {
            assert!(metrics.contains(name), "{name} is not in {metrics}");
        }
        let (_, state) = fetch(10256, "/state");
        assert!(state.contains("\"services\":4"), "{state}");
        server.put(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.11"}]}}),
        );
        eventually("the taint", || fetch(10256, "/healthz").0 == 503);
        assert_eq!(fetch(10256, "/livez").0, 200);
        server.delete("Service", "s9");
        eventually("the port closed", || fetch(31999, "/").0 == 0);
    });
}

#[test]
fn the_last_good_state_is_installed_before_the_api_answers() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 4, 2);
        let listening = server.listen(0);
        let folder = std::env::temp_dir().join(format!("svcnat-state-{}", std::process::id()));
        let mut agent = Agent::start(
            "boot",
            &[
                url(listening.address.port()),
                format!("--state-dir={}", folder.display()),
            ],
        );
        eventually("the first sync", || agent.agrees_with(&server));
        agent.stop();
        drop(listening);
        run("nft", &["flush", "ruleset"], "");
        agent.again();
        eventually("the saved state", || agent.agrees_with(&server));
        eventually("the server", || fetch(10256, "/readyz").0 == 503);
        agent.stop();
        // A damaged file is not believed.
        let file = folder.join("state.json");
        let mut bytes = fs::read(&file).unwrap();
        bytes.truncate(bytes.len() - 3);
        fs::write(&file, bytes).unwrap();
        run("nft", &["flush", "ruleset"], "");
        agent.again();
        eventually("the complaint", || agent.log().contains("is damaged"));
        assert_eq!(run("nft", &["list", "ruleset"], ""), "");
        fs::remove_dir_all(folder).unwrap();
    });
}

/// The conditions in `/state` that are not well.
fn failing() -> Vec<String> {
    let (_, text) = fetch(10256, "/state");
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    let state: serde_json::Value = serde_json::from_str(body).unwrap();
    let conditions = state["conditions"].as_array().unwrap().iter();
    let failing = conditions.filter(|c| c["status"] != "True");
    failing.map(|c| c.to_string()).collect()
}

#[test]
fn events_that_change_nothing_here_leave_nothing_that_waits() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 3, 2);
        let listening = server.listen(0);
        let _agent = Agent::start(
            "nothing",
            &[
                url(listening.address.port()),
                "--kube-proxy-metric-names".into(),
            ],
        );
        eventually("readiness", || fetch(10256, "/readyz").0 == 200);
        let metric = |name: &str| {
            let (_, text) = fetch(10249, "/metrics");
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<f64>().ok())
        };
        let seen = metric("svcnat_endpoint_changes_total").unwrap();
        let queued = metric("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds");
        for n in 0..10 {
            server.put(
                json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n9"},
                "status": {"conditions": [{"type": "Ready", "lastHeartbeatTime": n.to_string()}]}}),
            );
            let mut same = service(1);
            same["metadata"]["annotations"] = json!({"n": n.to_string()});
            server.put(same);
            let mut same = slice(1, &[2, 3]);
            same["metadata"]["annotations"] = json!({"n": n.to_string()});
            server.put(same);
        }
        eventually("the events", || {
            metric("svcnat_endpoint_changes_total").unwrap() >= seen + 10.0
        });
        eventually("nothing that waits", || failing().is_empty());
        let pending = metric("kubeproxy_sync_proxy_rules_endpoint_changes_pending");
        assert_eq!(pending, Some(0.0));
        let sync = metric("kubeproxy_sync_proxy_rules_last_timestamp_seconds");
        let after = metric("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds");
        assert!(
            after <= sync || after == queued,
            "{queued:?}, {after:?}, synced {sync:?}"
        );
    });
}

#[test]
fn a_health_check_port_that_changes_alone_is_served_at_once() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 2, 2);
        let with_port = |port: u16| {
            let mut local = service(9);
            local["spec"]["type"] = "LoadBalancer".into();
            local["spec"]["externalTrafficPolicy"] = "Local".into();
            local["spec"]["healthCheckNodePort"] = port.into();
            local
        };
        server.put(with_port(31_998));
        let listening = server.listen(0);
        let _agent = Agent::start("port", &[url(listening.address.port())]);
        eventually("the port", || fetch(31_998, "/").0 == 503);
        server.put(with_port(31_999));
        eventually("the other port", || fetch(31_999, "/").0 == 503);
        eventually("the first port closed", || fetch(31_998, "/").0 == 0);
    });
}

#[test]
fn told_to_reload_it_lists_the_api_anew() {
    in_namespace(|| {
        loopback();
        let server = Server::new();
        fill(&server, 2, 2);
        let listening = server.listen(0);
        let agent = Agent::start("reload", &[url(listening.address.port())]);
        eventually("the first sync", || agent.agrees_with(&server));
        let lists = |kind: &str| {
            let requests = server.requests();
            let lists = requests.iter().filter(|r| r.starts_with(kind));
            lists.filter(|r| !r.contains("watch")).count()
        };
        let before = ["services", "endpointslices", "nodes"].map(lists);
        run("kill", &["-HUP", &agent.id().to_string()], "");
        eventually("lists", || {
            let after = ["services", "endpointslices", "nodes"].map(lists);
            before
                .iter()
                .zip(after)
                .all(|(before, after)| after > *before)
        });
        server.put(slice(1, &[70]));
        eventually("a change after them", || agent.agrees_with(&server));
    });
}

#[test]
fn routes_that_could_not_be_listed_after_a_good_commit_come_by_themselves() {
    in_namespace(|| {
        loopback();
        let setup = "link add d0 type veth peer name d1\naddr add 192.168.50.11/24 dev d0\n\
                     link set d0 up\nlink set d1 up\n";
        run("ip", &["-batch", "-"], setup);
        let server = Server::new();
        fill(&server, 2, 2);
        let listening = server.listen(0);
        let folder = std::env::temp_dir().join(format!("svcnat-routes-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let log = || fs::read_to_string(folder.join("log")).unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(["run", "--node-name=n1", "--node-ip=192.168.50.11"])
            .args([
                "--service-cluster-ip-range=10.254.0.0/16",
                "--sysctls=ignore",
            ])
            .arg(url(listening.address.port()))
            .stdin(std::process::Stdio::null())
            .stderr(fs::File::create(folder.join("log")).unwrap())
            .spawn()
            .unwrap();
        eventually("readiness", || fetch(10256, "/readyz").0 == 200);
        let pid = child.id().to_string();
        let limit = |limit: u64| {
            run(
                "prlimit",
                &["--pid", &pid, &format!("--nofile={limit}:")],
                "",
            );
        };
        std::thread::sleep(std::time::Duration::from_millis(300));
        let open = |n: &u64| fs::symlink_metadata(format!("/proc/{pid}/fd/{n}")).is_ok();
        limit((0..).find(|n| !open(n)).unwrap());
        server.put(slice(1, &[70]));
        server.put(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"},
            "spec": {"podCIDRs": ["172.18.2.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.12"}]}}),
        );
        eventually("the commit", || listed("endpoints").contains("172.17.0.72"));
        eventually("the complaint", || log().contains("condition=routes"));
        limit(1024);
        let ours = || run("ip", &["route", "show", "proto", "178"], "");
        eventually("the route", || ours().contains("172.18.2.0/24"));
        eventually("the good news", || log().contains("well again"));
        assert!(!log().contains("sync failed"), "{}", log());
        assert!(!log().contains("cause=change full=true"), "{}", log());
        eventually("nothing that fails", || failing().is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        fs::remove_dir_all(folder).unwrap();
    });
}
