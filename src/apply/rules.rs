//! The one way to bring nf_tables to a state: read, compare, commit, and once more if another
//! writer came first, with what the kernel does not take left out.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::aside::{MOST_ASIDE, set_aside};
use super::host::Host;
use crate::cluster::ObjectName;
use crate::diff::{diff, own};
use crate::netlink::{Committed, NetlinkError};
use crate::ruleset::{LiveRuleset, Ruleset};
use crate::transaction::{Operation, TableChange, Transaction, ahead, take_first};

/// Times a commit is tried again after another program's came first.
pub const TRIES: usize = 100;
/// Races after which a commit is no longer bound to a generation.
const BOUND_TRIES: usize = 3;
/// Times kube-proxy's tables are looked for again after others deleted them, too.
const TAKE_OVER_TRIES: usize = 3;
/// Name of kube-proxy's tables (both families).
const KUBE_PROXY_TABLE: &str = "kube-proxy";

/// The generation a commit is bound to after so many lost races; 0 is any. A program that
/// commits to its own tables faster than we can read ours would win for ever. Unbound, a
/// commit is still one transaction, and the kernel refuses additions and removals that do
/// not fit: only elements that somebody else adds to our tables at that very moment stay,
/// which the next look finds.
const fn bound_to(generation: u32, races: usize) -> u32 {
    if races < BOUND_TRIES { generation } else { 0 }
}

/// A commit counts one up, and 0 means "any", so it is passed over.
#[must_use]
pub const fn next(generation: u32) -> u32 {
    match generation.checked_add(1) {
        Some(next) => next,
        None => 1,
    }
}

/// A ruleset that is wanted. It is told what the kernel holds, for stable numbers.
pub trait DesiredRules {
    /// Makes it anew for a kernel that holds `live`; returns what leads there.
    fn change(&mut self, live: &LiveRuleset) -> Transaction;
    /// As it was last made.
    fn ruleset(&self) -> &Ruleset;
    /// True if what was found is to be carried out or nothing: nothing is left out, and
    /// nothing found anew if another writer came first.
    fn exactly(&self) -> bool {
        false
    }
    /// Services that could be left out of it: none if that would be of no use.
    fn suspects(&self) -> Vec<ObjectName> {
        Vec::new()
    }
    /// What would be changed of `live` without these, and those that are left out.
    fn without(&mut self, names: &BTreeSet<ObjectName>, live: &LiveRuleset) -> Transaction {
        let _ = names;
        self.change(live)
    }
    /// Leaves one out from now on, for this reason.
    fn set_aside(&mut self, name: ObjectName, reason: String) {
        let _ = (name, reason);
    }
}

/// A ruleset from a function.
struct Made<F> {
    make: F,
    made: Ruleset,
}

impl<F: FnMut(&LiveRuleset) -> Ruleset> DesiredRules for Made<F> {
    fn change(&mut self, live: &LiveRuleset) -> Transaction {
        self.made = (self.make)(live);
        diff(&self.made, live)
    }

    fn ruleset(&self) -> &Ruleset {
        &self.made
    }
}

/// How our tables are to be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// Own them, so that nobody else can change or flush them; not any more once the kernel
    /// says that it cannot.
    pub own: bool,
    /// kube-proxy's tables go once ours do what they did (`take_over`); done once.
    pub take_over: bool,
}

/// What the kernel holds, and what leads from there to what is wanted.
#[derive(Debug)]
pub struct Found {
    /// The state now.
    pub before: LiveRuleset,
    /// The steps.
    pub delta: Transaction,
}

/// What became of the rules.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What was changed.
    pub delta: Transaction,
    /// What it took; `None` if there was nothing to do, and nothing was sent.
    pub committed: Option<Committed>,
    /// Generation of the state in force: our own commit's, not what others did since.
    pub generation: u32,
    /// How often another writer came first.
    pub races: usize,
    /// Why counters of replaced elements start from 0, if they do: no endpoint waits for that.
    pub counters_lost: Option<NetlinkError>,
}

/// Reads, compares and commits, from the start again if another writer came first.
/// `desired` is given the live state for stable numbers. Nothing is sent if nothing differs.
///
/// # Errors
/// If the kernel cannot be read or refuses.
pub fn reconcile(
    host: &mut impl Host,
    desired: impl FnMut(&LiveRuleset) -> Ruleset,
) -> Result<Outcome, NetlinkError> {
    let mut wanted = Made {
        make: desired,
        made: Ruleset::default(),
    };
    let found = look(host, &mut wanted)?;
    bring(host, &mut wanted, &mut Manner::default(), found)
}

/// Reads and compares.
///
/// # Errors
/// If the kernel cannot be read.
pub fn look(host: &mut impl Host, wanted: &mut impl DesiredRules) -> Result<Found, NetlinkError> {
    let before = host.read()?;
    let delta = wanted.change(&before);
    Ok(Found { before, delta })
}

/// Commits what was found; kube-proxy's tables go afterwards, if they are to.
pub(super) fn bring(
    host: &mut impl Host,
    wanted: &mut impl DesiredRules,
    manner: &mut Manner,
    found: Found,
) -> Result<Outcome, NetlinkError> {
    let mut done = bring_ours(host, wanted, manner, found)?;
    if manner.take_over && take_over(host)? {
        done.generation = next(done.generation);
        tracing::info!("took over from kube-proxy");
    }
    manner.take_over = false;
    Ok(done)
}

/// Commits what was found, bound to the generation it was read at unless others keep coming
/// first ([`bound_to`]).
fn bring_ours(
    host: &mut impl Host,
    wanted: &mut impl DesiredRules,
    manner: &mut Manner,
    mut found: Found,
) -> Result<Outcome, NetlinkError> {
    let mut done = Outcome::default();
    let mut unconfirmed = None;
    for _ in 0..TRIES + MOST_ASIDE {
        let Found { before, delta } = found;
        let bound = bound_to(before.generation, done.races);
        let mut batch = Batch::of(delta, wanted, *manner, &before);
        if batch.delta.is_empty() {
            // In force after all, if the answer to an earlier try was lost.
            let earlier: Transaction = unconfirmed.take().unwrap_or_default();
            let confirmed = (!earlier.is_empty()).then(Committed::default);
            return Ok(done.with(earlier, confirmed, before.generation));
        }
        if !batch.is_first {
            done.counters_lost = host.carry_counters(&mut batch.delta).err();
        }
        found = match host.commit(&batch.delta, bound) {
            Ok(_) if batch.is_first => {
                done.first(batch.delta);
                let again = look(host, wanted)?;
                if wanted.exactly() && again.before.generation != next(before.generation) {
                    return Err(NetlinkError::Raced);
                }
                again
            }
            Ok(committed) => {
                let generation = next(before.generation);
                return Ok(done.with(batch.change(), Some(committed), generation));
            }
            Err(error) if wanted.exactly() && !is_unconfirmed(&error) => return Err(error),
            Err(NetlinkError::Raced) if done.races < TRIES => {
                done.races += 1;
                look(host, wanted)?
            }
            Err(NetlinkError::Unconfirmed { .. }) if unconfirmed.is_none() && !batch.is_first => {
                unconfirmed = Some(batch.change());
                look(host, wanted)?
            }
            Err(error) => {
                if !manner.give_up_owning(&error) {
                    // Somebody may have come between reading and writing.
                    let live = match bound {
                        0 => &host.read()?,
                        _ => &before,
                    };
                    set_aside(host, wanted, live, error)?;
                }
                look(host, wanted)?
            }
        };
    }
    Err(NetlinkError::Raced)
}

const fn is_unconfirmed(error: &NetlinkError) -> bool {
    matches!(error, NetlinkError::Unconfirmed { .. })
}

impl Outcome {
    /// Something was committed before the rest.
    fn first(&mut self, mut part: Transaction) {
        part.after(std::mem::take(&mut self.delta));
        self.delta = part;
    }

    /// All of it is in force.
    fn with(
        mut self,
        mut delta: Transaction,
        committed: Option<Committed>,
        generation: u32,
    ) -> Self {
        delta.after(std::mem::take(&mut self.delta));
        self.delta = delta;
        self.committed = committed;
        self.generation = generation;
        self
    }
}

/// What is sent at once.
struct Batch {
    delta: Transaction,
    /// It changes nothing for any packet, and the rest has to be found anew.
    is_first: bool,
    /// What changes of our tables, if that is not what is sent: to own a table may take
    /// building it anew.
    change: Option<Transaction>,
}

impl Batch {
    fn of(
        mut delta: Transaction,
        wanted: &impl DesiredRules,
        manner: Manner,
        before: &LiveRuleset,
    ) -> Self {
        let change = manner.own.then(|| delta.clone());
        if manner.own {
            own(&mut delta, wanted.ruleset(), before);
        }
        let mut first = Transaction::default();
        if manner.take_over {
            first = ahead(&delta);
        }
        if first.is_empty() {
            first = take_first(&mut delta);
        }
        let is_first = !first.is_empty();
        Self {
            delta: if is_first { first } else { delta },
            is_first,
            change,
        }
    }

    fn change(self) -> Transaction {
        self.change.unwrap_or(self.delta)
    }
}

impl Manner {
    /// Goes on without owning tables if that is what the kernel refused.
    fn give_up_owning(&mut self, error: &NetlinkError) -> bool {
        match error {
            NetlinkError::Refused {
                at: Some(refused),
                errno,
                ..
            } if self.own && refused.operation == Operation::OwnTable => {
                tracing::warn!(%errno, "this kernel has no owned tables (Linux 6.9): foreign changes are repaired instead");
                self.own = false;
                true
            }
            _ => false,
        }
    }
}

/// Deletes kube-proxy's tables, which translate beside ours until then: true if there were any.
///
/// Not in the transaction that brings ours in. A packet that took up the list of chains before
/// ours was on it, or passed ours before the commit, and comes to kube-proxy's rules after it,
/// would find neither. So ours come first, and kube-proxy's go when each packet that was under
/// way at that moment is through; who is killed in between leaves both, and the next start goes
/// on from there.
fn take_over(host: &mut impl Host) -> Result<bool, NetlinkError> {
    for _ in 0..TAKE_OVER_TRIES {
        let theirs = kube_proxys_tables(host)?;
        if theirs.is_empty() {
            return Ok(false);
        }
        host.let_packets_pass();
        match host.commit(&theirs, 0) {
            Ok(_) => return Ok(true),
            // It was carried out after all, or somebody else came first.
            Err(NetlinkError::Unconfirmed { .. }) => {}
            Err(NetlinkError::Refused {
                errno: Errno::ENOENT,
                ..
            }) => {}
            Err(error) => return Err(error),
        }
    }
    Err(NetlinkError::Raced)
}

/// What deletes kube-proxy's tables, if there are any.
fn kube_proxys_tables(host: &mut impl Host) -> Result<Transaction, NetlinkError> {
    let theirs = host.table_names()?.into_iter();
    let theirs = theirs.filter(|(_, name)| name == KUBE_PROXY_TABLE);
    let tables = theirs.map(|(family, name)| TableChange {
        operations: vec![Operation::DeleteOtherTable(name)],
        ..TableChange::empty(family)
    });
    Ok(Transaction {
        tables: tables.collect(),
    })
}
