//! The registers of a rule: bytes, each known or not.

use std::net::IpAddr;

use super::{Op, Register, Set};

/// Bytes of all registers.
const REGISTERS: usize = 80;

/// What the registers hold.
pub(super) type Registers = [Option<u8>; REGISTERS];

/// Before the first expression.
pub(super) const EMPTY: Registers = [None; REGISTERS];

pub(super) fn read(registers: &Registers, at: usize) -> Option<u8> {
    registers.get(at).copied().flatten()
}

/// What is shorter than a register leaves zeros behind it.
pub(super) fn store(
    registers: &mut Registers,
    at: usize,
    bytes: impl IntoIterator<Item = Option<u8>>,
) {
    let mut bytes = bytes.into_iter();
    for (i, to) in registers.iter_mut().skip(at).enumerate() {
        match bytes.next() {
            Some(byte) => *to = byte,
            None if i % 4 != 0 => *to = Some(0),
            None => return,
        }
    }
}

pub(super) fn number(registers: &Registers, at: Register) -> Option<u32> {
    let mut bytes = [0; 4];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = read(registers, at + i)?;
    }
    Some(u32::from_ne_bytes(bytes))
}

pub(super) fn address_at(registers: &Registers, at: Register, is_v4: bool) -> Option<IpAddr> {
    let byte = |i: usize| read(registers, at + i);
    if is_v4 {
        let octets = [byte(0)?, byte(1)?, byte(2)?, byte(3)?];
        return Some(IpAddr::from(octets));
    }
    let mut octets = [0; 16];
    for (i, octet) in octets.iter_mut().enumerate() {
        *octet = byte(i)?;
    }
    Some(IpAddr::from(octets))
}

pub(super) fn compare(registers: &Registers, at: Register, op: Op, data: &[u8]) -> Option<bool> {
    let held: Vec<Option<u8>> = (at..at + data.len())
        .map(|at| read(registers, at))
        .collect();
    let differs = held
        .iter()
        .zip(data)
        .any(|(a, b)| a.is_some_and(|a| a != *b));
    let whole: Option<Vec<u8>> = held.into_iter().collect();
    let order = whole.map(|whole| whole.as_slice().cmp(data));
    match op {
        Op::Eq if differs => Some(false),
        Op::Neq if differs => Some(true),
        Op::Eq => order.map(std::cmp::Ordering::is_eq),
        Op::Neq => order.map(std::cmp::Ordering::is_ne),
        Op::Lt => order.map(std::cmp::Ordering::is_lt),
        Op::Lte => order.map(std::cmp::Ordering::is_le),
        Op::Gt => order.map(std::cmp::Ordering::is_gt),
        Op::Gte => order.map(std::cmp::Ordering::is_ge),
    }
}

/// Whether a key is an element's, field by field: a range of a concatenation is a range of each.
pub(super) fn holds(
    set: &Set,
    key: &[Option<u8>],
    first: &[u8],
    last: Option<&[u8]>,
) -> Option<bool> {
    let last = last.unwrap_or(first);
    let mut at = 0;
    let mut all = Some(true);
    for len in &set.fields {
        let range = at..(at + len).min(key.len());
        at += len;
        let (Some(key), Some(first), Some(last)) = (
            key.get(range.clone()),
            first.get(range.clone()),
            last.get(range),
        ) else {
            return Some(false);
        };
        let differs = || {
            key.iter()
                .zip(first)
                .any(|(a, b)| a.is_some_and(|a| a != *b))
        };
        let known: Option<Vec<u8>> = key.iter().copied().collect();
        match known {
            None if first == last && differs() => return Some(false),
            Some(known) if known.as_slice() < first || known.as_slice() > last => {
                return Some(false);
            }
            Some(_) => {}
            None => all = None,
        }
    }
    all
}
