//! Ways over a host in memory; `tests/netns/breakages.rs` breaks real ones.

use std::collections::BTreeMap;

use super::*;
use crate::config::Config;
use crate::foreign::{Base, Chain, End, Expr, Family, Hook, Op, Property, Rule, Table};
use crate::node::Node as Inputs;
use crate::walk::{Packet, walk};

const POD: &str = "172.17.0.9";
const SERVICE: &str = "10.254.0.10";

/// A host on which everything is as it should be, but for what a test breaks.
#[derive(Default)]
struct Host {
    rules: Rules,
    /// What the routing tables say of a destination, instead.
    routes: BTreeMap<String, Route>,
    settings: BTreeMap<String, String>,
    silent: Vec<String>,
    tracked: Option<(u64, u64)>,
    flows: Vec<Endpoint>,
    listener: Option<Listener>,
    down: bool,
    /// The link of the client, which is the only pod here.
    link: Option<PodLink>,
    /// What comes in is refused with this error, which this node itself is not.
    refused_from: Option<i32>,
    /// What the routing tables were asked.
    asked: Vec<RouteQuestion>,
}

impl Node for Host {
    fn is_local(&self, address: IpAddr) -> bool {
        address == IpAddr::from([192, 168, 50, 11])
    }
    fn route(&mut self, question: &RouteQuestion) -> Option<Route> {
        let to = question.destination.to_string();
        self.asked.push(question.clone());
        if let (Some(errno), Some(3)) = (self.refused_from, question.iif) {
            return Some(Route::Refused(errno));
        }
        let usual = Route::Device {
            index: if to.starts_with("172.17.0.") { 3 } else { 2 },
            via: None,
            dead: false,
        };
        Some(self.routes.get(&to).cloned().unwrap_or(usual))
    }
    fn device(&mut self, index: u32) -> (String, Option<String>) {
        let wrong = (self.down && index == 2).then(|| "is down".to_owned());
        let name = if index == 3 { "docker0" } else { "eth0" };
        (name.to_owned(), wrong)
    }
    fn is_bridge(&self, _: u32) -> bool {
        false
    }
    fn index(&self, _: &str) -> Option<u32> {
        None
    }
    fn neighbour(&mut self, _: u32, address: IpAddr) -> Neighbour {
        match self.silent.contains(&address.to_string()) {
            true => Neighbour::Silent,
            false => Neighbour::Known,
        }
    }
    fn link(&mut self, address: IpAddr) -> Option<PodLink> {
        let is_client = address.to_string() == POD;
        self.link.clone().filter(|_| is_client)
    }
    fn is_on_link(&mut self, _: IpAddr, _: IpAddr) -> bool {
        false
    }
    fn pod(&mut self, _: IpAddr) -> Option<(String, &mut Self)> {
        None
    }
    fn setting(&self, path: &str) -> Option<String> {
        self.settings.get(path).cloned()
    }
    fn tracked(&mut self) -> Option<(u64, u64)> {
        self.tracked
    }
    fn flows(&mut self, _: IpAddr, _: (IpAddr, u16), _: Protocol) -> Vec<Endpoint> {
        self.flows.clone()
    }
    fn listens(&mut self, _: Endpoint, _: Protocol) -> Option<Listener> {
        self.listener.clone()
    }
    fn others(&self) -> Arc<Rules> {
        Arc::new(self.rules.clone())
    }
    fn element(&mut self, _: (Family, &str), _: &str, _: &[u8]) -> Found {
        Found::Unknown
    }
}

/// The client's link as it should be.
const LINK: PodLink = PodLink {
    index: 5,
    name: String::new(),
    up: true,
    master: Some(3),
    hairpin: true,
    isolated: false,
};

impl PodLink {
    fn named(self) -> Self {
        Self {
            name: "veth9".to_owned(),
            ..self
        }
    }
}

/// The way of a pod's packet to a Service with an endpoint on another node.
fn way(host: &mut Host, protocol: Protocol) -> Path {
    from(host, POD, protocol)
}

fn from(host: &mut Host, client: &str, protocol: Protocol) -> Path {
    let objects = format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"web"}},
  "spec":{{"clusterIP":"{SERVICE}","ports":[{{"name":"t","port":80}},{{"name":"u","port":80,"protocol":"UDP"}}]}}}}
---
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"web-1",
  "labels":{{"kubernetes.io/service-name":"web"}}}},"addressType":"IPv4",
  "ports":[{{"name":"t","port":8080}},{{"name":"u","port":8080,"protocol":"UDP"}}],
  "endpoints":[{{"addresses":["172.17.1.2"],"nodeName":"n2"}}]}}"#
    );
    let config = Config {
        node_name: "n1".into(),
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        ..Config::default()
    };
    let (inputs, problems) = Inputs::parse(&objects, config);
    assert!(problems.is_empty(), "{problems:?}");
    let ruleset = inputs.ruleset();
    let table = &ruleset.tables[&crate::net::Family::Ip];
    let packet = Packet {
        source: client.parse().unwrap(),
        destination: SERVICE.parse().unwrap(),
        protocol,
        port: 80,
        iif: None,
        from_node: false,
    };
    let trace = walk(table, &packet, &|address| host.is_local(address));
    let ours = Ours {
        table,
        trace: &trace,
        reason: "",
        expected: true,
        pods: &["172.17.1.0/24".parse().unwrap()],
        altered: false,
    };
    follow(host, &packet, &ours)
}

fn found(host: &mut Host) -> String {
    let path = way(host, Protocol::Udp);
    let hop = path.broken().expect("something is broken");
    format!(
        "{}: {} [{}]",
        hop.at,
        hop.found,
        hop.repair.as_deref().unwrap_or_default()
    )
}

fn with_chain(hook: Hook, priority: i32, nat: bool, rules: &[&[Expr]]) -> Host {
    let base = Base {
        hook,
        priority,
        drops: false,
        nat,
        devices: Vec::new(),
    };
    let rules = rules.iter().zip(7..).map(|(expressions, handle)| Rule {
        handle,
        expressions: expressions.to_vec(),
    });
    let chain = Chain {
        base: Some(base),
        rules: rules.collect(),
        ..Chain::default()
    };
    let mut table = Table::default();
    table.chains.insert("c".into(), chain);
    let mut host = Host::default();
    host.rules.tables.insert((Family::Inet, "t".into()), table);
    host
}

#[test]
fn a_host_without_fault_is_all_fine() {
    let path = way(&mut Host::default(), Protocol::Tcp);
    assert!(path.all().all(|hop| hop.state == State::Fine), "{path:?}");
    assert_eq!(path.legs.len(), 1);
    let mut host = with_chain(Hook::Forward, 0, false, &[&[Expr::End(End::Accept)]]);
    host.listener = Some(Listener::Yes);
    let path = way(&mut host, Protocol::Udp);
    assert!(path.all().all(|hop| hop.state == State::Fine), "{path:?}");
    let at = |at: &str| path.all().any(|hop| hop.at.to_string() == at);
    assert!(at("forward") && at("answer: forward") && at("endpoint"));
}

#[test]
fn each_breakage_is_named_with_its_owner_and_a_repair() {
    let drop: &[Expr] = &[Expr::End(End::Drop)];
    let dnat: &[Expr] = &[Expr::Dnat {
        address: None,
        port: None,
    }];
    let refused = |to: &str, errno| Host {
        routes: BTreeMap::from([(to.to_owned(), Route::Refused(errno))]),
        ..Host::default()
    };
    let setting = |path: &str| Host {
        settings: BTreeMap::from([(path.to_owned(), "0".to_owned())]),
        ..Host::default()
    };
    let cases: Vec<(Host, &str)> = vec![
        (
            with_chain(Hook::Forward, 0, false, &[drop]),
            "forward: inet t c drops it (rule with handle 7) [nft insert rule inet t c ip daddr 172.17.1.2 accept]",
        ),
        (
            with_chain(Hook::Prerouting, -300, false, &[drop]),
            "prerouting: inet t c drops it (rule with handle 7) [nft insert rule inet t c ip daddr 10.254.0.10 accept]",
        ),
        (
            with_chain(Hook::Prerouting, -200, true, &[dnat]),
            "prerouting: inet t c translates its destination first (rule with handle 7) [nft delete rule inet t c handle 7]",
        ),
        (
            with_chain(Hook::Prerouting, -300, false, &[&[Expr::Notrack]]),
            "conntrack: another program's rule says that it is not tracked",
        ),
        (
            refused("172.17.1.2", libc::ENETUNREACH),
            "route: no way to 172.17.1.2: there is no route [ip route add 172.17.1.2 via GATEWAY]",
        ),
        (
            refused(POD, libc::EACCES),
            "arrives: no answer finds its way to 172.17.0.9: the route or a rule is `prohibit`",
        ),
        (
            Host {
                routes: BTreeMap::from([(
                    "172.17.1.2".to_owned(),
                    Route::Device {
                        index: 2,
                        via: Some([192, 168, 50, 1].into()),
                        dead: false,
                    },
                )]),
                ..Host::default()
            },
            "route: 172.17.1.2 is a pod of this node by its address, and packets to it leave via 192.168.50.1 by eth0",
        ),
        (
            setting("net/ipv4/conf/docker0/forwarding"),
            "forwarding: this node does not forward what comes in by docker0 [sysctl -w net.ipv4.conf.docker0.forwarding=1]",
        ),
        (
            Host {
                silent: vec!["172.17.1.2".into()],
                ..Host::default()
            },
            "neighbour: 172.17.1.2 does not answer on eth0",
        ),
        (
            Host {
                down: true,
                ..Host::default()
            },
            "route: 172.17.1.2 on link by eth0, which is down [ip link set eth0 up]",
        ),
        (
            Host {
                link: Some(PodLink { up: false, ..LINK }.named()),
                ..Host::default()
            },
            "link: veth9, by which 172.17.0.9 is reached, is down [ip link set veth9 up]",
        ),
        (
            Host {
                link: Some(
                    PodLink {
                        master: None,
                        ..LINK
                    }
                    .named(),
                ),
                ..Host::default()
            },
            "link: veth9, by which 172.17.0.9 is reached, is no port of docker0 [ip link set veth9 master docker0]",
        ),
        (
            refused("172.17.1.2", libc::EINVAL),
            "route: no way to 172.17.1.2: the route or a rule is `blackhole`",
        ),
        (
            Host {
                tracked: Some((512, 512)),
                ..Host::default()
            },
            "conntrack: the table is full: 512 of 512",
        ),
        (
            Host {
                flows: vec![Endpoint {
                    addr: [172, 17, 1, 9].into(),
                    port: 8080.try_into().unwrap(),
                }],
                ..Host::default()
            },
            "conntrack: a flow of this client is tracked that goes to 172.17.1.9:8080",
        ),
        (
            Host {
                listener: Some(Listener::No),
                ..Host::default()
            },
            "endpoint: nobody listens at 8080/UDP of 172.17.1.2",
        ),
        (
            Host {
                listener: Some(Listener::Elsewhere([127, 0, 0, 1].into())),
                ..Host::default()
            },
            "endpoint: whoever listens at 8080/UDP does so at 127.0.0.1 only",
        ),
    ];
    for (mut host, expected) in cases {
        let found = found(&mut host);
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
}

#[test]
fn what_cannot_be_told_is_neither_fine_nor_broken() {
    let limit: &[Expr] = &[Expr::Condition("limit".into()), Expr::End(End::Drop)];
    let mut host = with_chain(Hook::Forward, 0, false, &[limit]);
    host.rules.unread = vec!["legacy iptables has a table filter".into()];
    let path = way(&mut host, Protocol::Udp);
    assert_eq!(path.broken(), None);
    let unknown = path.all().filter(|hop| hop.state == State::Unknown);
    let said: Vec<&str> = unknown.map(|hop| hop.found.as_str()).collect();
    assert!(
        said.iter().any(|said| said.contains("perhaps drops it")),
        "{said:?}"
    );
    assert!(
        said.iter().any(|said| said.contains("legacy iptables")),
        "{said:?}"
    );
}

/// A client from outside, so that our masquerade marks the packet: what is asked of the routing
/// tables, and what others' chains see of it.
#[test]
fn what_our_rules_set_is_seen_by_routes_and_chains_until_it_leaves() {
    let mark: &[Expr] = &[
        Expr::Load(Property::Meta(3), 4, 4),
        Expr::Bitwise {
            source: 4,
            destination: 4,
            mask: 0x4000_u32.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expr::Cmp(4, Op::Eq, 0x4000_u32.to_ne_bytes().to_vec()),
        Expr::End(End::Drop),
    ];
    let snat: &[Expr] = &[
        Expr::Load(Property::Ct(2), 4, 4),
        Expr::Bitwise {
            source: 4,
            destination: 4,
            mask: 0x10_u32.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expr::Cmp(4, Op::Neq, vec![0; 4]),
        Expr::End(End::Drop),
    ];
    let at = |hook, priority, rule| {
        let mut host = with_chain(hook, priority, false, &[rule]);
        let path = from(&mut host, "203.0.113.9", Protocol::Tcp);
        let with_mark =
            |q: &RouteQuestion| (q.mark, q.transport) == (0x4000, Some((Protocol::Tcp, 0, 8080)));
        assert!(host.asked.iter().any(with_mark), "{:?}", host.asked);
        path.broken().map(|hop| hop.at.to_string())
    };
    assert_eq!(at(Hook::Forward, 0, mark).as_deref(), Some("forward"));
    assert_eq!(
        at(Hook::Postrouting, 0, mark).as_deref(),
        Some("postrouting")
    );
    assert_eq!(at(Hook::Postrouting, 150, mark), None);
    assert_eq!(
        at(Hook::Forward, 0, snat).as_deref(),
        Some("answer: forward")
    );
    assert_eq!(at(Hook::Prerouting, 0, mark).as_deref(), Some("prerouting"));
}

#[test]
fn who_is_refused_for_its_source_is_not_told_of_rp_filter_unless_it_is_that() {
    for (errno, says) in [
        (libc::EXDEV, "rp_filter"),
        (
            libc::EINVAL,
            "what comes from 172.17.0.9 by docker0 has no way to 172.17.1.2",
        ),
    ] {
        let mut host = Host {
            refused_from: Some(errno),
            ..Host::default()
        };
        let said = found(&mut host);
        assert!(said.starts_with("route: ") && said.contains(says), "{said}");
        assert_eq!(said.contains("rp_filter"), errno == libc::EXDEV, "{said}");
    }
}
