//! What packet tests are made with: a small dual-stack cluster in network namespaces
//! ([`Lab`]), objects for it ([`Cluster`], [`Service`]), the svcnat binary run on its nodes,
//! and tables of packets with what must come of them ([`row`]).
//!
//! Only tests run `ip` and `nft`; the product never does.

mod addr;
mod agree;
mod client;
mod daemon;
mod expect;
mod generation;
mod lab;
mod manifest;
mod netns;
mod program;
mod stage;
mod stats;

pub use addr::*;
pub use agree::Opinion;
pub use client::*;
pub use daemon::*;
pub use expect::*;
pub use generation::generation;
pub use lab::*;
pub use manifest::*;
pub use netns::Netns;
pub use program::*;
pub use stage::*;
pub use stats::*;
