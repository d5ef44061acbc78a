//! This process: how many descriptors it may open, and what `/proc` says about it and about who listens to nftables changes.

use std::fs;

use super::error::HostError;
use crate::problem::Problem;

/// Raises the soft limit of this process to its hard one. The soft one is low for the sake of
/// programs that use select(2); this one does not.
///
/// # Errors
/// If the kernel refuses.
#[cfg(any(feature = "daemon", all(feature = "cli", feature = "lab")))]
pub fn raise_descriptor_limit() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(())
}

/// True if this thread has CAP_NET_ADMIN in its user namespace; false also if `/proc` does
/// not say.
#[must_use]
pub fn has_cap_net_admin() -> bool {
    fs::read_to_string("/proc/thread-self/status")
        .is_ok_and(|status| effective_capabilities(&status) & (1 << CAP_NET_ADMIN) != 0)
}

/// linux/capability.h.
const CAP_NET_ADMIN: u32 = 12;

/// The line `CapEff:` of `/proc/PID/status`; no capability if it is not there.
fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

/// An error if this process may not change the network.
#[must_use]
pub fn capability() -> Option<Problem> {
    (!has_cap_net_admin()).then(|| {
        Problem::error(
            None,
            "this process",
            "",
            "has no CAP_NET_ADMIN: it can neither read nor write nftables, routes and \
             connection tracking; run it as root, or grant the capability",
        )
    })
}

/// Netlink port ids of nfnetlink sockets in this network namespace that listen to nftables
/// changes, the caller's own included; mostly the process id. Each listener makes a commit
/// of many elements slower, because the kernel reports every element to it.
///
/// # Errors
/// If the list cannot be read.
pub fn nftables_listeners() -> Result<Vec<u32>, HostError> {
    const PATH: &str = "/proc/thread-self/net/netlink";
    let table = fs::read_to_string(PATH).map_err(|source| HostError::Read {
        path: PATH.into(),
        source,
    })?;
    Ok(listeners(&table))
}

/// The port ids in the rows (`sk Eth Pid Groups ...`) of protocol NETLINK_NETFILTER (12) with
/// membership in NFNLGRP_NFTABLES (7, that is bit 6 of the mask).
fn listeners(table: &str) -> Vec<u32> {
    const NETLINK_NETFILTER: &str = "12";
    const NFTABLES_MASK: u32 = 1 << 6;
    let row = |line: &str| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (protocol, port, groups) = (columns.next()?, columns.next()?, columns.next()?);
        let groups = u32::from_str_radix(groups, 16).ok()?;
        (protocol == NETLINK_NETFILTER && groups & NFTABLES_MASK != 0)
            .then(|| port.parse().ok())
            .flatten()
    };
    table.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let status = "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_capabilities(status), 1 << CAP_NET_ADMIN);
        assert_eq!(effective_capabilities(""), 0);
    }

    #[test]
    fn only_listeners_to_nftables_changes_count() {
        let table = "sk               Eth Pid        Groups   Rmem Wmem\n\
                     0000000000000000 12  4711       00000040 0    0\n\
                     0000000000000000 12  4712       00000001 0    0\n\
                     0000000000000000 0   4713       00000040 0    0\n";
        assert_eq!(listeners(table), [4711]);
    }
}
