//! Bringing the kernel to the desired state, and keeping it there against other writers.

mod aside;
mod holds;
mod loss;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Cluster, Family, Protocol};
use crate::compile::SetId;
use crate::counters;
use crate::diff::{Delta, Operation, TableDelta, diff, take_first};
use crate::host::HostError;
use crate::host::conntrack::{Conntrack, Flow};
use crate::host::conntrack_plan::{self, FrontendAddress};
use crate::netlink::{Committed, NetlinkError, Nfnetlink};
use crate::plan::{NodePlan, serving};
use crate::ruleset::{Element, ElementData, LiveRuleset, Ruleset, Value};
pub use aside::{MOST_ASIDE, carry_out_setting_aside, refused_with};
pub use holds::{Verification, holds};
pub use loss::{Holding, Limit, Loss, LossGuard, SECOND_READING, Verdict};

/// Times a commit is tried again after another program's came first.
pub const TRIES: usize = 100;
/// Races after which a commit is no longer bound to a generation.
const BOUND_TRIES: usize = 3;

/// The generation a commit is bound to after so many lost races; 0 is any. A program that
/// commits to its own tables faster than we can read ours would win for ever. Unbound, a
/// commit is still one transaction, and the kernel refuses additions and removals that do
/// not fit: only elements that somebody else adds to our tables at that very moment stay,
/// which the next look finds.
#[must_use]
pub const fn bound_to(generation: u32, races: usize) -> u32 {
    if races < BOUND_TRIES { generation } else { 0 }
}

/// What can be read and committed to: the kernel, or a stand-in for tests.
pub trait Kernel {
    /// Our tables as they are.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&mut self) -> Result<LiveRuleset, NetlinkError>;
    /// Carries out `delta` if the generation is still `generation` (0: whatever it is).
    ///
    /// # Errors
    /// [`NetlinkError::Raced`] if it is not; otherwise why nothing was done.
    fn commit(&mut self, delta: &Delta, generation: u32) -> Result<Committed, NetlinkError>;
    /// Has the elements that `delta` adds go on from what those they replace have counted.
    ///
    /// # Errors
    /// If the counters cannot be read.
    fn carry_counters(&mut self, delta: &mut Delta) -> Result<(), NetlinkError>;
}

impl Kernel for Nfnetlink {
    fn read(&mut self) -> Result<LiveRuleset, NetlinkError> {
        Self::read(self)
    }

    fn commit(&mut self, delta: &Delta, generation: u32) -> Result<Committed, NetlinkError> {
        Self::commit(self, delta, generation)
    }

    fn carry_counters(&mut self, delta: &mut Delta) -> Result<(), NetlinkError> {
        counters::carry(self, delta)
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// What was changed.
    pub delta: Delta,
    /// What it took; `None` if there was nothing to do, and nothing was sent.
    pub committed: Option<Committed>,
    /// The state before.
    pub before: LiveRuleset,
    /// The state wanted, and now in force.
    pub desired: Ruleset,
    /// Generation of the state in force: our own commit's, not what others did since.
    pub generation: u32,
    /// How often another writer came first.
    pub races: usize,
}

/// What the kernel holds, what it should hold, and what leads from one to the other.
#[derive(Debug)]
pub struct Comparison {
    /// The state now.
    pub before: LiveRuleset,
    /// The state wanted.
    pub desired: Ruleset,
    /// The steps.
    pub delta: Delta,
}

/// Reads and compares. `desired` is given the live state for stable numbers.
///
/// # Errors
/// If the kernel cannot be read.
pub fn compare(
    kernel: &mut impl Kernel,
    desired: impl FnOnce(&LiveRuleset) -> Ruleset,
) -> Result<Comparison, NetlinkError> {
    let before = kernel.read()?;
    let desired = desired(&before);
    let delta = diff(&desired, &before);
    Ok(Comparison {
        before,
        desired,
        delta,
    })
}

/// Reads, compares and commits, from the start again if another writer came first.
/// `desired` is given the live state for stable numbers. Nothing is sent if nothing differs.
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn reconcile(
    kernel: &mut impl Kernel,
    mut desired: impl FnMut(&LiveRuleset) -> Ruleset,
) -> Result<Outcome, NetlinkError> {
    let first = compare(kernel, &mut desired)?;
    carry_out(kernel, first, desired)
}

/// Commits what was compared; reads and compares again if another writer came first.
///
/// # Errors
/// As [`reconcile`].
pub fn carry_out(
    kernel: &mut impl Kernel,
    first: Comparison,
    mut desired: impl FnMut(&LiveRuleset) -> Ruleset,
) -> Result<Outcome, NetlinkError> {
    let mut found = first;
    let mut unconfirmed = None;
    let mut first = Delta::default();
    for races in 0..TRIES {
        let Comparison {
            before,
            desired: wanted,
            mut delta,
        } = found;
        let committed = if delta.is_empty() {
            // In force after all: the answer to an earlier try was lost.
            delta = unconfirmed.take().unwrap_or(delta);
            (!delta.is_empty()).then(Committed::default)
        } else {
            let mut part = take_first(&mut delta);
            if !part.is_empty() {
                match kernel.commit(&part, bound_to(before.generation, races)) {
                    Ok(_) => {
                        part.after(first);
                        first = part;
                    }
                    Err(NetlinkError::Raced) => {}
                    Err(error) => return Err(error),
                }
                found = compare(kernel, &mut desired)?;
                continue;
            }
            kernel.carry_counters(&mut delta)?;
            match kernel.commit(&delta, bound_to(before.generation, races)) {
                Err(NetlinkError::Raced) => {
                    found = compare(kernel, &mut desired)?;
                    continue;
                }
                Err(NetlinkError::Unconfirmed { .. }) if unconfirmed.is_none() => {
                    unconfirmed = Some(delta);
                    found = compare(kernel, &mut desired)?;
                    continue;
                }
                result => Some(result?),
            }
        };
        // A commit counts one up, and 0 means "any", so it is passed over. Bound to the
        // generation before, ours is exactly the next; one that was not bound came later.
        let generation = match committed {
            Some(done) if done.bytes > 0 => before.generation.checked_add(1).unwrap_or(1),
            _ => before.generation,
        };
        delta.after(first);
        return Ok(Outcome {
            generation,
            delta,
            committed,
            before,
            desired: wanted,
            races,
        });
    }
    Err(NetlinkError::Raced)
}

/// What is installed, as far as it takes to judge whether `after` loses too much of it. O(1)
/// mostly, O(elements) if the number of elements does not say enough.
///
/// # Errors
/// If the kernel cannot be read.
pub fn installed(
    kernel: &mut Nfnetlink,
    limit: &Limit,
    after: Holding,
    routes: usize,
) -> Result<Holding, NetlinkError> {
    let mut live = kernel.outline()?;
    if let Some(at_most) = Holding::at_most(&live, routes)
        && limit.loss(at_most, after).is_none()
    {
        return Ok(at_most);
    }
    for (family, table) in &mut live.tables {
        for name in loss::ENDPOINTS {
            if let Some(set) = table.sets.get_mut(name) {
                *set = kernel.elements(*family, set.clone())?;
            }
        }
    }
    Ok(Holding::of_kernel(&live, routes))
}

/// Tracked UDP and SCTP flows that lead where no new one would once `plan` is in force, and
/// `closed` are the frontends that this takes away ([`conntrack_plan::closed`]). O(tracked flows).
///
/// # Errors
/// If the table cannot be read.
pub fn stale_flows(
    table: &mut Conntrack,
    closed: &BTreeSet<FrontendAddress>,
    plan: &NodePlan,
    cluster: &Cluster,
    local_addresses: &BTreeSet<IpAddr>,
) -> Result<Vec<Flow>, HostError> {
    let serving = serving(cluster);
    let context = conntrack_plan::Context {
        local_addresses,
        serving: &serving,
    };
    let mut stale = Vec::new();
    for family in Family::ALL {
        for protocol in [Protocol::Udp, Protocol::Sctp] {
            let flows = table.dump(family, protocol)?;
            stale.extend(conntrack_plan::stale_in(plan, closed, flows, &context));
        }
    }
    Ok(stale)
}

/// Removes the flows of [`stale_flows`], now that `plan` is in force. Returns how many.
///
/// # Errors
/// If the table cannot be read or the kernel refuses.
pub fn drop_stale_flows(
    table: &mut Conntrack,
    closed: &BTreeSet<FrontendAddress>,
    plan: &NodePlan,
    cluster: &Cluster,
    local_addresses: &BTreeSet<IpAddr>,
) -> Result<usize, HostError> {
    let stale = stale_flows(table, closed, plan, cluster, local_addresses)?;
    table.delete_flows(&stale)
}

/// Handles of sticky endpoints that are gone, by family.
pub type Gone = BTreeMap<Family, Vec<ElementData>>;

/// Forgets the clients of endpoints that the commit removed ([`gone_clients`]). Returns how
/// many.
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn purge_affinity(
    kernel: &mut Nfnetlink,
    committed: &Delta,
    desired: &Ruleset,
) -> Result<usize, NetlinkError> {
    let mut purged = 0;
    for (family, handles) in gone_clients(committed, desired) {
        purged += forget_clients(kernel, family, &handles, desired)?.clients;
    }
    Ok(purged)
}

/// Which handles `committed` took away: they lead nowhere any more, and must not lead to
/// whoever is given the same handle later. Empty unless a sticky endpoint went.
#[must_use]
pub fn gone_clients(committed: &Delta, desired: &Ruleset) -> Gone {
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
    kernel: &mut Nfnetlink,
    family: Family,
    handles: &[ElementData],
    desired: &Ruleset,
) -> Result<Option<Delta>, NetlinkError> {
    let table = desired.tables.get(&family);
    let Some(set) = table.and_then(|t| t.sets.get(SetId::AffinityClients.fixed_name())) else {
        return Ok(None);
    };
    let found = kernel.elements(family, set.clone())?;
    let clients: Vec<(Value, Element)> = found
        .elements
        .into_iter()
        .filter(|(_, element)| handles.contains(&element.data))
        .collect();
    Ok((!clients.is_empty()).then(|| Delta {
        tables: vec![TableDelta {
            sets: [(set.name.clone(), set.clone())].into(),
            operations: vec![Operation::DeleteElements(set.name.clone(), clients)],
            ..TableDelta::empty(family)
        }],
    }))
}

/// Forgets the clients that were given one of these handles. O(remembered clients).
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn forget_clients(
    kernel: &mut Nfnetlink,
    family: Family,
    handles: &[ElementData],
    desired: &Ruleset,
) -> Result<Forgotten, NetlinkError> {
    let Some(delta) = clients_of(kernel, family, handles, desired)? else {
        return Ok(Forgotten::default());
    };
    let forgotten = delta.counts().elements_deleted;
    match kernel.commit(&delta, 0) {
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
fn gone_handles(table: &TableDelta, desired: &Ruleset) -> Vec<ElementData> {
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
