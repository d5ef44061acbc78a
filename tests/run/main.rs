//! `svcnat run`: follows files, keeps the last good state, repairs what others change.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod files;
mod harness;
mod kernel;
#[path = "../support/mod.rs"]
mod support;
mod telling;
