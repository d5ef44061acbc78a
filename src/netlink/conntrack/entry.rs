//! All that is of interest of an entry, and what happens to entries as it happens.

use super::{
    CT_DELETE, CT_NEW, CTA_COUNTERS_BYTES, CTA_COUNTERS_ORIG, CTA_COUNTERS_PACKETS,
    CTA_COUNTERS_REPLY, CTA_PROTOINFO, CTA_PROTOINFO_SCTP, CTA_PROTOINFO_STATE, CTA_PROTOINFO_TCP,
    CTA_TIMEOUT, Flow, flow,
};
use crate::net::Protocol;
use crate::netlink::attr::Attrs;
use crate::netlink::error::ExchangeError;
use crate::netlink::message::{Message, flag};

/// IPS_SEEN_REPLY (linux/netfilter/nf_conntrack_common.h): packets went both ways.
const IPS_SEEN_REPLY: u32 = 1 << 1;

/// enum tcp_conntrack (linux/netfilter/nf_conntrack_tcp.h), from 0.
const TCP_STATES: [&str; 10] = [
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
];

/// enum sctp_conntrack (linux/netfilter/nf_conntrack_sctp.h), from 0.
const SCTP_STATES: [&str; 10] = [
    "NONE",
    "CLOSED",
    "COOKIE_WAIT",
    "COOKIE_ECHOED",
    "ESTABLISHED",
    "SHUTDOWN_SENT",
    "SHUTDOWN_RECD",
    "SHUTDOWN_ACK_SENT",
    "HEARTBEAT_SENT",
    "HEARTBEAT_ACKED",
];

/// How far a UDP flow is: it has no states of its own.
const REPLIED: &str = "replied";
const UNANSWERED: &str = "unanswered";

/// What a state may be called.
pub fn states() -> impl Iterator<Item = &'static str> {
    let known = [REPLIED, UNANSWERED];
    known.into_iter().chain(TCP_STATES).chain(SCTP_STATES)
}

/// Packets and bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sum {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP headers included.
    pub bytes: u64,
}

/// An entry with what is known besides its tuples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its tuples.
    pub flow: Flow,
    /// The kernel's name for the state of a TCP connection or an SCTP association; of UDP,
    /// whether anybody answered. `None` if an event does not tell.
    pub state: Option<&'static str>,
    /// What went from the client and what came back, if the kernel counts
    /// (net.netfilter.nf_conntrack_acct).
    pub counted: Option<[Sum; 2]>,
    /// Seconds until it is forgotten, unless a packet comes.
    pub timeout: Option<u32>,
}

/// What happened to an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It came.
    New,
    /// Its state changed.
    Update,
    /// It went.
    Gone,
}

/// Decodes an entry of a dump; `None` as of [`super::decode`].
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_entry(message: &Message<'_>) -> Result<Option<Entry>, ExchangeError> {
    Ok(decode_event(message)?
        .filter(|_| message.kind == CT_NEW)
        .map(|(_, entry)| entry))
}

/// Decodes what was said of an entry on a multicast group; `None` as of [`super::decode`].
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_event(message: &Message<'_>) -> Result<Option<(Change, Entry)>, ExchangeError> {
    let change = match message.kind {
        CT_NEW if message.flags & flag::CREATE != 0 => Change::New,
        CT_NEW => Change::Update,
        CT_DELETE => Change::Gone,
        _ => return Ok(None),
    };
    let (header, attrs) = message.split::<4>().ok_or(ExchangeError::Garbled)?;
    Ok(flow(header[0], attrs).map(|flow| (change, entry(flow, attrs))))
}

fn entry(flow: Flow, a: Attrs<'_>) -> Entry {
    let info = a.nested(CTA_PROTOINFO);
    let named = |kind, names: &[&'static str]| {
        let state = info.nested(kind).u8(CTA_PROTOINFO_STATE)?;
        names.get(usize::from(state)).copied()
    };
    let state = match flow.protocol {
        Protocol::Tcp => named(CTA_PROTOINFO_TCP, &TCP_STATES),
        Protocol::Sctp => named(CTA_PROTOINFO_SCTP, &SCTP_STATES),
        Protocol::Udp if flow.status & IPS_SEEN_REPLY != 0 => Some(REPLIED),
        Protocol::Udp => Some(UNANSWERED),
    };
    let sum = |kind| {
        let counters = a.nested(kind);
        Some(Sum {
            packets: counters.u64(CTA_COUNTERS_PACKETS)?,
            bytes: counters.u64(CTA_COUNTERS_BYTES)?,
        })
    };
    let counted = sum(CTA_COUNTERS_ORIG).zip(sum(CTA_COUNTERS_REPLY));
    Entry {
        state,
        counted: counted.map(|(there, back)| [there, back]),
        timeout: a.u32(CTA_TIMEOUT),
        flow,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Family;
    use crate::netlink::attr::request;
    use crate::netlink::conntrack::{CTA_STATUS, CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, Partial, header};
    use crate::netlink::message::Messages;

    /// As the kernel says it.
    fn said(kind: u16, flags: u16, protocol: Protocol, status: u32, state: Option<u8>) -> Entry {
        let partial = |src: &str, dst: &str| Partial {
            src: src.parse().ok(),
            dst: dst.parse().ok(),
            sport: Some(40_000),
            dport: Some(80),
        };
        let bytes = request(kind, flags, &header(Family::Ip), |w| {
            partial("10.0.0.1", "10.96.0.10").write(w, CTA_TUPLE_ORIG, protocol.number());
            partial("10.1.0.5", "10.0.0.1").write(w, CTA_TUPLE_REPLY, protocol.number());
            w.u32(CTA_STATUS, status);
            w.u32(CTA_TIMEOUT, 99);
            if let Some(state) = state {
                let info = w.nest(CTA_PROTOINFO);
                let tcp = w.nest(CTA_PROTOINFO_TCP);
                w.attr(CTA_PROTOINFO_STATE, &[state]);
                w.end_nest(tcp);
                w.end_nest(info);
            }
            for (kind, packets) in [(CTA_COUNTERS_ORIG, 3_u64), (CTA_COUNTERS_REPLY, 2)] {
                let counters = w.nest(kind);
                w.attr(CTA_COUNTERS_PACKETS, &packets.to_be_bytes());
                w.attr(CTA_COUNTERS_BYTES, &(100 * packets).to_be_bytes());
                w.end_nest(counters);
            }
        });
        let message = Messages(&bytes).next().unwrap();
        let (change, entry) = decode_event(&message).unwrap().unwrap();
        let expected = match (kind, flags) {
            (CT_DELETE, _) => Change::Gone,
            (_, 0) => Change::Update,
            _ => Change::New,
        };
        assert_eq!(change, expected);
        entry
    }

    #[test]
    fn states_and_counters_are_read() {
        let tcp = said(CT_NEW, flag::CREATE, Protocol::Tcp, 0, Some(3));
        assert_eq!(tcp.state, Some("ESTABLISHED"));
        assert_eq!(tcp.timeout, Some(99));
        let [there, back] = tcp.counted.unwrap();
        assert_eq!((there.packets, there.bytes), (3, 300));
        assert_eq!((back.packets, back.bytes), (2, 200));
        assert_eq!(said(CT_NEW, 0, Protocol::Tcp, 0, None).state, None);
        assert_eq!(said(CT_NEW, 0, Protocol::Tcp, 0, Some(200)).state, None);
        let udp = |status| said(CT_DELETE, 0, Protocol::Udp, status, None).state;
        assert_eq!(udp(0), Some("unanswered"));
        assert_eq!(udp(IPS_SEEN_REPLY), Some("replied"));
    }
}
