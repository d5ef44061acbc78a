//! Why a packet goes where it goes, in Kubernetes' words. The walker says what happens; this
//! finds the fields of the objects that made it so.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cli::inputs::Inputs;
use crate::cluster::{Balancing, Family};
use crate::plan::{
    Endpoint, FamilyPlan, Frontend, FrontendKey, FrontendKind, ListKey, Standing, Target, View,
    Viewpoint, standings,
};
use crate::walk::{Candidate, Fate, Packet, Trace};

/// What is known about a packet besides where it goes.
pub struct Reasons<'a> {
    pub frontend: Option<(FrontendKey, &'a Frontend)>,
    /// The policy that counts for this client.
    pub policy: String,
    /// Endpoints of the service port and where each stands.
    pub endpoints: Vec<(Endpoint, Standing)>,
    /// Session affinity in seconds.
    pub affinity: Option<u32>,
    /// Chosen by the client's address.
    pub by_source: bool,
    /// Why it is dropped, refused or left alone.
    pub fate: String,
}

impl<'a> Reasons<'a> {
    /// Finds the reasons for what `trace` says.
    pub fn find(inputs: &'a Inputs, packet: &Packet, trace: &Trace) -> Self {
        let family = Family::of(&packet.destination);
        let plan = inputs.plan.families.iter().find(|p| p.family == family);
        let frontend = plan.and_then(|plan| frontend(inputs, plan, packet));
        let mut reasons = Self {
            frontend,
            policy: String::new(),
            endpoints: Vec::new(),
            affinity: None,
            by_source: false,
            fate: plan.map_or_else(String::new, |plan| {
                fate(inputs, plan, packet, trace, frontend.map(|(_, f)| f))
            }),
        };
        if let (Some(plan), Some((_, frontend))) = (plan, frontend) {
            let view = reasons.policy(inputs, packet, frontend);
            reasons.endpoints(inputs, plan, frontend, view);
        }
        reasons
    }

    fn policy(&mut self, inputs: &Inputs, packet: &Packet, frontend: &Frontend) -> View {
        let inside = is_inside(inputs, packet);
        let (text, view) = match (&frontend.target, frontend.kind) {
            (Target::Split { .. }, _) if inside => (
                "externalTrafficPolicy Local, but the client is a pod or this node: any endpoint",
                View::Cluster,
            ),
            (Target::Split { .. }, _) => ("externalTrafficPolicy Local", View::Local),
            (
                Target::List(ListKey {
                    view: View::Local, ..
                }),
                FrontendKind::ClusterIp,
            ) => ("internalTrafficPolicy Local", View::Local),
            (
                Target::List(ListKey {
                    view: View::Local, ..
                }),
                _,
            ) => ("externalTrafficPolicy Local", View::Local),
            (Target::List(_), FrontendKind::ClusterIp) => {
                ("internalTrafficPolicy Cluster", View::Cluster)
            }
            (Target::List(_), _) => ("externalTrafficPolicy Cluster", View::Cluster),
            (Target::Drop, _) => ("policy Local", View::Local),
            (Target::Reject, _) => ("no usable endpoint anywhere", View::Cluster),
        };
        text.clone_into(&mut self.policy);
        view
    }

    fn endpoints(&mut self, inputs: &Inputs, plan: &FamilyPlan, frontend: &Frontend, view: View) {
        let owner = &frontend.owner;
        let port = owner.clone();
        if let Some(list) = plan.lists.get(&ListKey { port, view }) {
            self.affinity = list.affinity_timeout;
            self.by_source = list.balancing == Balancing::SourceIp;
        }
        let Some(service) = inputs.cluster.services.get(&owner.service) else {
            return;
        };
        let same = |p: &&crate::cluster::ServicePort| {
            p.name == owner.port_name && p.protocol == owner.protocol
        };
        let from = Viewpoint {
            node: &inputs.node.name,
            zone: inputs.node.zone.as_deref(),
        };
        if let Some(port) = service.ports.iter().find(same) {
            let slices = inputs.cluster.slices_of(&owner.service);
            let found = standings(&slices, plan.family, port, from, view);
            self.endpoints = found.into_iter().collect();
        }
    }

    /// Why an endpoint sees the client's address, or this node's.
    pub fn masquerade(
        &self,
        inputs: &Inputs,
        packet: &Packet,
        candidate: &Candidate,
    ) -> &'static str {
        let Some((_, frontend)) = self.frontend else {
            return match candidate.masqueraded {
                true => "hairpin: the pod answers itself",
                false => "a host port keeps the client's address",
            };
        };
        if candidate.masqueraded {
            return match frontend.kind {
                _ if candidate.endpoint.addr == packet.source => {
                    "hairpin: the client is the endpoint"
                }
                FrontendKind::ClusterIp if inputs.config.masquerade_all => "masqueradeAll",
                FrontendKind::ClusterIp => "the client is not a pod",
                _ => "externalTrafficPolicy Cluster: answers must come back through this node",
            };
        }
        match (&frontend.target, frontend.kind) {
            (Target::Split { .. }, _) => "policy Local keeps it",
            (_, FrontendKind::ClusterIp) if packet.from_node => "the endpoint is on this node",
            (_, FrontendKind::ClusterIp) => "the client is a pod",
            _ => "nothing asks for masquerade",
        }
    }
}

/// True for clients that policy Local lets pass to all endpoints: pods and this node.
fn is_inside(inputs: &Inputs, packet: &Packet) -> bool {
    let pods = inputs.plan.families.iter().flat_map(|p| &p.pod_sources);
    packet.from_node || within(pods, packet.source)
}

fn within<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, addr: IpAddr) -> bool {
    prefixes.into_iter().any(|net| net.contains(&addr))
}

fn frontend<'a>(
    inputs: &Inputs,
    plan: &'a FamilyPlan,
    packet: &Packet,
) -> Option<(FrontendKey, &'a Frontend)> {
    let port = packet.port.try_into().ok()?;
    let by_address = FrontendKey::Address(packet.destination, packet.protocol, port);
    let by_port = FrontendKey::NodePort(packet.protocol, port);
    let answers = inputs.node.addresses.contains(&packet.destination)
        && within(&plan.node_port_addresses, packet.destination);
    let found = plan.frontends.get(&by_address).map(|f| (by_address, f));
    found.or_else(|| {
        let frontend = plan.frontends.get(&by_port).filter(|_| answers);
        frontend.map(|f| (by_port, f))
    })
}

/// Why it ends as it does; empty where the endpoints say it all.
fn fate(
    inputs: &Inputs,
    plan: &FamilyPlan,
    packet: &Packet,
    trace: &Trace,
    frontend: Option<&Frontend>,
) -> String {
    let in_range = within(&plan.service_ranges, packet.destination);
    match (trace.fate, frontend) {
        (Fate::Accepted, _) if !trace.candidates.is_empty() => String::new(),
        (Fate::Accepted, _) if trace.masqueraded => {
            "a pod of this node leaves the cluster: egress masquerade".to_owned()
        }
        (Fate::Accepted, Some(_)) => "left to others".to_owned(),
        (Fate::Accepted, None) => {
            "no frontend of any Service, and nothing to masquerade".to_owned()
        }
        (Fate::Dropped, Some(frontend)) => match &frontend.source_ranges {
            Some(ranges) if !within(ranges, packet.source) => format!(
                "{} is outside loadBalancerSourceRanges of Service {}",
                packet.source, frontend.owner.service
            ),
            _ => format!(
                "policy Local, and Service {} has no usable endpoint on this node",
                frontend.owner.service
            ),
        },
        (Fate::Refused, Some(frontend)) => {
            format!("Service {} has no usable endpoint", frontend.owner.service)
        }
        (Fate::Dropped | Fate::Refused, None) => match plan.cluster_ips.get(&packet.destination) {
            Some(service) => format!(
                "{service} has this clusterIP, but no port {}/{}",
                packet.port, packet.protocol
            ),
            None if in_range => format!(
                "no Service has this address of the service range (--unallocated={})",
                match inputs.config.unallocated {
                    crate::config::Unallocated::Drop => "drop",
                    crate::config::Unallocated::Reject => "reject",
                }
            ),
            None => "a rule of the installed table, see the steps".to_owned(),
        },
    }
}
