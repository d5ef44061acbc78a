//! Why the host could not be asked, or would not do as asked.

use std::fmt;
use std::io;
use std::path::PathBuf;

use netlink_packet_core::DecodeError;

/// The kernel's own answer to a netlink request it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The errno, positive.
    pub errno: i32,
    /// The kernel's explanation (extended ACK), if it gave one.
    pub explanation: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", io::Error::from_raw_os_error(self.errno))?;
        if let Some(explanation) = &self.explanation {
            write!(f, ": {explanation}")?;
        }
        if self.errno == libc::EPERM {
            f.write_str(": CAP_NET_ADMIN is needed in this network namespace")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// A failure to ask or to change the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The netlink socket itself failed.
    #[error("cannot {what}: netlink socket: {source}")]
    Socket {
        /// What was being done, as `list routes`.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was being done.
        what: &'static str,
        /// Its answer.
        source: Refusal,
    },
    /// The kernel's answer is not understood.
    #[error("cannot {what}: the kernel's answer is not understood: {source}")]
    Decode {
        /// What was being done.
        what: &'static str,
        /// Where decoding stopped.
        source: DecodeError,
    },
    /// The table changed under each of several dumps.
    #[error("cannot {what}: it changed during each of {attempts} attempts to read it")]
    Interrupted {
        /// What was being done.
        what: &'static str,
        /// Attempts made.
        attempts: u32,
    },
    /// A file under `/proc` could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A network namespace could not be entered.
    #[error("cannot enter the network namespace {}: {source}{hint}", path.display())]
    Namespace {
        /// Where it should be.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
        /// What may help.
        hint: String,
    },
    /// A sysctl could not be written.
    #[error("cannot write {value} to {}: {source}{}", path.display(), write_hint(source))]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

/// What most often helps when a sysctl cannot be written.
fn write_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": CAP_NET_ADMIN is needed in this network namespace",
        io::ErrorKind::ReadOnlyFilesystem => {
            ": in a container, set it on the host, or mount its sysctls writable"
        }
        _ => "",
    }
}

impl HostError {
    /// The kernel's answer, if that is what it is.
    #[must_use]
    pub const fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privilege_names_the_capability() {
        let error = HostError::Refused {
            what: "add a route",
            source: Refusal {
                errno: libc::EPERM,
                explanation: None,
            },
        };
        assert!(error.to_string().contains("CAP_NET_ADMIN"), "{error}");
    }
}
