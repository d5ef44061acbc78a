//! A synchronous netlink socket: requests out, answers in, refusals with the kernel's reason.
//!
//! A socket stays bound to the network namespace it was opened in.

use netlink_packet_core::{
    DecodeError, Emitable, ErrorBuffer, NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, NLMSG_OVERRUN, NetlinkBuffer,
    NetlinkHeader, NlasIterator, parse_i32, parse_string,
};

use super::error::{HostError, Refusal};

/// Room for one datagram: the kernel fills dump replies up to 32 KiB.
const RECEIVE_BYTES: usize = 64 * 1024;

/// How often a dump that the kernel marks as inconsistent is read again.
const DUMP_ATTEMPTS: u32 = 5;

/// Requests sent in one datagram; their ACKs fit the default receive buffer.
const PIPELINE: usize = 64;

/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// Offset of the extended-ACK attributes in a capped error message: errno and the header of
/// the refused request.
const ACK_ATTRIBUTES: usize = 4 + HEADER_BYTES;

/// NLMSGERR_ATTR_MSG (linux/netlink.h): the explanation, as text.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// One message of an answer: its type and what follows the header.
pub(super) struct Answer {
    pub message_type: u16,
    pub payload: Vec<u8>,
}

/// What a request is, without header.
pub(super) struct Request {
    pub message_type: u16,
    /// Flags besides NLM_F_REQUEST and NLM_F_ACK.
    pub flags: u16,
    pub payload: Vec<u8>,
}

impl Request {
    pub(super) fn new(message_type: u16, flags: u16, message: &impl Emitable) -> Self {
        let mut payload = vec![0; message.buffer_len()];
        message.emit(&mut payload);
        Self {
            message_type,
            flags,
            payload,
        }
    }
}

/// The state of a request whose answer is being read.
enum Progress {
    Pending,
    Finished(Result<(), Refusal>),
}

pub(super) struct Socket {
    socket: netlink_sys::Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens a socket of a netlink `protocol` in this thread's network namespace.
    pub(super) fn open(protocol: isize) -> Result<Self, HostError> {
        let failed = |source| HostError::Socket {
            what: "open a netlink socket",
            source,
        };
        let mut socket = netlink_sys::Socket::new(protocol).map_err(failed)?;
        socket.bind_auto().map_err(failed)?;
        socket.set_ext_ack(true).map_err(failed)?;
        socket.set_cap_ack(true).map_err(failed)?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BYTES),
        })
    }

    /// Lets the kernel filter dumps by what the request's header says
    /// (NETLINK_GET_STRICT_CHK, Linux 4.20).
    pub(super) fn filter_dumps(&self) -> Result<(), HostError> {
        self.socket
            .set_netlink_get_strict_chk(true)
            .map_err(|source| HostError::Socket {
                what: "let the kernel filter dumps",
                source,
            })
    }

    /// Sends a request and returns the messages of its answer.
    pub(super) fn request(
        &mut self,
        what: &'static str,
        request: &Request,
    ) -> Result<Vec<Answer>, HostError> {
        let sequence = self.send(what, std::slice::from_ref(request))?;
        let mut answers = Vec::new();
        let mut interrupted = false;
        self.receive(what, sequence, 1, &mut interrupted, |answer| {
            answers.push(answer);
        })?
        .into_iter()
        .collect::<Result<(), Refusal>>()
        .map_err(|source| HostError::Refused { what, source })?;
        Ok(answers)
    }

    /// Sends a dump request and hands each message of the answer to `each`, which adds what
    /// it is about to a list; begins again when the table changed meanwhile.
    pub(super) fn dump<T>(
        &mut self,
        what: &'static str,
        request: &Request,
        mut each: impl FnMut(&mut Vec<T>, &Answer) -> Result<(), DecodeError>,
    ) -> Result<Vec<T>, HostError> {
        let request = Request {
            message_type: request.message_type,
            flags: request.flags | NLM_F_DUMP,
            payload: request.payload.clone(),
        };
        for _ in 0..DUMP_ATTEMPTS {
            let sequence = self.send(what, std::slice::from_ref(&request))?;
            let mut found = Vec::new();
            let mut interrupted = false;
            let mut decoded = Ok(());
            let results = self.receive(what, sequence, 1, &mut interrupted, |answer| {
                if decoded.is_ok() {
                    decoded = each(&mut found, &answer);
                }
            })?;
            for result in results {
                match result {
                    Ok(()) => {}
                    Err(refusal) if refusal.errno == libc::EINTR => interrupted = true,
                    Err(source) => return Err(HostError::Refused { what, source }),
                }
            }
            if !interrupted {
                decoded.map_err(|source| HostError::Decode { what, source })?;
                return Ok(found);
            }
        }
        Err(HostError::Interrupted {
            what,
            attempts: DUMP_ATTEMPTS,
        })
    }

    /// Sends many requests, several to a datagram, and returns the kernel's verdict on each,
    /// in order.
    pub(super) fn pipeline(
        &mut self,
        what: &'static str,
        requests: &[Request],
    ) -> Result<Vec<Result<(), Refusal>>, HostError> {
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(PIPELINE) {
            let sequence = self.send(what, chunk)?;
            let mut interrupted = false;
            results.extend(self.receive(what, sequence, chunk.len(), &mut interrupted, |_| {})?);
        }
        Ok(results)
    }

    /// Sends the requests in one datagram; returns the sequence number of the first.
    fn send(&mut self, what: &'static str, requests: &[Request]) -> Result<u32, HostError> {
        let first = self.sequence.wrapping_add(1);
        let mut datagram = Vec::new();
        for request in requests {
            self.sequence = self.sequence.wrapping_add(1);
            let length = HEADER_BYTES + request.payload.len();
            let mut header = NetlinkHeader::default();
            header.length = u32::try_from(length).unwrap_or(u32::MAX);
            header.message_type = request.message_type;
            header.flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
            header.sequence_number = self.sequence;
            let start = datagram.len();
            datagram.resize(start + HEADER_BYTES, 0);
            header.emit(&mut datagram[start..]);
            datagram.extend_from_slice(&request.payload);
            datagram.resize((start + length).next_multiple_of(4), 0);
        }
        self.socket
            .send_to(&datagram, &netlink_sys::SocketAddr::new(0, 0), 0)
            .map_err(|source| HostError::Socket { what, source })?;
        Ok(first)
    }

    /// Reads until each of `count` requests, numbered from `first`, is finished.
    fn receive(
        &mut self,
        what: &'static str,
        first: u32,
        count: usize,
        interrupted: &mut bool,
        mut each: impl FnMut(Answer),
    ) -> Result<Vec<Result<(), Refusal>>, HostError> {
        let mut results: Vec<Option<Result<(), Refusal>>> = vec![None; count];
        let mut open = count;
        while open > 0 {
            self.receive_datagram(what)?;
            let mut rest = self.buffer.as_slice();
            while !rest.is_empty() {
                let message = NetlinkBuffer::new_checked(rest)
                    .map_err(|source| HostError::Decode { what, source })?;
                let length = (message.length() as usize).next_multiple_of(4);
                // Answers to an earlier request that was given up carry an older number.
                let index = message.sequence_number().wrapping_sub(first) as usize;
                if let Some(slot) = results.get_mut(index) {
                    *interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                    match progress(&message, &mut each)
                        .map_err(|source| HostError::Decode { what, source })?
                    {
                        Progress::Pending => {}
                        Progress::Finished(result) => {
                            open -= usize::from(slot.is_none());
                            *slot = Some(result);
                        }
                    }
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Reads one datagram into the buffer.
    fn receive_datagram(&mut self, what: &'static str) -> Result<(), HostError> {
        self.buffer.clear();
        let length = loop {
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(HostError::Socket { what, source }),
                Ok(length) => break length,
            }
        };
        if length > self.buffer.len() {
            let source = DecodeError::from(format!(
                "datagram of {length} bytes, expected at most {RECEIVE_BYTES}"
            ));
            return Err(HostError::Decode { what, source });
        }
        Ok(())
    }
}

/// Takes one message: data goes to `each`, an end is reported.
fn progress(
    message: &NetlinkBuffer<&[u8]>,
    each: &mut impl FnMut(Answer),
) -> Result<Progress, DecodeError> {
    match message.message_type() {
        NLMSG_DONE => {
            // Holds the errno of a dump that failed midway, negative; else 0 or the length.
            let code = message.payload().get(..4).map_or(Ok(0), parse_i32)?;
            Ok(Progress::Finished(verdict(code, None)))
        }
        NLMSG_ERROR => {
            let error = ErrorBuffer::new_checked(message.payload())?;
            let code = error.code().map_or(0, std::num::NonZeroI32::get);
            let explanation = (message.flags() & NLM_F_ACK_TLVS != 0)
                .then(|| explanation(message.payload()))
                .flatten();
            Ok(Progress::Finished(verdict(code, explanation)))
        }
        NLMSG_NOOP | NLMSG_OVERRUN => Ok(Progress::Pending),
        message_type => {
            each(Answer {
                message_type,
                payload: message.payload().to_vec(),
            });
            Ok(Progress::Pending)
        }
    }
}

fn verdict(code: i32, explanation: Option<String>) -> Result<(), Refusal> {
    if code >= 0 {
        return Ok(());
    }
    Err(Refusal {
        errno: code.saturating_neg(),
        explanation,
    })
}

/// The kernel's text in an error message with attributes.
fn explanation(payload: &[u8]) -> Option<String> {
    NlasIterator::new(payload.get(ACK_ATTRIBUTES..)?)
        .flatten()
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|attribute| parse_string(attribute.value()).ok())
}
