//! Why the host could not be asked, or would not do as asked.

use std::io;
use std::path::PathBuf;

use crate::netlink::ExchangeError;

/// A failure to ask or to change the host.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The kernel was asked over netlink, and gave no good answer.
    #[error("cannot {what}: {source}")]
    Netlink {
        /// What was being done, as `list routes`.
        what: &'static str,
        /// Its answer.
        source: ExchangeError,
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
    /// The error of an exchange that was to do this.
    pub(super) fn of(what: &'static str) -> impl Fn(ExchangeError) -> Self {
        move |source| Self::Netlink { what, source }
    }
}
