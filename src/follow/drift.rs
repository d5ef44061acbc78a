//! Others' changes to our tables and routes: found, named, put right or told.

use super::{Agent, Drift, DriftCheck};
use crate::apply::Host;
use crate::observe::Condition;
use crate::transaction::Transaction;

impl<H: Host> Agent<'_, H> {
    /// Looks whether somebody changed our tables, and does what was asked for then.
    pub(super) fn look(&mut self, whole: bool) {
        if self.options.drift == Drift::Ignore || self.engine.is_dirty() {
            return;
        }
        let found = if whole {
            self.sync.verify(&self.engine)
        } else {
            self.sync.look(&self.engine)
        };
        match found {
            Ok(DriftCheck::Drift(delta)) => self.drift(&delta, false),
            Ok(DriftCheck::Rules(delta)) => self.drift(&delta, true),
            // Nobody wrote since: what was told to be changed still is.
            Ok(DriftCheck::Quiet) if self.drifted => {}
            Ok(DriftCheck::Quiet | DriftCheck::Others) => {
                self.drifted = false;
                self.observed.good(Condition::Tables);
            }
            Err(error) => {
                let reason = format!("cannot read our tables back: {error}");
                self.observed.failing(Condition::Tables, &reason);
            }
        }
    }

    /// `rules_only`: the elements are as many as they should be, and the delta is complete.
    fn drift(&mut self, delta: &Transaction, rules_only: bool) {
        let counts = delta.counts();
        let by = self
            .sync
            .who_wrote()
            .unwrap_or_else(|error| error.to_string());
        if let Some(times) = self.agenda.drift_line.take(self.now()) {
            tracing::warn!(
                by,
                times,
                missing = counts.elements_added,
                foreign = counts.elements_deleted,
                rules = counts.rules_added,
                objects = counts.objects,
                "others changed our tables"
            );
        }
        self.observed.drifted(&by);
        if self.options.drift == Drift::Report {
            self.drifted = true;
            let reason = "others changed them, and --drift=report leaves them so";
            self.observed.failing(Condition::Tables, reason);
            return;
        }
        if rules_only {
            match self.sync.repair_rules(delta) {
                Ok(synced) => {
                    self.observed.good(Condition::Tables);
                    self.tell("drift", &synced);
                    return;
                }
                // Somebody came first, or there is more to it: everything is read back.
                Err(error) => tracing::debug!(%error, "rules alone cannot be put right"),
            }
        }
        self.engine.distrust();
        // What fails is tried again with whatever waits.
        self.try_flush("drift");
    }

    /// Puts routes right, or says that they are not.
    pub(super) fn repair_routes(&mut self) {
        if !self.ready || self.options.drift == Drift::Ignore {
            return;
        }
        if self.options.drift == Drift::Repair {
            let synced = self.sync.repair_routes(&self.engine);
            self.tidied(&synced);
            self.tell("routes", &synced);
            return;
        }
        let changed = match self.sync.changed_routes(&self.engine) {
            Ok(0) => Ok(()),
            Ok(n) => Err(format!(
                "others changed {n} of them, and --drift=report leaves them so"
            )),
            Err(error) => Err(error.to_string()),
        };
        self.observed.outcome(Condition::Routes, &changed);
        self.agenda.routes.outcome(changed.is_ok(), self.now());
    }
}
