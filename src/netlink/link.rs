//! Interfaces and their addresses as rtnetlink messages; linux/if_link.h, linux/if_addr.h.

use std::os::fd::RawFd;

use ipnet::IpNet;

use super::attr::{request, u32_at};
use super::error::ExchangeError;
use super::message::{Message, flag};

/// RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR and RTM_GETADDR.
pub(super) const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
pub(super) const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
/// RTM_NEWNSID and RTM_GETNSID (linux/net_namespace.h).
const NEW_NAMESPACE: u16 = 88;
const GET_NAMESPACE: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
/// RTM_NEWLINK to RTM_DELADDR.
const CHANGES: std::ops::RangeInclusive<u16> = 16..=21;

/// IFF_UP and IFF_LOOPBACK (linux/if.h).
pub(super) const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;

const IFLA_ADDRESS: u16 = 1;
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
const IFLA_LINK_NETNSID: u16 = 37;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_INFO_SLAVE_DATA: u16 = 5;
pub(super) const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;

pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const IFA_FLAGS: u16 = 8;
/// IFA_F_SECONDARY (of IPv6: temporary), IFA_F_DEPRECATED and IFA_F_TENTATIVE.
const LAST_RESORT: u32 = 0x01 | 0x20 | 0x40;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// The driver's kind, such as `bridge`; `None` for a network card.
    pub kind: Option<String>,
    pub loopback: bool,
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
    /// A bridge's port that sends back to where a frame came from (hairpin).
    pub hairpin: bool,
    /// A bridge's port that exchanges no frames with others that are isolated.
    pub isolated: bool,
    /// Its link-layer address, if that is an Ethernet one.
    pub mac: Option<[u8; 6]>,
}

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub index: u32,
    pub net: IpNet,
    /// It is no good as a source of new connections: secondary, temporary, tentative or
    /// deprecated.
    pub last_resort: bool,
}

/// Asks for all interfaces.
#[must_use]
pub fn dump_links() -> Vec<u8> {
    // struct ifinfomsg.
    request(GET_LINK, flag::DUMP, &[0; 16], |_| {})
}

/// Asks for all addresses.
#[must_use]
pub fn dump_addresses() -> Vec<u8> {
    // struct ifaddrmsg.
    request(GET_ADDRESS, flag::DUMP, &[0; 8], |_| {})
}

/// Asks which number this namespace has for the one that a descriptor of ours stands for.
#[must_use]
pub fn get_namespace(descriptor: RawFd) -> Vec<u8> {
    // struct rtgenmsg.
    request(GET_NAMESPACE, 0, &[0; 4], |w| {
        w.attr(NETNSA_FD, &descriptor.to_ne_bytes());
    })
}

/// Decodes a namespace's number; `None` for other messages, and if it has none.
#[must_use]
pub fn decode_namespace(message: &Message<'_>) -> Option<i32> {
    if message.kind != NEW_NAMESPACE {
        return None;
    }
    let (_, a) = message.split::<4>()?;
    let number = a.host_u32(NETNSA_NSID)?.cast_signed();
    (number >= 0).then_some(number)
}

/// True if a message says that an interface or address came, went or changed.
#[must_use]
pub fn is_change(message: &Message<'_>) -> bool {
    CHANGES.contains(&message.kind)
}

/// Decodes an interface; `None` for other messages.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_link(message: &Message<'_>) -> Result<Option<Link>, ExchangeError> {
    if message.kind != NEW_LINK {
        return Ok(None);
    }
    let (head, a) = message.split::<16>().ok_or(ExchangeError::Garbled)?;
    let flags = u32_at(head, 8).unwrap_or_default();
    let info = a.nested(IFLA_LINKINFO);
    let port = info.nested(IFLA_INFO_SLAVE_DATA);
    Ok(Some(Link {
        index: u32_at(head, 4).unwrap_or_default(),
        name: a.lossy_string(IFLA_IFNAME).unwrap_or_default(),
        kind: info.lossy_string(IFLA_INFO_KIND),
        loopback: flags & LOOPBACK != 0,
        up: flags & UP != 0,
        mtu: a.host_u32(IFLA_MTU).unwrap_or_default(),
        master: a.host_u32(IFLA_MASTER),
        peer: a.host_u32(IFLA_LINK),
        peer_namespace: a.host_u32(IFLA_LINK_NETNSID).map(u32::cast_signed),
        hairpin: port.u8(IFLA_BRPORT_MODE) == Some(1),
        isolated: port.u8(IFLA_BRPORT_ISOLATED) == Some(1),
        mac: a.get(IFLA_ADDRESS).and_then(|mac| mac.try_into().ok()),
    }))
}

/// Decodes an address; `None` for other messages, and addresses of other families.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_address(message: &Message<'_>) -> Result<Option<Address>, ExchangeError> {
    if message.kind != NEW_ADDRESS {
        return Ok(None);
    }
    let (head, a) = message.split::<8>().ok_or(ExchangeError::Garbled)?;
    // IFA_ADDRESS is the peer's on a point-to-point interface, else the same as IFA_LOCAL; IPv6
    // sends only this one.
    let Some(addr) = a.addr(IFA_LOCAL).or_else(|| a.addr(IFA_ADDRESS)) else {
        return Ok(None);
    };
    let flags = a.host_u32(IFA_FLAGS).unwrap_or(head[2].into());
    Ok(Some(Address {
        index: u32_at(head, 4).unwrap_or_default(),
        net: IpNet::new(addr, head[1]).map_err(|_| ExchangeError::Garbled)?,
        last_resort: flags & LAST_RESORT != 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::Writer;
    use crate::netlink::message::Messages;

    fn first(bytes: &[u8]) -> Message<'_> {
        Messages(bytes).next().unwrap()
    }

    #[test]
    fn an_interface_is_read_with_kind_and_master_whatever_its_name() {
        let mut head = [0; 16];
        head[4] = 7;
        head[8] = 1;
        let bytes = request(NEW_LINK, 0, &head, |w| {
            w.attr(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 7]);
            w.attr(IFLA_IFNAME, b"br\xff\0");
            w.attr(IFLA_MTU, &1450_u32.to_ne_bytes());
            w.attr(IFLA_MASTER, &3_u32.to_ne_bytes());
            let info = w.nest(IFLA_LINKINFO);
            w.string(IFLA_INFO_KIND, "veth");
            let port = w.nest(IFLA_INFO_SLAVE_DATA);
            w.attr(IFLA_BRPORT_MODE, &[1]);
            w.attr(IFLA_BRPORT_ISOLATED, &[1]);
            w.end_nest(port);
            w.end_nest(info);
            w.attr(IFLA_LINK, &2_u32.to_ne_bytes());
            w.attr(IFLA_LINK_NETNSID, &0_i32.to_ne_bytes());
        });
        let expected = Link {
            index: 7,
            name: "br\u{fffd}".to_owned(),
            kind: Some("veth".to_owned()),
            loopback: false,
            up: true,
            mtu: 1450,
            master: Some(3),
            peer: Some(2),
            peer_namespace: Some(0),
            hairpin: true,
            isolated: true,
            mac: Some([2, 0, 0, 0, 0, 7]),
        };
        assert_eq!(decode_link(&first(&bytes)).unwrap(), Some(expected));
        assert!(is_change(&first(&bytes)));
    }

    fn address(prefix_len: u8, attributes: impl FnOnce(&mut Writer)) -> Vec<u8> {
        let head = [2, prefix_len, 0, 0, 7, 0, 0, 0];
        request(NEW_ADDRESS, 0, &head, attributes)
    }

    #[test]
    fn of_a_point_to_point_interface_our_own_address_counts() {
        let bytes = address(32, |w| {
            w.addr(IFA_ADDRESS, "192.0.2.1".parse().unwrap());
            w.addr(IFA_LOCAL, "192.0.2.2".parse().unwrap());
            w.attr(IFA_FLAGS, &0x80_u32.to_ne_bytes());
        });
        let found = decode_address(&first(&bytes)).unwrap().unwrap();
        assert_eq!(found.net, "192.0.2.2/32".parse().unwrap());
        assert_eq!((found.index, found.last_resort), (7, false));
    }

    #[test]
    fn a_prefix_longer_than_its_address_is_an_error() {
        let bytes = address(33, |w| w.addr(IFA_LOCAL, "192.0.2.2".parse().unwrap()));
        assert!(decode_address(&first(&bytes)).is_err());
        let bytes = address(24, |_| {});
        assert_eq!(decode_address(&first(&bytes)).unwrap(), None);
    }
}
