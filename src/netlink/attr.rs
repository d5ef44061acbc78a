//! Netlink messages and attributes as bytes: a writer into one growing buffer and a reader
//! that trusts no length. Both safe; rtnetlink(7), `struct nlattr` in linux/netlink.h.

/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NLA_TYPE_MASK: without the nested and byte-order flags.
const TYPE_MASK: u16 = 0x3fff;
/// Bytes of `struct nlmsghdr` and `struct nfgenmsg`.
pub const HEADER: usize = 16;
const NFGENMSG: usize = 4;

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

    /// The length of an attribute, header included.
    fn length(&mut self, len: usize) -> [u8; 2] {
        self.overflowed |= len > usize::from(u16::MAX);
        u16::try_from(len).unwrap_or(u16::MAX).to_ne_bytes()
    }

    /// Opens a message with its netfilter header.
    pub fn message(&mut self, kind: u16, flags: u16, seq: u32, family: u8, res_id: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&seq.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&res_id.to_be_bytes());
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
        let len = self.length(payload.len() + 4);
        self.bytes.extend_from_slice(&len);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// Appends a 32-bit attribute in network order.
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.attr(kind, &value.to_be_bytes());
    }

    /// Appends a NUL-terminated string.
    pub fn string(&mut self, kind: u16, text: &str) {
        let len = self.length(text.len() + 5);
        self.bytes.extend_from_slice(&len);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    /// Opens a nested attribute.
    pub fn nest(&mut self, kind: u16) -> Open {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        Open(start)
    }

    /// Closes a nested attribute.
    pub fn end_nest(&mut self, open: Open) {
        let len = self.length(self.bytes.len() - open.0);
        self.bytes[open.0..open.0 + 2].copy_from_slice(&len);
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
        self.pad();
    }

    fn pad(&mut self) {
        let padded = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(padded, 0);
    }
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Type.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// Sequence number of the request it answers.
    pub seq: u32,
    /// Netlink port of who asked, or caused it.
    pub port: u32,
    /// Everything after the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after the netfilter header.
    #[must_use]
    pub fn attrs(&self) -> Attrs<'a> {
        Attrs(self.payload.get(NFGENMSG..).unwrap_or_default())
    }

    /// The address family in the netfilter header.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or_default()
    }
}

/// The messages in what one receive call returned. Ends at the first that is cut short.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let whole = bytes.get(..len).filter(|_| len >= HEADER)?;
        let message = Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, 6)?,
            seq: u32_at(whole, 8)?,
            port: u32_at(whole, 12)?,
            payload: &whole[HEADER..],
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A 32-bit number in host order at an offset.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
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

    /// The same as a 32-bit number in network order.
    #[must_use]
    pub fn u32(self, kind: u16) -> Option<u32> {
        Some(u32::from_be_bytes(
            self.get(kind)?.get(..4)?.try_into().ok()?,
        ))
    }

    /// The same as a 64-bit number in network order.
    #[must_use]
    pub fn u64(self, kind: u16) -> Option<u64> {
        Some(u64::from_be_bytes(
            self.get(kind)?.get(..8)?.try_into().ok()?,
        ))
    }

    /// The same as one byte.
    #[must_use]
    pub fn u8(self, kind: u16) -> Option<u8> {
        self.get(kind)?.first().copied()
    }

    /// The same as a string without its NUL; `None` if it is not UTF-8.
    #[must_use]
    pub fn string(self, kind: u16) -> Option<&'a str> {
        let bytes = self.get(kind)?;
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        std::str::from_utf8(&bytes[..end]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut w = Writer::default();
        let open = w.message(7, 1, 42, 2, 0);
        w.string(1, "svcnat");
        let nest = w.nest(2);
        w.u32(3, 0x0102_0304);
        w.end_nest(nest);
        w.end_message(open);
        let message = messages(&w.bytes).next().unwrap();
        assert_eq!((message.kind, message.seq, message.family()), (7, 42, 2));
        assert_eq!(message.attrs().string(1), Some("svcnat"));
        assert_eq!(message.attrs().nested(2).u32(3), Some(0x0102_0304));
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

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                for (kind, payload) in message.attrs() {
                    let _ = Attrs(payload).u32(kind);
                    let _ = Attrs(payload).string(kind);
                }
            }
        }
    }
}
