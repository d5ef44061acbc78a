//! Tells when links, addresses or routes of this host change (rtnetlink multicast).

use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::HostError;
use super::routes::RTPROT_SVCNAT;

/// RTNLGRP_* (linux/rtnetlink.h): links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// RTM_NEWLINK to RTM_DELADDR, and RTM_NEWROUTE, RTM_DELROUTE.
const LINKS_AND_ADDRESSES: std::ops::RangeInclusive<u16> = 16..=21;
const ROUTES: std::ops::RangeInclusive<u16> = 24..=25;
/// Offset of `rtm_protocol` in a route message, header included.
const PROTOCOL_AT: usize = 16 + 5;

/// What changed since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// A link or an address came, went or changed.
    pub addresses: bool,
    /// A route of ours came or went, or a link did that routes may use.
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

    /// Everything since the last call. If more happened than the socket could hold,
    /// everything counts as changed.
    pub fn drain(&self) -> Changed {
        let mut changed = Changed::default();
        let mut buffer = Vec::with_capacity(64 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(0) => return changed,
                Ok(_) => read(&buffer, &mut changed),
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

fn read(mut bytes: &[u8], changed: &mut Changed) {
    while let Some(header) = bytes.get(..16) {
        let field = |at: usize| [header[at], header[at + 1]];
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes(field(4));
        if LINKS_AND_ADDRESSES.contains(&kind) {
            changed.addresses = true;
            changed.routes = true;
        } else if ROUTES.contains(&kind) && bytes.get(PROTOCOL_AT) == Some(&RTPROT_SVCNAT) {
            changed.routes = true;
        }
        let step = length.max(16).div_ceil(4) * 4;
        bytes = bytes.get(step..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        read(&message(25, 3), &mut changed);
        assert_eq!(changed, Changed::default());
        read(&message(25, RTPROT_SVCNAT), &mut changed);
        assert!(changed.routes && !changed.addresses);
        read(&message(20, 0), &mut changed);
        assert!(changed.addresses);
    }

    #[test]
    fn truncated_messages_are_no_panic() {
        let whole = [message(24, RTPROT_SVCNAT), message(16, 0)].concat();
        for end in 0..whole.len() {
            read(&whole[..end], &mut Changed::default());
        }
    }
}
