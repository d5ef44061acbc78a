//! What is read: documents, lists, folders, and text that is none of these.

use std::fmt::Write as _;

use svcnat::cluster::{Kind, Object, ObjectName};

use super::program::svcnat;
use super::{BASE, file, refused, render, silent, web};

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
    let text = include_str!("../data/kubectl-get.yaml");
    silent(text);
    let value: serde_json::Value = serde_saphyr::from_str(text).unwrap();
    silent(&value.to_string());
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
    let text = render(text, &[]).err;
    assert!(
        text.contains("<stdin>:10 (document 2): document: malformed YAML"),
        "{text}"
    );
    assert!(!text.contains(" line "), "{text}");
    let text = render("{\"kind\":\n \"Service\",\n]}", &[]).err;
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
    svcnat(&args, &utf16)
        .expect(2)
        .names(&["is UTF-16 text, as PowerShell"]);
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
    svcnat(&["render", "--config", path.to_str().unwrap()], b"").names(&["is UTF-16 text"]);
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
fn an_api_server_may_be_newer_than_this_program() {
    let origin = svcnat::cluster::Origin::default();
    let mut problems = Vec::new();
    let rules = svcnat::source::Rules::default();
    let objects = [
        (
            Kind::Service,
            r#"{"metadata": {"name": "a", "newer": 1},
            "spec": {"clusterIP": "10.254.7.7", "newer": {"x": 1}, "ports": [{"port": 80, "newer": null}]}}"#,
        ),
        (
            Kind::EndpointSlice,
            r#"{"metadata": {"name": "of-nobody"}, "addressType": "IPv4", "newer": true}"#,
        ),
    ];
    let read = objects.map(|(kind, text)| {
        let name = ObjectName::new("default", "a");
        svcnat::source::read(kind, name, text, rules, &origin, &mut problems)
    });
    assert_eq!(problems, []);
    assert!(matches!(read, [Some(Object::Service(_)), None]));
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
        let all = format!("{}{}", output.out, output.err);
        let raw = all.chars().find(|c| {
            (c.is_control() && !matches!(c, '\n' | '\t'))
                || matches!(*c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        });
        assert_eq!(raw, None, "{verb:?}: {all:?}");
        if verb.contains(&"json") {
            let parsed = serde_json::from_str::<serde_json::Value>(&output.out);
            assert!(parsed.is_ok(), "{verb:?}: {parsed:?}: {all}");
        }
    }
    svcnat(
        &[&["get", "endpoints", "-f", "-"][..], &BASE].concat(),
        text.as_bytes(),
    )
    .shows(&["p\\u202e\\u2066q\\u001b"]);
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
    assert!(output.code == Some(0), "{}", output.err);
    let pipe = folder.join("b.yaml");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let output = render();
    assert_eq!(output.code, Some(2));
    let told = output.err;
    assert!(
        told.contains("b.yaml: is neither a file nor a folder"),
        "{told}"
    );
    let pipe = pipe.display().to_string();
    let run = ["run", "-f", &pipe].into_iter().chain(BASE);
    let output = svcnat(&run.collect::<Vec<_>>(), b"");
    assert_eq!(output.code, Some(2), "{}", output.err);
    std::fs::remove_dir_all(folder).unwrap();
}
