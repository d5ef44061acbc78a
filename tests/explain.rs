//! `svcnat explain` gives the reason that the objects give, in words and as JSON.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "support/program.rs"]
mod program;

use program::svcnat;

use serde_json::Value;

const OBJECTS: &str = r#"
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {topology.kubernetes.io/zone: z1}}
status: {addresses: [{type: InternalIP, address: 192.168.50.11}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.254.0.10
  externalIPs: [203.0.113.1]
  sessionAffinity: ClientIP
  externalTrafficPolicy: Local
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [172.17.0.2], nodeName: n1}
- {addresses: [172.17.1.2], nodeName: n2}
- {addresses: [172.17.1.3], nodeName: n2, conditions: {ready: false, serving: false}}
- {addresses: [172.17.1.4], nodeName: n2, conditions: {ready: false, serving: true, terminating: true}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: other, port: 8081}]
endpoints: [{addresses: [172.17.1.7], nodeName: n2}]
---
apiVersion: v1
kind: Service
metadata: {name: guarded}
spec:
  type: LoadBalancer
  clusterIP: 10.254.0.11
  loadBalancerSourceRanges: [198.51.100.0/24]
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 203.0.113.2}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: guarded-1, labels: {kubernetes.io/service-name: guarded}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [172.17.0.3], nodeName: n1, hints: {forZones: [{name: z1}]}}
- {addresses: [172.17.1.5], nodeName: n2, hints: {forZones: [{name: z2}]}}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {clusterIP: 10.254.0.12, internalTrafficPolicy: Local, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: nobody-1, labels: {kubernetes.io/service-name: nobody}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [172.17.1.6], nodeName: n2}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.254.0.13, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: hashed, annotations: {svcnat.io/balancing: source-ip}}
spec: {clusterIP: 10.254.0.14, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: hashed-1, labels: {kubernetes.io/service-name: hashed}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [172.17.1.8]}, {addresses: [172.17.1.9]}, {addresses: [172.17.1.10]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: noded-1, labels: {kubernetes.io/service-name: noded}}
addressType: IPv4
ports: [{port: 8080}]
endpoints:
- {addresses: [172.17.0.4], hints: {forNodes: [{name: n1}]}}
- {addresses: [192.168.50.11], nodeName: n1, hints: {forNodes: [{name: n1}]}}
- {addresses: [172.17.1.11], hints: {forNodes: [{name: n2}]}}
---
apiVersion: v1
kind: Service
metadata: {name: noded}
spec: {clusterIP: 10.254.0.15, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {clusterIP: 10.254.0.16, ports: [{port: 80}]}
---
apiVersion: v1
kind: Endpoints
metadata: {name: alias}
subsets: [{addresses: [{ip: 10.254.0.10}], ports: [{port: 80}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hosted}
spec: {nodeName: n1, containers: [{name: main, ports: [{containerPort: 80, hostPort: 81}]}]}
status: {phase: Running, podIP: 172.17.0.6, podIPs: [{ip: 172.17.0.6}], conditions: [{type: Ready, status: "True"}]}
"#;

fn explain(source: &str, destination: &str, more: &[&str]) -> String {
    let verb = [
        "explain",
        source,
        destination,
        "-f",
        "-",
        "--node-name=n1",
        "--pod-cidr=172.17.0.0/24",
        "--cluster-cidr=172.17.0.0/16",
        "--service-cluster-ip-range=10.254.0.0/16",
    ];
    svcnat(&[&verb, more].concat(), OBJECTS).expect(0).out
}

#[track_caller]
fn says(source: &str, destination: &str, expected: &[&str]) {
    says_with(&[], source, destination, expected);
}

#[track_caller]
fn says_with(args: &[&str], source: &str, destination: &str, expected: &[&str]) {
    let text = explain(source, destination, args);
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn endpoints_left_out_have_their_reasons() {
    says(
        "203.0.113.9",
        "203.0.113.1:80/tcp",
        &[
            "externalIP of Service default/web, externalTrafficPolicy Local",
            "endpoint 172.17.0.2:8080 on n1\n",
            "172.17.1.2:8080 on n2 is left out: policy Local, and it is not on this node",
            "172.17.1.3:8080 on n2 is left out: it is not ready",
            "session affinity: a client keeps its endpoint for 10800 s",
            "100.00 % to 172.17.0.2:8080, which sees the client's address (policy Local keeps it)",
        ],
    );
    says(
        "172.17.0.9",
        "10.254.0.10:80/tcp",
        &[
            "clusterIP of Service default/web, internalTrafficPolicy Cluster",
            "172.17.1.4:8080 on n2 is left out: it is terminating, and others are ready",
            "50.00 % to 172.17.1.2:8080, which sees the client's address (the client is a pod)",
        ],
    );
    says(
        "172.17.0.9",
        "10.254.0.11:80/tcp",
        &["172.17.1.5:8080 on n2 is left out: its hints are for other zones"],
    );
    says(
        "172.17.0.9",
        "10.254.0.15:80/tcp",
        &["172.17.1.11:8080 is left out: its hints are for other nodes"],
    );
    says(
        "172.17.0.9",
        "10.254.0.10:80/tcp",
        &["172.17.1.7 is left out: no port \"http\" of protocol TCP in its EndpointSlice"],
    );
}

#[test]
fn masquerade_has_its_reasons() {
    says(
        "203.0.113.9",
        "10.254.0.11:80/tcp",
        &["this node's address (the client is not a pod)"],
    );
    says(
        "198.51.100.7",
        "203.0.113.2:80/tcp",
        &[
            "load-balancer address of Service default/guarded",
            "externalTrafficPolicy Cluster: answers must come back through this node",
        ],
    );
    says(
        "172.17.0.3",
        "10.254.0.11:80/tcp",
        &["hairpin: the client is the endpoint"],
    );
    says(
        "172.17.0.4",
        "10.254.0.15:80/tcp",
        &["the client's address (the client is the endpoint, whose nodeName is not this node"],
    );
    says(
        "172.17.0.9",
        "8.8.8.8:53/udp",
        &["a pod of this node leaves the cluster: egress masquerade"],
    );
    says(
        "172.17.1.9",
        "203.0.113.1:80/tcp",
        &[
            "but the client is a pod or this node: any endpoint",
            "the client's address (policy Local, and the client is a pod)",
        ],
    );
    says(
        "192.168.50.11",
        "203.0.113.1:80/tcp",
        &["this node's address (the client is this node)"],
    );
    says(
        "192.168.50.11",
        "192.168.50.11:30080/tcp",
        &[
            "nodePort of Service default/web",
            "(the client is this node)",
        ],
    );
    says(
        "203.0.113.9",
        "192.168.50.11:81/tcp",
        &[
            "hostPort of Pod default/hosted",
            "(a host port keeps the client's address)",
        ],
    );
    says(
        "203.0.113.9",
        "10.254.0.15:80/tcp",
        &["192.168.50.11:8080, which sees the client's address (the endpoint is this node"],
    );
    says_with(
        &["--masquerade-all"],
        "172.17.0.9",
        "10.254.0.14:80/tcp",
        &["this node's address (masqueradeAll)"],
    );
    let bridge = [
        "--detect-local-mode=BridgeInterface",
        "--pod-bridge-interface=br0",
    ];
    says_with(
        &[&bridge[..], &["--iif=br0"]].concat(),
        "198.51.100.7",
        "10.254.0.14:80/tcp",
        &["the client's address (the client is a pod)"],
    );
    says_with(
        &[&bridge[..], &["--iif=eth0"]].concat(),
        "198.51.100.7",
        "10.254.0.14:80/tcp",
        &["this node's address (the client is not a pod)"],
    );
}

#[test]
fn a_client_balanced_by_its_address_is_told_its_endpoint() {
    let text = explain("172.17.0.9", "10.254.0.14:80/tcp", &[]);
    let always = "chosen by the client's address, on every node alike: this one always has ";
    let endpoint = text.split(always).nth(1).unwrap().lines().next().unwrap();
    assert!(
        text.contains(&format!("100.00 % to {endpoint}, which")),
        "{text}"
    );
}

#[test]
fn drops_and_refusals_have_their_reasons() {
    says(
        "203.0.113.9",
        "203.0.113.2:80/tcp",
        &["dropped: 203.0.113.9 is outside loadBalancerSourceRanges of Service default/guarded"],
    );
    says(
        "172.17.0.9",
        "10.254.0.12:80/tcp",
        &["dropped: policy Local, and Service default/nobody has no usable endpoint on this node"],
    );
    says(
        "172.17.0.9",
        "10.254.0.13:80/tcp",
        &["refused", "Service default/empty has no usable endpoint"],
    );
    says(
        "172.17.0.9",
        "10.254.0.10:81/tcp",
        &[
            "refused",
            "default/web has this clusterIP, but no port 81/TCP",
        ],
    );
    says(
        "172.17.0.9",
        "10.254.9.9:80/tcp",
        &["dropped: no Service has this address of the service range"],
    );
}

#[test]
fn an_endpoint_that_is_a_service_address_is_promised_nothing() {
    let text = explain("172.17.0.9", "10.254.0.16:80/tcp", &[]);
    let lost = "100.00 % lost: endpoint 10.254.0.10:80 is a service address and cannot be reached";
    assert!(text.contains(lost), "{text}");
    assert!(!text.contains("% to 10.254.0.10:80"), "{text}");
    let text = explain("172.17.0.9", "10.254.0.16:80/tcp", &["-o", "json"]);
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(said["candidates"][0]["serviceAddress"], true);
}

#[test]
fn json_carries_the_same_facts() {
    let text = explain("203.0.113.9", "192.168.50.11:30080/tcp", &["-o", "json"]);
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(said["fate"], "accepted");
    let frontend = &said["frontend"];
    assert_eq!(frontend["kind"], "nodePort");
    assert_eq!(frontend["service"], "default/web");
    assert_eq!(frontend["affinitySeconds"], 10_800);
    assert_eq!(frontend["remembered"], Value::Null);
    let endpoints = frontend["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 5);
    let share = |e: &Value| e["probability"].as_f64().unwrap();
    assert_eq!(
        endpoints.iter().map(share).collect::<Vec<_>>(),
        [1.0, 0.0, 0.0, 0.0, 0.0]
    );
    assert_eq!(endpoints[4]["port"], Value::Null);
    assert_eq!(endpoints.iter().filter(|e| e["used"] == true).count(), 1);
    assert_eq!(said["candidates"][0]["probability"], 1.0);
    assert_eq!(said["candidates"][0]["masqueraded"], false);
}

#[test]
fn a_destination_without_protocol_is_tcp_and_the_ipv6_form_of_ipv4_is_ipv4() {
    let full = explain("172.17.0.9", "10.254.0.10:80/tcp", &[]);
    assert_eq!(explain("172.17.0.9", "10.254.0.10:80", &[]), full);
    let mapped = explain("::ffff:172.17.0.9", "[::ffff:10.254.0.10]:80/TCP", &[]);
    assert_eq!(mapped, full);
}

#[test]
fn what_no_packet_can_be_is_bad_usage() {
    for (source, destination, part) in [
        ("fd00::9", "10.254.0.10:80/tcp", "not of one family"),
        ("172.17.0.9", "[fd00::a]:80", "not of one family"),
        (
            "172.17.0.9",
            "10.254.0.10:0/tcp",
            "is not ADDRESS:PORT[/PROTOCOL]",
        ),
        (
            "172.17.0.9",
            "10.254.0.10/tcp",
            "is not ADDRESS:PORT[/PROTOCOL]",
        ),
        (
            "172.17.0.9",
            "10.254.0.10:80/icmp",
            "is not ADDRESS:PORT[/PROTOCOL]",
        ),
    ] {
        svcnat(&["explain", source, destination], "")
            .expect(2)
            .names(&[part]);
    }
}

const NAMED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: visitor}
spec: {nodeName: n1, containers: [{name: main}]}
status: {phase: Running, podIP: 172.17.0.9, podIPs: [{ip: 172.17.0.9}, {ip: "fd00:17::9"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: far, namespace: prod}
spec: {nodeName: n2, containers: [{name: main}]}
status: {phase: Running, podIP: 172.17.1.9, podIPs: [{ip: 172.17.1.9}]}
---
apiVersion: v1
kind: Pod
metadata: {name: coming}
spec: {nodeName: n1, containers: [{name: main}]}
---
apiVersion: v1
kind: Service
metadata: {name: dns, namespace: prod}
spec:
  type: LoadBalancer
  clusterIPs: [10.254.0.53, "fd00:254::53"]
  externalIPs: [203.0.113.53]
  ports: [{name: udp, port: 53, protocol: UDP}, {name: tcp, port: 53}, {name: metrics, port: 9153}]
---
apiVersion: v1
kind: Service
metadata: {name: pods}
spec: {clusterIP: None, ports: [{port: 80}]}
"#;

/// The first line of the answer, which has the packet, and what is said besides.
fn named(source: &str, destination: &str, more: &[&str]) -> (String, String) {
    let verb = [
        "explain",
        source,
        destination,
        "-f",
        "-",
        "--node-name=n1",
        "--cluster-cidr=172.17.0.0/16",
        "--service-cluster-ip-range=10.254.0.0/16,fd00:254::/112",
    ];
    let input = format!("{OBJECTS}---{NAMED}");
    let done = svcnat(&[&verb, more].concat(), &input);
    let first = done.out.lines().next().unwrap_or_default();
    (first.to_owned(), done.err)
}

#[test]
fn both_ends_may_be_names_of_objects() {
    for (source, destination, packet) in [
        ("pod/visitor", "svc/web", "172.17.0.9 -> 10.254.0.10:80/TCP"),
        (
            "pod/visitor",
            "svc/web:http",
            "172.17.0.9 -> 10.254.0.10:80/TCP",
        ),
        (
            "pod/default/visitor",
            "svc/default/web:80/tcp",
            "172.17.0.9 -> 10.254.0.10:80/TCP",
        ),
        (
            "pod/visitor",
            "svc/prod/dns:udp",
            "172.17.0.9 -> 10.254.0.53:53/UDP",
        ),
        (
            "pod/visitor",
            "svc/prod/dns:53/udp",
            "172.17.0.9 -> 10.254.0.53:53/UDP",
        ),
        (
            "fd00:17::8",
            "svc/prod/dns:9153",
            "fd00:17::8 -> [fd00:254::53]:9153/TCP",
        ),
        (
            "client/198.51.100.9",
            "lb/guarded",
            "198.51.100.9 -> 203.0.113.2:80/TCP",
        ),
        (
            "198.51.100.9",
            "lb/prod/dns:tcp",
            "198.51.100.9 -> 203.0.113.53:53/TCP",
        ),
        (
            "node/n1",
            "svc/web",
            "192.168.50.11 -> 10.254.0.10:80/TCP, sent by this node",
        ),
        (
            "198.51.100.9",
            "node/n1:30080",
            "198.51.100.9 -> 192.168.50.11:30080/TCP",
        ),
        (
            "pod/visitor",
            "pod/prod/far:8080",
            "172.17.0.9 -> 172.17.1.9:8080/TCP",
        ),
        (
            "::ffff:172.17.0.9",
            "svc/web",
            "172.17.0.9 -> 10.254.0.10:80/TCP",
        ),
    ] {
        assert_eq!(
            named(source, destination, &[]).0,
            packet,
            "{source} {destination}"
        );
    }
    let (packet, _) = named("pod/visitor", "svc/dns:metrics", &["-n", "prod"]);
    assert_eq!(packet, "", "the pod is in default");
    let (packet, said) = named("pod/far", "svc/dns:metrics", &["-n", "prod"]);
    assert_eq!(packet, "172.17.1.9 -> 10.254.0.53:9153/TCP");
    assert!(said.contains("pod/far is on node n2"), "{said}");
}

#[test]
fn an_end_that_is_not_there_or_has_no_address_is_named_with_what_is_missing() {
    for (source, destination, wrong) in [
        (
            "pod/visiter",
            "svc/web",
            "no Pod default/visiter; did you mean default/visitor?",
        ),
        (
            "pod/coming",
            "svc/web",
            "default/coming has no address: status.podIPs is empty",
        ),
        (
            "pod/visitor",
            "svc/wep",
            "no Service default/wep; did you mean default/web?",
        ),
        ("pod/visitor", "svc/pods", "default/pods is headless"),
        (
            "pod/visitor",
            "lb/hashed",
            "has no address: status.loadBalancer.ingress",
        ),
        (
            "pod/visitor",
            "svc/prod/dns",
            "prod/dns needs a port, as it has udp (53/UDP), tcp (53/TCP)",
        ),
        (
            "pod/visitor",
            "svc/web:8080",
            "default/web has no port \"8080\": it has http (80/TCP)",
        ),
        ("pod/visitor", "node/n7:80", "no Node n7"),
        (
            "pod/visitor",
            "pod/prod/far",
            "\"pod/prod/far\" is not ADDRESS:PORT",
        ),
        ("visitor", "svc/web", "\"visitor\" is not an address, pod/"),
        ("pod/prod/far", "[fd00::1]:80", "not of one family"),
    ] {
        let (packet, said) = named(source, destination, &[]);
        assert_eq!(packet, "", "{source} {destination}");
        assert!(said.contains(wrong), "{source} {destination}: {said}");
    }
}
