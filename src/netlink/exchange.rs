//! Requests and their answers, over one socket.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::error::{ExchangeError, Refusal};
use super::message::{DONE, ERROR, Message, Messages, NOOP, OVERRUN, SEQ_AT, flag};
use super::socket::{Bus, Socket};

/// Receive buffer: dump pages are at most 32 KiB; errors are small.
const BUFFER: usize = 256 * 1024;
/// An answer that does not come within this never will: the kernel answers reads at once.
const ANSWER: TimeVal = TimeVal::new(60, 0);
/// How often a dump that the kernel marks as inconsistent is read.
const DUMP_ATTEMPTS: u32 = 5;
/// Requests sent in one datagram; their acknowledgements fit a receive queue of the default
/// size.
const PIPELINE: usize = 64;

/// The kernel's verdict on each request, in order, and whether no change interrupted a dump.
type Answer = (Vec<Result<(), Refusal>>, bool);

/// A socket to ask the kernel by.
pub struct Exchange {
    socket: Socket,
    buffer: Vec<u8>,
    seq: u32,
    /// Called for each part of an answer.
    progress: Option<Box<dyn FnMut()>>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange")
            .field("seq", &self.seq)
            .finish_non_exhaustive()
    }
}

impl Exchange {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// As [`Socket::open`].
    pub fn open(bus: Bus) -> Result<Self, ExchangeError> {
        let socket = Socket::open(bus)?;
        let _ = setsockopt(&socket, sockopt::ReceiveTimeout, &ANSWER);
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER],
            seq: 0,
            progress: None,
        })
    }

    /// The socket, which answers are read from here only.
    #[must_use]
    pub const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// `progress` is called for each part of an answer that arrives.
    pub fn on_progress(&mut self, progress: Box<dyn FnMut()>) {
        self.progress = Some(progress);
    }

    /// The number of the last message sent.
    pub(super) const fn seq(&self) -> u32 {
        self.seq
    }

    /// Counts messages that come with numbers of their own.
    pub(super) const fn count(&mut self, messages: u32) {
        self.seq = self.seq.wrapping_add(messages);
    }

    /// As [`Socket::receive`].
    pub(super) fn receive(&mut self, flags: MsgFlags) -> Result<&[u8], ExchangeError> {
        self.socket.receive(&mut self.buffer, flags)
    }

    /// Sends a request and hands every answering message to `each` until the kernel is done.
    /// True if a dump was not interrupted by a change.
    ///
    /// What `each` finds wrong does not end the reading: the kernel starts no other dump
    /// before one is read to its end.
    ///
    /// # Errors
    /// What `each` found first; else the kernel's refusal, or that it did not answer.
    pub fn request<E: From<ExchangeError>>(
        &mut self,
        request: &[u8],
        each: impl FnMut(&Message<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let (verdicts, whole) = self.ask(&[request], each)?;
        for verdict in verdicts {
            verdict.map_err(ExchangeError::Refused)?;
        }
        Ok(whole)
    }

    /// Sends a dump request and returns what `read` makes of the answering messages; begins
    /// again if something changed meanwhile.
    ///
    /// # Errors
    /// As [`Exchange::request`]; [`ExchangeError::Interrupted`] if it goes on changing.
    pub fn list<T>(
        &mut self,
        request: &[u8],
        read: impl Fn(&Message<'_>) -> Result<Option<T>, ExchangeError>,
    ) -> Result<Vec<T>, ExchangeError> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let result: Result<bool, ExchangeError> = self.request(request, |message| {
                found.extend(read(message)?);
                Ok(())
            });
            match result {
                Ok(true) => return Ok(found),
                Ok(false) => {}
                Err(error) if error.refused() == Some(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
        Err(ExchangeError::Interrupted(DUMP_ATTEMPTS))
    }

    /// Sends many requests, several to a datagram, and returns the kernel's verdict on each,
    /// in order.
    ///
    /// # Errors
    /// If it does not answer all of them.
    pub fn pipeline(
        &mut self,
        requests: &[Vec<u8>],
    ) -> Result<Vec<Result<(), Refusal>>, ExchangeError> {
        let mut verdicts = Vec::with_capacity(requests.len());
        for some in requests.chunks(PIPELINE) {
            verdicts.extend(self.ask(some, |_| Ok::<(), ExchangeError>(()))?.0);
        }
        Ok(verdicts)
    }

    /// Sends the requests in one datagram and reads until each of them has its verdict.
    fn ask<E: From<ExchangeError>>(
        &mut self,
        requests: &[impl AsRef<[u8]>],
        mut each: impl FnMut(&Message<'_>) -> Result<(), E>,
    ) -> Result<Answer, E> {
        let first = self.seq.wrapping_add(1);
        let datagram = self.number(requests);
        self.socket.send(&datagram).map_err(ExchangeError::Send)?;
        let port = self.socket.port();
        let mut verdicts: Vec<Option<Result<(), Refusal>>> = vec![None; requests.len()];
        let mut wrong: Result<(), E> = Ok(());
        let mut whole = true;
        let mut flags = MsgFlags::empty();
        while verdicts.iter().any(Option::is_none) {
            let bytes = match self.socket.receive(&mut self.buffer, flags) {
                Ok(bytes) => bytes,
                // All that will come is there: what is lost is lost.
                Err(ExchangeError::Receive(Errno::EAGAIN)) => {
                    return Err(wrong.err().unwrap_or(ExchangeError::NoAnswer.into()));
                }
                Err(error) => {
                    let lost_before = !flags.is_empty();
                    wrong = wrong.and(Err(error.into()));
                    if lost_before {
                        break;
                    }
                    flags = MsgFlags::MSG_DONTWAIT;
                    continue;
                }
            };
            if let Some(progress) = &mut self.progress {
                progress();
            }
            let mut messages = Messages(bytes);
            for message in messages.by_ref().filter(|message| message.port == port) {
                // Answers to an earlier request that was given up carry an older number.
                let index = message.seq.wrapping_sub(first) as usize;
                let Some(verdict) = verdicts.get_mut(index).filter(|v| v.is_none()) else {
                    continue;
                };
                whole &= message.flags & flag::DUMP_INTR == 0;
                match message.kind {
                    DONE | ERROR => *verdict = Some(message.verdict()),
                    NOOP | OVERRUN => {}
                    _ => wrong = wrong.and(each(&message)),
                }
            }
            if !messages.0.is_empty() {
                wrong = wrong.and(Err(ExchangeError::Garbled.into()));
            }
        }
        wrong?;
        Ok((verdicts.into_iter().flatten().collect(), whole))
    }

    /// The requests as one datagram, each with a number of its own.
    fn number(&mut self, requests: &[impl AsRef<[u8]>]) -> Vec<u8> {
        let mut datagram = Vec::new();
        for request in requests {
            self.count(1);
            let start = datagram.len() + SEQ_AT;
            datagram.extend_from_slice(request.as_ref());
            datagram[start..start + 4].copy_from_slice(&self.seq.to_ne_bytes());
        }
        datagram
    }
}
