//! Kernel settings that service NAT depends on (`--sysctls`), set or reported by the agent.

use std::time::Instant;

use super::Agent;
use super::tell::report;
use crate::config::Sysctls;
use crate::host::{HostError, check, interfaces, sysctl};
use crate::observe::Condition;
use crate::problem::Severity;

impl Agent<'_> {
    /// Done with every full sync and every verification: others may change them back.
    pub(super) fn host_settings(&mut self) {
        let result = self.try_host_settings();
        self.observed.outcome(Condition::Settings, &result);
        self.agenda.settings.outcome(result.is_ok(), Instant::now());
    }

    fn try_host_settings(&mut self) -> Result<(), HostError> {
        let wish = self.engine.config().sysctls;
        if wish == Sysctls::Ignore {
            return Ok(());
        }
        let needed = sysctl::needed_by(self.engine.node(), &interfaces::list()?);
        let sysctls = sysctl::Sysctls::default();
        if wish == Sysctls::Apply {
            for changed in sysctls.apply(&needed)? {
                tracing::info!(
                    name = changed.setting.name(),
                    value = changed.setting.wanted,
                    old = changed.old,
                    "sysctl"
                );
            }
        }
        let mut problems = check::sysctls(&sysctls.status(&needed)?);
        for problem in &mut problems {
            // The rules are installed all the same; `check` is who fails for it.
            problem.severity = problem.severity.min(Severity::Warning);
        }
        // Said once, and again when it is something else.
        if problems != self.settings {
            report(&problems);
            self.settings = problems;
        }
        Ok(())
    }
}
