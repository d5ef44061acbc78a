//! Holding back what loses too much: the same rule for files and for the API, before the
//! first commit against what the kernel holds, later against what was read before.

use super::{Agent, SyncError};
use crate::apply::{Holding, Host, Loss, Verdict};
use crate::cluster::Cluster;
use crate::observe::Condition;

impl<H: Host> Agent<'_, H> {
    /// True if the saved state may be installed until the API answers.
    pub(super) fn may_boot(&mut self, saved: &Cluster) -> Result<bool, SyncError> {
        let after = Holding::of_cluster(saved);
        let before = self.installed(after)?.unwrap_or_default();
        let loss = self.guard.limit().refuses(before, after);
        if let Some(loss) = &loss {
            tracing::warn!(lost = %loss, "the saved state is not installed: what is there stays");
        }
        Ok(loss.is_none())
    }

    /// Hands what waits to the engine, if it may be carried out now; true if it was.
    pub(super) fn hand_over(&mut self) -> Result<bool, SyncError> {
        if !self.pending.is_complete() || self.pending.is_held() {
            return Ok(false);
        }
        let installed = self.installed(self.pending.holding(&self.engine))?;
        let was_held = self.guard.held().is_some();
        let now = self.now();
        let verdict = (self.pending).verdict(&self.engine, installed, &mut self.guard, now);
        let may = verdict.is_some_and(|verdict| self.heed(verdict, was_held));
        if may {
            self.pending.hand_over(&mut self.engine);
        }
        Ok(may)
    }

    /// True if all that was read so far is held: the engine knows nothing to be installed.
    pub(super) fn held_at_start(&self) -> bool {
        !self.ready && self.guard.held().is_some()
    }

    /// What the kernel holds, until the first commit: then the engine knows.
    fn installed(&mut self, after: Holding) -> Result<Option<Holding>, SyncError> {
        if self.ready || self.booted {
            return Ok(None);
        }
        self.sync.installed(self.guard.limit(), after).map(Some)
    }

    fn heed(&self, verdict: Verdict, was_held: bool) -> bool {
        match verdict {
            Verdict::Go => {
                if was_held {
                    tracing::info!("what was held is carried out");
                }
                self.observed.good(Condition::Loss);
                true
            }
            Verdict::Hold { loss, news } => {
                if news {
                    self.tell_held(&loss);
                }
                false
            }
        }
    }

    fn tell_held(&self, loss: &Loss) {
        let again = if self.source.is_remote() {
            "list"
        } else {
            "reading"
        };
        let (how, reason) = if loss.total && !self.guard.limit().allow_empty {
            (
                "held until the input holds something again (--allow-empty is for who means it)",
                loss.to_string(),
            )
        } else {
            (
                "most endpoints would go: held until another reading says the same",
                format!("{loss}; held until a second {again} says the same"),
            )
        };
        tracing::warn!(lost = %loss, "{how}");
        self.observed.failing(Condition::Loss, &reason);
        self.observed.held_back();
    }
}
