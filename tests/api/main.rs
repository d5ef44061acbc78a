//! `svcnat run` against an API server: real lists and watches, and everything that goes wrong.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod credentials;
mod failures;
mod following;
mod harness;
mod histories;
mod kills;
mod kinds;
mod limits;
mod misbehaviour;
mod others;
mod server;
mod strangers;
#[path = "../support/mod.rs"]
mod support;
mod traffic;
