//! Who is to blame when the kernel takes no ruleset: one bad object costs only itself.

use std::collections::{BTreeMap, BTreeSet};

use super::{Comparison, Outcome, carry_out, compare};
use crate::cluster::ObjectName;
use crate::diff::{Delta, diff};
use crate::engine::quarantine::{culprit, owner};
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::ruleset::{LiveRuleset, Ruleset};

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

/// As [`carry_out`], without those of `services` with which the kernel takes no ruleset:
/// `desired` is told whom to leave out. Returns who was, and why.
///
/// # Errors
/// As [`carry_out`], and if the kernel refuses whoever is left out.
pub fn carry_out_setting_aside(
    kernel: &mut Nfnetlink,
    first: Comparison,
    services: &[ObjectName],
    mut desired: impl FnMut(&BTreeSet<ObjectName>, &LiveRuleset) -> Ruleset,
) -> Result<(Outcome, BTreeMap<ObjectName, String>), NetlinkError> {
    let mut aside: BTreeMap<ObjectName, String> = BTreeMap::new();
    let mut found = first;
    loop {
        let names: BTreeSet<ObjectName> = aside.keys().cloned().collect();
        let error = match carry_out(kernel, found, |live| desired(&names, live)) {
            Ok(outcome) => return Ok((outcome, aside)),
            Err(error) if aside.len() < MOST_ASIDE && error.is_about_content() => error,
            Err(error) => return Err(error),
        };
        let rest = services.iter().filter(|name| !aside.contains_key(*name));
        let suspects: Vec<ObjectName> = rest.cloned().collect();
        let live = kernel.read()?;
        let culprit = refused_with(kernel, &error, &suspects, |more| {
            let without = names.union(more).cloned().collect();
            diff(&desired(&without, &live), &live)
        })?;
        let Some(name) = culprit else {
            return Err(error);
        };
        aside.insert(name, error.to_string());
        let names: BTreeSet<ObjectName> = aside.keys().cloned().collect();
        found = compare(kernel, |live| desired(&names, live))?;
    }
}
