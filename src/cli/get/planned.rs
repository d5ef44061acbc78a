//! What the inputs mean on this node.

use std::collections::{BTreeMap, BTreeSet};

use super::rows::{EndpointOf, FrontendRow, HostPortRow, Outcome, Port, RouteRow, ServiceRow};
use crate::cluster::{ObjectName, Service};
use crate::counters::Counts;
use crate::node::Node;
use crate::plan::{Endpoint, ListKey, Target, View};

/// O(services + endpoints).
pub fn services(inputs: &Node, counts: Option<&Counts>) -> Vec<ServiceRow> {
    let totals = counts.map(|counts| super::totals(&self::endpoints(inputs, Some(counts))));
    let endpoints = endpoints_of(inputs);
    let row = |service: &Service| ServiceRow {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        service_type: Some(service.service_type.to_string()),
        headless: service.headless,
        cluster_ips: service.cluster_ips.clone(),
        external_ips: [&service.external_ips[..], &service.load_balancer_ips].concat(),
        ports: service
            .ports
            .iter()
            .map(|port| Port {
                name: port.name.to_string(),
                port: port.port,
                protocol: port.protocol,
                node_port: port.node_port,
            })
            .collect(),
        creation_timestamp: service.created.clone(),
        endpoints: endpoints.get(&service.name).map_or(0, BTreeSet::len),
        selector: Some(
            service
                .selector
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
        ),
        counted: totals.as_ref().map(|totals| {
            let name = (&*service.name.namespace, &*service.name.name);
            let name = (name.0.to_owned(), name.1.to_owned());
            totals.get(&name).cloned().unwrap_or_default()
        }),
    };
    inputs
        .cluster
        .services
        .values()
        .map(|service| row(service))
        .collect()
}

/// The endpoints this node uses for each Service, over all its ports.
fn endpoints_of(inputs: &Node) -> BTreeMap<&ObjectName, BTreeSet<Endpoint>> {
    let mut found: BTreeMap<&ObjectName, BTreeSet<Endpoint>> = BTreeMap::new();
    for (key, list) in inputs.plan.families.iter().flat_map(|plan| &plan.lists) {
        let own = found.entry(&key.port.service).or_default();
        own.extend(list.endpoints.keys());
    }
    found
}

/// O(frontends + endpoints).
pub fn endpoints(inputs: &Node, counts: Option<&Counts>) -> Vec<FrontendRow> {
    let mut rows = Vec::new();
    for family in &inputs.plan.families {
        let list = |key: &ListKey| {
            let found = family.lists.get(key).map(|list| list.endpoints.iter());
            let each = found.into_iter().flatten();
            each.map(|(endpoint, weight)| EndpointOf {
                address: endpoint.addr,
                port: endpoint.port,
                weight: *weight,
            })
            .collect()
        };
        for (key, frontend) in &family.frontends {
            let mut push = |policy, outcome, endpoints: Vec<EndpointOf>| {
                rows.push(FrontendRow {
                    namespace: frontend.owner.service.namespace.to_string(),
                    service: frontend.owner.service.name.to_string(),
                    port_name: frontend.owner.port_name.to_string(),
                    kind: frontend.kind.to_string(),
                    frontend: *key,
                    policy,
                    outcome,
                    counted: counts.map(|counts| {
                        let port = (family.family, &frontend.comment);
                        super::counted(counts, port, key, &endpoints)
                    }),
                    endpoints,
                });
            };
            match &frontend.target {
                Target::List(key) => {
                    let policy = match key.view {
                        View::Cluster => "Cluster",
                        View::Local => "Local",
                    };
                    push(Some(policy), Outcome::Endpoints, list(key));
                }
                Target::Split { outside, inside } => {
                    let of = |key: &Option<ListKey>| match key {
                        Some(key) => (Outcome::Endpoints, list(key)),
                        None => (Outcome::Dropped, Vec::new()),
                    };
                    for (policy, key) in [("Local", outside), (super::FROM_INSIDE, inside)] {
                        let (outcome, endpoints) = of(key);
                        push(Some(policy), outcome, endpoints);
                    }
                }
                Target::Reject => push(None, Outcome::Refused, Vec::new()),
                Target::Drop => push(Some("Local"), Outcome::Dropped, Vec::new()),
            }
        }
    }
    rows
}

pub fn routes(inputs: &Node) -> Vec<RouteRow> {
    let routes = inputs.plan.routes.iter();
    routes
        .map(|route| RouteRow {
            destination: route.destination,
            via: route.via,
            node: Some(route.node.clone()),
        })
        .collect()
}

pub fn host_ports(inputs: &Node) -> Vec<HostPortRow> {
    let families = inputs.plan.families.iter();
    families
        .flat_map(|family| &family.host_ports)
        .map(|(key, port)| HostPortRow {
            namespace: port.owner.namespace.to_string(),
            pod: port.owner.name.to_string(),
            host_ip: key.addr,
            host_port: key.port,
            protocol: key.protocol,
            address: port.endpoint.addr,
            port: port.endpoint.port,
        })
        .collect()
}
