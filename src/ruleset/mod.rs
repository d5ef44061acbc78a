//! The ruleset: what nftables is to hold, as typed and ordered data.
//!
//! Everything downstream reads this: the printers ([`crate::print`]), the walker
//! ([`crate::walk`]), the diff ([`crate::diff`]) and the netlink encoder
//! ([`crate::netlink`]). Nothing here knows Kubernetes, sockets or attribute numbers.

pub mod bytecode;
mod chain;
mod live;
mod lower;
mod set;
mod statement;
mod value;

use std::collections::BTreeMap;

pub use crate::net::{Family, Protocol};
pub use chain::{BaseChain, Chain, ChainType, Hook};
pub use live::{Following, FollowingSet, LiveChain, LiveRuleset, LiveTable};
pub use lower::lower;
pub use set::{Element, ElementData, Set, SetData, SetKind};
pub use statement::{Action, Match, Rule, Selector, Statement};
pub use value::{ClassId, DataType, Datum, FieldValue, Value};

/// The name of our table in both families. Nothing outside it is ever touched, but for a table
/// that marks packets while they are traced.
pub const TABLE: &str = "svcnat";

/// What `nft list` says of our table: whose it is.
pub const TABLE_COMMENT: &str = "services, host ports and egress, kept by svcnat";

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
