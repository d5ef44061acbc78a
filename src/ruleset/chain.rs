//! Chains: where packets enter (base chains) and where rules send them.

use serde::{Deserialize, Serialize};

use super::Rule;

/// A netfilter hook, with nft's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u32)]
pub enum Hook {
    /// NF_INET_PRE_ROUTING.
    Prerouting = 0,
    /// NF_INET_LOCAL_IN.
    Input = 1,
    /// NF_INET_FORWARD.
    Forward = 2,
    /// NF_INET_LOCAL_OUT.
    Output = 3,
    /// NF_INET_POST_ROUTING.
    Postrouting = 4,
}

impl Hook {
    /// nft's name of the hook.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        }
    }

    /// The hook with this kernel number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Prerouting),
            1 => Some(Self::Input),
            2 => Some(Self::Forward),
            3 => Some(Self::Output),
            4 => Some(Self::Postrouting),
            _ => None,
        }
    }
}

/// The kind of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ChainType {
    /// Sees every packet.
    Filter,
    /// Sees the first packet of each connection.
    Nat,
}

impl ChainType {
    /// nft's and the kernel's name of the type.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where a base chain hangs. Its policy is always accept: svcnat never decides about
/// packets that are none of its business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BaseChain {
    /// `filter` or `nat`.
    pub chain_type: ChainType,
    /// Hook.
    pub hook: Hook,
    /// Priority: lower runs first. -100 is dstnat, 0 filter, 100 srcnat.
    pub priority: i32,
}

/// A chain and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Name, unique in the table.
    pub name: String,
    /// Its hook, or `None` for a chain reached by jump or goto only.
    pub base: Option<BaseChain>,
    /// For people who read `nft list`; none if empty. The kernel takes it when the chain is
    /// added and never changes it, so it is no part of any comparison with what is installed.
    pub comment: &'static str,
    /// Rules in order.
    pub rules: Vec<Rule>,
}

impl Chain {
    /// A chain that rules jump to.
    #[must_use]
    pub fn regular(name: impl Into<String>, comment: &'static str, rules: Vec<Rule>) -> Self {
        Self {
            name: name.into(),
            base: None,
            comment,
            rules,
        }
    }

    /// A chain that the kernel sends packets to.
    #[must_use]
    pub fn base(
        name: impl Into<String>,
        comment: &'static str,
        chain_type: ChainType,
        hook: Hook,
        priority: i32,
        rules: Vec<Rule>,
    ) -> Self {
        Self {
            name: name.into(),
            base: Some(BaseChain {
                chain_type,
                hook,
                priority,
            }),
            comment,
            rules,
        }
    }
}
