//! Host ports of this node's pods. A mapping belongs to the pod's one address, which its
//! pause container holds and all its containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::NodeContext;
use super::types::{Endpoint, HostPort, HostPortKey};
use crate::cluster::{Cluster, ContainerPort, Family, Pod};
use crate::problem::Problem;
use crate::ruleset::comment;

/// The host ports of one family, and conflicts: two claims to one port, the first in name
/// order wins. A claim to every address conflicts with one to a single address.
pub fn plan(
    cluster: &Cluster,
    node: &NodeContext,
    family: Family,
) -> (BTreeMap<HostPortKey, HostPort>, Vec<Problem>) {
    let mut claims: BTreeMap<HostPortKey, (&Pod, &ContainerPort)> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut out = BTreeMap::new();
    let mine = |pod: &&Pod| {
        !pod.finished
            && !pod.host_network
            // Without Node objects a manifest need not say where its pods run.
            && match &pod.node_name {
                Some(name) => *name == node.name,
                None => cluster.nodes.is_empty(),
            }
    };
    for pod in cluster.pods.values().filter(mine) {
        let addr = pod.addresses.iter().find(|a| Family::of(a) == family);
        for port in &pod.ports {
            let Some(number) = port.host_port else {
                continue;
            };
            if port.host_ip.is_some_and(|ip| Family::of(&ip) != family) {
                continue;
            }
            let Some(addr) = addr else {
                if pod.addresses.is_empty() && family == Family::Ip {
                    problems.push(no_address(pod, port));
                }
                continue;
            };
            let key = HostPortKey {
                addr: port.host_ip,
                protocol: port.protocol,
                port: number,
            };
            if let Some(holder) = conflict(&claims, &key) {
                if family == Family::Ip || pod.addresses.len() == 1 {
                    problems.push(clash(&key, (pod, port), holder));
                }
                continue;
            }
            claims.insert(key, (pod, port));
            let endpoint = Endpoint {
                addr: *addr,
                port: port.port,
            };
            out.insert(
                key,
                HostPort {
                    endpoint,
                    owner: pod.name.clone(),
                    comment: comment::clean(&pod.name.to_string()),
                },
            );
        }
    }
    (out, problems)
}

type Claim<'a> = (&'a Pod, &'a ContainerPort);

fn conflict<'a>(claims: &BTreeMap<HostPortKey, Claim<'a>>, key: &HostPortKey) -> Option<Claim<'a>> {
    let same = |addr: Option<IpAddr>| claims.get(&HostPortKey { addr, ..*key }).copied();
    if key.addr.is_some() {
        return same(key.addr).or_else(|| same(None));
    }
    claims
        .iter()
        .find(|(k, _)| k.protocol == key.protocol && k.port == key.port)
        .map(|(_, claim)| *claim)
}

fn clash(key: &HostPortKey, (pod, port): Claim<'_>, (holder, held): Claim<'_>) -> Problem {
    let at = key
        .addr
        .map_or_else(String::new, |addr| format!(" at {addr}"));
    Problem::error(
        Some(&pod.origin),
        format!("Pod {}", pod.name),
        format!("container {} hostPort", port.container),
        format!(
            "{}/{}{at} is already taken by container {} of Pod {}; one pod per node can have it",
            key.port, key.protocol, held.container, holder.name
        ),
    )
}

fn no_address(pod: &Pod, port: &ContainerPort) -> Problem {
    Problem::warning(
        Some(&pod.origin),
        format!("Pod {}", pod.name),
        "status.podIPs",
        format!(
            "is absent, so hostPort of container {} leads nowhere",
            port.container
        ),
    )
}
