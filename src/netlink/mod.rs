//! The only room that knows attribute numbers and byte order: what is said to the kernel over
//! netlink, and what it says.
//!
//! Messages (`message`, `attr`), sockets (`socket`, `exchange`) and errors ([`ExchangeError`])
//! are the same for nf_tables (`nftables`), connection tracking (`conntrack`), routes (`route`),
//! neighbours (`neighbour`), interfaces (`link`) and ipsets (`ipset`), which know nothing of each
//! other. The legacy iptables (`legacy`) is asked by socket options; `others` is all that other
//! programs have of it.

pub(crate) mod attr;
pub(crate) mod conntrack;
mod error;
pub(crate) mod exchange;
mod ffi;
mod ipset;
mod legacy;
pub(crate) mod link;
pub(crate) mod message;
pub(crate) mod neighbour;
mod nftables;
mod others;
mod passing;
pub(crate) mod route;
pub(crate) mod socket;
#[cfg(feature = "lab")]
pub(crate) mod wiring;

#[cfg(feature = "cli")]
pub(crate) use ffi::namespace_cookie;
#[cfg(feature = "daemon")]
pub(crate) use nftables::decision;
pub(crate) use passing::let_packets_pass;

pub use error::{ExchangeError, Refusal};
pub use nftables::{
    Batch, Committed, Decision, Ends, Judge, MARKS, NetlinkError, Nfnetlink, OperationRef,
    RefusedElement, SEEN, TRACE_TABLE, Traced, Tracer, Unfit, Verdict, Writer, Writers, decode,
    encode,
};
pub use others::others;
