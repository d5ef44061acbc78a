//! Tells when links, addresses or routes of this host change (rtnetlink multicast).

use std::os::fd::{AsFd, BorrowedFd};

use ipnet::IpNet;

use super::error::HostError;
use super::routes::RTPROT_SVCNAT;
use crate::netlink::message::Message;
use crate::netlink::socket::{Bus, Socket};
use crate::netlink::{link, route};

/// RTNLGRP_* (linux/rtnetlink.h): links, IPv4 addresses and routes, IPv6 addresses and routes.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

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
        let failed = HostError::of("watch links and routes");
        let socket = Socket::open(Bus::Route).map_err(&failed)?;
        for group in GROUPS {
            socket.listen(group, true).map_err(&failed)?;
        }
        Ok(Self { socket })
    }

    /// Everything since the last call. `ours` tells destinations of ours: a route of others to
    /// one of them takes the place of ours, or makes way for it. If more happened than the
    /// socket could hold, everything counts as changed.
    pub fn drain(&self, ours: impl Fn(IpNet) -> bool) -> Changed {
        let mut changed = Changed::default();
        if self.socket.drain(|message| changed.note(message, &ours)) {
            changed
        } else {
            Changed {
                addresses: true,
                routes: true,
            }
        }
    }
}

impl Changed {
    fn note(&mut self, message: &Message<'_>, ours: &impl Fn(IpNet) -> bool) {
        if link::is_change(message) {
            self.addresses = true;
            self.routes = true;
        } else if !self.routes {
            self.routes = match route::decode(message) {
                Ok(found) => found.is_some_and(|route| {
                    route.protocol == RTPROT_SVCNAT || ours(route.destination)
                }),
                // Some route, and nobody knows which.
                Err(_) => true,
            };
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::request;
    use crate::netlink::message::Messages;

    /// What a message says changed, if this is a destination of ours.
    fn changed(bytes: &[u8], ours: &str) -> (bool, bool) {
        let mut changed = Changed::default();
        let ours: IpNet = ours.parse().unwrap();
        for message in Messages(bytes) {
            changed.note(&message, &|to| to == ours);
        }
        (changed.addresses, changed.routes)
    }

    fn route(protocol: u8) -> Vec<u8> {
        let to = "10.244.2.0/24".parse().unwrap();
        let via = "192.0.2.1".parse().unwrap();
        route::add(&to, via, protocol, route::Existing::Keep)
    }

    #[test]
    fn of_routes_ours_count_and_those_that_lead_where_ours_do() {
        assert_eq!(changed(&route(4), "10.244.3.0/24"), (false, false));
        assert_eq!(changed(&route(4), "10.244.2.0/24"), (false, true));
        let ours = route(RTPROT_SVCNAT);
        assert_eq!(changed(&ours, "10.244.3.0/24"), (false, true));
        let ours = route::delete(&"fd00::/64".parse().unwrap(), None, 0, RTPROT_SVCNAT);
        assert_eq!(changed(&ours, "10.244.3.0/24"), (false, true));
    }

    #[test]
    fn every_address_counts_and_a_route_that_cannot_be_read() {
        let gone = request(21, 0, &[0; 8], |_| {});
        assert_eq!(changed(&gone, "10.244.3.0/24"), (true, true));
        let cut = request(24, 0, &[2; 7], |_| {});
        assert_eq!(changed(&cut, "10.244.3.0/24"), (false, true));
        let neighbour = request(28, 0, &[0; 12], |_| {});
        assert_eq!(changed(&neighbour, "10.244.3.0/24"), (false, false));
    }
}
