//! Messages as the kernel frames them: `struct nlmsghdr` and what follows it; netlink(7),
//! linux/netlink.h. Written by [`super::attr::Writer`].

use nix::errno::Errno;

use super::attr::{Attrs, u16_at, u32_at};
use super::error::Refusal;

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Where flags and sequence number stand in it.
pub const FLAGS_AT: usize = 6;
pub const SEQ_AT: usize = 8;

/// NLM_F_*: what is asked for, and what is said of an answer.
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    /// The dump was interrupted by a change.
    pub const DUMP_INTR: u16 = 0x10;
    /// Of a refused request only the header is echoed.
    pub const CAPPED: u16 = 0x100;
    /// An extended acknowledgement follows.
    pub const ACK_TLVS: u16 = 0x200;
}

// NLMSG_*: an error, or an acknowledgement; how a dump ended; and what says nothing.
pub const ERROR: u16 = 2;
pub const DONE: u16 = 3;
pub const NOOP: u16 = 1;
pub const OVERRUN: u16 = 4;

/// NLMSGERR_ATTR_*.
const ATTR_MSG: u16 = 1;
const ATTR_OFFS: u16 = 2;

/// `struct nfgenmsg` (linux/netfilter/nfnetlink.h), with which every message of netfilter
/// begins: family (NFPROTO_*), version and resource id.
#[must_use]
pub const fn nfgenmsg(family: u8, version: u8, res_id: u16) -> [u8; 4] {
    let [high, low] = res_id.to_be_bytes();
    [family, version, high, low]
}

/// One received message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    /// Of the request it answers.
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
        Attrs(self.payload.get(4..).unwrap_or_default())
    }

    /// The fixed header of `N` bytes that messages of its type have, and the attributes after
    /// it; `None` if they do not add up to what is there.
    #[must_use]
    pub fn split<const N: usize>(&self) -> Option<(&'a [u8; N], Attrs<'a>)> {
        let (header, rest) = self.payload.split_first_chunk()?;
        let attrs = Attrs(rest);
        attrs.are_whole().then_some((header, attrs))
    }

    /// The address family, with which the headers of netfilter and of rtnetlink begin.
    #[must_use]
    pub fn family(&self) -> u8 {
        self.payload.first().copied().unwrap_or_default()
    }

    /// What an NLMSG_ERROR or NLMSG_DONE says of the request. One too short to hold a number
    /// is none of the kernel's making, and no acknowledgement either.
    ///
    /// # Errors
    /// That it was refused.
    pub fn verdict(&self) -> Result<(), Refusal> {
        let code = match u32_at(self.payload, 0).map(u32::cast_signed) {
            // An error; or, at the end of a dump, a length.
            Some(0) => return Ok(()),
            Some(1..) if self.kind == DONE => return Ok(()),
            Some(code) => code.checked_neg().unwrap_or(libc::EBADMSG),
            None if self.kind == DONE => return Ok(()),
            None => libc::EBADMSG,
        };
        let said = (self.kind == ERROR && self.flags & flag::ACK_TLVS != 0).then(|| self.said());
        Err(Refusal {
            errno: Errno::from_raw(code),
            text: said
                .and_then(|said| said.string(ATTR_MSG))
                .map(str::to_owned),
            offset: said
                .and_then(|said| said.host_u32(ATTR_OFFS))
                .map(|offset| offset as usize),
        })
    }

    /// The extended acknowledgement: it follows the refused request, or its header.
    fn said(&self) -> Attrs<'a> {
        let echoed = if self.flags & flag::CAPPED != 0 {
            HEADER
        } else {
            u32_at(self.payload, 4).map_or(HEADER, |len| (len as usize).next_multiple_of(4))
        };
        let rest = echoed.checked_add(4).and_then(|at| self.payload.get(at..));
        Attrs(rest.unwrap_or_default())
    }
}

/// The messages in what one receive call returned. Ends at the first that is cut short, which
/// is left then.
#[derive(Clone, Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = u32_at(self.0, 0)? as usize;
        let whole = self.0.get(..len).filter(|_| len >= HEADER)?;
        let message = Message {
            kind: u16_at(whole, 4)?,
            flags: u16_at(whole, FLAGS_AT)?,
            seq: u32_at(whole, SEQ_AT)?,
            port: u32_at(whole, 12)?,
            payload: &whole[HEADER..],
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::Writer;
    use proptest::prelude::*;

    /// An NLMSG_ERROR about a request of `echoed` bytes.
    fn error(flags: u16, code: i32, echoed: u32) -> Vec<u8> {
        let mut w = Writer::default();
        let open = w.message(ERROR, flags, 1, &code.to_ne_bytes());
        w.bytes.extend(echoed.to_ne_bytes());
        w.bytes.resize(w.bytes.len() + HEADER - 4, 0);
        if flags & flag::CAPPED == 0 {
            w.bytes.resize(w.bytes.len() + echoed as usize - HEADER, 0);
        }
        if flags & flag::ACK_TLVS != 0 {
            w.string(ATTR_MSG, "no such thing");
            w.attr(ATTR_OFFS, &20_u32.to_ne_bytes());
        }
        w.end_message(open);
        w.bytes
    }

    fn verdict(bytes: &[u8]) -> Result<(), Refusal> {
        Messages(bytes).next().unwrap().verdict()
    }

    #[test]
    fn a_refusal_is_read_whether_or_not_the_request_is_echoed() {
        assert_eq!(verdict(&error(flag::CAPPED, 0, 40)), Ok(()));
        for capped in [0, flag::CAPPED] {
            let refusal = verdict(&error(capped | flag::ACK_TLVS, -2, 40)).unwrap_err();
            assert_eq!(refusal.errno, Errno::ENOENT);
            assert_eq!(refusal.text.as_deref(), Some("no such thing"));
            assert_eq!(refusal.offset, Some(20));
            let refusal = verdict(&error(capped, -2, 40)).unwrap_err();
            assert_eq!((refusal.text, refusal.offset), (None, None));
        }
    }

    #[test]
    fn an_error_without_a_number_is_no_acknowledgement() {
        let mut w = Writer::default();
        let open = w.message(ERROR, 0, 1, &[]);
        w.end_message(open);
        assert!(verdict(&w.bytes).is_err());
    }

    #[test]
    fn the_end_of_a_dump_may_be_an_error_too() {
        let end = |payload: &[u8]| {
            let mut w = Writer::default();
            let open = w.message(DONE, 0, 1, payload);
            w.end_message(open);
            verdict(&w.bytes)
        };
        assert_eq!(end(&[]), Ok(()));
        assert_eq!(end(&7_i32.to_ne_bytes()), Ok(()));
        let refusal = end(&(-libc::EINTR).to_ne_bytes()).unwrap_err();
        assert_eq!(refusal.errno, Errno::EINTR);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_hang(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for message in Messages(&bytes) {
                let _ = message.verdict();
                let _ = message.split::<12>();
                for (kind, payload) in message.attrs() {
                    let _ = Attrs(payload).u32(kind);
                    let _ = Attrs(payload).string(kind);
                    let _ = Attrs(payload).addr(kind);
                }
            }
        }
    }
}
