//! The way back: what an installation changed, as it was before, kept for who wants it back.
//!
//! What is kept is the difference, not the state: a key of a map with the element it had and
//! the one it got, a chain with its instructions. It is put back as a difference too, in one
//! transaction, so that what did not change is not touched and established connections go on
//! (`docs/way-back.md`).

mod fingerprint;
mod flows;
mod folder;
mod put_back;
mod record;
pub mod sealed;
mod tables;
#[cfg(test)]
mod tests;

pub use fingerprint::Fingerprint;
pub use folder::{Folder, boot_id, network_namespace, process_start};
pub use put_back::{Care, PutBack, Refusal, put_back, summary};
pub use record::{Back, Record, RoutesBack, SettingBack, Waiting};
pub use tables::TablesBack;
