//! What a source that goes on says: one object at a time.

use super::{EndpointSlice, Node, ObjectName, Pod, Service, ServiceCidr};

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
