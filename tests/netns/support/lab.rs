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

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Mutex;

use svcnat::cluster::Protocol;

use super::addr::{self, Dual, ip_of, node_ip, node_name, outside_ip, pod_net, router_ip};
use super::agree::{Opinion, Question};
use super::client::Caller;
use super::netns::Netns;
use super::responder::Responder;

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
    responder: Responder,
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
            responder: Responder::start(),
        };
        for name in ["router", "out"] {
            lab.places.insert(name.to_owned(), Netns::new(name));
        }
        for place in lab.nodes().into_iter().chain(lab.pods()) {
            lab.places.insert(place.clone(), Netns::new(&place));
        }
        lab.wire_router();
        for (node, pods) in lab.plan.pods.clone().into_iter().enumerate() {
            lab.wire_node(node, pods);
        }
        lab.serve_all();
        lab
    }

    /// Names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        (0..self.plan.pods.len()).map(node_name).collect()
    }

    /// Names of the pods.
    pub fn pods(&self) -> Vec<String> {
        let nodes = self.plan.pods.iter().enumerate();
        nodes
            .flat_map(|(node, pods)| (0..*pods).map(move |pod| format!("{}{pod}", node_name(node))))
            .collect()
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
        self.responder.serve(&netns, &name, protocol, to);
    }

    /// Closes all servers of a place, and the connections they hold.
    pub fn stop(&mut self, name: &str) {
        self.responder.stop(name);
    }

    fn serve_all(&mut self) {
        for (name, netns) in &self.places {
            let (ports, addrs): (&[u16], Vec<IpAddr>) = match name.as_str() {
                "router" => continue,
                "out" => (&[OUTSIDE_PORT], ip_of(name).both().to_vec()),
                node if node.len() == 1 => (&[NODE_PORT], ip_of(node).both().to_vec()),
                _ => (&POD_PORTS, vec![Ipv6Addr::UNSPECIFIED.into()]),
            };
            for port in ports {
                for addr in &addrs {
                    for protocol in [Protocol::Tcp, Protocol::Udp] {
                        let at = SocketAddr::new(*addr, *port);
                        self.responder.serve(netns, name, protocol, at);
                    }
                }
                for addr in ip_of(name).both() {
                    let at = SocketAddr::new(addr, *port);
                    self.responder.serve(netns, name, Protocol::Sctp, at);
                }
            }
        }
    }

    /// The router: a switch for the nodes, a link to the outside, and the way to service
    /// addresses, which the routers of a real network would be told to send to a node.
    fn wire_router(&self) {
        let (router, out) = (self.at("router"), self.at("out"));
        let mut batch = String::from("link set lo up\nlink add phys0 type bridge\n");
        for node in self.nodes() {
            let path = self.at(&node).path();
            line(
                &mut batch,
                format_args!("link add name to-{node} type veth peer name eth0 netns {path}"),
            );
            line(
                &mut batch,
                format_args!("link set dev to-{node} master phys0 up"),
            );
        }
        line(
            &mut batch,
            format_args!(
                "link add name to-out type veth peer name eth0 netns {}",
                out.path()
            ),
        );
        address(&mut batch, "phys0", router_ip(), (24, 64));
        address(&mut batch, "to-out", outside_ip(1), (24, 64));
        batch.push_str("link set phys0 up\nlink set to-out up\n");
        router.ip(&batch);
        router.sysctl("bridge/bridge-nf-call-iptables", "0");
        router.sysctl("bridge/bridge-nf-call-ip6tables", "0");
        forward(router);
        let mut batch = String::from("link set lo up\n");
        // The kernel prefers the first IPv4 and the last IPv6 address: `out` itself.
        address(&mut batch, "eth0", outside_ip(10), (24, 64));
        for host in 11..14 {
            let addr = outside_ip(host);
            line(&mut batch, format_args!("addr add {}/24 dev eth0", addr.v4));
            line(
                &mut batch,
                format_args!("addr add {}/64 dev eth0 nodad preferred_lft 0", addr.v6),
            );
        }
        batch.push_str("link set eth0 up\n");
        route(&mut batch, "default", "default", outside_ip(1));
        out.ip(&batch);
    }

    fn wire_node(&self, number: usize, pods: u8) {
        let netns = self.at(&node_name(number));
        let gateway = pod_net(number, 1);
        let mut batch = String::from("link set lo up\nlink set eth0 up\n");
        address(&mut batch, "eth0", node_ip(number), (24, 64));
        route(&mut batch, "default", "default", router_ip());
        if self.plan.link == PodLink::Bridge {
            batch.push_str("link add docker0 type bridge\nlink set docker0 up\n");
            address(&mut batch, "docker0", gateway, (24, 64));
        }
        if self.plan.routes {
            for other in (0..self.plan.pods.len()).filter(|other| *other != number) {
                let [v4, v6] = addr::pod_cidrs(other);
                route(&mut batch, &v4, &v6, node_ip(other));
            }
        }
        for pod in 0..pods {
            self.wire_pod(&mut batch, number, pod);
        }
        netns.ip(&batch);
        if self.plan.forward {
            forward(netns);
        } else {
            netns.sysctl("bridge/bridge-nf-call-iptables", "0");
            netns.sysctl("bridge/bridge-nf-call-ip6tables", "0");
        }
        for pod in 0..pods {
            self.wire_inside_pod(number, pod);
        }
        if number == 0 {
            self.route_services_to(node_ip(number));
        }
    }

    /// The node's side of a pod's link.
    fn wire_pod(&self, batch: &mut String, node: usize, pod: u8) {
        let path = self.at(&format!("{}{pod}", node_name(node))).path();
        let link = format!("veth{pod}");
        line(
            batch,
            format_args!("link add {link} type veth peer name eth0 netns {path}"),
        );
        match self.plan.link {
            PodLink::Bridge => {
                line(batch, format_args!("link set {link} master docker0 up"));
                line(
                    batch,
                    format_args!("link set {link} type bridge_slave hairpin on"),
                );
            }
            PodLink::Routed => {
                line(batch, format_args!("link set {link} up"));
                address(batch, &link, pod_net(node, 1), (32, 128));
                let pod = pod_net(node, pod + 2);
                line(batch, format_args!("route add {}/32 dev {link}", pod.v4));
                line(batch, format_args!("route add {}/128 dev {link}", pod.v6));
            }
        }
    }

    fn wire_inside_pod(&self, node: usize, pod: u8) {
        let gateway = pod_net(node, 1);
        let mut batch = String::from("link set lo up\nlink set eth0 up\n");
        let prefix = match self.plan.link {
            PodLink::Bridge => (24, 64),
            PodLink::Routed => (32, 128),
        };
        address(&mut batch, "eth0", pod_net(node, pod + 2), prefix);
        if self.plan.link == PodLink::Routed {
            line(
                &mut batch,
                format_args!("route add {}/32 dev eth0", gateway.v4),
            );
            line(
                &mut batch,
                format_args!("route add {}/128 dev eth0", gateway.v6),
            );
        }
        route(&mut batch, "default", "default", gateway);
        self.at(&format!("{}{pod}", node_name(node))).ip(&batch);
    }

    fn route_services_to(&self, node: Dual) {
        let mut batch = String::new();
        route(&mut batch, "10.254.0.0/16", "fd00:254::/112", node);
        route(&mut batch, "198.51.100.0/24", "2001:db8:100::/64", node);
        self.at("router").ip(&batch);
    }
}

fn forward(netns: &Netns) {
    netns.sysctl("ipv4/ip_forward", "1");
    netns.sysctl("ipv6/conf/all/forwarding", "1");
}

fn line(batch: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(batch, "{text}").expect("a string takes it");
}

fn address(batch: &mut String, link: &str, addr: Dual, (len4, len6): (u8, u8)) {
    line(
        batch,
        format_args!("addr add {}/{len4} dev {link}", addr.v4),
    );
    line(
        batch,
        format_args!("addr add {}/{len6} dev {link} nodad", addr.v6),
    );
}

fn route(batch: &mut String, to4: &str, to6: &str, via: Dual) {
    line(batch, format_args!("route add {to4} via {}", via.v4));
    line(batch, format_args!("route add {to6} via {}", via.v6));
}
