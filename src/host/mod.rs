//! Everything this node's kernel is asked besides nftables: interfaces and addresses, routes
//! to other nodes' pods, connection tracking, sysctls, and the checks built on them.
//!
//! Nothing here runs another program, and what is said over netlink is written and read by
//! [`crate::netlink`]. Deciding (`routes::plan`, `conntrack_plan`, `check`) is pure and is kept
//! apart from asking and doing.

pub mod capacity;
pub mod check;
pub mod conntrack;
pub mod conntrack_plan;
mod error;
pub mod features;
pub mod hidden;
pub mod interfaces;
pub mod monitor;
pub mod netns;
pub mod others;
pub mod probe;
mod process;
mod route_plan;
pub mod routes;
pub mod settings;
pub mod surroundings;
pub mod sysctl;
pub mod writer;

pub use error::HostError;
#[cfg(any(feature = "daemon", all(feature = "cli", feature = "lab")))]
pub use process::raise_descriptor_limit;
