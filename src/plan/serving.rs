//! Endpoints that serve, whether or not this node would choose them for a new flow: a flow
//! that has one keeps it (kube-proxy-behaviour L4), and loses it when it no longer serves.

use std::collections::{BTreeMap, BTreeSet};

use super::{Endpoint, ServicePortKey};
use crate::cluster::{Cluster, ObjectName, Protocol};

/// Endpoints with the condition `serving`, by service port; of UDP and SCTP ports only: TCP
/// connections end by themselves.
pub type Serving = BTreeMap<ServicePortKey, BTreeSet<Endpoint>>;

/// Those of all services. O(endpoints of UDP and SCTP ports).
#[must_use]
pub fn serving(cluster: &Cluster) -> Serving {
    serving_of(cluster, cluster.slices.keys())
}

/// Those of some services. O(their endpoints).
pub fn serving_of<'a>(
    cluster: &'a Cluster,
    services: impl IntoIterator<Item = &'a ObjectName>,
) -> Serving {
    let mut serving = Serving::new();
    for service in services {
        let Some(slices) = cluster.slices.get(service) else {
            continue;
        };
        for slice in slices.iter() {
            for port in slice.ports.iter().filter(|port| is_kept(port.protocol)) {
                let key = ServicePortKey {
                    service: service.clone(),
                    port_name: port.name.clone(),
                    protocol: port.protocol,
                };
                let endpoints = slice.endpoints.iter().filter(|endpoint| endpoint.serving);
                serving
                    .entry(key)
                    .or_default()
                    .extend(endpoints.map(|endpoint| Endpoint {
                        addr: endpoint.address,
                        port: port.port,
                    }));
            }
        }
    }
    serving
}

/// True for protocols whose flows outlive their endpoint.
#[must_use]
pub const fn is_kept(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Udp | Protocol::Sctp)
}
