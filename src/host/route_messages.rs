//! Routes as rtnetlink messages: what is asked, and what of an answer matters.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{DecodeError, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Parseable};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::routes::{LiveRoute, RTPROT_SVCNAT};
use super::socket::Request;
use crate::cluster::Family;
use crate::plan::Route;

/// rtnetlink's number of a family.
pub(super) const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ip => AddressFamily::Inet,
        Family::Ip6 => AddressFamily::Inet6,
    }
}

/// How a new route treats one that is there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    /// Refuse with EEXIST.
    Keep,
    /// Take its place at once: no packet meets a gap.
    Replace,
}

pub(super) fn new_route(route: &Route, existing: Existing) -> Request {
    let mut message = message_for(&route.destination);
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message
        .attributes
        .push(RouteAttribute::Gateway(route.via.into()));
    let flags = NLM_F_CREATE
        | match existing {
            Existing::Keep => NLM_F_EXCL,
            Existing::Replace => NLM_F_REPLACE,
        };
    Request::new(libc::RTM_NEWROUTE, flags, &message)
}

/// Deletes a route of ours. The protocol in the header makes the kernel pass over routes of
/// others, whatever happened since it was listed.
pub(super) fn delete_route(route: &LiveRoute) -> Request {
    let mut message = message_for(&route.destination);
    message.header.scope = RouteScope::NoWhere;
    message
        .attributes
        .push(RouteAttribute::Priority(route.metric));
    if let Some(via) = route.via {
        message.attributes.push(RouteAttribute::Gateway(via.into()));
    }
    Request::new(libc::RTM_DELROUTE, 0, &message)
}

/// All routes of the main table; only those of `protocol`, if given.
pub(super) fn dump_routes(family: Family, protocol: RouteProtocol) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = protocol;
    Request::new(libc::RTM_GETROUTE, 0, &message)
}

/// What the kernel would do with a packet to `addr`.
pub(super) fn look_up(addr: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(&addr));
    message.header.destination_prefix_length = IpNet::from(addr).max_prefix_len();
    message
        .attributes
        .push(RouteAttribute::Destination(addr.into()));
    Request::new(libc::RTM_GETROUTE, 0, &message)
}

fn message_for(destination: &IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(Family::of(&destination.addr()));
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(RTPROT_SVCNAT);
    message
        .attributes
        .push(RouteAttribute::Destination(destination.network().into()));
    message
}

/// What of a route in an answer matters.
#[derive(Clone, Debug)]
pub(super) struct Decoded {
    pub route: LiveRoute,
    pub protocol: u8,
    pub kind: RouteType,
    pub table: u32,
    pub interface: Option<u32>,
    pub preferred_source: Option<IpAddr>,
    pub cloned: bool,
}

/// Decodes a route; `None` if it is of a family that is not ours.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Decoded>, DecodeError> {
    // RTM_F_CLONED (linux/rtnetlink.h): a cached exception, no route of the table.
    const RTM_F_CLONED: u32 = 0x200;
    let message = RouteMessage::parse(payload)?;
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Ok(None),
    };
    let mut destination = unspecified;
    let mut decoded = Decoded {
        route: LiveRoute {
            destination: IpNet::from(unspecified),
            via: None,
            metric: 0,
        },
        protocol: message.header.protocol.into(),
        kind: message.header.kind,
        table: message.header.table.into(),
        interface: None,
        preferred_source: None,
        cloned: message.header.flags.bits() & RTM_F_CLONED != 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => {
                destination = ip_addr(addr).unwrap_or(unspecified);
            }
            RouteAttribute::Gateway(addr) => decoded.route.via = ip_addr(addr),
            RouteAttribute::PrefSource(addr) => decoded.preferred_source = ip_addr(addr),
            RouteAttribute::Priority(metric) => decoded.route.metric = *metric,
            // The first of several next hops stands for all.
            RouteAttribute::MultiPath(hops) => {
                decoded.interface = hops.first().map(|hop| hop.interface_index);
            }
            RouteAttribute::Oif(index) => decoded.interface = Some(*index),
            RouteAttribute::Table(table) => decoded.table = *table,
            _ => {}
        }
    }
    decoded.route.destination = IpNet::new(destination, message.header.destination_prefix_length)
        .map_err(|error| DecodeError::from(error.to_string()))?;
    Ok(Some(decoded))
}

const fn ip_addr(addr: &RouteAddress) -> Option<IpAddr> {
    match addr {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deletion_carries_our_protocol_so_that_other_routes_are_passed_over() {
        let request = delete_route(&LiveRoute {
            destination: "10.244.1.0/24".parse().unwrap(),
            via: None,
            metric: 0,
        });
        assert_eq!(request.payload[5], RTPROT_SVCNAT, "rtm_protocol");
    }

    #[test]
    fn a_new_route_reads_back_as_itself() {
        for (destination, via) in [
            ("10.244.1.0/24", "192.0.2.7"),
            ("fd00:244:1::/64", "fd00::7"),
        ] {
            let route = Route {
                destination: destination.parse().unwrap(),
                via: via.parse().unwrap(),
                node: "n1".into(),
            };
            let request = new_route(&route, Existing::Keep);
            let decoded = decode(&request.payload).unwrap().unwrap();
            assert_eq!(decoded.route.destination, route.destination);
            assert_eq!(decoded.route.via, Some(route.via));
            assert_eq!(decoded.protocol, RTPROT_SVCNAT);
        }
    }

    #[test]
    fn a_truncated_answer_is_an_error_and_no_panic() {
        let route = Route {
            destination: "10.244.1.0/24".parse().unwrap(),
            via: "192.0.2.7".parse().unwrap(),
            node: String::new(),
        };
        let payload = new_route(&route, Existing::Keep).payload;
        for length in 0..12 {
            assert!(decode(&payload[..length]).is_err());
        }
        for length in 12..payload.len() {
            // With attributes cut away or cut short: an answer or an error.
            let _ = decode(&payload[..length]);
        }
    }
}
