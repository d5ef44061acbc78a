//! What `get` lists: one type a resource, printed as a table's row or as an object.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use crate::plan::{Endpoint, FrontendKey};
use crate::ruleset::Protocol;

/// A listed object.
pub trait Row: Serialize + PartialEq {
    /// The word for one of them: `service`, as in `-o name`.
    const WORD: &'static str;
    /// Columns, and whether only `-o wide` shows them.
    const COLUMNS: &'static [(&'static str, bool)];

    /// A cell for each column.
    fn cells(&self) -> Vec<String>;
    /// Namespace and name; routes and the like have no namespace.
    fn name(&self) -> (Option<&str>, String);
    /// Which of the rows with this name it is, where there may be several.
    #[cfg_attr(
        not(feature = "daemon"),
        expect(dead_code, reason = "only a watch tells rows apart")
    )]
    fn part(&self) -> Option<String> {
        None
    }
    /// What has been counted, by column, if anything.
    fn counted(&self) -> Option<&Counted> {
        None
    }
}

/// Connections that the kernel has counted (`--service-counters`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Taken.
    pub connections: u64,
    /// Refused, or dropped for want of an endpoint.
    pub refused: u64,
    /// Taken by each endpoint, by whatever frontend of its service port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by_endpoint: Option<BTreeMap<String, u64>>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    pub port: NonZeroU16,
    #[serde(serialize_with = "text")]
    pub protocol: Protocol,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_port: Option<NonZeroU16>,
}

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    /// Not known of what is installed.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub headless: bool,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<IpAddr>,
    #[serde(rename = "externalIPs")]
    pub external_ips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// How many endpoints this node uses for it, over all its ports.
    pub endpoints: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<BTreeMap<String, String>>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// An endpoint of a frontend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct EndpointOf {
    pub address: IpAddr,
    pub port: NonZeroU16,
    /// Its share is its weight by the sum of all.
    pub weight: u32,
}

/// What becomes of a connection to a frontend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It goes to one of the endpoints.
    Endpoints,
    /// Refused: nobody serves it anywhere.
    Refused,
    /// Dropped: nobody here may serve it.
    Dropped,
}

/// An address and port at which a Service answers, and who for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendRow {
    pub namespace: String,
    pub service: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// `ClusterIP`, `NodePort`, `ExternalIP`, `LoadBalancer`; `External` of what is installed.
    /// The object's own kind is another.
    #[serde(rename = "frontendKind")]
    pub kind: String,
    #[serde(serialize_with = "text")]
    pub frontend: FrontendKey,
    /// Not known of what is installed, but for a local policy that lets some around it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<&'static str>,
    pub outcome: Outcome,
    pub endpoints: Vec<EndpointOf>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
}

/// A route to another node's pods.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct RouteRow {
    pub destination: ipnet::IpNet,
    pub via: IpAddr,
    /// Not known of what is installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// A host port of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPortRow {
    pub namespace: String,
    pub pod: String,
    /// Every address of the node if there is none.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    pub host_port: NonZeroU16,
    #[serde(serialize_with = "text")]
    pub protocol: Protocol,
    pub address: IpAddr,
    pub port: NonZeroU16,
}

fn text<S: serde::Serializer>(
    value: &impl std::fmt::Display,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn or_none(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "<none>".to_owned()
    } else {
        items.join(",")
    }
}

fn or_unknown(text: Option<&str>) -> String {
    text.unwrap_or("<unknown>").to_owned()
}

impl Row for ServiceRow {
    const WORD: &'static str = "service";
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("NAMESPACE", false),
        ("NAME", false),
        ("TYPE", false),
        ("CLUSTER-IP", false),
        ("EXTERNAL-IP", false),
        ("PORT(S)", false),
        ("AGE", false),
        ("ENDPOINTS", false),
        ("SELECTOR", true),
    ];

    fn cells(&self) -> Vec<String> {
        let ports = self.ports.iter().map(|p| match p.node_port {
            Some(node_port) => format!("{}:{node_port}/{}", p.port, p.protocol),
            None => format!("{}/{}", p.port, p.protocol),
        });
        vec![
            self.namespace.clone(),
            self.name.clone(),
            or_unknown(self.service_type.as_deref()),
            if self.headless {
                "None".to_owned()
            } else {
                or_none(&self.cluster_ips)
            },
            or_none(&self.external_ips),
            or_none(ports),
            age(self.creation_timestamp.as_deref(), jiff::Timestamp::now()),
            self.endpoints.to_string(),
            match &self.selector {
                None => or_unknown(None),
                Some(selector) => or_none(selector.iter().map(|(k, v)| format!("{k}={v}"))),
            },
        ]
    }

    fn name(&self) -> (Option<&str>, String) {
        (Some(&self.namespace), self.name.clone())
    }

    fn counted(&self) -> Option<&Counted> {
        self.counted.as_ref()
    }
}

impl Row for FrontendRow {
    const WORD: &'static str = "endpoints";
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("NAMESPACE", false),
        ("SERVICE", false),
        ("PORT", false),
        ("KIND", false),
        ("FRONTEND", false),
        ("POLICY", false),
        ("ENDPOINTS", false),
    ];

    fn cells(&self) -> Vec<String> {
        let endpoints = self.endpoints.iter().map(|endpoint| {
            let own = Endpoint {
                addr: endpoint.address,
                port: endpoint.port,
            };
            match endpoint.weight {
                1 => own.to_string(),
                weight => format!("{own}*{weight}"),
            }
        });
        vec![
            self.namespace.clone(),
            self.service.clone(),
            match &*self.port_name {
                "" => "<unnamed>".to_owned(),
                name => name.to_owned(),
            },
            self.kind.clone(),
            self.frontend.to_string(),
            self.policy.unwrap_or("-").to_owned(),
            match self.outcome {
                Outcome::Endpoints => or_none(endpoints),
                Outcome::Refused => "<refused>".to_owned(),
                Outcome::Dropped => "<dropped>".to_owned(),
            },
        ]
    }

    fn name(&self) -> (Option<&str>, String) {
        (Some(&self.namespace), self.service.clone())
    }

    fn part(&self) -> Option<String> {
        let inside = (self.policy == Some(super::FROM_INSIDE)).then_some(" (from inside)");
        Some(format!("{}{}", self.frontend, inside.unwrap_or_default()))
    }

    fn counted(&self) -> Option<&Counted> {
        self.counted.as_ref()
    }
}

impl Row for RouteRow {
    const WORD: &'static str = "route";
    const COLUMNS: &'static [(&'static str, bool)] =
        &[("DESTINATION", false), ("VIA", false), ("NODE", false)];

    fn cells(&self) -> Vec<String> {
        vec![
            self.destination.to_string(),
            self.via.to_string(),
            or_unknown(self.node.as_deref()),
        ]
    }

    fn name(&self) -> (Option<&str>, String) {
        (None, self.destination.to_string())
    }
}

impl HostPortRow {
    fn host_ip(&self) -> String {
        self.host_ip
            .map_or_else(|| "*".to_owned(), |a| a.to_string())
    }

    fn host_port(&self) -> String {
        format!("{}/{}", self.host_port, self.protocol)
    }
}

impl Row for HostPortRow {
    const WORD: &'static str = "hostport";
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("NAMESPACE", false),
        ("POD", false),
        ("HOST-IP", false),
        ("HOST-PORT", false),
        ("ENDPOINT", false),
    ];

    fn cells(&self) -> Vec<String> {
        let endpoint = Endpoint {
            addr: self.address,
            port: self.port,
        };
        vec![
            self.namespace.clone(),
            self.pod.clone(),
            self.host_ip(),
            self.host_port(),
            endpoint.to_string(),
        ]
    }

    fn name(&self) -> (Option<&str>, String) {
        (Some(&self.namespace), self.pod.clone())
    }

    fn part(&self) -> Option<String> {
        Some(format!("{}:{}", self.host_ip(), self.host_port()))
    }
}

/// Time since creation as kubectl shows it, from an RFC 3339 timestamp.
fn age(created: Option<&str>, now: jiff::Timestamp) -> String {
    let created = created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    let seconds = created.map(|then| now.as_second() - then.as_second());
    match seconds {
        None | Some(..0) => "<unknown>".to_owned(),
        Some(s) if s < 120 => format!("{s}s"),
        Some(s) if s < 7200 => format!("{}m", s / 60),
        Some(s) if s < 172_800 => format!("{}h", s / 3600),
        Some(s) => format!("{}d", s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_short_and_of_what_is_no_time_unknown() {
        let now = "2026-03-03T12:00:00Z".parse().unwrap();
        for (created, expected) in [
            ("2026-03-03T11:59:30Z", "30s"),
            ("2026-03-03T11:00:00Z", "60m"),
            ("2026-03-01T13:00:00Z", "47h"),
            ("2026-03-01T12:00:00Z", "2d"),
            ("2027-03-01T12:00:00Z", "<unknown>"),
            ("yesterday", "<unknown>"),
        ] {
            assert_eq!(age(Some(created), now), expected, "{created}");
        }
        assert_eq!(age(None, now), "<unknown>");
    }
}
