//! A made-up packet as rules see it: the first of a connection.

use std::net::IpAddr;

use super::{Leads, Property, World};
use crate::net::Protocol;

/// The device a packet comes in or leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// There is none: this host sends it, or its route is not looked up yet.
    None,
    /// There is one, and it is not known which.
    Unknown,
    /// This one: name and index.
    Known(String, u32),
}

/// The first packet of a connection or the first answer to it, where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Source port; a client's is not known.
    pub source_port: Option<u16>,
    /// Destination address, translated or not.
    pub destination: IpAddr,
    /// Destination port, translated or not.
    pub port: Option<u16>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// True of the answer.
    pub is_reply: bool,
    /// The device it came in by.
    pub iif: Device,
    /// The device it leaves by.
    pub oif: Device,
    /// Where it is sent on that device, once it is routed.
    pub next_hop: Option<IpAddr>,
    /// The packet mark: 0 until a rule sets it, `None` if a rule set it to what is not known.
    pub mark: Option<u32>,
    /// The connection's mark, likewise.
    pub ct_mark: Option<u32>,
    /// A rule said that the connection is not to be tracked.
    pub untracked: bool,
    /// The conntrack zone that rules give it; `None` if that is not known.
    pub zone: Option<u16>,
    /// What the client asked for, if that was translated.
    pub asked: Option<(IpAddr, u16)>,
    /// The source of the first packet was translated.
    pub masqueraded: bool,
    /// It is at the hooks of the bridge of this name, as a frame between ports or to or from the
    /// host; the devices are the ports then.
    pub bridge: Option<String>,
}

impl Packet {
    /// The first packet of a connection that came in by `iif`.
    #[must_use]
    pub const fn first(
        source: IpAddr,
        (destination, port): (IpAddr, u16),
        protocol: Protocol,
        iif: Device,
    ) -> Self {
        Self {
            source,
            source_port: None,
            destination,
            port: Some(port),
            protocol,
            is_reply: false,
            iif,
            oif: Device::None,
            next_hop: None,
            mark: Some(0),
            ct_mark: Some(0),
            untracked: false,
            zone: Some(0),
            asked: None,
            masqueraded: false,
            bridge: None,
        }
    }

    /// The answer to it as the endpoint sends it, coming in by `iif`. What rules set the
    /// connection's mark to stays.
    #[must_use]
    pub fn reply(&self, iif: Device) -> Self {
        Self {
            source: self.destination,
            source_port: self.port,
            destination: self.source,
            port: self.source_port,
            is_reply: true,
            iif,
            oif: Device::None,
            next_hop: None,
            mark: Some(0),
            zone: Some(0),
            ..self.clone()
        }
    }
}

/// NFT_META_* (linux/netfilter/nf_tables.h, enum nft_meta_keys).
mod meta {
    pub const PROTOCOL: u32 = 1;
    pub const MARK: u32 = 3;
    pub const IIF: u32 = 4;
    pub const OIF: u32 = 5;
    pub const IIFNAME: u32 = 6;
    pub const OIFNAME: u32 = 7;
    pub const NFPROTO: u32 = 15;
    pub const L4PROTO: u32 = 16;
    pub const BRIDGE_IIFNAME: u32 = 17;
    pub const BRIDGE_OIFNAME: u32 = 18;
    pub const PKTTYPE: u32 = 19;
}

/// NFT_CT_* (enum nft_ct_keys).
mod ct {
    pub const STATE: u32 = 0;
    pub const DIRECTION: u32 = 1;
    pub const STATUS: u32 = 2;
    pub const MARK: u32 = 3;
    pub const SRC: u32 = 8;
    pub const DST: u32 = 9;
    pub const PROTOCOL: u32 = 10;
    pub const PROTO_DST: u32 = 12;
    pub const ZONE: u32 = 17;
    pub const SRC_IP: u32 = 19;
    pub const DST_IP: u32 = 20;
    pub const SRC_IP6: u32 = 21;
    pub const DST_IP6: u32 = 22;
}

/// NF_CT_STATE_BIT(IP_CT_NEW), (IP_CT_ESTABLISHED) and NF_CT_STATE_UNTRACKED_BIT.
pub(super) const STATE_NEW: u32 = 8;
const STATE_ESTABLISHED: u32 = 2;
const STATE_UNTRACKED: u32 = 64;
/// IPS_SEEN_REPLY, IPS_CONFIRMED, IPS_SRC_NAT and IPS_DST_NAT
/// (linux/netfilter/nf_conntrack_common.h).
const STATUS_ANSWERED: u32 = 0x02 | 0x08;
const STATUS_SNAT: u32 = 0x10;
const STATUS_DNAT: u32 = 0x20;
/// Longest name of a device, with its end (IFNAMSIZ).
const NAME: usize = 16;
/// Where a TCP header has its flags.
const TCP_FLAGS: u32 = 13;

/// RTN_UNICAST, RTN_LOCAL, RTN_BROADCAST, RTN_MULTICAST (linux/rtnetlink.h).
pub(super) const UNICAST: u32 = 1;
pub(super) const LOCAL: u32 = 2;
const BROADCAST: u32 = 3;
const MULTICAST: u32 = 5;
/// NFTA_FIB_F_* (linux/netfilter/nf_tables.h).
mod fib {
    pub const SADDR: u32 = 1;
    pub const DADDR: u32 = 2;
    pub const MARK: u32 = 4;
    pub const IIF: u32 = 8;
    pub const PRESENT: u32 = 32;
    /// NFT_FIB_RESULT_OIF and NFT_FIB_RESULT_ADDRTYPE.
    pub const OIF: u32 = 1;
    pub const ADDRTYPE: u32 = 3;
}
/// NFT_RT_NEXTHOP4 and NFT_RT_NEXTHOP6.
const NEXT_HOP: [u32; 2] = [1, 2];

impl Packet {
    /// So many bytes of a property; `None` for each that is not known.
    pub(super) fn bytes(
        &self,
        property: &Property,
        len: usize,
        world: &dyn World,
    ) -> Vec<Option<u8>> {
        let known = match property {
            Property::Payload { base, offset } => return self.payload(*base, *offset, len),
            Property::Meta(key) => self.meta(*key),
            Property::Ct(key) => self.ct(*key),
            Property::Fib(result, flags) => self.fib(*result, *flags, world),
            Property::Rt(key) if NEXT_HOP.contains(key) => self.next_hop.map(octets),
            Property::Rt(_) => None,
            Property::Other(_) => None,
        };
        let known = known.unwrap_or_default();
        (0..len).map(|i| known.get(i).copied()).collect()
    }

    fn fib(&self, result: u32, flags: u32, world: &dyn World) -> Option<Vec<u8>> {
        let address = match flags & (fib::SADDR | fib::DADDR) {
            fib::SADDR => self.source,
            fib::DADDR => self.destination,
            _ => return None,
        };
        if result == fib::ADDRTYPE {
            return Some(self.kind(address, world).to_ne_bytes().to_vec());
        }
        let mark = if flags & fib::MARK == 0 {
            0
        } else {
            self.mark?
        };
        let found = match world.leads(address, mark)? {
            Leads::Device(index) => index,
            Leads::Here | Leads::Nowhere => 0,
        };
        // With the device, the question is whether there is a way back by the same one.
        let found = match (flags & fib::IIF, &self.iif) {
            (0, _) => found,
            (_, Device::Known(_, iif)) if *iif == found => found,
            (_, Device::Unknown) => return None,
            _ => 0,
        };
        match result {
            _ if flags & fib::PRESENT != 0 => Some(vec![u8::from(found != 0)]),
            fib::OIF => Some(found.to_ne_bytes().to_vec()),
            _ => None,
        }
    }

    /// RTN_* of an address.
    pub(super) fn kind(&self, address: IpAddr, world: &dyn World) -> u32 {
        match address {
            address if address.is_multicast() => MULTICAST,
            IpAddr::V4(v4) if v4.is_broadcast() => BROADCAST,
            address if world.is_local(address) => LOCAL,
            _ => UNICAST,
        }
    }

    fn payload(&self, base: u32, offset: u32, len: usize) -> Vec<Option<u8>> {
        let end = offset.saturating_add(u32::try_from(len).unwrap_or(u32::MAX));
        (offset..end)
            .map(|at| match base {
                0 => self.link(at),
                1 => self.network(at),
                2 => self.transport(at),
                _ => None,
            })
            .collect()
    }

    /// Of an Ethernet header, what it carries.
    fn link(&self, at: u32) -> Option<u8> {
        let [high, low] = self.ether_type();
        match at {
            12 => Some(high),
            13 => Some(low),
            _ => None,
        }
    }

    /// ETH_P_IP or ETH_P_IPV6.
    const fn ether_type(&self) -> [u8; 2] {
        if self.destination.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        }
    }

    fn network(&self, at: u32) -> Option<u8> {
        let at = at as usize;
        let protocol = self.protocol.number();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => match at {
                0 => Some(0x45),
                9 => Some(protocol),
                12..16 => source.octets().get(at - 12).copied(),
                16..20 => destination.octets().get(at - 16).copied(),
                _ => None,
            },
            (IpAddr::V6(source), IpAddr::V6(destination)) => match at {
                6 => Some(protocol),
                8..24 => source.octets().get(at - 8).copied(),
                24..40 => destination.octets().get(at - 24).copied(),
                _ => None,
            },
            _ => None,
        }
    }

    fn transport(&self, at: u32) -> Option<u8> {
        match at {
            0 | 1 => self.source_port?.to_be_bytes().get(at as usize).copied(),
            2 | 3 => self.port?.to_be_bytes().get(at as usize - 2).copied(),
            TCP_FLAGS if self.protocol == Protocol::Tcp => Some(self.tcp_flags()),
            _ => None,
        }
    }

    /// A SYN, or its answer.
    pub(super) const fn tcp_flags(&self) -> u8 {
        if self.is_reply { 0x12 } else { 0x02 }
    }

    /// NF_CT_STATE_BIT of what connection tracking says of it.
    pub(super) const fn state(&self) -> u32 {
        match (self.untracked, self.is_reply) {
            (true, _) => STATE_UNTRACKED,
            (false, true) => STATE_ESTABLISHED,
            (false, false) => STATE_NEW,
        }
    }

    fn meta(&self, key: u32) -> Option<Vec<u8>> {
        let is_v4 = self.destination.is_ipv4();
        let name = |device: &Device| match device {
            Device::None => Some(vec![0; NAME]),
            Device::Unknown => None,
            Device::Known(name, _) => {
                let mut bytes = name.clone().into_bytes();
                bytes.resize(NAME, 0);
                Some(bytes)
            }
        };
        let index = |device: &Device| match device {
            Device::None => Some(vec![0; 4]),
            Device::Unknown => None,
            Device::Known(_, index) => Some(index.to_ne_bytes().to_vec()),
        };
        match key {
            meta::PROTOCOL => Some(self.ether_type().to_vec()),
            meta::MARK => self.mark.map(|mark| mark.to_ne_bytes().to_vec()),
            meta::IIF => index(&self.iif),
            meta::OIF => index(&self.oif),
            meta::IIFNAME => name(&self.iif),
            meta::OIFNAME => name(&self.oif),
            meta::NFPROTO => Some(vec![if is_v4 { 2 } else { 10 }]),
            meta::L4PROTO => Some(vec![self.protocol.number()]),
            // The bridge of a port that is known.
            meta::BRIDGE_IIFNAME => self.bridge_of(&self.iif).and_then(|of| name(&of)),
            meta::BRIDGE_OIFNAME => self.bridge_of(&self.oif).and_then(|of| name(&of)),
            // PACKET_HOST; frames to another port are PACKET_OTHERHOST.
            meta::PKTTYPE if self.bridge.is_none() => Some(vec![0]),
            _ => None,
        }
    }

    /// The bridge that a device is a port of, where the packet is at its hooks.
    fn bridge_of(&self, port: &Device) -> Option<Device> {
        let bridge = self.bridge.clone()?;
        Some(match port {
            Device::Known(..) => Device::Known(bridge, 0),
            other => other.clone(),
        })
    }

    /// The address and port of who answers.
    pub(super) const fn answering(&self) -> (IpAddr, Option<u16>) {
        match self.is_reply {
            true => (self.source, self.source_port),
            false => (self.destination, self.port),
        }
    }

    /// The address and port that the client asked for.
    pub(super) fn asked_for(&self) -> (IpAddr, Option<u16>) {
        let asked = self.asked.map(|(address, port)| (address, Some(port)));
        asked.unwrap_or_else(|| self.answering())
    }

    /// The client's address and port.
    pub(super) const fn asking(&self) -> (IpAddr, Option<u16>) {
        match self.is_reply {
            true => (self.destination, self.port),
            false => (self.source, self.source_port),
        }
    }

    /// IPS_* of its connection.
    pub(super) fn status(&self) -> u32 {
        let flags = [
            (self.is_reply, STATUS_ANSWERED),
            (self.masqueraded, STATUS_SNAT),
            (self.asked.is_some(), STATUS_DNAT),
        ];
        let set = flags.iter().filter(|(is_set, _)| *is_set);
        set.fold(0, |status, (_, flag)| status | flag)
    }

    fn ct(&self, key: u32) -> Option<Vec<u8>> {
        let (asked, port) = self.asked_for();
        match key {
            ct::STATE => Some(self.state().to_ne_bytes().to_vec()),
            ct::DIRECTION => Some(vec![u8::from(self.is_reply)]),
            ct::STATUS => Some(u32::to_ne_bytes(self.status()).to_vec()),
            ct::MARK => self.ct_mark.map(|mark| mark.to_ne_bytes().to_vec()),
            ct::DST | ct::DST_IP | ct::DST_IP6 => Some(octets(asked)),
            ct::SRC | ct::SRC_IP | ct::SRC_IP6 => Some(octets(self.asking().0)),
            ct::PROTOCOL => Some(vec![self.protocol.number()]),
            ct::PROTO_DST => port.map(|port| port.to_be_bytes().to_vec()),
            ct::ZONE => self.zone.map(|zone| zone.to_ne_bytes().to_vec()),
            _ => None,
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
