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
