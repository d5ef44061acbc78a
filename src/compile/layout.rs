//! The 32 bits that travel in `meta priority` from the frontend lookup to the DNAT rule.
//!
//! ```text
//! 31   30 29    28 27        22 21 20                                  0
//! | mode  | sticky |   class   |1 |            list number            |
//! ```
//!
//! `meta priority` is the scratch register because it can be given back: nothing reads it
//! between our NAT hooks, the kernel computes it anew for forwarded IPv4 packets, and
//! postrouting clears it otherwise. Only the first packet of a connection passes here. The
//! packet mark, which policy routing and other programs rely on, stays theirs.
//! `docs/decisions/0001-dispatch.md` has the alternatives and the measurements.

use crate::ruleset::Protocol;

/// Bits of the list number, marker included: the key of the `endpoints` map.
pub const LIST_MASK: u32 = 0x003f_ffff;
/// Set in every list number and sticky group: tells our values from other programs'.
pub const MARKER: u32 = 0x0020_0000;
/// Bits of the class: which chain draws the slot.
pub const CLASS_MASK: u32 = 0x0fc0_0000;
/// Bits of the masquerade mode.
pub const MODE_MASK: u32 = 0xc000_0000;
/// Bits of the affinity flag.
pub const STICKY_MASK: u32 = 0x3000_0000;
/// Set in values that need more than a class and the test whether the client is a pod: those
/// of modes `Masquerade` and `Local`, and of sticky lists.
pub const SPECIAL_MASK: u32 = 0xb000_0000;
/// Bits of a sticky handle that name its group; the rest names the endpoint in it.
pub const GROUP_MASK: u32 = 0xffff_0000;

const CLASS_SHIFT: u32 = 22;

/// What happens to the client's address, and who is let around the local policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Nothing: the endpoint sees the client.
    Keep = 0,
    /// ClusterIP: masqueraded unless the client is a pod (always with `masquerade-all`).
    Cluster = 0x4000_0000,
    /// Masqueraded.
    Masquerade = 0x8000_0000,
    /// externalTrafficPolicy Local: pods and this node take the `inside-` maps' list.
    Local = 0xc000_0000,
}

/// Session affinity of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Sticky {
    /// None.
    No = 0,
    /// The client's endpoint must still be one of the cluster list.
    Cluster = 0x1000_0000,
    /// The client's endpoint must still be one of the local list.
    Local = 0x2000_0000,
}

/// Up to this many slots a class draws from exactly that many: exactly uniform.
pub const EXACT: u32 = 32;
/// Beyond it, classes are powers of two up to this exponent; an empty slot means another
/// draw, so that adding an endpoint adds one slot and moves none.
pub const LARGEST_EXPONENT: u32 = 20;
/// The most slots a list can have.
pub const MAX_SLOTS: usize = 1 << LARGEST_EXPONENT;
/// Draws before a large class settles for its first [`EXACT`] slots: at most half the
/// slots are empty, so at most 2^-16 of the connections come to that.
pub const DRAWS: usize = 16;
/// Slots of a list balanced by source address: a prime, for the permutation in `maglev`.
pub const SOURCE_SLOTS: u32 = 1021;
/// Seed of the source hash, the same on every node.
pub const SOURCE_SEED: u32 = 0x7376_6361;

/// Which chain draws the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Exactly this many slots, 1 to [`EXACT`].
    Exact(u32),
    /// Two to this power of slots, not all of them filled.
    Large(u32),
    /// [`SOURCE_SLOTS`] slots chosen by the client's address.
    BySource,
}

impl Class {
    /// The class for this many equally likely slots, at least 1.
    #[must_use]
    pub fn for_slots(slots: usize) -> Self {
        match u32::try_from(slots) {
            Ok(n) if n <= EXACT => Self::Exact(n.max(1)),
            Ok(n) => Self::Large(n.next_power_of_two().trailing_zeros().min(LARGEST_EXPONENT)),
            Err(_) => Self::Large(LARGEST_EXPONENT),
        }
    }

    /// All classes: their number does not depend on the cluster.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=EXACT)
            .map(Self::Exact)
            .chain((EXACT.trailing_zeros() + 1..=LARGEST_EXPONENT).map(Self::Large))
            .chain([Self::BySource])
    }

    /// Its bits in the value: never 0, so that a value without class matches no chain.
    #[must_use]
    pub const fn bits(self) -> u32 {
        let number = match self {
            Self::Exact(n) => n,
            Self::Large(exponent) => EXACT + exponent - EXACT.trailing_zeros(),
            Self::BySource => 63,
        };
        number << CLASS_SHIFT
    }

    /// Name of the map that holds its slots.
    #[must_use]
    pub const fn map(self) -> &'static str {
        match self {
            Self::Large(_) => names::LARGE_ENDPOINTS,
            Self::Exact(_) | Self::BySource => names::ENDPOINTS,
        }
    }

    /// Name of its chain.
    #[must_use]
    pub fn chain(self) -> String {
        match self {
            Self::Exact(n) => format!("pick-{n}"),
            Self::Large(exponent) => format!("pick-{}", 1_u32 << exponent),
            Self::BySource => "pick-by-source".to_owned(),
        }
    }
}

/// The value of a frontend element.
#[must_use]
pub const fn frontend_value(mode: Mode, sticky: Sticky, class: Class, list: u32) -> u32 {
    mode as u32 | sticky as u32 | class.bits() | list
}

/// What the counters of a set's elements count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Connections to a frontend.
    Frontends,
    /// Connections to a frontend that nobody could serve.
    Refusals,
    /// Connections to an endpoint.
    Endpoints,
}

/// What a set counts with `--service-counters`: the sets that a new connection's first packet
/// meets exactly once. A frontend counts those too that its source ranges then drop.
#[must_use]
pub fn counted(set: &str) -> Option<Counted> {
    match set {
        names::FRONTENDS | names::NODE_PORTS => Some(Counted::Frontends),
        names::NO_ENDPOINTS
        | names::NO_ENDPOINT_PORTS
        | names::NO_LOCAL_ENDPOINTS
        | names::NO_LOCAL_ENDPOINT_PORTS => Some(Counted::Refusals),
        names::ENDPOINTS
        | names::LARGE_ENDPOINTS
        | names::STICKY_ENDPOINTS
        | names::STICKY_LOCAL_ENDPOINTS => Some(Counted::Endpoints),
        _ => None,
    }
}

/// Names of sets and maps, as `nft list` shows them.
pub mod names {
    /// Address, protocol and port → value.
    pub const FRONTENDS: &str = "frontends";
    /// Protocol and port on the node's own addresses → value.
    pub const NODE_PORTS: &str = "node-ports";
    /// Like `frontends`, for pods and this node at frontends with a local policy.
    pub const INSIDE_FRONTENDS: &str = "inside-frontends";
    /// Like `node-ports`, for pods and this node.
    pub const INSIDE_NODE_PORTS: &str = "inside-node-ports";
    /// Addresses of this node that accept node ports.
    pub const NODE_PORT_ADDRESSES: &str = "node-port-addresses";
    /// List number, protocol and slot → endpoint.
    pub const ENDPOINTS: &str = "endpoints";
    /// The same for lists of a large class. Maps of their own because the kernel checks every
    /// new element against every rule that uses its map, and redrawing takes many rules.
    pub const LARGE_ENDPOINTS: &str = "large-endpoints";
    /// Class → chain.
    pub const CLASSES: &str = "classes";
    /// Protocol and host port → pod.
    pub const HOST_PORTS: &str = "host-ports";
    /// Host address, protocol and host port → pod.
    pub const HOST_PORT_ADDRESSES: &str = "host-port-addresses";
    /// Pod to itself through a frontend.
    pub const HAIRPINS: &str = "hairpins";
    /// Frontends nobody can serve: refused.
    pub const NO_ENDPOINTS: &str = "no-endpoints";
    /// Node ports nobody can serve: refused.
    pub const NO_ENDPOINT_PORTS: &str = "no-endpoint-ports";
    /// Frontends nobody here may serve: dropped.
    pub const NO_LOCAL_ENDPOINTS: &str = "no-local-endpoints";
    /// Node ports nobody here may serve: dropped.
    pub const NO_LOCAL_ENDPOINT_PORTS: &str = "no-local-endpoint-ports";
    /// ClusterIPs in use.
    pub const CLUSTER_IPS: &str = "cluster-ips";
    /// Service ranges.
    pub const SERVICE_RANGES: &str = "service-ranges";
    /// Frontends with source ranges.
    pub const GUARDED: &str = "guarded";
    /// Frontend and source that may pass.
    pub const SOURCE_RANGES: &str = "source-ranges";
    /// Destinations to which this node's pods keep their address.
    pub const NON_MASQUERADE: &str = "non-masquerade";
    /// Group and client → handle; filled by packets.
    pub const AFFINITY: &str = "affinity";
    /// List number → group.
    pub const STICKY_GROUPS: &str = "sticky-groups";
    /// Group → value of the cluster list.
    pub const STICKY_LISTS: &str = "sticky-lists";
    /// Group → value of the local list.
    pub const STICKY_LOCAL_LISTS: &str = "sticky-local-lists";
    /// Handle and protocol → endpoint of the cluster list.
    pub const STICKY_ENDPOINTS: &str = "sticky-endpoints";
    /// Handle and protocol → endpoint of the local list.
    pub const STICKY_LOCAL_ENDPOINTS: &str = "sticky-local-endpoints";
    /// Frontend as the client asked for it → group.
    pub const STICKY_FRONTENDS: &str = "sticky-frontends";
    /// Node port as the client asked for it → group.
    pub const STICKY_NODE_PORTS: &str = "sticky-node-ports";
    /// Protocols of which a list is sticky: the others' packets need not be looked up.
    pub const STICKY_PROTOCOLS: &str = "sticky-protocols";
    /// Group and answering endpoint → handle.
    pub const STICKY_HANDLES: &str = "sticky-handles";

    /// Groups remembered for this many seconds.
    #[must_use]
    pub fn sticky_timeout(seconds: u32) -> String {
        format!("sticky-{seconds}")
    }
}

/// Number of transport protocols a rule must be written for one by one: nft types
/// `ct original proto-dst` by the protocol matched before it.
pub const PROTOCOLS: [Protocol; 3] = Protocol::ALL;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn classes_have_distinct_nonzero_numbers_and_chains() {
        let bits: BTreeSet<u32> = Class::all().map(Class::bits).collect();
        let chains: BTreeSet<String> = Class::all().map(Class::chain).collect();
        assert_eq!(bits.len(), Class::all().count());
        assert_eq!(chains.len(), Class::all().count());
        assert!(bits.iter().all(|b| *b != 0 && b & !CLASS_MASK == 0));
    }

    #[test]
    fn every_slot_count_has_a_class_that_exists_and_is_at_least_half_full() {
        let all: BTreeSet<Class> = Class::all().collect();
        for slots in 1..5000 {
            let class = Class::for_slots(slots);
            assert!(all.contains(&class));
            if let Class::Large(exponent) = class {
                assert!(slots > 1 << (exponent - 1) && slots <= 1 << exponent);
            }
        }
    }

    #[test]
    fn the_parts_of_a_value_do_not_overlap() {
        let parts = [MODE_MASK, STICKY_MASK, CLASS_MASK, LIST_MASK];
        assert_eq!(parts.iter().sum::<u32>(), u32::MAX);
        assert_eq!(MARKER & LIST_MASK, MARKER);
    }
}
