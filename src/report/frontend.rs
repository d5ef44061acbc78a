//! What a frontend is, read from the sets of a table: of the kernel's as well as of the
//! desired one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::compile::value::{
    AFFINITY_MASK, Class, GROUP_MASK, LIST_MASK, MODE_MASK, Mode, SOURCE_SLOTS, value_of,
};
use crate::compile::{SetId, Sets, frontend_value_key, slots_of};
use crate::plan::{Endpoint, FrontendKey};
use crate::print::text::range;
use crate::ruleset::{Element, FieldValue, Set, Value};

/// What a new connection gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One of the endpoints.
    Endpoints,
    /// It is refused.
    Refused,
    /// It is dropped.
    Dropped,
    /// A value that svcnat does not write.
    Unknown,
}

/// Endpoints and their weights.
pub type Weights = BTreeMap<Endpoint, u32>;

/// A frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendState {
    /// Comment: `namespace/name:port`; untrusted text.
    pub comment: Option<Arc<str>>,
    /// What it does.
    pub answer: Answer,
    /// Where it leads to.
    pub endpoints: Weights,
    /// Where pods and this node itself are led to, if that is elsewhere.
    pub internal: Option<Weights>,
    /// True with `externalTrafficPolicy: Local`.
    pub local: bool,
    /// True if the client's address picks the endpoint: then weights are not told.
    pub by_source: bool,
    /// Session affinity, in seconds.
    pub affinity: Option<u32>,
    /// Allowed sources; `None` for everybody.
    pub sources: Option<Vec<String>>,
    /// Numbers of its lists.
    pub(super) lists: Vec<u32>,
    /// True if svcnat could have written it so.
    pub(super) intact: bool,
}

impl FrontendState {
    /// The frontend at `key`; `None` if there is none. O(its slots and source ranges).
    #[must_use]
    pub fn read(sets: &Sets, key: &FrontendKey) -> Option<Self> {
        let at = frontend_value_key(key);
        let (services, internal, affinity) = match key {
            FrontendKey::Address(..) => (
                SetId::ServiceIps,
                SetId::InternalServiceIps,
                SetId::AffinityServiceIps,
            ),
            FrontendKey::NodePort(..) => (
                SetId::ServiceNodeports,
                SetId::InternalServiceNodeports,
                SetId::AffinityServiceNodeports,
            ),
        };
        let of = |id| element(sets, id, &at);
        let found = of(services)?;
        let value = value_of(found).unwrap_or_default();
        let list = List::read(sets, key, value);
        let inside = of(internal).and_then(value_of);
        let inside = inside.map(|value| List::read(sets, key, value));
        let group = of(affinity).and_then(value_of);
        let local = value & MODE_MASK == Mode::Local as u32;
        let remembers = value & AFFINITY_MASK != 0;
        let whole = |list: &List| list.intact;
        let lists = [list.number, inside.as_ref().and_then(|list| list.number)];
        Some(Self {
            comment: found.comment.clone(),
            answer: list.answer,
            by_source: list.by_source || inside.as_ref().is_some_and(|list| list.by_source),
            affinity: group.and_then(|group| timeout(sets, group)),
            sources: sources(sets, &at),
            lists: lists.into_iter().flatten().collect(),
            intact: whole(&list)
                && inside.iter().all(whole)
                && found.comment.is_some()
                && (!remembers || group.is_some()),
            endpoints: list.endpoints,
            internal: inside.map(|list| list.endpoints),
            local,
        })
    }

    /// True if both do the same to every packet, and are called the same.
    #[must_use]
    pub fn means(&self, other: &Self) -> bool {
        let meaning = |of: &Self| {
            let lists = Vec::new();
            let intact = true;
            Self {
                lists,
                intact,
                ..of.clone()
            }
        };
        meaning(self) == meaning(other)
    }

    /// True if svcnat could have written it so: else another program changed it.
    #[must_use]
    pub const fn is_intact(&self) -> bool {
        self.intact
    }

    /// `namespace/name`, as the comment has it.
    #[must_use]
    pub fn owner(&self) -> &str {
        self.comment.as_deref().map_or("", owner)
    }
}

/// The object in a comment: what is before the name of a port.
pub fn owner(comment: &str) -> &str {
    comment.split_once(':').map_or(comment, |(owner, _)| owner)
}

/// An element of a set, if there is one.
pub fn element<'s>(sets: &'s Sets, id: SetId, key: &Value) -> Option<&'s Element> {
    sets.get(&*id.name())?.elements.get(key)
}

/// What a value leads to.
struct List {
    answer: Answer,
    endpoints: Weights,
    by_source: bool,
    number: Option<u32>,
    intact: bool,
}

impl List {
    fn read(sets: &Sets, key: &FrontendKey, value: u32) -> Self {
        let without = |answer| Self {
            answer,
            endpoints: Weights::new(),
            by_source: false,
            number: None,
            intact: answer != Answer::Unknown,
        };
        let class = match Class::of(value) {
            None => return without(Answer::Unknown),
            Some(Class::Reject) => return without(Answer::Refused),
            Some(Class::Drop) => return without(Answer::Dropped),
            Some(class) => class,
        };
        let number = value & LIST_MASK;
        let slots = slots_of(sets, number, key.protocol());
        let length = u32::try_from(slots.len()).unwrap_or(u32::MAX);
        let right = match class {
            Class::Exact(slots) => length == slots,
            Class::Large(size) => length > Class::filled(size) && length <= size,
            _ => length == SOURCE_SLOTS,
        };
        let by_source = class == Class::BySource;
        let intact = right && slots.iter().all(Option::is_some);
        let mut endpoints = Weights::new();
        for endpoint in slots.into_iter().flatten() {
            let weight = endpoints.entry(endpoint).or_insert(0);
            *weight = if by_source { 1 } else { *weight + 1 };
        }
        Self {
            answer: Answer::Endpoints,
            endpoints,
            by_source,
            number: Some(number),
            intact,
        }
    }
}

/// How long a group remembers its clients.
fn timeout(sets: &Sets, group: u32) -> Option<u32> {
    let key = Value::new().u32(group & GROUP_MASK);
    sets.iter()
        .find_map(|(name, set)| match SetId::named(name) {
            Some(SetId::AffinityTimeout(seconds)) => set.elements.get(&key).map(|_| seconds),
            _ => None,
        })
}

/// Who may ask, if not everybody.
fn sources(sets: &Sets, at: &Value) -> Option<Vec<String>> {
    element(sets, SetId::FirewallIps, at)?;
    let Some(allowed) = sets.get(&*SetId::FirewallAllowed.name()) else {
        return Some(Vec::new());
    };
    let starts = allowed.elements.range(*at..);
    let own = starts.take_while(|(key, _)| key.as_bytes().starts_with(at.as_bytes()));
    Some(
        own.map(|(key, element)| source(allowed, key, element))
            .collect(),
    )
}

fn source(set: &Set, key: &Value, element: &Element) -> String {
    let end = element.end.as_deref().unwrap_or(key);
    let last = |value: &Value| {
        value
            .fields(&set.key)
            .and_then(|fields| fields.last().copied())
    };
    match (last(key), last(end)) {
        (Some(from @ FieldValue::Addr(_)), Some(to)) => range(&from, &to),
        _ => format!("{key:?}"),
    }
}
