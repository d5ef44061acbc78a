//! Tells when links, addresses or routes of this host change (rtnetlink multicast).

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::HostError;
use super::routes::RTPROT_SVCNAT;

/// RTNLGRP_* (linux/rtnetlink.h): links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// RTM_NEWLINK to RTM_DELADDR, and RTM_NEWROUTE, RTM_DELROUTE.
const LINKS_AND_ADDRESSES: std::ops::RangeInclusive<u16> = 16..=21;
const ROUTES: std::ops::RangeInclusive<u16> = 24..=25;
/// Offsets in a route message, header included: `rtm_dst_len`, `rtm_protocol`, attributes.
const PREFIX_LENGTH_AT: usize = 16 + 1;
const PROTOCOL_AT: usize = 16 + 5;
const ATTRIBUTES_AT: usize = 16 + 12;
const RTA_DST: u16 = 1;

/// What changed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// A link or an address came, went or changed.
    pub addresses: bool,
    /// A route of ours came or went, or one of others to a destination of ours, or a link
    /// that routes may use.
    pub routes: bool,
}

/// A listener. Reading it never blocks.
pub struct Monitor {
    socket: Socket,
}

impl Monitor {
    /// Listens from now on.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn open() -> Result<Self, HostError> {
        let failed = |source| HostError::Socket {
            what: "watch links and routes",
            source,
        };
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
        socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
        socket.set_non_blocking(true).map_err(failed)?;
        for group in GROUPS {
            socket.add_membership(group).map_err(failed)?;
        }
        Ok(Self { socket })
    }

    /// Everything since the last call. `ours` tells destinations of ours: a route of others to
    /// one of them takes the place of ours, or makes way for it. If more happened than the
    /// socket could hold, everything counts as changed.
    pub fn drain(&self, ours: impl Fn(IpNet) -> bool) -> Changed {
        let mut changed = Changed::default();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(0) => return changed,
                Ok(_) => read(&buffer, &ours, &mut changed),
                Err(e) if e.raw_os_error() == Some(libc::EINTR) => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return changed,
                Err(_) => {
                    return Changed {
                        addresses: true,
                        routes: true,
                    };
                }
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn read(mut bytes: &[u8], ours: &impl Fn(IpNet) -> bool, changed: &mut Changed) {
    while let Some(header) = bytes.get(..16) {
        let field = |at: usize| [header[at], header[at + 1]];
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes(field(4));
        if LINKS_AND_ADDRESSES.contains(&kind) {
            changed.addresses = true;
            changed.routes = true;
        } else if ROUTES.contains(&kind) && !changed.routes {
            changed.routes = bytes.get(PROTOCOL_AT) == Some(&RTPROT_SVCNAT)
                || destination(&bytes[..length.clamp(16, bytes.len())]).is_some_and(ours);
        }
        let step = length.max(16).div_ceil(4) * 4;
        bytes = bytes.get(step..).unwrap_or_default();
    }
}

/// Where the route of a message leads; `None` for a default route.
fn destination(message: &[u8]) -> Option<IpNet> {
    let mut attributes = message.get(ATTRIBUTES_AT..)?;
    while let Some(&[l0, l1, k0, k1]) = attributes.get(..4) {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        if u16::from_ne_bytes([k0, k1]) == RTA_DST {
            let bytes = attributes.get(4..length)?;
            let addr = match (<[u8; 4]>::try_from(bytes), <[u8; 16]>::try_from(bytes)) {
                (Ok(v4), _) => IpAddr::from(v4),
                (_, Ok(v6)) => IpAddr::from(v6),
                _ => return None,
            };
            return IpNet::new(addr, *message.get(PREFIX_LENGTH_AT)?).ok();
        }
        let step = length.max(4).div_ceil(4) * 4;
        attributes = attributes.get(step..).unwrap_or_default();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobodys(_: IpNet) -> bool {
        false
    }

    fn message(kind: u16, protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0; 28];
        bytes[0] = 28;
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[PROTOCOL_AT] = protocol;
        bytes
    }

    #[test]
    fn only_our_routes_count_and_every_address_does() {
        let mut changed = Changed::default();
        read(&message(25, 3), &nobodys, &mut changed);
        assert_eq!(changed, Changed::default());
        read(&message(25, RTPROT_SVCNAT), &nobodys, &mut changed);
        assert!(changed.routes && !changed.addresses);
        read(&message(20, 0), &nobodys, &mut changed);
        assert!(changed.addresses);
    }

    fn foreign_route() -> Vec<u8> {
        let mut bytes = message(24, 4);
        bytes[0] = 44;
        bytes[PREFIX_LENGTH_AT] = 24;
        // RTA_TABLE, as the kernel sends it first, and RTA_DST.
        bytes.extend([8, 0, 15, 0, 254, 0, 0, 0, 8, 0, 1, 0, 10, 244, 2, 0]);
        bytes
    }

    #[test]
    fn a_route_of_others_counts_if_it_leads_where_ours_do() {
        let mut changed = Changed::default();
        read(&foreign_route(), &nobodys, &mut changed);
        assert_eq!(changed, Changed::default());
        let ours = |to: IpNet| to == "10.244.2.0/24".parse().unwrap();
        read(&foreign_route(), &ours, &mut changed);
        assert!(changed.routes && !changed.addresses);
    }

    #[test]
    fn truncated_messages_are_no_panic() {
        let whole = [foreign_route(), message(24, RTPROT_SVCNAT), message(16, 0)].concat();
        for end in 0..whole.len() {
            read(&whole[..end], &nobodys, &mut Changed::default());
        }
    }
}
