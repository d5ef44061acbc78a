//! Printers: the ruleset as nft text and as libnftables JSON. They translate, never decide.

pub mod json;
pub mod text;
