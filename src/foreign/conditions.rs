//! What a rule asks of packets, as far as it is addresses, a port and a protocol: for who asks
//! not about one packet but which ones a rule is for.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::{End, Expr, Op, Property, Register, Rule};

/// The headers a payload is of (enum nft_payload_bases).
const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;
/// NFT_META_PROTOCOL, NFT_META_NFPROTO and NFT_META_L4PROTO.
const FAMILY: [u32; 2] = [1, 15];
const L4PROTO: u32 = 16;

/// The conditions of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Not every packet takes it.
    pub conditional: bool,
    /// Only packets from here.
    pub source: Option<IpNet>,
    /// Only packets to here.
    pub destination: Option<IpNet>,
    /// Only packets to this port.
    pub port: Option<u16>,
    /// Only packets of this transport protocol (IPPROTO_*).
    pub protocol: Option<u8>,
}

impl Conditions {
    /// These, and then those of another rule.
    #[must_use]
    pub fn and(&self, then: &Self) -> Self {
        Self {
            conditional: self.conditional || then.conditional,
            source: then.source.or(self.source),
            destination: then.destination.or(self.destination),
            port: then.port.or(self.port),
            protocol: then.protocol.or(self.protocol),
        }
    }
}

/// What a rule does that matters beside our translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing of the kind.
    None,
    /// Another chain is walked.
    To(String),
    /// The destination is translated.
    Dnat,
    /// The source is translated.
    Snat,
}

/// What a register holds, for the comparison that follows.
#[derive(Clone, Copy)]
enum Loaded {
    Network {
        offset: u32,
        prefix: Option<u8>,
    },
    Port,
    L4Proto,
    /// The packet's family, which nft asks before its addresses: those say as much.
    Family,
}

impl Rule {
    /// What it asks for, and what it does.
    #[must_use]
    pub fn summary(&self) -> (Conditions, Effect) {
        let mut found = Conditions::default();
        let mut effect = Effect::None;
        let mut registers: HashMap<Register, Loaded> = HashMap::new();
        for expression in &self.expressions {
            match expression {
                Expr::Load(property, to, len) => {
                    hold(&mut registers, *to, loaded(property, *len));
                }
                Expr::Bitwise {
                    source,
                    destination,
                    mask,
                    ..
                } => {
                    let masked = match registers.get(source) {
                        Some(Loaded::Network { offset, .. }) => Some(Loaded::Network {
                            offset: *offset,
                            prefix: prefix(mask),
                        }),
                        _ => None,
                    };
                    hold(&mut registers, *destination, masked);
                }
                Expr::Cmp(register, op, value) => {
                    found.conditional = true;
                    if let (Op::Eq, Some(loaded)) = (op, registers.get(register)) {
                        constrain(&mut found, *loaded, value);
                    }
                }
                Expr::XtMatch(name, _, info) => {
                    found.conditional |= name != "comment";
                    found.port = port(name, info).or(found.port);
                }
                Expr::Range(..) | Expr::Lookup { .. } | Expr::Condition(_) => {
                    found.conditional = true;
                }
                Expr::End(End::Jump(to) | End::Goto(to)) => effect = Effect::To(to.clone()),
                Expr::Dnat { .. } | Expr::Redirect => effect = Effect::Dnat,
                Expr::Snat => effect = Effect::Snat,
                Expr::XtTarget(name, ..) => match name.as_str() {
                    "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" => effect = Effect::Dnat,
                    "SNAT" | "MASQUERADE" => effect = Effect::Snat,
                    _ => {}
                },
                _ => {}
            }
        }
        (found, effect)
    }
}

fn loaded(property: &Property, len: usize) -> Option<Loaded> {
    match *property {
        Property::Meta(L4PROTO) => Some(Loaded::L4Proto),
        Property::Meta(key) if FAMILY.contains(&key) => Some(Loaded::Family),
        Property::Payload {
            base: NETWORK,
            offset,
        } => Some(Loaded::Network {
            offset,
            prefix: u8::try_from(len * 8).ok(),
        }),
        Property::Payload {
            base: TRANSPORT,
            offset: 2,
        } if len == 2 => Some(Loaded::Port),
        _ => None,
    }
}

fn hold(registers: &mut HashMap<Register, Loaded>, register: Register, loaded: Option<Loaded>) {
    match loaded {
        Some(loaded) => registers.insert(register, loaded),
        None => registers.remove(&register),
    };
}

/// Takes a comparison for what it asks for, if it is something that is looked at here.
fn constrain(found: &mut Conditions, loaded: Loaded, value: &[u8]) {
    match loaded {
        Loaded::L4Proto => found.protocol = value.first().copied(),
        Loaded::Family => {}
        Loaded::Port => {
            let port = value.try_into().ok().map(u16::from_be_bytes);
            found.port = port.or(found.port);
        }
        Loaded::Network { offset, prefix } => {
            let net = prefix.and_then(|prefix| net(offset, prefix, value));
            match offset {
                // struct iphdr and struct ipv6hdr: source, then destination.
                12 | 8 => found.source = net,
                16 | 24 => found.destination = net,
                // The protocol of IPv4, the next header of IPv6.
                9 | 6 => found.protocol = value.first().copied(),
                _ => {}
            }
        }
    }
}

/// Leading ones of a mask without holes.
fn prefix(mask: &[u8]) -> Option<u8> {
    let bits: String = mask.iter().map(|byte| format!("{byte:08b}")).collect();
    let ones = bits.find('0').unwrap_or(bits.len());
    (!bits[ones..].contains('1')).then(|| u8::try_from(ones).unwrap_or_default())
}

/// The prefix that is compared; part of an address is one too.
fn net(offset: u32, prefix: u8, value: &[u8]) -> Option<IpNet> {
    let addr: IpAddr = if matches!(offset, 12 | 16) {
        let mut bytes = [0; 4];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Ipv4Addr::from(bytes).into()
    } else {
        let mut bytes = [0; 16];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        Ipv6Addr::from(bytes).into()
    };
    IpNet::new(addr, prefix).ok()
}

/// The one destination port of a `tcp` or `udp` match of iptables: struct xt_tcp and xt_udp
/// begin with source ports from and to, then destination ports.
fn port(name: &str, info: &[u8]) -> Option<u16> {
    let number = |at: usize| {
        let bytes = info.get(at..at + 2)?;
        bytes.try_into().ok().map(u16::from_ne_bytes)
    };
    let (from, to) = (number(4)?, number(6)?);
    (matches!(name, "tcp" | "udp") && from == to).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_without_holes_is_a_prefix() {
        assert_eq!(prefix(&[0xff, 0xff, 0xfc, 0]), Some(22));
        assert_eq!(prefix(&[0xff; 4]), Some(32));
        assert_eq!(prefix(&[0; 4]), Some(0));
        assert_eq!(prefix(&[0xff, 0, 0xff, 0]), None);
    }

    #[test]
    fn part_of_an_address_is_a_prefix_too() {
        let found = net(12, 16, &[172, 17]);
        assert_eq!(found, Some("172.17.0.0/16".parse().unwrap()));
        assert_eq!(net(12, 40, &[1, 2, 3, 4, 5]), None);
        let found = net(8, 64, &[0xfd, 0, 0, 0x17, 0, 0, 0, 0]);
        assert_eq!(found, Some("fd00:17::/64".parse().unwrap()));
    }
}
