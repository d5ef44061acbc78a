//! Waiting until packets are through the rules they met.

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

use super::ffi;

/// Where the kernel does not tell. A packet that is stopped between two chains for longer (a
/// virtual machine that is not run) is not waited for.
const UNTOLD: Duration = Duration::from_millis(100);

/// Returns when each packet that was under way through a hook at the time of the call is through
/// it, and every later one meets the hooks and rules of the last commit. Milliseconds.
///
/// The kernel handles a packet at a hook inside one RCU read section (`nf_hook`,
/// include/linux/netfilter.h), and membarrier(2) with MEMBARRIER_CMD_GLOBAL waits until all of
/// those that were begun have ended (`synchronize_rcu`, kernel/sched/membarrier.c; Linux 4.3).
/// Not on a machine with one processor, nor with `nohz_full`, nor where a filter of system calls
/// refuses it: there it is a fixed wait.
pub fn let_packets_pass() {
    let several = sysconf(SysconfVar::_NPROCESSORS_ONLN).is_ok_and(|n| n > Some(1));
    if !several || ffi::membarrier_global().is_err() {
        std::thread::sleep(UNTOLD);
    }
}
