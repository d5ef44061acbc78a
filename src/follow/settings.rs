//! Kernel settings that service NAT depends on (`--sysctls`), as the agent tells of them.

use super::Agent;
use super::tell::report;
use crate::apply::Host;
use crate::host::HostError;
use crate::host::settings::Settings;
use crate::observe::Condition;

impl<H: Host> Agent<'_, H> {
    /// Looks at them without a full sync: with every verification, as others may change them
    /// back, and after it failed.
    pub(super) fn host_settings(&mut self) {
        let (config, node) = (self.engine.config(), self.engine.node());
        let result = self.sync.installer.settings(config, node);
        self.tell_settings(result);
    }

    /// How it went, and when it is tried again.
    pub(super) fn tell_settings(&mut self, result: Result<Settings, HostError>) {
        self.observed.outcome(Condition::Settings, &result);
        self.agenda.settings.outcome(result.is_ok(), self.now());
        let Ok(settings) = result else { return };
        for changed in settings.changed {
            tracing::info!(
                name = changed.setting.name(),
                value = changed.setting.wanted,
                old = changed.old,
                "sysctl"
            );
        }
        // Said once, and again when it is something else.
        if settings.problems != self.settings {
            report(&settings.problems);
            self.settings = settings.problems;
        }
    }
}
