//! The host room against a real kernel: every test makes network namespaces of its own, so
//! these tests need root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and fail without.

// A test that cannot go on has failed.
#![allow(clippy::unwrap_used)]

mod conntrack;
mod findings;
mod interfaces;
mod netns;
mod others;
mod routes;
