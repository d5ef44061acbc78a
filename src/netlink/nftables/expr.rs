//! Instructions as libnftnl expressions, and back from the kernel's attributes.

use super::constants::common;
use super::error::Unfit;
use crate::netlink::attr::Attrs;
use crate::netlink::ffi::{
    ExprAttr::{Data, Str, U8, U32, U64},
    RawExpr,
};
use crate::ruleset::bytecode::Instr;
use nftnl_sys as n;

/// NFT_FIB_RESULT_ADDRTYPE.
const FIB_ADDRTYPE: u32 = 3;
/// NFT_DYNSET_OP_UPDATE.
const DYNSET_UPDATE: u32 = 1;
/// NFT_NG_RANDOM.
const NG_RANDOM: u32 = 1;
/// NFT_NAT_DNAT.
const NAT_DNAT: u32 = 1;
/// NF_NAT_RANGE_MAP_IPS and NF_NAT_RANGE_PROTO_SPECIFIED: the kernel adds them itself.
const NAT_RANGE_GIVEN: u32 = 0x3;

/// The libnftnl form of an instruction.
///
/// # Errors
/// If it is one we never write.
pub fn encode(instr: &Instr) -> Result<RawExpr<'_>, Unfit> {
    let (name, attrs) = match instr {
        Instr::MetaLoad { key, dreg } => (
            c"meta",
            vec![
                U32(n::NFTNL_EXPR_META_KEY, *key),
                U32(n::NFTNL_EXPR_META_DREG, *dreg),
            ],
        ),
        Instr::MetaSet { key, sreg } => (
            c"meta",
            vec![
                U32(n::NFTNL_EXPR_META_KEY, *key),
                U32(n::NFTNL_EXPR_META_SREG, *sreg),
            ],
        ),
        Instr::Payload {
            base,
            offset,
            len,
            dreg,
        } => (
            c"payload",
            vec![
                U32(n::NFTNL_EXPR_PAYLOAD_BASE, *base),
                U32(n::NFTNL_EXPR_PAYLOAD_OFFSET, *offset),
                U32(n::NFTNL_EXPR_PAYLOAD_LEN, *len),
                U32(n::NFTNL_EXPR_PAYLOAD_DREG, *dreg),
            ],
        ),
        Instr::Ct {
            key,
            direction,
            dreg,
        } => {
            let mut attrs = vec![
                U32(n::NFTNL_EXPR_CT_KEY, *key),
                U32(n::NFTNL_EXPR_CT_DREG, *dreg),
            ];
            attrs.extend(direction.map(|d| U8(n::NFTNL_EXPR_CT_DIR, d)));
            (c"ct", attrs)
        }
        Instr::Cmp {
            negated,
            sreg,
            data,
        } => (
            c"cmp",
            vec![
                U32(n::NFTNL_EXPR_CMP_SREG, *sreg),
                U32(n::NFTNL_EXPR_CMP_OP, u32::from(*negated)),
                Data(n::NFTNL_EXPR_CMP_DATA, data),
            ],
        ),
        Instr::Bitwise {
            sreg,
            dreg,
            mask,
            xor,
        } => (
            c"bitwise",
            vec![
                U32(n::NFTNL_EXPR_BITWISE_SREG, *sreg),
                U32(n::NFTNL_EXPR_BITWISE_DREG, *dreg),
                U32(n::NFTNL_EXPR_BITWISE_LEN, length(mask)?),
                Data(n::NFTNL_EXPR_BITWISE_MASK, mask),
                Data(n::NFTNL_EXPR_BITWISE_XOR, xor),
            ],
        ),
        Instr::Lookup {
            set,
            sreg,
            dreg,
            inverted,
        } => {
            let mut attrs = vec![
                Str(n::NFTNL_EXPR_LOOKUP_SET, set),
                U32(n::NFTNL_EXPR_LOOKUP_SREG, *sreg),
            ];
            attrs.extend(dreg.map(|d| U32(n::NFTNL_EXPR_LOOKUP_DREG, d)));
            attrs.extend(inverted.then_some(U32(n::NFTNL_EXPR_LOOKUP_FLAGS, 1)));
            (c"lookup", attrs)
        }
        Instr::Load { dreg, data } => (
            c"immediate",
            vec![
                U32(n::NFTNL_EXPR_IMM_DREG, *dreg),
                Data(n::NFTNL_EXPR_IMM_DATA, data),
            ],
        ),
        Instr::Verdict { code, chain } => {
            let mut attrs = vec![
                U32(n::NFTNL_EXPR_IMM_DREG, 0),
                U32(n::NFTNL_EXPR_IMM_VERDICT, code.cast_unsigned()),
            ];
            attrs.extend(chain.as_deref().map(|c| Str(n::NFTNL_EXPR_IMM_CHAIN, c)));
            (c"immediate", attrs)
        }
        Instr::Dnat { family, addr, port } => (
            c"nat",
            vec![
                U32(n::NFTNL_EXPR_NAT_TYPE, NAT_DNAT),
                U32(n::NFTNL_EXPR_NAT_FAMILY, *family),
                U32(n::NFTNL_EXPR_NAT_REG_ADDR_MIN, *addr),
                U32(n::NFTNL_EXPR_NAT_REG_PROTO_MIN, *port),
            ],
        ),
        Instr::Masquerade { flags } => (c"masq", vec![U32(n::NFTNL_EXPR_MASQ_FLAGS, *flags)]),
        Instr::Random { modulus, dreg } => (
            c"numgen",
            vec![
                U32(n::NFTNL_EXPR_NG_DREG, *dreg),
                U32(n::NFTNL_EXPR_NG_MODULUS, *modulus),
                U32(n::NFTNL_EXPR_NG_TYPE, NG_RANDOM),
            ],
        ),
        Instr::Jhash {
            sreg,
            len,
            dreg,
            modulus,
            seed,
        } => (
            c"hash",
            vec![
                U32(n::NFTNL_EXPR_HASH_SREG, *sreg),
                U32(n::NFTNL_EXPR_HASH_DREG, *dreg),
                U32(n::NFTNL_EXPR_HASH_LEN, *len),
                U32(n::NFTNL_EXPR_HASH_MODULUS, *modulus),
                U32(n::NFTNL_EXPR_HASH_SEED, *seed),
                U32(n::NFTNL_EXPR_HASH_TYPE, 0),
            ],
        ),
        Instr::FibType { flags, dreg } => (
            c"fib",
            vec![
                U32(n::NFTNL_EXPR_FIB_RESULT, FIB_ADDRTYPE),
                U32(n::NFTNL_EXPR_FIB_FLAGS, *flags),
                U32(n::NFTNL_EXPR_FIB_DREG, *dreg),
            ],
        ),
        Instr::Update {
            set,
            key,
            data,
            timeout,
        } => (
            c"dynset",
            vec![
                Str(n::NFTNL_EXPR_DYNSET_SET_NAME, set),
                U32(n::NFTNL_EXPR_DYNSET_OP, DYNSET_UPDATE),
                U32(n::NFTNL_EXPR_DYNSET_SREG_KEY, *key),
                U32(n::NFTNL_EXPR_DYNSET_SREG_DATA, *data),
                U64(n::NFTNL_EXPR_DYNSET_TIMEOUT, *timeout),
            ],
        ),
        Instr::Reject { kind, code } => (
            c"reject",
            vec![
                U32(n::NFTNL_EXPR_REJECT_TYPE, *kind),
                U8(n::NFTNL_EXPR_REJECT_CODE, *code),
            ],
        ),
        Instr::Unknown { .. } => return Err(Unfit::Instruction),
    };
    Ok(RawExpr { name, attrs })
}

fn length(data: &[u8]) -> Result<u32, Unfit> {
    u32::try_from(data.len()).map_err(|_| Unfit::Long)
}

/// True for an instruction that does nothing: nft up to 1.0.6 turns a field of an interval
/// key around even if it is one byte, in units of two. Linux 6.12.117 refuses that.
#[must_use]
pub fn is_idle(expr: Attrs<'_>) -> bool {
    // NFTA_BYTEORDER_LEN and NFTA_BYTEORDER_SIZE.
    let a = expr.nested(common::EXPR_DATA);
    expr.string(common::EXPR_NAME) == Some("byteorder")
        && matches!((a.u32(4), a.u32(5)), (Some(len), Some(size)) if len < size)
}

/// The instruction in one NFTA_LIST_ELEM of a rule. Anything that we never write, or that
/// is cut short, comes back as [`Instr::Unknown`].
#[must_use]
pub fn decode(expr: Attrs<'_>) -> Instr {
    let name = expr.string(common::EXPR_NAME).unwrap_or("?");
    known(name, expr.nested(common::EXPR_DATA)).unwrap_or_else(|| Instr::Unknown {
        name: name.to_owned(),
    })
}

/// Attribute numbers below are the kernel's own (NFTA_META_*, NFTA_PAYLOAD_*, …), which
/// differ from libnftnl's: reader and writer check each other.
fn known(name: &str, a: Attrs<'_>) -> Option<Instr> {
    let data = |kind| Some(a.nested(kind).get(common::DATA_VALUE)?.to_vec());
    Some(match name {
        "meta" => match (a.u32(1), a.u32(3)) {
            (Some(dreg), None) => Instr::MetaLoad {
                key: a.u32(2)?,
                dreg,
            },
            (None, Some(sreg)) => Instr::MetaSet {
                key: a.u32(2)?,
                sreg,
            },
            _ => return None,
        },
        "payload" => Instr::Payload {
            dreg: a.u32(1)?,
            base: a.u32(2)?,
            offset: a.u32(3)?,
            len: a.u32(4)?,
        },
        "ct" => Instr::Ct {
            dreg: a.u32(1)?,
            key: a.u32(2)?,
            direction: a.u8(3),
        },
        "cmp" => Instr::Cmp {
            sreg: a.u32(1)?,
            negated: match a.u32(2)? {
                0 => false,
                1 => true,
                _ => return None,
            },
            data: data(3)?,
        },
        "bitwise" if a.u32(6).unwrap_or(0) == 0 => Instr::Bitwise {
            sreg: a.u32(1)?,
            dreg: a.u32(2)?,
            mask: data(4)?,
            xor: data(5)?,
        },
        "lookup" => Instr::Lookup {
            set: a.string(1)?.to_owned(),
            sreg: a.u32(2)?,
            dreg: a.u32(3),
            inverted: a.u32(5).unwrap_or(0) & 1 == 1,
        },
        "immediate" => match a.nested(2).get(common::DATA_VERDICT) {
            Some(verdict) => Instr::Verdict {
                code: Attrs(verdict).u32(common::VERDICT_CODE)?.cast_signed(),
                chain: Attrs(verdict)
                    .string(common::VERDICT_CHAIN)
                    .map(str::to_owned),
            },
            None => Instr::Load {
                dreg: a.u32(1)?,
                data: data(2)?,
            },
        },
        "nat" if a.u32(1)? == NAT_DNAT && a.u32(7).unwrap_or(0) & !NAT_RANGE_GIVEN == 0 => {
            Instr::Dnat {
                family: a.u32(2)?,
                addr: a.u32(3)?,
                port: a.u32(5)?,
            }
        }
        "masq" => Instr::Masquerade {
            flags: a.u32(1).unwrap_or(0),
        },
        "numgen" if a.u32(3)? == NG_RANDOM && a.u32(4).unwrap_or(0) == 0 => Instr::Random {
            dreg: a.u32(1)?,
            modulus: a.u32(2)?,
        },
        "hash" if a.u32(7).unwrap_or(0) == 0 && a.u32(6).unwrap_or(0) == 0 => Instr::Jhash {
            sreg: a.u32(1)?,
            dreg: a.u32(2)?,
            len: a.u32(3)?,
            modulus: a.u32(4)?,
            seed: a.u32(5)?,
        },
        "fib" if a.u32(2)? == FIB_ADDRTYPE => Instr::FibType {
            dreg: a.u32(1)?,
            flags: a.u32(3)?,
        },
        "dynset" if a.u32(3)? == DYNSET_UPDATE => Instr::Update {
            set: a.string(1)?.to_owned(),
            key: a.u32(4)?,
            data: a.u32(5)?,
            timeout: a.u64(6).unwrap_or(0),
        },
        "reject" => Instr::Reject {
            kind: a.u32(1)?,
            code: a.u8(2).unwrap_or(0),
        },
        _ => return None,
    })
}
