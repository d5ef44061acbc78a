//! What other programs have in nf_tables, as far as it matters to services: base chains, the
//! rules that end a packet's way, and those that translate addresses. And who owns our tables.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::constants::{chain, common, msg, rule, table};
use super::encode::dump_all;
use super::kernel::Nfnetlink;
use super::{NetlinkError, decode};
use crate::netlink::attr::Attrs;
use crate::netlink::error::ExchangeError;
use crate::netlink::message::Message;
use crate::ruleset::bytecode::{base, meta, verdict};
use crate::ruleset::{Family, TABLE};

/// NFTA_TABLE_OWNER: the netlink port of the owner.
const TABLE_OWNER: u16 = 7;
/// NF_DROP and NF_ACCEPT.
const DROP: u32 = 0;
const ACCEPT: i32 = 1;

/// NFTA_PAYLOAD_*, NFTA_META_*, NFTA_BITWISE_*, NFTA_CMP_*, NFTA_IMMEDIATE_*, NFTA_NAT_TYPE and
/// NFTA_TARGET_NAME, NFTA_MATCH_NAME (linux/netfilter/nf_tables.h, nf_tables_compat.h).
mod attribute {
    pub const DREG: u16 = 1;
    pub const PAYLOAD_BASE: u16 = 2;
    pub const PAYLOAD_OFFSET: u16 = 3;
    pub const PAYLOAD_LEN: u16 = 4;
    pub const META_KEY: u16 = 2;
    /// NFT_META_PROTOCOL and NFT_META_NFPROTO.
    pub const META_PROTOCOL: u32 = 1;
    pub const META_NFPROTO: u32 = 15;
    pub const BITWISE_SREG: u16 = 1;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_MASK: u16 = 4;
    pub const CMP_SREG: u16 = 1;
    pub const CMP_OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const NAT_TYPE: u16 = 1;
    pub const COMPAT_NAME: u16 = 1;
    pub const COMPAT_INFO: u16 = 3;
}

/// A chain of another program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignChain {
    /// nft's name of the family.
    pub family: &'static str,
    /// The table.
    pub table: String,
    /// The chain.
    pub name: String,
    /// Where it hangs, if it is a base chain.
    pub base: Option<ForeignBase>,
    /// Its rules in order.
    pub rules: Vec<ForeignRule>,
}

/// A hook of any family that IP packets come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignHook {
    /// All packets a device takes in, before IP sees them.
    Ingress,
    /// All packets a device sends out.
    Egress,
    /// Before the routing decision.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After the routing decision.
    Postrouting,
}

impl ForeignHook {
    /// NF_NETDEV_* of the family netdev, NF_INET_* and NF_BR_* of the others.
    fn from_number(family: &str, number: u32) -> Option<Self> {
        match (family, number) {
            ("netdev", 0) | ("inet", 5) => Some(Self::Ingress),
            ("netdev", 1) => Some(Self::Egress),
            ("netdev", _) => None,
            (_, 0) => Some(Self::Prerouting),
            (_, 1) => Some(Self::Input),
            (_, 2) => Some(Self::Forward),
            (_, 3) => Some(Self::Output),
            (_, 4) => Some(Self::Postrouting),
            _ => None,
        }
    }

    /// nft's name of it.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }
}

/// Where a base chain hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignBase {
    /// The hook.
    pub hook: ForeignHook,
    /// Priority: lower runs first.
    pub priority: i32,
    /// True with `policy drop`.
    pub drops: bool,
}

/// A rule, as far as it is understood.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ForeignRule {
    /// Not every packet takes it.
    pub conditional: bool,
    /// There are conditions besides those below.
    pub others: bool,
    /// Only packets from here.
    pub source: Option<IpNet>,
    /// Only packets to here.
    pub destination: Option<IpNet>,
    /// Only packets to this port.
    pub port: Option<u16>,
    /// Only packets of this transport protocol (IPPROTO_*).
    pub protocol: Option<u8>,
    /// What becomes of a packet.
    pub end: End,
}

/// What a rule does in the end.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum End {
    /// Nothing that matters: the next rule is next.
    #[default]
    Next,
    /// The chain, and the hook's other chains, go on.
    Accept,
    /// Back to the calling chain.
    Return,
    /// The packet is dropped.
    Drop,
    /// The packet is refused.
    Reject,
    /// That chain is walked, then the next rule.
    Jump(String),
    /// That chain is walked instead of the rest.
    Goto(String),
    /// The destination is translated.
    Dnat,
    /// The source is translated.
    Snat,
}

impl Nfnetlink {
    /// The chains of all tables but ours and those that are switched off, of families that see
    /// IP packets. O(rules).
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn foreign_chains(&mut self) -> Result<Vec<ForeignChain>, NetlinkError> {
        let mut chains: Vec<ForeignChain> = Vec::new();
        let mut places: HashMap<(&'static str, String, String), usize> = HashMap::new();
        let dormant = self.dormant_tables()?;
        let request = dump_all(msg::GETCHAIN);
        self.exchange.request(&request, |message| {
            let found = foreign_chain(message);
            let at_work =
                |chain: &ForeignChain| !dormant.contains(&(chain.family, chain.table.clone()));
            if let Some(found) = found.filter(at_work) {
                let key = (found.family, found.table.clone(), found.name.clone());
                places.insert(key, chains.len());
                chains.push(found);
            }
            Ok::<(), ExchangeError>(())
        })?;
        let request = dump_all(msg::GETRULE);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            let names = (a.string(rule::TABLE), a.string(rule::CHAIN));
            if let (Some(family), (Some(table), Some(name))) = (family_name(message), names)
                && let Some(at) = places.get(&(family, table.to_owned(), name.to_owned()))
            {
                let code = a.nested(rule::EXPRESSIONS);
                chains[*at].rules.push(foreign_rule(code));
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(chains)
    }

    /// Tables whose chains hang nowhere (`flags dormant`).
    fn dormant_tables(&mut self) -> Result<HashSet<(&'static str, String)>, NetlinkError> {
        let mut dormant = HashSet::new();
        let request = dump_all(msg::GETTABLE);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            let flags = a.u32(table::FLAGS).unwrap_or_default();
            if let (Some(family), Some(name)) = (family_name(message), a.string(table::NAME))
                && flags & table::FLAG_DORMANT != 0
            {
                dormant.insert((family, name.to_owned()));
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(dormant)
    }

    /// The netlink port of who owns one of our tables; mostly its process id.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn owner(&mut self) -> Result<Option<u32>, NetlinkError> {
        let mut owner = None;
        let request = dump_all(msg::GETTABLE);
        self.exchange.request(&request, |message| {
            if decode::is_of_our_table(message) && decode::ownership(message).0 {
                owner = message.attrs().u32(TABLE_OWNER).or(owner);
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(owner)
    }
}

/// NFPROTO_*: what an IP packet may meet.
fn family_name(message: &Message<'_>) -> Option<&'static str> {
    match message.family() {
        1 => Some("inet"),
        2 => Some("ip"),
        5 => Some("netdev"),
        7 => Some("bridge"),
        10 => Some("ip6"),
        _ => None,
    }
}

fn foreign_chain(message: &Message<'_>) -> Option<ForeignChain> {
    let a = message.attrs();
    let family = family_name(message)?;
    let table = a.string(table::NAME)?;
    let ours = Family::ALL.iter().any(|ours| ours.nft_name() == family) && table == TABLE;
    if ours {
        return None;
    }
    let hook = a.nested(chain::HOOK);
    let base = hook
        .u32(chain::HOOK_NUM)
        .and_then(|number| ForeignHook::from_number(family, number))
        .map(|number| ForeignBase {
            hook: number,
            priority: hook.u32(chain::HOOK_PRIORITY).unwrap_or(0).cast_signed(),
            drops: a.u32(chain::POLICY) == Some(DROP),
        });
    Some(ForeignChain {
        family,
        table: table.to_owned(),
        name: a.string(chain::NAME)?.to_owned(),
        base,
        rules: Vec::new(),
    })
}

/// What a register holds, for the comparison that follows.
#[derive(Clone, Copy, Debug)]
enum Loaded {
    Network {
        offset: u32,
        prefix: Option<u32>,
    },
    Transport {
        offset: u32,
    },
    L4Proto,
    /// The packet's family, which nft asks before its addresses.
    Family,
}

fn foreign_rule(code: Attrs<'_>) -> ForeignRule {
    let mut found = ForeignRule::default();
    let mut registers: HashMap<u32, Loaded> = HashMap::new();
    for (_, expression) in code.filter(|(kind, _)| *kind == common::LIST_ELEM) {
        let expression = Attrs(expression);
        let name = expression.string(common::EXPR_NAME).unwrap_or_default();
        let data = expression.nested(common::EXPR_DATA);
        self::expression(&mut found, &mut registers, name, data);
    }
    found
}

fn expression(
    found: &mut ForeignRule,
    registers: &mut HashMap<u32, Loaded>,
    name: &str,
    data: Attrs<'_>,
) {
    match name {
        "payload" | "meta" => {
            if let Some(register) = data.u32(attribute::DREG) {
                hold(registers, register, loaded(name, data));
            }
        }
        "bitwise" => mask(registers, data),
        "cmp" => {
            found.conditional = true;
            let register = data.u32(attribute::CMP_SREG).unwrap_or_default();
            let value = data.nested(attribute::CMP_DATA).get(common::DATA_VALUE);
            let equal = data.u32(attribute::CMP_OP) == Some(0);
            let understood = match (equal, registers.get(&register), value) {
                (true, Some(loaded), Some(value)) => constrain(found, *loaded, value),
                _ => false,
            };
            found.others |= !understood;
        }
        "immediate" => {
            let value = data.nested(attribute::IMMEDIATE_DATA);
            if let Some(end) = value.get(common::DATA_VERDICT).and_then(|v| end(Attrs(v))) {
                found.end = end;
            }
        }
        "reject" => found.end = End::Reject,
        "masq" => found.end = End::Snat,
        "redir" | "tproxy" => found.end = End::Dnat,
        "nat" => {
            let source = data.u32(attribute::NAT_TYPE) == Some(0);
            found.end = if source { End::Snat } else { End::Dnat };
        }
        "target" => target(found, data),
        "match" => {
            found.conditional = true;
            let port = port(data);
            // Of iptables' own matches nothing else is understood.
            found.others |= port.is_none();
            found.port = port.or(found.port);
        }
        // These look at a packet, or count it, and let it pass.
        "counter" | "log" | "ct" | "fib" | "rt" | "socket" | "hash" | "numgen" | "exthdr"
        | "notrack" | "last" | "byteorder" => {}
        _ => {
            found.conditional = true;
            found.others = true;
        }
    }
}

/// What `payload` or `meta` loads, if it is something that is looked at here.
fn loaded(name: &str, data: Attrs<'_>) -> Option<Loaded> {
    if name == "meta" {
        return match data.u32(attribute::META_KEY)? {
            meta::L4PROTO => Some(Loaded::L4Proto),
            attribute::META_PROTOCOL | attribute::META_NFPROTO => Some(Loaded::Family),
            _ => None,
        };
    }
    let offset = data.u32(attribute::PAYLOAD_OFFSET)?;
    let length = data.u32(attribute::PAYLOAD_LEN)?;
    match data.u32(attribute::PAYLOAD_BASE)? {
        base::NETWORK => Some(Loaded::Network {
            offset,
            prefix: Some(length * 8),
        }),
        base::TRANSPORT if length == 2 => Some(Loaded::Transport { offset }),
        _ => None,
    }
}

/// A masked address is a prefix, if the mask is one.
fn mask(registers: &mut HashMap<u32, Loaded>, data: Attrs<'_>) {
    let from = data.u32(attribute::BITWISE_SREG).unwrap_or_default();
    let to = data.u32(attribute::BITWISE_DREG).unwrap_or_default();
    let mask = data.nested(attribute::BITWISE_MASK).get(common::DATA_VALUE);
    let masked = match (registers.get(&from), mask) {
        (Some(Loaded::Network { offset, .. }), Some(mask)) => Some(Loaded::Network {
            offset: *offset,
            prefix: prefix(mask),
        }),
        _ => None,
    };
    hold(registers, to, masked);
}

/// What a register holds from now on.
fn hold(registers: &mut HashMap<u32, Loaded>, register: u32, loaded: Option<Loaded>) {
    match loaded {
        Some(loaded) => registers.insert(register, loaded),
        None => registers.remove(&register),
    };
}

/// Leading ones of a mask without holes.
fn prefix(mask: &[u8]) -> Option<u32> {
    let bits: String = mask.iter().map(|byte| format!("{byte:08b}")).collect();
    let ones = bits.find('0').unwrap_or(bits.len());
    (!bits[ones..].contains('1')).then(|| u32::try_from(ones).unwrap_or_default())
}

/// Takes a comparison for what it asks for; false if that is nothing that is looked at here.
fn constrain(found: &mut ForeignRule, loaded: Loaded, value: &[u8]) -> bool {
    match loaded {
        Loaded::L4Proto => found.protocol = value.first().copied(),
        // The addresses say as much.
        Loaded::Family => {}
        Loaded::Transport { offset: 2 } => {
            let port = value.try_into().ok().map(u16::from_be_bytes);
            found.port = port.or(found.port);
            return port.is_some();
        }
        Loaded::Transport { .. } => return false,
        Loaded::Network { offset, prefix } => {
            let net = prefix.and_then(|prefix| net(offset, prefix, value));
            match offset {
                // struct iphdr and struct ipv6hdr: source, then destination.
                12 | 8 => found.source = net,
                16 | 24 => found.destination = net,
                // The protocol of IPv4, the next header of IPv6.
                9 | 6 => {
                    found.protocol = value.first().copied();
                    return true;
                }
                _ => return false,
            }
            return net.is_some();
        }
    }
    true
}

fn net(offset: u32, prefix: u32, value: &[u8]) -> Option<IpNet> {
    let prefix = u8::try_from(prefix).ok()?;
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

fn end(value: Attrs<'_>) -> Option<End> {
    let to = || value.string(common::VERDICT_CHAIN).map(str::to_owned);
    match value.u32(common::VERDICT_CODE)?.cast_signed() {
        verdict::DROP => Some(End::Drop),
        ACCEPT => Some(End::Accept),
        verdict::RETURN => Some(End::Return),
        verdict::JUMP => to().map(End::Jump),
        verdict::GOTO => to().map(End::Goto),
        _ => None,
    }
}

/// A target of iptables, as iptables-nft stores it.
fn target(found: &mut ForeignRule, data: Attrs<'_>) {
    found.end = match data.string(attribute::COMPAT_NAME).unwrap_or_default() {
        "REJECT" => End::Reject,
        "DNAT" | "REDIRECT" | "NETMAP" | "TPROXY" => End::Dnat,
        "SNAT" | "MASQUERADE" => End::Snat,
        _ => End::Next,
    };
}

/// The one destination port of a `tcp` or `udp` match of iptables: struct xt_tcp and xt_udp
/// begin with source ports from and to, then destination ports, in host order.
fn port(data: Attrs<'_>) -> Option<u16> {
    let name = data.string(attribute::COMPAT_NAME)?;
    let info = data.get(attribute::COMPAT_INFO)?;
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
