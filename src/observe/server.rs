//! The HTTP side: `/healthz`, `/livez`, `/readyz`, `/state` and `/metrics`.
//!
//! A port that cannot be bound is tried again: kube-proxy may still have it, or the loopback
//! interface may not be up yet. Rules do not wait for that.
//!
//! Load balancers ask the health listener, so it is often open to the whole network: what
//! names objects, addresses or files is there for this host alone.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use super::http::{self, Bounds, Connections};
use super::{Row, Shared, Status, health_ports};
use crate::text::printable;

/// Between two attempts to bind.
const RETRY: Duration = Duration::from_secs(5);
/// Of the two servers; those of healthCheckNodePorts have bounds of their own.
const BOUNDS: Bounds = Bounds::new(32, 64);

/// Where to listen; `None`: nowhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Binds {
    /// `/healthz`, `/livez` and `/readyz`; for who asks from this host, reasons and `/state`.
    pub healthz: Option<SocketAddr>,
    /// `/metrics`, and all of the above.
    pub metrics: Option<SocketAddr>,
}

/// Starts the servers on a thread of their own; they end with the process.
///
/// # Errors
/// If the operating system refuses the thread.
pub fn serve(shared: &Arc<Shared>, binds: Binds) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let shared = Arc::clone(shared);
    std::thread::Builder::new()
        .name("observe".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let to_all = health_routes(Telling::Verdicts).with_state(Arc::clone(&shared));
                let to_us = health_routes(Telling::Everything).with_state(Arc::clone(&shared));
                let all = health_routes(Telling::Everything)
                    .route("/metrics", get(metrics))
                    .with_state(Arc::clone(&shared));
                let health = |peer: IpAddr| match peer.is_loopback() {
                    true => to_us.clone(),
                    false => to_all.clone(),
                };
                let connections = Connections::new(BOUNDS);
                tokio::join!(
                    listen("healthz", binds.healthz, health, &connections),
                    listen("metrics", binds.metrics, |_| all.clone(), &connections),
                    health_ports::run(Arc::clone(&shared)),
                );
            });
        })?;
    Ok(())
}

async fn listen(
    what: &str,
    address: Option<SocketAddr>,
    routes: impl Fn(IpAddr) -> Router,
    connections: &Connections,
) {
    let Some(address) = address else { return };
    let mut said = false;
    loop {
        let error = match TcpListener::bind(address).await {
            Ok(listener) => http::serve(what, listener, &routes, connections).await,
            Err(error) => error,
        };
        if !said {
            tracing::warn!(what, %address, %error, "cannot listen; tried again");
        }
        said = true;
        tokio::time::sleep(RETRY).await;
    }
}

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Telling {
    /// Well or not, and since when.
    Verdicts,
    /// Why as well, which names objects.
    Everything,
}

fn health_routes(telling: Telling) -> Router<Arc<Shared>> {
    let readyz = move |shared, query| readyz(shared, query, telling);
    let routes = Router::new()
        .route("/healthz", get(healthz))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz));
    match telling {
        Telling::Verdicts => routes,
        Telling::Everything => routes.route("/state", get(state)),
    }
}

const fn status(good: bool) -> StatusCode {
    if good {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn json_reply(code: StatusCode, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (code, headers, body).into_response()
}

/// 503 if a change has waited for a minute, or if load balancers should leave this node.
async fn healthz(State(shared): State<Arc<Shared>>) -> Response {
    health(&shared, |healthy, eligible| healthy && eligible)
}

/// The same without the node's fate: a reason to restart us.
async fn livez(State(shared): State<Arc<Shared>>) -> Response {
    health(&shared, |healthy, _| healthy)
}

fn health(shared: &Shared, good: impl Fn(bool, bool) -> bool) -> Response {
    let health = shared.health();
    let now = Timestamp::now();
    // kube-proxy reports the current time as long as it is healthy.
    let updated = match health.last_updated {
        _ if health.healthy => now.to_string(),
        Some(time) => time.to_string(),
        None => String::new(),
    };
    let body = json!({
        "lastUpdated": updated,
        "currentTime": now.to_string(),
        "nodeEligible": health.eligible,
    });
    json_reply(
        status(good(health.healthy, health.eligible)),
        body.to_string(),
    )
}

#[derive(Deserialize)]
struct Verbose {
    verbose: Option<String>,
}

async fn readyz(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<Verbose>,
    telling: Telling,
) -> Response {
    let (ready, rows) = shared.readiness();
    let mut body = String::new();
    if query.verbose.is_some() || !ready {
        rows.iter()
            .for_each(|row| body.push_str(&line(row, telling)));
    }
    body.push_str(if ready { "ok\n" } else { "not ready\n" });
    (status(ready), body).into_response()
}

/// `[+]` well, `[-]` not, and that is why the node is not ready; `[!]` not, which is only told
/// or not yet so old.
fn line(row: &Row, telling: Telling) -> String {
    let sign = match (row.status, row.blocks) {
        (Status::Good, _) => "[+]",
        (_, true) => "[-]",
        (_, false) => "[!]",
    };
    let words = match row.status {
        Status::Good => "ok".to_owned(),
        Status::Unknown => "not yet".to_owned(),
        Status::Failing => format!("failing for {} s", row.age.as_secs()),
    };
    let reason = match row.reason.as_str() {
        "" => String::new(),
        _ if telling == Telling::Verdicts => ": the reason is told on this host only".to_owned(),
        reason => format!(": {reason}"),
    };
    format!("{sign}{} {words}{reason}\n", row.condition)
}

async fn state(State(shared): State<Arc<Shared>>) -> Response {
    json_reply(
        StatusCode::OK,
        printable(&shared.state().to_string()).into_owned(),
    )
}

async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match tokio::task::spawn_blocking(move || shared.metrics()).await {
        Ok(text) => ([(header::CONTENT_TYPE, kind)], text).into_response(),
        Err(_) => status(false).into_response(),
    }
}
