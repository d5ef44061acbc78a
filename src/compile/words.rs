//! The statements and keys that the rules of the skeleton are put together from.

use super::sets::SetId;
use super::value::{CLASS_MASK, Class, GROUP_MASK, LIST_MASK};
use crate::ruleset::{Action, Match, Rule, Selector, Statement};

use Selector::{Daddr, Dport, L4Proto};

pub(super) fn rule(statements: impl IntoIterator<Item = Statement>) -> Rule {
    Rule::new(statements)
}

pub(super) fn in_set(key: impl Into<Vec<Selector>>, set: SetId) -> Statement {
    Match::InSet {
        key: key.into(),
        set: set.name(),
        negated: false,
    }
    .into()
}

pub(super) fn not_in_set(key: impl Into<Vec<Selector>>, set: SetId) -> Statement {
    Match::InSet {
        key: key.into(),
        set: set.name(),
        negated: true,
    }
    .into()
}

pub(super) fn load(key: impl Into<Vec<Selector>>, map: SetId) -> Statement {
    Action::LoadPriority {
        key: key.into(),
        map: map.fixed_name(),
    }
    .into()
}

pub(super) fn dnat(key: impl Into<Vec<Selector>>, map: SetId) -> Statement {
    Action::Dnat {
        key: key.into(),
        map: map.fixed_name(),
    }
    .into()
}

pub(super) fn jump(chain: &str) -> Statement {
    Action::Jump(chain.to_owned()).into()
}

pub(super) fn goto(chain: &str) -> Statement {
    Action::Goto(chain.to_owned()).into()
}

pub(super) fn priority_is(mask: u32, value: u32) -> Statement {
    Match::Priority {
        mask,
        value,
        negated: false,
    }
    .into()
}

/// A frontend of this class.
pub(super) fn class_is(class: Class) -> Statement {
    priority_is(CLASS_MASK, class.bits())
}

pub(super) const fn list() -> Selector {
    Selector::PriorityMasked { mask: LIST_MASK }
}

pub(super) const fn group() -> Selector {
    Selector::PriorityMasked { mask: GROUP_MASK }
}

pub(super) fn slot(modulus: u32) -> Vec<Selector> {
    vec![list(), L4Proto, Selector::Random { modulus }]
}

pub(super) fn frontend_key() -> Vec<Selector> {
    vec![Daddr, L4Proto, Dport]
}

pub(super) fn port_key() -> Vec<Selector> {
    vec![L4Proto, Dport]
}
