//! The expressions of a rule, whoever wrote it, as [`crate::foreign`] follows them.

use super::super::constants::common;
use crate::foreign::{End, Expr, Op, Property};
use crate::netlink::attr::Attrs;

/// Attributes of expressions (linux/netfilter/nf_tables.h, nf_tables_compat.h), by expression.
mod attribute {
    /// Of nearly all that write a register.
    pub const DREG: u16 = 1;
    pub const PAYLOAD: [u16; 4] = [1, 2, 3, 4];
    /// NFTA_PAYLOAD_SREG: the packet is changed.
    pub const PAYLOAD_SREG: u16 = 5;
    /// NFTA_META_KEY and NFTA_CT_KEY.
    pub const KEY: u16 = 2;
    pub const META_SREG: u16 = 3;
    pub const CT_DIRECTION: u16 = 3;
    pub const CT_SREG: u16 = 4;
    pub const SREG: u16 = 1;
    pub const OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const RANGE_FROM: u16 = 3;
    pub const RANGE_TO: u16 = 4;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_LEN: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;
    pub const BITWISE_OP: u16 = 6;
    pub const BYTEORDER_DREG: u16 = 2;
    pub const BYTEORDER_LEN: u16 = 4;
    pub const LOOKUP: [u16; 3] = [1, 2, 3];
    pub const LOOKUP_FLAGS: u16 = 5;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const NAT_TYPE: u16 = 1;
    pub const NAT_ADDRESS: u16 = 3;
    pub const NAT_PORT: u16 = 5;
    pub const FIB_RESULT: u16 = 2;
    pub const FIB_FLAGS: u16 = 3;
    pub const RT_KEY: u16 = 2;
    pub const NUMGEN_MODULUS: u16 = 2;
    pub const NUMGEN_OFFSET: u16 = 4;
    pub const XT: [u16; 3] = [1, 2, 3];
    pub const OBJREF_TYPE: u16 = 1;
    pub const DYNSET_EXPR: u16 = 7;
    pub const DYNSET_EXPRESSIONS: u16 = 10;
    /// Registers that `hash` and `socket` write.
    pub const SECOND_DREG: u16 = 2;
}

/// NFT_META_MARK and NFT_CT_MARK.
const MARK: u32 = 3;
/// NFT_CT_ZONE.
const CT_ZONE: u32 = 17;
/// NFT_FIB_RESULT_OIFNAME, and the flag NFTA_FIB_F_PRESENT.
const FIB_OIFNAME: u32 = 2;
const FIB_PRESENT: u32 = 32;
/// NF_DROP, NF_ACCEPT, NF_QUEUE (in the low half), NFT_JUMP, NFT_GOTO, NFT_RETURN.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const QUEUE: i32 = 3;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;

/// A register's first byte: NFT_REG_1 to NFT_REG_4 are of 16 bytes, NFT_REG32_00 on of four.
fn register(number: Option<u32>) -> Option<usize> {
    let number = usize::try_from(number?).ok()?;
    match number {
        1..=4 => Some(number * 16),
        8..=23 => Some((number - 4) * 4),
        _ => None,
    }
}

fn data(a: Attrs<'_>, kind: u16) -> Vec<u8> {
    let value = a.nested(kind).get(common::DATA_VALUE);
    value.map(<[u8]>::to_vec).unwrap_or_default()
}

pub(super) fn expressions(list: Attrs<'_>) -> Vec<Expr> {
    let items = list.filter(|(kind, _)| *kind == common::LIST_ELEM);
    items
        .map(|(_, item)| {
            let item = Attrs(item);
            let name = item.string(common::EXPR_NAME).unwrap_or_default();
            let data = item.nested(common::EXPR_DATA);
            expression(name, data).unwrap_or_else(|| Expr::Condition(name.to_owned()))
        })
        .collect()
}

/// One expression; `None` if it is not followed and may keep the rule from being for a packet.
fn expression(name: &str, a: Attrs<'_>) -> Option<Expr> {
    let len = |kind| a.u32(kind).and_then(|len| usize::try_from(len).ok());
    let dreg = || register(a.u32(attribute::DREG));
    let other = || Property::Other(name.to_owned());
    Some(match name {
        "payload" => {
            let [to, base, offset, length] = attribute::PAYLOAD;
            if a.u32(attribute::PAYLOAD_SREG).is_some() {
                return Some(Expr::Nothing);
            }
            let property = Property::Payload {
                base: a.u32(base)?,
                offset: a.u32(offset)?,
            };
            Expr::Load(property, register(a.u32(to))?, len(length)?)
        }
        "meta" => match register(a.u32(attribute::META_SREG)) {
            Some(from) if a.u32(attribute::KEY) == Some(MARK) => Expr::SetMark(from),
            Some(_) => Expr::Nothing,
            None => {
                let key = a.u32(attribute::KEY)?;
                Expr::Load(Property::Meta(key), dreg()?, meta_len(key))
            }
        },
        "ct" => match a.u32(attribute::CT_SREG) {
            Some(_) if a.u32(attribute::KEY) == Some(MARK) => {
                Expr::SetCtMark(register(a.u32(attribute::CT_SREG))?)
            }
            Some(from) if a.u32(attribute::KEY) == Some(CT_ZONE) => {
                let both = a.u8(attribute::CT_DIRECTION).is_none();
                Expr::SetZone(register(Some(from)).filter(|_| both))
            }
            Some(_) => Expr::Nothing,
            None => {
                let key = a.u32(attribute::KEY)?;
                // The tuple of answers has the endpoint and the port that the client is given.
                let property = match a.u8(attribute::CT_DIRECTION) {
                    Some(1) => other(),
                    _ => Property::Ct(key),
                };
                Expr::Load(property, dreg()?, ct_len(key))
            }
        },
        "fib" => {
            let (result, flags) = (a.u32(attribute::FIB_RESULT)?, a.u32(attribute::FIB_FLAGS)?);
            let len = match result {
                _ if flags & FIB_PRESENT != 0 => 1,
                FIB_OIFNAME => 16,
                _ => 4,
            };
            Expr::Load(Property::Fib(result, flags), dreg()?, len)
        }
        "rt" => {
            let key = a.u32(attribute::RT_KEY)?;
            Expr::Load(Property::Rt(key), dreg()?, rt_len(key))
        }
        "exthdr" | "osf" | "xfrm" | "tunnel" => Expr::Load(other(), dreg()?, 16),
        "numgen" => Expr::Number(
            dreg()?,
            a.u32(attribute::NUMGEN_MODULUS)?,
            a.u32(attribute::NUMGEN_OFFSET).unwrap_or(0),
        ),
        "hash" | "socket" => {
            let to = register(a.u32(attribute::SECOND_DREG)).or_else(dreg)?;
            Expr::Load(other(), to, 4)
        }
        "cmp" => Expr::Cmp(
            register(a.u32(attribute::SREG))?,
            op(a.u32(attribute::OP)?)?,
            data(a, attribute::CMP_DATA),
        ),
        "range" => Expr::Range(
            register(a.u32(attribute::SREG))?,
            a.u32(attribute::OP)? == 1,
            data(a, attribute::RANGE_FROM),
            data(a, attribute::RANGE_TO),
        ),
        "bitwise" => {
            let destination = register(a.u32(attribute::BITWISE_DREG))?;
            let (mask, xor) = (
                data(a, attribute::BITWISE_MASK),
                data(a, attribute::BITWISE_XOR),
            );
            if a.u32(attribute::BITWISE_OP).unwrap_or(0) != 0 || mask.len() != xor.len() {
                return Some(Expr::Lose(destination, len(attribute::BITWISE_LEN)?));
            }
            Expr::Bitwise {
                source: register(a.u32(attribute::SREG))?,
                destination,
                mask,
                xor,
            }
        }
        "byteorder" => Expr::Lose(
            register(a.u32(attribute::BYTEORDER_DREG))?,
            len(attribute::BYTEORDER_LEN)?,
        ),
        "lookup" => {
            let [set, key, to] = attribute::LOOKUP;
            Expr::Lookup {
                set: a.string(set)?.to_owned(),
                key: register(a.u32(key))?,
                inverted: a.u32(attribute::LOOKUP_FLAGS).unwrap_or(0) & 1 != 0,
                to: register(a.u32(to)),
            }
        }
        "immediate" => match end(a.nested(attribute::IMMEDIATE_DATA)) {
            Some(end) => Expr::End(end),
            None => Expr::Constant(dreg()?, data(a, attribute::IMMEDIATE_DATA)),
        },
        "nat" if a.u32(attribute::NAT_TYPE) == Some(1) => Expr::Dnat {
            address: register(a.u32(attribute::NAT_ADDRESS)),
            port: register(a.u32(attribute::NAT_PORT)),
        },
        "nat" | "masq" => Expr::Snat,
        "redir" => Expr::Redirect,
        "reject" => Expr::Reject,
        "queue" | "fwd" | "synproxy" => Expr::End(End::Queue),
        "notrack" => Expr::Notrack,
        "match" | "target" => {
            let [name_of, revision, info] = attribute::XT;
            let xt = a.string(name_of)?.to_owned();
            let info = a.get(info).unwrap_or_default().to_vec();
            match name {
                "match" => Expr::XtMatch(xt, a.u32(revision).unwrap_or(0), info),
                _ => Expr::XtTarget(xt, a.u32(revision).unwrap_or(0), info),
            }
        }
        "dynset" => {
            let inner = [attribute::DYNSET_EXPR, attribute::DYNSET_EXPRESSIONS];
            // A meter breaks off where its limit is reached; else the set is updated.
            return inner
                .iter()
                .all(|kind| a.get(*kind).is_none())
                .then_some(Expr::Nothing);
        }
        // NFT_OBJECT_QUOTA, NFT_OBJECT_LIMIT and NFT_OBJECT_CONNLIMIT are conditions.
        "objref" => {
            let kind = a.u32(attribute::OBJREF_TYPE)?;
            return (!matches!(kind, 2 | 4 | 5)).then_some(Expr::Nothing);
        }
        "counter" | "log" | "last" | "dup" | "flow_offload" => Expr::Nothing,
        _ => return None,
    })
}

/// NFT_CMP_*.
const fn op(number: u32) -> Option<Op> {
    Some(match number {
        0 => Op::Eq,
        1 => Op::Neq,
        2 => Op::Lt,
        3 => Op::Lte,
        4 => Op::Gt,
        5 => Op::Gte,
        _ => return None,
    })
}

/// Bytes that a property fills in a register.
const fn meta_len(key: u32) -> usize {
    match key {
        // NFT_META_PROTOCOL, _IIFTYPE and _OIFTYPE.
        1 | 8 | 9 => 2,
        // NFT_META_IIFNAME, _OIFNAME, _BRI_IIFNAME, _BRI_OIFNAME, _IIFKIND, _OIFKIND.
        6 | 7 | 17 | 18 | 26 | 27 => 16,
        // NFT_META_NFPROTO, _L4PROTO, _PKTTYPE.
        15 | 16 | 19 => 1,
        _ => 4,
    }
}

const fn ct_len(key: u32) -> usize {
    match key {
        // NFT_CT_DIRECTION, _L3PROTOCOL, _PROTOCOL.
        1 | 7 | 10 => 1,
        // NFT_CT_PROTO_SRC, _PROTO_DST, _ZONE.
        11 | 12 | 17 => 2,
        // NFT_CT_SRC, _DST, _HELPER, _LABELS, _SRC_IP6, _DST_IP6.
        6 | 8 | 9 | 13 | 21 | 22 => 16,
        // NFT_CT_PKTS, _BYTES, _AVGPKT.
        14..=16 => 8,
        _ => 4,
    }
}

const fn rt_len(key: u32) -> usize {
    match key {
        // NFT_RT_NEXTHOP6, _TCPMSS and _XFRM.
        2 => 16,
        3 => 2,
        4 => 1,
        _ => 4,
    }
}

pub(super) fn end(data: Attrs<'_>) -> Option<End> {
    let verdict = Attrs(data.get(common::DATA_VERDICT)?);
    let chain = || verdict.string(common::VERDICT_CHAIN).map(str::to_owned);
    let code = verdict.u32(common::VERDICT_CODE)?.cast_signed();
    Some(match code {
        DROP => End::Drop,
        ACCEPT => End::Accept,
        JUMP => End::Jump(chain()?),
        GOTO => End::Goto(chain()?),
        RETURN => End::Return,
        code if code > 0 && code & 0xff == QUEUE => End::Queue,
        _ => End::Continue,
    })
}
