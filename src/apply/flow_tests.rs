//! Random histories of UDP and SCTP flows: what increments remove is what a fresh look at the
//! whole table would, no less and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;

use super::tidy::stale_after;
use crate::cluster::{Change, Family, ObjectName, Protocol};
use crate::config::Config;
use crate::engine::{Engine, Next};
use crate::host::conntrack::{Flow, StaleFlow, Tuple};
use crate::host::conntrack_plan::{Context, FrontendAddress, stale_in};
use crate::plan::{FrontendKey, NodePlan, View, plan, serving};
use crate::ruleset::LiveRuleset;
use crate::source::{Loaded, load_str};

const NODE: [&str; 2] = ["192.168.50.11", "fd00::11"];

fn local() -> BTreeSet<IpAddr> {
    NODE.iter().map(|addr| addr.parse().unwrap()).collect()
}

fn engine() -> Engine {
    let prefixes = |list: [&str; 2]| list.map(|prefix| prefix.parse().unwrap()).to_vec();
    let config = Config {
        node_name: "n1".into(),
        node_ips: local().into_iter().collect(),
        cluster_cidrs: prefixes(["172.17.0.0/16", "fd00:17::/64"]),
        service_cidrs: prefixes(["10.254.0.0/16", "fd00:254::/112"]),
        ..Config::default()
    };
    let mut engine = Engine::new(config, Vec::new());
    engine.rebuild(&LiveRuleset::default());
    engine
}

/// What becomes of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    TerminatingServing,
    Terminating,
    Gone,
}

/// Endpoints by Service, slice and family.
type Slices = BTreeMap<(u8, u8, bool), BTreeMap<u8, (State, bool)>>;

#[derive(Clone, Debug)]
enum Act {
    /// Number, policy, node port, external address, a second port.
    Service(u8, bool, bool, bool, bool),
    NoService(u8),
    /// Number, slice, family, and one endpoint of it: octet, what becomes of it, on this node
    /// or not. Ends of endpoints are gradual: one at a time.
    Endpoint(u8, u8, bool, u8, State, bool),
    NoSlice(u8, u8, bool),
    Step,
}

fn act() -> impl Strategy<Value = Act> {
    let n = 0..2_u8;
    let state = prop_oneof![
        3 => Just(State::Ready),
        3 => Just(State::TerminatingServing),
        1 => Just(State::Terminating),
        2 => Just(State::Gone),
    ];
    prop_oneof![
        2 => (n.clone(), any::<[bool; 4]>()).prop_map(|(n, [a, b, c, d])| Act::Service(n, a, b, c, d)),
        1 => n.clone().prop_map(Act::NoService),
        9 => (n.clone(), 0..2_u8, any::<bool>(), 0..3_u8, state, any::<bool>())
            .prop_map(|(n, slice, v6, octet, state, here)| Act::Endpoint(n, slice, v6, octet, state, here)),
        1 => (n, 0..2_u8, any::<bool>()).prop_map(|(n, slice, v6)| Act::NoSlice(n, slice, v6)),
        5 => Just(Act::Step),
    ]
}

fn change(act: &Act, slices: &mut Slices) -> Option<Change> {
    let mut loaded = Loaded::default();
    let named = |name: String| ObjectName::new("default", name);
    Some(match act {
        Act::Service(n, local, node_port, external, second) => {
            let node_port = match node_port {
                true => format!(r#","nodePort":{}"#, 30_000 + u16::from(*n)),
                false => String::new(),
            };
            let external = match external {
                true => format!(r#","externalIPs":["203.0.113.{n}","2001:db8::{n}"]"#),
                false => String::new(),
            };
            let second = match second {
                true => r#",{"name":"b","port":90,"protocol":"SCTP"}"#,
                false => "",
            };
            let policy = if *local { "Local" } else { "Cluster" };
            let text = format!(
                r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"}},"spec":{{"type":"NodePort",
                "clusterIPs":["10.254.0.{0}","fd00:254::{0}"],"externalTrafficPolicy":"{policy}",
                "internalTrafficPolicy":"{policy}"{external},
                "ports":[{{"name":"a","port":53,"protocol":"UDP"{node_port}}}{second}]}}}}"#,
                n + 2
            );
            load_str(&text, "test", &mut loaded);
            let (name, service) = loaded.cluster.services.pop_first()?;
            Change::Service(name, Some(service))
        }
        Act::NoService(n) => Change::Service(named(format!("s{n}")), None),
        Act::Endpoint(n, slice, v6, octet, state, here) => {
            let endpoints = slices.entry((*n, *slice, *v6)).or_default();
            if *state == State::Gone {
                endpoints.remove(octet);
            } else {
                endpoints.insert(*octet, (*state, *here));
            }
            let endpoint = |(octet, (state, here)): (&u8, &(State, bool))| {
                let ready = *state == State::Ready;
                let serving = *state != State::Terminating;
                let address = match v6 {
                    true => format!("fd00:17::{}", octet + 2),
                    false => format!("172.17.0.{}", octet + 2),
                };
                format!(
                    r#"{{"addresses":["{address}"],"nodeName":"{}",
                    "conditions":{{"ready":{ready},"serving":{serving},"terminating":{}}}}}"#,
                    if *here { "n1" } else { "n2" },
                    !ready
                )
            };
            let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
            let text = format!(
                r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{n}-{slice}-{v6}",
                "labels":{{"kubernetes.io/service-name":"s{n}"}}}},"addressType":"{}",
                "ports":[{{"name":"a","port":53,"protocol":"UDP"}},{{"name":"b","port":90,"protocol":"SCTP"}}],
                "endpoints":[{}]}}"#,
                if *v6 { "IPv6" } else { "IPv4" },
                endpoints.join(",")
            );
            load_str(&text, "test", &mut loaded);
            let slice = loaded.cluster.slices.into_values().flatten().next()?;
            Change::Slice(slice.name.clone(), Some(Box::new(slice)))
        }
        Act::NoSlice(n, slice, v6) => {
            slices.remove(&(*n, *slice, *v6));
            Change::Slice(named(format!("s{n}-{slice}-{v6}")), None)
        }
        Act::Step => return None,
    })
}

/// Every flow that a client may have begun under this plan: to each endpoint of a list that
/// each frontend leads to.
fn begun(plan: &NodePlan) -> BTreeSet<Flow> {
    let mut flows = BTreeSet::new();
    for family in &plan.families {
        for (key, frontend) in &family.frontends {
            let addresses: Vec<IpAddr> = match key {
                FrontendKey::Address(addr, ..) => vec![*addr],
                FrontendKey::NodePort(..) => {
                    let mine = |addr: &IpAddr| Family::of(addr) == family.family;
                    local().into_iter().filter(mine).collect()
                }
            };
            let lists = [View::Cluster, View::Local].into_iter().filter_map(|view| {
                let port = std::sync::Arc::clone(&frontend.owner);
                family.lists.get(&crate::plan::ListKey { port, view })
            });
            for endpoint in lists.flat_map(|list| list.endpoints.keys()) {
                for addr in &addresses {
                    flows.insert(flow(*addr, key.protocol(), key.port().get(), endpoint.addr));
                }
            }
        }
    }
    flows
}

fn flow(to: IpAddr, protocol: Protocol, port: u16, endpoint: IpAddr) -> Flow {
    let client = match to {
        IpAddr::V4(_) => "198.51.100.1",
        IpAddr::V6(_) => "2001:db8:100::1",
    };
    let client = client.parse().unwrap();
    let sport = if protocol == Protocol::Udp { 53 } else { 90 };
    Flow {
        family: Family::of(&to),
        protocol,
        original: Tuple {
            src: client,
            dst: to,
            sport: 40_000,
            dport: port,
        },
        reply: Tuple {
            src: endpoint,
            dst: client,
            sport,
            dport: 40_000,
        },
        status: 1 << 5,
        id: 0,
    }
}

fn address_of(flow: &Flow) -> FrontendAddress {
    (flow.original.dst, flow.protocol, flow.original.dport)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn increments_remove_the_flows_that_a_fresh_look_would(
        acts in prop::collection::vec(act(), 1..80)
    ) {
        let (mut engine, mut slices) = (engine(), Slices::new());
        let mut flows: BTreeSet<Flow> = BTreeSet::new();
        // Frontends that are no more, of which only increments know that they were ours.
        let mut addresses: BTreeMap<FrontendAddress, ()> = BTreeMap::new();
        for act in acts.iter().chain([&Act::Step]) {
            if let Some(change) = change(act, &mut slices) {
                engine.apply(change);
                continue;
            }
            let stale: Vec<StaleFlow> = match engine.advance() {
                Next::Step(step) => stale_after(&engine, &step, &local()),
                Next::Replan | Next::Rebuild => {
                    engine.rebuild(&LiveRuleset::default());
                    Vec::new()
                }
            };
            let (plan, _) = plan(engine.cluster(), engine.config(), engine.node());
            let serving = serving(engine.cluster());
            let local = local();
            let context = Context { local_addresses: &local, serving: &serving };
            addresses.extend(flows.iter().map(|flow| (address_of(flow), ())));
            let closed = addresses.keys().copied().collect();
            let all: Vec<Flow> = flows.iter().cloned().collect();
            let fresh: BTreeSet<Flow> = stale_in(&plan, &closed, all, &context).into_iter().collect();
            let removed: BTreeSet<Flow> = flows
                .iter()
                .filter(|flow| stale.iter().any(|stale| stale.matches(flow)))
                .cloned()
                .collect();
            prop_assert_eq!(&removed, &fresh);
            flows.retain(|flow| !removed.contains(flow));
            flows.extend(begun(&plan));
        }
    }
}
