//! What is wrong with one Service and its endpoints, in words. `explain` uses the same.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::NodeContext;
use super::endpoints;
use super::node::api_service;
use super::types::FrontendKind;
use crate::cluster::{EndpointSlice, Family, Service, ServicePort, TargetPort, special};
use crate::problem::Problem;

fn object(service: &Service) -> String {
    format!("Service {}", service.name)
}

/// An address of a Service that nobody can be reached at.
pub fn address(service: &Service, field: &str, addr: IpAddr) -> Option<Problem> {
    let why = special(addr)?;
    Some(Problem::error(
        Some(&service.origin),
        object(service),
        field,
        format!("{addr} is {why}, which no Service can have; it is left out"),
    ))
}

/// A clusterIP that is this node's or an API server's own address: all its other ports, which
/// nobody serves as a Service, would be refused.
pub fn host(service: &Service, addr: IpAddr, node: &NodeContext) -> Option<Problem> {
    let whose = if node.addresses.contains(&addr) {
        "an address of this node"
    } else if service.name != api_service() && node.protected.iter().any(|at| at.ip() == addr) {
        "an address of the API server"
    } else {
        return None;
    };
    Some(Problem::error(
        Some(&service.origin),
        object(service),
        "spec.clusterIP",
        format!("{addr} is {whose}, which no Service can have; it is left out"),
    ))
}

/// A frontend where the API server answers.
pub fn protected(service: &Service, kind: FrontendKind, at: SocketAddr) -> Problem {
    let field = match kind {
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress",
        FrontendKind::NodePort => "spec.ports[].nodePort",
        FrontendKind::ClusterIp | FrontendKind::ExternalIp => "spec.externalIPs",
    };
    Problem::error(
        Some(&service.origin),
        object(service),
        field,
        format!("{at}/TCP is where the API server answers; it is left out"),
    )
}

/// Endpoints that no connection can go to, and those that are service addresses. O(endpoints).
pub fn endpoints(
    service: &Service,
    slices: &[&EndpointSlice],
    family: Family,
    node: &NodeContext,
) -> Vec<Problem> {
    let mut out = Vec::new();
    let mut services: BTreeSet<IpAddr> = BTreeSet::new();
    let mine = |range: &&ipnet::IpNet| Family::of(&range.addr()) == family;
    let ranges: Vec<_> = node.service_ranges.iter().filter(mine).collect();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        for (i, endpoint) in slice.endpoints.iter().enumerate() {
            let addr = endpoint.address;
            let why = match special(addr) {
                Some(why) => why,
                None if Family::of(&addr) != family => "of another family than its slice",
                None => {
                    if ranges.iter().any(|range| range.contains(&addr)) {
                        services.insert(addr);
                    }
                    continue;
                }
            };
            out.push(Problem::error(
                Some(&slice.origin),
                format!("EndpointSlice {}", slice.name),
                format!("endpoints[{i}].addresses"),
                format!("{addr} is {why}, which no endpoint can have; it is left out"),
            ));
        }
    }
    if let Some(first) = services.first() {
        out.push(Problem::warning(
            Some(&service.origin),
            object(service),
            "endpoints",
            format!(
                "endpoint {first}{} {}",
                and_more(services.len()),
                endpoints::SERVICE_ADDRESS
            ),
        ));
    }
    out
}

/// Endpoints of which none has a port of the Service.
pub fn without_port(
    service: &Service,
    slices: &[&EndpointSlice],
    family: Family,
    port: &ServicePort,
) -> Option<Problem> {
    let left_out = endpoints::without_port(slices, family, port);
    let first = left_out.first()?;
    let named = match &port.target_port {
        TargetPort::Name(name) => format!(" (targetPort {name:?})"),
        TargetPort::Number(_) => String::new(),
    };
    Some(Problem::warning(
        Some(&service.origin),
        object(service),
        "spec.ports[].name",
        format!(
            "endpoint {first}{} is left out: {}{named}",
            and_more(left_out.len()),
            endpoints::no_port(port.name.as_ref(), port.protocol)
        ),
    ))
}

/// Weights that would take more slots than a list may have.
pub fn weights(
    service: &Service,
    port: &ServicePort,
    wanted: u64,
    used: u64,
    difference: f64,
) -> Problem {
    Problem::warning(
        Some(&service.origin),
        object(service),
        "metadata.annotations[svcnat.io/weights]",
        format!(
            "the exact shares of port {}/{} take {wanted} slots; {used} are used, so that shares \
             differ by up to {:.3} %",
            port.port,
            port.protocol,
            difference * 100.0
        ),
    )
}

fn and_more(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        more => format!(" (and {} more)", more - 1),
    }
}
