//! Kubernetes semantics: which frontends, endpoints, policies and routes this node needs.
//!
//! Pure: cluster and configuration in, plan and problems out. docs/semantics.md has the
//! rules one by one.

mod addresses;
mod claims;
mod complaints;
mod egress;
mod endpoints;
mod host_ports;
mod node;
mod pods;
mod service;
mod serving;
mod slots;
mod standalone;
mod types;
mod validate;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

use ipnet::IpNet;

use crate::cluster::{Cluster, EndpointSlice, Family, Service};
use crate::config::{Config, NodePortAddresses};
use crate::problem::Problem;

pub use addresses::of_url;
pub use claims::{Claimant, Claims};
pub use endpoints::{SERVICE_ADDRESS, Standing, Viewpoint, no_port, standings, without_port};
pub use host_ports::beaten as beaten_host_ports;
pub use node::{NodeContext, api_service};
pub use pods::unknown as unknown_pods;
pub use service::{ServicePlan, plan_service};
pub use serving::{Serving, is_kept, serving, serving_of};
pub use slots::SlotDemand;
pub use types::{
    Endpoint, EndpointList, FamilyPlan, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey,
    ListKey, NodePlan, Route, ServicePortKey, Shape, Target, View, WeightedEndpoints,
};

/// Fills in what a cluster would have: clusterIPs, node ports and endpoints of Services that
/// have none. Returns all problems between objects that no plan tells of.
pub fn complete(cluster: &mut Cluster, config: &Config, node: &NodeContext) -> Vec<Problem> {
    let mut problems = standalone::allocate(cluster, &node.service_ranges);
    problems.extend(standalone::ports_from_outside(
        cluster,
        config.node_port_range,
    ));
    problems.extend(standalone::slices_from_pods(cluster));
    problems.extend(validate::check(cluster, config, node));
    problems
}

/// The desired state of this node. `cluster` should be [`complete`]d. O(cluster).
#[must_use]
pub fn plan(cluster: &Cluster, config: &Config, node: &NodeContext) -> (NodePlan, Vec<Problem>) {
    let decided = decide(cluster, config, node, |_| {});
    (decided.plan, decided.found.once())
}

/// What a plan found wrong.
#[derive(Debug, Default)]
pub struct Found {
    /// With Services and their endpoints; once for each family that has it.
    pub services: Vec<Problem>,
    /// With this node, its pods and other nodes.
    pub node: Vec<Problem>,
    /// Host ports that frontends come before.
    pub host_ports: Vec<Problem>,
    /// Pods that cannot be told from others.
    pub pods: Vec<Problem>,
}

impl Found {
    /// Everything, each thing once.
    #[must_use]
    pub fn once(self) -> Vec<Problem> {
        let mut all = [self.services, self.node, self.host_ports, self.pods].concat();
        all.sort();
        all.dedup();
        all
    }
}

/// A plan, and what it takes to go on from it with one changed object.
#[derive(Debug)]
pub struct Decided {
    /// The plan.
    pub plan: NodePlan,
    /// Who claims what, one for each family.
    pub claims: Vec<Claims>,
    /// What weighted lists ask for.
    pub demand: SlotDemand,
    /// This node, with the slots that leaves each of them.
    pub node: NodeContext,
    /// What was found wrong.
    pub found: Found,
}

/// Plans; shows `seen` what is each Service's own in each family, before it is merged.
#[must_use]
pub fn decide(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
    mut seen: impl FnMut(&ServicePlan),
) -> Decided {
    let mut node = node.clone();
    node.weighted_slots = config.slot_limits.list;
    let mut demand = SlotDemand::default();
    let weighted = |service: &Service| !service.weights.is_empty();
    for family in Family::ALL {
        let services = cluster
            .services
            .values()
            .filter(|service| weighted(service));
        for service in services {
            let slices = cluster.slices_of(&service.name);
            demand.add(&plan_service(service, &slices, family, &node).weighted);
        }
    }
    node.weighted_slots = demand.limit(config.slot_limits);
    let mut found = Found::default();
    let mut families = Vec::new();
    let mut claims = Vec::new();
    for family in Family::ALL {
        let parts = plan_services(cluster, &node, family);
        let mut known = Claims::default();
        let nothing = ServicePlan::empty(family);
        for part in &parts {
            known.change(&nothing, part);
        }
        let (mut plan, problems) = plan_node_level(cluster, config, &node, family);
        found.node.extend(problems);
        for mut part in parts {
            found.services.append(&mut part.problems);
            let (part, lost) = known.award(part);
            found.services.extend(lost);
            seen(&part);
            plan.add(part);
        }
        let beaten = beaten_host_ports(&plan.host_ports, &known, &node);
        found.host_ports.extend(beaten);
        if plan.pod_sources.is_empty() && !known.is_empty() {
            found.pods.extend(unknown_pods(config, [family]));
        }
        families.push(plan);
        claims.push(known);
    }
    let (routes, problems) = plan_routes(cluster, config, &node);
    found.node.extend(problems);
    let plan = NodePlan {
        shape: Shape::of(config),
        families,
        routes,
    };
    Decided {
        plan,
        claims,
        demand,
        node,
        found,
    }
}

/// What each Service asks for in one family, in the order of their names. Many are planned on
/// all processors: one does not depend on another. O(cluster).
fn plan_services(cluster: &Cluster, node: &NodeContext, family: Family) -> Vec<ServicePlan> {
    /// Fewer take less time than to start a thread.
    const SHARE: usize = 500;
    let services: Vec<_> = cluster.services_with_slices().collect();
    let plan = |services: &[(&Service, Vec<&EndpointSlice>)]| -> Vec<ServicePlan> {
        let each = services.iter();
        each.map(|(service, slices)| plan_service(service, slices, family, node))
            .collect()
    };
    let most = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = services.len().div_ceil(most).max(SHARE);
    std::thread::scope(|scope| {
        let mut shares = services.chunks(share);
        let first = shares.next().unwrap_or_default();
        let others: Vec<_> = shares
            .map(|share| scope.spawn(move || plan(share)))
            .collect();
        let mut parts = plan(first);
        for other in others {
            match other.join() {
                Ok(planned) => parts.extend(planned),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        parts
    })
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
    let pod_sources = of_family(&pods::sources(cluster, config, node, family));
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
