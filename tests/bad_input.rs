//! Bad input is reported with its source, field and value, and nothing is applied.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::io::Write;
use std::process::{Command, Output, Stdio};

use support::in_namespace;

const RANGE: &str = "--service-cluster-ip-range=10.254.0.0/16";

/// Runs svcnat with this standard input.
fn svcnat(args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A verb that fails early need not read all of its input.
        scope.spawn(move || drop(stdin.write_all(input.as_bytes())));
        child.wait_with_output().unwrap()
    })
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Applies in a namespace of its own: must fail with code 2, name all of `expected`, and
/// leave the namespace without a table.
fn refused(input: &str, expected: &[&str]) {
    in_namespace(|| {
        let args = [
            "apply",
            "-f",
            "-",
            "--node-name=n1",
            RANGE,
            "--cluster-cidr=172.17.0.0/16",
        ];
        let output = svcnat(&args, input);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for part in expected {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        assert_eq!(support::run("nft", &["list", "ruleset"], ""), "");
    });
}

/// Renders: must succeed and warn with all of `expected`.
fn warned(input: &str, expected: &[&str]) {
    let output = svcnat(&["render", "-f", "-", "--node-name=n1", RANGE], input);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

fn service(name: &str, spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {spec}\n---\n")
}

#[test]
fn malformed_yaml_names_file_document_and_line() {
    let input = format!(
        "{}kind: [\n  x: {{\n",
        service("a", "{ports: [{port: 80}]}")
    );
    refused(&input, &["<stdin>:", "(document 2)", "malformed YAML"]);
}

#[test]
fn a_field_of_another_type_is_named() {
    refused(
        &service("a", "{ports: [{port: http}]}"),
        &["Service default/a", "spec.ports[0].port"],
    );
}

#[test]
fn ports_out_of_range_are_named_with_their_value() {
    for value in ["0", "70000", "-1"] {
        let input = service("a", &format!("{{ports: [{{port: {value}}}]}}"));
        refused(
            &input,
            &["spec.ports[0].port", value, "expected 1 to 65535"],
        );
    }
}

#[test]
fn a_prefix_with_host_bits_is_refused_with_the_right_one() {
    let input =
        "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: [172.17.1.1/24]}\n";
    refused(
        input,
        &[
            "Node n2",
            "spec.podCIDRs",
            "172.17.1.1/24",
            "expected 172.17.1.0/24",
        ],
    );
}

#[test]
fn an_ipv4_address_in_an_ipv6_slice_is_named() {
    let input = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a-1, labels: {kubernetes.io/service-name: a}}\n\
        addressType: IPv6\nendpoints: [{addresses: [172.17.0.2]}]\n";
    refused(
        input,
        &[
            "EndpointSlice default/a-1",
            "endpoints[0].addresses[0]",
            "172.17.0.2 is IPv4",
        ],
    );
}

#[test]
fn a_cluster_ip_outside_the_range_is_named_with_the_range() {
    let input = service("a", "{clusterIP: 10.1.2.3, ports: [{port: 80}]}");
    refused(
        &input,
        &["10.1.2.3 is outside the service range 10.254.0.0/16"],
    );
}

#[test]
fn two_services_with_one_cluster_ip_are_both_named() {
    let spec = "{clusterIP: 10.254.0.9, ports: [{port: 80}]}";
    let input = service("a", spec) + &service("b", spec);
    refused(
        &input,
        &[
            "Service default/b",
            "10.254.0.9 is already the clusterIP of Service default/a",
        ],
    );
}

#[test]
fn node_ports_collide_by_name_and_stay_in_their_range() {
    let spec = "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
    let input = service("a", spec) + &service("b", spec);
    refused(
        &input,
        &["30080/TCP is already the node port of Service default/a"],
    );
    let input = service("a", "{type: NodePort, ports: [{port: 80, nodePort: 80}]}");
    refused(&input, &["80 is outside the node port range 30000-32767"]);
}

#[test]
fn a_selector_that_matches_nothing_is_a_warning() {
    let input = service("a", "{selector: {app: x}, ports: [{port: 80}]}");
    warned(&input, &["warning:", "Service default/a", "matches no Pod"]);
}

#[test]
fn a_slice_for_an_unknown_service_is_a_warning() {
    let input = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: a-1, labels: {kubernetes.io/service-name: a}}\n\
        addressType: IPv4\nendpoints: [{addresses: [172.17.0.2]}]\n";
    warned(input, &["no Service default/a"]);
}

#[test]
fn a_pod_without_address_is_a_warning() {
    let pod =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: x}}\nspec: {nodeName: n1}\n";
    let input = service("a", "{selector: {app: x}, ports: [{port: 80}]}") + pod;
    warned(&input, &["Pod default/p", "status.podIPs"]);
}

#[test]
fn overlapping_ranges_name_both_sides() {
    let input =
        "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nspec: {podCIDRs: [10.254.1.0/24]}\n";
    refused(input, &["10.254.0.0/16 overlaps 10.254.1.0/24 of Node n2"]);
}

#[test]
fn host_ports_claimed_twice_name_both_owners() {
    let pod = |name: &str, ip: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: n1, containers: [{{name: web, ports: [{{containerPort: 80, hostPort: 80}}]}}]}}\nstatus: {{podIP: {ip}}}\n---\n"
        )
    };
    let input = pod("a", "172.17.0.2") + &pod("b", "172.17.0.3");
    refused(
        &input,
        &["Pod default/b", "80/TCP", "container web of Pod default/a"],
    );
}

#[test]
fn names_no_api_server_would_take_are_refused() {
    refused(&service(&"x".repeat(300), "{}"), &["300 bytes"]);
    refused(&service("'a\"}; drop'", "{}"), &["is not a valid name"]);
}

#[test]
fn odd_text_in_port_names_does_not_break_the_ruleset() {
    let spec = r#"{clusterIP: 10.254.0.9, ports: [{name: "a\"}\n; drop", port: 80}]}"#;
    let output = svcnat(
        &["render", "-f", "-", "--node-name=n1", RANGE],
        &service("a", spec),
    );
    let text = String::from_utf8(output.stdout).unwrap();
    in_namespace(|| {
        support::run("nft", &["-f", "-"], &text);
        let listed = support::run("nft", &["list", "map", "ip", "svcnat", "service-ips"], "");
        assert!(listed.contains("default/a:a?}?; drop"), "{listed}");
    });
}

#[test]
fn empty_input_is_a_warning_and_unknown_kinds_are_a_notice() {
    warned("", &["holds no objects"]);
    warned(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n",
        &["notice:", "ConfigMap", "skipped"],
    );
}

#[test]
fn skip_invalid_applies_the_rest() {
    let input = service("a", "{ports: [{port: 0}]}")
        + &service("b", "{clusterIP: 10.254.0.9, ports: [{port: 80}]}");
    let output = svcnat(
        &[
            "render",
            "--elements",
            "--skip-invalid",
            "-f",
            "-",
            "--node-name=n1",
            RANGE,
        ],
        &input,
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(text.contains("10.254.0.9 . tcp . 80"), "{text}");
}

#[test]
fn without_the_capability_it_is_named() {
    in_namespace(|| {
        let mut command = Command::new("setpriv");
        let binary = env!("CARGO_BIN_EXE_svcnat");
        // Root without the capability: the binary may live where only root can read.
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", binary]);
        command.args(["apply", "--allow-empty", "--node-name=n1", RANGE]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("CAP_NET_ADMIN"),
            "{}",
            stderr(&output)
        );
    });
}

#[test]
fn a_large_input_is_read_to_its_end() {
    let object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {x: \"";
    let mut input = String::with_capacity(202 << 20);
    while input.len() < 200 << 20 {
        input.push_str(object);
        input.extend(std::iter::repeat_n('y', 1 << 20));
        input.push_str("\"}\n---\n");
    }
    warned(&input, &["ConfigMap", "skipped"]);
}
