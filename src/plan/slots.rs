//! How many slots weighted lists may take. One list has a limit, and all of a node together:
//! exact weights can ask for millions, and a commit that does not fit would hold up every
//! other Service.

use crate::config::SlotLimits;

/// Powers of two that a list's demand may reach.
const SIZES: usize = 33;

/// What all weighted lists of a node ask for, by size, so that one Service more or less costs
/// a few additions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotDemand {
    /// Lists and the slots they ask for, by the logarithm of the latter.
    sizes: [(u64, u64); SIZES],
}

impl Default for SlotDemand {
    fn default() -> Self {
        Self {
            sizes: [(0, 0); SIZES],
        }
    }
}

impl SlotDemand {
    fn size(slots: u64) -> usize {
        (slots.max(1).ilog2() as usize).min(SIZES - 1)
    }

    /// Lists that ask for these slots come.
    pub fn add(&mut self, lists: &[u64]) {
        for slots in lists {
            let size = &mut self.sizes[Self::size(*slots)];
            size.0 += 1;
            size.1 += slots;
        }
    }

    /// They go.
    pub fn remove(&mut self, lists: &[u64]) {
        for slots in lists {
            let size = &mut self.sizes[Self::size(*slots)];
            size.0 = size.0.saturating_sub(1);
            size.1 = size.1.saturating_sub(*slots);
        }
    }

    /// The slots that each list may take: the largest power of two within the list's limit
    /// with which all of them stay within the node's.
    #[must_use]
    pub fn limit(&self, limits: SlotLimits) -> u32 {
        let mut limit = limits.list.max(1);
        loop {
            let full = Self::size(u64::from(limit));
            let sizes = self.sizes.iter().enumerate();
            let all: u64 = sizes
                .map(|(size, (lists, slots))| {
                    if size < full {
                        *slots
                    } else {
                        (*slots).min(lists * u64::from(limit))
                    }
                })
                .sum();
            if all <= limits.node || limit == 1 {
                return limit;
            }
            limit /= 2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: SlotLimits = SlotLimits {
        list: 1024,
        node: 4096,
    };

    #[test]
    fn lists_share_what_a_node_may_have_and_get_it_back() {
        let mut demand = SlotDemand::default();
        assert_eq!(demand.limit(LIMITS), 1024);
        demand.add(&[100_000; 4]);
        assert_eq!(demand.limit(LIMITS), 1024);
        demand.add(&[100_000; 4]);
        assert_eq!(demand.limit(LIMITS), 512);
        demand.add(&[2; 1000]);
        assert_eq!(demand.limit(LIMITS), 256);
        demand.remove(&[2; 1000]);
        demand.remove(&[100_000; 4]);
        assert_eq!(demand.limit(LIMITS), 1024);
    }

    #[test]
    fn many_small_lists_are_bounded_too() {
        let mut demand = SlotDemand::default();
        demand.add(&[1001; 4096]);
        assert_eq!(demand.limit(LIMITS), 1);
    }
}
