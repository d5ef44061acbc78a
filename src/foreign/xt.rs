//! Extensions of iptables as iptables-nft and the legacy iptables hand them to the kernel: the
//! matches and targets that firewalls, container runtimes and network plugins commonly use
//! (linux/netfilter/xt_*.h).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::ipset::{self, IpSet};
use super::packet::{Device, LOCAL, Packet, UNICAST};
use super::state::{Leads, World};
use crate::net::Protocol;

/// XT_CONNTRACK_* of which a condition can be told.
mod conntrack {
    pub const STATE: u16 = 1;
    pub const PROTOCOL: u16 = 1 << 1;
    pub const ASKING: u16 = 1 << 2;
    pub const ASKED: u16 = 1 << 3;
    pub const ANSWERING: u16 = 1 << 4;
    pub const ANSWERED: u16 = 1 << 5;
    pub const STATUS: u16 = 1 << 6;
    pub const EXPIRES: u16 = 1 << 7;
    pub const ASKING_PORT: u16 = 1 << 8;
    pub const ASKED_PORT: u16 = 1 << 9;
    pub const ANSWERING_PORT: u16 = 1 << 10;
    pub const ANSWERED_PORT: u16 = 1 << 11;
    pub const DIRECTION: u16 = 1 << 12;
    /// XT_CONNTRACK_STATE_SNAT, _DNAT and _UNTRACKED.
    pub const SNAT: u16 = 1 << 6;
    pub const DNAT: u16 = 1 << 7;
    pub const UNTRACKED: u16 = 1 << 8;
}

fn u16_at(info: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(info: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?))
}

/// union nf_inet_addr, of the family of `like`.
fn address_at(info: &[u8], at: usize, like: IpAddr) -> Option<IpAddr> {
    Some(match like {
        IpAddr::V4(_) => {
            let octets: [u8; 4] = info.get(at..at + 4)?.try_into().ok()?;
            Ipv4Addr::from(octets).into()
        }
        IpAddr::V6(_) => {
            let octets: [u8; 16] = info.get(at..at + 16)?.try_into().ok()?;
            Ipv6Addr::from(octets).into()
        }
    })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// All of several conditions: one that fails decides, whatever is not known of the others.
fn all<const N: usize>(conditions: [Option<bool>; N]) -> Option<bool> {
    if conditions.contains(&Some(false)) {
        return Some(false);
    }
    conditions.iter().all(Option::is_some).then_some(true)
}

/// What a match is asked about.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) packet: &'a Packet,
    pub(super) world: &'a dyn World,
    pub(super) ipsets: &'a BTreeMap<u16, IpSet>,
}

impl Asked<'_> {
    /// Whether the packet matches; `None` if that cannot be told.
    pub(super) fn matches(&self, name: &str, revision: u32, info: &[u8]) -> Option<bool> {
        let packet = self.packet;
        match name {
            "comment" => Some(true),
            // Other protocols, and headers that such a packet does not have.
            "icmp" | "icmp6" | "dccp" | "udplite" | "ah" | "esp" | "rt" | "frag" | "hbh"
            | "dst" | "mh" => Some(false),
            "tcp" | "udp" | "sctp" => self.ports(name, info),
            "multiport" => self.multiport(revision, info),
            "conntrack" => self.conntrack(revision, info),
            "state" => Some(self.is_in_state(u16::try_from(u32_at(info, 0)?).ok()?)),
            "addrtype" => self.addrtype(revision, info),
            "mark" if revision == 1 => marked(packet.mark, info),
            "connmark" if revision == 1 => marked(packet.ct_mark, info),
            "iprange" if revision == 1 => self.iprange(info),
            // Such packets are for this host on their link: PACKET_HOST.
            "pkttype" => Some((u32_at(info, 0)? == 0) != (u32_at(info, 4)? != 0)),
            "physdev" => bridged(info),
            "statistic" => always(info),
            "owner" if revision == 1 => self.owner(info),
            "rpfilter" => self.rpfilter(info),
            "set" if revision >= 1 => self.ipset(revision, info),
            _ => None,
        }
    }

    /// struct xt_tcp, xt_udp and xt_sctp_info begin with the ranges of ports.
    fn ports(&self, name: &str, info: &[u8]) -> Option<bool> {
        let packet = self.packet;
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
            let range = u16_at(info, at)?..=u16_at(info, at + 2)?;
            let inside = inside(&range, port)?;
            Some(inside != (inverted & bit != 0))
        };
        // XT_TCP_INV_FLAGS.
        let flags = name != "tcp" || {
            let (mask, wanted) = (*info.get(9)?, *info.get(10)?);
            (packet.tcp_flags() & mask == wanted) != (inverted & 4 != 0)
        };
        let option = name == "tcp" && *info.get(8)? != 0;
        all([
            within(0, packet.source_port, 1),
            within(4, packet.port, 2),
            Some(flags),
            (!option).then_some(true),
        ])
    }

    /// struct xt_multiport_v1, and of revision 0 without ranges and inversion.
    fn multiport(&self, revision: u32, info: &[u8]) -> Option<bool> {
        /// XT_MULTIPORT_SOURCE and XT_MULTIPORT_DESTINATION.
        const SOURCE: u8 = 0;
        const DESTINATION: u8 = 1;
        let (which, count) = (*info.first()?, usize::from(*info.get(1)?));
        let mut ranges = Vec::new();
        let mut i = 0;
        while i < count.min(15) {
            let first = u16_at(info, 2 + 2 * i)?;
            // With a flag, it and the next are a range.
            let is_range = revision > 0 && *info.get(32 + i)? != 0;
            i += usize::from(is_range);
            ranges.push(first..=u16_at(info, 2 + 2 * i)?);
            i += 1;
        }
        let held = |port: Option<u16>| {
            let port = port?;
            Some(ranges.iter().any(|range| range.contains(&port)))
        };
        let (source, destination) = (held(self.packet.source_port), held(self.packet.port));
        let found = match which {
            SOURCE => source,
            DESTINATION => destination,
            _ if source == Some(true) || destination == Some(true) => Some(true),
            _ => source.and(destination),
        }?;
        Some(found != (revision > 0 && *info.get(47)? != 0))
    }

    fn is_in_state(&self, mask: u16) -> bool {
        let packet = self.packet;
        if packet.untracked {
            return mask & conntrack::UNTRACKED != 0;
        }
        let dnat = mask & conntrack::DNAT != 0 && packet.asked.is_some();
        let snat = mask & conntrack::SNAT != 0 && packet.masqueraded;
        u32::from(mask) & packet.state() != 0 || dnat || snat
    }

    /// struct xt_conntrack_mtinfo1, 2 and 3: the first has states of eight bits, the last ranges of
    /// ports in host order.
    fn conntrack(&self, revision: u32, info: &[u8]) -> Option<bool> {
        if !matches!(revision, 1..=3) {
            return None;
        }
        let packet = self.packet;
        let (flags, inverted) = (u16_at(info, 146)?, u16_at(info, 148)?);
        let (states, status) = match revision {
            1 => (u16::from(*info.get(150)?), u16::from(*info.get(151)?)),
            _ => (u16_at(info, 150)?, u16_at(info, 152)?),
        };
        if packet.untracked && flags != conntrack::STATE {
            return Some(false);
        }
        let address = |at: usize, address: Option<IpAddr>| {
            let address = address?;
            let (wanted, mask) = (
                address_at(info, at, address)?,
                address_at(info, at + 16, address)?,
            );
            let bytes = octets(address).into_iter().zip(octets(mask));
            let masked = bytes.map(|(byte, mask)| byte & mask);
            Some(masked.eq(octets(wanted)))
        };
        let port = |at: usize, high: usize, port: Option<u16>| match revision {
            3 => inside(&(u16_at(info, at)?..=u16_at(info, high)?), port),
            _ => Some(u16::from_be(u16_at(info, at)?) == port?),
        };
        let (asking, asked, answering) = (packet.asking(), packet.asked_for(), packet.answering());
        // Whom the endpoint answers to; of what is masqueraded, an address of this host.
        let answered = Some(asking).filter(|_| !packet.masqueraded);
        let whole = |flag: u16, held: Option<bool>| match flags & flag {
            0 => Some(true),
            _ => held.map(|held| held != (inverted & flag != 0)),
        };
        let protocol = u16::from(packet.protocol.number());
        all([
            whole(conntrack::STATE, Some(self.is_in_state(states))),
            whole(conntrack::PROTOCOL, Some(u16_at(info, 136)? == protocol)),
            whole(conntrack::ASKING, address(0, Some(asking.0))),
            whole(conntrack::ASKED, address(32, Some(asked.0))),
            whole(conntrack::ANSWERING, address(64, Some(answering.0))),
            whole(conntrack::ANSWERED, address(96, answered.map(|a| a.0))),
            whole(
                conntrack::STATUS,
                Some(u32::from(status) & packet.status() != 0),
            ),
            whole(conntrack::EXPIRES, None),
            whole(conntrack::ASKING_PORT, port(138, 154, asking.1)),
            whole(conntrack::ASKED_PORT, port(140, 156, asked.1)),
            whole(conntrack::ANSWERING_PORT, port(142, 158, answering.1)),
            whole(conntrack::ANSWERED_PORT, None),
            whole(conntrack::DIRECTION, Some(!packet.is_reply)),
        ])
    }

    /// struct xt_addrtype_info_v1, and struct xt_addrtype_info with an inversion for each.
    fn addrtype(&self, revision: u32, info: &[u8]) -> Option<bool> {
        let packet = self.packet;
        let (source, destination) = (u16_at(info, 0)?, u16_at(info, 2)?);
        let (not_source, not_destination) = match revision {
            0 => (u32_at(info, 4)? != 0, u32_at(info, 8)? != 0),
            _ => {
                let flags = u32_at(info, 4)?;
                // XT_ADDRTYPE_LIMIT_IFACE_IN and _OUT ask for the addresses of one device.
                if flags & !3 != 0 {
                    return None;
                }
                (flags & 1 != 0, flags & 2 != 0)
            }
        };
        let is = |mask: u16, address, inverted: bool| {
            let kind = packet.kind(address, self.world);
            let known = kind == LOCAL || kind == UNICAST;
            (mask == 0).then_some(true).or_else(|| {
                let hit = mask & (1 << kind) != 0;
                known.then_some(hit != inverted)
            })
        };
        all([
            is(source, packet.source, not_source),
            is(destination, packet.destination, not_destination),
        ])
    }

    /// struct xt_iprange_mtinfo.
    fn iprange(&self, info: &[u8]) -> Option<bool> {
        let flags = *info.get(64)?;
        let within = |flag: u8, at: usize, address: IpAddr| {
            if flags & flag == 0 {
                return Some(true);
            }
            let (first, last) = (
                address_at(info, at, address)?,
                address_at(info, at + 16, address)?,
            );
            // IPRANGE_SRC_INV and IPRANGE_DST_INV are four bits above.
            Some((first..=last).contains(&address) != (flags & flag << 4 != 0))
        };
        all([
            within(1, 0, self.packet.source),
            within(2, 32, self.packet.destination),
        ])
    }

    /// struct xt_owner_match_info: what others send has no socket here.
    fn owner(&self, info: &[u8]) -> Option<bool> {
        let (wanted, inverted) = (*info.get(16)?, *info.get(17)?);
        (self.packet.iif != Device::None).then_some(wanted ^ inverted == 0)
    }

    /// struct xt_rpfilter_info: whether the way back to the source is by the device it came in by.
    fn rpfilter(&self, info: &[u8]) -> Option<bool> {
        /// XT_RPFILTER_LOOSE, _VALID_MARK, _ACCEPT_LOCAL and _INVERT.
        const LOOSE: u8 = 1;
        const WITH_MARK: u8 = 2;
        const LOCAL_TOO: u8 = 4;
        const INVERTED: u8 = 8;
        let flags = *info.first()?;
        let mark = match flags & WITH_MARK {
            0 => 0,
            _ => self.packet.mark?,
        };
        let Device::Known(_, iif) = &self.packet.iif else {
            return None;
        };
        let believed = match self.world.leads(self.packet.source, mark)? {
            Leads::Nowhere => false,
            Leads::Here => flags & LOCAL_TOO != 0,
            Leads::Device(index) => index == *iif || flags & LOOSE != 0,
        };
        Some(believed != (flags & INVERTED != 0))
    }

    /// struct xt_set_info_match_v1 to v4.
    fn ipset(&self, revision: u32, info: &[u8]) -> Option<bool> {
        /// IPSET_INV_MATCH; the bits above are of the parts.
        const INVERTED: u8 = 1;
        // Where the conditions on counters are: struct ip_set_counter_match0 and _match.
        let counters = match revision {
            3 => [8, 24],
            _ => [16, 32],
        };
        if revision > 2 && counters.iter().any(|at| info.get(*at) != Some(&0)) {
            return None;
        }
        let set = self.ipsets.get(&u16_at(info, 0)?)?;
        let flags = *info.get(3)?;
        // IPSET_RETURN_NOMATCH.
        if flags & 0x80 != 0 {
            return None;
        }
        let named = |name: &str| self.ipsets.values().find(|set| set.name == name);
        let held = ipset::holds(&named, set, flags >> 1, self.packet)?;
        Some(held != (flags & INVERTED != 0))
    }
}

/// Whether a port is in a range; all ports are in that of all.
fn inside(range: &std::ops::RangeInclusive<u16>, port: Option<u16>) -> Option<bool> {
    let is_all = *range == (0..=u16::MAX);
    port.map(|port| range.contains(&port))
        .or(is_all.then_some(true))
}

/// struct xt_mark_mtinfo1 and struct xt_connmark_mtinfo1.
fn marked(mark: Option<u32>, info: &[u8]) -> Option<bool> {
    let (wanted, mask, inverted) = (u32_at(info, 0)?, u32_at(info, 4)?, *info.get(8)?);
    let mark = match mask {
        0 => 0,
        mask => mark? & mask,
    };
    Some((mark == wanted) != (inverted != 0))
}

/// struct xt_physdev_info: a packet that this host routes is not forwarded by a bridge.
fn bridged(info: &[u8]) -> Option<bool> {
    /// XT_PHYSDEV_OP_BRIDGED.
    const BRIDGED: u8 = 4;
    let (inverted, asked) = (*info.get(64)?, *info.get(65)?);
    (asked == BRIDGED).then_some(inverted & BRIDGED != 0)
}

/// struct xt_statistic_info: a probability of one is no question of chance.
fn always(info: &[u8]) -> Option<bool> {
    let (mode, flags, probability) = (u16_at(info, 0)?, u16_at(info, 2)?, u32_at(info, 4)?);
    (mode == 0 && probability >= 1 << 31).then_some(flags & 1 == 0)
}

/// What of a new destination is a constant: struct nf_nat_ipv4_multi_range_compat of revision 0,
/// else struct nf_nat_range, with which nf_nat_range2 begins.
pub(super) fn translation(
    revision: u32,
    info: &[u8],
    packet: &Packet,
) -> (Option<IpAddr>, Option<u16>) {
    /// NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED.
    const ADDRESS: u32 = 1;
    const PORT: u32 = 2;
    let (flags, addresses, ports) = match revision {
        0 => (4, [8, 12], [16, 18]),
        _ => (0, [4, 20], [36, 38]),
    };
    let Some(flags) = u32_at(info, flags) else {
        return (None, None);
    };
    let [first, last] = addresses.map(|at| address_at(info, at, packet.destination));
    let address = first.filter(|_| flags & ADDRESS != 0 && first == last);
    let [first, last] = ports.map(|at| u16_at(info, at).map(u16::from_be));
    let port = first.filter(|_| flags & PORT != 0 && first == last);
    (address, port)
}

/// What a target changes of the packet that others may ask for, which then goes on; `None` if the
/// target is not known.
pub(super) fn changes(name: &str, revision: u32, info: &[u8], packet: &mut Packet) -> Option<()> {
    match name {
        // struct xt_mark_tginfo2.
        "MARK" => {
            let changed = |mark: u32| Some(mark & !u32_at(info, 4)? ^ u32_at(info, 0)?);
            packet.mark = match u32_at(info, 4) {
                // Whatever it was.
                Some(u32::MAX) => u32_at(info, 0),
                _ => packet.mark.and_then(changed),
            };
        }
        "CONNMARK" => connmark(revision, info, packet),
        "NOTRACK" => packet.untracked = true,
        // struct xt_ct_target_info begins with flags (XT_CT_NOTRACK, XT_CT_NOTRACK_ALIAS, and that
        // the zone is one direction's or the mark) and a zone.
        "CT" => {
            let flags = u16_at(info, 0)?;
            packet.untracked |= flags & 1 != 0;
            packet.zone = u16_at(info, 2).filter(|_| flags & !3 == 0);
        }
        "HMARK" => packet.mark = None,
        "AUDIT" | "CHECKSUM" | "CLASSIFY" | "CONNSECMARK" | "DSCP" | "ECN" | "HL" | "IDLETIMER"
        | "LED" | "LOG" | "NFLOG" | "RATEEST" | "SECMARK" | "SET" | "TCPMSS" | "TCPOPTSTRIP"
        | "TEE" | "TOS" | "TRACE" | "TTL" | "ULOG" => {}
        _ => return None,
    }
    Some(())
}

/// struct xt_connmark_tginfo1 and xt_connmark_tginfo2, which may shift.
fn connmark(revision: u32, info: &[u8], packet: &mut Packet) {
    /// XT_CONNMARK_SET, _SAVE and _RESTORE.
    const SET: u8 = 0;
    const SAVE: u8 = 1;
    let mode_at = if revision == 1 { 12 } else { 14 };
    let shifted = revision > 1 && info.get(13) != Some(&0);
    let field = |at: usize| u32_at(info, at);
    let (Some(ct), Some(ct_mask), Some(nf_mask), Some(mode)) =
        (field(0), field(4), field(8), info.get(mode_at))
    else {
        (packet.mark, packet.ct_mark) = (None, None);
        return;
    };
    let known = |mark: Option<u32>| mark.filter(|_| !shifted);
    match *mode {
        SET => packet.ct_mark = known(packet.ct_mark).map(|mark| mark & !ct_mask ^ ct),
        SAVE => {
            let marks = known(packet.ct_mark).zip(packet.mark);
            packet.ct_mark = marks.map(|(old, mark)| old & !ct_mask ^ mark & nf_mask);
        }
        _ => {
            let marks = known(packet.mark).zip(packet.ct_mark);
            packet.mark = marks.map(|(old, mark)| old & !nf_mask ^ mark & ct_mask);
        }
    }
}
