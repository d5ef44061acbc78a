//! Clients that session affinity remembers, and that are forgotten with the endpoint they
//! were given.

use std::collections::BTreeMap;

use super::host::Host;
use crate::compile::SetId;
use crate::netlink::NetlinkError;
use crate::ruleset::{Element, ElementData, Family, Ruleset, Value};
use crate::transaction::{Operation, TableChange, Transaction};

/// Handles of sticky endpoints that are gone, by family.
pub type Gone = BTreeMap<Family, Vec<ElementData>>;

/// Which handles `committed` took away: they lead nowhere any more, and must not lead to
/// whoever is given the same handle later. Empty unless a sticky endpoint went.
#[must_use]
pub fn gone_clients(committed: &Transaction, desired: &Ruleset) -> Gone {
    let tables = committed.tables.iter();
    let gone = tables.map(|table| (table.family, gone_handles(table, desired)));
    gone.filter(|(_, handles)| !handles.is_empty()).collect()
}

/// Clients that were forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many.
    pub clients: usize,
    /// True if it took a commit.
    pub committed: bool,
}

/// The clients that were given one of these handles, as the step that forgets them; `None` if
/// there are none. O(remembered clients).
///
/// # Errors
/// If the kernel cannot be read.
pub fn clients_of(
    host: &mut impl Host,
    family: Family,
    handles: &[ElementData],
    desired: &Ruleset,
) -> Result<Option<Transaction>, NetlinkError> {
    let table = desired.tables.get(&family);
    let Some(set) = table.and_then(|t| t.sets.get(SetId::AffinityClients.fixed_name())) else {
        return Ok(None);
    };
    let found = host.elements(family, set.clone())?;
    let clients: Vec<(Value, Element)> = found
        .elements
        .into_iter()
        .filter(|(_, element)| handles.contains(&element.data))
        .collect();
    Ok((!clients.is_empty()).then(|| Transaction {
        tables: vec![TableChange {
            sets: [(set.name.clone(), set.clone())].into(),
            operations: vec![Operation::DeleteElements(set.name.clone(), clients)],
            ..TableChange::empty(family)
        }],
    }))
}

/// Forgets the clients that were given one of these handles. O(remembered clients).
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn forget_clients(
    host: &mut impl Host,
    family: Family,
    handles: &[ElementData],
    desired: &Ruleset,
) -> Result<Forgotten, NetlinkError> {
    let Some(delta) = clients_of(host, family, handles, desired)? else {
        return Ok(Forgotten::default());
    };
    let forgotten = delta.counts().elements_deleted;
    match host.commit(&delta, 0) {
        // A client that expired in between took the batch with it; the rest expire too.
        Err(NetlinkError::Refused {
            errno: nix::errno::Errno::ENOENT,
            ..
        }) => Ok(Forgotten {
            clients: forgotten - 1,
            committed: false,
        }),
        result => result.map(|_| Forgotten {
            clients: forgotten,
            committed: true,
        }),
    }
}

/// Handles that the delta deletes and that nothing has now.
fn gone_handles(table: &TableChange, desired: &Ruleset) -> Vec<ElementData> {
    let deleted = table.operations.iter().filter_map(|o| match o {
        Operation::DeleteElements(set, elements) if set == SetId::AffinityHandles.fixed_name() => {
            Some(elements)
        }
        _ => None,
    });
    let now = desired
        .tables
        .get(&table.family)
        .and_then(|t| t.sets.get(SetId::AffinityHandles.fixed_name()));
    deleted
        .flatten()
        .filter(|(key, element)| {
            now.and_then(|set| set.elements.get(key))
                .is_none_or(|e| e.data != element.data)
        })
        .map(|(_, element)| element.data.clone())
        .collect()
}
