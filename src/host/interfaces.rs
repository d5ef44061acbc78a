//! This node's interfaces and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::error::HostError;
use super::routes;
use crate::cluster::Family;
use crate::netlink::exchange::Exchange;
use crate::netlink::link::{self, Link};
use crate::netlink::socket::Bus;

/// What an interface is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `lo`.
    Loopback,
    /// A device without IFLA_LINKINFO kind: a network card, or the host's side of one.
    Physical,
    /// A bridge.
    Bridge,
    /// One end of a pair, the other commonly in a pod.
    Veth,
    /// Any other virtual device: tunnel, dummy, VLAN, bond, …
    Virtual,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "loopback interface",
            Self::Physical => "physical interface",
            Self::Bridge => "bridge",
            Self::Veth => "veth interface",
            Self::Virtual => "virtual interface",
        })
    }
}

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Kind.
    pub kind: Kind,
    /// Administratively up.
    pub up: bool,
    /// Bytes of the largest packet.
    pub mtu: u32,
    /// Index of the bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
    /// Index of the other end of a veth pair, in whichever namespace that is.
    pub peer: Option<u32>,
    /// This namespace's number for the one that the other end is in, if that is another.
    pub peer_namespace: Option<i32>,
    /// As a bridge's port, it sends back to where a frame came from.
    pub hairpin: bool,
    /// As a bridge's port, it exchanges no frames with others that are isolated.
    pub isolated: bool,
    /// Its link-layer address, if that is an Ethernet one.
    pub mac: Option<[u8; 6]>,
    /// Addresses with their prefix; those that are good as a source of new connections
    /// come first (secondary, temporary, tentative and deprecated ones last).
    pub addresses: Vec<IpNet>,
    /// Families whose default route (main table) leaves by it.
    pub default_route: BTreeSet<Family>,
}

impl Interface {
    /// True if `addr` is in a prefix of this interface.
    #[must_use]
    pub fn has_on_link(&self, addr: IpAddr) -> bool {
        self.up && self.addresses.iter().any(|net| net.contains(&addr))
    }
}

/// Every interface of this thread's network namespace, in order of index.
///
/// # Errors
/// If the kernel cannot be asked.
pub fn list() -> Result<Vec<Interface>, HostError> {
    let failed = HostError::of("list interfaces");
    let mut exchange = Exchange::open(Bus::Route).map_err(&failed)?;
    let links = exchange.list(&link::dump_links(), link::decode_link);
    let mut interfaces: BTreeMap<u32, Interface> = (links.map_err(failed)?.into_iter())
        .map(|link| (link.index, interface(link)))
        .collect();
    let addresses = exchange.list(&link::dump_addresses(), link::decode_address);
    let mut addresses = addresses.map_err(HostError::of("list addresses"))?;
    // A stable sort: otherwise the kernel's order, in which the oldest comes first.
    addresses.sort_by_key(|address| address.last_resort);
    for address in addresses {
        if let Some(interface) = interfaces.get_mut(&address.index) {
            interface.addresses.push(address.net);
        }
    }

    for route in routes::dump(routes::EVERY_PROTOCOL)? {
        let interface = (route.interface).and_then(|index| interfaces.get_mut(&index));
        if let Some(interface) = interface
            && route.destination.prefix_len() == 0
        {
            interface
                .default_route
                .insert(Family::of(&route.destination.addr()));
        }
    }
    Ok(interfaces.into_values().collect())
}

/// This node's primary addresses, at most one per family, IPv4 first: an address of the
/// interface of the default route, else the first global one.
#[must_use]
pub fn primary_addresses(interfaces: &[Interface]) -> Vec<IpAddr> {
    let primary = |family: Family| {
        let global = |interface: &Interface| {
            let mut addresses = interface.addresses.iter().map(IpNet::addr);
            addresses.find(|addr| Family::of(addr) == family && is_global(addr))
        };
        let up = || interfaces.iter().filter(|interface| interface.up);
        up().filter(|interface| interface.default_route.contains(&family))
            .find_map(global)
            .or_else(|| up().find_map(global))
    };
    Family::ALL.into_iter().filter_map(primary).collect()
}

/// Every address of this node, loopback included, without repetition.
#[must_use]
pub fn local_addresses(interfaces: &[Interface]) -> BTreeSet<IpAddr> {
    let addresses = interfaces.iter().flat_map(|interface| &interface.addresses);
    addresses.map(IpNet::addr).collect()
}

/// True unless the address is good only on this host or on one link.
const fn is_global(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => !addr.is_loopback() && !addr.is_link_local(),
        IpAddr::V6(addr) => !addr.is_loopback() && !addr.is_unicast_link_local(),
    }
}

fn interface(link: Link) -> Interface {
    Interface {
        index: link.index,
        name: link.name,
        kind: match link.kind.as_deref() {
            Some("bridge") => Kind::Bridge,
            Some("veth") => Kind::Veth,
            Some(_) => Kind::Virtual,
            None if link.loopback => Kind::Loopback,
            None => Kind::Physical,
        },
        up: link.up,
        mtu: link.mtu,
        master: link.master,
        peer: link.peer,
        peer_namespace: link.peer_namespace,
        hairpin: link.hairpin,
        isolated: link.isolated,
        mac: link.mac,
        addresses: Vec::new(),
        default_route: BTreeSet::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, addresses: &[&str]) -> Interface {
        Interface {
            index,
            name: name.into(),
            kind: Kind::Physical,
            up: true,
            mtu: 1500,
            master: None,
            peer: None,
            peer_namespace: None,
            hairpin: false,
            isolated: false,
            mac: None,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            default_route: BTreeSet::new(),
        }
    }

    #[test]
    fn the_interface_of_the_default_route_gives_the_primary_address() {
        let mut interfaces = [
            interface(1, "lo", &["127.0.0.1/8", "::1/128"]),
            interface(2, "eth0", &["192.0.2.7/24", "fe80::1/64"]),
            interface(3, "eth1", &["198.51.100.7/24", "2001:db8::7/64"]),
        ];
        let addr = |addr: &str| addr.parse::<IpAddr>().unwrap();
        assert_eq!(
            primary_addresses(&interfaces),
            [addr("192.0.2.7"), addr("2001:db8::7")]
        );
        interfaces[2].default_route.insert(Family::Ip);
        assert_eq!(
            primary_addresses(&interfaces),
            [addr("198.51.100.7"), addr("2001:db8::7")]
        );
    }

    #[test]
    fn an_interface_that_is_down_has_nothing_on_link() {
        let mut eth0 = interface(2, "eth0", &["192.0.2.7/24"]);
        assert!(eth0.has_on_link("192.0.2.8".parse().unwrap()));
        eth0.up = false;
        assert!(!eth0.has_on_link("192.0.2.8".parse().unwrap()));
        assert!(primary_addresses(&[eth0]).is_empty());
    }
}
