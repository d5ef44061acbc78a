//! One bad object costs only itself: a Service with which the kernel takes no ruleset is left
//! out, and tried again when it changes or after a while.

use std::time::{Duration, Instant};

use super::Agent;
use crate::apply::{MOST_ASIDE, refused_with};
use crate::cluster::ObjectName;
use crate::engine::Engine;
use crate::netlink::{NetlinkError, Nfnetlink};
use crate::observe::Condition;
use crate::ruleset::LiveRuleset;
use crate::text::printable;

/// Services that were set aside are tried again after this.
pub(super) const AGAIN: Duration = Duration::from_secs(600);

/// Sets aside the Service because of which the kernel refused what leads from `live` to where
/// the engine wants to be.
///
/// # Errors
/// `error` itself if no Service is to blame for it.
pub(super) fn set_aside(
    kernel: &mut Nfnetlink,
    engine: &mut Engine,
    live: &LiveRuleset,
    error: NetlinkError,
) -> Result<(), NetlinkError> {
    if engine.aside().len() >= MOST_ASIDE {
        return Err(error);
    }
    let all = engine.cluster().services.keys();
    let suspects: Vec<ObjectName> = all
        .filter(|name| !engine.aside().contains_key(*name))
        .cloned()
        .collect();
    let found = refused_with(kernel, &error, &suspects, |names| {
        engine.without(names, live)
    })?;
    let Some(name) = found else {
        return Err(error);
    };
    let reason = error.to_string();
    tracing::error!(
        service = &*printable(&name.to_string()),
        error = &*printable(&reason),
        "set aside: the kernel takes no rules with this Service; the others stay in force"
    );
    engine.set_aside(name, reason);
    Ok(())
}

impl Agent<'_> {
    /// Tells who is set aside.
    pub(super) fn tell_aside(&self) {
        let aside = self.engine.aside();
        let mut shown: Vec<String> = aside
            .iter()
            .take(3)
            .map(|(name, reason)| format!("Service {name} is set aside: {reason}"))
            .collect();
        let more = aside.len().saturating_sub(shown.len());
        if more > 0 {
            shown.push(format!("and {more} more"));
        }
        let result = if shown.is_empty() {
            Ok(())
        } else {
            Err(shown.join("; "))
        };
        self.observed.outcome(Condition::Objects, &result);
    }

    /// Tries those again that have been set aside for a while.
    pub(super) fn try_aside_again(&mut self) {
        if self.sync.is_aside_due(Instant::now()) {
            self.engine.try_again();
        }
    }
}
