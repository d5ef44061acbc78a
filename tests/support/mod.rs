//! What several test binaries share.
#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test binary uses its own part"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::process::{Command, Stdio};
use std::sync::Arc;

use svcnat::cluster::{Balancing, Family, ObjectName, Protocol};
use svcnat::config::{DetectLocal, MarkBit, Unallocated, UnservedExternal};
use svcnat::plan::{
    Endpoint, EndpointList, FamilyPlan, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey,
    ListKey, NodePlan, ServicePortKey, Shape, Target, View,
};

/// Runs `body` in a network namespace of its own, which goes when it ends. Commands that
/// it starts are in there too.
pub fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("namespace tests run as root");
                run("ip", &["link", "set", "lo", "up"], "");
                body()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Runs a command with this input; panics with its error output if it fails.
pub fn run(command: &str, args: &[&str], input: &str) -> String {
    let mut child = Command::new(command)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command}: {e}"));
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input.as_bytes()).unwrap());
        child.wait_with_output().unwrap()
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

/// The objects `nft -j list ruleset` shows, without what differs between two installs of
/// the same: handles and nft's own version. Elements are sorted: a hash has no order.
pub fn listing() -> Vec<serde_json::Value> {
    objects(&run("nft", &["-j", "list", "ruleset"], ""))
}

/// The same of a JSON document.
pub fn objects(json: &str) -> Vec<serde_json::Value> {
    let document: serde_json::Value = serde_json::from_str(json).unwrap();
    let mut objects: Vec<serde_json::Value> = document["nftables"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|o| o.get("metainfo").is_none())
        .cloned()
        .collect();
    for object in &mut objects {
        for body in object.as_object_mut().unwrap().values_mut() {
            let body = body.as_object_mut().unwrap();
            body.remove("handle");
            if let Some(elements) = body.get_mut("elem").and_then(|e| e.as_array_mut()) {
                elements.sort_by_key(ToString::to_string);
            }
        }
    }
    // Chains and rules keep their order; the order of tables is nft's own affair.
    objects.sort_by_key(|o| {
        let (kind, body) = o.as_object().unwrap().iter().next().unwrap();
        let name = if kind == "rule" {
            &body["chain"]
        } else {
            &body["name"]
        };
        format!("{} {kind} {name}", body["family"])
    });
    objects
}

pub fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn service_port(name: &str, protocol: Protocol) -> ServicePortKey {
    ServicePortKey {
        service: ObjectName::new("default", name),
        port_name: "http".into(),
        protocol,
    }
}

/// A plan that uses every kind of element in both families.
pub fn full_plan() -> NodePlan {
    let v4 = family_plan(Family::Ip, "10.254.0.", "172.17.0.", "192.168.50.11");
    let v6 = family_plan(Family::Ip6, "fd00:254::", "fd00:17::", "fd00:50::11");
    NodePlan {
        shape: Shape {
            masquerade_bit: MarkBit::default(),
            masquerade_all: false,
            counters: false,
            detect_local: DetectLocal::ClusterCidr,
            unallocated: Unallocated::Drop,
            unserved_external: UnservedExternal::Forward,
        },
        families: vec![v4, v6],
        routes: BTreeSet::new(),
    }
}

pub fn list(prefix: &str, endpoints: u8, name: &str) -> EndpointList {
    EndpointList {
        endpoints: (1..=endpoints)
            .map(|i| {
                let addr = ip(&format!("{prefix}{i}"));
                (
                    Endpoint {
                        addr,
                        port: port(8080),
                    },
                    1,
                )
            })
            .collect(),
        balancing: Balancing::Random,
        affinity_timeout: None,
        comment: format!("default/{name}:http").into(),
    }
}

fn family_plan(family: Family, services: &str, pods: &str, node: &str) -> FamilyPlan {
    let mut plan = FamilyPlan {
        family,
        lists: BTreeMap::new(),
        frontends: BTreeMap::new(),
        host_ports: BTreeMap::new(),
        local_endpoints: BTreeSet::from([ip(&format!("{pods}1")), ip(&format!("{pods}2"))]),
        cluster_ips: BTreeMap::new(),
        service_ranges: vec![
            format!(
                "{services}0/{}",
                if family == Family::Ip { 24 } else { 112 }
            )
            .parse()
            .unwrap(),
        ],
        node_port_addresses: vec![ip(node).into()],
        // One that ends at a byte's end and one that does not: the kernel is told differently.
        pod_sources: vec![
            format!("{pods}0/{}", if family == Family::Ip { 24 } else { 64 })
                .parse()
                .unwrap(),
            match family {
                Family::Ip => "203.0.112.0/20".parse().unwrap(),
                Family::Ip6 => "2001:db8:4000::/34".parse().unwrap(),
            },
        ],
        egress_sources: vec![
            format!("{pods}0/{}", if family == Family::Ip { 24 } else { 64 })
                .parse()
                .unwrap(),
        ],
        non_masquerade: vec![
            format!(
                "{services}0/{}",
                if family == Family::Ip { 24 } else { 112 }
            )
            .parse()
            .unwrap(),
        ],
    };
    let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    for (n, (name, endpoints)) in [
        ("one", 1),
        ("three", 3),
        ("many", 40),
        ("hashed", 5),
        ("sticky", 4),
    ]
    .into_iter()
    .enumerate()
    {
        let owner = Arc::new(service_port(name, protocols[n % 3]));
        let key = ListKey {
            port: owner.clone(),
            view: View::Cluster,
        };
        let mut endpoints = list(pods, endpoints, name);
        if name == "hashed" {
            endpoints.balancing = Balancing::SourceIp;
        }
        if name == "sticky" {
            endpoints.affinity_timeout = Some(600);
            let local = ListKey {
                port: owner.clone(),
                view: View::Local,
            };
            let mut some = endpoints.clone();
            let fewer = some.endpoints.len() - 1;
            let rest = some.endpoints.iter().take(fewer);
            some.endpoints = rest.map(|(e, weight)| (*e, *weight)).collect();
            plan.lists.insert(local, some);
        }
        plan.lists.insert(key.clone(), endpoints);
        let cluster_ip = ip(&format!("{services}{}", n + 10));
        plan.cluster_ips
            .insert(cluster_ip, format!("default/{name}").into());
        let frontend = |kind, target| Frontend {
            kind,
            target,
            owner: owner.clone(),
            source_ranges: None,
            comment: format!("default/{name}:http").into(),
        };
        let at = |addr| FrontendKey::Address(addr, owner.protocol, port(80));
        plan.frontends.insert(
            at(cluster_ip),
            frontend(FrontendKind::ClusterIp, Target::List(key.clone())),
        );
        let target = if name == "sticky" {
            Target::Split {
                outside: Some(ListKey {
                    port: owner.clone(),
                    view: View::Local,
                }),
                inside: Some(key.clone()),
            }
        } else {
            Target::Split {
                outside: None,
                inside: Some(key.clone()),
            }
        };
        let node_port =
            FrontendKey::NodePort(owner.protocol, port(30_000 + u16::try_from(n).unwrap()));
        plan.frontends
            .insert(node_port, frontend(FrontendKind::NodePort, target));
        let mut guarded = frontend(FrontendKind::LoadBalancer, Target::List(key));
        guarded.source_ranges = Some(vec![
            format!("{pods}0/{}", if family == Family::Ip { 28 } else { 120 })
                .parse()
                .unwrap(),
            ip(&format!("{services}77")).into(),
        ]);
        plan.frontends
            .insert(at(ip(&format!("{services}{}", n + 50))), guarded);
        plan.frontends.insert(
            at(ip(&format!("{services}{}", n + 70))),
            frontend(FrontendKind::ClusterIp, Target::Reject),
        );
        plan.frontends.insert(
            at(ip(&format!("{services}{}", n + 90))),
            frontend(FrontendKind::ClusterIp, Target::Drop),
        );
    }
    for addr in [None, Some(ip(node))] {
        let key = HostPortKey {
            addr,
            protocol: Protocol::Tcp,
            port: port(80),
        };
        let endpoint = Endpoint {
            addr: ip(&format!("{pods}1")),
            port: port(80),
        };
        let owner = ObjectName::new("default", "frontend-1");
        plan.host_ports.insert(
            key,
            HostPort {
                endpoint,
                owner,
                comment: "default/frontend-1".into(),
            },
        );
    }
    plan
}

/// Compares with the golden, or rewrites it if asked to.
pub fn golden(path: &std::path::Path, actual: &str) {
    if std::env::var_os("SVCNAT_UPDATE_GOLDENS").is_some() {
        std::fs::write(path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(
        actual,
        expected,
        "{}: see scripts/update-goldens",
        path.display()
    );
}
