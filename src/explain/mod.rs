//! A made-up packet by the names of its ends, and why it ends as it does, in Kubernetes' words.
//! `svcnat explain` prints it, [`crate::verify`] holds it against what was written down.

pub mod ends;
pub mod reasons;

pub use ends::{EndError, Ends, Names};
pub use reasons::{Nothing, Reasons, Remembered, Scene};
