//! How nft remembers the types of a set: type numbers, and the userdata it needs to print
//! what the kernel does not know. Taken from what nft 1.0.6 stores for the same text.

use crate::ruleset::{DataType, Family, Set, SetData};

/// nft's datatype numbers (enum datatypes): stable, they are stored in every kernel set.
///
/// A slot is an `integer`, which older nft (1.0.2, not 1.0.6) cannot have in a concatenation:
/// it aborts, whatever it is asked to list in a namespace with such a set. A newer one takes
/// the type from the set's userdata ([`userdata`]); the older ones do not understand that and
/// take this number, so it is that of a packet mark, 32 bits in host order as well.
const fn number(data_type: DataType) -> u32 {
    match data_type {
        DataType::Slot => MARK,
        DataType::Ipv4Addr => 7,
        DataType::Ipv6Addr => 8,
        DataType::InetProto => 12,
        DataType::InetService => 13,
        DataType::ClassId => 23,
    }
}

/// What nft stores for a slot, and what is stored here.
const INTEGER: u32 = 4;
const MARK: u32 = 19;

const fn from_number(number: u32) -> Option<DataType> {
    Some(match number {
        INTEGER | MARK => DataType::Slot,
        7 => DataType::Ipv4Addr,
        8 => DataType::Ipv6Addr,
        12 => DataType::InetProto,
        13 => DataType::InetService,
        23 => DataType::ClassId,
        _ => return None,
    })
}

/// Bits of one field's number in the number of a concatenation.
const BITS: u32 = 6;

/// The type number of a concatenation.
#[must_use]
pub fn type_number(fields: &[DataType]) -> u32 {
    fields.iter().fold(0, |n, t| n << BITS | number(*t))
}

/// The fields a type number stands for; `None` if any is not ours.
#[must_use]
pub fn fields(mut type_number: u32) -> Option<Vec<DataType>> {
    let mut out = Vec::new();
    while type_number > 0 {
        out.push(from_number(type_number & ((1 << BITS) - 1))?);
        type_number >>= BITS;
    }
    out.reverse();
    (!out.is_empty()).then_some(out)
}

/// Bytes of a key or data of these fields.
#[must_use]
pub fn length(fields: &[DataType]) -> usize {
    match fields {
        [one] => one.byte_len(),
        _ => fields.iter().map(|t| t.padded_len()).sum(),
    }
}

// NFTNL_UDATA_SET_*: type, length, value.
const KEY_BYTEORDER: u8 = 0;
const DATA_BYTEORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;
const DATA_INTERVAL: u8 = 6;
const COMMENT: u8 = 7;
/// An empty concatenation expression: what nft stores for `type a . b`.
const CONCAT: [u8; 8] = [0, 4, 0x0d, 0, 0, 0, 1, 0];

/// Byte order nft notes for a key or data: 0 mixed, 1 host, 2 network.
const fn byteorder(fields: &[DataType]) -> u8 {
    match fields {
        [DataType::ClassId | DataType::Slot] => 1,
        [_] => 2,
        _ => 0,
    }
}

/// Typeof of `meta priority . meta l4proto . numgen random mod 2`, and of
/// `ip daddr . th dport` and `ip6 daddr . th dport`, as nft 1.0.6 writes them.
const ENDPOINTS_KEY: &str = "00040d000000013c000e0004090000000106000402000000010e0004090000000106000410000000021a0004170000000112000401000000010402000000020400000000";
const ENDPOINTS_DATA: &str = "00040d000000012c0014000407000000010c00040c00000001040c0000000114000407000000010c00040b000000010402000000";
const ENDPOINTS_DATA_6: &str = "00040d000000012c0014000407000000010c00040d0000000104090000000114000407000000010c00040b000000010402000000";

/// Typeof of `meta priority . numgen random mod 2` and of `meta priority`.
const HASHED_CLIENT_KEY: &str = "00040d000000012c000e0004090000000106000402000000011a0004170000000112000401000000010402000000020400000000";
const PRIORITY: &str = "0004090000000106000402000000";

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .filter_map(|i| u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok())
        .collect()
}

/// The userdata of a set.
#[must_use]
pub fn userdata(set: &Set, family: Family) -> Vec<u8> {
    let mut out = Vec::with_capacity(160);
    let mut put = |kind: u8, value: &[u8]| {
        out.push(kind);
        out.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(value);
    };
    let word = |n: u8| u32::from(n).to_ne_bytes();
    put(KEY_BYTEORDER, &word(byteorder(&set.key)));
    let data = match &set.data {
        SetData::None => None,
        SetData::Verdict => Some(&[][..]),
        SetData::Fields(fields) => Some(fields.as_slice()),
    };
    if let Some(data) = data {
        put(DATA_BYTEORDER, &word(byteorder(data)));
    }
    if set.needs_typeof() {
        let (key, value) = match (set.key.len(), family) {
            (2, _) => (HASHED_CLIENT_KEY, PRIORITY),
            (_, Family::Ip) => (ENDPOINTS_KEY, ENDPOINTS_DATA),
            (_, Family::Ip6) => (ENDPOINTS_KEY, ENDPOINTS_DATA_6),
        };
        put(KEY_TYPEOF, &unhex(key));
        put(DATA_TYPEOF, &unhex(value));
    } else {
        if set.key.len() > 1 {
            put(KEY_TYPEOF, &CONCAT);
        }
        if data.is_some_and(|data| data.len() > 1) {
            put(DATA_TYPEOF, &CONCAT);
        }
    }
    if data.is_some() {
        put(DATA_INTERVAL, &word(0));
    }
    if !set.comment.is_empty() {
        put(COMMENT, &text(set.comment));
    }
    out
}

/// The userdata of a table or chain: NFTNL_UDATA_TABLE_COMMENT, NFTNL_UDATA_CHAIN_COMMENT.
#[must_use]
pub fn comment(comment: &str) -> Vec<u8> {
    let text = text(comment);
    let mut out = vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    out.extend_from_slice(&text);
    out
}

/// A comment as nft stores it: with a NUL, of at most NFTNL_UDATA_COMMENT_MAXLEN bytes.
fn text(comment: &str) -> Vec<u8> {
    const MOST: usize = 127;
    let mut bytes: Vec<u8> = comment.bytes().take(MOST).collect();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_written_as_a_type_that_older_nft_can_list_and_read_either_way() {
        use DataType::{ClassId, InetProto, Slot};
        let key = [ClassId, InetProto, Slot];
        assert_eq!(type_number(&key), 0x17313);
        assert_eq!(fields(0x17313), Some(key.to_vec()));
    }

    #[test]
    fn type_numbers_are_those_nft_stores() {
        use DataType::{ClassId, InetProto, InetService, Ipv4Addr, Slot};
        assert_eq!(type_number(&[Ipv4Addr, InetProto, InetService]), 0x730d);
        assert_eq!(type_number(&[ClassId, InetProto]), 0x5cc);
        assert_eq!(fields(0x17304), Some(vec![ClassId, InetProto, Slot]));
        assert_eq!(fields(0x3f), None);
    }
}
