//! The lab's address plan: every place has an IPv4 and an IPv6 address made from the same
//! number, so that one row of a test stands for both families.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use svcnat::cluster::Family;

/// `--service-cluster-ip-range` of the lab.
pub const SERVICE_RANGE: &str = "10.254.0.0/16,fd00:254::/112";
/// `--cluster-cidr` of the lab.
pub const CLUSTER_CIDR: &str = "172.17.0.0/16,fd00:17::/48";

/// An address in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dual {
    /// The IPv4 one.
    pub v4: Ipv4Addr,
    /// The IPv6 one.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// The one of this family.
    pub fn of(self, family: Family) -> IpAddr {
        match family {
            Family::Ip => self.v4.into(),
            Family::Ip6 => self.v6.into(),
        }
    }

    /// Both, IPv4 first.
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Is it one of the two?
    pub fn has(self, addr: IpAddr) -> bool {
        self.both().contains(&addr)
    }
}

impl fmt::Display for Dual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} / {}", self.v4, self.v6)
    }
}

/// A clusterIP, `n` from 1.
pub fn cluster_ip(n: u16) -> Dual {
    let [high, low] = n.to_be_bytes();
    Dual {
        v4: Ipv4Addr::new(10, 254, high, low),
        v6: Ipv6Addr::new(0xfd00, 0x254, 0, 0, 0, 0, 0, n),
    }
}

/// An address that is routed to node `a` but is nobody's: for load balancers and external
/// IPs, `n` from 1.
pub fn routed_ip(n: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(198, 51, 100, n),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, n.into()),
    }
}

/// A node's address on the physical network: node 0 is `a`.
pub fn node_ip(node: usize) -> Dual {
    let n = u8::try_from(node + 1).expect("a small lab");
    Dual {
        v4: Ipv4Addr::new(192, 168, 50, n),
        v6: Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, n.into()),
    }
}

/// The router's address on the physical network.
pub fn router_ip() -> Dual {
    node_ip(253)
}

/// Address `host` in a node's pod CIDRs: 1 is the bridge, pods follow.
pub fn pod_net(node: usize, host: u8) -> Dual {
    let n = u8::try_from(node).expect("a small lab");
    Dual {
        v4: Ipv4Addr::new(172, 17, n, host),
        v6: Ipv6Addr::new(0xfd00, 0x17, 0, n.into(), 0, 0, 0, host.into()),
    }
}

/// A node's pod CIDRs.
pub fn pod_cidrs(node: usize) -> [String; 2] {
    let net = pod_net(node, 0);
    [format!("{}/24", net.v4), format!("{}/64", net.v6)]
}

/// An address beyond the router: 1 is the router's own, 10 and up are clients.
pub fn outside_ip(host: u8) -> Dual {
    Dual {
        v4: Ipv4Addr::new(203, 0, 113, host),
        v6: Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host.into()),
    }
}

/// The address of a place by its name: `a` is a node, `a0` the first pod on it, `out` the
/// client beyond the router.
pub fn ip_of(place: &str) -> Dual {
    match place {
        "out" => outside_ip(10),
        "router" => router_ip(),
        _ => {
            let (node, pod) = split(place);
            pod.map_or_else(|| node_ip(node), |pod| pod_net(node, pod + 2))
        }
    }
}

/// The node that a place is on, by name: a node is on itself, `out` is on none.
pub fn node_of(place: &str) -> Option<&str> {
    match place {
        "out" | "router" => None,
        _ => Some(&place[..1]),
    }
}

/// The name of node `n`.
pub fn node_name(n: usize) -> String {
    char::from(b'a' + u8::try_from(n).expect("a small lab")).to_string()
}

/// The numbers of the node and, if it is one, of the pod.
pub fn split(place: &str) -> (usize, Option<u8>) {
    let (node, pod) = place.split_at(1);
    let letter = node.as_bytes()[0];
    assert!(letter.is_ascii_lowercase(), "no place is called {place}");
    let pod = (!pod.is_empty()).then(|| pod.parse().expect("a pod is a letter and a number"));
    (usize::from(letter - b'a'), pod)
}
