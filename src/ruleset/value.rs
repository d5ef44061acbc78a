//! Typed values of set keys and data, kept as the bytes the kernel compares.
//!
//! nftables compares sets by bytes: each field of a concatenation is padded to 32 bits.
//! Keeping those bytes makes an element cheap to compare, sort and send; the schema of its
//! set ([`DataType`] per field) says how to read them back.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::net::{Family, Protocol};

/// The type of one field of a set key or of map data, in nft's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DataType {
    /// `ipv4_addr`: 4 bytes, network order.
    Ipv4Addr,
    /// `ipv6_addr`: 16 bytes, network order.
    Ipv6Addr,
    /// `inet_proto`: 1 byte, padded to 4.
    InetProto,
    /// `inet_service`: a port, 2 bytes in network order, padded to 4.
    InetService,
    /// `classid`: the type of `meta priority`, 32 bits in host order.
    ClassId,
    /// The result of `numgen` or `jhash`: 32 bits in host order (nft type `integer`).
    Slot,
}

impl DataType {
    /// The address type of `family`.
    #[must_use]
    pub const fn addr(family: Family) -> Self {
        match family {
            Family::Ip => Self::Ipv4Addr,
            Family::Ip6 => Self::Ipv6Addr,
        }
    }

    /// Bytes of the value without padding.
    #[must_use]
    pub const fn byte_len(self) -> usize {
        match self {
            Self::Ipv4Addr | Self::ClassId | Self::Slot => 4,
            Self::Ipv6Addr => 16,
            Self::InetProto => 1,
            Self::InetService => 2,
        }
    }

    /// Bytes the value takes in a concatenation: padded to a multiple of 4.
    #[must_use]
    pub const fn padded_len(self) -> usize {
        self.byte_len().div_ceil(4) * 4
    }

    /// The name nft uses in `type`, where there is one ([`DataType::Slot`] needs `typeof`).
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Ipv4Addr => "ipv4_addr",
            Self::Ipv6Addr => "ipv6_addr",
            Self::InetProto => "inet_proto",
            Self::InetService => "inet_service",
            Self::ClassId => "classid",
            Self::Slot => "integer",
        }
    }
}

/// The longest concatenation we build: IPv6 address, protocol, port and IPv6 address.
const MAX_BYTES: usize = 40;

/// The bytes of a set key or of map data, fields padded as in a concatenation.
///
/// Ordering is bytewise, which for addresses is numeric order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value<const N: usize = MAX_BYTES> {
    // `len` comes second so that the derived order compares contents first. A value that got
    // more fields than it has room for has no length: [`OVERFULL`].
    bytes: [u8; N],
    len: u8,
}

/// The length of a value that cannot be.
const OVERFULL: u8 = u8::MAX;

/// The data of a map's element: an IPv6 address and a port at most. There are as many as
/// elements, so they are no longer than they must be.
pub type Datum = Value<20>;

impl<const N: usize> Value<N> {
    /// No fields yet.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: [0; N],
            len: 0,
        }
    }

    /// A value from bytes as the kernel holds them; `None` if longer than any key of ours.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut value = Self::new();
        value.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        value.len = u8::try_from(bytes.len()).ok()?;
        Some(value)
    }

    /// The bytes, padding included; none if it got more fields than it has room for.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Appends a field and its padding. All our schemas fit; one that did not would give a
    /// value without bytes, which nobody sends and the kernel would not take.
    #[must_use]
    pub fn field(mut self, bytes: &[u8]) -> Self {
        const { assert!(N.is_multiple_of(4) && N < OVERFULL as usize) };
        let start = usize::from(self.len);
        let end = start.saturating_add(bytes.len().next_multiple_of(4));
        let room = self.bytes.get_mut(start..end);
        self.len = match (room, u8::try_from(end)) {
            (Some(room), Ok(end)) => {
                room[..bytes.len()].copy_from_slice(bytes);
                end
            }
            _ => OVERFULL,
        };
        self
    }

    /// Appends an address.
    #[must_use]
    pub fn addr(self, addr: IpAddr) -> Self {
        match addr {
            IpAddr::V4(v4) => self.field(&v4.octets()),
            IpAddr::V6(v6) => self.field(&v6.octets()),
        }
    }

    /// Appends a transport protocol.
    #[must_use]
    pub fn proto(self, protocol: Protocol) -> Self {
        self.field(&[protocol.number()])
    }

    /// A protocol that is the only field of its key: there the kernel does not pad it.
    #[must_use]
    pub fn lone_proto(protocol: Protocol) -> Self {
        let mut value = Self::new();
        value.bytes[0] = protocol.number();
        value.len = 1;
        value
    }

    /// Appends a port (network order).
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.field(&port.to_be_bytes())
    }

    /// Appends a 32-bit number in host order: a slot, or a `meta priority`.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.field(&number.to_ne_bytes())
    }

    /// The number, if that is all there is.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        self.as_bytes().try_into().ok().map(u32::from_ne_bytes)
    }

    /// Splits the bytes into typed fields; `None` if they do not have the schema's length.
    #[must_use]
    pub fn fields(&self, schema: &[DataType]) -> Option<Vec<FieldValue>> {
        let mut rest = self.as_bytes();
        let mut out = Vec::with_capacity(schema.len());
        for (i, data_type) in schema.iter().enumerate() {
            let padded = if schema.len() == 1 && i == 0 && rest.len() == data_type.byte_len() {
                data_type.byte_len()
            } else {
                data_type.padded_len()
            };
            let (field, tail) = rest.split_at_checked(padded)?;
            rest = tail;
            out.push(FieldValue::read(*data_type, field)?);
        }
        rest.is_empty().then_some(out)
    }
}

/// As the hexadecimal digits of its bytes.
impl<const N: usize> Serialize for Value<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut digits = String::with_capacity(2 * N);
        for byte in self.as_bytes() {
            for half in [byte >> 4, byte & 0xf] {
                digits.extend(char::from_digit(half.into(), 16));
            }
        }
        to.serialize_str(&digits)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Value<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let digits = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let digit = |digit: &u8| char::from(*digit).to_digit(16);
        let bytes = digits.as_bytes().chunks(2).map(|pair| match pair {
            [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        let value = bytes.as_deref().and_then(Self::from_bytes);
        value.filter(|value| value.len > 0).ok_or_else(|| {
            let what = format!("{digits:?} is not 1 to {N} bytes in hexadecimal digits");
            serde::de::Error::custom(what)
        })
    }
}

impl<const N: usize> Default for Value<N> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const N: usize> fmt::Debug for Value<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        self.as_bytes()
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One field of a [`Value`], typed for printing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldValue {
    /// An IPv4 or IPv6 address.
    Addr(IpAddr),
    /// An IANA protocol number.
    Proto(u8),
    /// A port.
    Port(u16),
    /// A `meta priority` value.
    ClassId(u32),
    /// A slot number.
    Slot(u32),
}

impl FieldValue {
    fn read(data_type: DataType, bytes: &[u8]) -> Option<Self> {
        Some(match data_type {
            DataType::Ipv4Addr => {
                Self::Addr(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?).into())
            }
            DataType::Ipv6Addr => {
                Self::Addr(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?).into())
            }
            DataType::InetProto => Self::Proto(*bytes.first()?),
            DataType::InetService => {
                Self::Port(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
            }
            DataType::ClassId => {
                Self::ClassId(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
            }
            DataType::Slot => Self::Slot(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)),
        })
    }
}

/// As nft prints it: `10.0.0.1`, `tcp`, `80`, `40c0:1`.
impl fmt::Display for FieldValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Addr(addr) => write!(f, "{addr}"),
            Self::Proto(number) => match Protocol::from_number(number) {
                Some(protocol) => f.write_str(protocol.nft_name()),
                None => write!(f, "{number}"),
            },
            Self::Port(number) => write!(f, "{number}"),
            Self::Slot(number) => write!(f, "{number}"),
            Self::ClassId(id) => write!(f, "{}", ClassId(id)),
        }
    }
}

/// Prints a `meta priority` as nft does: `major:minor` in hexadecimal, or its two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassId(pub u32);

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("none"),
            u32::MAX => f.write_str("root"),
            id => write!(f, "{:x}:{:x}", id >> 16, id & 0xffff),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_padded_and_read_back() {
        let key = Value::<MAX_BYTES>::new()
            .addr(IpAddr::from([10, 254, 176, 53]))
            .proto(Protocol::Tcp)
            .port(80)
            .u32(7);
        assert_eq!(key.as_bytes().len(), 16);
        let schema = [
            DataType::Ipv4Addr,
            DataType::InetProto,
            DataType::InetService,
            DataType::Slot,
        ];
        let text: Vec<String> = key
            .fields(&schema)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(text, ["10.254.176.53", "tcp", "80", "7"]);
    }

    #[test]
    fn a_field_too_many_leaves_a_value_without_bytes() {
        let full = Datum::new().addr(IpAddr::from([0; 8])).port(80);
        assert_eq!(full.as_bytes().len(), 20);
        let over = full.port(81);
        assert_eq!(over.as_bytes(), [0_u8; 0]);
        assert_eq!(over.port(82).as_bytes(), [0_u8; 0]);
        assert_eq!(
            over.fields(&[DataType::Ipv6Addr, DataType::InetService]),
            None
        );
        assert_eq!(Datum::new().field(&[0; 300]).as_bytes(), [0_u8; 0]);
        assert_ne!(over, full);
    }

    #[test]
    fn a_value_of_another_length_has_no_fields() {
        assert_eq!(Datum::new().u32(1).fields(&[DataType::Ipv6Addr]), None);
    }
}
