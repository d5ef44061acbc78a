//! What other programs have in nf_tables and in the legacy iptables, and what becomes of a made-up
//! packet there, as far as their statements are understood. What is not understood is said to be so, with the rule: it
//! is never taken for a yes or a no.
//!
//! Pure: the rules are read by `netlink`.

mod conditions;
mod eval;
mod hook;
mod ipset;
mod packet;
mod registers;
mod state;
mod xt;

use std::collections::BTreeMap;

pub use conditions::{Conditions, Effect};
pub use hook::{Outcome, Place, Span, Verdict, hook};
pub use ipset::{IpElement, IpSet};
pub use packet::{Device, Packet};
pub use state::{Found, Leads, World};

/// All tables of other programs, of the families that IP packets come by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Tables of nf_tables by family and name.
    pub tables: BTreeMap<(Family, String), Table>,
    /// Tables of the legacy iptables, of the families ip and ip6.
    pub legacy: BTreeMap<(Family, String), Table>,
    /// ipsets that matches of iptables ask for, by the kernel's number.
    pub ipsets: BTreeMap<u16, IpSet>,
    /// The handles of our own tables, by family.
    pub ours: BTreeMap<Family, u64>,
    /// What the kernel runs and could not be read, in one sentence each.
    pub unread: Vec<String>,
}

impl Rules {
    /// All tables, with their origin.
    pub fn all(&self) -> impl Iterator<Item = (Origin, &str, &Table)> {
        let tables = self.tables.iter().map(|entry| (entry, false));
        let all = tables.chain(self.legacy.iter().map(|entry| (entry, true)));
        all.map(|(((family, name), table), legacy)| {
            let family = *family;
            (Origin { family, legacy }, name.as_str(), table)
        })
    }
}

/// Whose a table is: a family of nf_tables', or of the legacy iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The family.
    pub family: Family,
    /// It is the legacy iptables'.
    pub legacy: bool,
}

impl std::fmt::Display for Origin {
    /// What stands before a table's name: nft's family, or the program that lists it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.legacy, self.family) {
            (true, Family::Ip6) => "ip6tables-legacy",
            (true, _) => "iptables-legacy",
            (false, family) => family.nft_name(),
        })
    }
}

/// A family of tables (NFPROTO_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Both IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// All packets of a device.
    Netdev,
    /// Packets of bridges.
    Bridge,
    /// IPv6.
    Ip6,
}

impl Family {
    /// NFPROTO_*.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Inet),
            2 => Some(Self::Ip),
            5 => Some(Self::Netdev),
            7 => Some(Self::Bridge),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }

    /// nft's name of it.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        }
    }
}

/// A hook of any family that IP packets come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// All packets a device takes in, before IP sees them.
    Ingress,
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
    /// All packets a device sends out.
    Egress,
}

impl Hook {
    /// NF_NETDEV_* of the family netdev, NF_INET_* and NF_BR_* of the others.
    #[must_use]
    pub const fn from_number(family: Family, number: u32) -> Option<Self> {
        match (family, number) {
            (Family::Netdev, 0) | (Family::Inet, 5) => Some(Self::Ingress),
            (Family::Netdev, 1) => Some(Self::Egress),
            (Family::Netdev, _) => None,
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
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Egress => "egress",
        }
    }
}

/// A table of another program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Higher than that of any table which was there before it; `None` of the legacy iptables.
    pub handle: Option<u64>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Higher than that of any chain of its table which was there before it.
    pub handle: u64,
    /// Where it hangs, if it is a base chain.
    pub base: Option<Base>,
    /// Its rules in order.
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// Priority: lower runs first; of equal ones, the chain that came last.
    pub priority: i32,
    /// True with `policy drop`.
    pub drops: bool,
    /// `type nat`: sees the first packet of a connection only, and none that was translated.
    pub nat: bool,
    /// The devices whose packets it sees; all, if it names none.
    pub devices: Vec<String>,
}

/// A rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What nft calls it (`nft -a list ruleset`); of the legacy iptables, its number in the chain.
    pub handle: u64,
    /// What the kernel does, one after the other.
    pub expressions: Vec<Expr>,
}

/// A register: the first of its bytes among those of all registers.
pub type Register = usize;

/// Something a rule looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// Bytes of a header (enum nft_payload_bases).
    Payload { base: u32, offset: u32 },
    /// enum nft_meta_keys.
    Meta(u32),
    /// enum nft_ct_keys; of a tuple, the original direction's.
    Ct(u32),
    /// `fib`: the result (NFT_FIB_RESULT_*) and flags (NFTA_FIB_F_*).
    Fib(u32, u32),
    /// enum nft_rt_keys.
    Rt(u32),
    /// Whatever cannot be known of a made-up packet.
    Other(String),
}

/// How a register is compared (enum nft_cmp_ops).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Equal.
    Eq,
    /// Unequal.
    Neq,
    /// Less, as numbers in network byte order.
    Lt,
    /// Less or equal.
    Lte,
    /// Greater.
    Gt,
    /// Greater or equal.
    Gte,
}

/// What becomes of a packet, as a rule or a map's element says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// This chain, and no later one of the hook is kept from seeing it.
    Accept,
    /// Dropped.
    Drop,
    /// Back to the calling chain.
    Return,
    /// Handed to a program.
    Queue,
    /// The next rule.
    Continue,
    /// That chain, then the next rule.
    Jump(String),
    /// That chain instead of the rest.
    Goto(String),
}

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expr {
    /// Loads a property into a register; so many bytes.
    Load(Property, Register, usize),
    /// Sets the packet's mark.
    SetMark(Register),
    /// Sets the connection's mark.
    SetCtMark(Register),
    /// Sets the conntrack zone; that of one direction only is not followed.
    SetZone(Option<Register>),
    /// One of so many numbers from the last one on, by chance or in turn.
    Number(Register, u32, u32),
    /// The connection is not tracked: nothing translates it.
    Notrack,
    /// Compares.
    Cmp(Register, Op, Vec<u8>),
    /// In a range, or (true) outside.
    Range(Register, bool, Vec<u8>, Vec<u8>),
    /// `destination = source & mask ^ xor`.
    Bitwise {
        source: Register,
        destination: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// So many bytes of a register become something that is not followed.
    Lose(Register, usize),
    /// In a set; a map's value goes to a register, a verdict map's is the rule's verdict.
    Lookup {
        set: String,
        key: Register,
        inverted: bool,
        to: Option<Register>,
    },
    /// A constant.
    Constant(Register, Vec<u8>),
    /// What becomes of the packet.
    End(End),
    /// The destination is translated: the address and port, as far as they are constants.
    Dnat {
        address: Option<Register>,
        port: Option<Register>,
    },
    /// To this host, at another port perhaps.
    Redirect,
    /// The source is translated.
    Snat,
    /// The packet is refused.
    Reject,
    /// An extension of iptables: its name, revision and data.
    XtMatch(String, u32, Vec<u8>),
    /// A target of iptables: its name, revision and data.
    XtTarget(String, u32, Vec<u8>),
    /// Changes nothing about where the packet goes, as counters and logs.
    Nothing,
    /// A condition that cannot be told, as a rate limit.
    Condition(String),
}

/// A set or map, with its elements if they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Bytes of each field of the key, padded to four; one field if it is no concatenation.
    pub fields: Vec<usize>,
    /// Bytes of the key.
    pub key_len: usize,
    /// Elements, in order; `None` if they were too many to be read: the kernel is asked for keys.
    pub elements: Option<Vec<Element>>,
    /// The value of every key that is not there, if there is one (`*`).
    pub other: Option<Value>,
}

/// An element of a set: a key or a range of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// The key, or the first.
    pub key: Vec<u8>,
    /// The last of a range.
    pub last: Option<Vec<u8>>,
    /// A map's value.
    pub value: Option<Value>,
}

/// A map's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Data for a register.
    Data(Vec<u8>),
    /// A verdict.
    End(End),
}

#[cfg(test)]
mod tests;
