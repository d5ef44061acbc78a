//! What a source says: objects one by one, and what became of them.

use super::{EndpointSlice, Node, ObjectName, Pod, Service, ServiceCidr};

/// A kind of object that an agent follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Nodes.
    Node,
    /// Pods; from the API those of this node.
    Pod,
    /// ServiceCIDRs.
    ServiceCidr,
}

impl Kind {
    /// All of them: the first sync waits for each.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::Pod,
        Self::ServiceCidr,
    ];

    /// Kubernetes' name of the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// Group, version and plural in the API's paths.
    #[must_use]
    pub const fn resource(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Service => ("", "v1", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices"),
            Self::Node => ("", "v1", "nodes"),
            Self::Pod => ("", "v1", "pods"),
            Self::ServiceCidr => ("networking.k8s.io", "v1", "servicecidrs"),
        }
    }
}

/// An object of a kind that is followed.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    Slice(Box<EndpointSlice>),
    /// A Node.
    Node(Box<Node>),
    /// A Pod.
    Pod(Box<Pod>),
    /// A ServiceCIDR.
    ServiceCidr(Box<ServiceCidr>),
}

impl Object {
    /// Its kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::Slice(_) => Kind::EndpointSlice,
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
        }
    }

    /// Its own name; that of a Node or a ServiceCIDR is in no namespace.
    #[must_use]
    pub fn name(&self) -> ObjectName {
        match self {
            Self::Service(service) => service.name.clone(),
            Self::Slice(slice) => slice.name.clone(),
            Self::Node(node) => ObjectName::new("", node.name.as_str()),
            Self::Pod(pod) => pod.name.clone(),
            Self::ServiceCidr(cidr) => ObjectName::new("", cidr.name.as_str()),
        }
    }
}

/// One changed object: what it is now, or that it is gone.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A Service.
    Service(ObjectName, Option<Box<Service>>),
    /// An EndpointSlice, by its own name.
    Slice(ObjectName, Option<Box<EndpointSlice>>),
    /// A Pod.
    Pod(ObjectName, Option<Box<Pod>>),
    /// A Node.
    Node(String, Option<Box<Node>>),
    /// A ServiceCIDR.
    ServiceCidr(String, Option<Box<ServiceCidr>>),
}

impl Change {
    /// That an object is no more.
    #[must_use]
    pub fn gone(kind: Kind, name: ObjectName) -> Self {
        match kind {
            Kind::Service => Self::Service(name, None),
            Kind::EndpointSlice => Self::Slice(name, None),
            Kind::Node => Self::Node(name.name.to_string(), None),
            Kind::Pod => Self::Pod(name, None),
            Kind::ServiceCidr => Self::ServiceCidr(name.name.to_string(), None),
        }
    }
}

impl From<Object> for Change {
    fn from(object: Object) -> Self {
        match object {
            Object::Service(service) => Self::Service(service.name.clone(), Some(service)),
            Object::Slice(slice) => Self::Slice(slice.name.clone(), Some(slice)),
            Object::Node(node) => Self::Node(node.name.clone(), Some(node)),
            Object::Pod(pod) => Self::Pod(pod.name.clone(), Some(pod)),
            Object::ServiceCidr(cidr) => Self::ServiceCidr(cidr.name.clone(), Some(cidr)),
        }
    }
}
