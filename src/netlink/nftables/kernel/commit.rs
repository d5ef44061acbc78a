//! Batches: sent as one datagram, and what the kernel says of them.

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;

use super::Nfnetlink;
use crate::netlink::error::ExchangeError;
use crate::netlink::message::Messages;
use crate::netlink::nftables::NetlinkError;
use crate::netlink::nftables::batch::{Answers, Batch};
use crate::netlink::nftables::encode::{Finish, batch};
use crate::transaction::Transaction;

/// What a commit took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Committed {
    /// Bytes sent.
    pub bytes: usize,
    /// Messages in the batch.
    pub messages: u32,
    /// Microseconds in the kernel: the batch runs inside the system call.
    pub micros: u64,
}

impl Nfnetlink {
    /// Sends `delta` as one transaction, bound to `generation` (0: to none). When this
    /// returns, all of it is in force or none.
    ///
    /// # Errors
    /// [`NetlinkError::Raced`] if another commit came first; otherwise what the kernel
    /// refused, and why.
    pub fn commit(
        &mut self,
        delta: &Transaction,
        generation: u32,
    ) -> Result<Committed, NetlinkError> {
        self.run(delta, generation, Finish::Commit)
    }

    /// Has the kernel check the very batch and throw it away.
    ///
    /// # Errors
    /// As [`Nfnetlink::commit`].
    pub fn validate(
        &mut self,
        delta: &Transaction,
        generation: u32,
    ) -> Result<Committed, NetlinkError> {
        self.run(delta, generation, Finish::Validate)
    }

    fn run(
        &mut self,
        delta: &Transaction,
        generation: u32,
        finish: Finish,
    ) -> Result<Committed, NetlinkError> {
        let batch = batch(delta, generation, finish, self.exchange.seq())?;
        self.exchange.count(batch.messages);
        self.submit(delta, batch, finish)
    }

    pub(super) fn submit(
        &mut self,
        delta: &Transaction,
        mut batch: Batch,
        finish: Finish,
    ) -> Result<Committed, NetlinkError> {
        if finish == Finish::Validate || !self.ends {
            batch.acknowledge_operation();
        }
        let start = std::time::Instant::now();
        let sent = self.exchange.socket().send(&batch.bytes);
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        match sent {
            // A datagram goes as a whole, and what is more is a mistake of ours.
            Ok(sent) if sent == batch.bytes.len() => {}
            Ok(_) => return Err(NetlinkError::Unconfirmed { lost: false }),
            Err(error) => return Err(self.unsent(error, &batch, delta)),
        }
        self.verdict(delta, &batch)?;
        Ok(Committed {
            bytes: batch.bytes.len(),
            messages: batch.messages,
            micros,
        })
    }

    fn unsent(&self, error: std::io::Error, batch: &Batch, delta: &Transaction) -> NetlinkError {
        let bytes = batch.bytes.len();
        match error.raw_os_error() {
            Some(libc::EMSGSIZE) if !self.forced => NetlinkError::QueueTooSmall(bytes),
            Some(raw @ (libc::EMSGSIZE | libc::ENOBUFS | libc::ENOMEM)) => {
                NetlinkError::too_large(bytes, Errno::from_raw(raw), delta)
            }
            _ => ExchangeError::Send(error).into(),
        }
    }

    /// The kernel has run the batch by the time `send` returns, and all it has to say is in
    /// the queue. What is left there from earlier requests is passed over.
    fn verdict(&mut self, delta: &Transaction, batch: &Batch) -> Result<(), NetlinkError> {
        let port = self.port();
        let mut answers = Answers::new(batch);
        while !answers.is_committed() {
            match self.exchange.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(bytes) => Messages(bytes)
                    .filter(|message| message.port == port)
                    .for_each(|message| answers.note(&message)),
                Err(ExchangeError::Receive(Errno::EAGAIN)) => break,
                Err(ExchangeError::Receive(Errno::ENOBUFS) | ExchangeError::Garbled) => {
                    answers.lost = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.ends |= answers.is_committed();
        answers.verdict(delta, self.ends)
    }
}
