//! What becomes of the kernel settings that service NAT depends on, as `--sysctls` asks for.

use super::check;
use super::error::HostError;
use super::sysctl::{Changed, Setting, Sysctls};
use crate::config;
use crate::problem::{Problem, Severity};

/// Settings that are set, or to be set, and what is wrong with the others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// With the value they had.
    pub changed: Vec<Changed>,
    /// No worse than warnings: the rules are installed all the same, and `check` is who fails
    /// for it.
    pub problems: Vec<Problem>,
}

/// What is to be set of what is `needed`. Nothing is changed.
///
/// # Errors
/// Naming the file, at the first that cannot be read, or written if it has to be.
pub fn review(
    sysctls: &Sysctls,
    wish: config::Sysctls,
    needed: &[Setting],
) -> Result<Settings, HostError> {
    let changed = match wish {
        config::Sysctls::Ignore => return Ok(Settings::default()),
        config::Sysctls::Apply => sysctls.to_set(needed)?,
        config::Sysctls::Check => Vec::new(),
    };
    let mut status = sysctls.status(needed)?;
    status.retain(|status| changed.iter().all(|set| set.setting != status.setting));
    let mut problems = check::sysctls(&status);
    for problem in &mut problems {
        problem.severity = problem.severity.min(Severity::Warning);
    }
    Ok(Settings { changed, problems })
}

/// Sets it.
///
/// # Errors
/// As [`review`].
pub fn settle(
    sysctls: &Sysctls,
    wish: config::Sysctls,
    needed: &[Setting],
) -> Result<Settings, HostError> {
    let mut settings = review(sysctls, wish, needed)?;
    if wish == config::Sysctls::Apply {
        settings.changed = sysctls.apply(needed)?;
    }
    Ok(settings)
}
