//! What is nearly right: it is named with what was meant, or with what it lacks.

use std::fmt::Write as _;

use super::{refused, render, silent, warned, web};

#[test]
fn misspelt_fields_are_named_with_the_one_that_was_meant() {
    let text = web(
        "{clusterIp: 10.254.7.7, externalIps: [198.51.100.1], sessionAfinity: ClientIP, \
         ports: [{port: 80, nodeport: 30080}]}",
    );
    let said = [
        "warning: <stdin>:1 (document 1): Service default/web: spec.clusterIp",
        "did you mean clusterIP?",
        "did you mean externalIPs?",
        "did you mean sessionAffinity?",
        "spec.ports[0].nodeport",
        "did you mean nodePort?",
    ];
    warned(&text, &said);
    // Many at once, in every kind that is read.
    for (kind, version, text, field) in [
        (
            "Pod",
            "v1",
            "spec: {hostnetwork: true, containers: []}\nstatus: {podIP: 172.17.0.9}",
            "hostNetwork",
        ),
        (
            "Pod",
            "v1",
            "spec: {containers: [{name: a, ports: [{containerport: 80, containerPort: 80}]}]}\nstatus: {podIP: 172.17.0.9}",
            "containerPort",
        ),
        ("Pod", "v1", "status: {podIp: 172.17.0.9}", "podIP"),
        ("Node", "v1", "spec: {podCidr: 172.17.0.0/24}", "podCIDR"),
        (
            "EndpointSlice",
            "discovery.k8s.io/v1",
            "addressType: IPv4\nendpoints: [{address: [172.17.0.2]}]",
            "addresses",
        ),
        (
            "EndpointSlice",
            "discovery.k8s.io/v1",
            "addressType: IPv4\nendpoints: [{conditions: {Ready: false}}]",
            "ready",
        ),
        (
            "Endpoints",
            "v1",
            "subsets: [{address: [{ip: 172.17.0.2}]}]",
            "addresses",
        ),
        (
            "ServiceCIDR",
            "networking.k8s.io/v1",
            "spec: {cidr: [10.254.0.0/16]}",
            "cidrs",
        ),
        (
            "Deployment",
            "apps/v1",
            "spec: {replica: 1, template: {}}",
            "replicas",
        ),
        (
            "ReplicaSet",
            "apps/v1",
            "spec: {template: {spec: {container: []}}}",
            "containers",
        ),
        (
            "ReplicationController",
            "v1",
            "spec: {selectr: {a: b}}",
            "selector",
        ),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: n2}}\n{text}\n");
        let expected = format!("did you mean {field}?");
        warned(&text, &["warning:", kind, "is no field here", &expected]);
    }
}

#[test]
fn the_same_unknown_field_in_every_object_is_named_three_times_and_counted() {
    let mut text = "apiVersion: v1\nkind: List\nitems:\n".to_owned();
    for i in 0..50 {
        writeln!(text, "- {{apiVersion: v1, kind: Pod, metadata: {{name: p{i}}}, spec: {{containers: [{{name: a, newer: 1}}]}}}}").unwrap();
    }
    let said = render(&text, &[]).err;
    assert_eq!(
        said.lines().filter(|l| l.contains("newer")).count(),
        4,
        "{said}"
    );
    assert!(
        said.contains("Pod: spec.containers[].newer: is no field in 47 more objects"),
        "{said}"
    );
}

#[test]
fn annotations_in_our_name_that_mean_nothing_are_named() {
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}").replace(
        "{name: web}",
        "{name: web, annotations: {svcnat.io/balanceing: source-ip, other/x: z}}",
    );
    warned(
        &text,
        &["svcnat.io/balanceing", "did you mean svcnat.io/balancing?"],
    );
}

#[test]
fn values_in_the_wrong_case_are_errors_with_the_right_spelling() {
    for (spec, expected) in [
        ("type: nodePort", "did you mean NodePort?"),
        ("externalTrafficPolicy: local", "did you mean Local?"),
        ("internalTrafficPolicy: LOCAL", "did you mean Local?"),
        ("sessionAffinity: clientIP", "did you mean ClientIP?"),
        (
            "ipFamilyPolicy: preferDualStack",
            "did you mean PreferDualStack?",
        ),
        ("ipFamilies: [ipv4]", "did you mean IPv4?"),
        ("clusterIP: none", "did you mean None?"),
    ] {
        refused(
            &web(&format!("{{{spec}, ports: [{{port: 80}}]}}")),
            &["error:", "Service default/web", expected],
        );
    }
    refused(
        &web("{ports: [{port: 80, protocol: tcp}]}"),
        &["spec.ports[0].protocol", "did you mean TCP?"],
    );
    for (kind, version, text, expected) in [
        (
            "Pod",
            "v1",
            "status: {phase: running, podIP: 172.17.0.9}",
            "did you mean Running?",
        ),
        (
            "Pod",
            "v1",
            "status: {conditions: [{type: Ready, status: 'true'}]}",
            "did you mean True?",
        ),
        (
            "Pod",
            "v1",
            "status: {conditions: [{type: ready, status: 'False'}]}",
            "did you mean Ready?",
        ),
        (
            "Pod",
            "v1",
            "spec: {initContainers: [{name: a, restartPolicy: always}]}",
            "did you mean Always?",
        ),
        (
            "Pod",
            "v1",
            "spec: {containers: [{name: a, ports: [{containerPort: 80, protocol: udp}]}]}",
            "did you mean UDP?",
        ),
        (
            "Node",
            "v1",
            "status: {addresses: [{type: internalIP, address: 192.168.50.12}]}",
            "did you mean InternalIP?",
        ),
        (
            "EndpointSlice",
            "discovery.k8s.io/v1",
            "addressType: ipv4",
            "did you mean IPv4?",
        ),
    ] {
        let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {{name: n2}}\n{text}\n");
        refused(&text, &["error:", kind, expected]);
    }
}

#[test]
fn kinds_and_versions_that_are_nearly_right_are_errors_and_not_skipped() {
    let spec = "metadata: {name: web}\nspec: {clusterIP: 10.254.7.7, ports: [{port: 80}]}\n";
    refused(
        &format!("apiVersion: v1\nkind: service\n{spec}"),
        &["did you mean Service?"],
    );
    refused(
        &format!("apiVersion: v2\nkind: Service\n{spec}"),
        &["apiVersion", "expected v1"],
    );
    refused(
        &format!("apiVersion: apps/v1\nkind: Service\n{spec}"),
        &["expected v1"],
    );
    refused(
        "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: pod\n",
        &["did you mean Pod?"],
    );
    warned(
        &format!("kind: Service\n{spec}"),
        &["apiVersion: is absent; v1 is assumed"],
    );
    warned(
        &format!("apiVersion: serving.knative.dev/v1\nkind: Service\n{spec}"),
        &["notice:", "1 object of this kind skipped"],
    );
}

#[test]
fn slices_and_endpoints_that_feed_no_service_are_warnings() {
    let spec = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    let bare = spec.replace(
        "labels: {kubernetes.io/service-name: web}",
        "labels: {a: b}",
    );
    warned(
        &bare,
        &[
            "EndpointSlice default/web-1",
            "has no label kubernetes.io/service-name",
            "feeds no Service",
        ],
    );
    let near = spec.replace("kubernetes.io/service-name", "kubernetes.io/service_name");
    warned(&near, &["(but kubernetes.io/service_name)"]);
    let empty = spec.replace("service-name: web", "service-name: ''");
    warned(&empty, &["feeds no Service"]);
    warned(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: gone}\nsubsets: [{addresses: [{ip: 172.17.0.2}], ports: [{port: 80}]}]\n",
        &[
            "warning:",
            "Endpoints default/gone",
            "there is no Service default/gone",
        ],
    );
}

#[test]
fn objects_that_lack_what_makes_them_work_are_warnings() {
    warned(
        &web("{clusterIP: 10.254.7.7}"),
        &["Service default/web: spec.ports: is empty"],
    );
    silent(&web("{clusterIP: None}"));
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    warned(
        &text.replace(
            "[{addresses: [172.17.0.2]}]",
            "[{addresses: [172.17.0.2]}, {nodeName: n1}]",
        ),
        &["endpoints[1].addresses[0]: is absent"],
    );
    warned(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{address: 192.168.50.11}]}\n",
        &["Node n1: status.addresses[0].type: is absent"],
    );
}
