//! One service: its frontends in both families, and what is behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::NodeContext;
use super::claims::Claimant;
use super::complaints;
use super::endpoints::{Selection, Viewpoint, select};
use super::types::{
    Endpoint, EndpointList, Frontend, FrontendKey, FrontendKind, ListKey, ServicePortKey, Target,
    View, WeightedEndpoints,
};
use crate::cluster::{
    Balancing, EndpointSlice, Family, Name, Origin, Protocol, Service, ServicePort, ServiceType,
    SliceEndpoint, TrafficPolicy,
};
use crate::problem::Problem;
use crate::text::comment;

/// What one service asks for in one family, or what of it is its own once
/// [`super::Claims::award`] has decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Family.
    pub family: Family,
    /// Who asks; `None` if nothing is asked for.
    pub claimant: Option<Arc<Claimant>>,
    /// Where it was read.
    pub origin: Option<Origin>,
    /// A clusterIP that another proxy serves: nobody's external address here.
    pub reserved: Option<IpAddr>,
    /// Endpoint lists that some frontend leads to.
    pub lists: BTreeMap<ListKey, EndpointList>,
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Its clusterIP.
    pub cluster_ips: BTreeMap<IpAddr, Arc<str>>,
    /// Addresses of its endpoints on this node.
    pub local_endpoints: BTreeSet<IpAddr>,
    /// Slots that its weighted lists would take if there were no limit to them.
    pub weighted: Vec<u64>,
    /// What of it cannot be served, or not as it says.
    pub problems: Vec<Problem>,
}

impl ServicePlan {
    /// A plan of nothing.
    #[must_use]
    pub const fn empty(family: Family) -> Self {
        Self {
            family,
            claimant: None,
            origin: None,
            reserved: None,
            lists: BTreeMap::new(),
            frontends: BTreeMap::new(),
            cluster_ips: BTreeMap::new(),
            local_endpoints: BTreeSet::new(),
            weighted: Vec::new(),
            problems: Vec::new(),
        }
    }
}

impl ServicePlan {
    /// External addresses of its frontends, each once.
    #[must_use]
    pub fn external_ips(&self) -> BTreeSet<IpAddr> {
        super::types::external_ips(&self.frontends)
    }
}

/// True if this proxy has nothing to do for the service: headless, an alias, another
/// proxy's.
#[must_use]
pub fn is_ignored(service: &Service) -> bool {
    service.headless || service.other_proxy || service.service_type == ServiceType::ExternalName
}

/// Plans one family of one service. O(its own ports and endpoints).
#[must_use]
pub fn plan_service(
    service: &Service,
    slices: &[&EndpointSlice],
    family: Family,
    node: &NodeContext,
) -> ServicePlan {
    let mut plan = ServicePlan::empty(family);
    let of_family = |addr: &&IpAddr| Family::of(addr) == family;
    let Some(cluster_ip) = service.cluster_ips.iter().find(of_family) else {
        return plan;
    };
    let problem = complaints::address(service, "spec.clusterIP", *cluster_ip)
        .or_else(|| complaints::host(service, *cluster_ip, node));
    if let Some(problem) = problem {
        plan.problems.push(problem);
        return plan;
    }
    if is_ignored(service) {
        if service.other_proxy {
            plan.claimant = Some(claimant(service));
            plan.reserved = Some(*cluster_ip);
        }
        return plan;
    }
    plan.claimant = Some(claimant(service));
    plan.origin = Some(service.origin.clone());
    let own = comment::clean(&service.name.to_string());
    plan.cluster_ips.insert(*cluster_ip, Arc::clone(&own));
    let from = Viewpoint {
        node: &node.name,
        zone: node.zone.as_deref(),
    };
    let external = external(&mut plan, service);
    plan.problems
        .extend(complaints::endpoints(service, slices, family, node));
    for port in &service.ports {
        let chosen = select(slices, family, port, from);
        if chosen.without_port {
            let found = complaints::without_port(service, slices, family, port);
            plan.problems.extend(found);
        }
        Port {
            service,
            port,
            family,
            node,
            chosen: &chosen,
            external: &external,
            key: Arc::new(ServicePortKey {
                service: service.name.clone(),
                port_name: port.name.clone(),
                protocol: port.protocol,
            }),
            comment: match &*port.name {
                "" => Arc::clone(&own),
                name => comment::clean(&format!("{}:{name}", service.name)),
            },
        }
        .plan(&mut plan, *cluster_ip);
    }
    plan
}

fn claimant(service: &Service) -> Arc<Claimant> {
    Arc::new(Claimant::new(&service.name, service.created.as_deref()))
}

/// External addresses of the family, less those that cannot be any.
fn external(plan: &mut ServicePlan, service: &Service) -> Vec<(FrontendKind, IpAddr)> {
    let ips = service.external_ips.iter();
    let vips = service.load_balancer_ips.iter();
    let all = ips
        .map(|ip| (FrontendKind::ExternalIp, "spec.externalIPs", *ip))
        .chain(vips.map(|ip| {
            (
                FrontendKind::LoadBalancer,
                "status.loadBalancer.ingress",
                *ip,
            )
        }));
    let mut out = Vec::new();
    for (kind, field, ip) in all.filter(|(.., ip)| Family::of(ip) == plan.family) {
        match complaints::address(service, field, ip) {
            Some(problem) => plan.problems.push(problem),
            None => out.push((kind, ip)),
        }
    }
    out
}

struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    node: &'a NodeContext,
    chosen: &'a Selection<'a>,
    external: &'a [(FrontendKind, IpAddr)],
    key: Arc<ServicePortKey>,
    comment: Arc<str>,
}

impl Port<'_> {
    fn plan(&self, plan: &mut ServicePlan, cluster_ip: IpAddr) {
        let from = Viewpoint {
            node: &self.node.name,
            zone: None,
        };
        for (endpoint, found) in self.chosen.cluster.iter().chain(&self.chosen.local) {
            if from.is_local(found) {
                plan.local_endpoints.insert(endpoint.addr);
            }
        }
        let internal = self.internal(plan);
        self.frontend(plan, FrontendKind::ClusterIp, Some(cluster_ip), internal);
        let addresses = self.external.iter().map(|(kind, ip)| (*kind, Some(*ip)));
        let node_port = self.port.node_port.map(|_| (FrontendKind::NodePort, None));
        for (kind, addr) in addresses.chain(node_port) {
            if let Some(problem) = self.protected(kind, addr) {
                plan.problems.push(problem);
                continue;
            }
            let target = self.external(plan);
            self.frontend(plan, kind, addr, target);
        }
    }

    /// Where the API server itself answers, no Service may: the node would lose its cluster.
    fn protected(&self, kind: FrontendKind, addr: Option<IpAddr>) -> Option<Problem> {
        if self.port.protocol != Protocol::Tcp {
            return None;
        }
        let at = match addr {
            Some(addr) => self.node.protected_at(Some(addr), self.port.port),
            None => self.node.protected_at(None, self.port.node_port?),
        }?;
        Some(complaints::protected(self.service, kind, at))
    }

    fn frontend(
        &self,
        plan: &mut ServicePlan,
        kind: FrontendKind,
        addr: Option<IpAddr>,
        target: Target,
    ) {
        let key = match (addr, self.port.node_port) {
            (Some(addr), _) => FrontendKey::Address(addr, self.port.protocol, self.port.port),
            (None, Some(number)) => FrontendKey::NodePort(self.port.protocol, number),
            (None, None) => return,
        };
        let source_ranges = (kind == FrontendKind::LoadBalancer)
            .then(|| self.source_ranges())
            .flatten();
        let frontend = Frontend {
            kind,
            target,
            owner: Arc::clone(&self.key),
            source_ranges,
            comment: Arc::clone(&self.comment),
        };
        plan.frontends.entry(key).or_insert(frontend);
    }

    /// Allowed sources of this family. A node that is itself allowed reaches its own VIP
    /// with the VIP as source, so that is allowed too.
    fn source_ranges(&self) -> Option<Vec<IpNet>> {
        let of_family = |net: &&IpNet| Family::of(&net.addr()) == self.family;
        let mut ranges: Vec<IpNet> = self
            .service
            .source_ranges
            .iter()
            .filter(of_family)
            .copied()
            .collect();
        if ranges.is_empty() || ranges.iter().any(|net| net.prefix_len() == 0) {
            return None;
        }
        let own = self
            .node
            .addresses
            .iter()
            .find(|a| Family::of(a) == self.family);
        if own.is_some_and(|own| ranges.iter().any(|net| net.contains(own))) {
            let vips = self.service.load_balancer_ips.iter();
            ranges.extend(
                vips.filter(|ip| Family::of(ip) == self.family)
                    .map(|ip| IpNet::from(*ip)),
            );
        }
        Some(IpNet::aggregate(&ranges))
    }

    fn internal(&self, plan: &mut ServicePlan) -> Target {
        let view = match self.service.internal_traffic_policy {
            TrafficPolicy::Cluster => View::Cluster,
            TrafficPolicy::Local => View::Local,
        };
        self.list(plan, view)
            .map_or_else(|| self.without_endpoints(), Target::List)
    }

    fn external(&self, plan: &mut ServicePlan) -> Target {
        if self.service.external_traffic_policy == TrafficPolicy::Cluster {
            return self
                .list(plan, View::Cluster)
                .map_or_else(|| self.without_endpoints(), Target::List);
        }
        let outside = self.list(plan, View::Local);
        let inside = self.list(plan, View::Cluster);
        if outside.is_none() && inside.is_none() {
            return self.without_endpoints();
        }
        Target::Split { outside, inside }
    }

    const fn without_endpoints(&self) -> Target {
        if self.chosen.any {
            Target::Drop
        } else {
            Target::Reject
        }
    }

    /// The list of a view, made when first asked for; `None` if nothing is in it.
    fn list(&self, plan: &mut ServicePlan, view: View) -> Option<ListKey> {
        let chosen = match view {
            View::Cluster => &self.chosen.cluster,
            View::Local => &self.chosen.local,
        };
        if chosen.is_empty() {
            return None;
        }
        let key = ListKey {
            port: Arc::clone(&self.key),
            view,
        };
        if !plan.lists.contains_key(&key) {
            let list = EndpointList {
                endpoints: self.weighted(plan, chosen),
                balancing: self.service.balancing,
                affinity_timeout: self.service.affinity_timeout,
                comment: Arc::clone(&self.comment),
            };
            plan.lists.insert(key.clone(), list);
        }
        Some(key)
    }

    /// Endpoints with their weights, brought to lowest terms, and to as many slots as a list
    /// may have.
    fn weighted(
        &self,
        plan: &mut ServicePlan,
        chosen: &[(Endpoint, &SliceEndpoint)],
    ) -> WeightedEndpoints {
        let weights = &self.service.weights;
        if weights.is_empty() {
            return chosen.iter().map(|(endpoint, _)| (*endpoint, 1)).collect();
        }
        let named = |kind: &str, name: &Option<Name>| {
            let name = name.as_deref()?;
            weights.get(&format!("{kind}/{name}")).copied()
        };
        let out: WeightedEndpoints = chosen
            .iter()
            .map(|(key, e)| {
                let weight = named("pod", &e.pod).or_else(|| named("zone", &e.zone));
                (*key, weight.unwrap_or(1).max(1))
            })
            .collect();
        let out = out.in_lowest_terms();
        if self.service.balancing == Balancing::SourceIp {
            // Its table has as many slots as any other.
            return out;
        }
        let wanted = out.slots();
        if wanted == out.len() as u64 {
            return out;
        }
        plan.weighted.push(wanted);
        let limit = u64::from(self.node.weighted_slots).max(out.len() as u64);
        if wanted <= limit {
            return out;
        }
        let near = out.within(limit);
        plan.problems.push(complaints::weights(
            self.service,
            self.port,
            wanted,
            near.slots(),
            out.difference(&near),
        ));
        near
    }
}
