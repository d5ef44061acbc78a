//! Kubernetes semantics: which frontends, endpoints, policies and routes this node needs.
//!
//! Pure: cluster and configuration in, plan and problems out. docs/semantics.md has the
//! rules one by one.

mod egress;
mod endpoints;
mod host_ports;
mod node;
mod service;
mod serving;
mod standalone;
mod types;
mod validate;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::cluster::{Cluster, Family, ObjectName};
use crate::config::{Config, DetectLocal, NodePortAddresses};
use crate::problem::Problem;

pub use endpoints::{Standing, Viewpoint, standings, without_port};
pub use node::NodeContext;
pub use service::{ServicePlan, plan_service};
pub use serving::{Serving, is_kept, serving, serving_of};
pub use types::{
    Endpoint, EndpointList, FamilyPlan, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey,
    ListKey, NodePlan, Route, ServicePortKey, Shape, Target, View, WeightedEndpoints,
};

/// Fills in what a cluster would have: clusterIPs and endpoints of Services that have none.
/// Removes Services that lose a claim to another. Returns all problems between objects.
pub fn complete(cluster: &mut Cluster, config: &Config, node: &NodeContext) -> Vec<Problem> {
    let mut problems = standalone::allocate(cluster, &node.service_ranges);
    problems.extend(standalone::slices_from_pods(cluster));
    problems.extend(validate::check(cluster, config, node));
    problems
}

/// The desired state of this node. `cluster` should be [`complete`]d. O(cluster).
#[must_use]
pub fn plan(cluster: &Cluster, config: &Config, node: &NodeContext) -> (NodePlan, Vec<Problem>) {
    plan_each(cluster, config, node, |_, _| {})
}

/// The same; shows `seen` what each Service brings to each family, before it is merged.
#[must_use]
pub fn plan_each(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
    mut seen: impl FnMut(&ObjectName, &ServicePlan),
) -> (NodePlan, Vec<Problem>) {
    let mut problems = Vec::new();
    let families = Family::ALL
        .iter()
        .map(|family| plan_family(cluster, config, node, *family, &mut problems, &mut seen))
        .collect();
    let (routes, found) = plan_routes(cluster, config, node);
    problems.extend(found);
    let plan = NodePlan {
        shape: Shape::of(config),
        families,
        routes,
    };
    (plan, problems)
}

/// What no Service brings to one family: host ports, and the prefixes of this node and of
/// the cluster. O(pods of this node + nodes · log).
#[must_use]
pub fn plan_node_level(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
    family: Family,
) -> (FamilyPlan, Vec<Problem>) {
    let mut problems = Vec::new();
    let (host_ports, found) = host_ports::plan(cluster, node, family);
    problems.extend(found);
    let of_family = |prefixes: &[IpNet]| NodeContext::of_family(prefixes, family);
    let pod_sources = match config.detect_local {
        DetectLocal::ClusterCidr => of_family(&config.cluster_cidrs),
        DetectLocal::NodeCidr => of_family(&node.pod_cidrs),
        DetectLocal::BridgeInterface(_) | DetectLocal::InterfaceNamePrefix(_) => Vec::new(),
    };
    let out = FamilyPlan {
        family,
        lists: BTreeMap::new(),
        frontends: BTreeMap::new(),
        local_endpoints: host_ports.values().map(|p| p.endpoint.addr).collect(),
        host_ports,
        cluster_ips: BTreeMap::new(),
        service_ranges: of_family(&node.service_ranges),
        node_port_addresses: node_port_addresses(config, node, family),
        pod_sources,
        egress_sources: if config.egress_masquerade {
            of_family(&node.pod_cidrs)
        } else {
            Vec::new()
        },
        non_masquerade: of_family(&egress::non_masquerade(cluster, config, node)),
    };
    (out, problems)
}

fn plan_family(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
    family: Family,
    problems: &mut Vec<Problem>,
    seen: &mut impl FnMut(&ObjectName, &ServicePlan),
) -> FamilyPlan {
    let (mut out, found) = plan_node_level(cluster, config, node, family);
    problems.extend(found);
    for (service, slices) in cluster.services_with_slices() {
        if !service
            .cluster_ips
            .iter()
            .any(|ip| Family::of(ip) == family)
        {
            continue;
        }
        let part = plan_service(service, &slices, family, node);
        seen(&service.name, &part);
        out.add(part);
    }
    for (key, port) in &out.host_ports {
        let node_port = FrontendKey::NodePort(key.protocol, key.port);
        if let Some(frontend) = out.frontends.get(&node_port) {
            problems.push(Problem::warning(
                None,
                format!("Pod {}", port.owner),
                "hostPort",
                format!(
                    "{}/{} is also the node port of Service {}, which comes first",
                    key.port, key.protocol, frontend.owner.service
                ),
            ));
        }
    }
    out
}

/// Where node ports answer. A family of which no address is known gets none: closed is
/// safer than open. A list that has prefixes of the other family only leaves this one open,
/// as in kube-proxy.
fn node_port_addresses(config: &Config, node: &NodeContext, family: Family) -> Vec<IpNet> {
    match &config.nodeport_addresses {
        NodePortAddresses::Primary => node
            .addresses
            .iter()
            .find(|addr| Family::of(addr) == family)
            .map(|addr| vec![IpNet::from(*addr)])
            .unwrap_or_default(),
        NodePortAddresses::Prefixes(prefixes) => {
            let own = NodeContext::of_family(prefixes, family);
            if own.is_empty() {
                vec![everything(family)]
            } else {
                own
            }
        }
    }
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::Ip => ipnet::Ipv4Net::default().into(),
        Family::Ip6 => ipnet::Ipv6Net::default().into(),
    }
}

/// A route to every other node's pods by its address of the same family.
/// None if routes are not ours to manage.
#[must_use]
pub fn plan_routes(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
) -> (BTreeSet<Route>, Vec<Problem>) {
    let mut problems = Vec::new();
    if !config.manage_routes {
        return (BTreeSet::new(), problems);
    }
    let objects = cluster
        .nodes
        .values()
        .map(|n| (&n.name, &n.addresses, &n.pod_cidrs, Some(&n.origin)));
    let listed = config
        .nodes
        .iter()
        .filter(|n| !cluster.nodes.contains_key(&n.name))
        .map(|n| (&n.name, &n.addresses, &n.pod_cidrs, None));
    let mut out = BTreeSet::new();
    for (name, addresses, pod_cidrs, origin) in objects.chain(listed) {
        if *name == node.name {
            continue;
        }
        for cidr in pod_cidrs {
            match addresses.iter().find(|a| a.is_ipv4() == cidr.addr().is_ipv4()) {
                Some(via) => {
                    out.insert(Route {
                        destination: *cidr,
                        via: *via,
                        node: name.clone(),
                    });
                }
                None => problems.push(Problem::error(
                    origin,
                    format!("Node {name}"),
                    "status.addresses",
                    format!("has no address of the family of its pod CIDR {cidr}, so no route leads there"),
                )),
            }
        }
    }
    (out, problems)
}
