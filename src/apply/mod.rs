//! Bringing the kernel to the desired state, and keeping it there against other writers.

use crate::diff::{Delta, diff};
use crate::netlink::{Committed, NetlinkError, Nfnetlink};
use crate::ruleset::{LiveRuleset, Ruleset};

/// Times a commit is tried again after another program's came first.
const TRIES: usize = 100;

/// What can be read and committed to: the kernel, or a stand-in for tests.
pub trait Kernel {
    /// Our tables as they are.
    ///
    /// # Errors
    /// If they cannot be read.
    fn read(&mut self) -> Result<LiveRuleset, NetlinkError>;
    /// Carries out `delta` if the generation is still `generation`.
    ///
    /// # Errors
    /// [`NetlinkError::Raced`] if it is not; otherwise why nothing was done.
    fn commit(&mut self, delta: &Delta, generation: u32) -> Result<Committed, NetlinkError>;
}

impl Kernel for Nfnetlink {
    fn read(&mut self) -> Result<LiveRuleset, NetlinkError> {
        Self::read(self)
    }

    fn commit(&mut self, delta: &Delta, generation: u32) -> Result<Committed, NetlinkError> {
        Self::commit(self, delta, generation)
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
    /// How often another writer came first.
    pub races: usize,
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
    for races in 0..TRIES {
        let before = kernel.read()?;
        let desired = desired(&before);
        let delta = diff(&desired, &before);
        let committed = if delta.is_empty() {
            None
        } else {
            match kernel.commit(&delta, before.generation) {
                Err(NetlinkError::Raced) => continue,
                result => Some(result?),
            }
        };
        return Ok(Outcome {
            delta,
            committed,
            before,
            desired,
            races,
        });
    }
    Err(NetlinkError::Raced)
}
