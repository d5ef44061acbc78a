//! svcnat turns Kubernetes Services into an nftables ruleset and installs it over netlink.
//!
//! [`node`] is the way in: objects and settings go in, and a plan, a ruleset, what differs from
//! the kernel's, and an installation come out.
//!
//! ```
//! use svcnat::{config::Config, node::Node, print::text};
//!
//! let config = Config {
//!     cluster_cidrs: vec!["172.17.0.0/16".parse()?],
//!     service_cidrs: vec!["10.254.0.0/16".parse()?],
//!     ..Config::default()
//! };
//! let manifests = "{apiVersion: v1, kind: Service, metadata: {name: web}, \
//!                  spec: {clusterIP: 10.254.0.10, ports: [{port: 80}]}}";
//! let (node, problems) = Node::parse(manifests, config);
//! let mut out = Vec::new();
//! text::ruleset(&mut out, &node.ruleset())?;
//! assert!(problems.is_empty());
//! assert!(String::from_utf8(out)?.contains("10.254.0.10 . tcp . 80"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! `examples/` has this as a program, and one that installs into a network namespace.
//!
//! Data flows one way:
//!
//! ```text
//! manifests, Kubernetes API -> source -> cluster -> plan -> compile -> ruleset -> print | walk
//! kernel -> netlink::decode ------------------------------------------> ruleset -> diff -> netlink::encode -> apply
//! ```
//!
//! `docs/architecture.md` is the map with the invariants of each room.
//!
//! # What is stable
//!
//! Before 1.0 anything may change with a minor version. What is in this documentation ([`node`]
//! and the types that it takes and returns) changes for a reason, and the changelog says so.
//! Modules that are public and not listed here are for the program, its tests and benchmarks:
//! they change without a word.
//!
//! # Features
//!
//! All are on by default; without them there are no Kubernetes client, no HTTP and no agent.
//!
//! - `cli`: the program, but for `run`.
//! - `cluster`: objects from the Kubernetes API, `source::api`.
//! - `daemon`: the agent, `svcnat run`; needs both others.
//! - `lab`: a network of namespaces on one machine, `lab`; with `cli` the verb as well.

pub mod apply;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
pub mod cluster;
#[doc(hidden)]
pub mod compile;
pub mod config;
#[doc(hidden)]
pub mod counters;
pub mod diff;
#[doc(hidden)]
pub mod engine;
#[doc(hidden)]
pub mod explain;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod follow;
#[doc(hidden)]
pub mod foreign;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod fuzzing;
#[doc(hidden)]
pub mod host;
#[cfg(feature = "lab")]
pub mod lab;
pub mod net;
pub mod netlink;
pub mod node;
#[cfg(feature = "daemon")]
#[doc(hidden)]
pub mod observe;
#[doc(hidden)]
pub mod path;
pub mod plan;
pub mod print;
pub mod problem;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod progress;
#[doc(hidden)]
pub mod report;
pub mod ruleset;
pub mod source;
#[doc(hidden)]
pub mod syntax;
pub mod text;
pub mod transaction;
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod undo;
pub mod verify;
pub mod walk;
