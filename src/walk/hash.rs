//! The hash that `jhash ip saddr mod N seed S` computes, so that a walk knows which slot a
//! client has: Bob Jenkins' lookup3 as in the kernel's include/linux/jhash.h, scaled to the
//! modulus as in include/linux/math.h.

use std::net::IpAddr;

/// What the kernel adds to the length and the seed to begin with.
const START: u32 = 0xdead_beef;

/// The slot of a client, below `modulus`.
#[must_use]
pub fn slot(client: IpAddr, modulus: u32, seed: u32) -> u32 {
    let hash = match client {
        IpAddr::V4(addr) => jhash(&addr.octets(), seed),
        IpAddr::V6(addr) => jhash(&addr.octets(), seed),
    };
    ((u64::from(hash) * u64::from(modulus)) >> 32) as u32
}

/// Three words at a time; the last one to three words are mixed harder.
fn jhash(key: &[u8], seed: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "an address has 4 or 16 bytes"
    )]
    let start = START.wrapping_add(key.len() as u32).wrapping_add(seed);
    let mut state = [start; 3];
    let words: Vec<u32> = key
        .chunks_exact(4)
        .map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
        .collect();
    let blocks = words.len().div_ceil(3);
    for (number, block) in words.chunks(3).enumerate() {
        for (part, word) in state.iter_mut().zip(block) {
            *part = part.wrapping_add(*word);
        }
        if number + 1 < blocks {
            mix(&mut state);
        } else {
            finish(&mut state);
        }
    }
    state[2]
}

fn mix([a, b, c]: &mut [u32; 3]) {
    let step = |x: &mut u32, y: &mut u32, z: u32, bits| {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(bits);
        *y = y.wrapping_add(z);
    };
    step(a, c, *b, 4);
    step(b, a, *c, 6);
    step(c, b, *a, 8);
    step(a, c, *b, 16);
    step(b, a, *c, 19);
    step(c, b, *a, 4);
}

const fn finish([a, b, c]: &mut [u32; 3]) {
    const fn step(x: &mut u32, y: u32, bits: u32) {
        *x = (*x ^ y).wrapping_sub(y.rotate_left(bits));
    }
    step(c, *b, 14);
    step(a, *c, 11);
    step(b, *a, 25);
    step(c, *b, 16);
    step(a, *c, 4);
    step(b, *a, 14);
    step(c, *b, 24);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_stay_below_the_modulus_and_spread() {
        for v6 in [false, true] {
            let mut counts = [0_u32; 16];
            for n in 0..16_000_u32 {
                let client = if v6 {
                    IpAddr::from(std::net::Ipv6Addr::from(u128::from(n) | 0xfd00 << 112))
                } else {
                    IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + n))
                };
                counts[slot(client, 16, 7) as usize] += 1;
            }
            assert!(counts.iter().all(|c| (850..1150).contains(c)), "{counts:?}");
        }
    }

    #[test]
    fn another_seed_is_another_slot() {
        let client = IpAddr::from([172, 17, 0, 2]);
        let slots: std::collections::BTreeSet<u32> =
            (0..100).map(|seed| slot(client, 1 << 20, seed)).collect();
        assert!(slots.len() > 90);
    }
}
