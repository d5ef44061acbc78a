//! Metrics in Prometheus' text form: our own names, and on request kube-proxy's, so that
//! dashboards made for it keep working.

use std::sync::atomic::AtomicU64;

use jiff::Timestamp;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::{Row, Status, SyncReport};

type Seconds = Gauge<f64, AtomicU64>;

pub(super) struct Metrics {
    registry: Registry,
    full: Histogram,
    partial: Histogram,
    all: Histogram,
    programming: Histogram,
    commits: Counter,
    bytes: Counter,
    elements_added: Counter,
    elements_deleted: Counter,
    pub failures: Counter,
    pub guard_holds: Counter,
    pub drifts: Counter,
    source_failures: Family<Vec<(String, String)>, Counter>,
    conditions: Family<Vec<(String, String)>, Gauge>,
    failing_since: Family<Vec<(String, String)>, Seconds>,
    last_sync: Seconds,
    last_queued: Seconds,
    services: Gauge,
    endpoints: Gauge,
    elements: Gauge,
    generation: Gauge,
    service_changes: Counter,
    service_changes_pending: Gauge,
    endpoint_changes: Counter,
    endpoint_changes_pending: Gauge,
}

/// kube-proxy's buckets for syncs; ours reach further down.
fn sync_buckets() -> impl Iterator<Item = f64> {
    exponential_buckets(0.001, 2.0, 15)
}

/// kube-proxy's buckets for the network programming latency.
fn programming_buckets() -> impl Iterator<Item = f64> {
    let linear = |start: f64, width: f64, count: u32| {
        (0..count).map(move |i| width.mul_add(f64::from(i), start))
    };
    linear(0.25, 0.25, 2)
        .chain(linear(1.0, 1.0, 59))
        .chain(linear(60.0, 5.0, 12))
        .chain(linear(120.0, 30.0, 7))
}

impl Metrics {
    pub(super) fn new(kube_proxy_names: bool) -> Self {
        let fine = || exponential_buckets(0.000_01, 2.0, 20);
        let mut m = Self {
            registry: Registry::default(),
            full: Histogram::new(fine()),
            partial: Histogram::new(fine()),
            all: Histogram::new(sync_buckets()),
            programming: Histogram::new(programming_buckets()),
            commits: Counter::default(),
            bytes: Counter::default(),
            elements_added: Counter::default(),
            elements_deleted: Counter::default(),
            failures: Counter::default(),
            guard_holds: Counter::default(),
            drifts: Counter::default(),
            source_failures: Family::default(),
            conditions: Family::default(),
            failing_since: Family::default(),
            last_sync: Seconds::default(),
            last_queued: Seconds::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            elements: Gauge::default(),
            generation: Gauge::default(),
            service_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            endpoint_changes_pending: Gauge::default(),
        };
        m.register_own();
        if kube_proxy_names {
            m.register_kube_proxy();
        }
        m
    }

    fn register_own(&mut self) {
        let r = self.registry.sub_registry_with_prefix("svcnat");
        r.register(
            "sync_full_duration_seconds",
            "Syncs that compared everything",
            self.full.clone(),
        );
        r.register(
            "sync_partial_duration_seconds",
            "Syncs of changed objects only",
            self.partial.clone(),
        );
        r.register(
            "network_programming_duration_seconds",
            "From the change of endpoints to its commit",
            self.programming.clone(),
        );
        r.register("commits", "Transactions committed", self.commits.clone());
        r.register(
            "commit_bytes",
            "Bytes sent in transactions",
            self.bytes.clone(),
        );
        r.register(
            "elements_added",
            "Elements added",
            self.elements_added.clone(),
        );
        r.register(
            "elements_deleted",
            "Elements deleted",
            self.elements_deleted.clone(),
        );
        r.register("sync_failures", "Syncs that failed", self.failures.clone());
        r.register(
            "guard_holds",
            "Large losses of endpoints held for a second list",
            self.guard_holds.clone(),
        );
        r.register(
            "drifts",
            "Foreign changes to our tables found",
            self.drifts.clone(),
        );
        r.register(
            "source_failures",
            "Failures of a source, by kind",
            self.source_failures.clone(),
        );
        r.register(
            "condition",
            "1 if this is well, 0 if it fails or is not known yet",
            self.conditions.clone(),
        );
        r.register(
            "condition_failing_since_timestamp_seconds",
            "Since when this has failed or not been known; 0 if it is well",
            self.failing_since.clone(),
        );
        r.register(
            "last_sync_timestamp_seconds",
            "Time of the last good sync",
            self.last_sync.clone(),
        );
        r.register(
            "last_queued_timestamp_seconds",
            "Time a change last waited",
            self.last_queued.clone(),
        );
        r.register("services", "Services known", self.services.clone());
        r.register(
            "endpoints",
            "Endpoints known, in every state",
            self.endpoints.clone(),
        );
        r.register("elements", "Elements programmed", self.elements.clone());
        r.register(
            "generation",
            "Generation of the ruleset after the last sync",
            self.generation.clone(),
        );
        r.register(
            "service_changes",
            "Changes of Services",
            self.service_changes.clone(),
        );
        r.register(
            "endpoint_changes",
            "Changes of EndpointSlices",
            self.endpoint_changes.clone(),
        );
    }

    fn register_kube_proxy(&mut self) {
        let r = self.registry.sub_registry_with_prefix("kubeproxy");
        r.register(
            "sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            self.all.clone(),
        );
        r.register(
            "sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            self.full.clone(),
        );
        r.register(
            "sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            self.partial.clone(),
        );
        r.register(
            "network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            self.programming.clone(),
        );
        r.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            self.last_sync.clone(),
        );
        r.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            self.last_queued.clone(),
        );
        r.register(
            "sync_proxy_rules_service_changes",
            "Cumulative proxy rules Service changes",
            self.service_changes.clone(),
        );
        r.register(
            "sync_proxy_rules_service_changes_pending",
            "Pending proxy rules Service changes",
            self.service_changes_pending.clone(),
        );
        r.register(
            "sync_proxy_rules_endpoint_changes",
            "Cumulative proxy rules Endpoint changes",
            self.endpoint_changes.clone(),
        );
        r.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Pending proxy rules Endpoint changes",
            self.endpoint_changes_pending.clone(),
        );
        r.register(
            "sync_proxy_rules_nftables_sync_failures",
            "Cumulative nftables sync failures",
            self.failures.clone(),
        );
    }

    pub(super) fn queued(&self, services: u64, slices: u64) {
        self.service_changes.inc_by(services);
        self.endpoint_changes.inc_by(slices);
        self.service_changes_pending.inc_by(services.cast_signed());
        self.endpoint_changes_pending.inc_by(slices.cast_signed());
    }

    /// Since when changes wait, or when those that were carried out last began to. Dashboards
    /// hold this against the time of the last sync: what changes nothing here is not followed
    /// by one, and must not count.
    pub(super) fn waiting_since(&self, since: Timestamp) {
        self.last_queued.set(seconds(since));
    }

    pub(super) fn nothing_waits(&self) {
        self.service_changes_pending.set(0);
        self.endpoint_changes_pending.set(0);
    }

    pub(super) fn condition(&self, row: &Row) {
        let label = || vec![("condition".to_owned(), row.condition.to_string())];
        let good = row.status == Status::Good;
        self.conditions.get_or_create(&label()).set(i64::from(good));
        let since = if good {
            0.0
        } else {
            seconds(Timestamp::now()) - row.age.as_secs_f64()
        };
        self.failing_since.get_or_create(&label()).set(since);
    }

    pub(super) fn synced(&self, report: &SyncReport, now: Timestamp) {
        let took = report.took.as_secs_f64();
        self.all.observe(took);
        if report.full {
            self.full.observe(took);
        } else {
            self.partial.observe(took);
        }
        if let Some((bytes, _)) = report.commit {
            self.commits.inc();
            self.bytes.inc_by(bytes as u64);
        }
        self.elements_added.inc_by(report.added as u64);
        self.elements_deleted.inc_by(report.deleted as u64);
        self.last_sync.set(seconds(now));
        let (services, endpoints, elements) = report.sizes;
        let set = |gauge: &Gauge, n: usize| gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        set(&self.services, services);
        set(&self.endpoints, endpoints);
        set(&self.elements, elements);
        self.generation.set(i64::from(report.generation));
        self.nothing_waits();
        // A first sync programs endpoints that changed long ago: that is no latency.
        if !report.full {
            for time in &report.trigger_times {
                if let Ok(changed) = time.parse::<Timestamp>() {
                    self.programming
                        .observe((seconds(now) - seconds(changed)).max(0.0));
                }
            }
        }
    }

    pub(super) fn source_failed(&self, kind: &str) {
        self.source_failures
            .get_or_create(&vec![("kind".to_owned(), kind.to_owned())])
            .inc();
    }

    /// The metrics as text, without the end mark.
    pub(super) fn render(&self) -> String {
        let mut out = String::new();
        if encode_registry(&mut out, &self.registry).is_err() {
            // Writing into a string fails for nothing but a metric that cannot be encoded.
            out.push_str("# a metric could not be encoded\n");
        }
        out
    }
}

/// Text with the end mark that the form asks for.
pub(super) fn finish(mut text: String) -> String {
    // A string takes everything.
    let _ = encode_eof(&mut text);
    text
}

#[expect(
    clippy::cast_precision_loss,
    reason = "microseconds since 1970 fit for centuries"
)]
fn seconds(time: Timestamp) -> f64 {
    time.as_microsecond() as f64 / 1e6
}
