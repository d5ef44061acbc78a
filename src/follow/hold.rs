//! Holding back what loses too much: the same rule for files and for the API, before the
//! first commit against what the kernel holds, later against what was read before.

use super::{Agent, Sources, SyncError};
use crate::apply::{Holding, Host, Loss, Verdict};
use crate::cluster::Cluster;
use crate::observe::Condition;

impl<H: Host> Agent<'_, H> {
    /// True if `cluster`, read from files, may take the place of what there is. `second`: it
    /// was read because the guard asked for it.
    pub(super) fn may_replace(
        &mut self,
        cluster: &Cluster,
        second: bool,
    ) -> Result<bool, SyncError> {
        let after = Holding::of_cluster(cluster);
        let before = match self.installed(after)? {
            Some(installed) => installed,
            None => Holding::of_cluster(self.engine.cluster()),
        };
        let was_held = self.guard.held().is_some();
        let verdict = self.guard.judge(before, after, second, self.now());
        Ok(self.heed(verdict, was_held))
    }

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

    /// True if what the API said may be carried out now.
    pub(super) fn may_drain(&mut self) -> bool {
        if !self.pending.is_complete() || self.pending.is_held() {
            return false;
        }
        let installed = match self.installed(self.pending.holding(&self.engine)) {
            Ok(installed) => installed,
            Err(error) => {
                let reason = format!("cannot read what is installed: {error}");
                self.observed.failing(Condition::Tables, &reason);
                self.agenda.commit.outcome(false, self.now());
                return false;
            }
        };
        let was_held = self.guard.held().is_some();
        let now = self.now();
        let verdict = (self.pending).verdict(&self.engine, installed, &mut self.guard, now);
        verdict.is_some_and(|verdict| self.heed(verdict, was_held))
    }

    /// True if all that was read so far is held: the engine knows nothing to be installed.
    pub(super) fn held_at_start(&self) -> bool {
        !self.ready && self.guard.held().is_some()
    }

    /// True once in a while, as long as something is held: it is to be read again.
    pub(super) fn second_reading_due(&mut self) -> bool {
        if !self.guard.ask(self.now()) {
            return false;
        }
        if let Sources::Api(follower) = &self.sources {
            self.pending.await_second_list();
            follower.list_again();
        }
        true
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
        let again = match self.sources {
            Sources::Files { .. } => "reading",
            Sources::Api(_) => "list",
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
