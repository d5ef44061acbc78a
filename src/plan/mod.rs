//! Kubernetes semantics: which frontends, endpoints, policies and routes this node needs.
//!
//! Pure: cluster and configuration in, plan and problems out.

mod types;

pub use types::{
    Endpoint, EndpointList, FamilyPlan, Frontend, FrontendKey, FrontendKind, HostPort, HostPortKey,
    ListKey, NodePlan, Route, ServicePortKey, Shape, Target, View,
};
