//! How many descriptors (open files and sockets) there may be, and who gets how many.
//!
//! What strangers can open is bounded, so that the agent's own files and sockets never wait
//! for one.

use nix::sys::resource::{Resource, getrlimit};

/// Shares of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Sockets that listen on healthCheckNodePorts.
    pub listeners: usize,
    /// Connections to all of them together.
    pub connections: usize,
}

impl Shares {
    /// Shares of what this process may open now.
    pub fn of_this_process() -> Self {
        // A limit that cannot be read is taken for the usual one.
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        Self::of(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    /// Shares of so many. An eighth, 128 at most, is kept for the agent's files, netlink
    /// sockets and talk with the API, and for the other servers' connections as much again.
    fn of(limit: usize) -> Self {
        let share = limit / 8;
        let kept = 2 * share.min(128);
        let connections = share.min(512);
        Self {
            listeners: limit - kept - connections,
            connections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_never_get_the_last_descriptor() {
        for limit in [64, 256, 1024, 4096, 1 << 20, usize::MAX] {
            let shares = Shares::of(limit);
            let kept = limit - shares.listeners - shares.connections;
            assert!(kept >= 16, "{limit}: {shares:?}");
            assert!(shares.connections > 0 && shares.listeners >= limit / 2);
        }
        assert!(Shares::of(4096).listeners > 1100);
    }
}
