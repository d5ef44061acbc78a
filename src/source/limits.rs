//! How long an API server is waited for, and how much of its answer is taken.
//!
//! With the defaults a server that accepts connections and says nothing, or drips, is left
//! after 16 seconds ([`Limits::first_answer`]), and one that vanishes while it is being
//! watched after 44 ([`Limits::mid_watch`]). One that said nothing on any connection for a
//! while is asked for one object: keep-alive of TCP finds a lone connection that died, but a
//! proxy in between, or the kernel of a host whose API server hangs, would answer it too.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Deadlines and bounds of the talk with an API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// For name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From the request to the end of the answer's head.
    pub head: Duration,
    /// An answer that has begun brings `window_bytes` in each such time, or its end.
    pub window: Duration,
    /// See `window`.
    pub window_bytes: usize,
    /// A watch is asked for this long at most, up to a half less by chance (as client-go
    /// does). At least a second.
    pub watch: Duration,
    /// A server that said nothing on any connection for so long is asked whether it is there.
    pub silence: Duration,
    /// A watch that said nothing for so long is begun anew, whatever others of the server
    /// say: Kubernetes sends a bookmark each minute.
    pub mute: Duration,
    /// A connection that brings nothing for so long is probed by the kernel.
    pub keepalive: Duration,
    /// Between two such probes; three without an answer end the connection.
    pub keepalive_interval: Duration,
    /// What has lived so long is well: waits start from the first again.
    pub steady: Duration,
    /// Between the first two attempts; doubled from attempt to attempt, a quarter more or
    /// less by chance.
    pub first_wait: Duration,
    /// Between two attempts at most, chance apart. What `Retry-After` asks for beyond this is
    /// not granted.
    pub last_wait: Duration,
    /// How long a server that does without ServiceCIDRs is not asked for them.
    pub dispensed: Duration,
    /// Bytes of one object, in a list or in a watch.
    pub object_bytes: usize,
    /// Bytes of one page of a list. One that is larger is asked for with fewer objects.
    pub page_bytes: usize,
    /// Bytes of a whole list.
    pub list_bytes: usize,
    /// Objects of a whole list.
    pub list_objects: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(4),
            head: Duration::from_secs(8),
            window: Duration::from_secs(4),
            window_bytes: 16 << 10,
            watch: Duration::from_secs(600),
            silence: Duration::from_secs(28),
            mute: Duration::from_secs(90),
            keepalive: Duration::from_secs(10),
            keepalive_interval: Duration::from_secs(5),
            steady: Duration::from_secs(10),
            first_wait: Duration::from_millis(200),
            last_wait: Duration::from_secs(15),
            dispensed: Duration::from_secs(300),
            // etcd takes 1.5 MB by default; JSON may be several times larger.
            object_bytes: 8 << 20,
            page_bytes: 32 << 20,
            list_bytes: 512 << 20,
            list_objects: 500_000,
        }
    }
}

impl Limits {
    /// The longest that the first answer of a server is waited for, and the wait before
    /// another is asked.
    #[must_use]
    pub fn first_answer(&self) -> Duration {
        self.connect + self.head + self.window + most(self.first_wait)
    }

    /// The longest from the last sign of life in a watch to the question to another server.
    #[must_use]
    pub fn mid_watch(&self) -> Duration {
        self.silence + self.first_answer()
    }

    /// How long a watch is asked for: not the same twice, so that the watches of many nodes do
    /// not end together.
    pub(super) fn watch_seconds(&self) -> u32 {
        let seconds = self.watch.mul_f64(1.0 - chance() / 2.0).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
    }

    /// The same with more patience, once every server was silent: an overloaded one answers
    /// late (its own limit is a minute), and asking again and again makes it no faster.
    pub(super) fn patient(&self, rounds: usize) -> Self {
        let factor = 1 << rounds.min(3);
        Self {
            head: self.head * factor,
            window: self.window * factor,
            ..self.clone()
        }
    }
}

/// Waits between attempts.
#[derive(Clone, Debug)]
pub(super) struct Backoff {
    next: Duration,
    first: Duration,
    last: Duration,
}

impl Backoff {
    /// Waits from the first to the last of `limits`.
    pub const fn new(limits: &Limits) -> Self {
        Self {
            next: limits.first_wait,
            first: limits.first_wait,
            last: limits.last_wait,
        }
    }

    /// The wait before the next attempt; the one after it is twice as long.
    pub fn wait(&mut self) -> Duration {
        let wait = about(self.next);
        self.next = (self.next * 2).min(self.last);
        wait
    }

    /// True if nothing failed since all was well.
    pub fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// All is well.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A quarter more or less by chance, so that the nodes of a cluster do not all come back to a
/// server at once.
pub(super) fn about(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + chance() / 2.0)
}

/// What [`about`] makes of a wait at most.
fn most(wait: Duration) -> Duration {
    wait.mul_f64(1.25)
}

/// A number from 0 to 1.
pub(super) fn chance() -> f64 {
    // Each state is seeded anew.
    let bits = RandomState::new().build_hasher().finish() % 1024;
    f64::from(u16::try_from(bits).unwrap_or_default()) / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_are_not_the_same_twice() {
        let limits = Limits::default();
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let mut backoff = Backoff::new(&limits);
            let mut expected = limits.first_wait;
            for _ in 0..20 {
                let wait = backoff.wait();
                assert!(wait >= expected.mul_f64(0.74) && wait <= most(expected));
                assert!(wait <= most(limits.last_wait));
                expected = (expected * 2).min(limits.last_wait);
                waits.insert(wait);
            }
            assert!(!backoff.is_fresh());
            backoff.reset();
            assert!(backoff.is_fresh());
            assert!(backoff.wait() <= most(limits.first_wait));
        }
        assert!(waits.len() > 100, "{waits:?}");
    }

    #[test]
    fn a_silent_server_is_left_within_20_seconds_and_a_vanished_one_within_45() {
        let limits = Limits::default();
        assert!(limits.first_answer() <= Duration::from_secs(20));
        assert!(limits.mid_watch() <= Duration::from_secs(45));
        // A watch that the server itself ends is not taken for one that failed.
        assert!(limits.watch.mul_f64(0.5) > limits.steady);
        // Nor is one that brings a bookmark each minute for one that is mute.
        assert!(limits.mute > Duration::from_secs(75));
        for _ in 0..100 {
            let asked = Duration::from_secs(limits.watch_seconds().into());
            assert!(asked <= limits.watch && asked >= limits.watch.mul_f64(0.49));
        }
    }

    /// What docs/api-server.md says of 5,000 nodes.
    #[test]
    fn a_large_cluster_costs_its_servers_few_requests() {
        let limits = Limits::default();
        let nodes = 5000.0;
        let kinds = super::super::api::Kind::ALL.len() as f64;
        // Watches end after three quarters of the longest on average.
        let watches = nodes * kinds / limits.watch.mul_f64(0.75).as_secs_f64();
        assert!((watches - 55.6).abs() < 0.1, "{watches}");
        // Where nothing happens at all, each node asks again each time.
        let questions = nodes / limits.silence.as_secs_f64();
        assert!((questions - 178.6).abs() < 0.1, "{questions}");
        // Where no bookmarks are sent either, each watch is begun anew, and looked after.
        let mute = 2.0 * nodes * kinds / limits.mute.as_secs_f64();
        assert!((mute - 555.6).abs() < 0.1, "{mute}");
    }

    #[test]
    fn patience_grows_beyond_the_servers_own_limit_and_not_without_end() {
        let limits = Limits::default();
        assert_eq!(limits.patient(0), limits);
        assert!(limits.patient(3).head > Duration::from_secs(60));
        assert_eq!(limits.patient(3), limits.patient(usize::MAX));
    }
}
