//! healthCheckNodePort: one small server per Service, that tells load balancers how many
//! endpoints of it this node has (kube-proxy's answers, word for word where clients parse).
//!
//! They listen where node ports answer (`--nodeport-addresses`), as kube-proxy's do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use nix::sys::socket::{setsockopt, sockopt::Ipv6V6Only};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

use super::descriptors::Shares;
use super::http::{self, Bounds, Connections};
use super::{ServiceHealth, Shared};

/// Between two attempts to bind, and two looks at this node's addresses.
const RETRY: Duration = Duration::from_secs(5);
/// Connections to one port: a few load balancers, each with a few that ask.
const EACH: usize = 64;
/// Connections that wait to be taken.
const BACKLOG: u32 = 128;

/// Where to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// On every address of both families, with one socket.
    Everywhere,
    /// On one address; an unspecified one stands for its whole family.
    At(IpAddr),
}

/// Starts and stops servers as the ports change. Never ends.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut ports = shared.health_ports();
    let mut prefixes = shared.health_prefixes();
    let shares = Shares::of_this_process();
    let connections = Connections::new(Bounds::new(EACH, shares.connections));
    let mut servers: BTreeMap<(u16, Place), JoinHandle<()>> = BTreeMap::new();
    let mut left_out = 0;
    loop {
        let places = places(&prefixes.borrow_and_update(), &local_addresses());
        let wanted: BTreeSet<(u16, Place)> = ports
            .borrow_and_update()
            .keys()
            .flat_map(|port| places.iter().map(|place| (*port, *place)))
            .collect();
        let too_many = wanted.len().saturating_sub(shares.listeners);
        if too_many != left_out {
            tracing::error!(
                wanted = wanted.len(),
                limit = shares.listeners,
                "not all healthCheckNodePorts can be served: raise the limit of open files"
            );
            left_out = too_many;
        }
        let wanted: BTreeSet<_> = wanted.into_iter().take(shares.listeners).collect();
        servers.retain(|server, task| {
            let stays = wanted.contains(server);
            if !stays {
                task.abort();
            }
            stays
        });
        for (port, place) in wanted {
            servers.entry((port, place)).or_insert_with(|| {
                let (shared, connections) = (Arc::clone(&shared), Arc::clone(&connections));
                tokio::spawn(serve(port, place, shared, connections))
            });
        }
        // Addresses come and go, which matters to none or to all.
        let retry = !servers.is_empty() && !prefixes.borrow().is_empty();
        tokio::select! {
            changed = ports.changed() => if changed.is_err() { return },
            changed = prefixes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}

/// Where node ports answer: on the `local` addresses in these prefixes. Everywhere if none is
/// local, which is a mistake that load balancers should not suffer from.
fn places(prefixes: &[IpNet], local: &[IpAddr]) -> BTreeSet<Place> {
    let mut found = BTreeSet::new();
    for unspecified in [
        IpAddr::from(Ipv4Addr::UNSPECIFIED),
        Ipv6Addr::UNSPECIFIED.into(),
    ] {
        let of_family = |net: &&IpNet| net.addr().is_ipv4() == unspecified.is_ipv4();
        let all = |net: &IpNet| net.prefix_len() == 0;
        if prefixes.iter().filter(of_family).any(all) {
            found.insert(Place::At(unspecified));
            continue;
        }
        let within = |address: &&IpAddr| prefixes.iter().any(|net| net.contains(*address));
        let own = local
            .iter()
            .filter(|a| a.is_ipv4() == unspecified.is_ipv4());
        found.extend(own.filter(within).copied().map(Place::At));
    }
    let everywhere = [
        Place::At(Ipv4Addr::UNSPECIFIED.into()),
        Place::At(Ipv6Addr::UNSPECIFIED.into()),
    ];
    if found.is_empty() || everywhere.iter().all(|place| found.contains(place)) {
        return [Place::Everywhere].into();
    }
    found
}

/// Addresses of this node, loopback's too. Link-local ones differ from link to link.
fn local_addresses() -> Vec<IpAddr> {
    let found = match nix::ifaddrs::getifaddrs() {
        Ok(found) => found,
        Err(error) => {
            tracing::warn!(%error, "cannot read this node's addresses");
            return Vec::new();
        }
    };
    let address = |of: nix::ifaddrs::InterfaceAddress| {
        let address = of.address?;
        let v4 = address.as_sockaddr_in().map(|a| IpAddr::from(a.ip()));
        let v6 = address.as_sockaddr_in6().map(|a| IpAddr::from(a.ip()));
        v4.or(v6)
    };
    let link_local = |address: &IpAddr| match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    found
        .filter_map(address)
        .filter(|address| !link_local(address))
        .collect()
}

fn listen(place: Place, port: u16) -> io::Result<TcpListener> {
    let bind = |address: IpAddr, only_v6: bool| {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            let socket = TcpSocket::new_v6()?;
            setsockopt(&socket, Ipv6V6Only, &only_v6)?;
            socket
        };
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::new(address, port))?;
        socket.listen(BACKLOG)
    };
    match place {
        Place::At(address) => bind(address, true),
        // Unless the host has no IPv6.
        Place::Everywhere => bind(Ipv6Addr::UNSPECIFIED.into(), false)
            .or_else(|_| bind(Ipv4Addr::UNSPECIFIED.into(), false)),
    }
}

async fn serve(port: u16, place: Place, shared: Arc<Shared>, connections: Arc<Connections>) {
    let routes = Router::new().fallback(get(move || {
        let shared = Arc::clone(&shared);
        async move { answer(port, &shared) }
    }));
    let name = match place {
        Place::Everywhere => format!("healthCheckNodePort {port}"),
        Place::At(address) => format!("healthCheckNodePort {}", SocketAddr::new(address, port)),
    };
    let mut said = false;
    loop {
        let error = match listen(place, port) {
            Ok(listener) => http::serve(&name, listener, |_| routes.clone(), &connections).await,
            Err(error) => error,
        };
        if !said {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(prefixes: &[&str], local: &[&str]) -> Vec<Place> {
        let prefixes: Vec<IpNet> = prefixes.iter().map(|p| p.parse().unwrap()).collect();
        let local: Vec<IpAddr> = local.iter().map(|a| a.parse().unwrap()).collect();
        places(&prefixes, &local).into_iter().collect()
    }

    fn at(addresses: &[&str]) -> Vec<Place> {
        let at = |a: &&str| Place::At(a.parse().unwrap());
        addresses.iter().map(at).collect()
    }

    const LOCAL: [&str; 4] = ["127.0.0.1", "192.0.2.1", "::1", "2001:db8::1"];

    #[test]
    fn health_check_ports_answer_where_node_ports_do() {
        assert_eq!(found(&["192.0.2.1/32"], &LOCAL), at(&["192.0.2.1"]));
        assert_eq!(
            found(&["192.0.2.1/32", "2001:db8::1/128"], &LOCAL),
            at(&["192.0.2.1", "2001:db8::1"])
        );
        assert_eq!(
            found(&["127.0.0.0/8", "192.0.2.0/24"], &LOCAL),
            at(&["127.0.0.1", "192.0.2.1"])
        );
        assert_eq!(
            found(&["192.0.2.0/24", "::/0"], &LOCAL),
            at(&["192.0.2.1", "::"])
        );
    }

    #[test]
    fn health_check_ports_answer_everywhere_if_nothing_says_where() {
        assert_eq!(found(&["0.0.0.0/0", "::/0"], &LOCAL), [Place::Everywhere]);
        assert_eq!(found(&[], &LOCAL), [Place::Everywhere]);
        assert_eq!(found(&["198.51.100.0/24"], &LOCAL), [Place::Everywhere]);
    }
}
