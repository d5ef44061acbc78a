//! Who is to blame when the kernel takes no ruleset: one bad object costs only itself.

use std::collections::BTreeSet;

use crate::cluster::ObjectName;
use crate::diff::Delta;
use crate::engine::quarantine::{culprit, owner};
use crate::netlink::{NetlinkError, Nfnetlink};

/// Services that may be set aside before it is given up: a kernel that refuses more than that
/// refuses something else.
pub const MOST_ASIDE: usize = 100;

/// One of `suspects` with which the kernel takes no ruleset: whose element it named, or the
/// one without which it says yes. `without` gives what would be sent without some of them.
/// `None` if it is none of them. O(log suspects) trials, which change nothing.
///
/// # Errors
/// If the kernel can be asked no more.
pub fn refused_with(
    kernel: &mut Nfnetlink,
    error: &NetlinkError,
    suspects: &[ObjectName],
    mut without: impl FnMut(&BTreeSet<ObjectName>) -> Delta,
) -> Result<Option<ObjectName>, NetlinkError> {
    if !error.is_about_content() {
        return Ok(None);
    }
    if let Some(comment) = error.refused_owner() {
        let named = owner(comment, |name| suspects.contains(name));
        if named.is_some() {
            return Ok(named);
        }
    }
    culprit(suspects, |names| {
        let delta = without(names);
        if delta.is_empty() {
            return Ok(false);
        }
        match kernel.validate(&delta, 0) {
            Ok(_) => Ok(false),
            Err(error) if error.is_about_content() => Ok(true),
            Err(error) => Err(error),
        }
    })
}
