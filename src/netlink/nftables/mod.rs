//! nf_tables over netlink.
//!
//! Tables, chains and rules are written by libnftnl through the nftnl crate; sets and
//! elements, which come by the hundred thousand, by a safe writer of our own into the same
//! buffer. Everything is read back by a safe walker of our own, so writer and reader check
//! each other. `docs/decisions/0002-netlink-writer.md` says why.

mod batch;
mod constants;
pub mod decode;
pub mod encode;
mod error;
pub(super) mod expr;
mod kernel;
mod others;
mod set_types;
mod trace;
mod writers;

pub use batch::Batch;
pub use error::{NetlinkError, OperationRef, RefusedElement, Unfit};
pub use kernel::{Committed, Nfnetlink};
#[cfg(feature = "daemon")]
pub(crate) use trace::decision;
pub use trace::{Decision, Ends, Judge, MARKS, SEEN, TRACE_TABLE, Traced, Tracer, Verdict};
pub use writers::{Writer, Writers};
