//! Whether the kernel holds exactly this, for rulesets too large to be read back whole.

use super::host::Host;
use crate::diff::resembles;
use crate::netlink::NetlinkError;
use crate::ruleset::{Family, Ruleset, Set, SetKind};

/// Whether the kernel holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Exactly this, at this generation.
    Whole(u32),
    /// Something else, or it cannot tell.
    Differs,
    /// Our tables changed while they were looked at.
    Disturbed,
}

/// Whether the kernel holds exactly `wanted`: as many elements as there should be, and each
/// that should be there; then there is no other. What others commit to their own tables
/// meanwhile does not matter. O(elements), where reading them back takes the square.
///
/// # Errors
/// If the kernel cannot be read.
pub fn holds(host: &mut impl Host, wanted: &Ruleset) -> Result<Verification, NetlinkError> {
    let outline = host.outline()?;
    if !resembles(wanted, &outline) {
        return Ok(Verification::Differs);
    }
    for (family, table) in &wanted.tables {
        let counts = outline.tables.get(family).map(|table| &table.counts);
        for set in table.sets.values() {
            let counted = counts.is_some_and(|counts| counts.contains_key(&set.name));
            if !same(host, *family, set, counted)? {
                return Ok(Verification::Differs);
            }
        }
    }
    let after = host.outline()?;
    Ok(if after.tables == outline.tables {
        Verification::Whole(after.generation)
    } else {
        Verification::Disturbed
    })
}

fn same(
    host: &mut impl Host,
    family: Family,
    set: &Set,
    counted: bool,
) -> Result<bool, NetlinkError> {
    match set.kind {
        // Packets fill it.
        SetKind::Dynamic { .. } => Ok(true),
        SetKind::Exact if counted => host.holds(family, set),
        SetKind::Exact => Ok(false),
        // Few, and kept by the kernel as bounds.
        SetKind::Interval => {
            let mut found = set.clone();
            found.elements.clear();
            Ok(host.elements(family, found)?.elements == set.elements)
        }
    }
}
