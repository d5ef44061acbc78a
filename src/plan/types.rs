//! The desired state of this node in Kubernetes' terms: what `plan` decides and `compile`
//! turns into nftables.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use super::ServicePlan;
use crate::cluster::{Balancing, Family, Name, ObjectName, Protocol};
use crate::config::{Config, DetectLocal, MarkBit, Unallocated, UnservedExternal};
pub use crate::net::Endpoint;

/// A port of a service in one family: the unit of load balancing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortKey {
    /// The Service.
    pub service: ObjectName,
    /// The port's name, empty if unnamed.
    pub port_name: Name,
    /// Protocol (several unnamed... ports of one name differ by it).
    pub protocol: Protocol,
}

/// Which endpoints of a service port a list holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Policy Cluster: all usable endpoints, narrowed by topology hints.
    Cluster,
    /// Policy Local: usable endpoints of this node.
    Local,
}

/// Name of an endpoint list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListKey {
    /// The service port.
    pub port: Arc<ServicePortKey>,
    /// Which endpoints.
    pub view: View,
}

/// Endpoints in order, each once, with its weight. A sorted list: most are short, and there
/// is one for every service port.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct WeightedEndpoints(Vec<(Endpoint, u32)>);

impl WeightedEndpoints {
    /// Endpoints and weights.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Endpoint, &u32)> {
        self.0.iter().map(|(endpoint, weight)| (endpoint, weight))
    }

    /// Endpoints alone.
    pub fn keys(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter().map(|(endpoint, _)| endpoint)
    }

    /// Weights alone.
    pub fn values(&self) -> impl Iterator<Item = &u32> {
        self.0.iter().map(|(_, weight)| weight)
    }

    /// Number of endpoints.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The place of an endpoint in the order.
    #[must_use]
    pub fn position(&self, endpoint: &Endpoint) -> Option<usize> {
        self.0.binary_search_by_key(endpoint, |(e, _)| *e).ok()
    }

    /// Slots that all weights take together.
    #[must_use]
    pub fn slots(&self) -> u64 {
        self.values().map(|weight| u64::from(*weight)).sum()
    }

    /// The same endpoints with weights that take `slots` slots, as near to these shares as
    /// that allows; every endpoint keeps one at least. O(endpoints · log).
    #[must_use]
    pub fn within(&self, slots: u64) -> Self {
        let mut out = self.clone();
        let mut order: Vec<usize> = (0..self.len()).collect();
        order.sort_by_key(|i| self.0[*i].1);
        // Shares below one slot are one; the others share what that leaves.
        let (mut weights, mut left) = (self.slots(), slots.max(self.len() as u64));
        let small = order.iter().take_while(|i| {
            let weight = u64::from(self.0[**i].1);
            let below = weight * left < weights;
            if below {
                weights -= weight;
                left -= 1;
            }
            below
        });
        let small = small.count();
        for i in &order[..small] {
            out.0[*i].1 = 1;
        }
        // Rounded down, then up where most is missing.
        let mut missing = Vec::with_capacity(order.len() - small);
        let mut rest = left;
        for i in &order[small..] {
            let wanted = u64::from(self.0[*i].1) * left;
            let share = wanted / weights.max(1);
            rest -= share;
            missing.push((std::cmp::Reverse(wanted % weights.max(1)), *i));
            out.0[*i].1 = u32::try_from(share).unwrap_or(u32::MAX);
        }
        missing.sort_unstable();
        for (_, i) in missing.into_iter().take(usize::try_from(rest).unwrap_or(0)) {
            out.0[i].1 += 1;
        }
        out.in_lowest_terms()
    }

    /// The largest difference between an endpoint's shares here and there, 0 to 1.
    #[must_use]
    pub fn difference(&self, other: &Self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "slots are far below 2^52")]
        let all = |list: &Self| list.slots().max(1) as f64;
        let (here, there) = (all(self), all(other));
        let pairs = self.values().zip(other.values());
        pairs
            .map(|(a, b)| (f64::from(*a) / here - f64::from(*b) / there).abs())
            .fold(0.0, f64::max)
    }

    /// Divides all weights by what they have in common.
    #[must_use]
    pub fn in_lowest_terms(mut self) -> Self {
        let divisor = self.values().copied().fold(0, gcd).max(1);
        for (_, weight) in &mut self.0 {
            *weight /= divisor;
        }
        self
    }
}

/// In any order; of two entries for one endpoint the last counts.
impl FromIterator<(Endpoint, u32)> for WeightedEndpoints {
    fn from_iter<I: IntoIterator<Item = (Endpoint, u32)>>(items: I) -> Self {
        let mut list: Vec<(Endpoint, u32)> = items.into_iter().collect();
        list.sort_by_key(|(endpoint, _)| *endpoint);
        list.dedup_by(|later, kept| {
            let same = later.0 == kept.0;
            if same {
                kept.1 = later.1;
            }
            same
        });
        Self(list)
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The endpoints of a list and how one is chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointList {
    /// Endpoints and their weights (at least 1; all 1 unless the user weighs them).
    /// Never empty: a list without endpoints does not exist.
    pub endpoints: WeightedEndpoints,
    /// Random or by source address.
    pub balancing: Balancing,
    /// Session affinity, in seconds.
    pub affinity_timeout: Option<u32>,
    /// Comment: `namespace/name:port`.
    pub comment: Arc<str>,
}

/// Where clients knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKey {
    /// One address: ClusterIP, external IP or load-balancer IP.
    Address(IpAddr, Protocol, NonZeroU16),
    /// Any address of this node that accepts node ports.
    NodePort(Protocol, NonZeroU16),
}

/// `ADDRESS:PORT/TCP`, IPv6 in brackets; `node:PORT/TCP` for node ports.
impl std::fmt::Display for FrontendKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(addr, protocol, port) => {
                write!(f, "{}/{protocol}", SocketAddr::new(*addr, port.get()))
            }
            Self::NodePort(protocol, port) => write!(f, "node:{port}/{protocol}"),
        }
    }
}

impl FrontendKey {
    /// The first key of an address, in order.
    #[must_use]
    pub const fn first_of(addr: IpAddr) -> Self {
        Self::Address(addr, Protocol::Tcp, NonZeroU16::MIN)
    }

    /// Protocol.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Address(_, protocol, _) | Self::NodePort(protocol, _) => *protocol,
        }
    }

    /// Port.
    #[must_use]
    pub const fn port(&self) -> NonZeroU16 {
        match self {
            Self::Address(_, _, port) | Self::NodePort(_, port) => *port,
        }
    }
}

/// What kind of frontend it is; decides masquerade, and is shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrontendKind {
    /// A clusterIP: masqueraded unless the client is a pod (or always, `--masquerade-all`).
    ClusterIp,
    /// An entry of `externalIPs`.
    ExternalIp,
    /// A load balancer's address.
    LoadBalancer,
    /// A node port.
    NodePort,
}

/// As kubectl and Kubernetes' documentation spell it.
impl fmt::Display for FrontendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
        })
    }
}

/// What a new connection to a frontend gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// One of the list's endpoints.
    List(ListKey),
    /// externalTrafficPolicy Local: outsiders get the local list and keep their address;
    /// pods and this node itself get the other one, as if they had gone out and back.
    Split {
        /// For outsiders; `None`: dropped, the balancer should not have come here.
        outside: Option<ListKey>,
        /// For pods and this node's own processes; `None` if there is nothing at all.
        inside: Option<ListKey>,
    },
    /// Refused: the service has no usable endpoint anywhere.
    Reject,
    /// Dropped: it has some, but none that its policy lets this node use.
    Drop,
}

impl Target {
    /// The lists it leads to.
    pub fn lists(&self) -> impl Iterator<Item = &ListKey> {
        let (first, second) = match self {
            Self::List(list) => (Some(list), None),
            Self::Split { outside, inside } => (outside.as_ref(), inside.as_ref()),
            Self::Reject | Self::Drop => (None, None),
        };
        first.into_iter().chain(second)
    }
}

/// A frontend and what is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Kind.
    pub kind: FrontendKind,
    /// What it leads to.
    pub target: Target,
    /// The service port it belongs to.
    pub owner: Arc<ServicePortKey>,
    /// Allowed sources (load-balancer addresses only); `None`: everyone.
    pub source_ranges: Option<Vec<IpNet>>,
    /// Comment: `namespace/name:port`.
    pub comment: Arc<str>,
}

/// A host port of a pod on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Where it leads.
    pub endpoint: Endpoint,
    /// The Pod it belongs to (its pause container holds the address).
    pub owner: ObjectName,
    /// Comment: `namespace/name`.
    pub comment: Arc<str>,
}

/// `hostIP` (or every address), protocol and `hostPort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPortKey {
    /// `None` for every address of this node.
    pub addr: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: NonZeroU16,
}

/// The desired state of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyPlan {
    /// Family.
    pub family: Family,
    /// Endpoint lists.
    pub lists: BTreeMap<ListKey, EndpointList>,
    /// Frontends.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Host ports.
    pub host_ports: BTreeMap<HostPortKey, HostPort>,
    /// Addresses of endpoints and host-port pods of this node: source and destination
    /// alike mean hairpin, and are masqueraded.
    pub local_endpoints: BTreeSet<IpAddr>,
    /// Every clusterIP in use: undefined ports of these are refused.
    pub cluster_ips: BTreeMap<IpAddr, Arc<str>>,
    /// Service ranges: new packets to unallocated addresses are dropped or refused.
    pub service_ranges: Vec<IpNet>,
    /// Prefixes of local addresses that accept node ports; never overlapping.
    pub node_port_addresses: Vec<IpNet>,
    /// Sources that are pods, for [`DetectLocal::ClusterCidr`] and NodeCIDR; never overlapping.
    pub pod_sources: Vec<IpNet>,
    /// Pod CIDRs of this node whose traffic is masqueraded on its way out of the cluster.
    pub egress_sources: Vec<IpNet>,
    /// Destinations excepted from that; never overlapping.
    pub non_masquerade: Vec<IpNet>,
}

impl FamilyPlan {
    /// A plan of nothing.
    #[must_use]
    pub const fn empty(family: Family) -> Self {
        Self {
            family,
            lists: BTreeMap::new(),
            frontends: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            local_endpoints: BTreeSet::new(),
            cluster_ips: BTreeMap::new(),
            service_ranges: Vec::new(),
            node_port_addresses: Vec::new(),
            pod_sources: Vec::new(),
            egress_sources: Vec::new(),
            non_masquerade: Vec::new(),
        }
    }

    /// External addresses of its frontends, each once.
    #[must_use]
    pub fn external_ips(&self) -> BTreeSet<IpAddr> {
        external_ips(&self.frontends)
    }

    /// Adds what is a service's own. O(the service's).
    pub fn add(&mut self, part: ServicePlan) {
        self.lists.extend(part.lists);
        self.frontends.extend(part.frontends);
        self.cluster_ips.extend(part.cluster_ips);
        self.local_endpoints.extend(part.local_endpoints);
    }
}

/// The addresses of frontends that are not clusterIPs, each once.
pub(super) fn external_ips(frontends: &BTreeMap<FrontendKey, Frontend>) -> BTreeSet<IpAddr> {
    let external = frontends
        .iter()
        .filter(|(_, frontend)| frontend.kind != FrontendKind::ClusterIp);
    let addresses = external.filter_map(|(key, _)| match key {
        FrontendKey::Address(addr, ..) => Some(*addr),
        FrontendKey::NodePort(..) => None,
    });
    addresses.collect()
}

/// Settings that shape rules rather than elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bit of the packet mark between DNAT and postrouting.
    pub masquerade_bit: MarkBit,
    /// Masquerade all ClusterIP traffic.
    pub masquerade_all: bool,
    /// How pods are told from outsiders.
    pub detect_local: DetectLocal,
    /// What unallocated service addresses answer.
    pub unallocated: Unallocated,
    /// What unserved ports of external addresses answer.
    pub unserved_external: UnservedExternal,
    /// Count new connections per frontend and per endpoint.
    pub counters: bool,
}

impl Shape {
    /// What the configuration says.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            masquerade_bit: config.masquerade_bit,
            masquerade_all: config.masquerade_all,
            detect_local: config.detect_local.clone(),
            unallocated: config.unallocated,
            unserved_external: config.unserved_external,
            counters: config.service_counters,
        }
    }
}

/// A route to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination: a pod CIDR.
    pub destination: IpNet,
    /// Next hop: an address of that node, on link.
    pub via: IpAddr,
    /// Name of that node.
    pub node: String,
}

/// Everything this node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Rule-shaping settings.
    pub shape: Shape,
    /// One plan per family, IPv4 first.
    pub families: Vec<FamilyPlan>,
    /// Routes to other nodes; empty if routes are not ours to manage.
    pub routes: BTreeSet<Route>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn weighted(weights: &[u32]) -> WeightedEndpoints {
        let endpoints = weights.iter().zip(0_u32..).map(|(weight, n)| {
            let endpoint = Endpoint {
                addr: std::net::Ipv4Addr::from(0x0a00_0000 + n).into(),
                port: NonZeroU16::MIN,
            };
            (endpoint, *weight)
        });
        endpoints.collect()
    }

    proptest! {
        #[test]
        fn weights_within_a_limit_stay_near_their_shares(
            weights in prop::collection::vec(1..1001_u32, 1..60),
            limit in 1..4096_u64,
        ) {
            let exact = weighted(&weights);
            let near = exact.within(limit);
            let most = limit.max(weights.len() as u64);
            prop_assert!(near.slots() <= most, "{} slots of {most}", near.slots());
            prop_assert!(near.values().all(|weight| *weight > 0));
            // An endpoint that deserves less than a slot has one, at the others' expense.
            let off = exact.difference(&near);
            prop_assert!(off <= weights.len() as f64 / most as f64, "{off}");
        }
    }

    #[test]
    fn shares_that_fit_a_limit_are_exact() {
        let near = weighted(&[500, 250, 250]).within(8);
        assert_eq!(near.values().copied().collect::<Vec<_>>(), [2, 1, 1]);
    }
}
