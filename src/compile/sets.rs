//! The sets and maps of a table: what each is called, what its keys and data are, what its
//! elements count.

use std::borrow::Cow;

use crate::ruleset::{DataType, Family, Set};

use DataType::{ClassId, InetProto, InetService, Slot};

/// Affinity memory per family: clients times services. The kernel evicts nothing; when the
/// map is full, new clients are balanced without memory until old ones expire.
const AFFINITY_SIZE: u32 = 1 << 20;
/// Life of an affinity entry that no rule gives one: the API's default for `timeoutSeconds`.
const DEFAULT_TIMEOUT: u32 = 10_800;

/// A set or map of a table. The order is that of their names, so that `nft list sets` reads
/// as an index by feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetId {
    /// Group and client → handle; filled by packets.
    AffinityClients,
    /// Handle and protocol → endpoint of the cluster list.
    AffinityEndpoints,
    /// List number → group.
    AffinityGroups,
    /// Group and answering endpoint → handle.
    AffinityHandles,
    /// Group → value of the cluster list.
    AffinityLists,
    /// Handle and protocol → endpoint of the local list.
    AffinityLocalEndpoints,
    /// Group → value of the local list.
    AffinityLocalLists,
    /// Frontend as the client asked for it → group.
    AffinityServiceIps,
    /// Node port as the client asked for it → group.
    AffinityServiceNodeports,
    /// Groups remembered for this many seconds.
    AffinityTimeout(u32),
    /// ClusterIPs in use.
    ClusterIps,
    /// Prefixes of this node's pods whose traffic is masqueraded on its way out, if they are
    /// more than a few.
    EgressSources,
    /// List number, protocol and slot → endpoint.
    Endpoints,
    /// The same for lists of a large class. A map of its own because the kernel checks every
    /// new element against every rule that uses its map, and redrawing takes many rules.
    EndpointsLarge,
    /// Addresses of frontends that are not clusterIPs.
    ExternalIps,
    /// Frontend and source that may pass.
    FirewallAllowed,
    /// Frontends with source ranges.
    FirewallIps,
    /// Pod to itself through a frontend.
    HairpinIps,
    /// Host address, protocol and host port → pod.
    HostPortIps,
    /// Protocol and host port → pod.
    HostPorts,
    /// Like `service-ips`, for pods and this node at frontends with a local policy.
    InternalServiceIps,
    /// Like `service-nodeports`, for pods and this node.
    InternalServiceNodeports,
    /// Addresses of this node that accept node ports.
    NodeportIps,
    /// Destinations to which this node's pods keep their address.
    NonMasquerade,
    /// Prefixes of pods, if they are more than a few.
    PodSources,
    /// Service ranges.
    ServiceCidrs,
    /// Address, protocol and port → value.
    ServiceIps,
    /// Protocol and port on the node's own addresses → value.
    ServiceNodeports,
}

/// What the counters of a set's elements count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Connections to a frontend. A frontend counts those too that its source ranges drop.
    Frontends,
    /// Those of pods and this node at a frontend with a local policy.
    Internal,
    /// Connections to an endpoint.
    Endpoints,
}

impl SetId {
    /// All but those of affinity timeouts, in order.
    pub const FIXED: [Self; 27] = [
        Self::AffinityClients,
        Self::AffinityEndpoints,
        Self::AffinityGroups,
        Self::AffinityHandles,
        Self::AffinityLists,
        Self::AffinityLocalEndpoints,
        Self::AffinityLocalLists,
        Self::AffinityServiceIps,
        Self::AffinityServiceNodeports,
        Self::ClusterIps,
        Self::EgressSources,
        Self::Endpoints,
        Self::EndpointsLarge,
        Self::ExternalIps,
        Self::FirewallAllowed,
        Self::FirewallIps,
        Self::HairpinIps,
        Self::HostPortIps,
        Self::HostPorts,
        Self::InternalServiceIps,
        Self::InternalServiceNodeports,
        Self::NodeportIps,
        Self::NonMasquerade,
        Self::PodSources,
        Self::ServiceCidrs,
        Self::ServiceIps,
        Self::ServiceNodeports,
    ];

    /// Its name, as `nft list` shows it: kube-proxy's where the set is the same.
    #[must_use]
    pub fn name(self) -> Cow<'static, str> {
        match self {
            Self::AffinityTimeout(seconds) => format!("affinity-timeout-{seconds}").into(),
            fixed => fixed.fixed_name().into(),
        }
    }

    /// Its name; that of the kind for the sets of affinity timeouts.
    #[must_use]
    pub const fn fixed_name(self) -> &'static str {
        match self {
            Self::AffinityClients => "affinity-clients",
            Self::AffinityEndpoints => "affinity-endpoints",
            Self::AffinityGroups => "affinity-groups",
            Self::AffinityHandles => "affinity-handles",
            Self::AffinityLists => "affinity-lists",
            Self::AffinityLocalEndpoints => "affinity-local-endpoints",
            Self::AffinityLocalLists => "affinity-local-lists",
            Self::AffinityServiceIps => "affinity-service-ips",
            Self::AffinityServiceNodeports => "affinity-service-nodeports",
            Self::AffinityTimeout(_) => "affinity-timeout",
            Self::ClusterIps => "cluster-ips",
            Self::EgressSources => "egress-sources",
            Self::Endpoints => "endpoints",
            Self::EndpointsLarge => "endpoints-large",
            Self::ExternalIps => "external-ips",
            Self::FirewallAllowed => "firewall-allowed",
            Self::FirewallIps => "firewall-ips",
            Self::HairpinIps => "hairpin-ips",
            Self::HostPortIps => "host-port-ips",
            Self::HostPorts => "host-ports",
            Self::InternalServiceIps => "internal-service-ips",
            Self::InternalServiceNodeports => "internal-service-nodeports",
            Self::NodeportIps => "nodeport-ips",
            Self::NonMasquerade => "non-masquerade",
            Self::PodSources => "pod-sources",
            Self::ServiceCidrs => "service-cidrs",
            Self::ServiceIps => "service-ips",
            Self::ServiceNodeports => "service-nodeports",
        }
    }

    /// What it holds, as a comment for who lists it: a map's key and data, what a set is for.
    #[must_use]
    pub const fn comment(self) -> &'static str {
        match self {
            Self::AffinityClients => "group and client : handle, filled by packets",
            Self::AffinityEndpoints => "handle and protocol : endpoint",
            Self::AffinityGroups => "list number : group",
            Self::AffinityHandles => "group and endpoint that answered : handle",
            Self::AffinityLists => "group : value",
            Self::AffinityLocalEndpoints => "handle and protocol : endpoint of this node",
            Self::AffinityLocalLists => "group : value of the local list",
            Self::AffinityServiceIps => "address, protocol, port that was asked : group",
            Self::AffinityServiceNodeports => "node port that was asked : group",
            Self::AffinityTimeout(_) => "groups remembered for so many seconds",
            Self::ClusterIps => "clusterIPs: their other ports refuse",
            Self::EgressSources => "pods whose traffic is masqueraded on its way out",
            Self::Endpoints => "list number, protocol, slot : endpoint",
            Self::EndpointsLarge => "list number, protocol, slot : endpoint, of large lists",
            Self::ExternalIps => "external and load balancer addresses",
            Self::FirewallAllowed => "address, protocol, port and sources that may pass",
            Self::FirewallIps => "address, protocol, port with loadBalancerSourceRanges",
            Self::HairpinIps => "from a pod through a service to itself",
            Self::HostPortIps => "hostIP, protocol, hostPort : pod",
            Self::HostPorts => "protocol, hostPort : pod",
            Self::InternalServiceIps => "address, protocol, port : value for pods and this node",
            Self::InternalServiceNodeports => "protocol, node port : value for pods and this node",
            Self::NodeportIps => "addresses of this node that answer node ports",
            Self::NonMasquerade => "destinations that see the pod itself",
            Self::PodSources => "addresses of pods",
            Self::ServiceCidrs => "service ranges, for addresses that no service has",
            Self::ServiceIps => "service address, protocol, port : value",
            Self::ServiceNodeports => "protocol, node port : value",
        }
    }

    /// The set of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let fixed = Self::FIXED.into_iter().find(|id| id.fixed_name() == name);
        fixed.or_else(|| {
            let seconds = name.strip_prefix("affinity-timeout-")?;
            seconds.parse().ok().map(Self::AffinityTimeout)
        })
    }

    /// Its declaration, without elements. `counters`: count connections where a new
    /// connection's first packet meets an element exactly once.
    #[must_use]
    pub fn declaration(self, family: Family, counters: bool) -> Set {
        let addr = DataType::addr(family);
        let frontend = [addr, InetProto, InetService];
        let port = [InetProto, InetService];
        let endpoint = [addr, InetService];
        let set = |key: &[DataType]| Set::exact(&self.name(), key);
        let mut declared = match self {
            Self::AffinityClients => set(&[ClassId, client_type(family)])
                .mapping(&[ClassId])
                .dynamic(AFFINITY_SIZE, DEFAULT_TIMEOUT),
            Self::AffinityEndpoints | Self::AffinityLocalEndpoints => {
                set(&[ClassId, InetProto]).mapping(&endpoint)
            }
            Self::AffinityGroups | Self::AffinityLists | Self::AffinityLocalLists => {
                set(&[ClassId]).mapping(&[ClassId])
            }
            Self::AffinityHandles => set(&[ClassId, addr, InetService]).mapping(&[ClassId]),
            Self::AffinityTimeout(_) => set(&[ClassId]),
            Self::ServiceIps | Self::InternalServiceIps | Self::AffinityServiceIps => {
                set(&frontend).mapping(&[ClassId])
            }
            Self::ServiceNodeports
            | Self::InternalServiceNodeports
            | Self::AffinityServiceNodeports => set(&port).mapping(&[ClassId]),
            Self::Endpoints | Self::EndpointsLarge => {
                set(&[ClassId, InetProto, Slot]).mapping(&endpoint)
            }
            Self::HostPorts => set(&port).mapping(&endpoint),
            Self::HostPortIps => set(&frontend).mapping(&endpoint),
            Self::ClusterIps | Self::ExternalIps => set(&[addr]),
            Self::HairpinIps => set(&[addr, addr]),
            Self::FirewallIps => set(&frontend),
            Self::FirewallAllowed => set(&[addr, InetProto, InetService, addr]).interval(),
            Self::EgressSources
            | Self::NodeportIps
            | Self::NonMasquerade
            | Self::PodSources
            | Self::ServiceCidrs => set(&[addr]).interval(),
        };
        declared.comment = self.comment();
        declared.counted = counters && self.counted().is_some();
        declared
    }

    /// What its elements count with `--service-counters`, if anything.
    #[must_use]
    pub const fn counted(self) -> Option<Counted> {
        match self {
            Self::ServiceIps | Self::ServiceNodeports => Some(Counted::Frontends),
            Self::InternalServiceIps | Self::InternalServiceNodeports => Some(Counted::Internal),
            Self::Endpoints
            | Self::EndpointsLarge
            | Self::AffinityEndpoints
            | Self::AffinityLocalEndpoints => Some(Counted::Endpoints),
            _ => None,
        }
    }

    /// True if its data are frontend values.
    #[must_use]
    pub const fn holds_values(self) -> bool {
        matches!(
            self,
            Self::ServiceIps
                | Self::ServiceNodeports
                | Self::InternalServiceIps
                | Self::InternalServiceNodeports
                | Self::AffinityLists
                | Self::AffinityLocalLists
        )
    }
}

/// How a client is remembered: see [`super::affinity`].
pub const fn client_type(family: Family) -> DataType {
    match family {
        Family::Ip => DataType::Ipv4Addr,
        Family::Ip6 => DataType::Slot,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_as_their_names_do_and_every_name_is_found_again() {
        let names: Vec<Cow<'_, str>> = SetId::FIXED.iter().map(|id| id.name()).collect();
        assert!(names.is_sorted());
        assert!(SetId::FIXED.is_sorted());
        for id in SetId::FIXED.into_iter().chain([SetId::AffinityTimeout(60)]) {
            assert_eq!(SetId::named(&id.name()), Some(id));
        }
    }

    #[test]
    fn every_key_and_every_datum_fits() {
        for (id, family) in SetId::FIXED
            .into_iter()
            .flat_map(|id| Family::ALL.map(|family| (id, family)))
        {
            let set = id.declaration(family, true);
            let len = |fields: &[DataType]| fields.iter().map(|f| f.padded_len()).sum::<usize>();
            assert!(len(&set.key) <= 40, "{id:?}");
            if let crate::ruleset::SetData::Fields(data) = &set.data {
                assert!(len(data) <= 20, "{id:?}");
            }
        }
    }
}
