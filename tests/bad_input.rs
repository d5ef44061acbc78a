//! Bad input is reported with its source, field and value, and nothing is applied.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/program.rs"]
mod program;
mod support;

use std::process::Command;

use program::{Said, svcnat};
use support::in_namespace;

const RANGE: &str = "--service-cluster-ip-range=10.254.0.0/16";

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
        svcnat(&args, input).expect(2).names(expected);
        assert_eq!(support::run("nft", &["list", "ruleset"], ""), "");
    });
}

/// Renders: must succeed and warn with all of `expected`.
fn warned(input: &str, expected: &[&str]) {
    let args = ["render", "-f", "-", "--node-name=n1", RANGE];
    svcnat(&args, input).expect(0).names(expected);
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
fn a_cluster_ip_outside_the_range_is_a_warning_with_the_range() {
    let input = service("a", "{clusterIP: 10.1.2.3, ports: [{port: 80}]}");
    warned(
        &input,
        &["10.1.2.3 is outside the service range 10.254.0.0/16"],
    );
}

#[test]
fn two_services_with_one_cluster_ip_are_both_named() {
    let spec = "{clusterIP: 10.254.0.9, ports: [{port: 80}]}";
    let input = service("a", spec) + &service("b", spec);
    warned(
        &input,
        &[
            "Service default/b",
            "10.254.0.9 is already the clusterIP of Service default/a, which keeps 80/TCP",
        ],
    );
}

#[test]
fn node_ports_collide_by_name_and_those_outside_their_range_are_served_with_a_warning() {
    let spec = "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}";
    let input = service("a", spec) + &service("b", spec);
    warned(
        &input,
        &["30080/TCP is already the node port of Service default/a"],
    );
    let input = service("a", "{type: NodePort, ports: [{port: 80, nodePort: 8080}]}");
    warned(&input, &["8080 is outside the node port range 30000-32767"]);
}

#[test]
fn an_external_ip_that_is_a_cluster_ip_stays_with_the_service_that_has_it() {
    let thief = "{clusterIP: 10.254.0.9, externalIPs: [10.254.0.7], ports: [{port: 80}, {name: b, port: 81}]}";
    let input = service("a", thief) + &service("b", "{clusterIP: 10.254.0.7, ports: [{port: 80}]}");
    let args = ["render", "--elements", "-f", "-", "--node-name=n1", RANGE];
    let output = svcnat(&args, &input);
    let (text, errors) = (&output.out, &output.err);
    assert_eq!(output.code, Some(0), "{errors}");
    assert!(
        text.contains("10.254.0.7 . tcp . 80 comment \"default/b\""),
        "{text}"
    );
    assert!(!text.contains("10.254.0.7 . tcp . 81"), "{text}");
    let named = errors.lines().filter(|line| {
        line.contains("Service default/a") && line.contains("clusterIP of Service default/b")
    });
    assert_eq!(named.count(), 1, "{errors}");
}

#[test]
fn addresses_that_can_be_nobodys_are_named_with_their_field_and_left_out() {
    for odd in [
        "127.0.0.1",
        "0.0.0.0",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
    ] {
        let spec = format!(
            "{{clusterIP: 10.254.0.9, externalIPs: [{odd}, 203.0.113.7], ports: [{{port: 80}}]}}"
        );
        refused(
            &service("a", &spec),
            &["Service default/a", "spec.externalIPs", odd],
        );
        let args = [
            "render",
            "--elements",
            "--skip-invalid",
            "-f",
            "-",
            "--node-name=n1",
            RANGE,
        ];
        let text = svcnat(&args, &service("a", &spec)).out;
        assert!(text.contains("203.0.113.7 . tcp . 80"), "{text}");
        assert!(!text.contains(&format!("{odd} . tcp . 80")), "{text}");
        let slice = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}\n\
            addressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{{addresses: [{odd}]}}, {{addresses: [172.17.0.2]}}]\n"
        );
        let input = service("a", "{clusterIP: 10.254.0.9, ports: [{port: 80}]}") + &slice;
        refused(
            &input,
            &["EndpointSlice default/a-1", "endpoints[0].addresses", odd],
        );
        let text = svcnat(&args, &input).out;
        assert!(text.contains(": 172.17.0.2 . 80"), "{text}");
        assert!(!text.contains(&format!(": {odd} . 80")), "{text}");
    }
}

#[test]
fn nothing_may_take_the_api_servers_own_address_and_port() {
    let api = service(
        "kubernetes",
        "{clusterIP: 10.254.0.1, ports: [{name: https, port: 443}]}",
    ) + "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}\n\
        addressType: IPv4\nports: [{name: https, port: 6443}]\nendpoints: [{addresses: [192.168.50.10]}]\n---\n";
    let spec = "{clusterIP: 10.254.0.9, externalIPs: [192.168.50.10], ports: [{port: 6443}, {name: b, port: 80}]}";
    let input = api.clone() + &service("thief", spec);
    refused(
        &input,
        &[
            "Service default/thief",
            "spec.externalIPs",
            "192.168.50.10:6443/TCP",
        ],
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n\
        spec: {nodeName: n1, containers: [{name: c, ports: [{containerPort: 80, hostPort: 6443, hostIP: 192.168.50.10}]}]}\n\
        status: {podIP: 172.17.0.2}\n";
    refused(&(api + pod), &["Pod default/p", "192.168.50.10:6443/TCP"]);
    let args = [
        "render",
        "--elements",
        "--skip-invalid",
        "-f",
        "-",
        "--node-name=n1",
        RANGE,
    ];
    let text = svcnat(&args, &input).out;
    assert!(text.contains("192.168.50.10 . tcp . 80 "), "{text}");
    assert!(!text.contains("192.168.50.10 . tcp . 6443"), "{text}");
}

#[test]
fn a_port_that_no_endpoint_has_is_a_warning_in_explains_words() {
    let endpoints = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: db}}\nsubsets: [{{addresses: [{{ip: 192.168.50.77}}], ports: [{port}]}}]\n---\n"
        )
    };
    let db = service(
        "db",
        "{clusterIP: 10.254.0.9, ports: [{name: sql, port: 3306}]}",
    );
    let words = "endpoint 192.168.50.77 is left out: no port \"sql\" of protocol TCP";
    warned(
        &(db.clone() + &endpoints("{port: 3306}")),
        &["Service default/db", words],
    );
    warned(
        &(db + &endpoints("{name: sql, port: 3306, protocol: UDP}")),
        &["Service default/db", words],
    );
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, labels: {app: x}}\n\
        spec: {nodeName: n1, containers: [{name: c, ports: [{name: web, containerPort: 80}]}]}\nstatus: {podIP: 172.17.0.2}\n";
    let named = service(
        "a",
        "{clusterIP: 10.254.0.8, selector: {app: x}, ports: [{port: 80, targetPort: http}]}",
    );
    warned(
        &(named + pod),
        &[
            "Service default/a",
            "172.17.0.2 is left out",
            "targetPort \"http\"",
        ],
    );
}

#[test]
fn an_endpoint_in_the_service_range_is_a_warning() {
    let input = service("real", "{clusterIP: 10.254.7.7, ports: [{port: 80}]}")
        + &service("alias", "{clusterIP: 10.254.7.8, ports: [{port: 80}]}")
        + "apiVersion: v1\nkind: Endpoints\nmetadata: {name: alias}\nsubsets: [{addresses: [{ip: 10.254.7.7}], ports: [{port: 80}]}]\n";
    warned(
        &input,
        &[
            "Service default/alias",
            "endpoint 10.254.7.7 is a service address",
        ],
    );
}

#[test]
fn without_a_cluster_cidr_or_a_pod_cidr_it_is_said_what_will_not_work() {
    let input = service("a", "{clusterIP: 10.254.0.9, ports: [{port: 80}]}");
    warned(&input, &["no cluster CIDR is set", "get no answer"]);
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: [172.17.0.0/24]}\nstatus: {addresses: [{type: InternalIP, address: 192.168.50.11}]}\n";
    let args = ["render", "-f", "-", "--node-name=n1", RANGE];
    let output = svcnat(&args, &(input + node));
    assert!(!output.err.contains("cluster CIDR"), "{}", output.err);
}

/// What `get services` prints.
fn services(args: &[&str], input: &str) -> String {
    let all = [&["get", "services", "-f", "-", "--node-name=n1"], args].concat();
    let output = svcnat(&all, input);
    assert_eq!(output.code, Some(0), "{}", output.err);
    output.out
}

#[test]
fn a_service_that_prefers_two_families_has_those_there_are_ranges_of() {
    let prefer = |families: &str| {
        let spec = format!(
            "{{ipFamilyPolicy: PreferDualStack, ipFamilies: [{families}], ports: [{{port: 80}}]}}"
        );
        service("a", &spec)
    };
    let both = "--service-cluster-ip-range=10.254.0.0/16,fd00:254::/112";
    for families in ["IPv4, IPv6", "IPv6, IPv4", "IPv4"] {
        let text = services(&[RANGE], &prefer(families));
        assert!(text.contains("10.254."), "{families}: {text}");
        // The clusterIP column has the first one; a frontend shows each.
        let args = ["get", "endpoints", "-f", "-", "--node-name=n1", both];
        let output = svcnat(&args, &prefer(families));
        let text = output.out;
        assert!(
            text.contains("10.254.") && text.contains("[fd00:254::"),
            "{families}: {text}"
        );
    }
    refused(&prefer("IPv6"), &["no IPv6 service range"]);
}

#[test]
fn a_service_that_requires_two_families_is_refused_alone_where_there_is_one() {
    let require =
        "{ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]}";
    let input =
        service("a", require) + &service("b", "{clusterIP: 10.254.0.9, ports: [{port: 80}]}");
    refused(&input, &["Service default/a", "no IPv6 service range"]);
    let text = services(&[RANGE, "--skip-invalid"], &input);
    let line = |name: &str| {
        let mut lines = text.lines().filter(|line| line.contains(name));
        lines.next().unwrap_or_default().to_owned()
    };
    assert!(line(" b ").contains("10.254.0.9"), "{text}");
    assert!(!line(" a ").contains("10.254."), "{text}");
}

#[test]
fn without_a_cluster_a_node_port_is_allotted_and_stays_the_same() {
    let web = "{type: NodePort, clusterIP: 10.254.7.7, ports: [{name: t, port: 80}, {name: u, port: 80, protocol: UDP}]}";
    let port = |text: &str| -> Vec<u16> {
        let line = text.lines().find(|line| line.contains(" web ")).unwrap();
        let numbers = line.split(|c: char| !c.is_ascii_digit());
        let numbers = numbers.filter_map(|n| n.parse().ok());
        numbers.filter(|n| (30_000..=32_767).contains(n)).collect()
    };
    let alone = port(&services(&[RANGE], &service("web", web)));
    assert_eq!(alone.len(), 2, "{alone:?}");
    assert_eq!(alone[0], alone[1], "one number for both protocols");
    let others: String = (0..50)
        .map(|n| service(&format!("a{n}"), "{type: NodePort, ports: [{port: 80}]}"))
        .collect();
    assert_eq!(
        port(&services(&[RANGE], &(others + &service("web", web)))),
        alone
    );
    let stored = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, creationTimestamp: \"2026-01-01T00:00:00Z\"}}\nspec: {web}\n"
    );
    assert_eq!(
        port(&services(&[RANGE], &stored)),
        [0_u16; 0],
        "a cluster's own affair"
    );
}

#[test]
fn without_a_cluster_the_load_balancer_address_wished_for_is_used() {
    let spec = "{type: LoadBalancer, loadBalancerIP: 192.168.50.240, clusterIP: 10.254.7.8, ports: [{port: 80}]}";
    let text = services(&[RANGE], &service("lb", spec));
    assert!(text.contains("192.168.50.240"), "{text}");
    let status = "status: {loadBalancer: {ingress: [{ip: 192.168.50.241}]}}\n";
    let answered = service("lb", spec).replace("---\n", status);
    let text = services(&[RANGE], &answered);
    assert!(
        text.contains("192.168.50.241") && !text.contains("192.168.50.240"),
        "{text}"
    );
}

#[test]
fn weights_beyond_what_a_list_may_take_are_approximated_and_said() {
    let pods: String = (2..60)
        .map(|n| format!("{{addresses: [172.17.0.{n}], targetRef: {{kind: Pod, name: p{n}}}}},"))
        .collect();
    let weights: String = (2..60).map(|n| format!("pod/p{n}={},", 1000 - n)).collect();
    let ports: String = (1..21)
        .map(|n| format!("{{name: n{n}, port: {n}}},"))
        .collect();
    let input = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{svcnat.io/weights: \"{weights}\"}}}}\n\
        spec: {{clusterIP: 10.254.0.9, ports: [{ports}]}}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: a-1, labels: {{kubernetes.io/service-name: a}}}}\n\
        addressType: IPv4\nports: [{ports}]\nendpoints: [{pods}]\n---\n"
    ) + &service("b", "{clusterIP: 10.254.0.8, ports: [{port: 80}]}");
    let args = ["render", "--elements", "-f", "-", "--node-name=n1", RANGE];
    let output = svcnat(&args, &input);
    let text = output.out;
    assert_eq!(output.code, Some(0), "{}", output.err);
    let slots = text.lines().filter(|line| line.contains("endpoints-large"));
    let slots = slots.count();
    assert!((20 * 8_192..=20 * 16_384).contains(&slots), "{slots}");
    for part in [
        "Service default/a",
        "svcnat.io/weights",
        "slots",
        "differ by up to 0.0",
    ] {
        assert!(output.err.contains(part), "{}", output.err);
    }
    assert!(text.contains("10.254.0.8 . tcp . 80"));
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
    warned(
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
    let text = output.out;
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
    let text = output.out;
    assert_eq!(output.code, Some(0), "{}", output.err);
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
        let output = Said::from(command.output().unwrap()).expect(3);
        output.names(&["CAP_NET_ADMIN"]);
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
