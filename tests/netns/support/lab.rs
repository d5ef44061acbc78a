//! A small cluster in network namespaces: nodes with pods, a physical network, a router and
//! an outside client, dual stack, all of it gone when dropped.
//!
//! ```text
//!   a0 a1            b0 b1                          out
//!    \ /              \ /            203.0.113.10 ---+
//!   bridge           bridge                          |
//!   node a           node b                        router
//!     +--- 192.168.50.1 ---- 192.168.50.2 -- .254 ---+
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use ipnet::IpNet;
use svcnat::cluster::{Family, Protocol};
use svcnat::lab::{Cable, Kind, Namespaces, Network, Place, Route, Servers, Serves, make};

use super::addr::{self, Dual, ip_of, node_ip, node_name, outside_ip, pod_net, router_ip};
use super::agree::{Opinion, Question};
use super::client::Caller;
use super::netns::Netns;

/// Every pod answers on these, over TCP, UDP and SCTP.
pub const POD_PORTS: [u16; 2] = [8080, 9090];
/// The nodes themselves answer on this one, at their own address.
pub const NODE_PORT: u16 = 7070;
/// The outside host answers on this one.
pub const OUTSIDE_PORT: u16 = 8053;

/// How pods hang on their node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodLink {
    /// On a bridge `docker0` that holds the gateway address, hairpin allowed.
    Bridge,
    /// Each on its own veth `vethN` with a host route.
    Routed,
}

/// What a lab is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Number of pods of each node.
    pub pods: Vec<u8>,
    /// How they hang on it.
    pub link: PodLink,
    /// Install the routes between the nodes' pod CIDRs, as somebody other than svcnat would.
    pub routes: bool,
    /// Forward packets, and show bridged ones to the IP hooks.
    pub forward: bool,
    /// `--cluster-cidr` of every node; empty for none.
    pub cluster_cidr: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            pods: vec![2, 2],
            link: PodLink::Bridge,
            routes: false,
            forward: true,
            cluster_cidr: addr::CLUSTER_CIDR,
        }
    }
}

/// A running lab.
#[derive(Debug)]
pub struct Lab {
    /// What it was made from.
    pub plan: Plan,
    /// Arguments that every `svcnat` of this lab gets besides the usual ones.
    pub args: Vec<String>,
    /// What each node last applied: arguments and objects.
    pub applied: Mutex<BTreeMap<String, (Vec<String>, String)>>,
    /// What the walker said since then.
    pub opinions: Mutex<BTreeMap<Question, Option<Opinion>>>,
    places: BTreeMap<String, Netns>,
    servers: Servers,
}

impl Lab {
    /// The usual one: nodes `a` and `b` with two pods each, on bridges.
    pub fn start() -> Self {
        Self::from_plan(Plan::default())
    }

    /// A lab to order.
    pub fn from_plan(plan: Plan) -> Self {
        let mut lab = Self {
            plan,
            args: Vec::new(),
            applied: Mutex::default(),
            opinions: Mutex::default(),
            places: BTreeMap::new(),
            servers: Servers::start().expect("start the servers"),
        };
        let network = lab.network();
        let mut made = Namespaces::new();
        make(&network, &mut made).expect("make the lab (run as root)");
        for (name, namespace) in &made {
            let netns = Netns::of(name, namespace);
            if lab.plan.forward && name.len() == 1 {
                netns.sysctl("bridge/bridge-nf-call-iptables", "1");
                netns.sysctl("bridge/bridge-nf-call-ip6tables", "1");
            }
            let answers: Vec<Serves> = network.places[name].answers.iter().cloned().collect();
            let served = lab.servers.serve(name, name, namespace, &answers);
            served.expect("answer");
            lab.places.insert(name.clone(), netns);
        }
        lab
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        (0..self.plan.pods.len()).map(node_name).collect()
    }

    /// The namespace of a place: `a` a node, `a0` a pod on it, `out`, `router`.
    pub fn at(&self, place: &str) -> &Netns {
        self.places
            .get(place)
            .unwrap_or_else(|| panic!("the lab has no {place}"))
    }

    /// Who has this address.
    pub fn owner(&self, addr: IpAddr) -> Option<String> {
        let mut names = self.places.keys();
        names
            .find(|name| *name != "router" && ip_of(name).both().contains(&addr))
            .cloned()
    }

    /// Someone in a place, about to ask.
    pub fn from(&self, place: &str) -> Caller<'_> {
        Caller::new(self, place)
    }

    /// Addresses that a packet may carry once a node masqueraded it.
    pub fn masquerade_addresses(node: &str) -> Vec<IpAddr> {
        let (number, _) = addr::split(node);
        let mut all = node_ip(number).both().to_vec();
        all.extend(pod_net(number, 1).both());
        all
    }

    /// Answers on one more address, with the address as its name.
    pub fn serve(&mut self, place: &str, protocol: Protocol, to: SocketAddr) {
        let netns = self.at(place).clone();
        let name = to.to_string();
        let answer = Serves {
            addr: Some(to.ip()),
            name: Some(name),
            ..Serves::at(protocol, to.port())
        };
        self.servers
            .serve(place, place, netns.namespace(), &[answer])
            .expect("answer");
    }

    /// Closes all servers of a place, and the connections they hold.
    pub fn stop(&mut self, name: &str) {
        self.servers.stop(name, None);
    }

    /// All of it, before it is made.
    fn network(&self) -> Network {
        let mut network = Network::default();
        network.places.insert("router".to_owned(), self.router());
        let mut out = Place::new(Kind::Client, "out", ip_of("out").both().to_vec());
        // The first is preferred: `out` itself.
        let addrs = (10..14).flat_map(|host| within(outside_ip(host), (24, 64)));
        out.interfaces.insert("eth0".to_owned(), addrs.collect());
        out.routes = defaults(outside_ip(1));
        out.answers = answers(&[OUTSIDE_PORT], &out.addresses);
        network.places.insert("out".to_owned(), out);
        network
            .cables
            .push(cable("out", "router", Some("outside"), "to-out".to_owned()));
        for (number, pods) in self.plan.pods.iter().enumerate() {
            let name = node_name(number);
            let port = format!("to-{name}");
            network.places.insert(name.clone(), self.node(number));
            network
                .cables
                .push(cable(&name, "router", Some("phys0"), port));
            for pod in 0..*pods {
                let name = format!("{name}{pod}");
                network
                    .places
                    .insert(name.clone(), self.pod(&name, number, pod));
                let bridge = (self.plan.link == PodLink::Bridge).then_some("docker0");
                let cable = cable(&name, &node_name(number), bridge, format!("veth{pod}"));
                network.cables.push(cable);
            }
        }
        network
    }

    /// The router: a switch for the nodes, a link to the outside, and the way to service
    /// addresses, which the routers of a real network would be told to send to a node.
    fn router(&self) -> Place {
        let mut router = Place::new(Kind::Router, "router", router_ip().both().to_vec());
        let bridges = [("phys0", router_ip()), ("outside", outside_ip(1))];
        router.bridges = bridges
            .map(|(name, ip)| (name.to_owned(), within(ip, (24, 64)).to_vec()))
            .into();
        router.forwards = true;
        if !self.plan.pods.is_empty() {
            let routed = [
                "10.254.0.0/16",
                "198.51.100.0/24",
                "fd00:254::/112",
                "2001:db8:100::/64",
            ];
            router.routes = routed.iter().map(|to| to_net(to, node_ip(0))).collect();
        }
        router
    }

    fn node(&self, number: usize) -> Place {
        let mut node = Place::new(
            Kind::Node,
            &node_name(number),
            node_ip(number).both().to_vec(),
        );
        node.interfaces.insert(
            "eth0".to_owned(),
            within(node_ip(number), (24, 64)).to_vec(),
        );
        node.routes = defaults(router_ip());
        node.answers = answers(&[NODE_PORT], &node.addresses);
        node.forwards = self.plan.forward;
        let gateway = pod_net(number, 1);
        match self.plan.link {
            PodLink::Bridge => {
                let addrs = within(gateway, (24, 64)).to_vec();
                node.bridges.insert("docker0".to_owned(), addrs);
            }
            PodLink::Routed => {
                for pod in 0..self.plan.pods[number] {
                    let device = format!("veth{pod}");
                    let pod = pod_net(number, pod + 2).both();
                    node.routes
                        .extend(pod.map(|addr| Route::at(addr.into(), &device)));
                    node.interfaces
                        .insert(device, within(gateway, (32, 128)).to_vec());
                }
            }
        }
        if self.plan.routes {
            for other in (0..self.plan.pods.len()).filter(|other| *other != number) {
                let cidrs = addr::pod_cidrs(other);
                node.routes
                    .extend(cidrs.iter().map(|to| to_net(to, node_ip(other))));
            }
        }
        node
    }

    fn pod(&self, name: &str, node: usize, pod: u8) -> Place {
        let own = pod_net(node, pod + 2);
        let gateway = pod_net(node, 1);
        let mut place = Place::new(Kind::Pod, name, own.both().to_vec());
        place.routes = defaults(gateway);
        let prefix = match self.plan.link {
            PodLink::Bridge => (24, 64),
            PodLink::Routed => {
                let neighbours = gateway.both().map(|addr| Route::at(addr.into(), "eth0"));
                place.routes.extend(neighbours);
                (32, 128)
            }
        };
        place
            .interfaces
            .insert("eth0".to_owned(), within(own, prefix).to_vec());
        // Any address: some tests give pods more of them.
        for port in POD_PORTS {
            let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            place
                .answers
                .extend(all.map(|protocol| Serves::at(protocol, port)));
        }
        place
    }
}

/// A server on each of these ports, at these addresses only.
fn answers(ports: &[u16], addrs: &[IpAddr]) -> BTreeSet<Serves> {
    let mut all = BTreeSet::new();
    for (port, addr) in ports
        .iter()
        .flat_map(|port| addrs.iter().map(move |addr| (*port, *addr)))
    {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            all.insert(Serves {
                addr: Some(addr),
                ..Serves::at(protocol, port)
            });
        }
    }
    all
}

/// The link of a place's `eth0`.
fn cable(place: &str, to: &str, bridge: Option<&str>, port: String) -> Cable {
    Cable {
        place: place.to_owned(),
        device: "eth0".to_owned(),
        to: to.to_owned(),
        bridge: bridge.map(str::to_owned),
        port,
        hairpin: bridge == Some("docker0"),
        mtu: None,
        up: true,
    }
}

/// Both addresses, with the lengths of their prefixes.
fn within(addr: Dual, (len4, len6): (u8, u8)) -> [IpNet; 2] {
    let net = |addr, length| IpNet::new(addr, length).expect("a prefix");
    [net(addr.v4.into(), len4), net(addr.v6.into(), len6)]
}

/// A route by the next hop of its family.
fn to_net(to: &str, via: Dual) -> Route {
    let to: IpNet = to.parse().expect("a prefix");
    Route::via(to, via.of(Family::of(&to.addr())))
}

fn defaults(via: Dual) -> BTreeSet<Route> {
    ["0.0.0.0/0", "::/0"]
        .iter()
        .map(|to| to_net(to, via))
        .collect()
}
