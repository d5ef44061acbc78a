//! Routes as rtnetlink messages: what is asked, and what of an answer matters;
//! linux/rtnetlink.h. Its numbers are in host order.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::attr::{request, u32_at};
use super::error::ExchangeError;
use super::message::{Message, flag};
use crate::net::{Family, Protocol};

/// RTM_NEWROUTE, RTM_DELROUTE and RTM_GETROUTE.
pub(super) const NEW: u16 = 24;
const DEL: u16 = 25;
const GET: u16 = 26;

/// RT_TABLE_MAIN.
pub const MAIN_TABLE: u8 = 254;
/// RT_SCOPE_UNIVERSE, and RT_SCOPE_NOWHERE: in a deletion, any.
pub(super) const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_NOWHERE: u8 = 255;
/// RTN_UNICAST, RTN_LOCAL, RTN_BLACKHOLE and RTN_PROHIBIT.
pub const UNICAST: u8 = 1;
pub const LOCAL: u8 = 2;
pub const BLACKHOLE: u8 = 6;
pub const PROHIBIT: u8 = 8;
/// RTPROT_KERNEL.
pub const BY_KERNEL: u8 = 2;
/// RTNH_F_DEAD and RTNH_F_LINKDOWN.
const DEAD: u32 = 0x1 | 0x10;
/// RTM_F_CLONED: a cached exception, no route of the table.
const CLONED: u32 = 0x200;

// enum rtattr_type_t.
pub(super) const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_IIF: u16 = 3;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_METRICS: u16 = 8;
const RTA_MULTIPATH: u16 = 9;
const RTA_TABLE: u16 = 15;
const RTA_MARK: u16 = 16;
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// RTAX_MTU, one of the metrics.
const RTAX_MTU: u16 = 2;

/// `struct rtmsg` of a route in the main table: family, prefix length, that of sources, type
/// of service, table, protocol, scope, type, and flags.
#[rustfmt::skip]
fn rtmsg(family: Family, prefix_len: u8, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    [family.number(), prefix_len, 0, 0, MAIN_TABLE, protocol, scope, kind, 0, 0, 0, 0]
}

pub(super) fn rtmsg_to(destination: &IpNet, protocol: u8, scope: u8, kind: u8) -> [u8; 12] {
    let family = Family::of(&destination.addr());
    rtmsg(family, destination.prefix_len(), protocol, scope, kind)
}

/// How a new route treats one that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Refuse with EEXIST.
    Keep,
    /// Take its place at once: no packet meets a gap.
    Replace,
}

/// Adds a route of ours to the main table.
#[must_use]
pub fn add(destination: &IpNet, via: IpAddr, protocol: u8, existing: Existing) -> Vec<u8> {
    let head = rtmsg_to(destination, protocol, SCOPE_UNIVERSE, UNICAST);
    let treat = match existing {
        Existing::Keep => flag::EXCL,
        Existing::Replace => flag::REPLACE,
    };
    request(NEW, flag::CREATE | treat, &head, |w| {
        w.addr(RTA_DST, destination.network());
        w.addr(RTA_GATEWAY, via);
    })
}

/// Deletes a route of this protocol from the main table. The protocol in the header makes the
/// kernel pass over routes of others, whatever happened since it was listed.
#[must_use]
pub fn delete(destination: &IpNet, via: Option<IpAddr>, metric: u32, protocol: u8) -> Vec<u8> {
    let head = rtmsg_to(destination, protocol, SCOPE_NOWHERE, 0);
    request(DEL, 0, &head, |w| {
        w.addr(RTA_DST, destination.network());
        w.attr(RTA_PRIORITY, &metric.to_ne_bytes());
        if let Some(via) = via {
            w.addr(RTA_GATEWAY, via);
        }
    })
}

/// Asks for all routes of the main table; only those of `protocol`, if it is not 0 and the
/// kernel filters.
#[must_use]
pub fn dump(family: Family, protocol: u8) -> Vec<u8> {
    let head = rtmsg(family, 0, protocol, 0, 0);
    request(GET, flag::DUMP, &head, |_| {})
}

/// Asks what the kernel would do with a packet of its own to `addr`.
#[must_use]
pub fn look_up(addr: IpAddr) -> Vec<u8> {
    look_up_as(addr, None, None, 0, None)
}

/// Asks what the kernel would do with a packet to `addr`: from `source`, in by the interface
/// `iif`, with this mark, protocol and ports (0: not known). One that comes in is refused as a real one would be, also for where
/// it comes from (`rp_filter`) or because this host does not forward.
#[must_use]
pub fn look_up_as(
    addr: IpAddr,
    source: Option<IpAddr>,
    iif: Option<u32>,
    mark: u32,
    transport: Option<(Protocol, u16, u16)>,
) -> Vec<u8> {
    let mut head = rtmsg_to(&addr.into(), 0, 0, 0);
    // Whichever table decides.
    head[4] = 0;
    if let Some(source) = source {
        head[2] = rtmsg_to(&source.into(), 0, 0, 0)[1];
    }
    request(GET, 0, &head, |w| {
        w.addr(RTA_DST, addr);
        if let Some(source) = source {
            w.addr(RTA_SRC, source);
        }
        if let Some(iif) = iif {
            w.attr(RTA_IIF, &iif.to_ne_bytes());
        }
        if mark != 0 {
            w.attr(RTA_MARK, &mark.to_ne_bytes());
        }
        // Of others the kernel takes no question (rtm_getroute_parse_ip_proto).
        if let Some((protocol @ (Protocol::Tcp | Protocol::Udp), source, destination)) = transport {
            w.attr(RTA_IP_PROTO, &[protocol.number()]);
            for (kind, port) in [(RTA_SPORT, source), (RTA_DPORT, destination)] {
                if port != 0 {
                    w.attr(kind, &port.to_be_bytes());
                }
            }
        }
    })
}

/// What of a route in an answer matters.
#[derive(Clone, Debug)]
pub struct Route {
    pub destination: IpNet,
    /// Next hop; `None` for a route without one or with several.
    pub via: Option<IpAddr>,
    pub metric: u32,
    /// RTPROT_*: who made it.
    pub protocol: u8,
    /// RTN_*: what becomes of packets.
    pub kind: u8,
    pub table: u32,
    /// Index of the interface that packets leave by; of several next hops, the first's.
    pub interface: Option<u32>,
    /// Bytes of the largest packet that takes it, if the route itself says so.
    pub mtu: Option<u32>,
    /// It is a cached exception, no route of the table.
    pub cloned: bool,
    /// Its interface is down or has no carrier.
    pub dead: bool,
}

/// Decodes a route that is there, came or went; `None` for other messages, and families that
/// are not ours.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode(message: &Message<'_>) -> Result<Option<Route>, ExchangeError> {
    if !matches!(message.kind, NEW | DEL) {
        return Ok(None);
    }
    let (head, a) = message.split::<12>().ok_or(ExchangeError::Garbled)?;
    let [
        family,
        prefix_len,
        _,
        _,
        table,
        protocol,
        _,
        kind,
        flags @ ..,
    ] = *head;
    let unspecified: IpAddr = match Family::from_number(family) {
        Some(Family::Ip) => Ipv4Addr::UNSPECIFIED.into(),
        Some(Family::Ip6) => Ipv6Addr::UNSPECIFIED.into(),
        None => return Ok(None),
    };
    let destination = a.addr(RTA_DST).unwrap_or(unspecified);
    let first_hop = || u32_at(a.get(RTA_MULTIPATH)?, 4);
    Ok(Some(Route {
        destination: IpNet::new(destination, prefix_len).map_err(|_| ExchangeError::Garbled)?,
        via: a.addr(RTA_GATEWAY),
        metric: a.host_u32(RTA_PRIORITY).unwrap_or(0),
        protocol,
        kind,
        table: a.host_u32(RTA_TABLE).unwrap_or(table.into()),
        interface: a.host_u32(RTA_OIF).or_else(first_hop),
        mtu: a.nested(RTA_METRICS).host_u32(RTAX_MTU),
        cloned: u32::from_ne_bytes(flags) & CLONED != 0,
        dead: u32::from_ne_bytes(flags) & DEAD != 0,
    }))
}

/// RTPROT_*, as iproute2 writes them.
#[rustfmt::skip]
const PROTOCOLS: [(u8, &str); 20] = [
    (0, "unspec"), (1, "redirect"), (2, "kernel"), (3, "boot"), (4, "static"), (8, "gated"),
    (9, "ra"), (10, "mrt"), (11, "zebra"), (12, "bird"), (14, "xorp"), (16, "dhcp"),
    (18, "keepalived"), (42, "babel"), (99, "openr"), (186, "bgp"), (187, "isis"),
    (188, "ospf"), (189, "rip"), (192, "eigrp"),
];

/// RTN_*, as iproute2 writes them.
#[rustfmt::skip]
const KINDS: [&str; 10] = [
    "unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole",
    "unreachable", "prohibit", "throw",
];

/// The name of who made a route, or its number.
#[must_use]
pub fn protocol_name(number: u8) -> String {
    let found = PROTOCOLS.iter().find(|(known, _)| *known == number);
    found.map_or_else(|| number.to_string(), |(_, name)| (*name).to_owned())
}

/// The name of what a route does to packets, or its number.
#[must_use]
pub fn kind_name(number: u8) -> String {
    let found = KINDS.get(usize::from(number));
    found.map_or_else(|| number.to_string(), |name| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::{HEADER, Messages};

    fn read(bytes: &[u8]) -> Result<Option<Route>, ExchangeError> {
        decode(&Messages(bytes).next().unwrap())
    }

    #[test]
    fn a_deletion_carries_our_protocol_so_that_other_routes_are_passed_over() {
        let bytes = delete(&"10.244.1.0/24".parse().unwrap(), None, 0, 178);
        assert_eq!(bytes[HEADER + 5], 178, "rtm_protocol");
    }

    #[test]
    fn a_new_route_reads_back_as_itself() {
        for (destination, via) in [
            ("10.244.1.0/24", "192.0.2.7"),
            ("fd00:244:1::/64", "fd00::7"),
            ("0.0.0.0/0", "192.0.2.7"),
        ] {
            let (destination, via) = (destination.parse().unwrap(), via.parse().unwrap());
            let bytes = add(&destination, via, 178, Existing::Keep);
            let found = read(&bytes).unwrap().unwrap();
            assert_eq!((found.destination, found.via), (destination, Some(via)));
            assert_eq!((found.protocol, found.kind), (178, UNICAST));
            assert_eq!(found.table, u32::from(MAIN_TABLE));
        }
    }

    #[test]
    fn of_several_next_hops_the_first_names_the_interface() {
        let head = rtmsg_to(&"10.0.0.0/8".parse().unwrap(), 4, 0, UNICAST);
        let bytes = request(NEW, 0, &head, |w| {
            // Two of struct rtnexthop: length, flags, weight, interface.
            w.attr(
                RTA_MULTIPATH,
                &[8, 0, 0, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0],
            );
            w.attr(RTA_TABLE, &1000_u32.to_ne_bytes());
            let metrics = w.nest(RTA_METRICS);
            w.attr(RTAX_MTU, &1400_u32.to_ne_bytes());
            w.end_nest(metrics);
        });
        let found = read(&bytes).unwrap().unwrap();
        assert_eq!((found.interface, found.table), (Some(7), 1000));
        assert_eq!(found.mtu, Some(1400));
    }

    #[test]
    fn a_truncated_answer_is_an_error() {
        let whole = add(
            &"10.244.1.0/24".parse().unwrap(),
            "192.0.2.7".parse().unwrap(),
            178,
            Existing::Keep,
        );
        for length in HEADER..whole.len() {
            let mut bytes = whole[..length].to_vec();
            bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            // Between two attributes nothing is seen to be missing.
            let between = matches!(length - HEADER, 12 | 20);
            assert_eq!(read(&bytes).is_err(), !between, "{length}");
        }
    }
}
