//! One service: its frontends in both families, and what is behind each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::NodeContext;
use super::endpoints::{Selection, Viewpoint, select};
use super::types::{
    Endpoint, EndpointList, Frontend, FrontendKey, FrontendKind, ListKey, ServicePortKey, Target,
    View, WeightedEndpoints,
};
use crate::cluster::{
    EndpointSlice, Family, Name, Service, ServicePort, ServiceType, SliceEndpoint, TrafficPolicy,
};
use crate::ruleset::comment;

/// What one service brings to one family's plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePlan {
    /// Family.
    pub family: Family,
    /// Endpoint lists that some frontend leads to.
    pub lists: BTreeMap<ListKey, EndpointList>,
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Its clusterIP.
    pub cluster_ips: BTreeMap<IpAddr, Arc<str>>,
    /// Addresses of its endpoints on this node.
    pub local_endpoints: BTreeSet<IpAddr>,
}

impl ServicePlan {
    /// A plan of nothing.
    #[must_use]
    pub const fn empty(family: Family) -> Self {
        Self {
            family,
            lists: BTreeMap::new(),
            frontends: BTreeMap::new(),
            cluster_ips: BTreeMap::new(),
            local_endpoints: BTreeSet::new(),
        }
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
    if is_ignored(service) {
        return plan;
    }
    let own = comment::clean(&service.name.to_string());
    plan.cluster_ips.insert(*cluster_ip, Arc::clone(&own));
    let from = Viewpoint {
        node: &node.name,
        zone: node.zone.as_deref(),
    };
    for port in &service.ports {
        let chosen = select(slices, family, port, from);
        Port {
            service,
            port,
            family,
            node,
            chosen: &chosen,
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

struct Port<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    family: Family,
    node: &'a NodeContext,
    chosen: &'a Selection<'a>,
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
        let of_family = |addr: &&IpAddr| Family::of(addr) == self.family;
        let external: Vec<(FrontendKind, Option<IpAddr>)> = {
            let ips = self.service.external_ips.iter().filter(of_family);
            let vips = self.service.load_balancer_ips.iter().filter(of_family);
            let ips = ips.map(|ip| (FrontendKind::ExternalIp, Some(*ip)));
            let vips = vips.map(|ip| (FrontendKind::LoadBalancer, Some(*ip)));
            let node_port = self.port.node_port.map(|_| (FrontendKind::NodePort, None));
            ips.chain(vips).chain(node_port).collect()
        };
        for (kind, addr) in external {
            let target = self.external(plan);
            self.frontend(plan, kind, addr, target);
        }
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
            .map_or_else(|| self.unserved(), Target::List)
    }

    fn external(&self, plan: &mut ServicePlan) -> Target {
        if self.service.external_traffic_policy == TrafficPolicy::Cluster {
            return self
                .list(plan, View::Cluster)
                .map_or_else(|| self.unserved(), Target::List);
        }
        let outside = self.list(plan, View::Local);
        let inside = self.list(plan, View::Cluster);
        if outside.is_none() && inside.is_none() {
            return self.unserved();
        }
        Target::Split { outside, inside }
    }

    const fn unserved(&self) -> Target {
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
        plan.lists
            .entry(key.clone())
            .or_insert_with(|| EndpointList {
                endpoints: self.weighted(chosen),
                balancing: self.service.balancing,
                affinity_timeout: self.service.affinity_timeout,
                comment: Arc::clone(&self.comment),
            });
        Some(key)
    }

    /// Endpoints with their weights, brought to lowest terms.
    fn weighted(&self, chosen: &[(Endpoint, &SliceEndpoint)]) -> WeightedEndpoints {
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
        out.in_lowest_terms()
    }
}
