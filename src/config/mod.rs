//! The resolved settings of this node: flags over file over defaults, validated.
//!
//! Names are those of kube-proxy and ip-masq-agent where they have one.

pub mod file;
mod kube_proxy;
mod others;
mod types;
mod validate;

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::Deserialize;

pub use types::{InterfaceName, MarkBit, PortRange};

/// How a packet is known to come from a pod (`--detect-local-mode`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum DetectLocal {
    /// The source is in the cluster CIDR; without a cluster CIDR of the family there is
    /// no detector.
    #[default]
    ClusterCidr,
    /// The source is in a pod CIDR of this node.
    NodeCidr,
    /// The packet came in by this interface.
    BridgeInterface(InterfaceName),
    /// The packet came in by an interface whose name starts so.
    InterfaceNamePrefix(InterfaceName),
}

/// Which local addresses accept node ports (`--nodeport-addresses`).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum NodePortAddresses {
    /// The node's own first address of each family.
    #[default]
    Primary,
    /// Every local address in these prefixes, loopback excepted. A family without a
    /// prefix of its own accepts on all its addresses, as kube-proxy does.
    Prefixes(Vec<IpNet>),
}

/// What a new packet to an unallocated address of the service range gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Unallocated {
    /// Silence, as kube-proxy.
    #[default]
    Drop,
    /// TCP reset or ICMP port unreachable.
    Reject,
}

/// What a packet from outside gets that goes to an external address of a Service, one that
/// this node does not have, at a port that nobody serves (`--unserved-external`). Where routers
/// send these addresses to this node it would go back to them, and round until its hop limit
/// ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum UnservedExternal {
    /// It is routed on: the address may be somebody else's.
    #[default]
    Forward,
    /// Silence.
    Drop,
    /// TCP reset or ICMP port unreachable.
    Reject,
}

/// What to do about kernel settings that service NAT depends on (`--sysctls`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Sysctls {
    /// Set them.
    Apply,
    /// Report them.
    #[default]
    Check,
    /// Leave them alone and unread.
    Ignore,
}

/// How many slots weighted endpoint lists may take. Not a setting: tests make them small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLimits {
    /// One list, a power of two. Shares are then off by 0.006 % at most.
    pub list: u32,
    /// All of a node together.
    pub node: u64,
}

impl Default for SlotLimits {
    fn default() -> Self {
        Self {
            list: 1 << 14,
            node: 1 << 19,
        }
    }
}

/// A route to another node's pods that the user lists by hand (`nodes:` in the file).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigNode {
    /// Name of the node.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its pod CIDRs.
    pub pod_cidrs: Vec<IpNet>,
}

/// Declares each setting once: what it means, its type and its default.
macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr,)*) => {
        /// Everything the user can set.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Config {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl Default for Config {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        /// What one place says of the settings: a file, or the flags.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct PartialConfig {
            $($(#[$doc])* pub $name: Option<$type>,)*
        }

        impl PartialConfig {
            /// These settings, and the other's where these are silent.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }

            /// These settings, and the defaults where these are silent.
            #[must_use]
            pub fn or_defaults(self) -> Config {
                Config { $($name: self.$name.unwrap_or_else(|| $default),)* }
            }
        }
    };
}

settings! {
    /// This node's name in the cluster.
    node_name: String = String::new(),
    /// This node's addresses, first of each family is its primary one. Empty: taken from
    /// the Node object, else from the interfaces.
    node_ips: Vec<IpAddr> = Vec::new(),
    /// Pod addresses of the whole cluster.
    cluster_cidrs: Vec<IpNet> = Vec::new(),
    /// Pod addresses of this node; empty: the Node object's.
    pod_cidrs: Vec<IpNet> = Vec::new(),
    /// `--service-cluster-ip-range`; ServiceCIDR objects add to it.
    service_cidrs: Vec<IpNet> = Vec::new(),
    /// Where node ports answer.
    nodeport_addresses: NodePortAddresses = NodePortAddresses::default(),
    /// `--service-node-port-range`.
    node_port_range: PortRange = PortRange { from: 30_000, to: 32_767 },
    /// Masquerade everything to ClusterIPs.
    masquerade_all: bool = false,
    /// Count new connections per frontend and per endpoint.
    service_counters: bool = false,
    /// Mark bit between DNAT and postrouting.
    masquerade_bit: MarkBit = MarkBit::default(),
    /// How pods are told from outsiders.
    detect_local: DetectLocal = DetectLocal::default(),
    /// Masquerade pod traffic that leaves the cluster.
    egress_masquerade: bool = true,
    /// Destinations never masqueraded by the above, besides cluster and service ranges.
    non_masquerade_cidrs: Vec<IpNet> = Vec::new(),
    /// Destinations masqueraded all the same: of the prefixes that hold an address, in these
    /// lists and of the cluster's own, the longest decides.
    masquerade_cidrs: Vec<IpNet> = Vec::new(),
    /// Masquerade IPv4 link-local destinations as well (ip-masq-agent's `masqLinkLocal`).
    masq_link_local: bool = false,
    /// The same for IPv6 (`masqLinkLocalIPv6`).
    masq_link_local_ipv6: bool = false,
    /// The annotation that `spec.loadBalancerSourceRanges` comes from counts where that is
    /// empty. kube-proxy never obeyed it.
    legacy_source_ranges: bool = false,
    /// Install routes to the other nodes' pod CIDRs.
    manage_routes: bool = true,
    /// What to do about sysctls.
    sysctls: Sysctls = Sysctls::default(),
    /// What unallocated service addresses answer.
    unallocated: Unallocated = Unallocated::default(),
    /// What unserved ports of external addresses answer.
    unserved_external: UnservedExternal = UnservedExternal::default(),
    /// Nodes listed by hand.
    nodes: Vec<ConfigNode> = Vec::new(),
    /// Where the API servers that are followed answer: no Service and no Pod may take that.
    protected: Vec<SocketAddr> = Vec::new(),
    /// How many slots weighted endpoint lists may take.
    slot_limits: SlotLimits = SlotLimits::default(),
}

impl Config {
    /// True if other nodes' addresses or pod CIDRs matter: for routes, or because no cluster
    /// CIDR says what a pod's address is, in a family that the settings name.
    #[must_use]
    pub fn needs_all_nodes(&self) -> bool {
        let covered = |is_ipv4| {
            let of_family = |net: &IpNet| net.addr().is_ipv4() == is_ipv4;
            self.cluster_cidrs.iter().any(of_family)
        };
        let services = self.service_cidrs.iter().map(IpNet::addr);
        let mut named = self.node_ips.iter().copied().chain(services);
        self.manage_routes
            || self.cluster_cidrs.is_empty()
            || !named.all(|address| covered(address.is_ipv4()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_nodes_matter_for_routes_and_where_no_cluster_cidr_says_what_a_pod_is() {
        let mut config = Config {
            manage_routes: false,
            ..Config::default()
        };
        assert!(config.needs_all_nodes(), "no cluster CIDR");
        config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        assert!(!config.needs_all_nodes());
        config.service_cidrs = vec!["10.96.0.0/12".parse().unwrap()];
        config.node_ips = vec!["192.0.2.1".parse().unwrap()];
        assert!(!config.needs_all_nodes());
        config.node_ips.push("2001:db8::1".parse().unwrap());
        assert!(config.needs_all_nodes(), "no cluster CIDR of IPv6");
        config.cluster_cidrs.push("fd00::/48".parse().unwrap());
        assert!(!config.needs_all_nodes());
        config.manage_routes = true;
        assert!(config.needs_all_nodes());
    }
}
