//! nf_tables over netlink: the only room that knows attribute numbers and byte order.
//!
//! Tables, chains and rules are written by libnftnl through the nftnl crate; sets and
//! elements, which come by the hundred thousand, by a safe writer of our own into the same
//! buffer. Everything is read back by a safe walker of our own, so writer and reader check
//! each other. `docs/decisions/0002-netlink-writer.md` says why.

pub mod attr;
mod batch;
mod constants;
pub mod decode;
pub mod encode;
mod error;
mod expr;
mod ffi;
mod foreign;
mod others;
mod set_types;
mod socket;
mod writers;

pub use batch::Batch;
#[cfg(test)]
pub(crate) use error::Refusal;
pub use error::{NetlinkError, RefusedElement, Unfit};
pub use foreign::{End, ForeignBase, ForeignChain, ForeignHook, ForeignRule};
pub use socket::{Committed, Nfnetlink};
pub use writers::{Writer, Writers};

/// Whether an answer says that a request was refused.
#[must_use]
pub fn is_refusal(message: &attr::Message<'_>) -> bool {
    error::Refusal::of(message).is_some()
}
