//! One bad object costs only itself: a Service with which the kernel takes no ruleset is left
//! out, and tried again when it changes or after a while.

use std::time::Duration;

use super::Agent;
use crate::apply::Host;
use crate::observe::Condition;

/// Services that were set aside are tried again after this.
pub(super) const AGAIN: Duration = Duration::from_secs(600);

impl<H: Host> Agent<'_, H> {
    /// Tells who is set aside.
    pub(super) fn tell_aside(&self) {
        let aside = self.engine.aside();
        let mut shown: Vec<String> = aside
            .iter()
            .take(3)
            .map(|(name, reason)| format!("Service {name} is set aside: {reason}"))
            .collect();
        let more = aside.len().saturating_sub(shown.len());
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        let result = if shown.is_empty() {
            Ok(())
        } else {
            Err(shown.join("; "))
        };
        self.observed.outcome(Condition::Objects, &result);
    }

    /// Tries those again that have been set aside for a while.
    pub(super) fn try_aside_again(&mut self) {
        if self.sync.is_aside_due(self.now()) {
            self.engine.try_again();
        }
    }
}
