//! svcnat turns Kubernetes Services into a constant nftables ruleset and installs it over
//! netlink.
//!
//! Data flows one way:
//!
//! ```text
//! manifests, Kubernetes API -> source -> cluster -> plan -> compile -> ruleset -> print | walk
//! kernel -> netlink::decode ------------------------------------------> ruleset -> diff -> netlink::encode -> apply
//! ```
//!
//! `docs/architecture.md` is the map with the invariants of each room.

pub mod apply;
#[cfg(feature = "cli")]
pub mod cli;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod counters;
pub mod diff;
pub mod engine;
#[cfg(feature = "daemon")]
pub mod follow;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod net;
pub mod netlink;
#[cfg(feature = "daemon")]
pub mod observe;
pub mod plan;
pub mod print;
pub mod problem;
#[cfg(feature = "cli")]
pub mod progress;
pub mod ruleset;
pub mod source;
pub mod syntax;
pub mod text;
pub mod walk;
