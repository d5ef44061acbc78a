//! The agent's saved state: installed until the API answers, written when things are quiet.

use super::{Agent, Saved};
use crate::apply::Host;
use crate::observe::Condition;

impl<H: Host> Agent<'_, H> {
    pub(super) fn open_state(&mut self) {
        let Some(folder) = &self.options.state_dir else {
            return;
        };
        match Saved::in_folder(folder) {
            Ok(saved) => {
                if self.source.is_remote() {
                    self.boot(&saved);
                }
                self.agenda.saving.outcome(true, self.now());
                self.observed.good(Condition::State);
            }
            Err(error) => {
                self.agenda.saving.outcome(false, self.now());
                let reason = format!("no state is kept: {error}");
                self.observed.failing(Condition::State, &reason);
            }
        }
    }

    /// Installs the last good state until the API answers.
    fn boot(&mut self, saved: &Saved) {
        let cluster = match saved.read() {
            Ok(Some(cluster)) => cluster,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "the saved state cannot be used");
                return;
            }
        };
        match self.may_boot(&cluster) {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::error!(%error, "cannot read what is installed");
                return;
            }
        }
        self.engine.replace(cluster);
        self.install_saved();
    }

    /// The saved state into the kernel; tried again until the API's takes its place.
    pub(super) fn install_saved(&mut self) {
        if self.try_flush("saved-state") {
            self.agenda.booted();
            self.booted = true;
        }
    }

    pub(super) fn save_if_due(&mut self, ends: bool) {
        let Some(folder) = &self.options.state_dir else {
            return;
        };
        if !self.ready {
            // What is in it may still be of use.
            if !self.booted && self.agenda.saving.is_due(self.now()) {
                self.open_state();
            }
            return;
        }
        if !self.agenda.must_save(ends, self.now()) {
            return;
        }
        // The folder may be another one by now, or be made anew.
        let saved = Saved::in_folder(folder);
        let result = saved.and_then(|saved| saved.write(self.engine.cluster()));
        self.agenda.saved(result.is_ok(), self.now());
        self.observed.outcome(Condition::State, &result);
        if let Ok(bytes) = result {
            tracing::debug!(bytes, "state saved");
        }
    }
}
