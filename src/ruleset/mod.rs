//! The ruleset: what nftables is to hold, as typed and ordered data.
//!
//! Everything downstream reads this: the printers ([`crate::print`]), the walker
//! ([`crate::walk`]), the diff ([`crate::diff`]) and the netlink encoder
//! ([`crate::netlink`]). Nothing here knows Kubernetes, sockets or attribute numbers.

pub mod bytecode;
mod chain;
pub mod comment;
mod live;
mod lower;
mod set;
mod statement;
mod value;

use std::collections::BTreeMap;
use std::fmt;

pub use chain::{BaseChain, Chain, ChainType, Hook};
pub use live::{LiveChain, LiveRuleset, LiveTable};
pub use lower::lower;
pub use set::{Element, ElementData, Set, SetData, SetKind};
pub use statement::{Action, Match, Rule, Selector, Statement};
pub use value::{ClassId, DataType, Datum, FieldValue, Protocol, Value};

/// The name of our table in both families. Nothing outside it is ever touched.
pub const TABLE: &str = "svcnat";

/// What `nft list` says of our table: whose it is.
pub const TABLE_COMMENT: &str = "services, host ports and egress, kept by svcnat";

/// The two nftables families we write to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub enum Family {
    /// `ip` (NFPROTO_IPV4).
    Ip,
    /// `ip6` (NFPROTO_IPV6).
    Ip6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::Ip, Self::Ip6];

    /// nft's name of the family.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(addr: &std::net::IpAddr) -> Self {
        match addr {
            std::net::IpAddr::V4(_) => Self::Ip,
            std::net::IpAddr::V6(_) => Self::Ip6,
        }
    }
}

/// Kubernetes' spelling: `IPv4`, `IPv6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "IPv4",
            Self::Ip6 => "IPv6",
        })
    }
}

/// One of our tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Family.
    pub family: Family,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, Set>,
    /// Chains, in an order in which every jump or goto leads to an earlier chain: the
    /// kernel resolves targets as it reads. Verdict maps are filled after the chains.
    pub chains: Vec<Chain>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub const fn new(family: Family) -> Self {
        Self {
            family,
            sets: BTreeMap::new(),
            chains: Vec::new(),
        }
    }

    /// The chain of this name. O(chains).
    #[must_use]
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|chain| chain.name == name)
    }

    /// Elements in all sets.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.sets.values().map(|set| set.elements.len()).sum()
    }
}

/// All tables of ours, as wanted or as found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// At most one table per family.
    pub tables: BTreeMap<Family, Table>,
}

impl Ruleset {
    /// Elements in all sets of all tables.
    #[must_use]
    pub fn element_count(&self) -> usize {
        self.tables.values().map(Table::element_count).sum()
    }
}
