//! Connection-tracking messages: the few attributes of
//! linux/netfilter/nfnetlink_conntrack.h that are needed here, written and read.

use std::net::IpAddr;

use netlink_packet_core::{
    DecodeError, Emitable, Nla, NlaBuffer, NlasIterator, parse_ip, parse_u8, parse_u16_be,
    parse_u32_be,
};

use super::conntrack::{Flow, Tuple};
use super::socket::Request;
use crate::cluster::{Family, Protocol};

// enum cntl_msg_types, with NFNL_SUBSYS_CTNETLINK (1) in the upper byte.
pub(super) const CT_NEW: u16 = 1 << 8;
pub(super) const CT_GET: u16 = (1 << 8) | 1;
pub(super) const CT_DELETE: u16 = (1 << 8) | 2;

// enum ctattr_type.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
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

// enum ctattr_filter, and its bits as the kernel numbers them (CTA_FILTER_F_* in
// net/netfilter/nf_conntrack_netlink.c); each says that a field of the tuple beside it counts.
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;
const BY_SRC: u32 = 1 << 0;
const BY_DST: u32 = 1 << 1;
const BY_PROTOCOL: u32 = 1 << 3;
const BY_SRC_PORT: u32 = 1 << 4;
const BY_DST_PORT: u32 = 1 << 5;

/// Bytes of `struct nfgenmsg`: family, version, resource id.
const NFGENMSG_BYTES: usize = 4;

/// NFPROTO_IPV4 and NFPROTO_IPV6.
pub(super) const fn nf_proto(family: Family) -> u8 {
    match family {
        Family::Ip => 2,
        Family::Ip6 => 10,
    }
}

/// An attribute to be sent.
enum Attribute {
    Bytes(u16, Vec<u8>),
    Nested(u16, Vec<Attribute>),
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Self::Bytes(_, bytes) => bytes.len(),
            Self::Nested(_, inner) => inner.as_slice().buffer_len(),
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Self::Bytes(kind, _) | Self::Nested(kind, _) => *kind,
        }
    }

    fn is_nested(&self) -> bool {
        matches!(self, Self::Nested(..))
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Self::Bytes(_, bytes) => buffer.copy_from_slice(bytes),
            Self::Nested(_, inner) => inner.as_slice().emit(buffer),
        }
    }
}

/// What entries must agree in to be found; a field that is `None` does not count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filter {
    pub family: Family,
    /// IANA number.
    pub protocol: u8,
    pub original_dst: Option<IpAddr>,
    pub original_dport: Option<u16>,
    pub reply_src: Option<IpAddr>,
    pub reply_sport: Option<u16>,
}

/// Parts of a tuple that are written.
#[derive(Clone, Copy, Default)]
struct Partial {
    src: Option<IpAddr>,
    dst: Option<IpAddr>,
    sport: Option<u16>,
    dport: Option<u16>,
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

    fn attribute(&self, kind: u16, protocol: u8) -> Attribute {
        let addr = |addr: Option<IpAddr>, v4, v6| {
            addr.map(|addr| match addr {
                IpAddr::V4(addr) => Attribute::Bytes(v4, addr.octets().to_vec()),
                IpAddr::V6(addr) => Attribute::Bytes(v6, addr.octets().to_vec()),
            })
        };
        let port = |port: Option<u16>, kind| {
            port.map(|port| Attribute::Bytes(kind, port.to_be_bytes().to_vec()))
        };
        let ip: Vec<Attribute> = [
            addr(self.src, CTA_IP_V4_SRC, CTA_IP_V6_SRC),
            addr(self.dst, CTA_IP_V4_DST, CTA_IP_V6_DST),
        ]
        .into_iter()
        .flatten()
        .collect();
        let mut proto = vec![Attribute::Bytes(CTA_PROTO_NUM, vec![protocol])];
        proto.extend(port(self.sport, CTA_PROTO_SRC_PORT));
        proto.extend(port(self.dport, CTA_PROTO_DST_PORT));
        Attribute::Nested(
            kind,
            vec![
                Attribute::Nested(CTA_TUPLE_IP, ip),
                Attribute::Nested(CTA_TUPLE_PROTO, proto),
            ],
        )
    }
}

/// A request about the entries that a filter finds.
pub(super) fn filtered(message_type: u16, filter: &Filter) -> Request {
    let original = Partial {
        dst: filter.original_dst,
        dport: filter.original_dport,
        ..Partial::default()
    };
    let reply = Partial {
        src: filter.reply_src,
        sport: filter.reply_sport,
        ..Partial::default()
    };
    let flags = |kind, partial: &Partial| {
        // Host byte order, alone among the numbers here.
        Attribute::Bytes(kind, partial.flags().to_ne_bytes().to_vec())
    };
    let attributes = [
        original.attribute(CTA_TUPLE_ORIG, filter.protocol),
        reply.attribute(CTA_TUPLE_REPLY, filter.protocol),
        Attribute::Nested(
            CTA_FILTER,
            vec![
                flags(CTA_FILTER_ORIG_FLAGS, &original),
                flags(CTA_FILTER_REPLY_FLAGS, &reply),
            ],
        ),
        // The default zone; entries in others belong to whoever made the zone.
        Attribute::Bytes(CTA_ZONE, 0_u16.to_be_bytes().to_vec()),
    ];
    request(message_type, filter.family, &attributes)
}

/// Deletes the one entry with this original tuple and id.
pub(super) fn delete(flow: &Flow) -> Request {
    let original = Partial {
        src: Some(flow.original.src),
        dst: Some(flow.original.dst),
        sport: Some(flow.original.sport),
        dport: Some(flow.original.dport),
    };
    let attributes = [
        original.attribute(CTA_TUPLE_ORIG, flow.protocol.number()),
        Attribute::Bytes(CTA_ID, flow.id.to_be_bytes().to_vec()),
    ];
    request(CT_DELETE, flow.family, &attributes)
}

fn request(message_type: u16, family: Family, attributes: &[Attribute]) -> Request {
    // Version 1: without it a flush takes no notice of the family.
    let mut payload = vec![nf_proto(family), 1, 0, 0];
    payload.resize(NFGENMSG_BYTES + attributes.buffer_len(), 0);
    attributes.emit(&mut payload[NFGENMSG_BYTES..]);
    Request {
        message_type,
        flags: 0,
        payload,
    }
}

/// Decodes an entry; `None` if it is in a zone, or not of a protocol that Services use.
pub(super) fn decode(payload: &[u8]) -> Result<Option<Flow>, DecodeError> {
    let family = match payload.first() {
        Some(&number) if number == nf_proto(Family::Ip) => Family::Ip,
        Some(&number) if number == nf_proto(Family::Ip6) => Family::Ip6,
        _ => return Ok(None),
    };
    let mut original = None;
    let mut reply = None;
    let mut status = 0;
    let mut id = 0;
    for attribute in NlasIterator::new(payload.get(NFGENMSG_BYTES..).unwrap_or_default()) {
        let attribute = attribute?;
        match attribute.kind() {
            CTA_TUPLE_ORIG => original = tuple(&attribute)?,
            CTA_TUPLE_REPLY => reply = tuple(&attribute)?,
            CTA_STATUS => status = parse_u32_be(attribute.value())?,
            CTA_ID => id = parse_u32_be(attribute.value())?,
            CTA_ZONE if parse_u16_be(attribute.value())? != 0 => return Ok(None),
            _ => {}
        }
    }
    let (Some((protocol, original)), Some((_, reply))) = (original, reply) else {
        return Ok(None);
    };
    let Some(protocol) = Protocol::from_number(protocol) else {
        return Ok(None);
    };
    Ok(Some(Flow {
        family,
        protocol,
        original,
        reply,
        status,
        id,
    }))
}

/// Protocol number and tuple; `None` if the tuple is in a zone or has no ports.
fn tuple(attribute: &NlaBuffer<&[u8]>) -> Result<Option<(u8, Tuple)>, DecodeError> {
    let (mut src, mut dst) = (None, None);
    let (mut protocol, mut sport, mut dport) = (0, None, None);
    for part in NlasIterator::new(attribute.value()) {
        let part = part?;
        match part.kind() {
            CTA_TUPLE_IP => {
                for addr in NlasIterator::new(part.value()) {
                    let addr = addr?;
                    match addr.kind() {
                        CTA_IP_V4_SRC | CTA_IP_V6_SRC => src = Some(parse_ip(addr.value())?),
                        CTA_IP_V4_DST | CTA_IP_V6_DST => dst = Some(parse_ip(addr.value())?),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_PROTO => {
                for field in NlasIterator::new(part.value()) {
                    let field = field?;
                    match field.kind() {
                        CTA_PROTO_NUM => protocol = parse_u8(field.value())?,
                        CTA_PROTO_SRC_PORT => sport = Some(parse_u16_be(field.value())?),
                        CTA_PROTO_DST_PORT => dport = Some(parse_u16_be(field.value())?),
                        _ => {}
                    }
                }
            }
            CTA_TUPLE_ZONE => return Ok(None),
            _ => {}
        }
    }
    let (Some(src), Some(dst), Some(sport), Some(dport)) = (src, dst, sport, dport) else {
        return Ok(None);
    };
    let tuple = Tuple {
        src,
        dst,
        sport,
        dport,
    };
    Ok(Some((protocol, tuple)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            status: 0,
            id: 0x1234_5678,
        }
    }

    #[test]
    fn tuple_and_id_of_a_deletion_read_back() {
        for flow in [
            flow(
                Family::Ip,
                ["10.0.0.1", "10.96.0.10", "10.1.0.5", "10.0.0.1"],
            ),
            flow(Family::Ip6, ["fd00::1", "fd96::10", "fd01::5", "fd00::1"]),
        ] {
            let request = delete(&flow);
            assert_eq!(request.payload[0], nf_proto(flow.family));
            assert_eq!(decode(&request.payload).unwrap(), None, "no reply tuple");
            let attributes = NlasIterator::new(&request.payload[4..]);
            let first = attributes.flatten().next().unwrap();
            assert_eq!(tuple(&first).unwrap(), Some((17, flow.original)));
        }
    }

    #[test]
    fn a_truncated_entry_is_no_panic() {
        let flow = flow(
            Family::Ip,
            ["10.0.0.1", "10.96.0.10", "10.1.0.5", "10.0.0.1"],
        );
        let payload = delete(&flow).payload;
        for length in 0..payload.len() {
            let _ = decode(&payload[..length]);
        }
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
