//! Kubernetes objects for a lab, built in a line or two each: dual-stack Services with their
//! EndpointSlices, Pods, and the Nodes as the lab has them.
//!
//! What has no method is merged in as JSON with `set`, so that a test shows the very field
//! it is about.

use serde_json::{Value, json};
use svcnat::cluster::{Family, Protocol};

use super::addr::{Dual, ip_of, node_ip, node_name, node_of, pod_cidrs};

/// The objects that every node of a lab is given.
#[derive(Clone, Debug)]
pub struct Cluster {
    nodes: Vec<Value>,
    services: Vec<Service>,
    objects: Vec<Value>,
}

impl Cluster {
    /// Only the Nodes, `count` of them, each in a zone `zone-NAME` of its own.
    pub fn of_nodes(count: usize) -> Self {
        Self {
            nodes: (0..count).map(node).collect(),
            services: Vec::new(),
            objects: Vec::new(),
        }
    }

    /// The usual two nodes and these services.
    pub fn with(services: impl IntoIterator<Item = Service>) -> Self {
        let mut cluster = Self::of_nodes(2);
        cluster.services.extend(services);
        cluster
    }

    /// Any other object.
    pub fn object(mut self, object: Value) -> Self {
        self.objects.push(object);
        self
    }

    /// A `List`, as `kubectl get -o json` prints it.
    pub fn json(&self) -> String {
        let mut items = self.nodes.clone();
        items.extend(self.services.iter().flat_map(Service::objects));
        items.extend(self.objects.iter().cloned());
        json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    }
}

fn node(number: usize) -> Value {
    let name = node_name(number);
    let cidrs = pod_cidrs(number);
    let addresses = node_ip(number)
        .both()
        .map(|addr| json!({"type": "InternalIP", "address": addr}));
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"topology.kubernetes.io/zone": format!("zone-{name}")},
        },
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": addresses},
    })
}

/// A ready Pod of the lab with one container; `spec` is merged over it.
pub fn pod(place: &str, labels: Value, spec: Value) -> Value {
    let ips = ip_of(place).both().map(|ip| json!({"ip": ip}));
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": place, "namespace": "default", "labels": labels},
        "spec": {"nodeName": node_of(place), "containers": [{"name": "main"}]},
        "status": {
            "phase": "Running",
            "podIP": ips[0]["ip"],
            "podIPs": ips,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    merge(&mut pod, json!({"spec": spec}));
    pod
}

/// A dual-stack Service and its endpoints.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    ports: Vec<Port>,
    endpoints: Vec<Endpoint>,
    patches: Vec<Value>,
    slices: bool,
    cluster_ip: Dual,
    families: Vec<Family>,
}

#[derive(Clone, Debug)]
struct Port {
    port: u16,
    target: u16,
    node_port: Option<u16>,
    protocols: Vec<Protocol>,
}

impl Port {
    fn name(&self, protocol: Protocol) -> String {
        format!("p{}-{}", self.port, spelled(protocol).to_lowercase())
    }
}

impl Service {
    /// `default/NAME` with this clusterIP, without ports or endpoints.
    pub fn new(name: &str, cluster_ip: Dual) -> Self {
        Self {
            name: name.to_owned(),
            ports: Vec::new(),
            endpoints: Vec::new(),
            patches: Vec::new(),
            slices: true,
            cluster_ip,
            families: Family::ALL.to_vec(),
        }
    }

    /// A port, for TCP and UDP, and where endpoints listen.
    pub fn port(mut self, port: u16, target: u16) -> Self {
        self.ports.push(Port {
            port,
            target,
            node_port: None,
            protocols: vec![Protocol::Tcp, Protocol::Udp],
        });
        self
    }

    /// The last port is of these protocols instead.
    pub fn protocols(mut self, protocols: &[Protocol]) -> Self {
        let port = self.ports.last_mut().expect("a port before its protocols");
        port.protocols = protocols.to_vec();
        self
    }

    /// The last port has this node port too, and the Service is of type NodePort.
    pub fn node_port(mut self, node_port: u16) -> Self {
        let port = self.ports.last_mut().expect("a port before its node port");
        port.node_port = Some(node_port);
        self.set(json!({"spec": {"type": "NodePort"}}))
    }

    /// Only this family.
    pub fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    /// Ready endpoints in these places.
    pub fn endpoints(mut self, places: &[&str]) -> Self {
        self.endpoints
            .extend(places.iter().map(|place| Endpoint::of(place)));
        self
    }

    /// An endpoint of any kind.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.endpoints.push(endpoint);
        self
    }

    /// No EndpointSlices: endpoints come from Pods.
    pub fn without_slices(mut self) -> Self {
        self.slices = false;
        self
    }

    /// Merged over the Service object: maps into maps, everything else replaced.
    pub fn set(mut self, patch: Value) -> Self {
        self.patches.push(patch);
        self
    }

    /// The Service and an EndpointSlice for each family.
    pub fn objects(&self) -> Vec<Value> {
        let mut objects = vec![self.service()];
        if self.slices {
            objects.extend(self.families.iter().map(|family| self.slice(*family)));
        }
        objects
    }

    fn service(&self) -> Value {
        let ips: Vec<_> = self
            .families
            .iter()
            .map(|family| self.cluster_ip.of(*family))
            .collect();
        let families: Vec<_> = self.families.iter().map(Family::to_string).collect();
        let ports: Vec<Value> = self.each_port(|port, protocol| {
            let mut value = json!({
                "name": port.name(protocol),
                "protocol": spelled(protocol),
                "port": port.port,
                "targetPort": port.target,
            });
            if let Some(node_port) = port.node_port {
                value["nodePort"] = node_port.into();
            }
            value
        });
        let mut service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": self.name, "namespace": "default"},
            "spec": {
                "clusterIP": ips[0],
                "clusterIPs": ips,
                "ipFamilies": families,
                "ipFamilyPolicy": if ips.len() == 2 { "RequireDualStack" } else { "SingleStack" },
                "ports": ports,
            },
        });
        for patch in &self.patches {
            merge(&mut service, patch.clone());
        }
        service
    }

    fn slice(&self, family: Family) -> Value {
        let endpoints: Vec<Value> = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.json(family))
            .collect();
        let ports = self.each_port(|port, protocol| {
            json!({"name": port.name(protocol), "protocol": spelled(protocol), "port": port.target})
        });
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{}-{}", self.name, family.to_string().to_lowercase()),
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.name},
            },
            "addressType": family.to_string(),
            "endpoints": endpoints,
            "ports": ports,
        })
    }

    fn each_port(&self, make: impl Fn(&Port, Protocol) -> Value) -> Vec<Value> {
        let pairs = self
            .ports
            .iter()
            .flat_map(|port| port.protocols.iter().map(move |protocol| (port, *protocol)));
        pairs.map(|(port, protocol)| make(port, protocol)).collect()
    }
}

/// An entry of an EndpointSlice.
#[derive(Clone, Debug)]
pub struct Endpoint {
    addr: Dual,
    patch: Value,
}

impl Endpoint {
    /// A ready endpoint in a place, on the place's node.
    pub fn of(place: &str) -> Self {
        Self::on(ip_of(place), node_of(place))
    }

    /// A ready endpoint at any address, on this node.
    pub fn at(addr: Dual, node: &str) -> Self {
        Self::on(addr, Some(node))
    }

    fn on(addr: Dual, node: Option<&str>) -> Self {
        Self {
            addr,
            patch: json!({
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "nodeName": node,
            }),
        }
    }

    /// Neither ready nor serving.
    pub fn unready(self) -> Self {
        self.set(json!({"conditions": {"ready": false, "serving": false}}))
    }

    /// On its way out, and serving still.
    pub fn terminating(self) -> Self {
        self.set(json!({"conditions": {"ready": false, "terminating": true}}))
    }

    /// Meant for clients in these zones.
    pub fn for_zones(self, zones: &[&str]) -> Self {
        let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
        self.set(json!({"hints": {"forZones": zones}}))
    }

    /// Meant for clients on these nodes.
    pub fn for_nodes(self, nodes: &[&str]) -> Self {
        let nodes: Vec<Value> = nodes.iter().map(|node| json!({"name": node})).collect();
        self.set(json!({"hints": {"forNodes": nodes}}))
    }

    /// Merged over the entry.
    pub fn set(mut self, patch: Value) -> Self {
        merge(&mut self.patch, patch);
        self
    }

    fn json(&self, family: Family) -> Value {
        let mut value = json!({"addresses": [self.addr.of(family)]});
        merge(&mut value, self.patch.clone());
        value
    }
}

/// Kubernetes' spelling.
pub fn spelled(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// Merges maps into maps; `null` removes, everything else is replaced (RFC 7396).
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch,
    }
}
