//! Problems found in input: which object, which field, which value, what was expected.

use std::fmt;

use crate::cluster::Origin;
use crate::text::{printable, shown};

/// What fits a log line.
const MAX_CHARS: usize = 400;

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For information: an unknown kind was skipped.
    Notice,
    /// Probably not what was meant, but what is programmed is well defined.
    Warning,
    /// The object, or a part of it, cannot be programmed. One-shot verbs stop here unless
    /// `--skip-invalid` is given; `run` leaves the part out.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One problem. Its text is printable whatever the cluster put into names: what is not is
/// escaped on construction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// How bad.
    pub severity: Severity,
    /// File and document, if the problem comes from one.
    pub origin: Option<Origin>,
    /// The object as `Kind namespace/name`, or what else it is about.
    pub object: String,
    /// Path of the field, such as `spec.ports[0].port`; empty if it is about the whole.
    pub field: String,
    /// What is wrong, with the value and what was expected.
    pub message: String,
    /// Whose it is, if it is another program's; empty otherwise.
    pub owner: String,
    /// One line that repairs it; empty if none is known.
    pub repair: String,
}

impl Problem {
    /// An error about `field` of `object`.
    #[must_use]
    pub fn error(
        origin: Option<&Origin>,
        object: impl AsRef<str>,
        field: impl AsRef<str>,
        message: impl AsRef<str>,
    ) -> Self {
        Self::new(Severity::Error, origin, object, field, message)
    }

    /// A warning about `field` of `object`.
    #[must_use]
    pub fn warning(
        origin: Option<&Origin>,
        object: impl AsRef<str>,
        field: impl AsRef<str>,
        message: impl AsRef<str>,
    ) -> Self {
        Self::new(Severity::Warning, origin, object, field, message)
    }

    /// A notice about `object`.
    #[must_use]
    pub fn notice(
        origin: Option<&Origin>,
        object: impl AsRef<str>,
        message: impl AsRef<str>,
    ) -> Self {
        Self::new(Severity::Notice, origin, object, "", message)
    }

    fn new(
        severity: Severity,
        origin: Option<&Origin>,
        object: impl AsRef<str>,
        field: impl AsRef<str>,
        message: impl AsRef<str>,
    ) -> Self {
        Self {
            severity,
            origin: origin.cloned(),
            object: shown(object.as_ref(), MAX_CHARS),
            field: shown(field.as_ref(), MAX_CHARS),
            message: shown(message.as_ref(), MAX_CHARS),
            owner: String::new(),
            repair: String::new(),
        }
    }
}

impl Problem {
    /// With whose it is.
    #[must_use]
    pub fn of(mut self, owner: impl AsRef<str>) -> Self {
        self.owner = shown(owner.as_ref(), MAX_CHARS);
        self
    }

    /// With what repairs it.
    #[must_use]
    pub fn repaired_by(mut self, repair: impl AsRef<str>) -> Self {
        self.repair = shown(repair.as_ref(), MAX_CHARS);
        self
    }

    /// Its text without how bad it is, for who says that in another way.
    #[must_use]
    pub const fn without_severity(&self) -> impl fmt::Display + '_ {
        WithoutSeverity(self)
    }

    /// Its text without the repair, for who says that in a line of its own.
    #[must_use]
    pub fn without_repair(&self) -> String {
        format!("{}: {}", self.severity, What(self))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.severity, self.without_severity())
    }
}

struct WithoutSeverity<'a>(&'a Problem);

impl fmt::Display for WithoutSeverity<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        What(problem).fmt(f)?;
        match problem.repair.as_str() {
            "" => Ok(()),
            repair => write!(f, "; {repair}"),
        }
    }
}

/// What is wrong with what.
struct What<'a>(&'a Problem);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(problem) = self;
        if let Some(origin) = &problem.origin {
            write!(f, "{}: ", printable(&origin.to_string()))?;
        }
        f.write_str(&problem.object)?;
        if !problem.field.is_empty() {
            write!(f, ": {}", problem.field)?;
        }
        write!(f, ": {}", problem.message)
    }
}
