//! The kernel's own tracing of one kind of packet: a small table that marks it, and what
//! nf_tables then says of it, rule by rule (`meta nftrace`, NFNLGRP_NFTRACE).

mod said;

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};

use super::NetlinkError;
use super::constants::{
    BATCH_BEGIN, BATCH_END, SUBSYS, chain, common, msg, rule, table as table_attr,
};
use super::encode::{dump_all, kind_of};
use super::kernel::Nfnetlink;
use super::others::TABLE_OWNER;
use super::set_types::comment;
use crate::net::{Family, Protocol};
use crate::netlink::attr::Writer;
use crate::netlink::error::ExchangeError;
use crate::netlink::exchange::Exchange;
use crate::netlink::message::{ERROR, Message, Messages, flag, nfgenmsg};
use crate::netlink::socket::{Bus, Socket};
pub use said::{Decision, Ends, Judge, Verdict, decision};

/// The name of the table, of the packet's family.
pub const TRACE_TABLE: &str = "svcnat-trace";
/// Its chains that mark the packet.
pub const MARKS: [&str; 2] = ["mark-prerouting", "mark-output"];
/// Its chains that see the packet once it is translated, before it goes out or is delivered.
pub const SEEN: [&str; 2] = ["seen-postrouting", "seen-input"];

/// NFNLGRP_NFTRACE (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 9;
/// NFTA_RULE_HANDLE.
const RULE_HANDLE: u16 = 3;
/// NF_INET_PRE_ROUTING, _LOCAL_IN, _LOCAL_OUT and _POST_ROUTING.
const PREROUTING: u32 = 0;
const INPUT: u32 = 1;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;
/// Before anything else of nf_tables: below `raw`, which is -300.
const FIRST: i32 = -350;
/// After translation of sources (`srcnat`, 100), so that the last addresses are seen.
const LAST: i32 = 250;
/// Bytes of what is said that may wait to be read.
const QUEUE: usize = 8 << 20;

/// The packets to be traced.
#[derive(Clone, Copy, Debug)]
pub struct Traced {
    /// Who sends.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Port it is sent to.
    pub port: u16,
    /// Of TCP and SCTP only packets that open a connection: others are translated without
    /// asking any rule.
    pub opening: bool,
}

/// An armed trace. The table is owned by a socket of this process: the kernel removes it with
/// the process, however that ends (Linux 5.12; on earlier kernels a table that a killed process
/// left behind is removed by the next trace and by `delete`).
pub struct Tracer {
    owner: Exchange,
    family: Family,
    listener: Socket,
}

impl Tracer {
    /// Marks these packets from now on.
    ///
    /// # Errors
    /// [`NetlinkError::Owned`] if another trace of the family is under way; else what the kernel
    /// refused.
    pub fn arm(traced: &Traced) -> Result<Self, NetlinkError> {
        let family = Family::of(&traced.destination);
        let listener = Socket::open(Bus::Netfilter)?;
        // A larger queue loses less; without the privilege for it, it is what it is.
        let _ = setsockopt(&listener, sockopt::RcvBufForce, &QUEUE);
        listener.listen(GROUP, true)?;
        Nfnetlink::open()?.remove_old_traces()?;
        let mut owner = Exchange::open(Bus::Netfilter)?;
        for flags in [table_attr::FLAG_OWNER, 0] {
            match commit(&mut owner, |all| table(all, traced, flags)) {
                Ok(()) => break,
                Err(error) => match error.refused() {
                    // A kernel that knows no owners.
                    Some(Errno::EOPNOTSUPP | Errno::EINVAL) if flags != 0 => {}
                    Some(Errno::EEXIST | Errno::EPERM) if is_there(family)? => {
                        let table = TRACE_TABLE.to_owned();
                        return Err(NetlinkError::Owned { family, table });
                    }
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(Self {
            owner,
            family,
            listener,
        })
    }

    /// What was decided since the last call, and whether that is all: false if more was said
    /// than the queue could hold.
    pub fn drain(&self) -> (Vec<Decision>, bool) {
        let mut found = Vec::new();
        let whole = self
            .listener
            .drain(|message| found.extend(decision(message)));
        (found, whole)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // If that fails, the end of the owning socket does it.
        let _ = commit(&mut self.owner, |all| remove(all, self.family));
    }
}

impl AsFd for Tracer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Nfnetlink {
    /// Removes the tables of traces that nobody owns: a killed process left them behind.
    /// Returns how many.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn remove_old_traces(&mut self) -> Result<usize, NetlinkError> {
        let mut left = Vec::new();
        self.exchange.request(&dump_all(msg::GETTABLE), |message| {
            if let Some((family, None)) = trace_table(message) {
                left.push(family);
            }
            Ok::<(), ExchangeError>(())
        })?;
        for family in &left {
            match commit(&mut self.exchange, |all| remove(all, *family)) {
                Err(error) if error.refused() != Some(Errno::ENOENT) => return Err(error.into()),
                _ => {}
            }
        }
        Ok(left.len())
    }

    /// The netlink port, mostly the process id, of who traces packets of this family.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn tracer(&mut self, family: Family) -> Result<Option<u32>, NetlinkError> {
        let mut found = None;
        self.exchange.request(&dump_all(msg::GETTABLE), |message| {
            if let Some((of, owner)) = trace_table(message)
                && of == family
            {
                found = owner;
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(found)
    }

    /// The handles of the rules of our table, by chain and in their order.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn rule_handles(&mut self, family: Family) -> Result<Vec<(String, u64)>, NetlinkError> {
        let mut found = Vec::new();
        self.exchange.request(&dump_all(msg::GETRULE), |message| {
            let a = message.attrs();
            if message.family() == family.number()
                && super::decode::is_of_our_table(message)
                && let (Some(chain), Some(handle)) = (a.string(rule::CHAIN), a.u64(RULE_HANDLE))
            {
                found.push((chain.to_owned(), handle));
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(found)
    }
}

fn is_there(family: Family) -> Result<bool, NetlinkError> {
    let mut kernel = Nfnetlink::open()?;
    let mut found = false;
    kernel
        .exchange
        .request(&dump_all(msg::GETTABLE), |message| {
            found |= trace_table(message).is_some_and(|(of, _)| of == family);
            Ok::<(), ExchangeError>(())
        })?;
    Ok(found)
}

/// The family of a trace's table, and its owner.
fn trace_table(message: &Message<'_>) -> Option<(Family, Option<u32>)> {
    let a = message.attrs();
    let family = Family::from_number(message.family())?;
    (a.string(table_attr::NAME) == Some(TRACE_TABLE)).then(|| (family, a.u32(TABLE_OWNER)))
}

/// Sends operations as one batch. The kernel runs it within the call that sends it, and has
/// queued what it has to say when that returns.
fn commit(
    exchange: &mut Exchange,
    operations: impl FnOnce(&mut Operations),
) -> Result<(), ExchangeError> {
    let mut all = Operations {
        w: Writer::default(),
        seq: exchange.seq(),
        first: exchange.seq(),
    };
    all.frame(BATCH_BEGIN);
    operations(&mut all);
    let last = all.seq;
    all.frame(BATCH_END);
    exchange.count(all.seq.wrapping_sub(all.first));
    let datagram = &all.w.bytes;
    (exchange.socket().send(datagram)).map_err(ExchangeError::Send)?;
    let mut done = false;
    let mut refused = None;
    loop {
        let bytes = match exchange.receive(MsgFlags::MSG_DONTWAIT) {
            Ok(bytes) => bytes,
            Err(ExchangeError::Receive(Errno::EAGAIN)) => break,
            Err(error) => return Err(error),
        };
        let about_it = |message: &Message<'_>| {
            let number = message.seq.wrapping_sub(all.first);
            message.kind == ERROR && number <= all.seq.wrapping_sub(all.first)
        };
        for message in Messages(bytes).filter(about_it) {
            match message.verdict() {
                Err(refusal) => refused = refused.or(Some(refusal)),
                Ok(()) => done |= message.seq == last,
            }
        }
    }
    match refused {
        Some(refusal) => Err(ExchangeError::Refused(refusal)),
        None if done => Ok(()),
        None => Err(ExchangeError::NoAnswer),
    }
}

/// The messages of a batch.
struct Operations {
    w: Writer,
    seq: u32,
    first: u32,
}

impl Operations {
    fn frame(&mut self, kind: u16) {
        self.seq = self.seq.wrapping_add(1);
        let header = nfgenmsg(0, 0, SUBSYS);
        let open = self.w.message(kind, flag::REQUEST, self.seq, &header);
        self.w.end_message(open);
    }

    fn add(&mut self, kind: u8, flags: u16, family: Family, body: impl FnOnce(&mut Writer)) {
        self.seq = self.seq.wrapping_add(1);
        let header = nfgenmsg(family.number(), 0, 0);
        let flags = flag::REQUEST | flag::ACK | flags;
        let open = self.w.message(kind_of(kind), flags, self.seq, &header);
        body(&mut self.w);
        self.w.end_message(open);
    }
}

fn remove(all: &mut Operations, family: Family) {
    all.add(msg::DELTABLE, 0, family, |w| {
        w.string(table_attr::NAME, TRACE_TABLE);
    });
}

/// The whole table.
fn table(all: &mut Operations, traced: &Traced, flags: u32) {
    const NEWCHAIN: u8 = 3;
    const NEWRULE: u8 = 6;
    let family = Family::of(&traced.destination);
    all.add(msg::NEWTABLE, flag::CREATE | flag::EXCL, family, |w| {
        w.string(table_attr::NAME, TRACE_TABLE);
        w.u32(table_attr::FLAGS, flags);
        let what = comment("a trace of svcnat, gone when that ends");
        w.attr(table_attr::USERDATA, &what);
    });
    let chains = [
        (MARKS[0], PREROUTING, FIRST),
        (MARKS[1], OUTPUT, FIRST),
        (SEEN[0], POSTROUTING, LAST),
        (SEEN[1], INPUT, LAST),
    ];
    for (name, hook, priority) in chains {
        all.add(NEWCHAIN, flag::CREATE, family, |w| {
            w.string(chain::TABLE, TRACE_TABLE);
            w.string(chain::NAME, name);
            let nest = w.nest(chain::HOOK);
            w.u32(chain::HOOK_NUM, hook);
            w.u32(chain::HOOK_PRIORITY, priority.cast_unsigned());
            w.end_nest(nest);
            w.string(chain::TYPE, "filter");
        });
    }
    for (name, ..) in &chains[..2] {
        // NLM_F_APPEND is not needed: there is no other rule.
        all.add(NEWRULE, flag::CREATE, family, |w| {
            w.string(rule::TABLE, TRACE_TABLE);
            w.string(rule::CHAIN, name);
            let list = w.nest(rule::EXPRESSIONS);
            mark(w, traced);
            w.end_nest(list);
        });
    }
}

/// `ip saddr S ip daddr D meta l4proto P th dport N meta nftrace set 1`.
fn mark(w: &mut Writer, traced: &Traced) {
    const NETWORK: u32 = 1;
    const TRANSPORT: u32 = 2;
    const META_NFTRACE: u32 = 12;
    const META_L4PROTO: u32 = 16;
    const META_SREG: u16 = 3;
    let (source, destination) = match traced.destination {
        IpAddr::V4(_) => (12, 16),
        IpAddr::V6(_) => (8, 24),
    };
    let octets = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let mut field = |base, offset, value: &[u8]| {
        load(w, base, offset, value.len());
        compare(w, value);
    };
    field(NETWORK, source, &octets(traced.source));
    field(NETWORK, destination, &octets(traced.destination));
    expression(w, "meta", |w| {
        w.u32(1, 1);
        w.u32(2, META_L4PROTO);
    });
    compare(w, &[traced.protocol.number()]);
    let mut field = |offset, value: &[u8]| {
        load(w, TRANSPORT, offset, value.len());
        compare(w, value);
    };
    field(2, &traced.port.to_be_bytes());
    match traced.protocol {
        Protocol::Tcp if traced.opening => {
            // Of FIN, SYN, RST and ACK only SYN.
            load(w, TRANSPORT, 13, 1);
            expression(w, "bitwise", |w| {
                w.u32(1, 1);
                w.u32(2, 1);
                w.u32(3, 1);
                value(w, 4, &[0x17]);
                value(w, 5, &[0]);
            });
            compare(w, &[0x02]);
        }
        // The first chunk is INIT.
        Protocol::Sctp if traced.opening => field(12, &[1]),
        _ => {}
    }
    expression(w, "immediate", |w| {
        w.u32(1, 1);
        value(w, 2, &[1]);
    });
    expression(w, "meta", |w| {
        w.u32(2, META_NFTRACE);
        w.u32(META_SREG, 1);
    });
}

fn expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    let item = w.nest(common::LIST_ELEM);
    w.string(common::EXPR_NAME, name);
    let data = w.nest(common::EXPR_DATA);
    body(w);
    w.end_nest(data);
    w.end_nest(item);
}

fn value(w: &mut Writer, kind: u16, bytes: &[u8]) {
    let nest = w.nest(kind);
    w.attr(common::DATA_VALUE, bytes);
    w.end_nest(nest);
}

/// Bytes of the packet into register 1.
fn load(w: &mut Writer, base: u32, offset: u32, len: usize) {
    expression(w, "payload", |w| {
        w.u32(1, 1);
        w.u32(2, base);
        w.u32(3, offset);
        w.u32(4, u32::try_from(len).unwrap_or(u32::MAX));
    });
}

/// Register 1 with bytes.
fn compare(w: &mut Writer, bytes: &[u8]) {
    expression(w, "cmp", |w| {
        w.u32(1, 1);
        w.u32(2, 0);
        value(w, 3, bytes);
    });
}
