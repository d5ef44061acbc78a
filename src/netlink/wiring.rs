//! What a lab is made with: bridges, pairs of virtual Ethernet interfaces, addresses and
//! routes, as rtnetlink messages; linux/if_link.h, linux/veth.h, linux/if_addr.h.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use ipnet::IpNet;

use super::attr::request;
use super::link::{
    IFA_ADDRESS, IFA_FLAGS, IFA_LOCAL, IFLA_BRPORT_MODE, IFLA_IFNAME, IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA, IFLA_LINKINFO, IFLA_MASTER, IFLA_MTU, NEW_ADDRESS, NEW_LINK, UP,
};
use super::message::flag;
use super::route::{self, RTA_DST, RTA_GATEWAY, RTA_OIF, SCOPE_UNIVERSE, UNICAST, rtmsg_to};
use crate::net::Family;

const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const VETH_INFO_PEER: u16 = 1;
/// IFA_F_NODAD: an IPv6 address is used at once, whoever else may have it.
const NO_DAD: u32 = 0x02;
/// RTPROT_STATIC, and RT_SCOPE_LINK.
const STATIC: u8 = 4;
const SCOPE_LINK: u8 = 253;

/// Makes a bridge.
#[must_use]
pub fn new_bridge(name: &str) -> Vec<u8> {
    request(NEW_LINK, flag::CREATE | flag::EXCL, &[0; 16], |w| {
        w.string(IFLA_IFNAME, name);
        let info = w.nest(IFLA_LINKINFO);
        w.string(IFLA_INFO_KIND, "bridge");
        w.end_nest(info);
    })
}

/// Makes a pair of virtual Ethernet interfaces, `peer` in the network namespace that the
/// descriptor is of. Neither is up.
#[must_use]
pub fn new_veth(name: &str, peer: &str, namespace: BorrowedFd<'_>) -> Vec<u8> {
    request(NEW_LINK, flag::CREATE | flag::EXCL, &[0; 16], |w| {
        w.string(IFLA_IFNAME, name);
        let info = w.nest(IFLA_LINKINFO);
        w.string(IFLA_INFO_KIND, "veth");
        let data = w.nest(IFLA_INFO_DATA);
        let other = w.nest(VETH_INFO_PEER);
        // struct ifinfomsg of the other end.
        w.bytes.extend_from_slice(&[0; 16]);
        w.string(IFLA_IFNAME, peer);
        w.attr(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        w.end_nest(other);
        w.end_nest(data);
        w.end_nest(info);
    })
}

/// What an interface is told; what is `None` stays as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Orders {
    pub up: Option<bool>,
    /// Largest IP packet, in bytes.
    pub mtu: Option<u32>,
    /// Index of the bridge that it becomes a port of.
    pub master: Option<u32>,
}

/// Changes an interface.
#[must_use]
pub fn set(index: u32, orders: Orders) -> Vec<u8> {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    if let Some(up) = orders.up {
        head[8..12].copy_from_slice(&if up { UP } else { 0 }.to_ne_bytes());
        head[12..16].copy_from_slice(&UP.to_ne_bytes());
    }
    request(NEW_LINK, 0, &head, |w| {
        if let Some(mtu) = orders.mtu {
            w.attr(IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(master) = orders.master {
            w.attr(IFLA_MASTER, &master.to_ne_bytes());
        }
    })
}

/// Whether a port of a bridge sends frames back to where they came from.
#[must_use]
pub fn set_hairpin(index: u32, on: bool) -> Vec<u8> {
    let mut head = [0; 16];
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    request(NEW_LINK, 0, &head, |w| {
        let info = w.nest(IFLA_LINKINFO);
        w.string(IFLA_INFO_SLAVE_KIND, "bridge");
        let port = w.nest(IFLA_INFO_SLAVE_DATA);
        w.attr(IFLA_BRPORT_MODE, &[on.into()]);
        w.end_nest(port);
        w.end_nest(info);
    })
}

/// Gives an interface an address.
#[must_use]
pub fn add_address(index: u32, net: &IpNet) -> Vec<u8> {
    let mut head = [0; 8];
    head[0] = Family::of(&net.addr()).number();
    head[1] = net.prefix_len();
    head[4..8].copy_from_slice(&index.to_ne_bytes());
    request(NEW_ADDRESS, flag::CREATE | flag::EXCL, &head, |w| {
        w.addr(IFA_LOCAL, net.addr());
        w.addr(IFA_ADDRESS, net.addr());
        w.attr(IFA_FLAGS, &NO_DAD.to_ne_bytes());
    })
}

/// Adds a route to the main table that leads by an interface, to a next hop or straight to its
/// destination. RTPROT_STATIC, as an administrator's.
#[must_use]
pub fn add_route(destination: &IpNet, via: Option<IpAddr>, interface: Option<u32>) -> Vec<u8> {
    let scope = if via.is_some() {
        SCOPE_UNIVERSE
    } else {
        SCOPE_LINK
    };
    let head = rtmsg_to(destination, STATIC, scope, UNICAST);
    request(route::NEW, flag::CREATE | flag::EXCL, &head, |w| {
        w.addr(RTA_DST, destination.network());
        if let Some(via) = via {
            w.addr(RTA_GATEWAY, via);
        }
        if let Some(interface) = interface {
            w.attr(RTA_OIF, &interface.to_ne_bytes());
        }
    })
}

/// Takes away a route that was added so.
#[must_use]
pub fn remove_route(destination: &IpNet, via: Option<IpAddr>) -> Vec<u8> {
    route::delete(destination, via, 0, STATIC)
}
