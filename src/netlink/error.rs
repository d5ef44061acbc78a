//! What can go wrong between us and the kernel, whatever it was asked about.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// The kernel's own answer to a request that it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its error.
    pub errno: Errno,
    /// Its words (extended acknowledgement), if it gave any.
    pub text: Option<String>,
    /// Where in the refused message the attribute at fault is, in bytes from its start.
    pub offset: Option<usize>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if let Some(text) = &self.text {
            write!(f, ": {text}")?;
        }
        if self.errno == Errno::EPERM {
            f.write_str(": CAP_NET_ADMIN is needed in this network namespace")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// A request that got no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No socket, or none as it is needed.
    #[error("cannot set up a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// Nothing was sent.
    #[error("cannot send to the kernel: {0}")]
    Send(#[source] io::Error),
    /// The answer was lost.
    #[error("cannot receive from the kernel: {0}")]
    Receive(#[source] Errno),
    /// An answer was cut short, or its lengths do not add up.
    #[error("an answer of the kernel is cut short")]
    Garbled,
    /// A request got no answer.
    #[error("the kernel did not answer")]
    NoAnswer,
    /// The kernel refused it.
    #[error(transparent)]
    Refused(Refusal),
    /// What was to be read changed during each of so many attempts.
    #[error("it changed during each of {0} attempts to read it")]
    Interrupted(u32),
}

impl ExchangeError {
    /// The kernel's error, if it refused.
    #[must_use]
    pub const fn refused(&self) -> Option<Errno> {
        match self {
            Self::Refused(refusal) => Some(refusal.errno),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_privilege_names_the_capability() {
        let refusal = Refusal {
            errno: Errno::EPERM,
            text: None,
            offset: None,
        };
        assert!(refusal.to_string().contains("CAP_NET_ADMIN"), "{refusal}");
    }
}
