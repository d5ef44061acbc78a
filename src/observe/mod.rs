//! Everything by which a running agent is looked at: health, metrics, state, log.
//!
//! The agent writes plain facts into [`Shared`] and never waits for a reader; the servers
//! read them on a thread of their own.

mod conditions;
mod connections;
mod descriptors;
mod health_ports;
mod http;
mod log;
mod metrics;
mod privileges;
mod server;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

pub use conditions::{Condition, Conditions, News, Row, STALE_INPUTS, STALE_RULES, Status};
pub use connections::{Connections, Counted, Source as ConnectionSource};
pub use log::{LogFormat, init as init_log};
use metrics::Metrics;
pub use privileges::{Capability, drop_all_but, held as held_capabilities};
pub use server::{Binds, serve};

/// One sync, as the agent tells it.
#[derive(Clone, Debug, Default)]
pub struct SyncReport {
    /// Why.
    pub cause: String,
    /// True if everything was compared.
    pub full: bool,
    /// All of it.
    pub took: Duration,
    /// Bytes and microseconds of the commit, if there was one.
    pub commit: Option<(usize, u64)>,
    /// Elements added.
    pub added: usize,
    /// Elements deleted.
    pub deleted: usize,
    /// Generation in force.
    pub generation: u32,
    /// Services, endpoints and elements there are now.
    pub sizes: (usize, usize, usize),
    /// When the endpoints of this sync were last changed by their controller.
    pub trigger_times: Vec<String>,
}

/// A Service with a health check port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceHealth {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Health check ports and whose they are.
pub type HealthPorts = BTreeMap<u16, ServiceHealth>;

/// What the agent tells and the servers show.
pub struct Shared {
    inner: Mutex<Inner>,
    health_ports: watch::Sender<HealthPorts>,
    health_prefixes: watch::Sender<Vec<IpNet>>,
    connections: Option<ConnectionSource>,
}

struct Inner {
    metrics: Metrics,
    conditions: Conditions,
    /// When what was carried out last had begun to wait.
    carried_out: Option<Timestamp>,
    last_sync: Option<Timestamp>,
    last_good: Option<Value>,
    last_failed: Option<Value>,
    last_drift: Option<Value>,
    sizes: (usize, usize, usize),
    generation: u32,
    deleting: bool,
    autoscaler_taint: bool,
}

/// A verdict of a health endpoint.
pub(crate) struct Health {
    pub healthy: bool,
    pub eligible: bool,
    pub last_updated: Option<Timestamp>,
}

impl Shared {
    /// Nothing happened yet. With `kube_proxy_names`, metrics also go by kube-proxy's names;
    /// with `connections`, they have counters per frontend and endpoint.
    #[must_use]
    pub fn new(kube_proxy_names: bool, connections: Option<ConnectionSource>) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                metrics: Metrics::new(kube_proxy_names),
                conditions: Conditions::default(),
                carried_out: None,
                last_sync: None,
                last_good: None,
                last_failed: None,
                last_drift: None,
                sizes: (0, 0, 0),
                generation: 0,
                deleting: false,
                autoscaler_taint: false,
            }),
            health_ports: watch::channel(HealthPorts::new()).0,
            health_prefixes: watch::channel(Vec::new()).0,
            connections,
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A reader that panicked left nothing half written: every write is one assignment.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes arrived: so many of Services, so many of EndpointSlices.
    pub fn queued(&self, services: u64, slices: u64) {
        self.inner().metrics.queued(services, slices);
    }

    /// Whether any change waits that could be carried out: from what waits, each time that
    /// may have changed. There is no other mark of it to be set or taken back.
    pub fn waits(&self, waits: bool) {
        let mut inner = self.inner();
        inner.conditions.waits(waits, Instant::now());
        if !waits {
            inner.metrics.nothing_waits();
        }
    }

    /// Something is to be known before the node is ready.
    pub fn expect(&self, condition: Condition) {
        self.inner().conditions.expect(condition, Instant::now());
    }

    /// It is well.
    pub fn good(&self, condition: Condition) {
        self.inner().conditions.good(condition, Instant::now());
    }

    /// It is known now, and well unless it fails.
    pub fn known(&self, condition: Condition) {
        self.inner().conditions.known(condition, Instant::now());
    }

    /// It failed, now, for this reason. Call it each time: what is news is found out here.
    pub fn failing(&self, condition: Condition, reason: &str) {
        let now = Instant::now();
        self.inner().conditions.failing(condition, reason, now);
    }

    /// How something went.
    pub fn outcome<T, E: std::fmt::Display>(&self, condition: Condition, result: &Result<T, E>) {
        let now = Instant::now();
        self.inner().conditions.outcome(condition, result, now);
    }

    /// A long piece of work is getting on.
    pub fn progress(&self) {
        self.inner().conditions.progress(Instant::now());
    }

    /// What is to be logged of conditions.
    pub fn news(&self) -> Vec<News> {
        self.inner().conditions.news(Instant::now())
    }

    /// What fails.
    #[cfg(test)]
    pub(crate) fn failing_now(&self) -> Vec<String> {
        let now = Instant::now();
        let rows: Vec<conditions::Row> = self.inner().conditions.rows(now).collect();
        let failing = rows
            .iter()
            .filter(|row| row.status == conditions::Status::Failing);
        failing.map(|row| row.condition.to_string()).collect()
    }

    /// A sync succeeded.
    pub fn synced(&self, report: &SyncReport) {
        let mut inner = self.inner();
        let now = Timestamp::now();
        inner.carried_out = Some(inner.waiting_since().unwrap_or(now));
        inner.conditions.done(Instant::now());
        inner.last_sync = Some(now);
        inner.sizes = report.sizes;
        inner.generation = report.generation;
        inner.metrics.synced(report, now);
        if let Some((bytes, micros)) = report.commit {
            inner.last_good = Some(json!({
                "time": now.to_string(),
                "cause": report.cause,
                "added": report.added,
                "deleted": report.deleted,
                "bytes": bytes,
                "commitMicros": micros,
                "generation": report.generation,
            }));
        }
    }

    /// A sync failed; it is tried again.
    pub fn failed(&self, error: &str) {
        let mut inner = self.inner();
        inner.conditions.attempt_failed(error, Instant::now());
        inner.last_failed = Some(json!({"time": Timestamp::now().to_string(), "error": error}));
        inner.metrics.failures.inc();
    }

    /// Whether load balancers should send new connections to this node.
    pub fn set_node(&self, deleting: bool, autoscaler_taint: bool) {
        let mut inner = self.inner();
        inner.deleting = deleting;
        inner.autoscaler_taint = autoscaler_taint;
    }

    /// A source failed once.
    pub fn source_failed(&self, kind: &str) {
        self.inner().metrics.source_failed(kind);
    }

    /// The guard held a change back.
    pub fn held_back(&self) {
        self.inner().metrics.guard_holds.inc();
    }

    /// Somebody else's change to our tables was found, and who may have made it.
    pub fn drifted(&self, by: &str) {
        let mut inner = self.inner();
        inner.metrics.drifts.inc();
        inner.last_drift = Some(json!({"time": Timestamp::now().to_string(), "by": by}));
    }

    /// Which ports tell load balancers about which Services.
    pub fn set_health_ports(&self, ports: HealthPorts) {
        self.health_ports.send_if_modified(|old| {
            let changed = *old != ports;
            *old = ports;
            changed
        });
    }

    /// On which of this node's addresses they do: those of node ports. None: on all.
    pub fn set_health_prefixes(&self, prefixes: Vec<IpNet>) {
        self.health_prefixes.send_if_modified(|old| {
            let changed = *old != prefixes;
            *old = prefixes;
            changed
        });
    }

    pub(crate) fn health_prefixes(&self) -> watch::Receiver<Vec<IpNet>> {
        self.health_prefixes.subscribe()
    }

    pub(crate) fn health_ports(&self) -> watch::Receiver<HealthPorts> {
        self.health_ports.subscribe()
    }

    pub(crate) fn health(&self) -> Health {
        let inner = self.inner();
        Health {
            healthy: inner.conditions.is_healthy(Instant::now()),
            eligible: !inner.deleting && !inner.autoscaler_taint,
            last_updated: inner.last_sync,
        }
    }

    /// Ready or not, and what is or is not.
    pub(crate) fn readiness(&self) -> (bool, Vec<Row>) {
        let inner = self.inner();
        let now = Instant::now();
        let rows = inner.conditions.rows(now).collect();
        (inner.conditions.is_ready(now), rows)
    }

    /// All metrics. May wait for the kernel, without keeping the agent from its work.
    pub(crate) fn metrics(&self) -> String {
        let mut text = {
            let inner = self.inner();
            for row in inner.conditions.rows(Instant::now()) {
                inner.metrics.condition(&row);
            }
            if let Some(since) = inner.waiting_since().or(inner.carried_out) {
                inner.metrics.waiting_since(since);
            }
            inner.metrics.render()
        };
        if let Some(source) = &self.connections {
            text.push_str(&source.text());
        }
        metrics::finish(text)
    }

    pub(crate) fn state(&self) -> Value {
        let inner = self.inner();
        let (services, endpoints, elements) = inner.sizes;
        let (now, time) = (Instant::now(), Timestamp::now());
        let conditions: Vec<Value> = inner
            .conditions
            .rows(now)
            .map(|r| shown(&r, time))
            .collect();
        json!({
            "ready": inner.conditions.is_ready(now),
            "conditions": conditions,
            "generation": inner.generation,
            "services": services,
            "endpoints": endpoints,
            "elements": elements,
            "lastGood": inner.last_good,
            "lastFailed": inner.last_failed,
            "lastDrift": inner.last_drift,
        })
    }
}

impl Inner {
    /// Since when a change waits, if one does.
    fn waiting_since(&self) -> Option<Timestamp> {
        let since = self.conditions.waiting_since()?;
        Timestamp::now().checked_sub(since.elapsed()).ok()
    }
}

/// A condition in `/state`.
fn shown(row: &Row, now: Timestamp) -> Value {
    let since = now.checked_sub(row.age).unwrap_or(now);
    json!({
        "type": row.condition.to_string(),
        "status": match row.status {
            Status::Unknown => "Unknown",
            Status::Good => "True",
            Status::Failing => "False",
        },
        "since": since.to_string(),
        "reason": row.reason,
        "failures": row.failures,
        "blocksReady": row.blocks,
    })
}
