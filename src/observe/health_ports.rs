//! healthCheckNodePort: one small server per Service, that tells load balancers how many
//! endpoints of it this node has (kube-proxy's answers, word for word where clients parse).

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::{ServiceHealth, Shared};

const RETRY: Duration = Duration::from_secs(5);

/// Starts and stops servers as the ports change. Never ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ports = shared.health_ports();
    let mut servers: BTreeMap<u16, JoinHandle<()>> = BTreeMap::new();
    loop {
        let wanted: Vec<u16> = ports.borrow_and_update().keys().copied().collect();
        servers.retain(|port, server| {
            let stays = wanted.contains(port);
            if !stays {
                server.abort();
            }
            stays
        });
        for port in wanted {
            servers
                .entry(port)
                .or_insert_with(|| tokio::spawn(serve(port, Arc::clone(&shared))));
        }
        if ports.changed().await.is_err() {
            return;
        }
    }
}

async fn serve(port: u16, shared: Arc<Shared>) {
    // Both families on one socket, unless the host has no IPv6.
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let only_v4 = SocketAddr::from(([0, 0, 0, 0], port));
    let routes = Router::new().fallback(get(move || {
        let shared = Arc::clone(&shared);
        async move { answer(port, &shared) }
    }));
    let mut said = false;
    loop {
        let listener = match TcpListener::bind(any).await {
            Ok(listener) => Ok(listener),
            Err(_) => TcpListener::bind(only_v4).await,
        };
        let result = match listener {
            Ok(listener) => axum::serve(listener, routes.clone()).await,
            Err(error) => Err(error),
        };
        if let (Err(error), false) = (result, said) {
            tracing::error!(port, %error, "cannot listen on a healthCheckNodePort; tried again");
            said = true;
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn answer(port: u16, shared: &Shared) -> Response {
    let found: Option<ServiceHealth> = shared.health_ports().borrow().get(&port).cloned();
    let Some(service) = found else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let healthy = shared.health().healthy;
    let code = if service.local_endpoints > 0 && healthy {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "service": {"namespace": service.namespace, "name": service.name},
        "localEndpoints": service.local_endpoints,
        "serviceProxyHealthy": healthy,
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
        (
            HeaderName::from_static("x-load-balancing-endpoint-weight"),
            service.local_endpoints.to_string(),
        ),
    ];
    (code, headers, body.to_string()).into_response()
}
