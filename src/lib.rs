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
pub mod cli;
pub mod cluster;
pub mod compile;
pub mod config;
pub mod counters;
pub mod diff;
pub mod engine;
pub mod follow;
#[doc(hidden)]
pub mod fuzzing;
pub mod host;
pub mod net;
pub mod netlink;
pub mod observe;
pub mod plan;
pub mod print;
pub mod problem;
pub mod progress;
pub mod ruleset;
pub mod source;
pub mod syntax;
pub mod text;
pub mod walk;
