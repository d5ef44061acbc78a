//! This node's interfaces and addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, Parseable};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::RouteProtocol;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::error::HostError;
use super::routes;
use super::socket::{Request, Socket};
use crate::cluster::Family;

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
    /// Index of the bridge, bond or VRF it belongs to.
    pub master: Option<u32>,
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
    let mut socket = Socket::open(NETLINK_ROUTE)?;
    let request = Request::new(libc::RTM_GETLINK, 0, &LinkMessage::default());
    let links = socket.dump("list interfaces", &request, |found, answer| {
        if answer.message_type == libc::RTM_NEWLINK {
            found.push(link(&LinkMessage::parse(&answer.payload)?));
        }
        Ok(())
    })?;
    let mut interfaces: BTreeMap<u32, Interface> = links
        .into_iter()
        .map(|interface: Interface| (interface.index, interface))
        .collect();

    let request = Request::new(libc::RTM_GETADDR, 0, &AddressMessage::default());
    let mut addresses = socket.dump("list addresses", &request, |found, answer| {
        if answer.message_type == libc::RTM_NEWADDR {
            found.extend(address(&AddressMessage::parse(&answer.payload)?)?);
        }
        Ok(())
    })?;
    // A stable sort: otherwise the kernel's order, in which the oldest comes first.
    addresses.sort_by_key(|address: &Address| address.last_resort);
    for address in addresses {
        if let Some(interface) = interfaces.get_mut(&address.index) {
            interface.addresses.push(address.net);
        }
    }

    for route in routes::dump(RouteProtocol::Unspec)? {
        let interface = (route.interface).and_then(|index| interfaces.get_mut(&index));
        if let Some(interface) = interface
            && route.route.destination.prefix_len() == 0
        {
            interface
                .default_route
                .insert(Family::of(&route.route.destination.addr()));
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

fn link(message: &LinkMessage) -> Interface {
    let flags = message.header.flags;
    let mut interface = Interface {
        index: message.header.index,
        name: String::new(),
        kind: if flags.contains(LinkFlags::Loopback) {
            Kind::Loopback
        } else {
            Kind::Physical
        },
        up: flags.contains(LinkFlags::Up),
        master: None,
        addresses: Vec::new(),
        default_route: BTreeSet::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::Controller(master) => interface.master = Some(*master),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        interface.kind = match kind {
                            InfoKind::Bridge => Kind::Bridge,
                            InfoKind::Veth => Kind::Veth,
                            _ => Kind::Virtual,
                        };
                    }
                }
            }
            _ => {}
        }
    }
    interface
}

struct Address {
    index: u32,
    net: IpNet,
    last_resort: bool,
}

/// The address in a message; `None` if it holds none of ours.
fn address(message: &AddressMessage) -> Result<Option<Address>, DecodeError> {
    let mut local = None;
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(*addr),
            // The peer's address on a point-to-point interface, else the same as `Local`;
            // IPv6 sends only this one.
            AddressAttribute::Address(addr) => address = Some(*addr),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    let Some(addr) = local.or(address) else {
        return Ok(None);
    };
    let net = IpNet::new(addr, message.header.prefix_len)
        .map_err(|error| DecodeError::from(error.to_string()))?;
    let avoid = AddressFlags::Secondary | AddressFlags::Deprecated | AddressFlags::Tentative;
    Ok(Some(Address {
        index: message.header.index,
        net,
        last_resort: flags.intersects(avoid),
    }))
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
            master: None,
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
