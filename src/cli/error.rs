//! Errors of the command line and the exit code each means.

use crate::netlink::NetlinkError;

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Inputs that cannot be used; the problems themselves were printed.
    #[error("{0}; nothing was done (--skip-invalid leaves invalid objects out)")]
    Invalid(String),
    /// A flag, a file or a source that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Something else of the host refused.
    #[error("{0}")]
    Host(String),
    /// Output could not be written.
    #[error("cannot write output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// 2 for bad usage or input, 3 for a host that refused.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Invalid(_) | Self::Usage(_) => 2,
            Self::Kernel(_) | Self::Host(_) | Self::Output(_) => 3,
        }
    }
}
