//! Which addresses are pods', where that is told by address.

use ipnet::IpNet;

use super::NodeContext;
use crate::cluster::{Cluster, Family};
use crate::config::{Config, DetectLocal};
use crate::problem::Problem;

/// Prefixes of pods by the configured detector. Without a cluster CIDR of the family they are
/// the pod CIDRs of all Nodes. O(nodes).
pub fn sources(
    cluster: &Cluster,
    config: &Config,
    node: &NodeContext,
    family: Family,
) -> Vec<IpNet> {
    let mine = |net: &&IpNet| Family::of(&net.addr()) == family;
    match config.detect_local {
        DetectLocal::ClusterCidr => {
            let configured = config.cluster_cidrs.iter().filter(mine);
            let configured: Vec<IpNet> = configured.copied().collect();
            if !configured.is_empty() {
                return configured;
            }
            let objects = cluster.nodes.values().flat_map(|n| &n.pod_cidrs);
            let listed = config.nodes.iter().flat_map(|n| &n.pod_cidrs);
            let all = node.pod_cidrs.iter().chain(objects).chain(listed);
            all.filter(mine).copied().collect()
        }
        DetectLocal::NodeCidr => node.pod_cidrs.iter().filter(mine).copied().collect(),
        DetectLocal::BridgeInterface(_) | DetectLocal::InterfaceNamePrefix(_) => Vec::new(),
    }
}

/// Says of families in which no prefix of pods is known, and of which there are Services, what
/// will not work for that reason.
#[must_use]
pub fn unknown(config: &Config, families: impl IntoIterator<Item = Family>) -> Vec<Problem> {
    let known = match config.detect_local {
        DetectLocal::ClusterCidr => "no cluster CIDR is set (--cluster-cidr) and no Node",
        DetectLocal::NodeCidr => "detectLocalMode is NodeCIDR, and this Node",
        DetectLocal::BridgeInterface(_) | DetectLocal::InterfaceNamePrefix(_) => return Vec::new(),
    };
    let mut out = Vec::new();
    for family in families {
        out.push(Problem::warning(
            None,
            "configuration",
            "cluster-cidr",
            format!(
                "{known} has a pod CIDR of family {family}, so pods cannot be told from others: \
                 clients outside of the cluster get no answer from clusterIPs whose endpoints are \
                 on other nodes, and pods are outsiders to externalTrafficPolicy Local"
            ),
        ));
    }
    out
}
