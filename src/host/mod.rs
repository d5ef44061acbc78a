//! Everything this node's kernel is asked besides nftables: interfaces and addresses, routes
//! to other nodes' pods, connection tracking, sysctls, and the checks built on them.
//!
//! Nothing here runs another program. Routes and interfaces go over rtnetlink with the
//! message types of `netlink-packet-route`; connection tracking over nfnetlink with the few
//! attributes it needs. Deciding (`routes::plan`, `conntrack_plan`, `check`) is pure and is
//! kept apart from asking and doing.

pub mod check;
pub mod conntrack;
pub mod conntrack_plan;
mod ct_attributes;
mod error;
pub mod hidden;
pub mod interfaces;
pub mod monitor;
pub mod netns;
pub mod others;
mod process;
mod route_messages;
mod route_plan;
pub mod routes;
pub mod settings;
mod socket;
pub mod sysctl;
pub mod writer;

pub use error::{HostError, Refusal};
