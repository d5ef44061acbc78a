//! Extensions of iptables as iptables-nft hands them to the kernel: the matches that firewalls
//! and network plugins commonly use (linux/netfilter/xt_*.h).

use super::packet::{LOCAL, Packet, UNICAST, World};
use crate::net::Protocol;

/// XT_CONNTRACK_STATE, and the bit of a connection whose destination was translated.
const CONNTRACK_STATE: u16 = 1;
const CONNTRACK_DNAT: u16 = 1 << 7;
/// XT_CONNTRACK_STATE_UNTRACKED.
const CONNTRACK_UNTRACKED: u16 = 1 << 8;

fn u16_at(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(info: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?))
}

/// Whether a packet matches; `None` if that cannot be told.
pub(super) fn matches(
    name: &str,
    revision: u32,
    info: &[u8],
    packet: &Packet,
    world: &dyn World,
) -> Option<bool> {
    match name {
        "comment" => Some(true),
        "tcp" | "udp" | "sctp" => ports(name, info, packet),
        "multiport" => multiport(info, packet),
        "conntrack" | "state" => state(name, info, packet),
        "addrtype" if revision == 1 => addrtype(info, packet, world),
        "mark" => {
            let (mark, mask, invert) = (u32_at(info, 0)?, u32_at(info, 4)?, *info.get(8)?);
            Some((packet.mark? & mask == mark) != (invert != 0))
        }
        _ => None,
    }
}

/// struct xt_tcp, xt_udp and xt_sctp_info begin with the ranges of ports.
fn ports(name: &str, info: &[u8], packet: &Packet) -> Option<bool> {
    let same = matches!(
        (name, packet.protocol),
        ("tcp", Protocol::Tcp) | ("udp", Protocol::Udp) | ("sctp", Protocol::Sctp)
    );
    if !same {
        return Some(false);
    }
    let inverted = match name {
        "tcp" => *info.get(11)?,
        "udp" => *info.get(8)?,
        _ => return None,
    };
    let within = |at: usize, port: Option<u16>, bit: u8| {
        let (first, last) = (u16_at(info, at)?, u16_at(info, at + 2)?);
        let all = (first, last) == (0, u16::MAX);
        let inside = port.map(|port| (first..=last).contains(&port));
        inside
            .or(all.then_some(true))
            .map(|inside| inside != (inverted & bit != 0))
    };
    let (source, destination) = (within(0, packet.source_port, 1), within(4, packet.port, 2));
    // XT_TCP_INV_FLAGS.
    let flags = name != "tcp" || {
        let (mask, wanted) = (*info.get(9)?, *info.get(10)?);
        (packet.tcp_flags() & mask == wanted) != (inverted & 4 != 0)
    };
    let option = name == "tcp" && *info.get(8)? != 0;
    match (source, destination, flags) {
        (Some(false), ..) | (_, Some(false), _) | (.., false) => Some(false),
        (Some(true), Some(true), true) if !option => Some(true),
        _ => None,
    }
}

/// struct xt_multiport_v1.
fn multiport(info: &[u8], packet: &Packet) -> Option<bool> {
    const DESTINATION: u8 = 1;
    let (which, count) = (*info.first()?, usize::from(*info.get(1)?));
    if which != DESTINATION {
        return None;
    }
    let mut found = false;
    let mut i = 0;
    while i < count.min(15) {
        let port = u16_at(info, 2 + 2 * i)?;
        // With a flag, it and the next are a range.
        if *info.get(32 + i)? != 0 {
            i += 1;
            found |= (port..=u16_at(info, 2 + 2 * i)?).contains(&packet.port?);
        } else {
            found |= port == packet.port?;
        }
        i += 1;
    }
    Some(found != (*info.get(47)? != 0))
}

/// struct xt_conntrack_mtinfo3, of which only the state is followed, and struct xt_state_info.
fn state(name: &str, info: &[u8], packet: &Packet) -> Option<bool> {
    let is = |mask: u16| {
        if packet.untracked {
            return mask & CONNTRACK_UNTRACKED != 0;
        }
        let translated = mask & CONNTRACK_DNAT != 0 && packet.asked.is_some();
        u32::from(mask) & packet.state() != 0 || translated
    };
    if name == "state" {
        return Some(is(u16::try_from(u32_at(info, 0)?).ok()?));
    }
    let (flags, inverted, mask) = (u16_at(info, 146)?, u16_at(info, 148)?, u16_at(info, 150)?);
    (flags == CONNTRACK_STATE).then(|| is(mask) != (inverted & CONNTRACK_STATE != 0))
}

/// struct xt_addrtype_info_v1.
fn addrtype(info: &[u8], packet: &Packet, world: &dyn World) -> Option<bool> {
    let (source, destination, flags) = (u16_at(info, 0)?, u16_at(info, 2)?, u32_at(info, 4)?);
    if flags & !3 != 0 {
        return None;
    }
    let is = |mask: u16, address, inverted: bool| {
        let kind = packet.kind(address, world);
        let known = kind == LOCAL || kind == UNICAST;
        (mask == 0).then_some(true).or_else(|| {
            let hit = mask & (1 << kind) != 0;
            known.then_some(hit != inverted)
        })
    };
    let source = is(source, packet.source, flags & 1 != 0)?;
    Some(source && is(destination, packet.destination, flags & 2 != 0)?)
}

/// What a target makes of the packet's mark: struct xt_mark_tginfo2.
pub(super) fn mark(info: &[u8], packet: &Packet) -> Option<u32> {
    let (mark, mask) = (u32_at(info, 0)?, u32_at(info, 4)?);
    Some((packet.mark? & !mask) ^ mark)
}

/// True if the target CT says that the connection is not tracked: struct xt_ct_target_info
/// begins with flags, XT_CT_NOTRACK the first.
pub(super) fn notrack(info: &[u8]) -> bool {
    u16_at(info, 0).is_some_and(|flags| flags & 1 != 0)
}
