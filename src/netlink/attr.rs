//! Netlink attributes as bytes: a writer of messages into one growing buffer and a reader that
//! trusts no length. Both safe; rtnetlink(7), `struct nlattr` in linux/netlink.h.

use std::net::IpAddr;

use super::message::flag;

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK: without the nested and byte-order flags.
const TYPE_MASK: u16 = 0x3fff;

/// Writes messages one after the other.
///
/// An attribute says its length in 16 bits. What does not fit there is written all the same,
/// and remembered: whoever sends the bytes asks [`Writer::overflowed`] first.
#[derive(Debug, Default)]
pub struct Writer {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    overflowed: bool,
}

impl Writer {
    /// With room for so many bytes: who knows how many will come does not copy what is there
    /// each time it has doubled.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes),
            overflowed: false,
        }
    }
}

/// A request of one message that is not numbered yet and asks for an acknowledgement, which a
/// dump does without; `body` writes its attributes.
pub fn request(kind: u16, flags: u16, header: &[u8], body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut w = Writer::default();
    let open = w.message(kind, flag::REQUEST | flag::ACK | flags, 0, header);
    body(&mut w);
    w.end_message(open);
    w.bytes
}

/// Where an open message or attribute began.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Open(usize);

impl Writer {
    /// True if a length did not fit its field: the bytes must not be sent.
    #[must_use]
    pub const fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// Opens a message with the fixed header that its type has. A request may leave its number
    /// 0: [`super::exchange::Exchange`] gives it one.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8]) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        Open(start)
    }

    /// Closes a message: its length is known now.
    pub fn end_message(&mut self, open: Open) {
        let len = self.bytes.len() - open.0;
        self.overflowed |= u32::try_from(len).is_err();
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.bytes[open.0..open.0 + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Opens the message again that begins at `start` and is the last.
    pub const fn reopen(&self, start: usize) -> Open {
        Open(start)
    }

    /// Appends an attribute.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) {
        let open = self.nest_plain(kind);
        self.bytes.extend_from_slice(payload);
        self.end_plain(open);
    }

    /// Appends an address.
    pub fn addr(&mut self, kind: u16, addr: IpAddr) {
        match addr {
            IpAddr::V4(addr) => self.attr(kind, &addr.octets()),
            IpAddr::V6(addr) => self.attr(kind, &addr.octets()),
        }
    }

    /// Appends a 16-bit attribute in network order.
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a 32-bit attribute in network order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a NUL-terminated string.
    pub fn string(&mut self, kind: u16, text: &str) {
        let open = self.nest_plain(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.end_plain(open);
    }

    /// Opens a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Open {
        self.nest_plain(kind | NESTED)
    }

    /// Closes a nested attribute.
    pub fn end_nest(&mut self, open: Open) {
        let len = self.bytes.len() - open.0;
        self.overflowed |= len > usize::from(u16::MAX);
        let len = u16::try_from(len).unwrap_or(u16::MAX);
        self.bytes[open.0..open.0 + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Opens an attribute whose payload is written directly into [`Writer::bytes`].
    pub fn nest_plain(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        Open(start)
    }

    /// Closes it: the length is without the padding that follows.
    pub fn end_plain(&mut self, open: Open) {
        self.end_nest(open);
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// A 16-bit number in host order at an offset.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A 32-bit number in host order at an offset.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Attributes in a row. Iteration ends at the first whose length makes no sense.
#[derive(Clone, Copy, Debug)]
pub struct Attrs<'a>(pub &'a [u8]);

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let payload = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    }
}

impl<'a> Attrs<'a> {
    /// True if their lengths add up to what is there.
    #[must_use]
    pub fn are_whole(mut self) -> bool {
        self.by_ref().for_each(drop);
        self.0.is_empty()
    }

    /// The payload of the first attribute of this type.
    #[must_use]
    pub fn get(mut self, kind: u16) -> Option<&'a [u8]> {
        self.find(|(k, _)| *k == kind).map(|(_, payload)| payload)
    }

    /// The same as attributes.
    #[must_use]
    pub fn nested(self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// The same as an address of either family.
    #[must_use]
    pub fn addr(self, kind: u16) -> Option<IpAddr> {
        let bytes = self.get(kind)?;
        let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
            .ok()
    }

    /// The same as a 32-bit number in host order, as rtnetlink has them.
    #[must_use]
    pub fn host_u32(self, kind: u16) -> Option<u32> {
        self.start(kind).map(u32::from_ne_bytes)
    }

    fn start<const N: usize>(self, kind: u16) -> Option<[u8; N]> {
        self.get(kind)?.first_chunk().copied()
    }

    /// The same as a 16-bit number in network order.
    #[must_use]
    pub fn u16(self, kind: u16) -> Option<u16> {
        self.start(kind).map(u16::from_be_bytes)
    }

    /// The same as a 32-bit number in network order.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        self.start(kind).map(u32::from_be_bytes)
    }

    /// The same as a 64-bit number in network order.
    #[must_use]
    pub fn u64(self, kind: u16) -> Option<u64> {
        self.start(kind).map(u64::from_be_bytes)
    }

    /// The same as one byte.
    #[must_use]
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// The same as a string without its NUL; `None` if it is not UTF-8.
    #[must_use]
    pub fn string(self, kind: u16) -> Option<&'a str> {
        std::str::from_utf8(self.text(kind)?).ok()
    }

    /// The same, with a mark for whatever is not UTF-8.
    #[must_use]
    pub fn lossy_string(self, kind: u16) -> Option<String> {
        Some(String::from_utf8_lossy(self.text(kind)?).into_owned())
    }

    fn text(self, kind: u16) -> Option<&'a [u8]> {
        self.get(kind)?.split(|byte| *byte == 0).next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::message::Messages;

    #[test]
    fn what_is_written_is_read_back() {
        let mut w = Writer::default();
        let open = w.message(7, 1, 42, &[2, 0, 0, 0]);
        w.string(1, "svcnat");
        w.addr(4, "fd00::1".parse().unwrap());
        let nest = w.nest(2);
        w.u32(3, 0x0102_0304);
        w.end_nest(nest);
        w.end_message(open);
        let message = Messages(&w.bytes).next().unwrap();
        assert_eq!((message.kind, message.seq, message.family()), (7, 42, 2));
        assert_eq!(message.attrs().string(1), Some("svcnat"));
        assert_eq!(message.attrs().nested(2).u32(3), Some(0x0102_0304));
        assert_eq!(message.attrs().addr(4), "fd00::1".parse().ok());
        assert!(message.attrs().are_whole());
        let cut = message.payload.len() - 1;
        assert!(!Attrs(&message.payload[4..cut]).are_whole());
    }

    #[test]
    fn an_attribute_too_long_for_its_length_field_is_remembered() {
        for longer in [0, 1] {
            let mut w = Writer::default();
            w.attr(1, &vec![0; 65_531 + longer]);
            assert_eq!(w.overflowed(), longer == 1);
            let mut w = Writer::default();
            w.string(1, &"x".repeat(65_530 + longer));
            assert_eq!(w.overflowed(), longer == 1);
            let mut w = Writer::default();
            let nest = w.nest(1);
            w.bytes.resize(65_535 + longer, 0);
            w.end_nest(nest);
            assert_eq!(w.overflowed(), longer == 1);
        }
    }
}
