//! Manifests that nobody would write on purpose, and those that people have all the same.

use serde_json::Value;

use crate::{Lab, SHOP};

const NODE: &str =
    "{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.4.1.0/24},
  status: {addresses: [{type: InternalIP, address: 10.1.0.5}]}}\n---\n";

/// A second node.
fn other(address: &str, cidr: &str) -> String {
    NODE.replace("n1", "n2")
        .replace("10.1.0.5", address)
        .replace("10.4.1.0/24", cidr)
}

fn pod(name: &str, spec: &str, status: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, labels: {{app: web}}}},
  spec: {{{spec}, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}, status: {{{status}}}}}\n---\n"
    )
}

#[test]
fn what_cannot_be_names_object_field_and_value_and_nothing_is_left() {
    let bridge = pod("p", "nodeName: node1", "podIP: 172.17.0.1");
    let same = |name| pod(name, "nodeName: node1", "podIP: 172.17.0.5");
    let twins = same("p") + &same("q");
    let host = |name| pod(name, "nodeName: node1, hostNetwork: true", "");
    let hosts = host("p") + &host("q");
    let many = SHOP.replace("replicas: 2,", "replicas: 2147483647,");
    let two = |address: &str, cidr: &str| NODE.to_owned() + &other(address, cidr);
    let objects = [
        (
            &many,
            "Deployment default/web: spec.replicas: is 2147483647; a lab has up to 5000",
        ),
        (
            &bridge,
            "Pod default/p: status.podIPs: 172.17.0.1 is an address of node/node1",
        ),
        (
            &twins,
            "Pod default/q: status.podIPs: 172.17.0.5 is an address of pod/p",
        ),
        (
            &hosts,
            "Pod default/q: spec.containers[].ports: node1 answers at 8080/TCP already",
        ),
        (
            &two("10.1.0.5", "10.4.2.0/24"),
            "Node n2: status.addresses: 10.1.0.5 is an address of node/n1",
        ),
        (
            &two("203.0.113.1", "10.4.2.0/24"),
            "Node n2: status.addresses: 203.0.113.1 is an address of router",
        ),
        (
            &two("203.0.113.9", "10.4.2.0/24"),
            "Node n2: status.addresses: 203.0.113.9 is an address of client",
        ),
        (
            &two("10.2.0.5", "10.4.2.0/24"),
            "Node n2: status.addresses: 10.2.0.5 is not in 10.1.0.0/24, as n1 is",
        ),
    ];
    let topologies = [
        ("nodes: 0", "nodes: is 0"),
        ("nodes: 241", "nodes: is 241"),
        (
            "clients: [{name: \"\\u202e\", addresses: [198.18.0.1]}]",
            "clients[0].name: is \"\\u{202e}\"",
        ),
        (
            "clients: [{name: a, addresses: [198.18.0.1]}, {name: a, addresses: [198.18.0.2]}]",
            "clients[1].name: there are two \"a\"",
        ),
        (
            "clients: [{name: a, addresses: []}]",
            "clients[0].addresses: is empty",
        ),
        (
            "clients: [{name: a, addresses: [198.18.0.1], ports: [0]}]",
            "clients[0].ports: is 0",
        ),
        (
            "clients: [{name: a, addresses: [203.0.113.9]}]",
            "clients[0].addresses: 203.0.113.9 is an address of client",
        ),
        (
            "links: [{place: node/node1, device: longer-than-11, addresses: [10.9.0.1/24]}]",
            "links[0].device: is \"longer-than-11\"",
        ),
        (
            "links: [{place: node/node1, device: eth1}]",
            "links[0].addresses: are for",
        ),
        (
            "links: [{place: node1, mtu: 1400}]",
            "did you mean node/node1?",
        ),
    ];
    let lab = Lab::new("");
    let input = lab.input();
    let refused = |more: &[&str], expected: &str| {
        let done = lab.run(&[&["up", "-f", input.to_str().unwrap()], more].concat());
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{expected}: {text}");
        assert!(text.contains(expected), "{expected}: {text}");
        assert!(!lab.run_folder().exists(), "{expected}");
    };
    for (manifests, expected) in objects {
        lab.write(manifests);
        refused(&[], expected);
    }
    lab.write(SHOP);
    for (topology, expected) in topologies {
        refused(&["--topology", &lab.topology(topology)], expected);
    }
}

#[test]
fn what_a_cluster_would_take_and_say_something_about_is_said() {
    let port = "{apiVersion: v1, kind: Service, metadata: {name: NAME}, spec: {type: NodePort,
  selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}}\n---\n";
    let lab = Lab::new(&[port.replace("NAME", "a"), port.replace("NAME", "b")].concat());
    let done = lab.run(&["up", "-f", lab.input().to_str().unwrap()]);
    let text = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success(), "{text}");
    let expected = "Service default/b: spec.ports[].nodePort: 30080/TCP is already";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn nodes_that_say_only_a_part_get_what_no_other_has() {
    let bare = "{apiVersion: v1, kind: Node, metadata: {name: a}}\n---\n";
    let second = other("192.168.50.11", "10.244.0.0/24");
    let manifests = format!("{bare}{second}{}", pod("p", "nodeName: a", ""));
    let lab = Lab::up(&manifests, &["--cluster-cidr", "10.244.0.0/16"]);
    let node = &lab.view()["places"]["node/a"];
    assert_eq!(node["addresses"], Value::from(vec!["192.168.50.12"]));
    assert_eq!(node["bridge"], Value::from(vec!["10.244.1.1/24"]));
    assert_eq!(lab.ask("node/n2", "pod/p:8080", 1)[0].0, "p");
}

#[test]
fn a_node_may_join_and_those_that_are_there_stay_as_they_are() {
    let node = |name| format!("{{apiVersion: v1, kind: Node, metadata: {{name: {name}}}}}\n---\n");
    let pods = pod("p", "nodeName: b", "") + &pod("q", "nodeName: c", "");
    let lab = Lab::up(&(node("b") + &node("c") + &pods), &[]);
    let before = lab.view()["places"].clone();
    let joined = pod("r", "nodeName: a", "");
    lab.write(&[node("a"), node("b"), node("c"), pods, joined].concat());
    lab.must(&["change", "-f", lab.input().to_str().unwrap()]);
    let after = &lab.view()["places"];
    for place in ["node/b", "node/c", "pod/p", "pod/q"] {
        assert_eq!(before[place], after[place]);
    }
    for (from, to) in [("pod/p", "r"), ("pod/r", "q")] {
        let (who, seen) = lab.ask(from, &format!("pod/{to}:8080"), 1).remove(0);
        assert_eq!(
            (&*who, &*seen),
            (to, after[from]["addresses"][0].as_str().unwrap())
        );
    }
}

#[test]
fn pods_go_where_there_are_addresses_and_are_drawn_in_their_order() {
    let small = NODE.replace("10.4.1.0/24", "10.4.1.0/30");
    let web = SHOP.replace("replicas: 2,", "replicas: 11,");
    let headless =
        "---\n{apiVersion: v1, kind: Service, metadata: {name: all}, spec: {clusterIP: None,
  selector: {app: web}, ports: [{port: 80}]}}";
    let manifests = [&small, &other("10.1.0.6", "10.4.2.0/24"), &web, headless].concat();
    let lab = Lab::new(&manifests);
    let drawn = lab.must_up(&[]);
    let pods: Vec<&str> = drawn
        .lines()
        .filter_map(|line| line.split("pod/").nth(1))
        .collect();
    let pods: Vec<&str> = pods
        .iter()
        .filter_map(|pod| pod.split(' ').next())
        .collect();
    assert_eq!(pods[..2], ["agent-n1", "agent-n2"], "{drawn}");
    assert_eq!(pods[2..5], ["visitor", "web-1", "web-2"], "{drawn}");
    assert_eq!(pods.last(), Some(&"web-11"), "{drawn}");
    assert!(drawn.contains("default/all     headless\n"), "{drawn}");
    assert!(drawn.contains("web-8, ... (11)\n"), "{drawn}");
}

#[test]
fn nodes_of_different_networks_have_their_pods_routed_by_the_router() {
    let manifests = [
        NODE,
        &other("10.2.0.5", "10.4.2.0/24"),
        &pod("p", "nodeName: n1", ""),
        &pod("q", "nodeName: n2", ""),
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web},
  ports: [{port: 80, targetPort: 8080}]}}",
    ];
    let lab = Lab::up(&manifests.concat(), &["--manage-routes=false"]);
    assert_eq!(lab.answerers("pod/p", "svc/web"), ["p", "q"]);
}

#[test]
fn endpoints_without_pods_answer_wherever_they_are() {
    let lab = Lab::up(
        "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {ports: [{port: 5432}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-1,
  labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{port: 5432}],
  endpoints: [{addresses: [198.18.5.5]}, {addresses: [192.168.50.77]}, {addresses: [172.17.0.200]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: visitor}, spec: {containers: [{name: sh}]}}",
        &[],
    );
    let all = ["172.17.0.200", "192.168.50.77", "198.18.5.5"];
    assert_eq!(lab.answerers("pod/visitor", "svc/db"), all);
    assert_eq!(lab.ask("client", "192.168.50.77:5432", 1)[0].0, all[1]);
}

#[test]
fn names_may_be_as_long_as_objects_may_have_them() {
    let name = "n".repeat(253);
    let on = format!("nodeName: {name}");
    let long = pod(&name, &on, "") + &pod(&format!("{name}x")[1..], &on, "");
    let long = long.replace("labels", "namespace: someone-elses, labels");
    let lab = Lab::up(&(NODE.replace("n1", &name) + &long), &[]);
    let pod = format!("pod/someone-elses/{name}");
    let asked = lab.ask(&format!("node/{name}"), &format!("{pod}:8080"), 1);
    assert_eq!(asked[0].0, pod["pod/".len()..]);
    assert_eq!(
        std::fs::read_dir(lab.run_folder().join("netns"))
            .unwrap()
            .count(),
        5
    );
}

#[test]
fn places_are_called_as_objects_are() {
    let lab = Lab::up(SHOP, &[]);
    assert_eq!(lab.ask("pod/default/web-1", "client:80", 1)[0].0, "client");
    for (args, expected) in [
        (
            ["ask", "web-1", "svc/web", "-n1"],
            "did you mean pod/web-1?",
        ),
        (
            ["ask", "client", "node/node1:30080", "-n0"],
            "0 is not in 1..",
        ),
    ] {
        let done = lab.run(&args);
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(2), "{text}");
        assert!(text.contains(expected), "{text}");
    }
}
