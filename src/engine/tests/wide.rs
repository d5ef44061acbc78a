//! The same histories with all that a Service may have: several ports and protocols, both
//! families, balancing by address, zones and weights, counters; external addresses that several
//! Services claim.

use super::*;
use crate::cluster::{Balancing, Hints};

/// What a Service is made of, in small numbers.
#[derive(Clone, Debug)]
pub(super) struct Wide {
    n: u8,
    /// Bits: http (TCP), dns (UDP), sig (SCTP); none of them is a Service without ports.
    ports: u8,
    /// 0: both families, 1: IPv4, 2: IPv6, 3: both, IPv6 first.
    families: u8,
    affinity: u8,
    balancing: bool,
    weights: u8,
    internal_local: bool,
    external_local: bool,
    external: u8,
    node_ports: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    octet: u8,
    ready: bool,
    serving: bool,
    here: bool,
    zone: u8,
    hint: u8,
}

#[derive(Clone, Debug)]
pub(super) enum Act {
    Service(Wide),
    NoService(u8),
    /// Service, number and family of a slice, which of its ports it has, endpoints.
    Slice(u8, u8, bool, u8, Vec<Endpoint>),
    NoSlice(u8, u8, bool),
    Step,
}

pub(super) fn act() -> impl Strategy<Value = Act> {
    let n = 0..4_u8;
    let wide = (
        (n.clone(), 0..8_u8, 0..4_u8, 0..4_u8, 0..3_u8, 0..4_u8),
        any::<[bool; 4]>(),
    );
    let wide = wide.prop_map(
        |((n, ports, families, affinity, weights, external), flags)| {
            let [balancing, internal_local, external_local, node_ports] = flags;
            Wide {
                n,
                ports,
                families,
                affinity,
                balancing,
                weights,
                internal_local,
                external_local,
                external,
                node_ports,
            }
        },
    );
    let endpoint = (0..9_u8, any::<[bool; 3]>(), 0..3_u8, 0..4_u8);
    let endpoint = endpoint.prop_map(|(octet, [ready, serving, here], zone, hint)| Endpoint {
        octet,
        ready,
        serving,
        here,
        zone,
        hint,
    });
    let endpoints = prop::collection::vec(endpoint, 0..20);
    prop_oneof![
        4 => wide.prop_map(Act::Service),
        1 => n.clone().prop_map(Act::NoService),
        6 => (n.clone(), 0..2_u8, any::<bool>(), 0..8_u8, endpoints)
            .prop_map(|(n, slice, v6, ports, endpoints)| Act::Slice(n, slice, v6, ports, endpoints)),
        1 => (n, 0..2_u8, any::<bool>()).prop_map(|(n, slice, v6)| Act::NoSlice(n, slice, v6)),
        3 => Just(Act::Step),
    ]
}

const PORTS: [(&str, Protocol, u16, &str); 3] = [
    ("http", Protocol::Tcp, 80, "TCP"),
    ("dns", Protocol::Udp, 53, "UDP"),
    ("sig", Protocol::Sctp, 90, "SCTP"),
];

fn has(ports: u8, i: usize) -> bool {
    ports & (1 << i) != 0
}

fn json_service(wide: &Wide) -> String {
    let ports: Vec<String> = (0..3)
        .filter(|i| has(wide.ports | 1, *i))
        .map(|i| {
            let (name, _, port, protocol) = PORTS[i];
            let node_port = match wide.node_ports {
                true => format!(
                    r#","nodePort":{}"#,
                    30_000 + 10 * u16::from(wide.n) + port % 7
                ),
                false => String::new(),
            };
            format!(r#"{{"name":"{name}","port":{port},"protocol":"{protocol}"{node_port}}}"#)
        })
        .collect();
    let (v4, v6) = (
        format!("\"10.254.0.{}\"", wide.n + 2),
        format!("\"fd00:254::{}\"", wide.n + 2),
    );
    let ips = match wide.families {
        0 => format!("{v4},{v6}"),
        1 => v4,
        2 => v6,
        _ => format!("{v6},{v4}"),
    };
    let affinity = match wide.affinity {
        0 => String::new(),
        1 => r#","sessionAffinity":"ClientIP""#.to_owned(),
        x => format!(
            r#","sessionAffinity":"ClientIP","sessionAffinityConfig":{{"clientIP":{{"timeoutSeconds":{x}}}}}"#
        ),
    };
    let externals = match wide.external {
        0 => String::new(),
        x => format!(r#","externalIPs":["203.0.113.{x}","2001:db8::{x}"]"#),
    };
    let mut notes = Vec::new();
    if wide.balancing {
        notes.push(r#""svcnat.io/balancing":"source-ip""#);
    }
    match wide.weights {
        0 => {}
        1 => notes.push(r#""svcnat.io/weights":"zone/z1=3,zone/z2=2""#),
        _ => notes.push(r#""svcnat.io/weights":"pod/p1=4,zone/z0=2""#),
    }
    let policy = |local| if local { "Local" } else { "Cluster" };
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{}","annotations":{{{}}}}},
        "spec":{{"type":"LoadBalancer","clusterIPs":[{ips}],"externalTrafficPolicy":"{}","internalTrafficPolicy":"{}"
        {affinity}{externals},"ports":[{}]}},
        "status":{{"loadBalancer":{{"ingress":[{{"ip":"203.0.113.5{}"}},{{"ip":"2001:db8::5{}"}}]}}}}}}"#,
        wide.n,
        notes.join(","),
        policy(wide.external_local),
        policy(wide.internal_local),
        ports.join(","),
        wide.n,
        wide.n,
    )
}

fn wide_slice(n: u8, slice: u8, v6: bool, ports: u8, endpoints: &[Endpoint]) -> EndpointSlice {
    let address = |octet: u8| -> std::net::IpAddr {
        if v6 {
            [0xfd00, 0x17, 0, 0, 0, 0, 0, u16::from(octet) + 2].into()
        } else {
            [172, 17, 0, octet + 2].into()
        }
    };
    let endpoint = |e: &Endpoint| SliceEndpoint {
        address: address(e.octet),
        ready: e.ready,
        serving: e.ready || e.serving,
        terminating: !e.ready,
        node_name: Some(if e.here { "n1" } else { "n2" }.into()),
        zone: Some(format!("z{}", e.zone).into()),
        pod: Some(format!("p{}", e.octet).into()),
        hints: (e.hint > 0).then(|| {
            Box::new(Hints {
                for_zones: vec![format!("z{}", e.hint - 1).into()],
                for_nodes: Vec::new(),
            })
        }),
    };
    let named = |name: String| ObjectName::new("default", name);
    EndpointSlice {
        name: named(format!("s{n}-{slice}-{v6}")),
        origin: crate::cluster::Origin::default(),
        service: named(format!("s{n}")),
        family: if v6 { Family::Ip6 } else { Family::Ip },
        endpoints: endpoints.iter().map(endpoint).collect(),
        ports: (0..3)
            .filter(|i| has(ports, *i))
            .map(|i| SlicePort {
                name: PORTS[i].0.into(),
                protocol: PORTS[i].1,
                port: NonZeroU16::new(PORTS[i].2 + 8000).expect("not zero"),
            })
            .collect(),
        trigger_time: None,
    }
}

pub(super) fn wide_change(act: &Act) -> Option<Change> {
    let named = |name: String| ObjectName::new("default", name);
    Some(match act {
        Act::Service(wide) => {
            let (name, service) = read(&json_service(wide)).services.pop_first()?;
            assert_eq!(
                service.balancing == Balancing::SourceIp,
                wide.balancing,
                "the annotation is read"
            );
            Change::Service(name, Some(service))
        }
        Act::NoService(n) => Change::Service(named(format!("s{n}")), None),
        Act::Slice(n, slice, v6, ports, endpoints) => {
            let made = wide_slice(*n, *slice, *v6, *ports, endpoints);
            Change::Slice(made.name.clone(), Some(Box::new(made)))
        }
        Act::NoSlice(n, slice, v6) => Change::Slice(named(format!("s{n}-{slice}-{v6}")), None),
        Act::Step => return None,
    })
}

pub(super) fn wide_engine(counters: bool) -> Engine {
    let config = Config {
        service_counters: counters,
        service_cidrs: vec![
            "10.254.0.0/16".parse().unwrap(),
            "fd00:254::/112".parse().unwrap(),
        ],
        cluster_cidrs: vec![
            "172.17.0.0/16".parse().unwrap(),
            "fd00:17::/64".parse().unwrap(),
        ],
        ..config()
    };
    let mut engine = Engine::new(config, Vec::new());
    let node = read(
        r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1","labels":{"topology.kubernetes.io/zone":"z1"}},
        "spec":{"podCIDRs":["172.17.0.0/24","fd00:17::/112"]},
        "status":{"addresses":[{"type":"InternalIP","address":"192.168.50.11"},{"type":"InternalIP","address":"fd00::11"}]}}"#,
    );
    for (name, node) in node.nodes {
        engine.apply(Change::Node(name, Some(Box::new(node))));
    }
    engine
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn increments_of_all_that_a_service_may_have_add_up_to_a_plan_from_scratch(
        acts in prop::collection::vec(act(), 1..50),
        counters in any::<bool>(),
    ) {
        let mut engine = wide_engine(counters);
        let mut kernel = Kernel::default();
        step(&mut engine, &mut kernel);
        for act in &acts {
            match wide_change(act) {
                Some(change) => engine.apply(change),
                None => step(&mut engine, &mut kernel),
            }
        }
        step(&mut engine, &mut kernel);
    }
}
