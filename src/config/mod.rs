//! The resolved settings of this node: flags over file over defaults, validated.
//!
//! Names are those of kube-proxy and ip-masq-agent where they have one.

mod detect;
pub mod file;
mod kube_proxy;
mod others;
mod setting;
mod types;
mod validate;
mod values;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

pub use detect::{DetectLocal, DetectMode};
pub use setting::{Draft, Flag, Form, Setting};
use setting::{declare, words};
pub use types::{InterfaceName, MarkBit, PortRange};
use values::{
    parse_addresses, parse_bool, parse_cidr_list, parse_destinations, parse_node_name,
    parse_node_port_addresses, parse_nodes,
};

/// What our own file says that it is.
pub const API_VERSION: &str = "svcnat/v1alpha1";

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

impl fmt::Display for NodePortAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Primary => f.write_str("primary"),
            Self::Prefixes(prefixes) => {
                let prefixes: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
                f.write_str(&prefixes.join(","))
            }
        }
    }
}

words! {
    /// What a new packet to an unallocated address of the service range gets.
    pub enum Unallocated {
        /// Silence, as kube-proxy
        Drop = "drop",
        /// TCP reset or ICMP port unreachable
        Reject = "reject",
    }
}

words! {
    /// What a packet from outside gets that goes to an external address of a Service, one that
    /// this node does not have, at a port that nobody serves (`--unserved-external`). Where routers
    /// send these addresses to this node it would go back to them, and round until its hop limit
    /// ends it.
    pub enum UnservedExternal {
        /// It is routed on: the address may be somebody else's
        Forward = "forward",
        /// Silence
        Drop = "drop",
        /// TCP reset or ICMP port unreachable
        Reject = "reject",
    }
}

words! {
    /// What to do about kernel settings that service NAT depends on (`--sysctls`).
    pub enum Sysctls {
        /// Report them
        Check = "check",
        /// Set them
        Apply = "apply",
        /// Leave them alone and unread
        Ignore = "ignore",
    }
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

declare! {
    /// This node's name in the cluster
    node_name: String = String::new()
        => "nodeName" Form::Text, Flag::also("node-name", &["hostname-override"], "NAME"),
           parse_node_name, unset "the host name";
    /// This node's addresses; the first of each family is its primary one
    node_ips: Vec<IpAddr> = Vec::new()
        => "nodeIPs" Form::List, Flag::new("node-ip", "IP,..."),
           parse_addresses, unset "the Node object's, else the interfaces'";
    /// Pod addresses of the whole cluster, one prefix per family
    cluster_cidrs: Vec<IpNet> = Vec::new()
        => "clusterCIDR" Form::List, Flag::new("cluster-cidr", "CIDR,..."),
           parse_cidr_list, unset "none";
    /// Pod addresses of this node
    pod_cidrs: Vec<IpNet> = Vec::new()
        => "podCIDRs" Form::List, Flag::new("pod-cidr", "CIDR,..."),
           parse_cidr_list, unset "the Node object's";
    /// The service range, as given to kube-apiserver; ServiceCIDR objects add to it
    service_cidrs: Vec<IpNet> = Vec::new()
        => "serviceClusterIPRange" Form::List, Flag::new("service-cluster-ip-range", "CIDR,..."),
           parse_cidr_list, unset "none";
    /// Addresses that accept node ports: `primary`, the node's first of each family, or prefixes
    nodeport_addresses: NodePortAddresses = NodePortAddresses::default()
        => "nodePortAddresses" Form::List, Flag::new("nodeport-addresses", "primary|CIDR,..."),
           parse_node_port_addresses;
    /// Range node ports must be in
    node_port_range: PortRange = PortRange { from: 30_000, to: 32_767 }
        => "serviceNodePortRange" Form::Text, Flag::new("service-node-port-range", "FROM-TO"),
           str::parse;
    /// Masquerade everything that goes to a clusterIP
    masquerade_all: bool = false
        => "masqueradeAll" Form::Switch, Flag::new("masquerade-all", "BOOL"), parse_bool;
    /// Count new connections per frontend and per endpoint (see `get services -o wide`)
    service_counters: bool = false
        => "serviceCounters" Form::Switch, Flag::new("service-counters", "BOOL"), parse_bool;
    /// Bit of the packet mark used between DNAT and masquerade
    masquerade_bit: MarkBit = MarkBit::default()
        => "masqueradeBit" Form::Number,
           Flag::also("masquerade-bit", &["iptables-masquerade-bit"], "0-31"), str::parse;
    /// How pods are told from outsiders.
    detect_local: DetectLocal = DetectLocal::default();
    /// Masquerade this node's pods when they leave the cluster
    egress_masquerade: bool = true
        => "egressMasquerade" Form::Switch, Flag::new("egress-masquerade", "BOOL"), parse_bool;
    /// Destinations never masqueraded, besides the cluster's own; `rfc1918` for private networks
    /// (ip-masq-agent's default), `reserved` for all that no public host has
    non_masquerade_cidrs: Vec<IpNet> = Vec::new()
        => "nonMasqueradeCIDRs" Form::List,
           Flag::new("non-masquerade-cidrs", "CIDR|rfc1918|reserved,..."),
           parse_destinations, unset "none";
    /// Destinations masqueraded all the same: of the prefixes that hold an address, in these lists
    /// and of the cluster's own, the longest decides
    masquerade_cidrs: Vec<IpNet> = Vec::new()
        => "masqueradeCIDRs" Form::List, Flag::new("masquerade-cidrs", "CIDR,..."),
           parse_cidr_list, unset "none";
    /// Masquerade link-local destinations as well, IPv6 ones too unless masqLinkLocalIPv6 is set
    masq_link_local: bool = false
        => "masqLinkLocal" Form::Switch, Flag::new("masq-link-local", "BOOL"), parse_bool;
    /// Masquerade IPv6 link-local destinations as well
    masq_link_local_ipv6: bool = false
        => "masqLinkLocalIPv6" Form::Switch, Flag::new("masq-link-local-ipv6", "BOOL"),
           parse_bool, unset "as masqLinkLocal";
    /// Obey the annotation service.beta.kubernetes.io/load-balancer-source-ranges where
    /// spec.loadBalancerSourceRanges is empty; kube-proxy does not
    legacy_source_ranges: bool = false
        => "sourceRangesAnnotation" Form::Switch, Flag::new("source-ranges-annotation", "BOOL"),
           parse_bool;
    /// Install routes to the other nodes' pods
    manage_routes: bool = true
        => "manageRoutes" Form::Switch, Flag::new("manage-routes", "BOOL"), parse_bool;
    /// What to do about the kernel settings that service NAT needs
    sysctls: Sysctls = Sysctls::default()
        => "sysctls" Form::Words(Sysctls::WORDS), Flag::new("sysctls", "WORD"), str::parse;
    /// What unallocated addresses of the service range answer
    unallocated: Unallocated = Unallocated::default()
        => "unallocated" Form::Words(Unallocated::WORDS), Flag::new("unallocated", "WORD"),
           str::parse;
    /// What others get at a port that nobody serves of a load-balancer address or external IP that
    /// this node does not have
    unserved_external: UnservedExternal = UnservedExternal::default()
        => "unservedExternal" Form::Words(UnservedExternal::WORDS),
           Flag::new("unserved-external", "WORD"), str::parse;
    /// Nodes listed by hand, where there are no Node objects: routes lead to the others' pods
    nodes: Vec<ConfigNode> = Vec::new()
        => "nodes" Form::Nodes, None, parse_nodes, unset "none";
    /// Where the API servers that are followed answer: no Service and no Pod may take that.
    protected: Vec<SocketAddr> = Vec::new();
    /// How many slots weighted endpoint lists may take.
    slot_limits: SlotLimits = SlotLimits::default();
    parts &detect::PARTS
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
