//! EndpointSlices, and Endpoints as slices.

use super::fields::Checker;
use super::raw;
use crate::cluster::{EndpointSlice, Family, Hints, Name, ObjectName, SliceEndpoint, SlicePort};
use crate::syntax::address;
use crate::text::nearest;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const HEADLESS: &str = "service.kubernetes.io/headless";
const TRIGGER_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// A slice; `None` without a word for those kube-proxy does not look at either.
pub fn slice(
    name: ObjectName,
    raw: raw::EndpointSlice,
    c: &mut Checker<'_>,
) -> Option<EndpointSlice> {
    let types = ["IPv4", "IPv6", "FQDN"];
    let family = match c.choice("addressType", raw.address_type.as_deref(), &types) {
        Some("IPv4") => Family::Ip,
        Some("IPv6") => Family::Ip6,
        Some(_) => return None,
        None => {
            if !c.failed {
                c.error("addressType", "is absent; expected IPv4, IPv6 or FQDN");
            }
            return None;
        }
    };
    let service = raw.metadata.label(SERVICE_NAME).filter(|s| !s.is_empty());
    if service.is_none() && c.rules.manifests {
        let labels = raw.metadata.labels.iter().flatten();
        let near = labels
            .map(|(key, _)| key)
            .find(|key| nearest(key, [SERVICE_NAME]).is_some());
        let near = near.map_or_else(String::new, |key| format!(" (but {key})"));
        c.warning(
            "metadata.labels",
            format!("has no label {SERVICE_NAME}{near}, so it feeds no Service"),
        );
    }
    let service = service?;
    if raw.metadata.label(HEADLESS).is_some() {
        return None;
    }
    let service = ObjectName::new(Name::clone(&name.namespace), service);
    let trigger_time = raw.metadata.annotation(TRIGGER_TIME).map(str::to_owned);
    let mut ports = ports("ports", raw.ports.unwrap_or_default(), c);
    ports.shrink_to_fit();
    let mut endpoints = Vec::new();
    for (i, endpoint) in raw.endpoints.unwrap_or_default().into_iter().enumerate() {
        let field = || format!("endpoints[{i}].addresses[0]");
        let Some(text) = endpoint.addresses.as_ref().and_then(|a| a.first()) else {
            if c.rules.manifests {
                c.warning(&field(), "is absent, so the endpoint is passed over");
            }
            continue;
        };
        match address(text) {
            Some(addr) if Family::of(&addr) == family => {
                if let Some(kind) = endpoint.target_ref.as_ref().and_then(|t| t.kind.as_deref()) {
                    c.spelling(|| format!("endpoints[{i}].targetRef.kind"), kind, &["Pod"]);
                }
                endpoints.push(convert(addr, endpoint));
            }
            Some(addr) => c.error(
                &field(),
                format!(
                    "{addr} is {}, but the slice's addressType is {family}",
                    Family::of(&addr)
                ),
            ),
            None => c.error(&field(), format!("{text:?} is not an IP address")),
        }
    }
    endpoints.shrink_to_fit();
    // Bad endpoints were reported; the others still serve.
    Some(EndpointSlice {
        name,
        origin: c.origin.clone(),
        service,
        family,
        endpoints,
        ports,
        trigger_time,
    })
}

fn convert(address: std::net::IpAddr, raw: raw::Endpoint) -> SliceEndpoint {
    let conditions = raw.conditions.unwrap_or_default();
    let hints = raw.hints.unwrap_or_default();
    let names = |list: Option<Vec<raw::Named>>| -> Vec<Name> {
        list.into_iter().flatten().map(|n| n.name.into()).collect()
    };
    let hints = Hints {
        for_zones: names(hints.for_zones),
        for_nodes: names(hints.for_nodes),
    };
    SliceEndpoint {
        address,
        ready: conditions.ready.unwrap_or(true),
        serving: conditions.serving.unwrap_or(true),
        terminating: conditions.terminating.unwrap_or(false),
        node_name: raw.node_name.map(Name::from),
        zone: raw.zone.map(Name::from),
        pod: pod(raw.target_ref),
        hints: (hints != Hints::default()).then(|| Box::new(hints)),
    }
}

fn pod(target: Option<raw::TargetRef>) -> Option<Name> {
    let target = target.filter(|t| t.kind.as_deref() == Some("Pod"))?;
    target.name.map(Name::from)
}

/// Ports without a number are for other uses of slices and are passed over.
fn ports(field: &str, list: Vec<raw::EndpointPort>, c: &mut Checker<'_>) -> Vec<SlicePort> {
    let mut out = Vec::new();
    for (i, raw) in list.into_iter().enumerate() {
        let Some(number) = raw.port.filter(|n| *n != 0) else {
            continue;
        };
        let protocol = c.protocol(&format!("{field}[{i}].protocol"), raw.protocol.as_deref());
        let port = c.port(&format!("{field}[{i}].port"), number);
        if let (Some(protocol), Some(port)) = (protocol, port) {
            out.push(SlicePort {
                name: raw.name.unwrap_or_default().into(),
                protocol,
                port,
            });
        }
    }
    out
}

/// The subsets of an Endpoints object as slices, one per subset and family.
pub fn endpoints(
    name: &ObjectName,
    raw: raw::Endpoints,
    c: &mut Checker<'_>,
) -> Vec<EndpointSlice> {
    let mut out = Vec::new();
    if raw.metadata.label(HEADLESS).is_some() {
        return out;
    }
    for (i, subset) in raw.subsets.unwrap_or_default().into_iter().enumerate() {
        let ports = ports(
            &format!("subsets[{i}].ports"),
            subset.ports.unwrap_or_default(),
            c,
        );
        let ready = subset
            .addresses
            .unwrap_or_default()
            .into_iter()
            .map(|a| (a, true));
        let unready = subset.not_ready_addresses.unwrap_or_default();
        let mut found: Vec<SliceEndpoint> = Vec::new();
        for (raw, ready) in ready.chain(unready.into_iter().map(|a| (a, false))) {
            let Some(address) = c.address(&format!("subsets[{i}].addresses"), &raw.ip) else {
                continue;
            };
            found.push(SliceEndpoint {
                address,
                ready,
                serving: ready,
                terminating: false,
                node_name: raw.node_name.map(Name::from),
                zone: None,
                pod: pod(raw.target_ref),
                hints: None,
            });
        }
        for family in Family::ALL {
            let of_family = |e: &&SliceEndpoint| Family::of(&e.address) == family;
            out.push(EndpointSlice {
                name: ObjectName::new(
                    Name::clone(&name.namespace),
                    format!("{LEGACY}{}/{i}/{}", name.name, family.nft_name()),
                ),
                origin: c.origin.clone(),
                service: name.clone(),
                family,
                endpoints: found.iter().filter(of_family).cloned().collect(),
                ports: ports.clone(),
                trigger_time: None,
            });
        }
    }
    out
}

/// Start of the names of slices made from Endpoints: no real slice's name has a slash.
pub const LEGACY: &str = "endpoints/";
