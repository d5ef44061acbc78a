//! What the agent says of itself: one log line per commit, facts for the health server.

use super::{Agent, Synced};
use crate::apply::Host;
use crate::cluster::ObjectName;
use crate::observe::{Condition, News, SyncReport};
use crate::problem::{Problem, Severity};
use crate::source::events::Failure;
use crate::text::printable;

impl<H: Host> Agent<'_, H> {
    /// Tells the observers. O(services of this sync).
    pub(super) fn observe(&mut self, cause: &str, synced: &Synced) {
        let cluster = self.engine.cluster();
        let trigger_times = synced
            .services
            .iter()
            .flat_map(|name| cluster.slices_of(name))
            .filter_map(|slice| slice.trigger_time.clone())
            .collect();
        self.observed.synced(&SyncReport {
            cause: cause.to_owned(),
            full: synced.full,
            took: synced.took,
            commit: synced.committed.map(|c| (c.bytes, c.micros)),
            added: synced.counts.elements_added,
            deleted: synced.counts.elements_deleted,
            generation: synced.generation,
            sizes: (
                cluster.services.len(),
                self.engine.endpoint_count(),
                self.engine.ruleset().element_count(),
            ),
            trigger_times,
        });
        if let Some(node) = cluster.nodes.get(&self.engine.node().name) {
            self.observed.set_node(node.deleting, node.autoscaler_taint);
        }
        let prefixes = self.engine.node_port_addresses().copied().collect();
        self.observed.set_health_prefixes(prefixes);
        let changed = if synced.full {
            self.health_checks.rebuild(&self.engine)
        } else {
            self.health_checks.update(&self.engine, &synced.touched)
        };
        if changed {
            self.observed.set_health_ports(self.health_checks.ports());
        }
    }

    /// A part of the source cannot be followed. One that the node does without is worth a
    /// line, and no more.
    pub(super) fn source_failed(&mut self, part: &'static str, failure: &Failure) {
        self.observed.source_failed(part);
        if !self.source.is_remote() {
            self.agenda.reading.outcome(false, self.now());
        }
        if !failure.dispensable {
            let source = Condition::Source(part);
            self.observed.failing(source, &failure.to_string());
        } else if !failure.repeated {
            tracing::warn!(kind = part, %failure, "a kind of the API is done without");
        }
    }

    /// One line each time something of the agent's own begins to fail, or is well again.
    pub(super) fn tell_news(&self) {
        for news in self.observed.news() {
            tell(&news);
        }
    }

    /// One line per commit; nothing for a look that found nothing to do.
    pub(super) fn tell(&self, cause: &str, synced: &Synced) {
        let (flows, clients) = (synced.flows.removed, synced.clients.removed);
        let routes = synced.routes.removed;
        let nothing = synced.committed.is_none() && routes + flows + clients == 0;
        if nothing && cause != "start" {
            return;
        }
        let committed = synced.committed.unwrap_or_default();
        tracing::info!(
            cause,
            full = synced.full,
            services = (!synced.services.is_empty()).then(|| some(&synced.services)),
            added = synced.counts.elements_added,
            deleted = synced.counts.elements_deleted,
            rules = synced.counts.rules_added,
            routes,
            flows,
            clients,
            bytes = committed.bytes,
            commit_us = committed.micros,
            total_us = u64::try_from(synced.took.as_micros()).unwrap_or(u64::MAX),
            generation = synced.generation,
            "committed"
        );
    }
}

/// A few names, and how many there are besides.
fn some(names: &[ObjectName]) -> String {
    const SHOWN: usize = 5;
    let first: Vec<String> = names.iter().take(SHOWN).map(ToString::to_string).collect();
    let first = printable(&first.join(", ")).into_owned();
    match names.len().saturating_sub(SHOWN) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

fn tell(news: &News) {
    let condition = news.condition.to_string();
    let (lasted, failures) = (news.lasted.as_secs(), news.failures);
    let Some(error) = &news.reason else {
        tracing::info!(condition, lasted_s = lasted, failures, "well again");
        return;
    };
    match news.condition {
        Condition::Source("files") => {
            tracing::error!(condition, error, failures, "the last good state stays");
        }
        Condition::Source(_) => {
            tracing::warn!(
                condition,
                error,
                failures,
                "not followed; the last good state stays"
            );
        }
        Condition::Rules => tracing::error!(condition, error, failures, "sync failed; tried again"),
        Condition::Loss => tracing::warn!(condition, error, failures, "held back"),
        _ => tracing::error!(condition, error, failures, "failed; tried again"),
    }
}

/// Problems with objects, one line each; the level of the line says how bad they are.
pub(super) fn report(problems: &[Problem]) {
    for problem in problems {
        let text = problem.without_severity();
        match problem.severity {
            Severity::Error => tracing::error!("{text}"),
            Severity::Warning => tracing::warn!("{text}"),
            Severity::Notice => tracing::info!("{text}"),
        }
    }
}
