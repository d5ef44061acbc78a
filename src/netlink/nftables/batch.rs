//! A batch and what the kernel says of it.
//!
//! Success is the kernel's word. It processes a batch within the system call that sends it,
//! and queues what it has to say: errors, and the acknowledgements that were asked for. One
//! that it cannot take apart it throws away without a word (`nfnetlink_rcv_batch` in
//! net/netfilter/nfnetlink.c), so silence is no success. The end of the batch asks for an
//! acknowledgement, which Linux gives since 6.10, after the commit. Earlier kernels only
//! acknowledge operations, after the commit too, and also if no end followed; that one
//! follows is for us to know: nothing is sent whose lengths do not add up.

use nix::errno::Errno;

use super::constants::{elem, msg};
use super::encode::kind_of;
use super::{NetlinkError, decode};
use crate::netlink::attr::{Attrs, u16_at, u32_at};
use crate::netlink::error::Refusal;
use crate::netlink::message::{ERROR, FLAGS_AT, HEADER, Message, Messages, SEQ_AT, flag};
use crate::ruleset::{Element, Value};
use crate::transaction::Transaction;

/// The generation the batch was bound to is over.
const OUTDATED: Errno = Errno::ERESTART;

/// A batch and what each of its messages is about.
#[derive(Debug, Default)]
pub struct Batch {
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// Messages in the batch, frame included.
    pub messages: u32,
    /// Sequence number of the first message.
    pub(super) first: u32,
    /// First message of each operation, counted from the first of all:
    /// `(message, table, operation)`, ascending.
    pub(super) starts: Vec<(u32, usize, usize)>,
    /// Where the last message of an operation begins; `None` if there is no operation.
    pub(super) last: Option<usize>,
    /// Where the end of the batch begins; `None` if it has none.
    pub(super) finish: Option<usize>,
}

impl Batch {
    /// Table and operation that a sequence number belongs to. O(log operations).
    #[must_use]
    pub fn operation_of(&self, seq: u32) -> Option<(usize, usize)> {
        let number = seq.wrapping_sub(self.first);
        let after = self.starts.partition_point(|(start, ..)| *start <= number);
        let (_, table, operation) = self.starts.get(after.checked_sub(1)?)?;
        Some((*table, *operation))
    }

    /// The element of the message with this sequence number that the kernel points at:
    /// `offset` bytes into the message, or the only one. O(messages).
    #[must_use]
    pub fn element_of(&self, seq: u32, offset: Option<usize>) -> Option<(Value, Element)> {
        let kinds = [msg::NEWSETELEM, msg::DELSETELEM].map(kind_of);
        let message = Messages(&self.bytes).find(|message| message.seq == seq)?;
        if !kinds.contains(&message.kind) {
            return None;
        }
        let list = message.attrs().get(elem::LIST_ELEMENTS)?;
        // The message begins a header before its payload; the list lies in the same bytes.
        let before = (list.as_ptr() as usize).checked_sub(message.payload.as_ptr() as usize)?;
        let start = HEADER + before;
        let mut found = None;
        let mut at = start;
        for (_, item) in Attrs(list) {
            let end = at + (4 + item.len()).next_multiple_of(4);
            match offset {
                Some(offset) if (at..end).contains(&offset) => {
                    return decode::element(Attrs(item));
                }
                None if found.is_some() => return None,
                _ => found = Some(item),
            }
            at = end;
        }
        let only = found.filter(|_| offset.is_none())?;
        decode::element(Attrs(only))
    }

    fn seq_at(&self, at: Option<usize>) -> Option<u32> {
        u32_at(&self.bytes, at? + SEQ_AT)
    }

    /// Has the kernel acknowledge the last operation, where it acknowledges no end.
    pub(super) fn acknowledge_operation(&mut self) {
        let Some(at) = self.last else { return };
        let at = at + FLAGS_AT;
        if let Some(flags) = u16_at(&self.bytes, at) {
            let with = (flags | flag::ACK).to_ne_bytes();
            self.bytes[at..at + 2].copy_from_slice(&with);
        }
    }
}

/// What the kernel has said of a batch so far.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    batch: &'a Batch,
    refusal: Option<(u32, Refusal)>,
    operation_done: bool,
    batch_done: bool,
    /// Some answers did not fit the queue.
    pub(super) lost: bool,
}

impl<'a> Answers<'a> {
    pub(super) const fn new(batch: &'a Batch) -> Self {
        Self {
            batch,
            refusal: None,
            operation_done: false,
            batch_done: false,
            lost: false,
        }
    }

    /// Takes in a message. What is about another request is passed over.
    pub(super) fn note(&mut self, message: &Message<'_>) {
        let number = message.seq.wrapping_sub(self.batch.first);
        if message.kind != ERROR || number >= self.batch.messages {
            return;
        }
        match message.verdict() {
            Err(refusal) => {
                self.refusal.get_or_insert((message.seq, refusal));
            }
            Ok(()) if Some(message.seq) == self.batch.seq_at(self.batch.finish) => {
                self.batch_done = true;
            }
            Ok(()) => {
                self.operation_done |= Some(message.seq) == self.batch.seq_at(self.batch.last);
            }
        }
    }

    /// True if the end of the batch is acknowledged: nothing comes after that.
    pub(super) const fn is_committed(&self) -> bool {
        self.batch_done && self.refusal.is_none()
    }

    /// What came of the batch, now that all is said. `ends` tells whether this kernel is
    /// known to acknowledge the end of a batch.
    ///
    /// # Errors
    /// [`NetlinkError::Unconfirmed`] if it did not say that it took it; otherwise why not.
    pub(super) fn verdict(self, delta: &Transaction, ends: bool) -> Result<(), NetlinkError> {
        let committing = self.batch.finish.is_some();
        let nothing_asked = self.batch.last.is_none() && !(committing && ends);
        match self.refusal {
            Some((_, refusal)) if refusal.errno == OUTDATED => Err(NetlinkError::Raced),
            Some((seq, refusal)) => {
                let element = self.batch.element_of(seq, refusal.offset);
                let at = self.batch.operation_of(seq);
                Err(NetlinkError::refused(refusal, delta, at, element))
            }
            None if self.batch_done => Ok(()),
            // An end that nobody acknowledged where others were is none that was committed.
            None if self.operation_done && !(committing && ends) => Ok(()),
            None if nothing_asked && !self.lost => Ok(()),
            None => Err(NetlinkError::Unconfirmed { lost: self.lost }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::encode::{Finish, batch};
    use super::*;
    use crate::netlink::attr::Writer;
    use crate::ruleset::{DataType, ElementData, Family, Set};
    use crate::transaction::{Operation, TableChange};

    fn addresses(n: u16) -> Transaction {
        let set = Set::exact("s", &[DataType::Ipv6Addr]);
        let element = |i: u16| {
            let addr = [0xfd00, 0, 0, 0, 0, 0, 0, i].into();
            let element = Element::new(ElementData::None);
            let comment = format!("default/s{i}").into();
            (
                Value::new().addr(std::net::IpAddr::V6(addr)),
                element.with_comment(comment),
            )
        };
        let elements = (0..n).map(element).collect();
        Transaction {
            tables: vec![TableChange {
                sets: [("s".to_owned(), set)].into(),
                operations: vec![Operation::AddElements("s".to_owned(), elements)],
                ..TableChange::empty(Family::Ip6)
            }],
        }
    }

    /// An NLMSG_ERROR about the message with this number, counted from the first.
    fn answer(batch: &Batch, number: u32, code: i32) -> Vec<u8> {
        let mut w = Writer::default();
        let seq = batch.first.wrapping_add(number);
        let open = w.message(ERROR, 0, seq, &code.to_ne_bytes());
        w.bytes.extend_from_slice(&[0; HEADER]);
        w.end_message(open);
        w.bytes
    }

    fn verdict(finish: Finish, ends: bool, said: &[(u32, i32)]) -> Result<(), NetlinkError> {
        // Begin, one list, end.
        let delta = addresses(1);
        let batch = batch(&delta, 0, finish, 40).unwrap();
        let mut answers = Answers::new(&batch);
        for (number, code) in said {
            let bytes = answer(&batch, *number, *code);
            Messages(&bytes).for_each(|message| answers.note(&message));
        }
        answers.verdict(&delta, ends)
    }

    #[test]
    fn silence_is_no_success() {
        for finish in [Finish::Commit, Finish::Validate] {
            for ends in [true, false] {
                let said = verdict(finish, ends, &[]);
                assert!(matches!(said, Err(NetlinkError::Unconfirmed { .. })));
            }
        }
    }

    #[test]
    fn an_acknowledged_end_is_success_unless_there_is_an_error_beside_it() {
        assert!(verdict(Finish::Commit, true, &[(2, 0)]).is_ok());
        assert!(verdict(Finish::Commit, false, &[(1, 0), (2, 0)]).is_ok());
        for errors in [[(0, -12), (2, 0)], [(2, 0), (1, -17)]] {
            let said = verdict(Finish::Commit, true, &errors);
            assert!(
                matches!(said, Err(NetlinkError::Refused { .. })),
                "{said:?}"
            );
        }
        let said = verdict(Finish::Commit, true, &[(0, -libc::ERESTART)]);
        assert!(matches!(said, Err(NetlinkError::Raced)));
    }

    #[test]
    fn an_acknowledged_operation_is_success_only_where_ends_are_not_acknowledged() {
        let said = [(1, 0)];
        assert!(verdict(Finish::Commit, false, &said).is_ok());
        assert!(verdict(Finish::Commit, true, &said).is_err());
        assert!(verdict(Finish::Validate, true, &said).is_ok());
    }

    #[test]
    fn answers_about_other_requests_do_not_count() {
        assert!(verdict(Finish::Commit, true, &[(3, 0), (u32::MAX, 0)]).is_err());
        assert!(verdict(Finish::Commit, true, &[(3, -1), (2, 0)]).is_ok());
    }

    #[test]
    fn the_refused_element_is_found_where_the_kernel_points() {
        // Two messages of elements.
        let delta = addresses(1500);
        let batch = batch(&delta, 0, Finish::Commit, 7).unwrap();
        assert!(batch.messages > 3, "{}", batch.messages);
        let mut found = Vec::new();
        for message in Messages(&batch.bytes) {
            let size = HEADER + message.payload.len();
            let mut last = None;
            for offset in (0..size).step_by(20) {
                let element = batch.element_of(message.seq, Some(offset));
                if element != last {
                    found.extend(element.clone());
                    last = element;
                }
            }
            assert_eq!(batch.element_of(message.seq, Some(size)), None);
            assert_eq!(batch.element_of(message.seq, None), None, "more than one");
        }
        let Operation::AddElements(_, wanted) = &delta.tables[0].operations[0] else {
            unreachable!()
        };
        assert_eq!(found, *wanted);
        let delta = addresses(1);
        let batch = super::super::encode::batch(&delta, 0, Finish::Commit, 7).unwrap();
        assert!(batch.element_of(batch.first + 1, None).is_some());
    }

    #[test]
    fn a_sequence_number_that_wraps_still_finds_its_operation() {
        let delta = addresses(1);
        let batch = batch(&delta, 0, Finish::Commit, u32::MAX - 1).unwrap();
        assert_eq!(batch.operation_of(0), Some((0, 0)));
        assert_eq!(batch.operation_of(u32::MAX), None);
        let mut answers = Answers::new(&batch);
        let end = answer(
            &Batch {
                first: 0,
                ..Batch::default()
            },
            1,
            0,
        );
        Messages(&end).for_each(|message| answers.note(&message));
        assert!(answers.verdict(&delta, true).is_ok());
    }
}
