//! Histories of objects: what the kernel is told bit by bit adds up to what a plan from
//! scratch gives.

use super::{Kernel, config};
use crate::cluster::{Change, Cluster, ObjectName};
use crate::compile::compile;
use crate::engine::{Engine, Next};
use crate::plan::plan;
use crate::source::{Loaded, load_str};

/// Five bytes are one change of one object among few, so that histories meet themselves.
pub fn histories(data: &[u8]) {
    let mut engine = Engine::new(config(), Vec::new());
    let mut kernel = Kernel::default();
    step(&mut engine, &mut kernel);
    // Longer ones only take longer.
    for action in data.chunks_exact(5).take(60) {
        let [kind, n, a, b, c] = *action else { return };
        match kind % 8 {
            0 | 1 => engine.apply(service(n % 5, a, b, c)),
            2 | 3 => engine.apply(slice(n % 5, a, b, c)),
            4 => engine.apply(gone(n, a)),
            5 => engine.apply(pod(n % 3, a % 3)),
            6 => engine.apply(node(n % 3)),
            _ => step(&mut engine, &mut kernel),
        }
    }
    step(&mut engine, &mut kernel);
}

fn objects(text: &str) -> Cluster {
    let mut loaded = Loaded::default();
    load_str(text, "history", &mut loaded);
    loaded.cluster
}

fn named(name: String) -> ObjectName {
    ObjectName::new("default", name)
}

fn gone(n: u8, a: u8) -> Change {
    match a % 4 {
        0 => Change::Service(named(format!("s{}", n % 5)), None),
        1 => Change::Slice(named(format!("s{}-{}", n % 5, a / 4 % 4)), None),
        2 => Change::Pod(named(format!("p{}", n % 3)), None),
        _ => Change::Node(format!("n{}", n % 3 + 2), None),
    }
}

fn service(n: u8, a: u8, b: u8, c: u8) -> Change {
    let bit = |byte: u8, bit: u8, text: &str| {
        if byte >> bit & 1 == 1 {
            text.to_owned()
        } else {
            String::new()
        }
    };
    let addresses = match a % 3 {
        0 => format!(r#""clusterIP":"10.254.0.{}","#, n % 4 + 2),
        1 => format!(r#""clusterIPs":["10.254.0.{0}","fd00:254::{0}"],"#, n + 2),
        _ => format!(r#""clusterIPs":["fd00:254::{}"],"#, n + 2),
    };
    let policies = ["Cluster", "Local"];
    let (external, internal) = (
        policies[usize::from(b & 1)],
        policies[usize::from(b >> 1 & 1)],
    );
    let protocol = ["TCP", "UDP", "SCTP"][usize::from(c % 3)];
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"{}}},"spec":{{{addresses}
        "type":"LoadBalancer","externalTrafficPolicy":"{external}","internalTrafficPolicy":"{internal}"{}{}{}{}{},
        "ports":[{{"name":"a","port":80,"protocol":"{protocol}"{}}}{}]}}{}}}"#,
        bit(b, 2, r#","annotations":{"svcnat.io/weights":"pod/p1=3"}"#),
        bit(b, 3, r#","externalIPs":["203.0.113.7","fd00:113::7"]"#),
        bit(b, 4, r#","sessionAffinity":"ClientIP""#),
        bit(
            b,
            5,
            r#","loadBalancerSourceRanges":["198.51.100.0/24","fd00:51::/32"]"#
        ),
        bit(b, 6, r#","publishNotReadyAddresses":true"#),
        bit(
            a,
            7,
            r#","sessionAffinityConfig":{"clientIP":{"timeoutSeconds":7}}"#
        ),
        bit(
            c,
            6,
            &format!(r#","nodePort":{}"#, 30000 + u16::from(c % 4))
        ),
        bit(c, 7, r#",{"name":"b","port":81,"protocol":"UDP"}"#),
        bit(
            b,
            7,
            r#","status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.8"}]}}"#
        ),
    );
    let name = named(format!("s{n}"));
    let found = objects(&text).services.pop_first();
    Change::Service(name, found.map(|(_, service)| service))
}

fn slice(n: u8, a: u8, b: u8, c: u8) -> Change {
    let (kind, prefix) = [("IPv4", "172.17.0."), ("IPv6", "fd00:17::")][usize::from(a & 1)];
    let endpoint = |i: u8| {
        let state = (b >> (i % 4)) & 3;
        let node = ["node1", "n2"][usize::from(c >> (i % 8) & 1)];
        format!(
            r#"{{"addresses":["{prefix}{}"],"nodeName":"{node}","targetRef":{{"kind":"Pod","name":"p{i}"}},
            "conditions":{{"ready":{},"serving":{},"terminating":{}}}}}"#,
            i + 2,
            state == 0,
            state < 2,
            state > 0
        )
    };
    let endpoints: Vec<String> = (0..c % 40).map(endpoint).collect();
    let slice = a / 4 % 4;
    let text = format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{n}-{slice}",
        "labels":{{"kubernetes.io/service-name":"s{n}"}}}},"addressType":"{kind}",
        "ports":[{{"name":"a","port":8080,"protocol":"TCP"}},{{"name":"b","port":8081,"protocol":"UDP"}}],
        "endpoints":[{}]}}"#,
        endpoints.join(",")
    );
    let name = named(format!("s{n}-{slice}"));
    let mut slices = objects(&text).slices;
    let found = slices.pop_first().and_then(|(_, all)| {
        let first = all.iter().next().cloned();
        first.map(Box::new)
    });
    Change::Slice(name, found)
}

fn pod(n: u8, port: u8) -> Change {
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{n}"}},
        "spec":{{"nodeName":"node1","containers":[{{"name":"c","ports":[{{"containerPort":80,"hostPort":{}}}]}}]}},
        "status":{{"phase":"Running","podIP":"172.17.0.{}"}}}}"#,
        8000 + u16::from(port),
        n + 2
    );
    let found = objects(&text).pods.pop_first();
    Change::Pod(named(format!("p{n}")), found.map(|(_, pod)| Box::new(pod)))
}

fn node(n: u8) -> Change {
    let name = format!("n{}", n + 2);
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"{name}"}},"spec":{{"podCIDRs":["172.18.{n}.0/24"]}},
        "status":{{"addresses":[{{"type":"InternalIP","address":"192.168.50.{}"}}]}}}}"#,
        n + 12
    );
    let found = objects(&text).nodes.pop_first();
    Change::Node(name, found.map(|(_, node)| Box::new(node)))
}

fn step(engine: &mut Engine, kernel: &mut Kernel) {
    let delta = match engine.advance() {
        Next::Step(step) => step.delta,
        Next::Replan => engine.replan().0,
        Next::Rebuild => engine.rebuild(&kernel.live(1)).0,
    };
    kernel.carry_out(&delta).expect("the kernel takes it");
    assert!(kernel.holds(engine.ruleset()), "the deltas lead elsewhere");
    let (plan, _) = plan(engine.cluster(), engine.config(), engine.node());
    let from_scratch = compile(&plan, &kernel.live(1).sets());
    assert_eq!(
        from_scratch,
        *engine.ruleset(),
        "a plan from scratch differs"
    );
    assert_eq!(plan.routes, *engine.routes());
}
