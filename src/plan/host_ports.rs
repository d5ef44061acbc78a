//! Host ports of this node's pods. A mapping belongs to the pod's one address, which its
//! pause container holds and all its containers share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::NodeContext;
use super::claims::{Claimant, Claims};
use super::types::{Endpoint, FrontendKey, HostPort, HostPortKey};
use crate::cluster::{Cluster, ContainerPort, Family, Pod, Protocol, special};
use crate::problem::Problem;
use crate::text::comment;

/// What is said of a host port at 127.0.0.1, and at ::1.
const LOOPBACK: &str = "is reached from this node's own addresses; processes that call from \
    127.0.0.1 itself need net.ipv4.conf.INTERFACE.route_localnet=1 for the pod's interface";
const LOOPBACK6: &str = "is reached from this node's own addresses, but not by processes that \
    call from ::1 itself";

/// The host ports of one family, and conflicts: of two claims to one port that of a living
/// pod comes before that of a terminating one, then the older pod's. A claim to every address
/// conflicts with one to a single address.
pub fn plan(
    cluster: &Cluster,
    node: &NodeContext,
    family: Family,
) -> (BTreeMap<HostPortKey, HostPort>, Vec<Problem>) {
    let mut claims: BTreeMap<HostPortKey, Claim<'_>> = BTreeMap::new();
    let mut problems = Vec::new();
    let mut out = BTreeMap::new();
    let mine = |pod: &&Pod| {
        !pod.finished
            && !pod.host_network
            && pod.ports.iter().any(|port| port.host_port.is_some())
            // Without Node objects a manifest need not say where its pods run.
            && match &pod.node_name {
                Some(name) => *name == node.name,
                None => cluster.nodes.is_empty(),
            }
    };
    let mut pods: Vec<&Pod> = cluster.pods.values().filter(mine).collect();
    pods.sort_by_cached_key(|pod| {
        let claimant = Claimant::new(&pod.name, pod.created.as_deref());
        (pod.terminating, claimant)
    });
    for pod in pods {
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
                addr: port.host_ip.filter(|ip| !ip.is_unspecified()),
                protocol: port.protocol,
                port: number,
            };
            if let Some(problem) = impossible(node, pod, port, &key, *addr) {
                problems.push(problem);
                continue;
            }
            let endpoint = Endpoint {
                addr: *addr,
                port: port.port,
            };
            if let Some((holder, held)) = conflict(&claims, &key) {
                // One container port may be listed for each address family, or twice.
                if holder.name != pod.name || held.port != port.port {
                    problems.push(clash(&key, (pod, port), (holder, held)));
                }
                continue;
            }
            if key.addr.is_some_and(|ip| ip.is_loopback()) {
                problems.push(on_loopback(pod, port, &key, family));
            }
            claims.insert(key, (pod, port));
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

/// A host port that leads nowhere, or would take what must stay somebody else's.
fn impossible(
    node: &NodeContext,
    pod: &Pod,
    port: &ContainerPort,
    key: &HostPortKey,
    addr: IpAddr,
) -> Option<Problem> {
    let api_server = match key.protocol {
        Protocol::Tcp => match key.addr {
            Some(host) => node.protected_at(Some(host), key.port),
            None => node.protected_at(None, key.port),
        },
        Protocol::Udp | Protocol::Sctp => None,
    };
    let error = |field: String, message: String| {
        let object = format!("Pod {}", pod.name);
        Some(Problem::error(Some(&pod.origin), object, field, message))
    };
    if let Some(at) = api_server {
        return error(
            format!("container {} hostPort", port.container),
            format!("{at}/TCP is where the API server answers; it is left out"),
        );
    }
    // A node may have loopback and link-local addresses, and answer at them.
    let host = key.addr.filter(|host| match host {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_link_local()),
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unicast_link_local()),
    });
    if let Some((host, why)) = host.and_then(|host| Some((host, special(host)?))) {
        return error(
            format!("container {} hostIP", port.container),
            format!("{host} is {why}, at which this node does not answer; it is left out"),
        );
    }
    let why = special(addr)?;
    error(
        "status.podIPs".to_owned(),
        format!("{addr} is {why}, which no Pod can have; its hostPort is left out"),
    )
}

/// Host ports that a frontend comes before: node ports, and external addresses of this node.
/// O(host ports).
#[must_use]
pub fn beaten(
    host_ports: &BTreeMap<HostPortKey, HostPort>,
    claims: &Claims,
    node: &NodeContext,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, port) in host_ports {
        let mut beaten = |kind: String, service: &crate::cluster::ObjectName| {
            problems.push(Problem::warning(
                None,
                format!("Pod {}", port.owner),
                "hostPort",
                format!(
                    "{}/{} is also {kind} of Service {service}, which comes first",
                    key.port, key.protocol
                ),
            ));
        };
        if key.addr.is_none_or(|addr| !addr.is_loopback())
            && let Some(service) = claims.holder(&FrontendKey::NodePort(key.protocol, key.port))
        {
            beaten("the node port".to_owned(), service);
        }
        let own = node.addresses.iter().filter(|_| key.addr.is_none());
        for addr in key.addr.iter().chain(own) {
            let at = FrontendKey::Address(*addr, key.protocol, key.port);
            if let Some(service) = claims.holder(&at) {
                beaten(format!("a port of {addr}"), service);
            }
        }
    }
    problems
}

fn on_loopback(pod: &Pod, port: &ContainerPort, key: &HostPortKey, family: Family) -> Problem {
    Problem::notice(
        Some(&pod.origin),
        format!("Pod {}", pod.name),
        format!(
            "hostPort {}/{} of container {} at {} {}",
            key.port,
            key.protocol,
            port.container,
            key.addr.map_or_else(String::new, |addr| addr.to_string()),
            match family {
                Family::Ip => LOOPBACK,
                Family::Ip6 => LOOPBACK6,
            }
        ),
    )
}

fn clash(key: &HostPortKey, (pod, port): Claim<'_>, (holder, held): Claim<'_>) -> Problem {
    let at = key
        .addr
        .map_or_else(String::new, |addr| format!(" at {addr}"));
    let dying = if pod.terminating && !holder.terminating {
        "; this one is terminating"
    } else {
        ""
    };
    Problem::warning(
        Some(&pod.origin),
        format!("Pod {}", pod.name),
        format!("container {} hostPort", port.container),
        format!(
            "{}/{}{at} is already taken by container {} of Pod {}; one pod per node can have it{dying}",
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
