//! Errors of the command line and the exit code each means.

use crate::explain::EndError;
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::verify::Faults;

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Inputs that cannot be used; the problems themselves were printed.
    #[error("{0}; nothing was done (--skip-invalid leaves invalid objects out)")]
    Invalid(String),
    /// A flag, a file or a source that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// An end of a packet that nobody has.
    #[error(transparent)]
    End(#[from] EndError),
    /// Lines of packets that cannot be used.
    #[error("{}", .0.to_string().replace('\n', "\nerror: "))]
    Lines(#[from] Faults),
    /// The input takes away more than it may.
    #[error("{0}; nothing was done")]
    Loss(String),
    /// Several things of the host failed; each has a line of its own.
    #[error("{}", .0.join("\nerror: "))]
    Several(Vec<String>),
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
            Self::Invalid(_) | Self::Usage(_) | Self::End(_) | Self::Lines(_) | Self::Loss(_) => 2,
            Self::Kernel(_) | Self::Host(_) | Self::Several(_) | Self::Output(_) => 3,
        }
    }
}

/// A refusal of the kernel, with who owns our tables if that is what it is about.
#[must_use]
pub fn refusal(error: NetlinkError) -> CliError {
    let owner = matches!(error, NetlinkError::Owned { .. })
        .then(|| Nfnetlink::open().and_then(|mut kernel| kernel.owner()))
        .and_then(Result::ok)
        .flatten();
    match owner {
        Some(port) => CliError::Host(format!(
            "the tables svcnat belong to {}: nobody else can change them; nothing was changed",
            owner_name(port)
        )),
        None => CliError::Kernel(error),
    }
}

/// The netlink port of a program is mostly its process id.
pub fn owner_name(port: u32) -> String {
    match std::fs::read_to_string(format!("/proc/{port}/comm")) {
        Ok(name) => format!("process {port} ({})", crate::text::printable(name.trim())),
        Err(_) => format!("netlink port {port}"),
    }
}
