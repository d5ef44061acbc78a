//! The cluster as far as it can change a decision: no Kubernetes API types past this module.
//!
//! `source` fills these from manifests or from the API, `plan` reads them. Fields keep the
//! Kubernetes names; what the API leaves out is already resolved to its documented default.

mod change;
mod names;
mod slices;
mod special;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use crate::net::{Family, Protocol};
pub use change::{Change, Kind, Object};
pub use names::{Name, Names};
pub use slices::Slices;
pub use special::{special, special_in};

/// `namespace/name` of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Namespace; `default` where a manifest leaves it out.
    pub namespace: Name,
    /// Name.
    pub name: Name,
}

impl ObjectName {
    /// A name from its parts.
    #[must_use]
    pub fn new(namespace: impl Into<Name>, name: impl Into<Name>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Where an object came from, for messages: a file and the document in it, or the API.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Origin {
    /// File name, `<stdin>`, or the API server's address.
    pub source: Name,
    /// Number of the document in the source, from 1; 0 if it has no documents.
    pub document: usize,
    /// First line of the document, from 1; 0 if unknown.
    pub line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if self.document > 0 {
            write!(f, " (document {})", self.document)?;
        }
        Ok(())
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ServiceType {
    /// The default.
    #[default]
    ClusterIp,
    /// Also on a port of every node.
    NodePort,
    /// Also at the addresses of `status.loadBalancer.ingress`.
    LoadBalancer,
    /// A DNS alias: never proxied.
    ExternalName,
}

impl fmt::Display for ServiceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalName => "ExternalName",
        })
    }
}

/// `internalTrafficPolicy` and `externalTrafficPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints.
    #[default]
    Cluster,
    /// Only endpoints of this node.
    Local,
}

/// `spec.ipFamilyPolicy` of a Service; decides only where there is no cluster to assign
/// clusterIPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum FamilyPolicy {
    /// One family.
    #[default]
    SingleStack,
    /// Both families if there are ranges of both.
    PreferDualStack,
    /// Both families or none.
    RequireDualStack,
}

/// `targetPort` of a Service port; used only to derive endpoints from Pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(NonZeroU16),
    /// A container port's name.
    Name(String),
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Name, empty if unnamed.
    pub name: Name,
    /// Protocol.
    pub protocol: Protocol,
    /// The port of the service.
    pub port: NonZeroU16,
    /// Where endpoints listen; the service's port if the manifest leaves it out.
    pub target_port: TargetPort,
    /// The node port, if it has one.
    pub node_port: Option<NonZeroU16>,
}

/// How an endpoint is chosen for a new connection (annotation, beyond Kubernetes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Balancing {
    /// Uniform random.
    #[default]
    Random,
    /// By a hash of the client's address, the same on every node.
    SourceIp,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Name.
    pub name: ObjectName,
    /// Where it was read.
    pub origin: Origin,
    /// `spec.type`.
    pub service_type: ServiceType,
    /// `spec.clusterIPs`, one per family at most; empty if none was assigned yet.
    pub cluster_ips: Vec<IpAddr>,
    /// `clusterIP: None`.
    pub headless: bool,
    /// `spec.ipFamilies`; empty if the manifest leaves it out.
    pub ip_families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector` in key order; empty if it has none.
    pub selector: Vec<(Name, Name)>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `spec.loadBalancerIP`: the address asked for; `load_balancer_ips` are those given.
    pub load_balancer_ip: Option<IpAddr>,
    /// `status.loadBalancer.ingress[].ip` with `ipMode` VIP or absent.
    pub load_balancer_ips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, masked to their network.
    pub source_ranges: Vec<IpNet>,
    /// `spec.externalTrafficPolicy`.
    pub external_traffic_policy: TrafficPolicy,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic_policy: TrafficPolicy,
    /// `sessionAffinity: ClientIP` with its timeout in seconds.
    pub affinity_timeout: Option<u32>,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<NonZeroU16>,
    /// `spec.publishNotReadyAddresses`.
    pub publish_not_ready: bool,
    /// True with the label `service.kubernetes.io/service-proxy-name`: another proxy's.
    pub other_proxy: bool,
    /// Annotation `svcnat.io/balancing`.
    pub balancing: Balancing,
    /// Annotation `svcnat.io/weights`: by pod name (`pod/NAME`) or zone (`zone/NAME`).
    pub weights: BTreeMap<String, u32>,
    /// `metadata.creationTimestamp`, as the API spells it: of two claims the older wins.
    pub created: Option<String>,
}

/// One address of an EndpointSlice (or of an Endpoints subset, or of a Pod).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The first entry of `addresses`; kube-proxy ignores the others.
    pub address: IpAddr,
    /// `conditions.ready`, null is true.
    pub ready: bool,
    /// `conditions.serving`, null is true.
    pub serving: bool,
    /// `conditions.terminating`, null is false.
    pub terminating: bool,
    /// `nodeName`.
    pub node_name: Option<Name>,
    /// `zone`.
    pub zone: Option<Name>,
    /// `targetRef` name, if it is a Pod.
    pub pod: Option<Name>,
    /// `hints`; `None` if they name nobody.
    pub hints: Option<Box<Hints>>,
}

/// For whom an endpoint is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`.
    pub for_zones: Vec<Name>,
    /// `forNodes`.
    pub for_nodes: Vec<Name>,
}

impl SliceEndpoint {
    /// Zones it is meant for; empty if that is not said.
    #[must_use]
    pub fn for_zones(&self) -> &[Name] {
        self.hints.as_ref().map_or(&[], |hints| &hints.for_zones)
    }

    /// Nodes it is meant for; empty if that is not said.
    #[must_use]
    pub fn for_nodes(&self) -> &[Name] {
        self.hints.as_ref().map_or(&[], |hints| &hints.for_nodes)
    }
}

/// One port of an EndpointSlice that has a number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// Name, empty if unnamed.
    pub name: Name,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: NonZeroU16,
}

/// An EndpointSlice of one service and family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Its own name.
    pub name: ObjectName,
    /// Where it was read.
    pub origin: Origin,
    /// The service of its label `kubernetes.io/service-name`, in its own namespace.
    pub service: ObjectName,
    /// `addressType`; slices of type FQDN are not kept.
    pub family: Family,
    /// Endpoints.
    pub endpoints: Vec<SliceEndpoint>,
    /// Ports.
    pub ports: Vec<SlicePort>,
    /// Annotation `endpoints.kubernetes.io/last-change-trigger-time`, for latency metrics.
    pub trigger_time: Option<String>,
}

/// A container port of a Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPort {
    /// The container that declares it, for messages.
    pub container: String,
    /// Name, empty if unnamed.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// `containerPort`.
    pub port: NonZeroU16,
    /// `hostPort`, if it has one.
    pub host_port: Option<NonZeroU16>,
    /// `hostIP`; `None` for every address of the node, the unspecified address for every one
    /// of its family.
    pub host_ip: Option<IpAddr>,
}

/// A Pod. All its containers share its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Name.
    pub name: ObjectName,
    /// Where it was read.
    pub origin: Origin,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// `spec.nodeName`.
    pub node_name: Option<String>,
    /// `status.podIPs`, one per family.
    pub addresses: Vec<IpAddr>,
    /// Ports of all containers.
    pub ports: Vec<ContainerPort>,
    /// Condition Ready; true if the status says nothing about conditions.
    pub ready: bool,
    /// Phase Succeeded or Failed: it holds no port and serves nothing.
    pub finished: bool,
    /// Has a `deletionTimestamp`.
    pub terminating: bool,
    /// `metadata.creationTimestamp`, as the API spells it: of two claims the older wins.
    pub created: Option<String>,
    /// `spec.hostNetwork`: its ports are the node's own, nothing is mapped.
    pub host_network: bool,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Where it was read.
    pub origin: Origin,
    /// `status.addresses` of type InternalIP, then of type ExternalIP.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
    /// Has a `deletionTimestamp`.
    pub deleting: bool,
    /// Carries the taint `ToBeDeletedByClusterAutoscaler`.
    pub autoscaler_taint: bool,
}

/// A workload whose pod template we check (ReplicationController, ReplicaSet, Deployment,
/// StatefulSet, DaemonSet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: ObjectName,
    /// Where it was read.
    pub origin: Origin,
    /// `spec.replicas`, 1 if left out; `None` of a DaemonSet, which has one on each node.
    pub replicas: Option<u32>,
    /// Selector (match labels).
    pub selector: BTreeMap<String, String>,
    /// The template's labels.
    pub labels: BTreeMap<String, String>,
    /// The template's container ports.
    pub ports: Vec<ContainerPort>,
    /// The template's `hostNetwork`.
    pub host_network: bool,
}

impl Workload {
    /// How many pods it has where there are so many nodes.
    #[must_use]
    pub fn replicas_on(&self, nodes: usize) -> usize {
        self.replicas.map_or(nodes, |replicas| replicas as usize)
    }

    /// Is it one of its pods?
    #[must_use]
    pub fn has(&self, pod: &Pod) -> bool {
        pod.name.namespace == self.name.namespace
            && self
                .selector
                .iter()
                .all(|(k, v)| pod.labels.get(k) == Some(v))
    }
}

/// A ServiceCIDR object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// Name.
    pub name: String,
    /// Where it was read.
    pub origin: Origin,
    /// `spec.cidrs`.
    pub cidrs: Vec<IpNet>,
}

/// Everything read from all sources. Maps are ordered, so that the same objects give the
/// same ruleset whatever order they came in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cluster {
    /// Services by name. Boxed: a map reserves room for eleven values in each node.
    pub services: BTreeMap<ObjectName, Box<Service>>,
    /// Slices by service.
    pub slices: BTreeMap<ObjectName, Slices>,
    /// Pods by name.
    pub pods: BTreeMap<ObjectName, Pod>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// ServiceCIDRs by name.
    pub service_cidrs: BTreeMap<String, ServiceCidr>,
    /// Workloads, in the order read.
    pub workloads: Vec<Workload>,
}

impl Cluster {
    /// The Service of this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(|service| &**service)
    }

    /// All services, each with its slices. O(both): the maps are walked side by side.
    pub fn services_with_slices(&self) -> impl Iterator<Item = (&Service, Vec<&EndpointSlice>)> {
        let mut slices = self.slices.iter().peekable();
        self.services.iter().map(move |(name, service)| {
            while slices.next_if(|(of, _)| *of < name).is_some() {}
            let own = slices.next_if(|(of, _)| *of == name);
            let own = own.map_or_else(Vec::new, |(_, slices)| slices.iter().collect());
            (&**service, own)
        })
    }

    /// The objects of the kinds that are followed, each taken out in turn.
    #[must_use]
    pub fn take(&mut self, kind: Kind) -> Vec<Object> {
        match kind {
            Kind::Service => {
                let all = std::mem::take(&mut self.services).into_values();
                all.map(Object::Service).collect()
            }
            Kind::EndpointSlice => {
                let all = std::mem::take(&mut self.slices).into_values().flatten();
                all.map(|slice| Object::Slice(Box::new(slice))).collect()
            }
            Kind::Node => {
                let all = std::mem::take(&mut self.nodes).into_values();
                all.map(|node| Object::Node(Box::new(node))).collect()
            }
            Kind::Pod => {
                let all = std::mem::take(&mut self.pods).into_values();
                all.map(|pod| Object::Pod(Box::new(pod))).collect()
            }
            Kind::ServiceCidr => {
                let all = std::mem::take(&mut self.service_cidrs).into_values();
                all.map(|cidr| Object::ServiceCidr(Box::new(cidr)))
                    .collect()
            }
        }
    }

    /// Names of all objects of a kind.
    #[must_use]
    pub fn names(&self, kind: Kind) -> Vec<ObjectName> {
        let bare = |name: &String| ObjectName::new("", name.as_str());
        match kind {
            Kind::Service => self.services.keys().cloned().collect(),
            Kind::EndpointSlice => {
                let all = self.slices.values().flat_map(Slices::iter);
                all.map(|slice| slice.name.clone()).collect()
            }
            Kind::Node => self.nodes.keys().map(bare).collect(),
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().map(bare).collect(),
        }
    }

    /// The slices of a service, in name order.
    #[must_use]
    pub fn slices_of(&self, service: &ObjectName) -> Vec<&EndpointSlice> {
        self.slices
            .get(service)
            .into_iter()
            .flat_map(Slices::iter)
            .collect()
    }
}
