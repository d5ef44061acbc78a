//! The 32 bits that travel in `meta priority` from the frontend lookup to the DNAT rule.
//!
//! ```text
//! 31  30 29      28 27          20 19                  0
//! | mode | affinity |    class    |    list number     |
//! ```
//!
//! Aligned to hexadecimal digits, so that `nft list` can be read: `402b:8c33` is mode 4 (a
//! clusterIP), class 02 (two slots), list b8c33.
//!
//! `meta priority` is the scratch register because it can be given back: nothing reads it
//! between our NAT hooks, the kernel computes it anew for forwarded IPv4 packets, and
//! postrouting clears it otherwise. Only the first packet of a connection passes here. The
//! packet mark, which policy routing and other programs rely on, stays theirs.
//! `docs/decisions/0001-dispatch.md` has the alternatives and the measurements.

use crate::ruleset::{Element, ElementData};

/// Bits of the list number: the key of the `endpoints` maps.
pub const LIST_MASK: u32 = 0x000f_ffff;
/// Bits of a list number.
pub const LIST_BITS: u32 = LIST_MASK.count_ones();
/// Bits of the class: how the slot is drawn. Never all 0 in a value of ours, which tells our
/// values from other programs'.
pub const CLASS_MASK: u32 = 0x0ff0_0000;
/// Bits of the masquerade mode.
pub const MODE_MASK: u32 = 0xc000_0000;
/// Bits of the affinity flag.
pub const AFFINITY_MASK: u32 = 0x3000_0000;
/// Set in values that need more than a class and the test whether the client is a pod: those
/// of modes `Masquerade` and `Local`, and of lists with affinity.
pub const OPTIONS_MASK: u32 = 0xb000_0000;
/// Bits of an affinity handle that name its group; the rest names the endpoint in it.
pub const GROUP_MASK: u32 = 0xffff_0000;
/// Set in every group: a bit of the class, so that handles too are told from other programs'
/// priorities.
pub const GROUP_MARKER: u32 = 0x0800_0000;

const CLASS_SHIFT: u32 = 20;

/// What happens to the client's address, and who is let around the local policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Mode {
    /// Nothing: the endpoint sees the client.
    Keep = 0,
    /// ClusterIP: masqueraded unless the client is a pod (always with `masquerade-all`).
    Cluster = 0x4000_0000,
    /// Masqueraded; also what a frontend with source ranges has that nobody serves.
    Masquerade = 0x8000_0000,
    /// externalTrafficPolicy Local: pods and this node take the `internal-` maps' list.
    Local = 0xc000_0000,
}

/// Session affinity of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Affinity {
    /// None.
    None = 0,
    /// The client's endpoint must still be one of the cluster list.
    Cluster = 0x1000_0000,
    /// The client's endpoint must still be one of the local list.
    Local = 0x2000_0000,
}

/// Up to this many slots a class draws from exactly that many: exactly uniform.
pub const EXACT: u32 = 32;
/// The most slots a list can have.
pub const MAX_SLOTS: usize = 1 << 20;
/// Slot counts of the classes beyond [`EXACT`]: powers of two and the middles between them,
/// so that at least two thirds of the slots are filled. An empty slot means another draw, so
/// that adding an endpoint adds one slot and moves none.
const LARGE: [u32; 30] = {
    let mut sizes = [0; 30];
    let mut i = 0;
    while i < sizes.len() {
        let power = EXACT << (i / 2 + 1);
        sizes[i] = if i % 2 == 0 { power / 4 * 3 } else { power };
        i += 1;
    }
    sizes
};
/// Draws from all slots of a large class. At most (1/3)^8, or 1 in 6,561, of the connections
/// miss every time; they draw from the slots that are certainly filled.
pub const DRAWS: usize = 8;
/// Slots of a list balanced by source address: a prime, for the permutation in `maglev`.
pub const SOURCE_SLOTS: u32 = 1021;
/// Seed of the source hash, the same on every node.
pub const SOURCE_SEED: u32 = 0x7376_6361;

/// What is done with a frontend's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Draws from exactly this many slots, 1 to [`EXACT`].
    Exact(u32),
    /// Draws from this many slots, one of [`Class::large`], not all of them filled.
    Large(u32),
    /// [`SOURCE_SLOTS`] slots chosen by the client's address.
    BySource,
    /// Refuses: nobody serves it anywhere.
    Reject,
    /// Drops: nobody here may serve it.
    Drop,
}

impl Class {
    const BY_SOURCE: u32 = 0x3f;
    const FIRST_LARGE: u32 = 0x40;
    const REJECT: u32 = 0x80;
    const DROP: u32 = 0x81;

    /// The class for this many equally likely slots, at least 1.
    #[must_use]
    pub fn for_slots(slots: usize) -> Self {
        let slots = u32::try_from(slots).unwrap_or(u32::MAX);
        if slots <= EXACT {
            return Self::Exact(slots.max(1));
        }
        let at = LARGE.partition_point(|size| *size < slots);
        Self::Large(LARGE[at.min(LARGE.len() - 1)])
    }

    /// Slot counts of large classes, ascending.
    pub fn large() -> impl Iterator<Item = u32> {
        LARGE.into_iter()
    }

    /// How many slots a list of the large class of `size` has filled at least.
    #[must_use]
    pub fn filled(size: u32) -> u32 {
        LARGE.into_iter().rev().find(|s| *s < size).unwrap_or(EXACT)
    }

    /// Its bits in the value: never 0.
    #[must_use]
    pub fn bits(self) -> u32 {
        let number = match self {
            Self::Exact(n) => n,
            Self::Large(size) => {
                let at = LARGE.partition_point(|s| *s < size);
                Self::FIRST_LARGE + u32::try_from(at).unwrap_or_default()
            }
            Self::BySource => Self::BY_SOURCE,
            Self::Reject => Self::REJECT,
            Self::Drop => Self::DROP,
        };
        number << CLASS_SHIFT
    }

    /// The class of a value; `None` if it is none of ours.
    #[must_use]
    pub fn of(value: u32) -> Option<Self> {
        match (value & CLASS_MASK) >> CLASS_SHIFT {
            0 => None,
            n if n <= EXACT => Some(Self::Exact(n)),
            Self::BY_SOURCE => Some(Self::BySource),
            Self::REJECT => Some(Self::Reject),
            Self::DROP => Some(Self::Drop),
            n => {
                let at = usize::try_from(n.checked_sub(Self::FIRST_LARGE)?).ok()?;
                LARGE.get(at).copied().map(Self::Large)
            }
        }
    }

    /// True if its connections go to an endpoint of a list.
    #[must_use]
    pub const fn has_list(self) -> bool {
        !matches!(self, Self::Reject | Self::Drop)
    }
}

/// The value of a frontend element.
#[must_use]
pub fn frontend_value(mode: Mode, affinity: Affinity, class: Class, list: u32) -> u32 {
    mode as u32 | affinity as u32 | class.bits() | list
}

/// The value in an element of a map of values.
#[must_use]
pub fn value_of(element: &Element) -> Option<u32> {
    match &element.data {
        ElementData::Value(data) => data.as_u32(),
        ElementData::None | ElementData::Goto(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn all() -> impl Iterator<Item = Class> {
        (1..=EXACT)
            .map(Class::Exact)
            .chain(Class::large().map(Class::Large))
            .chain([Class::BySource, Class::Reject, Class::Drop])
    }

    #[test]
    fn classes_have_distinct_nonzero_bits_and_are_read_back() {
        let bits: BTreeSet<u32> = all().map(Class::bits).collect();
        assert_eq!(bits.len(), all().count());
        assert!(bits.iter().all(|b| *b != 0 && b & !CLASS_MASK == 0));
        for class in all() {
            assert_eq!(Class::of(class.bits() | 0xf00f_ffff), Some(class));
        }
        assert_eq!(Class::of(0xf00f_ffff), None);
    }

    #[test]
    fn every_slot_count_has_a_class_that_is_at_least_two_thirds_full() {
        for slots in 1..5000_u32 {
            match Class::for_slots(slots as usize) {
                Class::Exact(n) => assert_eq!(n, slots),
                Class::Large(size) => {
                    assert!(slots <= size && slots > Class::filled(size), "{slots}");
                    assert!(slots * 3 > size * 2, "{slots} of {size}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(Class::for_slots(MAX_SLOTS), Class::Large(1 << 20));
        assert_eq!(Class::large().last(), Some(1 << 20));
    }

    #[test]
    fn the_parts_of_a_value_do_not_overlap() {
        let parts = [MODE_MASK, AFFINITY_MASK, CLASS_MASK, LIST_MASK];
        assert_eq!(parts.iter().sum::<u32>(), u32::MAX);
        assert_eq!(GROUP_MARKER & CLASS_MASK & GROUP_MASK, GROUP_MARKER);
    }
}
