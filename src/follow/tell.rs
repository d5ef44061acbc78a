//! What the agent says of itself: one log line per commit, facts for the health server.

use std::collections::BTreeSet;

use super::{Agent, Synced};
use crate::cluster::ObjectName;
use crate::engine::Engine;
use crate::observe::{HealthPorts, ServiceHealth, SyncReport};
use crate::problem::{Problem, Severity};

impl Agent<'_> {
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
        if synced.full {
            self.health_ports.clear();
            for name in cluster.services.keys() {
                health_port(&self.engine, name, &mut self.health_ports);
            }
        } else {
            for name in &synced.services {
                health_port(&self.engine, name, &mut self.health_ports);
            }
        }
        self.observed.set_health_ports(self.health_ports.clone());
    }

    /// One line per commit; nothing for a look that found nothing to do.
    pub(super) fn tell(&self, cause: &str, synced: &Synced) {
        for error in &synced.route_errors {
            tracing::error!(error, "route");
        }
        if synced.committed.is_none() && synced.routes == 0 && cause != "start" {
            return;
        }
        let committed = synced.committed.unwrap_or_default();
        tracing::info!(
            cause,
            full = synced.full,
            added = synced.counts.elements_added,
            deleted = synced.counts.elements_deleted,
            rules = synced.counts.rules_added,
            routes = synced.routes,
            flows = synced.flows,
            clients = synced.clients,
            bytes = committed.bytes,
            commit_us = committed.micros,
            total_us = u64::try_from(synced.took.as_micros()).unwrap_or(u64::MAX),
            generation = synced.generation,
            "committed"
        );
    }
}

/// Puts a service's health check port where it belongs now.
fn health_port(engine: &Engine, name: &ObjectName, ports: &mut HealthPorts) {
    ports.retain(|_, health| *health.namespace != *name.namespace || *health.name != *name.name);
    let Some(service) = engine.cluster().services.get(name) else {
        return;
    };
    let Some(port) = service.health_check_node_port else {
        return;
    };
    let here = Some(engine.node().name.as_str());
    let local: BTreeSet<_> = engine
        .cluster()
        .slices_of(name)
        .into_iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && endpoint.node_name.as_deref() == here)
        .map(|endpoint| endpoint.address)
        .collect();
    let health = ServiceHealth {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        local_endpoints: local.len(),
    };
    ports.insert(port.get(), health);
}

/// Problems with objects, one line each.
pub(super) fn report(problems: &[Problem]) {
    for problem in problems {
        match problem.severity {
            Severity::Error => tracing::error!("{problem}"),
            Severity::Warning => tracing::warn!("{problem}"),
            Severity::Notice => tracing::info!("{problem}"),
        }
    }
}
