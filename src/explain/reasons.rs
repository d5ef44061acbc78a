//! Why a packet goes where it goes, in Kubernetes' words. The walker says what happens; this
//! finds the fields of the objects that made it so.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::{Balancing, Family};
use crate::compile::SetId;
use crate::config::DetectLocal;
use crate::node::Node;
use crate::plan::{
    Endpoint, FamilyPlan, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey, ListKey,
    Standing, Target, View, Viewpoint, standings, without_port,
};
use crate::ruleset::Statement;
use crate::walk::{Candidate, Fate, Packet, Trace};

/// A packet, where it was walked, and what came of it.
pub struct Scene<'a> {
    /// The node that it meets.
    pub inputs: &'a Node,
    /// The packet.
    pub packet: &'a Packet,
    /// What the walk said of it.
    pub trace: &'a Trace,
    /// This node's addresses.
    pub local: &'a BTreeSet<IpAddr>,
    /// Walked through what the kernel holds.
    pub live: bool,
    /// Why there may be nothing to find.
    pub nothing: Nothing,
}

/// Why there may be nothing to find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The kernel has no table of ours.
    Installed,
    /// No objects were named, and no installed table is known without them.
    Given,
    /// Nothing of this family is in use on this node.
    InUse,
    /// There is something.
    No,
}

impl Nothing {
    /// Why; `given` if objects were named, `installed` unless the kernel lacks it, `table` if
    /// there is one to walk through.
    #[must_use]
    pub const fn of(given: bool, installed: bool, table: bool) -> Self {
        match (installed, table) {
            (false, _) => Self::Installed,
            (true, _) if !given => Self::Given,
            (true, false) => Self::InUse,
            (true, true) => Self::No,
        }
    }
}

/// What the kernel remembers of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// It goes there.
    At(Endpoint),
    /// Nothing.
    Nothing,
    /// No affinity here, or the kernel was not asked.
    NotAsked,
}

/// What is known about a packet besides where it goes.
pub struct Reasons<'a> {
    /// The frontend that it asks for.
    pub frontend: Option<&'a Frontend>,
    /// The host port, if no frontend comes first.
    pub host_port: Option<&'a HostPort>,
    /// The policy that counts for this client.
    pub policy: String,
    /// Endpoints of the service port and where each stands.
    pub endpoints: Vec<(Endpoint, Standing)>,
    /// Endpoints of the service that do not have the port.
    pub without_port: BTreeSet<IpAddr>,
    /// Session affinity in seconds.
    pub affinity: Option<u32>,
    /// What the kernel remembers of this client.
    pub memory: Remembered,
    /// Chosen by the client's address.
    pub by_source: bool,
    /// Why it is dropped, refused or left alone.
    pub fate: String,
}

impl<'a> Reasons<'a> {
    /// Finds the reasons for what the trace says.
    #[must_use]
    pub fn find(scene: &Scene<'a>) -> Self {
        let family = Family::of(&scene.packet.destination);
        let plan = scene
            .inputs
            .plan
            .families
            .iter()
            .find(|p| p.family == family);
        let frontend = plan.and_then(|plan| frontend(scene, plan));
        let host_port = plan.filter(|_| frontend.is_none());
        let mut reasons = Self {
            frontend,
            host_port: host_port.and_then(|plan| self::host_port(scene, plan)),
            policy: String::new(),
            endpoints: Vec::new(),
            without_port: BTreeSet::new(),
            affinity: None,
            memory: Remembered::NotAsked,
            by_source: false,
            fate: plan.map_or_else(String::new, |plan| fate(scene, plan, frontend)),
        };
        if let (Some(plan), Some(frontend)) = (plan, frontend) {
            let view = reasons.policy(scene, frontend);
            reasons.endpoints(scene.inputs, plan, frontend, view);
        }
        if scene.live && reasons.affinity.is_some() {
            reasons.memory = memory(scene.trace);
        }
        reasons
    }

    fn policy(&mut self, scene: &Scene<'_>, frontend: &Frontend) -> View {
        let inside = is_pod(scene) || scene.packet.from_node;
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

    fn endpoints(&mut self, inputs: &Node, plan: &FamilyPlan, frontend: &Frontend, view: View) {
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
            node: &inputs.context.name,
            zone: inputs.context.zone.as_deref(),
        };
        if let Some(port) = service.ports.iter().find(same) {
            let slices = inputs.cluster.slices_of(&owner.service);
            let found = standings(&slices, plan.family, port, from, view);
            self.endpoints = found.into_iter().collect();
            self.without_port = without_port(&slices, plan.family, port);
        }
    }

    /// The pod behind an endpoint of the frontend's Service, and its node, as far as its
    /// EndpointSlice names them. O(endpoints of the Service).
    #[must_use]
    pub fn pod(&self, scene: &Scene<'a>, addr: IpAddr) -> (Option<&'a str>, Option<&'a str>) {
        let service = self.frontend.map(|frontend| &frontend.owner.service);
        let slices = service.map(|service| scene.inputs.cluster.slices_of(service));
        let slices = slices.unwrap_or_default();
        let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let found = endpoints.find(|endpoint| endpoint.address == addr);
        found.map_or((None, None), |endpoint| {
            (endpoint.pod.as_deref(), endpoint.node_name.as_deref())
        })
    }

    /// True if an endpoint is itself a service address, so that what is sent there is lost:
    /// a packet is translated once.
    #[must_use]
    pub fn is_service_address(&self, scene: &Scene<'_>, candidate: &Candidate) -> bool {
        let addr = candidate.endpoint.addr;
        let families = scene.inputs.plan.families.iter();
        self.host_port.is_none()
            && families.into_iter().any(|plan| {
                within(&plan.service_ranges, addr) || plan.cluster_ips.contains_key(&addr)
            })
    }

    /// Why an endpoint sees the client's address, or this node's.
    #[must_use]
    pub fn masquerade(&self, scene: &Scene<'_>, candidate: &Candidate) -> &'static str {
        let Some(frontend) = self.frontend else {
            return if candidate.masqueraded {
                "hairpin: the pod answers itself"
            } else {
                "a host port keeps the client's address"
            };
        };
        let is_split = matches!(frontend.target, Target::Split { .. });
        let is_cluster_ip = frontend.kind == FrontendKind::ClusterIp;
        if candidate.masqueraded {
            return match () {
                () if candidate.endpoint.addr == scene.packet.source => {
                    "hairpin: the client is the endpoint"
                }
                () if is_split => "the client is this node",
                () if is_cluster_ip && scene.inputs.config.masquerade_all => "masqueradeAll",
                () if is_cluster_ip => "the client is not a pod",
                () => "externalTrafficPolicy Cluster: answers must come back through this node",
            };
        }
        match () {
            () if scene.local.contains(&candidate.endpoint.addr) => {
                "the endpoint is this node: nothing leaves it"
            }
            () if candidate.endpoint.addr == scene.packet.source => {
                "the client is the endpoint, whose nodeName is not this node: it will not answer itself"
            }
            () if is_split && is_pod(scene) => "policy Local, and the client is a pod",
            () if is_split => "policy Local keeps it",
            () if is_cluster_ip && is_pod(scene) => "the client is a pod",
            () if is_cluster_ip => "nothing tells pods of this family from others",
            () => "nothing asks for masquerade",
        }
    }
}

/// What the steps say of the client's memory: it is followed in the `affinity-lookup` chains.
fn memory(trace: &Trace) -> Remembered {
    let maps = [SetId::AffinityEndpoints, SetId::AffinityLocalEndpoints].map(SetId::name);
    let statements = trace.steps.iter().flat_map(|step| &step.rule.statements);
    let followed = statements
        .filter_map(Statement::set)
        .any(|set| maps.iter().any(|map| map == set));
    match trace.candidates.first() {
        Some(candidate) if followed => Remembered::At(candidate.endpoint),
        _ => Remembered::Nothing,
    }
}

/// True for clients that the configured detector takes for pods.
fn is_pod(scene: &Scene<'_>) -> bool {
    let iif = scene.packet.iif.as_deref().unwrap_or_default();
    match &scene.inputs.config.detect_local {
        DetectLocal::BridgeInterface(name) => iif == name.as_str(),
        DetectLocal::InterfaceNamePrefix(prefix) => iif.starts_with(prefix.as_str()),
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => {
            let sources = scene.inputs.plan.families.iter();
            within(sources.flat_map(|p| &p.pod_sources), scene.packet.source)
        }
    }
}

fn within<'a>(prefixes: impl IntoIterator<Item = &'a IpNet>, addr: IpAddr) -> bool {
    prefixes.into_iter().any(|net| net.contains(&addr))
}

fn frontend<'a>(scene: &Scene<'_>, plan: &'a FamilyPlan) -> Option<&'a Frontend> {
    let packet = scene.packet;
    let port = packet.port.try_into().ok()?;
    let by_address = FrontendKey::Address(packet.destination, packet.protocol, port);
    let by_port = FrontendKey::NodePort(packet.protocol, port);
    let answers = scene.local.contains(&packet.destination)
        && within(&plan.node_port_addresses, packet.destination);
    let found = plan.frontends.get(&by_address);
    found.or_else(|| plan.frontends.get(&by_port).filter(|_| answers))
}

fn host_port<'a>(scene: &Scene<'_>, plan: &'a FamilyPlan) -> Option<&'a HostPort> {
    let packet = scene.packet;
    let at = |addr| HostPortKey {
        addr,
        protocol: packet.protocol,
        port: packet.port.try_into().unwrap_or(std::num::NonZeroU16::MIN),
    };
    let found = plan.host_ports.get(&at(Some(packet.destination)));
    found
        .or_else(|| {
            let every = plan.host_ports.get(&at(None));
            every.filter(|_| scene.local.contains(&packet.destination))
        })
        .filter(|_| !scene.trace.candidates.is_empty())
}

/// Why it ends as it does; empty where the endpoints say it all.
fn fate(scene: &Scene<'_>, plan: &FamilyPlan, frontend: Option<&Frontend>) -> String {
    let (inputs, packet, trace) = (scene.inputs, scene.packet, scene.trace);
    let in_range = within(&plan.service_ranges, packet.destination);
    match (trace.fate, frontend) {
        (Fate::Accepted, _) if !trace.candidates.is_empty() => String::new(),
        _ if scene.nothing == Nothing::Installed => {
            "nothing is installed here (svcnat apply)".to_owned()
        }
        (Fate::Accepted, _) if trace.masqueraded => {
            "a pod of this node leaves the cluster: egress masquerade".to_owned()
        }
        (Fate::Accepted, Some(_)) => "left to others".to_owned(),
        (Fate::Accepted, None) if scene.nothing == Nothing::Given => {
            "no objects were given, so that no Service is known (-f)".to_owned()
        }
        (Fate::Accepted, None) if scene.nothing == Nothing::InUse => format!(
            "no Service, host port or pod CIDR of this node is of family {}",
            plan.family
        ),
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
            None if scene.nothing == Nothing::Given && in_range => {
                "no objects were given, so that no Service has this address of the service range \
                 (-f)"
                    .to_owned()
            }
            None if in_range => format!(
                "no Service has this address of the service range (--unallocated={})",
                match inputs.config.unallocated {
                    crate::config::Unallocated::Drop => "drop",
                    crate::config::Unallocated::Reject => "reject",
                }
            ),
            None if plan.external_ips().contains(&packet.destination) => format!(
                "an external address of a Service, but no port {}/{} of it (--unserved-external)",
                packet.port, packet.protocol
            ),
            None => "a rule of the installed table, see the steps".to_owned(),
        },
    }
}
