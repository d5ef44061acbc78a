//! The inputs that all verbs share, as they were typed: where objects and settings come from.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::file::parse_node_name;
use crate::config::{InterfaceName, MarkBit, PortRange, Sysctls, Unallocated, UnservedExternal};

/// Inputs, the same for every verb. Flags win over the file.
#[derive(Debug, Args, Default)]
#[command(next_help_heading = "Inputs")]
pub struct InputArgs {
    /// Manifests: a file, a folder, or - for standard input; YAML or JSON; repeatable
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Configuration file: svcnat/v1alpha1 Configuration, or kube-proxy's or ip-masq-agent's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Leave invalid objects out instead of stopping
    #[arg(long)]
    pub skip_invalid: bool,
    /// This node's name in the cluster [default: the host name]
    #[arg(long, value_name = "NAME", alias = "hostname-override", value_parser = parse_node_name)]
    pub node_name: Option<String>,
    /// This node's address, one per family [default: the Node object's, else the interface's]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<IpAddr>,
    /// Pod addresses of the whole cluster, one per family
    #[arg(long, value_name = "CIDR,...")]
    pub cluster_cidr: Vec<String>,
    /// Pod addresses of this node [default: the Node object's]
    #[arg(long, value_name = "CIDR,...")]
    pub pod_cidr: Vec<String>,
    /// The service range, as given to kube-apiserver
    #[arg(long, value_name = "CIDR,...")]
    pub service_cluster_ip_range: Vec<String>,
    /// Read the service range from a file of kube-apiserver, kubeadm, k3s or rke2: a unit, a
    /// static pod, a configuration
    #[arg(long, value_name = "FILE", conflicts_with = "service_cluster_ip_range")]
    pub service_cluster_ip_range_from: Option<PathBuf>,
    /// Addresses that accept node ports: `primary`, or prefixes
    #[arg(long, value_name = "primary|CIDR,...")]
    pub nodeport_addresses: Vec<String>,
    /// Range node ports must be in
    #[arg(long, value_name = "FROM-TO")]
    pub service_node_port_range: Option<PortRange>,
    /// Masquerade everything that goes to a clusterIP
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub masquerade_all: Option<bool>,
    /// Count new connections per frontend and per endpoint (see `get services -o wide`)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub service_counters: Option<bool>,
    /// Bit of the packet mark used between DNAT and masquerade
    #[arg(long, value_name = "0-31", alias = "iptables-masquerade-bit")]
    pub masquerade_bit: Option<MarkBit>,
    /// How pods are told from outsiders: ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// Bridge of the pods, for BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<InterfaceName>,
    /// Start of the pods' interface names, for InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<InterfaceName>,
    /// Masquerade this node's pods when they leave the cluster
    #[arg(long, value_name = "BOOL")]
    pub egress_masquerade: Option<bool>,
    /// Destinations never masqueraded, besides the cluster's own; `rfc1918` for private networks
    /// (ip-masq-agent's default), `reserved` for all that no public host has
    #[arg(long, value_name = "CIDR|rfc1918|reserved,...")]
    pub non_masquerade_cidrs: Vec<String>,
    /// Destinations masqueraded all the same: the longest prefix that holds an address decides
    #[arg(long, value_name = "CIDR,...")]
    pub masquerade_cidrs: Vec<String>,
    /// Obey the annotation service.beta.kubernetes.io/load-balancer-source-ranges where
    /// spec.loadBalancerSourceRanges is empty; kube-proxy does not
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    pub source_ranges_annotation: Option<bool>,
    /// Install routes to the other nodes' pods
    #[arg(long, value_name = "BOOL")]
    pub manage_routes: Option<bool>,
    /// Kernel settings that service NAT needs
    #[arg(long, value_enum)]
    pub sysctls: Option<Sysctls>,
    /// What unallocated addresses of the service range answer
    #[arg(long, value_enum)]
    pub unallocated: Option<Unallocated>,
    /// What others get at a port that nobody serves of a load-balancer address or external IP
    /// that this node does not have
    #[arg(long, value_enum)]
    pub unserved_external: Option<UnservedExternal>,
}
