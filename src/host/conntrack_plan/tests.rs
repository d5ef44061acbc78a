//! Which flows are stale, case by case.

use std::sync::Arc;

use super::*;
use crate::cluster::{Balancing, ObjectName};
use crate::config::{DetectLocal, MarkBit, Unallocated, UnservedExternal};
use crate::host::conntrack::Tuple;
use crate::plan::{EndpointList, Frontend, FrontendKind, HostPort, HostPortKey, Shape};

const NODE: &str = "192.0.2.1";
const DNS: &str = "10.96.0.10";

fn ip(addr: &str) -> IpAddr {
    addr.parse().unwrap()
}

fn endpoint(text: &str) -> Endpoint {
    let addr: std::net::SocketAddr = text.parse().unwrap();
    Endpoint {
        addr: addr.ip(),
        port: addr.port().try_into().unwrap(),
    }
}

fn owner(protocol: Protocol) -> ServicePortKey {
    ServicePortKey {
        service: ObjectName::new("kube-system", "dns"),
        port_name: "dns".into(),
        protocol,
    }
}

fn empty() -> NodePlan {
    NodePlan {
        shape: Shape {
            masquerade_bit: MarkBit::default(),
            masquerade_all: false,
            counters: false,
            detect_local: DetectLocal::ClusterCidr,
            unallocated: Unallocated::Drop,
            unserved_external: UnservedExternal::Forward,
        },
        families: vec![FamilyPlan {
            family: Family::Ip,
            lists: BTreeMap::new(),
            frontends: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            local_endpoints: BTreeSet::new(),
            cluster_ips: BTreeMap::new(),
            service_ranges: vec!["10.96.0.0/16".parse().unwrap()],
            node_port_addresses: vec!["192.0.2.1/32".parse().unwrap()],
            pod_sources: Vec::new(),
            egress_sources: Vec::new(),
            non_masquerade: Vec::new(),
        }],
        routes: BTreeSet::new(),
    }
}

/// A service at `DNS` and at node port 30053 with these endpoints.
fn dns(protocol: Protocol, endpoints: &[&str]) -> NodePlan {
    let mut plan = empty();
    let family = &mut plan.families[0];
    let port = Arc::new(owner(protocol));
    let list = ListKey {
        port: port.clone(),
        view: View::Cluster,
    };
    let comment: Arc<str> = "kube-system/dns:dns".into();
    let target = if endpoints.is_empty() {
        Target::Reject
    } else {
        let endpoints = endpoints.iter().map(|text| (endpoint(text), 1)).collect();
        family.lists.insert(
            list.clone(),
            EndpointList {
                endpoints,
                balancing: Balancing::Random,
                affinity_timeout: None,
                comment: comment.clone(),
            },
        );
        Target::List(list)
    };
    let number = |port: u16| port.try_into().unwrap();
    for (key, kind) in [
        (
            FrontendKey::Address(ip(DNS), protocol, number(53)),
            FrontendKind::ClusterIp,
        ),
        (
            FrontendKey::NodePort(protocol, number(30_053)),
            FrontendKind::NodePort,
        ),
    ] {
        let frontend = Frontend {
            kind,
            target: target.clone(),
            owner: port.clone(),
            source_ranges: None,
            comment: comment.clone(),
        };
        family.frontends.insert(key, frontend);
    }
    plan
}

fn host_port(pod: &str) -> NodePlan {
    let mut plan = empty();
    plan.families[0].host_ports.insert(
        HostPortKey {
            addr: None,
            protocol: Protocol::Udp,
            port: 5000.try_into().unwrap(),
        },
        HostPort {
            endpoint: endpoint(pod),
            owner: ObjectName::new("default", "pod"),
            comment: "default/pod".into(),
        },
    );
    plan
}

/// The stale flows as `destination:port -> endpoint`.
fn after(previous: &NodePlan, desired: &NodePlan, serving: &Serving) -> Vec<String> {
    change((previous, &Serving::new()), (desired, serving))
}

/// The same, with the endpoints that served before and those that do now.
fn change(before: (&NodePlan, &Serving), after: (&NodePlan, &Serving)) -> Vec<String> {
    let local_addresses = BTreeSet::from([ip("127.0.0.1"), ip(NODE)]);
    let context = |serving| Context {
        local_addresses: &local_addresses,
        serving,
    };
    let text = |flow: &StaleFlow| {
        let (dst, src) = (flow.original_dst.unwrap(), flow.reply_src.unwrap());
        let port = flow.reply_sport.unwrap();
        format!("{dst}:{} -> {src}:{port}", flow.original_dport)
    };
    let (then, now) = (context(before.1), context(after.1));
    stale_after((before.0, &then), (after.0, &now))
        .iter()
        .map(text)
        .collect()
}

fn flow(dst: &str, reply_src: &str) -> Flow {
    let (dst, reply) = (endpoint(dst), endpoint(reply_src));
    Flow {
        family: Family::Ip,
        protocol: Protocol::Udp,
        original: Tuple {
            src: ip("10.1.0.1"),
            dst: dst.addr,
            sport: 40_000,
            dport: dst.port.get(),
        },
        reply: Tuple {
            src: reply.addr,
            dst: ip("10.1.0.1"),
            sport: reply.port.get(),
            dport: 40_000,
        },
        status: if dst == reply { 0 } else { 1 << 5 },
        id: 1,
    }
}

fn is_stale(desired: &NodePlan, flow: Flow) -> bool {
    let local_addresses = BTreeSet::from([ip("127.0.0.1"), ip(NODE)]);
    let context = Context {
        local_addresses: &local_addresses,
        serving: &Serving::new(),
    };
    !stale_in(desired, &BTreeSet::new(), vec![flow], &context).is_empty()
}

const BOTH: [&str; 2] = ["10.1.0.5:5353", "10.1.0.6:5353"];

#[test]
fn flows_to_a_removed_endpoint_are_stale_at_every_frontend() {
    for protocol in [Protocol::Udp, Protocol::Sctp] {
        let stale = after(
            &dns(protocol, &BOTH),
            &dns(protocol, &BOTH[1..]),
            &Serving::new(),
        );
        assert_eq!(
            stale,
            [
                "10.96.0.10:53 -> 10.1.0.5:5353",
                "192.0.2.1:30053 -> 10.1.0.5:5353"
            ]
        );
    }
}

#[test]
fn a_changed_port_makes_flows_to_the_old_port_stale() {
    let stale = after(
        &dns(Protocol::Udp, &["10.1.0.5:5353"]),
        &dns(Protocol::Udp, &["10.1.0.5:5354"]),
        &Serving::new(),
    );
    assert_eq!(stale.len(), 2);
    assert_eq!(stale[0], "10.96.0.10:53 -> 10.1.0.5:5353");
}

#[test]
fn tcp_is_left_alone() {
    let stale = after(
        &dns(Protocol::Tcp, &BOTH),
        &dns(Protocol::Tcp, &[]),
        &Serving::new(),
    );
    assert!(stale.is_empty());
}

#[test]
fn flows_to_an_endpoint_that_still_serves_stay() {
    let serving = Serving::from([(
        owner(Protocol::Udp),
        BTreeSet::from([endpoint("10.1.0.5:5353")]),
    )]);
    let previous = dns(Protocol::Udp, &BOTH);
    assert!(after(&previous, &dns(Protocol::Udp, &BOTH[1..]), &serving).is_empty());
    let deleted = after(&previous, &empty(), &serving);
    assert_eq!(
        deleted.len(),
        4,
        "a deleted service has no frontend: {deleted:?}"
    );
}

#[test]
fn flows_to_an_endpoint_that_left_the_lists_before_it_stopped_serving_are_stale_then() {
    let serving = |endpoints: &[&str]| {
        let endpoints = endpoints.iter().map(|text| endpoint(text)).collect();
        Serving::from([(owner(Protocol::Sctp), endpoints)])
    };
    let plan = dns(Protocol::Sctp, &BOTH[1..]);
    let (both, one) = (serving(&BOTH), serving(&BOTH[1..]));
    assert!(change((&plan, &both), (&plan, &both)).is_empty());
    assert_eq!(
        change((&plan, &both), (&plan, &one)),
        [
            "10.96.0.10:53 -> 10.1.0.5:5353",
            "192.0.2.1:30053 -> 10.1.0.5:5353"
        ]
    );
    // The service goes while an endpoint that left the lists still serves.
    let deleted = change((&plan, &both), (&empty(), &Serving::new()));
    assert_eq!(deleted.len(), 4, "{deleted:?}");
    // An endpoint of the other family is behind no frontend of this one.
    let other = serving(&["[2001:db8::1]:53"]);
    assert!(change((&plan, &other), (&plan, &one)).is_empty());
}

#[test]
fn flows_of_a_service_without_endpoints_left_or_deleted_are_stale() {
    let previous = dns(Protocol::Udp, &BOTH);
    for desired in [dns(Protocol::Udp, &[]), empty()] {
        assert_eq!(after(&previous, &desired, &Serving::new()).len(), 4);
    }
}

#[test]
fn a_frontend_that_now_has_endpoints_makes_untranslated_flows_stale() {
    let desired = dns(Protocol::Udp, &BOTH);
    for previous in [empty(), dns(Protocol::Udp, &[])] {
        assert_eq!(
            after(&previous, &desired, &Serving::new()),
            [
                "10.96.0.10:53 -> 10.96.0.10:53",
                "192.0.2.1:30053 -> 192.0.2.1:30053"
            ]
        );
    }
}

#[test]
fn a_host_port_that_moved_makes_flows_to_the_old_pod_stale() {
    let stale = after(
        &host_port("10.1.0.7:53"),
        &host_port("10.1.0.8:53"),
        &Serving::new(),
    );
    assert_eq!(
        stale,
        [
            "127.0.0.1:5000 -> 10.1.0.7:53",
            "192.0.2.1:5000 -> 10.1.0.7:53"
        ]
    );
}

#[test]
fn nothing_changed_means_nothing_stale() {
    let plan = dns(Protocol::Udp, &BOTH);
    assert!(after(&plan, &plan, &Serving::new()).is_empty());
}

#[test]
fn from_scratch_only_flows_that_lead_elsewhere_than_the_plan_are_stale() {
    let plan = dns(Protocol::Udp, &BOTH);
    let reject = dns(Protocol::Udp, &[]);
    for (plan, flow, stale, why) in [
        (
            &plan,
            flow("10.96.0.10:53", BOTH[0]),
            false,
            "a good endpoint",
        ),
        (
            &plan,
            flow("10.96.0.10:53", "10.1.0.9:5353"),
            true,
            "a gone endpoint",
        ),
        (
            &plan,
            flow("10.96.0.10:53", "10.96.0.10:53"),
            true,
            "untranslated",
        ),
        (
            &reject,
            flow("10.96.0.10:53", BOTH[0]),
            true,
            "no endpoints",
        ),
        (
            &plan,
            flow("192.0.2.1:30053", "10.1.0.9:5353"),
            true,
            "node port",
        ),
        (
            &plan,
            flow("192.0.2.9:30053", "10.1.0.9:5353"),
            false,
            "other node",
        ),
        (
            &plan,
            flow("10.96.0.99:53", BOTH[0]),
            true,
            "a deleted service",
        ),
        (
            &plan,
            flow("10.96.0.99:53", "10.96.0.99:53"),
            true,
            "to an address of the service range that is nobody's: a first packet is dropped",
        ),
        (
            &reject,
            flow("10.96.0.10:53", "10.96.0.10:53"),
            true,
            "untranslated, where a first packet is refused",
        ),
        (
            &plan,
            flow("192.0.2.1:9999", "192.0.2.1:9999"),
            false,
            "to the node itself",
        ),
        (
            &plan,
            flow("198.51.100.1:53", "10.1.0.9:53"),
            false,
            "others' NAT",
        ),
    ] {
        assert_eq!(is_stale(plan, flow), stale, "{why}");
    }
}
