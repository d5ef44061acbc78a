//! Consistent hashing: which endpoint each slot of a source-hashed list belongs to.
//!
//! The population method of the Maglev paper (Eisenbud et al., NSDI 2016), section 3.4:
//! every endpoint has its own permutation of the slots and takes turns claiming the next
//! free one, so that shares are equal to within one slot per turn and a lost endpoint
//! moves few slots of the others. A weight of w is w claims a turn.

use super::numbers::hash;
use crate::plan::{Endpoint, WeightedEndpoints};

/// The endpoint of each of `slots` slots (a prime). Depends on nothing but its arguments:
/// every node computes the same table. O(slots log slots) on average.
pub fn table(endpoints: &WeightedEndpoints, slots: u32) -> Vec<Endpoint> {
    let size = u64::from(slots);
    let mut turns: Vec<(Endpoint, u32, u64, u64)> = endpoints
        .iter()
        .map(|(endpoint, weight)| {
            let seed = hash(endpoint);
            (
                *endpoint,
                *weight,
                seed % size,
                (seed >> 32) % (size - 1) + 1,
            )
        })
        .collect();
    let mut table: Vec<Option<Endpoint>> = vec![None; slots as usize];
    let mut free = table.len();
    while free > 0 && !turns.is_empty() {
        for (endpoint, weight, next, skip) in &mut turns {
            for _ in 0..*weight {
                if free == 0 {
                    break;
                }
                // `skip` and the prime size are coprime: this meets every slot.
                while table[*next as usize].is_some() {
                    *next = (*next + *skip) % size;
                }
                table[*next as usize] = Some(*endpoint);
                free -= 1;
            }
        }
    }
    table.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    fn endpoints(n: u8) -> WeightedEndpoints {
        (1..=n)
            .map(|i| {
                let endpoint = Endpoint {
                    addr: IpAddr::from([10, 0, 0, i]),
                    port: NonZeroU16::MIN,
                };
                (endpoint, 1)
            })
            .collect()
    }

    fn share(table: &[Endpoint], endpoint: &Endpoint) -> usize {
        table.iter().filter(|e| *e == endpoint).count()
    }

    #[test]
    fn shares_are_equal_to_within_one_slot() {
        let endpoints = endpoints(7);
        let table = table(&endpoints, 1021);
        assert_eq!(table.len(), 1021);
        for endpoint in endpoints.keys() {
            assert!((145..=146).contains(&share(&table, endpoint)));
        }
    }

    #[test]
    fn weights_are_shares() {
        let weights = [3, 1].into_iter();
        let endpoints: WeightedEndpoints = endpoints(2).keys().copied().zip(weights).collect();
        let table = table(&endpoints, 1021);
        let first = share(&table, endpoints.keys().next().unwrap());
        assert!((765..=766).contains(&first), "{first}");
    }

    #[test]
    fn a_lost_endpoint_moves_few_slots_of_the_others() {
        let before = table(&endpoints(10), 1021);
        let after = table(&endpoints(9), 1021);
        let lost = *endpoints(10).keys().last().unwrap();
        let moved = before
            .iter()
            .zip(&after)
            .filter(|(b, a)| **b != lost && b != a)
            .count();
        assert!(moved < 1021 / 5, "{moved} slots moved for no reason");
    }
}
