//! Whether the kernel holds exactly this, for rulesets too large to be read back whole.

use crate::diff::resembles;
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::ruleset::{Family, Ruleset, Set, SetKind};

/// The generation at which the kernel held exactly `wanted`; `None` if it does not, cannot
/// tell, or does not hold still. As many elements as there should be, and each that should
/// be there: then there is no other. O(elements), where reading them back takes the square.
///
/// # Errors
/// If the kernel cannot be read.
pub fn holds(kernel: &mut Nfnetlink, wanted: &Ruleset) -> Result<Option<u32>, NetlinkError> {
    let outline = kernel.outline()?;
    if !resembles(wanted, &outline) {
        return Ok(None);
    }
    for (family, table) in &wanted.tables {
        let counts = outline.tables.get(family).map(|table| &table.counts);
        for set in table.sets.values() {
            let counted = counts.is_some_and(|counts| counts.contains_key(&set.name));
            if !same(kernel, *family, set, counted)? {
                return Ok(None);
            }
        }
    }
    let generation = kernel.generation()?.id;
    Ok((generation == outline.generation).then_some(generation))
}

fn same(
    kernel: &mut Nfnetlink,
    family: Family,
    set: &Set,
    counted: bool,
) -> Result<bool, NetlinkError> {
    match set.kind {
        // Packets fill it.
        SetKind::Dynamic { .. } => Ok(true),
        SetKind::Exact if counted => kernel.holds(family, set),
        SetKind::Exact => Ok(false),
        // Few, and kept by the kernel as bounds.
        SetKind::Interval => {
            let mut found = set.clone();
            found.elements.clear();
            Ok(kernel.elements(family, found)?.elements == set.elements)
        }
    }
}
