//! Metrics of `--service-counters`: one series per frontend and per endpoint, up to a bound.

use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What is counted at a service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Connections to this frontend.
    Frontend(String),
    /// Connections to this frontend that nobody could serve.
    Refused(String),
    /// Connections that this endpoint was chosen for.
    Endpoint(String),
}

/// Connections of one frontend or endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connections {
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub service: String,
    /// Name of the port, empty if it has none.
    pub port: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Which of its connections.
    pub counted: Counted,
    /// How many.
    pub connections: u64,
}

/// Reads what was counted; `None` if nothing counts.
pub type Reader = Box<dyn Fn() -> Result<Option<Vec<Connections>>, String> + Send + Sync>;

/// Where the numbers come from, and how many series are shown at most.
pub struct Source {
    read: Reader,
    limit: usize,
    /// The last text. Held while it is made.
    last: Mutex<String>,
    /// The text before, for who comes meanwhile.
    shown: Mutex<String>,
}

impl Source {
    /// Series by `read`, which is asked at every scrape, on a thread that may wait; `limit`
    /// of them at most.
    #[must_use]
    pub fn new(read: Reader, limit: usize) -> Self {
        Self {
            read,
            limit,
            last: Mutex::default(),
            shown: Mutex::default(),
        }
    }

    /// The series as text. One reading at a time: a scrape that comes while another is being
    /// answered gets what the last one got.
    pub(super) fn text(&self) -> String {
        // Every write is one assignment: a reader that panicked left nothing half written.
        let shown = || self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(mut last) = self.last.try_lock() else {
            return shown().clone();
        };
        match (self.read)() {
            Ok(Some(found)) => *last = render(found, self.limit),
            Ok(None) => last.clear(),
            Err(error) => tracing::warn!(error, "cannot read the service counters"),
        }
        shown().clone_from(&last);
        last.clone()
    }
}

type Labels = Vec<(&'static str, String)>;

/// The series as text, without the end mark. Frontends come before endpoints, each in the
/// order given; those beyond `limit` are left out, and how many is told.
fn render(found: Vec<Connections>, limit: usize) -> String {
    let frontends: Family<Labels, Counter> = Family::default();
    let refused: Family<Labels, Counter> = Family::default();
    let endpoints: Family<Labels, Counter> = Family::default();
    let left_out: Gauge = Gauge::default();
    left_out.set(i64::try_from(found.len().saturating_sub(limit)).unwrap_or(i64::MAX));
    let (by_endpoint, by_frontend): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|c| matches!(c.counted, Counted::Endpoint(_)));
    for c in by_frontend.into_iter().chain(by_endpoint).take(limit) {
        let (family, label, value) = match c.counted {
            Counted::Frontend(at) => (&frontends, "frontend", at),
            Counted::Refused(at) => (&refused, "frontend", at),
            Counted::Endpoint(at) => (&endpoints, "endpoint", at),
        };
        let labels = vec![
            ("namespace", c.namespace),
            ("service", c.service),
            ("port", c.port),
            ("protocol", c.protocol),
            ("family", c.family),
            (label, value),
        ];
        family.get_or_create(&labels).inc_by(c.connections);
    }
    let mut registry = Registry::default();
    let r = registry.sub_registry_with_prefix("svcnat_service");
    r.register("connections", "New connections to a frontend", frontends);
    r.register(
        "refused",
        "New connections to a frontend that nobody could serve",
        refused,
    );
    r.register(
        "endpoint_connections",
        "New connections an endpoint was chosen for",
        endpoints,
    );
    r.register(
        "series_left_out",
        "Series of these counters beyond --service-counter-series",
        left_out,
    );
    let mut out = String::new();
    if encode_registry(&mut out, &registry).is_err() {
        // Writing into a string fails for nothing but a metric that cannot be encoded.
        out.push_str("# a metric could not be encoded\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(service: &str, counted: Counted) -> Connections {
        Connections {
            family: "IPv4".to_owned(),
            namespace: "default".to_owned(),
            service: service.to_owned(),
            port: "http".to_owned(),
            protocol: "TCP".to_owned(),
            counted,
            connections: 3,
        }
    }

    #[test]
    fn beyond_the_bound_endpoints_go_first_and_the_rest_is_told() {
        let found = vec![
            connections("a", Counted::Endpoint("10.0.0.1:80".to_owned())),
            connections("a", Counted::Frontend("10.96.0.1:80/TCP".to_owned())),
            connections("b", Counted::Refused("10.96.0.2:80/TCP".to_owned())),
        ];
        let text = render(found.clone(), 2);
        let frontend = "svcnat_service_connections_total{namespace=\"default\",service=\"a\",\
                        port=\"http\",protocol=\"TCP\",family=\"IPv4\",frontend=\"10.96.0.1:80/TCP\"} 3";
        assert!(text.contains(frontend), "{text}");
        assert!(text.contains("svcnat_service_refused_total{"));
        assert!(!text.contains("svcnat_service_endpoint_connections_total{"));
        assert!(text.contains("svcnat_service_series_left_out 1"));
        let text = render(found, 3);
        assert!(text.contains("endpoint=\"10.0.0.1:80\"} 3"), "{text}");
        assert!(text.contains("svcnat_service_series_left_out 0"));
    }

    #[test]
    fn names_from_the_cluster_cannot_break_out_of_a_label() {
        let found = vec![connections("a\"} 1\nx", Counted::Frontend(String::new()))];
        let text = render(found, 9);
        assert!(text.contains("service=\"a\\\"} 1\\nx\""), "{text}");
    }
}
