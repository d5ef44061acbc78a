//! Connection-tracking messages: the few attributes of
//! linux/netfilter/nfnetlink_conntrack.h that are needed here, written and read.

mod entry;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::attr::{Attrs, Writer, request};
use super::error::ExchangeError;
use super::message::{Message, flag, nfgenmsg};
use crate::net::{Family, Protocol};
pub use entry::{Change, Entry, Sum, decode_entry, decode_event, states};

/// NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY (linux/netfilter/nfnetlink.h).
pub const GROUPS: [u32; 3] = [1, 2, 3];

// enum cntl_msg_types, with NFNL_SUBSYS_CTNETLINK (1) in the upper byte.
const CT_NEW: u16 = 1 << 8;
const CT_GET: u16 = (1 << 8) | 1;
const CT_DELETE: u16 = (1 << 8) | 2;
const CT_GET_STATS_CPU: u16 = (1 << 8) | 4;

// enum ctattr_type.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;

// enum ctattr_tuple.
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

// enum ctattr_ip: source and destination, IPv4 then IPv6.
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

// enum ctattr_l4proto.
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

// enum ctattr_counters.
const CTA_COUNTERS_PACKETS: u16 = 1;
const CTA_COUNTERS_BYTES: u16 = 2;

// enum ctattr_protoinfo, and the state in each of its nests (ctattr_protoinfo_tcp and _sctp).
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const CTA_PROTOINFO_STATE: u16 = 1;

// enum ctattr_filter, and its bits as the kernel numbers them (CTA_FILTER_F_* in
// net/netfilter/nf_conntrack_netlink.c); each says that a field of the tuple beside it counts.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const BY_SRC: u32 = 1 << 0;
const BY_DST: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_SRC_PORT: u32 = 1 << 4;
const BY_DST_PORT: u32 = 1 << 5;

// enum ctattr_stats_cpu.
const CTA_STATS_INVALID: u16 = 4;
const CTA_STATS_INSERT_FAILED: u16 = 9;
const CTA_STATS_DROP: u16 = 10;
const CTA_STATS_EARLY_DROP: u16 = 11;

/// IPS_DST_NAT (linux/netfilter/nf_conntrack_common.h): the destination was translated.
pub const IPS_DST_NAT: u32 = 1 << 5;
/// IPS_SRC_NAT: the source was, be it only its port.
pub const IPS_SRC_NAT: u32 = 1 << 4;

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
}

/// An entry of the connection-tracking table, in the default zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Family.
    pub family: Family,
    /// Protocol.
    pub protocol: Protocol,
    /// As the client sent it.
    pub original: Tuple,
    /// As the endpoint answers it.
    pub reply: Tuple,
    /// IPS_* bits (linux/netfilter/nf_conntrack_common.h).
    pub status: u32,
    /// The kernel's number of the entry: one that follows it with the same original tuple
    /// mostly, but not always, has another.
    pub id: u32,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = SocketAddr::new;
        write!(
            f,
            "{} {} -> {}, answered by {}",
            self.protocol,
            at(self.original.src, self.original.sport),
            at(self.original.dst, self.original.dport),
            at(self.reply.src, self.reply.sport)
        )
    }
}

impl Flow {
    /// True if the destination was translated.
    #[must_use]
    pub const fn is_dst_nat(&self) -> bool {
        self.status & IPS_DST_NAT != 0
    }

    /// True if the source was translated. A masqueraded client of this node itself may keep
    /// its address.
    #[must_use]
    pub const fn is_src_nat(&self) -> bool {
        self.status & IPS_SRC_NAT != 0
    }
}

/// What entries must agree in to be found.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub family: Family,
    /// IANA number.
    pub protocol: u8,
    pub original: Partial,
    pub reply: Partial,
}

/// Parts of a tuple; a field that is `None` does not count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Partial {
    pub src: Option<IpAddr>,
    pub dst: Option<IpAddr>,
    pub sport: Option<u16>,
    pub dport: Option<u16>,
}

impl From<Tuple> for Partial {
    fn from(tuple: Tuple) -> Self {
        Self {
            src: Some(tuple.src),
            dst: Some(tuple.dst),
            sport: Some(tuple.sport),
            dport: Some(tuple.dport),
        }
    }
}

impl Partial {
    fn flags(&self) -> u32 {
        let flag = |present: bool, bit: u32| if present { bit } else { 0 };
        BY_PROTOCOL
            | flag(self.src.is_some(), BY_SRC)
            | flag(self.dst.is_some(), BY_DST)
            | flag(self.sport.is_some(), BY_SRC_PORT)
            | flag(self.dport.is_some(), BY_DST_PORT)
    }

    fn write(&self, w: &mut Writer, kind: u16, protocol: u8) {
        let tuple = w.nest(kind);
        let ip = w.nest(CTA_TUPLE_IP);
        for (addr, v4, v6) in [
            (self.src, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
            (self.dst, CTA_IP_V4_DST, CTA_IP_V6_DST),
        ] {
            if let Some(addr) = addr {
                w.addr(if addr.is_ipv4() { v4 } else { v6 }, addr);
            }
        }
        w.end_nest(ip);
        let proto = w.nest(CTA_TUPLE_PROTO);
        w.attr(CTA_PROTO_NUM, &[protocol]);
        for (port, kind) in [
            (self.sport, CTA_PROTO_SRC_PORT),
            (self.dport, CTA_PROTO_DST_PORT),
        ] {
            if let Some(port) = port {
                w.u16(kind, port);
            }
        }
        w.end_nest(proto);
        w.end_nest(tuple);
    }
}

/// What a processor has counted since the network namespace began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets that are of no connection: they are not translated.
    pub invalid: u32,
    /// Connections that another one came before.
    pub insert_failed: u32,
    /// Packets lost with the entry they were to make.
    pub drop: u32,
    /// Entries thrown out of a full table.
    pub early_drop: u32,
}

impl std::iter::Sum for Stats {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            invalid: sum.invalid.wrapping_add(one.invalid),
            insert_failed: sum.insert_failed.wrapping_add(one.insert_failed),
            drop: sum.drop.wrapping_add(one.drop),
            early_drop: sum.early_drop.wrapping_add(one.early_drop),
        })
    }
}

/// Asks what each processor has counted.
#[must_use]
pub fn dump_stats() -> Vec<u8> {
    request(CT_GET_STATS_CPU, flag::DUMP, &nfgenmsg(0, 0, 0), |_| {})
}

/// Decodes what one has counted; `None` for other messages.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_stats(message: &Message<'_>) -> Result<Option<Stats>, ExchangeError> {
    if message.kind != CT_GET_STATS_CPU {
        return Ok(None);
    }
    let (_, a) = message.split::<4>().ok_or(ExchangeError::Garbled)?;
    let count = |kind| a.u32(kind).unwrap_or_default();
    Ok(Some(Stats {
        invalid: count(CTA_STATS_INVALID),
        insert_failed: count(CTA_STATS_INSERT_FAILED),
        drop: count(CTA_STATS_DROP),
        early_drop: count(CTA_STATS_EARLY_DROP),
    }))
}

/// Asks for the entries that a filter finds. Kernels before Linux 5.8 send all of the family.
#[must_use]
pub fn dump(filter: &Filter) -> Vec<u8> {
    filtered(CT_GET, flag::DUMP, filter)
}

/// Deletes the entries that a filter finds.
#[must_use]
pub fn delete_filtered(filter: &Filter) -> Vec<u8> {
    filtered(CT_DELETE, 0, filter)
}

fn filtered(kind: u16, flags: u16, filter: &Filter) -> Vec<u8> {
    let Filter {
        original, reply, ..
    } = filter;
    request(kind, flags, &header(filter.family), |w| {
        original.write(w, CTA_TUPLE_ORIG, filter.protocol);
        reply.write(w, CTA_TUPLE_REPLY, filter.protocol);
        let nest = w.nest(CTA_FILTER);
        // Host byte order, alone among the numbers here.
        w.attr(CTA_FILTER_ORIG_FLAGS, &original.flags().to_ne_bytes());
        w.attr(CTA_FILTER_REPLY_FLAGS, &reply.flags().to_ne_bytes());
        w.end_nest(nest);
        // The default zone; entries in others belong to whoever made the zone.
        w.u16(CTA_ZONE, 0);
    })
}

/// Deletes the one entry with this original tuple and id.
#[must_use]
pub fn delete(flow: &Flow) -> Vec<u8> {
    request(CT_DELETE, 0, &header(flow.family), |w| {
        Partial::from(flow.original).write(w, CTA_TUPLE_ORIG, flow.protocol.number());
        w.u32(CTA_ID, flow.id);
    })
}

/// Version 1: without it a flush takes no notice of the family.
const fn header(family: Family) -> [u8; 4] {
    nfgenmsg(family.number(), 1, 0)
}

/// Decodes an entry; `None` if it is in a zone, or not of a protocol that Services use.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode(message: &Message<'_>) -> Result<Option<Flow>, ExchangeError> {
    if message.kind != CT_NEW {
        return Ok(None);
    }
    let (header, attrs) = message.split::<4>().ok_or(ExchangeError::Garbled)?;
    Ok(flow(header[0], attrs))
}

fn flow(family: u8, a: Attrs<'_>) -> Option<Flow> {
    let (protocol, original) = tuple(a.nested(CTA_TUPLE_ORIG))?;
    let (_, reply) = tuple(a.nested(CTA_TUPLE_REPLY))?;
    (a.u16(CTA_ZONE).unwrap_or(0) == 0).then_some(Flow {
        family: Family::from_number(family)?,
        protocol: Protocol::from_number(protocol)?,
        original,
        reply,
        status: a.u32(CTA_STATUS).unwrap_or(0),
        id: a.u32(CTA_ID).unwrap_or(0),
    })
}

/// Protocol number and tuple; `None` if the tuple is in a zone or has no ports.
fn tuple(a: Attrs<'_>) -> Option<(u8, Tuple)> {
    if a.get(CTA_TUPLE_ZONE).is_some() {
        return None;
    }
    let (ip, proto) = (a.nested(CTA_TUPLE_IP), a.nested(CTA_TUPLE_PROTO));
    let addr = |v4, v6| ip.addr(v4).or_else(|| ip.addr(v6));
    let tuple = Tuple {
        src: addr(CTA_IP_V4_SRC, CTA_IP_V6_SRC)?,
        dst: addr(CTA_IP_V4_DST, CTA_IP_V6_DST)?,
        sport: proto.u16(CTA_PROTO_SRC_PORT)?,
        dport: proto.u16(CTA_PROTO_DST_PORT)?,
    };
    Some((proto.u8(CTA_PROTO_NUM)?, tuple))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::u16_at;
    use crate::netlink::message::{HEADER, Messages};

    fn flow(family: Family, addrs: [&str; 4]) -> Flow {
        let [src, dst, reply_src, reply_dst] = addrs.map(|addr| addr.parse().unwrap());
        Flow {
            family,
            protocol: Protocol::Udp,
            original: Tuple {
                src,
                dst,
                sport: 40_000,
                dport: 53,
            },
            reply: Tuple {
                src: reply_src,
                dst: reply_dst,
                sport: 5353,
                dport: 40_000,
            },
            status: IPS_DST_NAT,
            id: 0x1234_5678,
        }
    }

    /// As the kernel sends an entry.
    fn entry(flow: &Flow, zone: u16) -> Vec<u8> {
        request(CT_NEW, 0, &header(flow.family), |w| {
            let protocol = flow.protocol.number();
            Partial::from(flow.original).write(w, CTA_TUPLE_ORIG, protocol);
            Partial::from(flow.reply).write(w, CTA_TUPLE_REPLY, protocol);
            w.u32(CTA_STATUS, flow.status);
            w.u32(CTA_ID, flow.id);
            w.u16(CTA_ZONE, zone);
        })
    }

    fn read(bytes: &[u8]) -> Result<Option<Flow>, ExchangeError> {
        decode(&Messages(bytes).next().unwrap())
    }

    fn both() -> [Flow; 2] {
        [
            flow(
                Family::Ip,
                ["10.0.0.1", "10.96.0.10", "10.1.0.5", "10.0.0.1"],
            ),
            flow(Family::Ip6, ["fd00::1", "fd96::10", "fd01::5", "fd00::1"]),
        ]
    }

    #[test]
    fn an_entry_reads_back_unless_it_is_in_a_zone() {
        for flow in both() {
            assert_eq!(read(&entry(&flow, 0)).unwrap(), Some(flow.clone()));
            assert_eq!(read(&entry(&flow, 1)).unwrap(), None);
        }
    }

    #[test]
    fn a_deletion_names_family_tuple_and_id() {
        for flow in both() {
            let bytes = delete(&flow);
            let message = Messages(&bytes).next().unwrap();
            assert_eq!(message.family(), flow.family.number());
            let a = message.attrs();
            assert_eq!(tuple(a.nested(CTA_TUPLE_ORIG)), Some((17, flow.original)));
            assert_eq!(a.u32(CTA_ID), Some(flow.id));
        }
    }

    #[test]
    fn a_truncated_entry_is_an_error_or_no_entry() {
        let whole = entry(&both()[0], 0);
        let cut = |length: usize| {
            let mut bytes = whole[..length].to_vec();
            bytes[..4].copy_from_slice(&u32::try_from(length).unwrap().to_ne_bytes());
            read(&bytes)
        };
        let tuple = HEADER + 4 + usize::from(u16_at(&whole, HEADER + 4).unwrap());
        for length in (HEADER..tuple).filter(|length| *length != HEADER + 4) {
            assert!(cut(length).is_err(), "{length}");
        }
        assert_eq!(cut(tuple).unwrap(), None, "no reply tuple");
    }

    #[test]
    fn only_fields_that_are_given_count() {
        let partial = Partial {
            dport: Some(53),
            ..Partial::default()
        };
        assert_eq!(partial.flags(), BY_PROTOCOL | BY_DST_PORT);
    }
}
