//! What is read, how it is named when it is nearly right, and which settings stop everything.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

const BASE: [&str; 4] = [
    "--node-name=n1",
    "--node-ip=192.168.50.11",
    "--cluster-cidr=172.17.0.0/16",
    "--service-cluster-ip-range=10.254.0.0/16",
];

fn svcnat(args: &[&str], input: &[u8]) -> Output {
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
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn render(input: &str, more: &[&str]) -> Output {
    let args: Vec<&str> = ["render", "--elements", "-f", "-"]
        .into_iter()
        .chain(BASE)
        .chain(more.iter().copied())
        .collect();
    svcnat(&args, input.as_bytes())
}

/// Renders: must succeed, with all of `expected` on standard error.
fn warned(input: &str, expected: &[&str]) -> String {
    let output = render(input, &[]);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    stdout(&output)
}

/// Renders: must fail with code 2 and all of `expected`.
fn refused(input: &str, expected: &[&str]) {
    let output = render(input, &[]);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// Renders: must succeed without a word.
fn silent(input: &str) -> String {
    let output = render(input, &[]);
    assert_eq!(stderr(&output), "");
    assert!(output.status.success());
    stdout(&output)
}

const SLICE: &str = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
    metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
    ports: [{port: 80}]\nendpoints: [{addresses: [172.17.0.2]}]\n";

/// A Service `web` with this spec, and its slice.
fn web(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n{SLICE}")
}

/// A file with this content; it is left to the folder for temporary files.
fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("inputs");
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// Pods as a List in YAML, as kubectl prints them; the last one has a host port.
fn pods(count: usize) -> String {
    let mut out = "apiVersion: v1\nitems:\n".to_owned();
    for i in 0..count {
        let port = if i + 1 == count {
            "\n        hostPort: 8080"
        } else {
            ""
        };
        write!(
            out,
            "- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: app-{i}\n  spec:\n    nodeName: n1\n    containers:\n    - name: c\n      ports:\n      - containerPort: 80{port}\n      env:\n"
        )
        .unwrap();
        for e in 0..120 {
            write!(out, "      - name: VAR_{e}\n        value: x\n").unwrap();
        }
        write!(
            out,
            "  status:\n    phase: Running\n    podIP: 172.17.{}.{}\n",
            i / 250,
            i % 250 + 2
        )
        .unwrap();
    }
    out + "kind: List\n"
}

#[test]
fn a_long_list_of_pods_in_yaml_is_read_like_the_same_in_json() {
    let yaml = pods(700);
    let elements = silent(&yaml);
    assert!(elements.contains("8080"), "{elements}");
    let value: serde_json::Value =
        serde_saphyr::from_str_with_options(&yaml, serde_saphyr::options! { budget: None })
            .unwrap();
    assert_eq!(silent(&value.to_string()), elements);
}

#[test]
fn objects_as_a_cluster_prints_them_give_no_warning() {
    let text = include_str!("data/kubectl-get.yaml");
    silent(text);
    let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    silent(&value.to_string());
}

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
    let output = render(&text, &[]);
    let said = stderr(&output);
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

const LEGACY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

#[test]
fn the_legacy_annotation_for_source_ranges_counts_on_demand_only() {
    let text = |more: &str| {
        web(&format!("{{type: LoadBalancer, clusterIP: 10.254.7.7, {more}ports: [{{port: 80}}]}}\nstatus: {{loadBalancer: {{ingress: [{{ip: 203.0.113.7}}]}}}}"))
            .replace("{name: web}", &format!("{{name: web, annotations: {{{LEGACY}: 198.51.100.0/24}}}}"))
    };
    let elements = warned(
        &text(""),
        &["warning:", LEGACY, "--source-ranges-annotation"],
    );
    assert!(!elements.contains("198.51.100"), "{elements}");
    let output = render(&text(""), &["--source-ranges-annotation"]);
    assert_eq!(stderr(&output), "");
    assert!(
        stdout(&output).contains("198.51.100.0/24"),
        "{}",
        stdout(&output)
    );
    // The field wins.
    let both = text("loadBalancerSourceRanges: [192.0.2.0/24], ");
    let output = render(&both, &["--source-ranges-annotation"]);
    assert!(
        !stdout(&output).contains("198.51.100"),
        "{}",
        stdout(&output)
    );
    silent(&both);
}

#[test]
fn null_is_taken_for_any_field() {
    silent(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: null, annotations: null}\n\
         spec: {type: null, clusterIP: 10.254.7.7, selector: null, externalIPs: null, \
         sessionAffinity: null, sessionAffinityConfig: null, ports: [{port: 80, name: null, \
         protocol: null, targetPort: null, nodePort: null}]}\nstatus: null\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: null\nstatus: {podIPs: null, podIP: 172.17.0.2}\n---\n\
         apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: null\nstatus: null\n---\n\
         apiVersion: v1\nkind: ReplicationController\nmetadata: {name: r}\nspec: {template: {spec: null}, replicas: 0}\n---\n\
         apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\nsubsets: null\n---\n\
         apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: s}\nspec: null\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: web-1, labels: {kubernetes.io/service-name: web}}\n\
         addressType: IPv4\nports: [{port: 80, name: null, protocol: null, appProtocol: null}]\nendpoints: [{addresses: [172.17.0.2], conditions: null, hints: {forZones: null}, targetRef: null}]\n",
    );
}

#[test]
fn errors_in_a_document_have_the_line_of_the_file_and_no_other() {
    let text = "# head\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.254.7.7, ports: [{port: 80}]}\n---\napiVersion: v1\nkind: Service\nmetadata:\n\tname: web2\n";
    let output = render(text, &[]);
    let text = stderr(&output);
    assert!(
        text.contains("<stdin>:10 (document 2): document: malformed YAML"),
        "{text}"
    );
    assert!(!text.contains(" line "), "{text}");
    let output = render("{\"kind\":\n \"Service\",\n]}", &[]);
    let text = stderr(&output);
    assert!(
        text.contains("<stdin>:3 ") && !text.contains(" line "),
        "{text}"
    );
}

#[test]
fn what_is_no_manifest_is_named_for_what_it_is() {
    let helm = "{{- if .Values.enabled }}\napiVersion: v1\nkind: Service\nmetadata: {name: x}\n{{- end }}\n";
    refused(helm, &["this is a template", "helm template"]);
    refused(
        &web("{clusterIP: {{ .Values.ip }}, ports: [{port: 80}]}"),
        &["this is a template"],
    );
    let utf16: Vec<u8> = "\u{feff}kind: Service\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let args: Vec<&str> = ["render", "-f", "-"].into_iter().chain(BASE).collect();
    let output = svcnat(&args, &utf16);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("is UTF-16 text, as PowerShell"),
        "{}",
        stderr(&output)
    );
    silent(&format!(
        "\u{feff}{}",
        web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}")
    ));
    refused(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n",
        &["kube-proxy's configuration", "--config"],
    );
    // The same in a configuration.
    let path = file("utf16.yaml", &utf16);
    let output = svcnat(&["render", "--config", path.to_str().unwrap()], b"");
    assert!(
        stderr(&output).contains("is UTF-16 text"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn documents_that_are_no_objects_say_what_is_wrong_with_them() {
    for (text, expected) in [
        ("Kind: Service\n", "kind: is absent (but Kind)"),
        ("- a\n", "kind: is absent"),
        (
            "apiVersion: 1\nkind: Service\n",
            "apiVersion: is 1; expected text",
        ),
        (
            "apiVersion: v1\nkind: [Service]\n",
            "kind: is [\"Service\"]; expected text",
        ),
        (
            "apiVersion: v1\nkind: List\nitems: {a: b}\n",
            "List: items: is not a list",
        ),
        (
            "{\"kind\": \"List\", \"items\": {}}",
            "List: items: is not a list",
        ),
        (
            &web("{ports: [{port: \"80\"}]}"),
            "spec.ports[0].port: invalid type: string \"80\", expected a whole number",
        ),
        (&web("{ports: [{port: 80.5}]}"), "expected a whole number"),
        (
            &web("{ports: [{port: 80, targetPort: 8.5}]}"),
            "spec.ports[0].targetPort: expected a whole number or a name",
        ),
        (
            &web("{ports: [{port: 80, targetPort: [80]}]}"),
            "spec.ports[0].targetPort: expected a whole number or a name",
        ),
        (
            "apiVersion: v1\nkind: Service\nmetadata: {name: 12}\n",
            "metadata.name: is 12; expected text",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: on}\n",
            "metadata.namespace: is true; expected text",
        ),
        (
            "apiVersion: v1\nkind: Node\nmetadata: [{name: a}]\n",
            "metadata: is no object",
        ),
        ("- {yes: 1, null: 2}\n", "a key is null; expected text"),
        (&web("{ports: [null]}"), "expected an object"),
        (&web("{ports: 80}"), "expected a list"),
    ] {
        refused(text, &["error: <stdin>:1", expected]);
    }
}

#[test]
fn wrong_settings_stop_every_verb_whatever_becomes_of_invalid_objects() {
    let flags: [&[&str]; 20] = [
        &["--masquerade-bit=40"],
        &["--masquerade-bit=32"],
        &["--cluster-cidr=10.0.0.0/8,172.16.0.0/12"],
        &["--service-node-port-range=32767-30000"],
        &["--service-node-port-range=0-5"],
        &[
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=a\"b",
        ],
        &[
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=veth1234567890ab",
        ],
        &[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=a/b",
        ],
        &[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=a\u{202e}b",
        ],
        &["--node-ip=0.0.0.0"],
        &["--node-ip=127.0.0.1"],
        &["--node-ip=fe80::1"],
        &["--service-cluster-ip-range=0.0.0.0/0"],
        &["--service-cluster-ip-range=::/0"],
        &["--service-cluster-ip-range=127.0.0.0/8"],
        &["--pod-cidr=224.0.0.0/8"],
        &["--pod-bridge-interface=cni0"],
        &[
            "--detect-local-mode=NodeCIDR",
            "--pod-interface-name-prefix=veth",
        ],
        &["--node-name=a,b"],
        &[
            "--masquerade-cidrs=10.0.0.0/8",
            "--non-masquerade-cidrs=10.0.0.0/8",
        ],
    ];
    let verbs: [&[&str]; 6] = [
        &["render"],
        &["get", "services"],
        &["check"],
        &["diff"],
        &["apply", "--dry-run=client"],
        &["explain", "172.17.0.2", "10.254.7.7:80/tcp"],
    ];
    let common = ["--skip-invalid", "-f", "-"];
    for flags in flags {
        for verb in verbs {
            let args: Vec<&str> = verb.iter().chain(&common).chain(flags).copied().collect();
            let output = svcnat(&args, b"");
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
            assert!(text.contains("error: "), "{args:?}: {text}");
            assert_eq!(stdout(&output), "", "{args:?}");
        }
        // On an API as well: nobody answers there, and nobody is asked.
        let run = [
            "run",
            "--skip-invalid",
            "--apiserver=http://127.0.0.1:1",
            "--healthz-bind-address=none",
            "--metrics-bind-address=none",
        ];
        let args: Vec<&str> = run.iter().chain(flags).copied().collect();
        let output = svcnat(&args, b"");
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn names_of_a_cluster_never_reach_the_terminal_raw() {
    let text = web(
        "{clusterIP: 10.254.7.7, selector: {\"a\\u202eb\": \"c\\u001b[31md\"}, ports: [{name: \"p\\u202e\\u2066q\\u001b]0;x\\u0007\", port: 80}]}",
    );
    let base = ["-f", "-", "--skip-invalid"];
    let verbs: [&[&str]; 10] = [
        &["get", "services", "-o", "wide"],
        &["get", "services", "-o", "json"],
        &["get", "endpoints"],
        &["get", "endpoints", "-o", "json"],
        &["explain", "172.17.0.2", "10.254.7.7:80/tcp"],
        &["explain", "172.17.0.2", "10.254.7.7:80/tcp", "-o", "json"],
        &["check"],
        &["check", "-o", "json"],
        &["render"],
        &["render", "-o", "json"],
    ];
    for verb in verbs {
        let args: Vec<&str> = verb.iter().copied().chain(base).chain(BASE).collect();
        let output = svcnat(&args, text.as_bytes());
        let all = stdout(&output) + &stderr(&output);
        let raw = all.chars().find(|c| {
            (c.is_control() && !matches!(c, '\n' | '\t'))
                || matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(raw, None, "{verb:?}: {all:?}");
        if verb.contains(&"json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&stdout(&output));
            assert!(parsed.is_ok(), "{verb:?}: {parsed:?}: {all}");
        }
    }
    let output = svcnat(
        &[&["get", "endpoints", "-f", "-"][..], &BASE].concat(),
        text.as_bytes(),
    );
    assert!(
        stdout(&output).contains("p\\u202e\\u2066q\\u001b"),
        "{}",
        stdout(&output)
    );
}

const KUBE_PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\n\
    clientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\nclusterCIDR: 10.244.0.0/16\n\
    conntrack:\n  maxPerCore: 32768\nhostnameOverride: n1\nkind: KubeProxyConfiguration\n\
    mode: nftables\nnftables:\n  masqueradeAll: false\n  masqueradeBit: 14\nnodePortAddresses: null\n";

#[test]
fn configurations_of_the_programs_replaced_are_read_or_pointed_to_ours() {
    let run = |name: &str, content: &str| {
        let path = file(name, content);
        // Egress rules and their sets are there for pods of this node.
        let config = path.to_str().unwrap();
        let args = [
            "render",
            "--elements",
            "--pod-cidr=10.244.1.0/24",
            "--config",
            config,
        ];
        let output = svcnat(&args, b"");
        (output.status.code(), stdout(&output), stderr(&output))
    };
    let (code, out, err) = run("kube-proxy.yaml", KUBE_PROXY);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("non-masquerade { 10.244.0.0/16 }"), "{out}");
    assert!(
        err.contains("clientConnection.kubeconfig is not used: give it to run as --kubeconfig"),
        "{err}"
    );
    for (name, content) in [
        (
            "masq.yaml",
            "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 192.168.0.0/16\nresyncInterval: 60s\nmasqLinkLocal: false\nmasqLinkLocalIPv6: false\n",
        ),
        (
            "masq.json",
            "{\"nonMasqueradeCIDRs\":[\"10.0.0.0/8\"],\"masqLinkLocal\":true,\"resyncInterval\":\"1m\"}",
        ),
    ] {
        let (code, out, err) = run(name, content);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("non-masquerade { 10.0.0.0/8 }"), "{out}");
        assert!(err.contains("resyncInterval is not used"), "{err}");
    }
    for (name, content, expected) in [
        (
            "k3s.yaml",
            "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\n",
            "service-cidr is serviceClusterIPRange: 10.43.0.0/16",
        ),
        (
            "net-conf.json",
            "{\"Network\":\"10.244.0.0/16\",\"Backend\":{\"Type\":\"host-gw\"}}",
            "flannel's net-conf.json",
        ),
        (
            "portmap.conflist",
            "{\"cniVersion\":\"1.0.0\",\"name\":\"lan\",\"plugins\":[{\"type\":\"portmap\"}]}",
            "hostPorts of Pods",
        ),
    ] {
        let (code, _, err) = run(name, content);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(name) && err.contains(expected), "{err}");
    }
}

#[test]
fn the_service_range_is_found_where_each_distribution_has_it() {
    for (name, content, range) in [
        (
            "k3s.service",
            "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--service-cidr' \\\n\t'10.43.0.0/16' \\\n",
            "10.43.0.0/16",
        ),
        (
            "rke2.yaml",
            "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\n",
            "10.43.0.0/16",
        ),
        (
            "kubeadm.yaml",
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {serviceSubnet: 10.96.0.0/12}\n",
            "10.96.0.0/12",
        ),
    ] {
        let path = file(name, content);
        let from = format!("--service-cluster-ip-range-from={}", path.display());
        let args = ["render", "--elements", "--node-name=n1", "-f", "-", &from];
        let output = svcnat(&args, web("{ports: [{port: 80}]}").as_bytes());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(
            stdout(&output).contains(&format!(" {{ {range} }}")),
            "{}",
            stdout(&output)
        );
    }
    let path = file("other.yaml", "a: b\n");
    let output = svcnat(
        &[
            "render",
            "--service-cluster-ip-range-from",
            path.to_str().unwrap(),
        ],
        b"",
    );
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("kubeadm"), "{}", stderr(&output));
}

#[test]
fn private_destinations_can_keep_their_address_by_name() {
    let output = svcnat(
        &[
            "render",
            "--elements",
            "--node-name=n1",
            "--pod-cidr=172.17.0.0/24",
            "--non-masquerade-cidrs=rfc1918",
        ],
        b"",
    );
    for net in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"] {
        assert!(stdout(&output).contains(net), "{}", stdout(&output));
    }
    let output = svcnat(&["render", "--non-masquerade-cidrs=rfc1981"], b"");
    assert!(
        stderr(&output).contains("did you mean rfc1918?"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_node_name_that_no_listed_node_has_is_a_warning_with_the_nearest() {
    let path = file(
        "nodes.yaml",
        "apiVersion: svcnat/v1alpha1\nkind: Configuration\nnodes:\n\
         - {name: worker-1, addresses: [192.168.50.11], podCIDRs: 172.17.0.0/24}\n\
         - {name: worker-2, addresses: [192.168.50.12], podCIDRs: 172.17.1.0/24}\n",
    );
    let config = path.to_str().unwrap();
    let output = svcnat(&["render", "--config", config, "--node-name=wroker-1"], b"");
    assert!(output.status.success());
    let text = stderr(&output);
    assert!(
        text.contains("warning:") && text.contains("did you mean worker-1?"),
        "{text}"
    );
    let output = svcnat(&["render", "--config", config, "--node-name=worker-1"], b"");
    assert!(!stderr(&output).contains("warning"), "{}", stderr(&output));
}

#[test]
fn an_api_server_may_be_newer_than_this_program() {
    let origin = svcnat::cluster::Origin::default();
    let mut problems = Vec::new();
    let mut cluster = svcnat::cluster::Cluster::default();
    let objects = [
        serde_json::json!({"kind": "Service", "apiVersion": "v1", "metadata": {"name": "a", "newer": 1},
            "spec": {"clusterIP": "10.254.7.7", "newer": {"x": 1}, "ports": [{"port": 80, "newer": null}]}}),
        serde_json::json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "of-nobody"}, "addressType": "IPv4", "newer": true}),
    ];
    for object in objects {
        let rules = svcnat::source::Rules::default();
        svcnat::source::insert_object(&mut cluster, None, rules, object, &origin, &mut problems);
    }
    assert_eq!(problems, []);
    assert_eq!(cluster.services.len(), 1);
}

#[test]
fn a_service_range_never_holds_an_address_of_a_host() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n\
        status: {addresses: [{type: InternalIP, address: 192.168.70.12}]}\n---\n\
        apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\n\
        spec: {cidrs: [RANGE]}\n";
    for (range, expected) in [
        (
            "192.168.50.0/24",
            "holds 192.168.50.11, an address of this node",
        ),
        (
            "192.168.64.0/20",
            "holds 192.168.70.12, an address of Node n2",
        ),
        ("127.0.0.0/8", "holds 127.0.0.0, a loopback address"),
        ("\"::/0\"", "holds ::, the unspecified address"),
    ] {
        let text = node.replace("RANGE", range);
        refused(&text, &[expected]);
        // Left out, and with it what would drop all other packets to it.
        let output = render(&text, &["--skip-invalid"]);
        let ranges = stdout(&output);
        assert!(
            ranges.contains("service-cidrs { 10.254.0.0/16 }"),
            "{ranges}"
        );
        assert_eq!(ranges.matches("service-cidrs").count(), 1, "{ranges}");
    }
    warned(&node.replace("RANGE", "10.8.0.0/16"), &[]);
}

#[test]
fn a_cluster_ip_is_never_an_address_of_a_host() {
    let api_server = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}\n\
        addressType: IPv4\nports: [{port: 6443, name: https}]\n\
        endpoints: [{addresses: [192.168.50.2]}]\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes}\n\
        spec: {clusterIP: 10.254.0.1, ports: [{port: 443, name: https}]}\n";
    let other = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n\
        status: {addresses: [{type: InternalIP, address: 192.168.50.12}]}\n";
    for (ip, expected) in [
        ("192.168.50.11", "192.168.50.11 is an address of this node"),
        (
            "192.168.50.2",
            "192.168.50.2 is an address of the API server",
        ),
        ("192.168.50.12", "192.168.50.12 is an address of Node n2"),
    ] {
        let spec = format!("{{clusterIP: {ip}, ports: [{{port: 80}}]}}");
        let text = format!("{}{api_server}{other}", web(&spec));
        refused(&text, &["Service default/web: spec.clusterIP", expected]);
        if ip != "192.168.50.12" {
            let output = stdout(&render(&text, &["--skip-invalid"]));
            assert!(!output.contains(&format!("{{ {ip}")), "{output}");
        }
    }
    // What is served at an address of a host is so at single ports.
    let external = "{clusterIP: 10.254.7.7, externalIPs: [192.168.50.11], ports: [{port: 80}]}";
    let output = silent(&web(external));
    assert!(output.contains("service-ips { 192.168.50.11 . tcp . 80"));
    assert!(!output.contains("cluster-ips { 192.168.50.11"));
}

#[test]
fn what_a_service_lists_and_does_not_open_is_said() {
    for (spec, expected) in [
        (
            "{clusterIP: None, externalIPs: [192.0.2.1], ports: [{port: 80}]}",
            "spec.externalIPs: is not used: a headless Service opens nothing",
        ),
        (
            "{type: ExternalName, externalName: a.example, externalIPs: [192.0.2.1]}",
            "spec.externalIPs: is not used: a Service of type ExternalName opens nothing",
        ),
        (
            "{clusterIP: None, type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            "spec.ports[].nodePort: is not used: a headless",
        ),
        (
            "{clusterIP: 10.254.7.7, externalIPs: [\"2001:db8::1\"], ports: [{port: 80}]}",
            "2001:db8::1 is not used: the Service has no clusterIP of its family",
        ),
    ] {
        warned(&web(spec), &["warning:", "Service default/web", expected]);
    }
}

#[test]
fn an_external_address_at_which_anothers_endpoint_answers_is_told() {
    let thief = "---\napiVersion: v1\nkind: Service\nmetadata: {name: thief}\n\
        spec: {clusterIP: 10.254.7.8, externalIPs: [172.17.0.2], ports: [{port: PORT}]}\n";
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    warned(
        &format!("{text}{}", thief.replace("PORT", "80")),
        &[
            "Service default/thief: spec.externalIPs: 172.17.0.2 port 80/TCP is also an endpoint \
             of Service default/web",
        ],
    );
    silent(&format!("{text}{}", thief.replace("PORT", "81")));
    silent(&web(
        "{clusterIP: 10.254.7.7, externalIPs: [172.17.0.2], ports: [{port: 80}]}",
    ));
}

#[test]
fn a_field_that_is_there_twice_is_an_error_in_json_as_in_yaml() {
    let service = "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"a\"},\n\
        \"spec\": {\"clusterIP\": \"10.254.7.7\",\n\"clusterIP\": \"10.254.7.8\", \
        \"ports\": [{\"port\": 80}]}}";
    refused(
        service,
        &[
            "<stdin>:3 (document 1)",
            "malformed JSON: duplicate mapping key: clusterIP",
        ],
    );
    let list = format!("{{\"kind\": \"List\",\n\"items\": [\n{service}]}}");
    refused(&list, &["<stdin>:5", "duplicate mapping key: clusterIP"]);
    refused(
        "{\"kind\": \"List\", \"items\": [],\n\"items\": []}",
        &["<stdin>:2", "duplicate mapping key: items"],
    );
    refused(
        &web("{clusterIP: 10.254.7.7, clusterIP: 10.254.7.8}"),
        &["<stdin>:4", "duplicate mapping key: clusterIP"],
    );
}

#[test]
fn items_of_a_list_are_told_by_their_own_lines() {
    let item = |name: &str, port: &str| {
        format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"Service\",\n\"metadata\": {{\"name\": \
             \"{name}\"}},\n\"spec\": {{\"clusterIP\": \"10.254.7.7\", \"ports\": [{{\"port\": \
             {port}}}]}}}}"
        )
    };
    let (good, bad) = (item("a", "80"), item("b", "0"));
    let json = format!("# first\n---\n{{\"kind\": \"List\", \"items\": [\n{good},\n\n{bad}]}}\n");
    refused(
        &json,
        &[
            "<stdin>:8 (document 1): Service default/b",
            "0 is not a port",
        ],
    );
    let item = |name: &str, port: &str| {
        format!(
            "- apiVersion: v1\n  kind: Service\n  metadata: {{name: {name}}}\n  spec:\n    \
             clusterIP: 10.254.7.7\n    ports: [{{port: {port}}}]\n"
        )
    };
    let (good, bad) = (item("a", "80"), item("b", "0"));
    let yaml = format!("# first\n---\napiVersion: v1\nkind: List\nitems:\n{good}# next\n{bad}");
    refused(
        &yaml,
        &[
            "<stdin>:13 (document 1): Service default/b",
            "0 is not a port",
        ],
    );
}

#[test]
fn a_load_balancer_whose_source_ranges_are_all_wrong_lets_nobody_in() {
    let spec = |ranges: &str| {
        web(&format!(
            "{{type: LoadBalancer, clusterIP: 10.254.7.7, loadBalancerSourceRanges: {ranges}, \
             ports: [{{port: 80}}]}}"
        ))
    };
    refused(
        &spec("[10.0.0.0/33]"),
        &["loadBalancerSourceRanges: \"10.0.0.0/33\" is not a prefix"],
    );
    warned(&spec("[10.0.0.0/33, 10.0.0.0/8]"), &["is left out"]);
}

#[test]
fn lists_of_destinations_that_have_no_effect_are_said() {
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    for (more, expected) in [
        (
            &["--masquerade-cidrs=203.0.113.9/32"][..],
            "masquerade-cidrs: has no effect without a pod CIDR of this node",
        ),
        (
            &[
                "--non-masquerade-cidrs=203.0.113.0/24",
                "--egress-masquerade=false",
                "--pod-cidr=172.17.0.0/24",
            ],
            "non-masquerade-cidrs: has no effect without egress masquerade",
        ),
    ] {
        let output = render(&text, more);
        assert!(stderr(&output).contains(expected), "{}", stderr(&output));
        assert!(output.status.success());
    }
    let output = render(
        &text,
        &[
            "--masquerade-cidrs=203.0.113.9/32",
            "--pod-cidr=172.17.0.0/24",
        ],
    );
    assert_eq!(stderr(&output), "");
}

#[test]
fn links_in_circles_are_entered_once_and_a_pipe_in_a_folder_is_not_waited_for() {
    let folder = std::env::temp_dir().join(format!("svcnat-circles-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\n\
                spec: {clusterIP: 10.254.0.10, ports: [{port: 80}]}\n";
    std::fs::write(folder.join("a.yaml"), text).unwrap();
    for link in ["one", "two"] {
        std::os::unix::fs::symlink(".", folder.join(link)).unwrap();
    }
    let path = folder.display().to_string();
    let render = || {
        let args: Vec<&str> = ["render", "-f", &path].into_iter().chain(BASE).collect();
        svcnat(&args, b"")
    };
    let output = render();
    assert!(output.status.success(), "{}", stderr(&output));
    let pipe = folder.join("b.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = render();
    assert_eq!(output.status.code(), Some(2));
    let told = stderr(&output);
    assert!(
        told.contains("b.yaml: is neither a file nor a folder"),
        "{told}"
    );
    let pipe = pipe.display().to_string();
    let run = ["run", "-f", &pipe].into_iter().chain(BASE);
    let output = svcnat(&run.collect::<Vec<_>>(), b"");
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    std::fs::remove_dir_all(folder).unwrap();
}
