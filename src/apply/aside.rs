//! Who is to blame when the kernel takes no ruleset: one bad object costs only itself.

use std::collections::{BTreeMap, BTreeSet};

use super::host::Host;
use super::rules::DesiredRules;
use crate::cluster::{Cluster, ObjectName};
use crate::engine::quarantine::{culprit, owner};
use crate::netlink::NetlinkError;
use crate::ruleset::LiveRuleset;
use crate::transaction::Transaction;

/// Services that may be set aside before it is given up: a kernel that refuses more than that
/// refuses something else.
pub(super) const MOST_ASIDE: usize = 100;

/// One of `suspects` with which the kernel takes no ruleset: whose element it named, or the
/// one without which it says yes. `without` gives what would be sent without some of them.
/// `None` if it is none of them. O(log suspects) trials, which change nothing.
///
/// # Errors
/// If the kernel can be asked no more.
fn refused_with(
    host: &mut impl Host,
    error: &NetlinkError,
    suspects: &[ObjectName],
    mut without: impl FnMut(&BTreeSet<ObjectName>) -> Transaction,
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
        match host.validate(&delta, 0) {
            Ok(_) => Ok(false),
            Err(error) if error.is_about_content() => Ok(true),
            Err(error) => Err(error),
        }
    })
}

/// Leaves out the Service because of which the kernel refused what leads from `live` to what
/// is wanted.
///
/// # Errors
/// `error` itself if no Service is to blame for it.
pub(super) fn set_aside(
    host: &mut impl Host,
    wanted: &mut impl DesiredRules,
    live: &LiveRuleset,
    error: NetlinkError,
) -> Result<(), NetlinkError> {
    let suspects = wanted.suspects();
    let found = refused_with(host, &error, &suspects, |names| wanted.without(names, live))?;
    let Some(name) = found else {
        return Err(error);
    };
    wanted.set_aside(name, error.to_string());
    Ok(())
}

/// Services of `cluster` that could be set aside besides `aside`; none if those are as many
/// as there may be.
#[must_use]
pub fn suspects(cluster: &Cluster, aside: &BTreeMap<ObjectName, String>) -> Vec<ObjectName> {
    if aside.len() >= MOST_ASIDE {
        return Vec::new();
    }
    let rest = cluster.services.keys();
    let rest = rest.filter(|name| !aside.contains_key(*name));
    rest.cloned().collect()
}
