//! Random histories: whatever came in whatever order, the increments add up to what a plan
//! from scratch gives.

mod aside;
mod conflicts;
mod parts;
mod wide;

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::cluster::{Kind, Protocol, SliceEndpoint, SlicePort};
use crate::config::{SlotLimits, UnservedExternal};
use crate::follow::Pending;
use crate::fuzzing::Kernel;
use crate::plan::plan;
use crate::ruleset::LiveRuleset;
use crate::source::events::Event;
use crate::source::{Loaded, load_str};
use crate::transaction::Operation;

fn config() -> Config {
    Config {
        node_name: "n1".into(),
        node_ips: vec![
            "192.168.50.11".parse().unwrap(),
            "fd00::11".parse().unwrap(),
        ],
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        slot_limits: SlotLimits { list: 16, node: 48 },
        ..Config::default()
    }
}

/// A change of one object among few, so that histories meet themselves.
#[derive(Clone, Debug)]
enum Action {
    Service {
        n: u8,
        /// Last octet of its clusterIP, which others may want too.
        cluster_ip: u8,
        /// Its age, if known.
        created: u8,
        external: u8,
        affinity: u8,
        /// 0 for none; others may want the same.
        node_port: u8,
        local: bool,
        ranges: bool,
        weights: bool,
        other_proxy: bool,
    },
    NoService(u8),
    Slice {
        n: u8,
        slice: u8,
        endpoints: Vec<(u8, bool, bool)>,
    },
    NoSlice(u8, u8),
    Pod(u8, u8),
    NoPod(u8),
    Node(u8),
    NoNode(u8),
    /// Endpoints of the Service `default/kubernetes`.
    ApiServers(Vec<u8>),
    Step,
}

fn action() -> impl Strategy<Value = Action> {
    let n = 0..5_u8;
    prop_oneof![
        3 => (
            (n.clone(), 0..8_u8, 0..3_u8, 0..8_u8, 0..4_u8, 0..4_u8),
            any::<[bool; 3]>(),
            0..8_u8,
        )
            .prop_map(|(numbers, [local, ranges, weights], other)| {
                let (n, cluster_ip, created, external, affinity, node_port) = numbers;
                Action::Service {
                    n,
                    cluster_ip: if cluster_ip < 3 { cluster_ip } else { n },
                    created,
                    external,
                    affinity,
                    node_port,
                    local,
                    ranges,
                    weights,
                    other_proxy: other == 0,
                }
            }),
        1 => n.clone().prop_map(Action::NoService),
        5 => (n.clone(), 0..2_u8, prop::collection::vec((0..12_u8, any::<bool>(), any::<bool>()), 0..40))
            .prop_map(|(n, slice, endpoints)| Action::Slice { n, slice, endpoints }),
        1 => (n.clone(), 0..2_u8).prop_map(|(n, s)| Action::NoSlice(n, s)),
        1 => (0..3_u8, 0..5_u8).prop_map(|(a, b)| Action::Pod(a, b)),
        1 => prop::collection::vec(0..4_u8, 0..3).prop_map(Action::ApiServers),
        1 => (0..3_u8).prop_map(Action::NoPod),
        2 => (0..6_u8).prop_map(Action::Node),
        1 => (0..6_u8).prop_map(Action::NoNode),
        3 => Just(Action::Step),
    ]
}

fn read(text: &str) -> Cluster {
    let mut loaded = Loaded::default();
    load_str(text, "test", &mut loaded);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.cluster
}

fn service(action: &Action) -> Option<Change> {
    let Action::Service {
        n,
        cluster_ip,
        created,
        external,
        affinity,
        node_port,
        local,
        ranges,
        weights,
        other_proxy,
    } = action
    else {
        return None;
    };
    let externals = match external {
        0 => String::new(),
        x @ 1..4 => format!(", \"externalIPs\": [\"203.0.113.{x}\", \"192.168.50.11\"]"),
        x => format!(
            ", \"externalIPs\": [\"10.254.0.{}\", \"203.0.113.1\"]",
            x - 2
        ),
    };
    let affinity = match affinity {
        0 => String::new(),
        1 => ", \"sessionAffinity\": \"ClientIP\"".to_owned(),
        x => format!(
            ", \"sessionAffinity\": \"ClientIP\", \"sessionAffinityConfig\": {{\"clientIP\": {{\"timeoutSeconds\": {x}}}}}"
        ),
    };
    let policy = if *local { "Local" } else { "Cluster" };
    let node_port = match node_port {
        0 => String::new(),
        x => format!(", \"nodePort\": {}", 30000 + u16::from(*x)),
    };
    let ranges = if *ranges {
        ", \"loadBalancerSourceRanges\": [\"198.51.100.0/24\"]"
    } else {
        ""
    };
    let weights = if *weights {
        ", \"annotations\": {\"svcnat.io/weights\": \"pod/p1=3,pod/p2=17\"}"
    } else {
        ""
    };
    let created = match created {
        0 => String::new(),
        x => format!(", \"creationTimestamp\": \"202{x}-01-01T00:00:00Z\""),
    };
    let proxy = if *other_proxy {
        ", \"labels\": {\"service.kubernetes.io/service-proxy-name\": \"another\"}"
    } else {
        ""
    };
    let text = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"{weights}{created}{proxy}}},
        "spec":{{"type":"LoadBalancer","clusterIP":"10.254.0.{}","externalTrafficPolicy":"{policy}","internalTrafficPolicy":"{policy}"
        {externals}{affinity}{ranges},"ports":[{{"port":80{node_port}}}]}},
        "status":{{"loadBalancer":{{"ingress":[{{"ip":"203.0.113.5{n}"}}]}}}}}}"#,
        cluster_ip + 2
    );
    let (name, service) = read(&text).services.pop_first()?;
    Some(Change::Service(name, Some(service)))
}

fn change(action: &Action) -> Option<Change> {
    let named = |prefix: &str, n: u8| ObjectName::new("default", format!("{prefix}{n}"));
    let slice_name = |n: u8, slice: u8| ObjectName::new("default", format!("s{n}-{slice}"));
    Some(match action {
        Action::Service { .. } => service(action)?,
        Action::NoService(n) => Change::Service(named("s", *n), None),
        Action::NoSlice(n, slice) => Change::Slice(slice_name(*n, *slice), None),
        Action::Slice {
            n,
            slice,
            endpoints,
        } => {
            let endpoint = |(octet, ready, here): &(u8, bool, bool)| SliceEndpoint {
                address: [172, 17, 0, *octet + 2].into(),
                ready: *ready,
                serving: true,
                terminating: !ready,
                node_name: Some(if *here { "n1" } else { "n2" }.into()),
                zone: None,
                pod: Some(format!("p{octet}").into()),
                hints: None,
            };
            let name = slice_name(*n, *slice);
            let slice = EndpointSlice {
                name: name.clone(),
                origin: crate::cluster::Origin::default(),
                service: named("s", *n),
                family: Family::Ip,
                endpoints: endpoints.iter().map(endpoint).collect(),
                ports: vec![SlicePort {
                    name: "".into(),
                    protocol: Protocol::Tcp,
                    port: NonZeroU16::new(8080)?,
                }],
                trigger_time: None,
            };
            Change::Slice(name, Some(Box::new(slice)))
        }
        Action::Pod(n, port) => {
            let text = format!(
                r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p{n}"}},
                "spec":{{"nodeName":"n1","containers":[{{"name":"c","ports":[{{"containerPort":80,"hostPort":{}}}]}}]}},
                "status":{{"podIP":"172.17.0.{}"}}}}"#,
                if *port < 3 { 8000 } else { 30_000 - 2 } + u16::from(*port),
                n + 2
            );
            let (name, pod) = read(&text).pods.pop_first()?;
            Change::Pod(name, Some(Box::new(pod)))
        }
        Action::NoPod(n) => Change::Pod(named("p", *n), None),
        Action::Node(n) => {
            let text = format!(
                r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"n{}"}},
                "spec":{{"podCIDRs":["172.18.{}.0/24"]}},
                "status":{{"addresses":[{{"type":"InternalIP","address":"192.168.50.{}"}}]}}}}"#,
                n + 2,
                n * 2,
                n + 12
            );
            let (name, node) = read(&text).nodes.pop_first()?;
            Change::Node(name, Some(Box::new(node)))
        }
        Action::NoNode(n) => Change::Node(format!("n{}", n + 2), None),
        Action::ApiServers(at) => {
            let endpoints: Vec<String> = at
                .iter()
                .map(|n| match n {
                    0 => r#"{"addresses":["192.168.50.11"]}"#.to_owned(),
                    n => format!(r#"{{"addresses":["203.0.113.{n}"]}}"#),
                })
                .collect();
            let text = format!(
                r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice",
                "metadata":{{"name":"kubernetes","labels":{{"kubernetes.io/service-name":"kubernetes"}}}},
                "addressType":"IPv4","ports":[{{"port":80}}],"endpoints":[{}]}}"#,
                endpoints.join(",")
            );
            let (_, slices) = read(&text).slices.pop_first()?;
            let slice = slices.into_iter().next()?;
            Change::Slice(slice.name.clone(), Some(Box::new(slice)))
        }
        Action::Step => return None,
    })
}

/// Tells the kernel of all changes so far.
fn commit(engine: &mut Engine, kernel: &mut Kernel) {
    let delta = match engine.advance() {
        Next::Step(step) => step.delta,
        Next::Replan => engine.replan().0,
        Next::Rebuild => engine.rebuild(&kernel.live(1)).0,
    };
    kernel.carry_out(&delta).unwrap();
    engine.told();
}

/// Commits all changes so far; the kernel that hears only of them must end up the same.
fn step(engine: &mut Engine, kernel: &mut Kernel) {
    commit(engine, kernel);
    assert!(
        kernel.holds(engine.ruleset()),
        "the deltas do not lead to what the engine believes"
    );
    let addresses = &engine.interface_addresses;
    let (node, here) = NodeContext::resolve(&engine.cluster, &engine.config, addresses);
    let (from_scratch, problems) = plan(&engine.cluster, &engine.config, &node);
    let problems = problems.into_iter().chain(here);
    let nowhere = problems.map(|problem| Problem {
        origin: None,
        ..problem
    });
    assert_eq!(engine.known.standing(), nowhere.collect());
    let sets = kernel.live(1);
    let compiled = crate::compile::compile(&from_scratch, &sets.sets());
    for (family, table) in &compiled.tables {
        for (name, set) in &table.sets {
            assert_eq!(
                set.elements, engine.ruleset.tables[family].sets[name].elements,
                "set {name}"
            );
        }
    }
    for (family, table) in &compiled.tables {
        assert_eq!(table.chains, engine.ruleset.tables[family].chains);
        parts::nothing_is_there_for_nobody(table);
    }
    assert!(compiled == *engine.ruleset(), "other sets");
    assert_eq!(from_scratch.routes, *engine.routes());
    assert_eq!(engine.endpoint_count(), count_endpoints(engine.cluster()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn increments_add_up_to_a_plan_from_scratch(
        actions in prop::collection::vec(action(), 1..60),
        pods_by_nodes in any::<bool>(),
        refuse_external in any::<bool>(),
    ) {
        let mut config = config();
        if pods_by_nodes {
            config.cluster_cidrs.clear();
        }
        if refuse_external {
            config.unserved_external = UnservedExternal::Reject;
        }
        let mut engine = Engine::new(config, Vec::new());
        let mut kernel = Kernel::default();
        step(&mut engine, &mut kernel);
        for action in &actions {
            match change(action) {
                Some(change) => engine.apply(change),
                None => step(&mut engine, &mut kernel),
            }
        }
        step(&mut engine, &mut kernel);
    }

    #[test]
    fn whole_lists_are_the_same_as_their_changes(
        first in prop::collection::vec(action(), 1..30),
        second in prop::collection::vec(action(), 1..30),
    ) {
        let mut engine = Engine::new(config(), Vec::new());
        let mut kernel = Kernel::default();
        first.iter().filter_map(change).for_each(|c| engine.apply(c));
        step(&mut engine, &mut kernel);
        let mut other = Engine::new(config(), Vec::new());
        second.iter().filter_map(change).for_each(|c| other.apply(c));
        let mut pending = Pending::default();
        for kind in Kind::ALL {
            pending.take(Event::Reset(kind, other.cluster.take(kind)), &engine);
        }
        pending.hand_over(&mut engine);
        step(&mut engine, &mut kernel);
    }
}

#[test]
fn an_unchanged_object_is_no_change() {
    let mut engine = Engine::new(config(), Vec::new());
    let made = change(&Action::Slice {
        n: 1,
        slice: 0,
        endpoints: vec![(1, true, true)],
    })
    .unwrap();
    engine.apply(made.clone());
    engine.rebuild(&LiveRuleset::default());
    engine.apply(made);
    assert!(!engine.is_dirty());
}

#[test]
fn one_endpoint_of_one_service_is_two_elements() {
    let mut engine = Engine::new(config(), Vec::new());
    for n in 0..5 {
        let plain = Action::Service {
            n,
            cluster_ip: n,
            created: 0,
            external: 0,
            affinity: 0,
            node_port: 0,
            local: false,
            ranges: false,
            weights: false,
            other_proxy: false,
        };
        engine.apply(change(&plain).unwrap());
        let slice = Action::Slice {
            n,
            slice: 0,
            endpoints: vec![(1, true, false)],
        };
        engine.apply(change(&slice).unwrap());
    }
    engine.rebuild(&LiveRuleset::default());
    let more = Action::Slice {
        n: 3,
        slice: 0,
        endpoints: vec![(1, true, false), (2, true, false)],
    };
    engine.apply(change(&more).unwrap());
    let Next::Step(step) = engine.advance() else {
        panic!("a step was expected");
    };
    // The new slot, and three frontends (clusterIP and load balancer) of another class.
    let counts = step.delta.counts();
    assert_eq!((counts.elements_added, counts.elements_deleted), (3, 2));
}
