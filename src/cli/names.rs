//! Names of objects for addresses, out of the inputs and of the comments that installed
//! elements carry. What they write, `explain` and `trace` read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use ipnet::IpNet;

use super::error::CliError;
use super::get::{FrontendRow, HostPortRow, Installed, planned};
use super::intent::host;
use crate::cluster::{ObjectName, Protocol};
use crate::host::conntrack::Flow;
use crate::host::interfaces;
use crate::node::Node;
use crate::plan::FrontendKey;

/// Whose an address is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// `pod/web-1`, `node/n1`.
    pub name: String,
    /// The Pod, if it is one.
    pub pod: Option<ObjectName>,
    /// The node that it runs on.
    pub node: Option<String>,
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// As people say it: `svc/web:80`.
    pub name: String,
    /// The Service behind it; none of a host port, or if nobody has it any more.
    pub service: Option<ObjectName>,
    /// Name of its port; empty if it has none.
    pub port_name: String,
    /// The Pod whose host port it is.
    pub pod: Option<ObjectName>,
    /// `ClusterIP`, `NodePort`, `HostPort` and so on; none if nobody has it any more.
    pub kind: Option<String>,
}

/// A frontend, as far as names go.
struct Frontend {
    service: ObjectName,
    port_name: String,
    kind: String,
}

/// Names by address.
pub struct Names {
    places: BTreeMap<IpAddr, Place>,
    frontends: BTreeMap<FrontendKey, Frontend>,
    host_ports: BTreeMap<(Option<IpAddr>, Protocol, NonZeroU16), ObjectName>,
    /// This node's addresses, loopback included.
    local: BTreeSet<IpAddr>,
    service_ranges: Vec<IpNet>,
    /// Where node ports answer, if the inputs say so.
    node_port_addresses: Option<Vec<IpNet>>,
}

/// `name`, or `namespace/name` outside of the namespace that `explain` takes for granted.
pub fn short(name: &ObjectName) -> String {
    match &*name.namespace {
        "default" => name.name.to_string(),
        _ => name.to_string(),
    }
}

/// `:80`, `:53/UDP`.
fn port(port: u16, protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => format!(":{port}"),
        other => format!(":{port}/{other}"),
    }
}

impl Names {
    /// Those of the inputs, if any were given, and of what is installed. O(objects + elements).
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn read(inputs: Option<&Node>) -> Result<Self, CliError> {
        let local = interfaces::local_addresses(&interfaces::list().map_err(host)?);
        let mut names = Self {
            places: BTreeMap::new(),
            frontends: BTreeMap::new(),
            host_ports: BTreeMap::new(),
            local,
            service_ranges: Vec::new(),
            node_port_addresses: None,
        };
        names.refresh(inputs)?;
        Ok(names)
    }

    /// Takes in what has been installed since. What was known stays: flows outlive frontends.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn refresh(&mut self, inputs: Option<&Node>) -> Result<(), CliError> {
        let installed = Installed::read()?;
        self.add(installed.endpoints(), installed.host_ports());
        if let Some(inputs) = inputs {
            self.add(
                planned::endpoints(inputs, None),
                planned::host_ports(inputs),
            );
            self.objects(inputs);
        }
        Ok(())
    }

    fn add(&mut self, frontends: Vec<FrontendRow>, host_ports: Vec<HostPortRow>) {
        for row in frontends {
            let frontend = Frontend {
                service: ObjectName::new(row.namespace, row.service),
                port_name: row.port_name,
                kind: row.kind,
            };
            self.frontends.insert(row.frontend, frontend);
        }
        for row in host_ports {
            let pod = ObjectName::new(row.namespace, row.pod);
            self.places.entry(row.address).or_insert_with(|| Place {
                name: format!("pod/{}", short(&pod)),
                pod: Some(pod.clone()),
                node: None,
            });
            let key = (row.host_ip, row.protocol, row.host_port);
            self.host_ports.insert(key, pod);
        }
    }

    fn objects(&mut self, inputs: &Node) {
        let of_node = |name: &str| Place {
            name: format!("node/{name}"),
            pod: None,
            node: Some(name.to_owned()),
        };
        let of_pod = |pod: &ObjectName, node: Option<String>| Place {
            name: format!("pod/{}", short(pod)),
            pod: Some(pod.clone()),
            node,
        };
        for service in inputs.cluster.services.keys() {
            for slice in inputs.cluster.slices_of(service) {
                for endpoint in &slice.endpoints {
                    if let Some(pod) = &endpoint.pod {
                        let pod = ObjectName::new(service.namespace.clone(), pod.clone());
                        let node = endpoint.node_name.as_deref().map(str::to_owned);
                        self.places.insert(endpoint.address, of_pod(&pod, node));
                    }
                }
            }
        }
        for pod in inputs.cluster.pods.values().filter(|pod| !pod.host_network) {
            for address in &pod.addresses {
                let place = of_pod(&pod.name, pod.node_name.clone());
                self.places.insert(*address, place);
            }
        }
        // Pods in a node's own network have its addresses: the node it is.
        for address in &self.local {
            self.places.insert(*address, of_node(&inputs.context.name));
        }
        for node in inputs.cluster.nodes.values() {
            for address in &node.addresses {
                self.places.insert(*address, of_node(&node.name));
            }
        }
        let families = || inputs.plan.families.iter();
        let ranges = families().flat_map(|plan| plan.service_ranges.clone());
        self.service_ranges = ranges.collect();
        let answering = families().flat_map(|plan| plan.node_port_addresses.clone());
        self.node_port_addresses = Some(answering.collect());
    }

    /// Whose address it is, if that is known.
    pub fn place(&self, addr: IpAddr) -> Option<&Place> {
        self.places.get(&addr)
    }

    /// The Services of all frontends that are known.
    pub fn services(&self) -> impl Iterator<Item = &ObjectName> {
        self.frontends.values().map(|frontend| &frontend.service)
    }

    /// All Pods that are known.
    pub fn pods(&self) -> impl Iterator<Item = &ObjectName> {
        self.places.values().filter_map(|place| place.pod.as_ref())
    }

    /// What of ours a flow's client asked for; `None` if it is no frontend and no host port.
    pub fn asked(&self, flow: &Flow) -> Option<Asked> {
        let (addr, protocol) = (flow.original.dst, flow.protocol);
        let number = NonZeroU16::new(flow.original.dport)?;
        let by_address = FrontendKey::Address(addr, protocol, number);
        if let Some(frontend) = self.frontends.get(&by_address) {
            return Some(self.frontend(frontend, flow));
        }
        let local = self.local.contains(&addr);
        let by_port = FrontendKey::NodePort(protocol, number);
        if let Some(frontend) = self.frontends.get(&by_port).filter(|_| self.answers(flow)) {
            return Some(self.frontend(frontend, flow));
        }
        let host_port = self.host_ports.get(&(Some(addr), protocol, number));
        let everywhere = self.host_ports.get(&(None, protocol, number));
        if let Some(pod) = host_port.or_else(|| everywhere.filter(|_| local)) {
            return Some(Asked {
                name: format!("{} (hostPort of pod/{})", self.at(flow), short(pod)),
                service: None,
                port_name: String::new(),
                pod: Some(pod.clone()),
                kind: Some("HostPort".to_owned()),
            });
        }
        let in_range = self
            .service_ranges
            .iter()
            .any(|range| range.contains(&addr));
        in_range.then(|| Asked {
            name: format!("{} (of no Service)", self.at(flow)),
            service: None,
            port_name: String::new(),
            pod: None,
            kind: None,
        })
    }

    /// Whether node ports answer at the flow's destination. Without inputs, that it was
    /// translated has to do.
    fn answers(&self, flow: &Flow) -> bool {
        let addr = flow.original.dst;
        let at = match &self.node_port_addresses {
            Some(prefixes) => prefixes.iter().any(|prefix| prefix.contains(&addr)),
            None => flow.is_dst_nat(),
        };
        at && self.local.contains(&addr) && !addr.is_loopback()
    }

    fn frontend(&self, frontend: &Frontend, flow: &Flow) -> Asked {
        let service = short(&frontend.service);
        let at = port(flow.original.dport, flow.protocol);
        let name = match &*frontend.kind {
            "ClusterIP" => format!("svc/{service}{at}"),
            "NodePort" => format!("{} (svc/{service})", self.at(flow)),
            _ => format!("lb/{service}{at}"),
        };
        Asked {
            name,
            service: Some(frontend.service.clone()),
            port_name: frontend.port_name.clone(),
            pod: None,
            kind: Some(frontend.kind.clone()),
        }
    }

    /// The destination by the node's name, or by its address.
    fn at(&self, flow: &Flow) -> String {
        let number = flow.original.dport;
        match self.place(flow.original.dst) {
            Some(place) => format!("{}{}", place.name, port(number, flow.protocol)),
            None => {
                let socket = SocketAddr::new(flow.original.dst, number);
                match flow.protocol {
                    Protocol::Tcp => socket.to_string(),
                    other => format!("{socket}/{other}"),
                }
            }
        }
    }
}
