//! The network that the folders of `rulesets/` are about (`rulesets/README.md` has its plan),
//! with as many hosts as their packets need: the node that svcnat runs on in the middle, and
//! every other host a neighbour of it that sends everything its way.
//!
//! ```text
//!   172.17.0.2  172.17.0.9 ...      172.17.1.2 ... 203.0.113.9  10.254.0.10 ...
//!        \       /                       |             |            |
//!         docker0 --- node1 ---------- eth0 ------ a switch --------+
//! ```
//!
//! Whoever has an address answers at it, service addresses included: what svcnat refuses,
//! drops or leads elsewhere is answered by its owner before svcnat is there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use svcnat::cluster::Protocol;

use super::netns::Netns;
use svcnat::lab::{Outcome, Servers, Serves, Source, ask};

/// The name of the node in every configuration.
pub const NODE: &str = "node1";
/// Its addresses: on `eth0`, and on the bridge of its pods.
const NODE_ADDRS: [&str; 4] = ["192.168.50.11", "fd00:50::11", "172.17.0.1", "fd00:17::1"];
/// Of the other node.
const OTHER_NODE: [&str; 2] = ["192.168.50.12", "fd00:50::12"];
/// Where this node's pods are, and where those of all nodes are.
const HERE: [&str; 2] = ["172.17.0.0/24", "fd00:17::/64"];
const PODS: [&str; 2] = ["172.17.0.0/16", "fd00:17::/48"];

/// Neighbours must not hear of a shorter way than through the node.
const NO_REDIRECTS: [(&str, &str); 6] = [
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
];

/// On whom an address is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Node,
    /// A pod of the node, in a namespace of its own.
    Pod(IpAddr),
    /// The other node and its pods.
    OtherNode,
    /// Anybody else, also in a namespace of his own.
    Host(IpAddr),
}

impl Place {
    fn of(addr: IpAddr) -> Self {
        let among = |list: &[&str]| list.iter().any(|one| one.parse() == Ok(addr));
        let within = |list: &[&str]| {
            let mut nets = list.iter().map(|net| net.parse::<IpNet>());
            nets.any(|net| net.is_ok_and(|net| net.contains(&addr)))
        };
        if among(&NODE_ADDRS) {
            Self::Node
        } else if within(&HERE) {
            Self::Pod(addr)
        } else if within(&PODS) || among(&OTHER_NODE) {
            Self::OtherNode
        } else {
            Self::Host(addr)
        }
    }
}

/// The network, up and answering.
#[derive(Debug)]
pub struct Stage {
    places: BTreeMap<Place, Netns>,
    // Dropped with it.
    _switch: Netns,
    _servers: Servers,
}

impl Stage {
    /// With a host for each of these addresses, and a server at each of these sockets.
    pub fn new(
        addrs: impl IntoIterator<Item = IpAddr>,
        servers: &BTreeSet<(SocketAddr, Protocol)>,
    ) -> Self {
        let mut here: BTreeMap<Place, BTreeSet<IpAddr>> = BTreeMap::new();
        let given = servers.iter().map(|(at, _)| at.ip()).chain(addrs);
        let nodes = NODE_ADDRS.iter().chain(&OTHER_NODE);
        for addr in nodes.map(|a| a.parse().expect("an address")).chain(given) {
            here.entry(Place::of(addr)).or_default().insert(addr);
        }
        let switch = Netns::new("switch");
        let mut places = BTreeMap::new();
        for place in here.keys() {
            let label = match place {
                Place::Node => NODE.to_owned(),
                Place::OtherNode => "node2".to_owned(),
                Place::Pod(addr) | Place::Host(addr) => addr.to_string(),
            };
            let netns = Netns::new(&label);
            for (name, value) in NO_REDIRECTS {
                netns.sysctl(name, value);
            }
            places.insert(place.clone(), netns);
        }
        let mut answering = Servers::start().expect("start the servers");
        wire_switch(&switch, &places);
        wire_node(&places, &here);
        for (place, netns) in &places {
            if *place != Place::Node {
                wire_neighbour(place, netns, &here[place]);
            }
        }
        for (at, protocol) in servers {
            let netns = &places[&Place::of(at.ip())];
            let name = at.ip().to_string();
            let answer = Serves {
                addr: Some(at.ip()),
                ..Serves::at(*protocol, at.port())
            };
            answering
                .serve(&name, &name, netns.namespace(), &[answer])
                .expect("answer");
        }
        Self {
            places,
            _switch: switch,
            _servers: answering,
        }
    }

    /// The namespace of the node that svcnat runs on.
    pub fn node(&self) -> &Netns {
        &self.places[&Place::Node]
    }

    /// The namespace that has this address.
    pub fn at(&self, addr: IpAddr) -> &Netns {
        &self.places[&Place::of(addr)]
    }

    /// Does the node that svcnat runs on have this address?
    pub fn is_nodes(addr: IpAddr) -> bool {
        Place::of(addr) == Place::Node
    }

    /// Asks from an address `count` times, each over a connection of its own, or until there
    /// is no answer.
    pub fn ask(
        &self,
        from: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        patience: Duration,
        count: usize,
    ) -> Vec<Outcome> {
        let origin = Source {
            addr: Some(from),
            port: 0,
        };
        self.places[&Place::of(from)].enter(|| {
            let mut outcomes = Vec::new();
            while outcomes.len() < count
                && outcomes
                    .last()
                    .is_none_or(|o| matches!(o, Outcome::Answer(_)))
            {
                outcomes.push(ask(origin, protocol, to, patience));
            }
            outcomes
        })
    }
}

fn wire_switch(switch: &Netns, places: &BTreeMap<Place, Netns>) {
    let mut batch = String::from("link add switch type bridge\nlink set switch up\n");
    let others = places.iter().filter(|(p, _)| !matches!(p, Place::Pod(_)));
    for (n, (_, netns)) in others.enumerate() {
        let path = netns.path();
        line(
            &mut batch,
            format_args!("link add port{n} type veth peer name eth0 netns {path}"),
        );
        line(
            &mut batch,
            format_args!("link set port{n} master switch up"),
        );
    }
    switch.ip(&batch);
    switch.sysctl("bridge/bridge-nf-call-iptables", "0");
    switch.sysctl("bridge/bridge-nf-call-ip6tables", "0");
}

/// The node has a route to every neighbour, so that it leads there whatever svcnat lets pass.
fn wire_node(places: &BTreeMap<Place, Netns>, here: &BTreeMap<Place, BTreeSet<IpAddr>>) {
    let node = &places[&Place::Node];
    let mut batch = String::from(
        "link set lo up\nlink set eth0 up\nlink add docker0 type bridge\nlink set docker0 up\n\
         addr add 192.168.50.11/24 dev eth0\naddr add fd00:50::11/64 dev eth0 nodad\n\
         addr add 172.17.0.1/24 dev docker0\naddr add fd00:17::1/64 dev docker0 nodad\n",
    );
    for (n, (place, netns)) in places.iter().enumerate() {
        let path = netns.path();
        match place {
            Place::Node => {}
            Place::Pod(_) => {
                line(
                    &mut batch,
                    format_args!("link add pod{n} type veth peer name eth0 netns {path}"),
                );
                line(
                    &mut batch,
                    format_args!("link set pod{n} master docker0 up"),
                );
                line(
                    &mut batch,
                    format_args!("link set pod{n} type bridge_slave hairpin on"),
                );
            }
            Place::OtherNode => {
                for addr in &here[place] {
                    let via = OTHER_NODE[usize::from(addr.is_ipv6())];
                    if !OTHER_NODE.contains(&addr.to_string().as_str()) {
                        line(&mut batch, format_args!("route add {addr} via {via}"));
                    }
                }
            }
            Place::Host(addr) => line(&mut batch, format_args!("route add {addr} dev eth0")),
        }
    }
    node.ip(&batch);
    node.sysctl("ipv4/ip_forward", "1");
    node.sysctl("ipv6/conf/all/forwarding", "1");
}

/// Everything that is not its own goes to the node.
fn wire_neighbour(place: &Place, netns: &Netns, addrs: &BTreeSet<IpAddr>) {
    let mut batch = String::from("link set lo up\nlink set eth0 up\n");
    for addr in addrs {
        let (length, nodad) = if addr.is_ipv4() {
            (32, "")
        } else {
            (128, " nodad")
        };
        line(
            &mut batch,
            format_args!("addr add {addr}/{length} dev eth0{nodad}"),
        );
    }
    let gateways = match place {
        Place::Pod(_) => &NODE_ADDRS[2..],
        _ => &NODE_ADDRS[..2],
    };
    for gateway in gateways {
        let gateway: IpAddr = gateway.parse().expect("an address");
        if addrs.iter().any(|addr| addr.is_ipv4() == gateway.is_ipv4()) {
            line(&mut batch, format_args!("route add {gateway} dev eth0"));
            let all = if gateway.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            line(
                &mut batch,
                format_args!("route add {all} via {gateway} dev eth0"),
            );
        }
    }
    netns.ip(&batch);
}

fn line(batch: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(batch, "{text}").expect("a string takes it");
}
