//! The instructions of the nf_tables virtual machine that our rules come down to.
//!
//! Rules are compared as instructions: that is what the kernel stores, and what nft makes
//! of our text. Values are kept as bytes in the order the kernel holds them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A register: 0 is the verdict, 1 to 4 the 16-byte registers, 8 to 23 the 32-bit ones
/// (NFT_REG_* and NFT_REG32_* in the kernel's nf_tables.h).
pub type Register = u32;

/// `meta` keys (enum nft_meta_keys).
pub mod meta {
    /// Packet priority.
    pub const PRIORITY: u32 = 2;
    /// Packet mark.
    pub const MARK: u32 = 3;
    /// Name of the input interface.
    pub const IIFNAME: u32 = 6;
    /// Transport protocol.
    pub const L4PROTO: u32 = 16;
}

/// `ct` keys (enum nft_ct_keys).
pub mod ct {
    /// Status bits.
    pub const STATUS: u32 = 2;
    /// Source port of a tuple.
    pub const PROTO_SRC: u32 = 11;
    /// Destination port of a tuple.
    pub const PROTO_DST: u32 = 12;
    /// IPv4 source of a tuple.
    pub const SRC_IP: u32 = 19;
    /// IPv4 destination of a tuple.
    pub const DST_IP: u32 = 20;
    /// IPv6 source of a tuple.
    pub const SRC_IP6: u32 = 21;
    /// IPv6 destination of a tuple.
    pub const DST_IP6: u32 = 22;
    /// Direction original (IP_CT_DIR_ORIGINAL).
    pub const ORIGINAL: u8 = 0;
    /// Direction reply.
    pub const REPLY: u8 = 1;
}

/// Headers a payload expression counts from (enum nft_payload_bases).
pub mod base {
    /// The IP header.
    pub const NETWORK: u32 = 1;
    /// The TCP, UDP or SCTP header.
    pub const TRANSPORT: u32 = 2;
}

/// Verdict codes (enum nf_inet_verdicts and nft_verdicts).
pub mod verdict {
    /// Drop.
    pub const DROP: i32 = 0;
    /// Jump to a chain.
    pub const JUMP: i32 = -3;
    /// Go to a chain.
    pub const GOTO: i32 = -4;
    /// Return to the calling chain.
    pub const RETURN: i32 = -5;
}

/// One instruction (the kernel calls it an expression). Fields are named as in
/// `nft --debug=netlink`: `sreg` is read, `dreg` is written.
#[expect(missing_docs, reason = "the fields of each variant are its operands")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Instr {
    /// Loads a packet property.
    MetaLoad { key: u32, dreg: Register },
    /// Sets a packet property.
    MetaSet { key: u32, sreg: Register },
    /// Loads bytes of the packet.
    Payload {
        base: u32,
        offset: u32,
        len: u32,
        dreg: Register,
    },
    /// Loads a connection property, of one direction's tuple for some keys.
    Ct {
        key: u32,
        direction: Option<u8>,
        dreg: Register,
    },
    /// Ends the rule unless register and data are equal (or unequal).
    Cmp {
        negated: bool,
        sreg: Register,
        data: Vec<u8>,
    },
    /// `dreg = (sreg & mask) ^ xor`.
    Bitwise {
        sreg: Register,
        dreg: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Set membership or map lookup; without a hit (or with one, if inverted) the rule ends.
    Lookup {
        set: String,
        sreg: Register,
        dreg: Option<Register>,
        inverted: bool,
    },
    /// A constant into a register.
    Load { dreg: Register, data: Vec<u8> },
    /// A verdict.
    Verdict { code: i32, chain: Option<String> },
    /// Destination NAT to the address and port in registers.
    Dnat {
        family: u32,
        addr: Register,
        port: Register,
    },
    /// Masquerade, with flags (NF_NAT_RANGE_*).
    Masquerade { flags: u32 },
    /// Uniform random number below `modulus`.
    Random { modulus: u32, dreg: Register },
    /// Jenkins hash of a register below `modulus`.
    Jhash {
        sreg: Register,
        len: u32,
        dreg: Register,
        modulus: u32,
        seed: u32,
    },
    /// Routing lookup: type of the address.
    FibType { flags: u32, dreg: Register },
    /// Adds or refreshes an element; `timeout` in milliseconds.
    Update {
        set: String,
        key: Register,
        data: Register,
        timeout: u64,
    },
    /// Refuses the packet.
    Reject { kind: u32, code: u8 },
    /// Anything we never write: shown in a diff, never equal to a rule of ours.
    Unknown { name: String },
}

/// NFTA_FIB_F_SADDR.
pub const FIB_SADDR: u32 = 1;
/// NFTA_FIB_F_DADDR.
pub const FIB_DADDR: u32 = 2;
/// RTN_LOCAL, the `local` of `fib … type`.
pub const RTN_LOCAL: u32 = 2;
/// NF_NAT_RANGE_PROTO_RANDOM_FULLY.
pub const FULLY_RANDOM: u32 = 0x10;

/// Much as `nft --debug=netlink` shows it.
impl fmt::Display for Instr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        match self {
            Self::MetaLoad { key, dreg } => write!(f, "meta load {key} => reg {dreg}"),
            Self::MetaSet { key, sreg } => write!(f, "meta set {key} with reg {sreg}"),
            Self::Payload {
                base,
                offset,
                len,
                dreg,
            } => {
                write!(f, "payload load {len}b @ {base} + {offset} => reg {dreg}")
            }
            Self::Ct {
                key,
                direction,
                dreg,
            } => {
                write!(f, "ct load {key} dir {direction:?} => reg {dreg}")
            }
            Self::Cmp {
                negated,
                sreg,
                data,
            } => {
                let op = if *negated { "neq" } else { "eq" };
                write!(f, "cmp {op} reg {sreg} {}", hex(data))
            }
            Self::Bitwise {
                sreg,
                dreg,
                mask,
                xor,
            } => {
                write!(
                    f,
                    "bitwise reg {dreg} = (reg {sreg} & {}) ^ {}",
                    hex(mask),
                    hex(xor)
                )
            }
            Self::Lookup {
                set,
                sreg,
                dreg,
                inverted,
            } => {
                let not = if *inverted { "not " } else { "" };
                write!(f, "lookup {not}reg {sreg} set {set}")?;
                dreg.map_or(Ok(()), |dreg| write!(f, " => reg {dreg}"))
            }
            Self::Load { dreg, data } => write!(f, "immediate reg {dreg} {}", hex(data)),
            Self::Verdict { code, chain } => match chain {
                Some(chain) if *code == verdict::GOTO => write!(f, "goto {chain}"),
                Some(chain) => write!(f, "jump {chain}"),
                None if *code == verdict::DROP => f.write_str("drop"),
                None if *code == verdict::RETURN => f.write_str("return"),
                None => write!(f, "verdict {code}"),
            },
            Self::Dnat { addr, port, .. } => write!(f, "dnat addr reg {addr} port reg {port}"),
            Self::Masquerade { flags } => write!(f, "masquerade flags {flags:#x}"),
            Self::Random { modulus, dreg } => write!(f, "numgen reg {dreg} = random mod {modulus}"),
            Self::Jhash {
                sreg,
                len,
                dreg,
                modulus,
                seed,
            } => {
                write!(
                    f,
                    "hash reg {dreg} = jhash(reg {sreg}, {len}, {seed:#x}) mod {modulus}"
                )
            }
            Self::FibType { flags, dreg } => write!(f, "fib {flags} type => reg {dreg}"),
            Self::Update { set, timeout, .. } => write!(f, "update @{set} timeout {timeout}ms"),
            Self::Reject { kind, code } => write!(f, "reject type {kind} code {code}"),
            Self::Unknown { name } => write!(f, "({name})"),
        }
    }
}
