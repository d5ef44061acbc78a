//! Lines against made-up packets and made-up answers: what is as written passes, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use crate::config::Config;
use crate::net::Question;

const OBJECTS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: NodePort, clusterIP: 10.254.0.10, ports: [{name: http, port: 80, nodePort: 30080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: sticky}, spec: {clusterIP: 10.254.0.11, sessionAffinity: ClientIP, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n1}, status: {addresses: [{type: InternalIP, address: 192.168.50.11}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: visitor}, spec: {nodeName: n1}, status: {podIP: 172.17.0.9}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [172.17.0.2], nodeName: n1, targetRef: {kind: Pod, name: web-1}}
- {addresses: [172.17.1.2], nodeName: n2, targetRef: {kind: Pod, name: web-2}}
- {addresses: [172.17.1.3], nodeName: n2, targetRef: {kind: Pod, name: web-3}, conditions: {ready: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: sticky-1, labels: {kubernetes.io/service-name: sticky}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [172.17.0.2], nodeName: n1}]
";

fn node() -> Node {
    let config = Config {
        node_name: "n1".to_owned(),
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        ..Config::default()
    };
    let (node, problems) = Node::parse(OBJECTS, config);
    assert!(problems.is_empty(), "{problems:?}");
    node
}

/// How it goes with one line.
fn verdict(line: &str) -> Verdict {
    let packets = Packets::parse("p", line).unwrap();
    let checks = model(&node(), &packets).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(checks[1].passed(), "{checks:?}");
    checks[0].verdict.clone()
}

#[test]
fn what_is_as_written_passes() {
    for line in [
        "172.17.0.9 10.254.0.10:80/tcp -> 172.17.0.2 8080 50.00%, 172.17.1.2 8080 50.00%",
        "pod/visitor svc/web:80 -> pod/web-1, pod/web-2",
        "pod/visitor svc/web -> pod/web-2 50%, pod/web-1 8080 50%",
        "pod/web-1 svc/web -> pod/web-1 masqueraded, pod/web-2",
        "client/203.0.113.9 node/n1:30080 -> pod/web-1 masqueraded, pod/web-2 masqueraded",
        "pod/visitor 10.254.0.10:81 -> refused",
        "pod/visitor 10.254.0.10:81 -> refused because no port 81/tcp",
        "pod/visitor 10.254.9.9:81/udp -> dropped because no Service has this address",
        "203.0.113.9 172.17.0.2:80 -> untranslated",
        "pod/visitor svc/sticky -> 172.17.0.2; remembered",
        "pod/visitor svc/sticky -> 172.17.0.2; remembered for 10800 s",
    ] {
        assert_eq!(verdict(line), Verdict::Passed, "{line}");
    }
}

#[test]
fn what_is_otherwise_fails_and_says_why() {
    let both = "pod/web-1 8080 50%, pod/web-2 8080 50%";
    let policy = "Service default/web: internalTrafficPolicy Cluster";
    for (line, got, because) in [
        ("pod/visitor svc/web -> pod/web-1", both, policy),
        (
            "pod/visitor svc/web -> pod/web-1 60%, pod/web-2 40%",
            both,
            policy,
        ),
        (
            "pod/visitor svc/web -> pod/web-1 8081, pod/web-2",
            both,
            policy,
        ),
        (
            "pod/visitor svc/web -> pod/web-1, pod/web-2; remembered",
            both,
            policy,
        ),
        (
            "pod/visitor svc/web -> pod/web-1, pod/web-2, pod/web-3",
            both,
            "pod/web-3 is left out: it is not ready",
        ),
        (
            "pod/visitor svc/web -> pod/web-1, pod/web-2 masqueraded",
            both,
            "pod/web-2 sees the client's address: the client is a pod",
        ),
        ("pod/visitor svc/web -> untranslated", both, policy),
        ("pod/visitor svc/web", both, policy),
        (
            "172.17.0.9 10.254.0.10:80 -> refused",
            "172.17.0.2 8080 50%, 172.17.1.2 8080 50%",
            policy,
        ),
        (
            "pod/visitor 10.254.0.10:81 -> refused because no endpoint",
            "refused",
            "default/web has this clusterIP, but no port 81/TCP",
        ),
        (
            "pod/visitor 10.254.9.9:80 -> refused",
            "dropped",
            "no Service has this address of the service range (--unallocated=drop)",
        ),
        (
            "203.0.113.9 172.17.0.2:80 -> untranslated, masqueraded",
            "untranslated",
            "no frontend of any Service, and nothing to masquerade",
        ),
        (
            "pod/visitor svc/sticky -> 172.17.0.2; remembered for 60 s",
            "pod/web-1 8080 100%; remembered for 10800 s",
            "Service default/sticky: internalTrafficPolicy Cluster",
        ),
    ] {
        let Verdict::Failed(failure) = verdict(line) else {
            panic!("{line} passed");
        };
        let found = (&*failure.got, failure.because.as_deref());
        assert_eq!(found, (got, Some(because)), "{line}");
    }
}

#[test]
fn names_that_nobody_has_are_told_with_their_place() {
    let text = "pod/visitr svc/web -> refused\npod/visitor svc/wbe -> refused\n\
                pod/visitor svc/web -> pod/web-1, pod/web-9\n";
    let packets = Packets::parse("p", text).unwrap();
    let faults = Asked::of(&packets, &node(), "default").unwrap_err();
    let at: Vec<(usize, usize)> = faults.all.iter().map(|f| (f.line, f.column)).collect();
    assert_eq!(at, [(1, 1), (2, 13), (3, 35)], "{faults}");
    assert!(
        faults.all[0]
            .message
            .contains("did you mean default/visitor?"),
        "{faults}"
    );
}

/// What is set by the program is as written then, by names or addresses.
#[test]
fn what_is_written_down_passes() {
    let text = "pod/web-1 svc/web\n172.17.0.9 10.254.0.11:80\n";
    let (node, mut packets) = (node(), Packets::parse("p", text).unwrap());
    let ruleset = node.ruleset();
    let local = addresses(&node);
    let walker = Walker {
        node: &node,
        ruleset: &ruleset,
        local: &local,
        absent: false,
    };
    let asked = Asked::of(&packets, &node, "default").unwrap();
    let found = asked
        .iter()
        .map(|asked| (asked.packet.line, walker.walk(asked).end));
    for (line, end) in found.collect::<Vec<_>>() {
        packets.set(line, end);
    }
    let written = "pod/web-1 svc/web -> pod/web-1 8080 50% masqueraded, pod/web-2 8080 50%\n\
                   172.17.0.9 10.254.0.11:80 -> 172.17.0.2 8080 100%; remembered for 10800 s\n";
    assert_eq!(packets.to_string(), written);
    let again = Packets::parse("p", written).unwrap();
    assert!(model(&node, &again).unwrap().iter().all(Check::passed));
}

#[test]
fn another_order_shows_a_ruleset_that_depends_on_it() {
    let (one, config) = (node(), node().config);
    let (same, _) = Node::parse(&shuffled([OBJECTS]), config.clone());
    assert!(another_order(&one, &same, "p").passed());
    let (other, _) = Node::parse(&OBJECTS.replace("172.17.0.2", "172.17.0.3"), config);
    assert!(another_order(&one, &other, "p").failed());
}

/// Answers in turn: who, and whom he saw.
struct Answers(Vec<Outcome>, usize);

impl Ask for Answers {
    fn ask(&mut self, question: &Question) -> Vec<Outcome> {
        let given = self
            .0
            .iter()
            .cycle()
            .skip(self.1)
            .take(question.count)
            .cloned();
        self.1 += question.count;
        given.collect()
    }

    fn forget(&mut self, _: IpAddr) -> Result<(), String> {
        Ok(())
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        address == IpAddr::from([192, 168, 50, 11])
    }
}

/// How it goes with a line if `first` in four answers are the first one's, and the second one
/// sees `seen`.
fn judged(end: &str, first: usize, seen: &str) -> String {
    let answer = |by: &str, seen: &str| {
        Outcome::Answer(Answer {
            by: format!("{by}:8080").parse().unwrap(),
            seen: seen.parse().unwrap(),
        })
    };
    let mut outcomes = vec![answer("172.17.0.2", "172.17.0.9"); first];
    outcomes.extend(vec![answer("172.17.1.2", seen); 4 - first]);
    judged_of(end, outcomes)
}

fn judged_of(end: &str, outcomes: Vec<Outcome>) -> String {
    let packets = Packets::parse("p", &format!("pod/visitor svc/web -> {end}")).unwrap();
    let node = node();
    let asked = Asked::of(&packets, &node, "default").unwrap();
    match sent(&asked[0], "p", &mut Answers(outcomes, 0)).verdict {
        Verdict::Failed(failure) => failure.got,
        passed => format!("{passed:?}"),
    }
}

#[test]
fn answers_are_judged_by_their_line() {
    let line = "pod/web-1 8080 75%, pod/web-2 8080 25% masqueraded";
    let loose = "pod/web-1, pod/web-2 masqueraded";
    let node = "192.168.50.11";
    for (end, first, seen, said) in [
        (line, 3, node, "Passed"),
        (loose, 2, node, "Passed"),
        (line, 4, node, "never 172.17.1.2: [80, 0]"),
        (loose, 4, node, "never 172.17.1.2: [40, 0]"),
        (line, 2, node, "chi-square"),
        (
            line,
            3,
            "172.17.0.9",
            "172.17.1.2 8080 (who saw 172.17.0.9)",
        ),
        ("pod/web-1", 3, node, "172.17.1.2 8080"),
        (
            "pod/web-1 8081, pod/web-2 masqueraded",
            3,
            node,
            "172.17.0.2 8080",
        ),
        ("refused", 3, node, "172.17.0.2 8080"),
        ("dropped", 3, node, "172.17.0.2 8080"),
        ("untranslated", 3, node, "172.17.0.2 8080"),
        (
            "pod/web-1, pod/web-2; remembered",
            1,
            "172.17.0.9",
            "was not remembered",
        ),
    ] {
        let found = judged(end, first, seen);
        assert!(found.contains(said), "{end}, {first}, {seen}: {found}");
    }
    assert_eq!(judged_of("refused", vec![Outcome::Refused]), "Passed");
    assert_eq!(judged_of("dropped", vec![Outcome::Silence]), "Passed");
    assert_eq!(judged_of("dropped", vec![Outcome::Refused]), "refused");
    assert_eq!(
        judged_of("refused", vec![Outcome::Silence]),
        "dropped (no answer)"
    );
    assert_eq!(
        judged_of("pod/web-1", vec![Outcome::Silence]),
        "dropped (no answer)"
    );
}
