//! The two ends of a packet, as addresses or as names of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Cluster, Family, ObjectName, Protocol, Service, ServicePort};
use crate::node::Node;
use crate::text::did_you_mean;

/// What a source may be.
const SOURCE: &str = "an address, pod/[NAMESPACE/]NAME, node/NAME or client/ADDRESS";
/// What a destination may be.
const DESTINATION: &str = "ADDRESS:PORT[/PROTOCOL], such as 10.254.176.53:80/tcp or \
    [fd00::a]:53/udp; svc/[NAMESPACE/]NAME[:PORT], lb/[NAMESPACE/]NAME[:PORT], node/NAME:PORT or \
    pod/[NAMESPACE/]NAME:PORT";

/// An end that is neither an address nor the name of an object with one; or two that no packet
/// goes between.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct EndError(String);

/// Who sends, and where to.
#[derive(Clone, Debug)]
pub struct Ends {
    /// The client's address.
    pub source: IpAddr,
    /// The address it asks for.
    pub destination: IpAddr,
    /// The port it asks for.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// The node that the sender runs on or is, if its object says so.
    pub sender_node: Option<String>,
}

/// An end: whichever addresses it has.
struct End {
    addresses: Vec<IpAddr>,
    node: Option<String>,
}

/// Who is known by name.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The objects.
    cluster: &'a Cluster,
    /// Of names that do not say theirs.
    pub namespace: &'a str,
    /// Hosts that are no objects, such as the clients of a lab.
    hosts: &'a BTreeMap<String, Vec<IpAddr>>,
}

static NO_HOSTS: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();

impl<'a> Names<'a> {
    /// Objects alone.
    #[must_use]
    pub const fn of(inputs: &'a Node, namespace: &'a str) -> Self {
        Self::with_hosts(inputs, namespace, &NO_HOSTS)
    }

    /// Objects, and hosts that are none.
    #[must_use]
    pub const fn with_hosts(
        inputs: &'a Node,
        namespace: &'a str,
        hosts: &'a BTreeMap<String, Vec<IpAddr>>,
    ) -> Self {
        Self {
            cluster: &inputs.cluster,
            namespace,
            hosts,
        }
    }
}

impl Names<'_> {
    /// Reads both ends of a packet.
    ///
    /// # Errors
    /// If one is neither an address nor the name of an object, or if they have no family in
    /// common.
    pub fn ends(&self, source: &str, destination: &str) -> Result<Ends, EndError> {
        let from = self.source(source)?;
        let (to, port, protocol) = self.destination(destination)?;
        // The destination's first family that both speak, as a client's resolver would have it.
        for to in &to.addresses {
            let same = |from: &&IpAddr| Family::of(from) == Family::of(to);
            if let Some(from_address) = from.addresses.iter().find(same) {
                return Ok(Ends {
                    source: *from_address,
                    destination: *to,
                    port,
                    protocol,
                    sender_node: from.node,
                });
            }
        }
        let list = |end: &End| {
            let shown: Vec<String> = end.addresses.iter().map(ToString::to_string).collect();
            shown.join(", ")
        };
        let why = "are not of one family: no packet goes from one to the other";
        let (from, to) = (list(&from), list(&to));
        Err(EndError(format!("{from} and {to} {why}")))
    }

    /// The addresses of a source, or of who answers.
    ///
    /// # Errors
    /// If it is neither an address nor the name of an object with one.
    pub fn addresses(&self, text: &str) -> Result<Vec<IpAddr>, EndError> {
        self.source(text).map(|end| end.addresses)
    }

    fn host(&self, name: &str) -> Option<End> {
        let addresses = self.hosts.get(name)?.clone();
        Some(End {
            addresses,
            node: None,
        })
    }

    fn source(&self, text: &str) -> Result<End, EndError> {
        if let Some(host) = self.host(text) {
            return Ok(host);
        }
        if let Some(address) = text
            .strip_prefix("client/")
            .or(Some(text))
            .and_then(address)
        {
            return Ok(End {
                addresses: vec![address],
                node: None,
            });
        }
        match text.split_once('/') {
            Some(("pod", name)) => self.pod(text, name),
            Some(("node", name)) => self.node(text, name),
            _ => Err(EndError(format!("{text:?} is not {SOURCE}"))),
        }
    }

    fn destination(&self, text: &str) -> Result<(End, u16, Protocol), EndError> {
        if let Some((addresses, port, protocol)) = socket(text) {
            let end = End {
                addresses: vec![addresses],
                node: None,
            };
            return Ok((end, port, protocol));
        }
        let wrong = || EndError(format!("{text:?} is not {DESTINATION}"));
        if let Some((host, port)) = text.split_once(':')
            && let Some(host) = self.host(host)
        {
            let (port, protocol) = port_and_protocol(port).ok_or_else(wrong)?;
            return Ok((host, port, protocol));
        }
        let (kind, rest) = text.split_once('/').ok_or_else(wrong)?;
        let (name, port) = match rest.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (rest, None),
        };
        match kind {
            "svc" | "service" | "lb" => {
                let service = self.service(text, name)?;
                let asked = (text, service);
                let (port, protocol) = service_port(asked, port)?;
                let addresses = match kind {
                    "lb" => outside(asked)?,
                    _ => cluster_ips(asked)?,
                };
                let end = End {
                    addresses,
                    node: None,
                };
                Ok((end, port, protocol))
            }
            "node" | "pod" => {
                let (port, protocol) = port.and_then(port_and_protocol).ok_or_else(wrong)?;
                let end = match kind {
                    "pod" => self.pod(text, name)?,
                    _ => self.node(text, name)?,
                };
                Ok((end, port, protocol))
            }
            _ => Err(wrong()),
        }
    }

    fn name(&self, text: &str) -> ObjectName {
        match text.split_once('/') {
            Some((namespace, name)) => ObjectName::new(namespace, name),
            None => ObjectName::new(self.namespace, text),
        }
    }

    fn pod(&self, text: &str, name: &str) -> Result<End, EndError> {
        let name = self.name(name);
        let pods = &self.cluster.pods;
        let Some(pod) = pods.get(&name) else {
            let endpoint = self.endpoint(&name);
            return endpoint.ok_or_else(|| unknown("Pod", text, &name, pods.keys()));
        };
        if pod.addresses.is_empty() {
            return Err(without(text, &name, "status.podIPs"));
        }
        Ok(End {
            addresses: pod.addresses.clone(),
            node: pod.node_name.clone(),
        })
    }

    /// A Pod that no object is there for, as EndpointSlices name it. O(endpoints).
    fn endpoint(&self, name: &ObjectName) -> Option<End> {
        let services = self.cluster.services.keys();
        let here = services.filter(|service| service.namespace == name.namespace);
        let slices = here.flat_map(|service| self.cluster.slices_of(service));
        let all = slices.flat_map(|slice| &slice.endpoints);
        let mut named = all.filter(|endpoint| endpoint.pod.as_ref() == Some(&name.name));
        let first = named.next()?;
        let addresses: BTreeSet<IpAddr> = named.map(|endpoint| endpoint.address).collect();
        Some(End {
            addresses: addresses.into_iter().chain([first.address]).collect(),
            node: first.node_name.as_deref().map(str::to_owned),
        })
    }

    fn node(&self, text: &str, name: &str) -> Result<End, EndError> {
        let nodes = &self.cluster.nodes;
        let node = (nodes.get(name)).ok_or_else(|| unknown("Node", text, &name, nodes.keys()))?;
        if node.addresses.is_empty() {
            return Err(without(text, &name, "status.addresses"));
        }
        Ok(End {
            addresses: node.addresses.clone(),
            node: Some(node.name.clone()),
        })
    }

    fn service(&self, text: &str, name: &str) -> Result<&Service, EndError> {
        let name = self.name(name);
        let found = self.cluster.service(&name);
        let names = self.cluster.services.keys();
        found.ok_or_else(|| unknown("Service", text, &name, names))
    }
}

/// No such object; perhaps one that is spelt alike is meant.
fn unknown<N: ToString>(
    kind: &str,
    text: &str,
    name: &impl ToString,
    known: impl Iterator<Item = N>,
) -> EndError {
    let (name, known) = (name.to_string(), known.map(|n| n.to_string()));
    let known: Vec<String> = known.collect();
    let hint = did_you_mean(&name, known.iter().map(String::as_str));
    let where_ = if known.is_empty() {
        format!(", and no {kind} at all: name manifests with -f")
    } else {
        hint
    };
    EndError(format!("{text}: the inputs have no {kind} {name}{where_}"))
}

fn without(text: &str, name: &impl ToString, field: &str) -> EndError {
    let name = name.to_string();
    EndError(format!("{text}: {name} has no address: {field} is empty"))
}

/// The named port, by name or number; the only one if none is named.
fn service_port(
    (text, service): (&str, &Service),
    asked: Option<&str>,
) -> Result<(u16, Protocol), EndError> {
    let found: Vec<&ServicePort> = service
        .ports
        .iter()
        .filter(|port| match asked {
            None => true,
            Some(asked) => match port_and_protocol(asked) {
                Some((number, protocol)) => {
                    let any_protocol = !asked.contains('/');
                    port.port.get() == number && (any_protocol || port.protocol == protocol)
                }
                None => &*port.name == asked,
            },
        })
        .collect();
    match found[..] {
        [port] => Ok((port.port.get(), port.protocol)),
        [first, ..] if asked.is_some() => Ok((first.port.get(), first.protocol)),
        _ => {
            let ports = service.ports.iter().map(|port| match &*port.name {
                "" => format!("{}/{}", port.port, port.protocol),
                name => format!("{name} ({}/{})", port.port, port.protocol),
            });
            let ports: Vec<String> = ports.collect();
            let (name, ports) = (&service.name, ports.join(", "));
            let which = asked.map_or_else(
                || "needs a port, as".to_owned(),
                |asked| format!("has no port {asked:?}:"),
            );
            let message = format!("{text}: Service {name} {which} it has {ports}");
            Err(EndError(message))
        }
    }
}

fn cluster_ips((text, service): (&str, &Service)) -> Result<Vec<IpAddr>, EndError> {
    if service.cluster_ips.is_empty() {
        let why = match service.headless {
            true => "is headless: its clients ask DNS for the pods themselves",
            false => "has no address: spec.clusterIPs is empty",
        };
        let name = &service.name;
        return Err(EndError(format!("{text}: Service {name} {why}")));
    }
    Ok(service.cluster_ips.clone())
}

/// Its addresses for clients outside: the load balancer's, then `spec.externalIPs`.
fn outside((text, service): (&str, &Service)) -> Result<Vec<IpAddr>, EndError> {
    let given = service.load_balancer_ips.iter();
    let addresses: Vec<IpAddr> = given.chain(&service.external_ips).copied().collect();
    if addresses.is_empty() {
        let fields = "status.loadBalancer.ingress and spec.externalIPs";
        return Err(without(text, &service.name, fields));
    }
    Ok(addresses)
}

/// An address, canonical: no packet has the IPv6 form of an IPv4 address.
fn address(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|addr| addr.to_canonical())
}

/// `ADDRESS:PORT/PROTOCOL`; TCP if there is no protocol.
fn socket(text: &str) -> Option<(IpAddr, u16, Protocol)> {
    let (socket, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let socket: std::net::SocketAddr = socket.parse().ok()?;
    let (port, protocol) = port_and_protocol(&format!("{}/{protocol}", socket.port()))?;
    Some((socket.ip().to_canonical(), port, protocol))
}

/// `PORT/PROTOCOL`; TCP if there is no protocol.
fn port_and_protocol(text: &str) -> Option<(u16, Protocol)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port: u16 = port.parse().ok().filter(|port| *port != 0)?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((port, protocol))
}
