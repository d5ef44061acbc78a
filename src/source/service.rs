//! Services and ServiceCIDRs.

use std::collections::BTreeMap;

use super::fields::Checker;
use super::raw::{self, IntOrString};
use crate::cluster::{
    Balancing, Family, FamilyPolicy, Name, ObjectName, Service, ServiceCidr, ServicePort,
    ServiceType, TargetPort, TrafficPolicy,
};
use crate::syntax::{address, prefix};
use crate::text::did_you_mean;

/// Label that hands a service to another proxy, whatever its value.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// Legacy spelling of `loadBalancerSourceRanges`, for cloud providers. kube-proxy never obeyed
/// it; here it counts on demand, where the field is empty.
const LEGACY_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// How an endpoint is chosen.
pub const BALANCING: &str = "svcnat.io/balancing";
/// Weights of endpoints.
pub const WEIGHTS: &str = "svcnat.io/weights";
/// The API's default and limit of `timeoutSeconds`.
const DEFAULT_TIMEOUT: i64 = 10_800;
const MAX_TIMEOUT: i64 = 86_400;
const MAX_WEIGHT: u32 = 1000;

pub fn service(name: ObjectName, raw: raw::Service, c: &mut Checker<'_>) -> Option<Service> {
    let raw::Service {
        metadata,
        spec,
        status,
    } = raw;
    let types = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    let service_type = match c.choice("spec.type", spec.r#type.as_deref(), &types) {
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        _ => ServiceType::ClusterIp,
    };
    let (cluster_ips, headless) = cluster_ips(&spec, c);
    let external_ips = addresses("spec.externalIPs", spec.external_ips.as_deref(), c);
    let external = policy(
        "spec.externalTrafficPolicy",
        spec.external_traffic_policy.as_deref(),
        c,
    );
    let internal_traffic_policy = policy(
        "spec.internalTrafficPolicy",
        spec.internal_traffic_policy.as_deref(),
        c,
    );
    // A policy for outsiders means nothing without a frontend for them.
    let from_outside = service_type != ServiceType::ClusterIp || !external_ips.is_empty();
    let external_traffic_policy = if from_outside {
        external
    } else {
        TrafficPolicy::Cluster
    };
    let load_balancer_ips = ingress(status.load_balancer, c);
    let load_balancer_ip = spec.load_balancer_ip.filter(|ip| !ip.is_empty());
    let family_policy = c.choice(
        "spec.ipFamilyPolicy",
        spec.ip_family_policy.as_deref(),
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
    );
    let service = Service {
        origin: c.origin.clone(),
        service_type,
        cluster_ips,
        headless,
        ip_families: families(spec.ip_families.as_deref(), c),
        family_policy: match family_policy {
            Some("PreferDualStack") => FamilyPolicy::PreferDualStack,
            Some("RequireDualStack") => FamilyPolicy::RequireDualStack,
            _ => FamilyPolicy::SingleStack,
        },
        ports: ports(spec.ports.unwrap_or_default(), c),
        selector: selector(spec.selector.unwrap_or_default()),
        external_ips,
        load_balancer_ip: load_balancer_ip.and_then(|ip| skip_bad("spec.loadBalancerIP", &ip, c)),
        load_balancer_ips,
        source_ranges: source_ranges(
            spec.load_balancer_source_ranges.as_deref(),
            metadata.annotation(LEGACY_RANGES),
            c,
        ),
        external_traffic_policy,
        internal_traffic_policy,
        affinity_timeout: affinity(
            spec.session_affinity.as_deref(),
            spec.session_affinity_config
                .and_then(|config| config.client_ip?.timeout_seconds),
            c,
        ),
        health_check_node_port: c
            .optional_port("spec.healthCheckNodePort", spec.health_check_node_port),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        other_proxy: metadata.label(OTHER_PROXY).is_some(),
        balancing: balancing(metadata.annotation(BALANCING), c),
        weights: weights(metadata.annotation(WEIGHTS), c),
        created: metadata.creation_timestamp,
        name,
    };
    let is_proxied = !service.headless && service.service_type != ServiceType::ExternalName;
    if service.ports.is_empty() && is_proxied && c.rules.manifests && !c.failed {
        c.warning("spec.ports", "is empty, so nothing leads to it");
    }
    (!c.failed).then_some(service)
}

fn policy(field: &str, value: Option<&str>, c: &mut Checker<'_>) -> TrafficPolicy {
    match c.choice(field, value, &["Cluster", "Local"]) {
        Some("Local") => TrafficPolicy::Local,
        _ => TrafficPolicy::Cluster,
    }
}

/// The addresses of a load balancer that leaves the packets' destination as it is.
fn ingress(status: Option<raw::LoadBalancer>, c: &mut Checker<'_>) -> Vec<std::net::IpAddr> {
    let mut out = Vec::new();
    let list = status.and_then(|lb| lb.ingress).unwrap_or_default();
    for (i, ingress) in list.into_iter().enumerate() {
        let field = |name: &str| format!("status.loadBalancer.ingress[{i}].{name}");
        let mode = c.choice(
            &field("ipMode"),
            ingress.ip_mode.as_deref(),
            &["VIP", "Proxy"],
        );
        if let Some(ip) = ingress
            .ip
            .filter(|ip| !ip.is_empty() && mode != Some("Proxy"))
        {
            out.extend(skip_bad(&field("ip"), &ip, c));
        }
    }
    out
}

fn selector(labels: BTreeMap<String, String>) -> Vec<(Name, Name)> {
    let pairs = labels.into_iter();
    let mut pairs: Vec<_> = pairs
        .map(|(key, value)| (key.into(), value.into()))
        .collect();
    pairs.shrink_to_fit();
    pairs
}

fn cluster_ips(spec: &raw::ServiceSpec, c: &mut Checker<'_>) -> (Vec<std::net::IpAddr>, bool) {
    let listed: Vec<&str> = match &spec.cluster_ips {
        Some(list) if !list.is_empty() => list.iter().map(String::as_str).collect(),
        _ => spec.cluster_ip.iter().map(String::as_str).collect(),
    };
    let headless = spec.cluster_ip.as_deref() == Some("None") || listed.contains(&"None");
    let mut ips = Vec::new();
    for ip in listed
        .into_iter()
        .filter(|ip| !ip.is_empty() && *ip != "None")
    {
        if ip.eq_ignore_ascii_case("None") {
            c.spelling(|| "spec.clusterIP".to_owned(), ip, &["None"]);
        } else {
            ips.extend(c.address("spec.clusterIP", ip));
        }
    }
    ips.shrink_to_fit();
    (ips, headless)
}

fn addresses(field: &str, list: Option<&[String]>, c: &mut Checker<'_>) -> Vec<std::net::IpAddr> {
    list.into_iter()
        .flatten()
        .filter(|ip| !ip.is_empty())
        .filter_map(|ip| skip_bad(field, ip, c))
        .collect()
}

/// An address that is left out with a warning if it is none: the API server lets some by.
fn skip_bad(field: &str, text: &str, c: &mut Checker<'_>) -> Option<std::net::IpAddr> {
    let parsed = address(text);
    if parsed.is_none() {
        c.warning(
            field,
            format!("{text:?} is not an IP address and is left out"),
        );
    }
    parsed
}

fn families(list: Option<&[String]>, c: &mut Checker<'_>) -> Vec<Family> {
    let mut out = Vec::new();
    for name in list.into_iter().flatten() {
        match c.choice("spec.ipFamilies", Some(name), &["IPv4", "IPv6"]) {
            Some("IPv4") => out.push(Family::Ip),
            Some(_) => out.push(Family::Ip6),
            None => {}
        }
    }
    out
}

fn ports(list: Vec<raw::ServicePort>, c: &mut Checker<'_>) -> Vec<ServicePort> {
    let mut out = Vec::with_capacity(list.len());
    for (i, raw) in list.into_iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let protocol = c.protocol(&field("protocol"), raw.protocol.as_deref());
        let port = match raw.port {
            Some(number) => c.port(&field("port"), number),
            None => {
                c.error(&field("port"), "is absent");
                None
            }
        };
        let node_port = c.optional_port(&field("nodePort"), raw.node_port);
        let (Some(protocol), Some(port)) = (protocol, port) else {
            continue;
        };
        let target_port = match raw.target_port {
            None | Some(IntOrString::Int(0)) => TargetPort::Number(port),
            Some(IntOrString::Int(n)) => match c.port(&field("targetPort"), n) {
                Some(n) => TargetPort::Number(n),
                None => continue,
            },
            Some(IntOrString::String(name)) => match name.parse::<i64>() {
                Ok(n) => match c.port(&field("targetPort"), n) {
                    Some(n) => TargetPort::Number(n),
                    None => continue,
                },
                Err(_) if name.is_empty() => TargetPort::Number(port),
                Err(_) => TargetPort::Name(name),
            },
        };
        out.push(ServicePort {
            name: raw.name.unwrap_or_default().into(),
            protocol,
            port,
            target_port,
            node_port,
        });
    }
    out
}

/// Blanks around a range do not matter, host bits are masked, what is none is left out.
fn source_ranges(
    list: Option<&[String]>,
    legacy: Option<&str>,
    c: &mut Checker<'_>,
) -> Vec<ipnet::IpNet> {
    let annotation = format!("metadata.annotations[{LEGACY_RANGES}]");
    let legacy = legacy.filter(|text| !text.trim().is_empty());
    let (field, texts): (_, Vec<&str>) = match (list, legacy) {
        (Some(list), _) if !list.is_empty() => (
            "spec.loadBalancerSourceRanges",
            list.iter().map(String::as_str).collect(),
        ),
        (_, Some(legacy)) if c.rules.legacy_source_ranges => {
            (&*annotation, legacy.split(',').collect())
        }
        (_, Some(_)) => {
            c.warning(
                &annotation,
                "is not obeyed, as by kube-proxy: use spec.loadBalancerSourceRanges, or \
                 --source-ranges-annotation",
            );
            return Vec::new();
        }
        (_, None) => return Vec::new(),
    };
    let mut out = Vec::new();
    let mut bad = Vec::new();
    for text in texts.into_iter().map(str::trim).filter(|t| !t.is_empty()) {
        match prefix(text) {
            Some(net) => out.push(net.trunc()),
            None => bad.push(text),
        }
    }
    for text in bad {
        if out.is_empty() {
            // Without any range everybody would be let in.
            c.error(field, format!("{text:?} is not a prefix"));
        } else {
            c.warning(field, format!("{text:?} is not a prefix and is left out"));
        }
    }
    out
}

fn affinity(kind: Option<&str>, timeout: Option<i64>, c: &mut Checker<'_>) -> Option<u32> {
    c.choice("spec.sessionAffinity", kind, &["None", "ClientIP"])
        .filter(|kind| *kind == "ClientIP")?;
    let seconds = timeout.unwrap_or(DEFAULT_TIMEOUT);
    match u32::try_from(seconds) {
        Ok(seconds) if (1..=MAX_TIMEOUT).contains(&i64::from(seconds)) => Some(seconds),
        _ => {
            c.error(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
                format!("{seconds} is not between 1 and {MAX_TIMEOUT}"),
            );
            None
        }
    }
}

fn balancing(annotation: Option<&str>, c: &mut Checker<'_>) -> Balancing {
    match annotation.map(str::trim) {
        None | Some("random") => Balancing::Random,
        Some("source-ip") => Balancing::SourceIp,
        Some(other) => {
            c.warning(
                &format!("metadata.annotations[{BALANCING}]"),
                format!(
                    "{other:?} is neither random nor source-ip; random is used{}",
                    did_you_mean(other, ["source-ip"])
                ),
            );
            Balancing::Random
        }
    }
}

fn weights(annotation: Option<&str>, c: &mut Checker<'_>) -> BTreeMap<String, u32> {
    let mut out = BTreeMap::new();
    for item in annotation
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|i| !i.is_empty())
    {
        let parsed = item.split_once('=').and_then(|(who, weight)| {
            let weight: u32 = weight.trim().parse().ok()?;
            let who = who.trim();
            let known = who.starts_with("pod/") || who.starts_with("zone/");
            (known && (1..=MAX_WEIGHT).contains(&weight)).then(|| (who.to_owned(), weight))
        });
        match parsed {
            Some((who, weight)) => drop(out.insert(who, weight)),
            None => c.warning(
                &format!("metadata.annotations[{WEIGHTS}]"),
                format!("{item:?} is not pod/NAME=N or zone/NAME=N with N from 1 to {MAX_WEIGHT}"),
            ),
        }
    }
    out
}

pub fn service_cidr(
    name: String,
    raw: raw::ServiceCidr,
    c: &mut Checker<'_>,
) -> Option<ServiceCidr> {
    let cidrs = raw
        .spec
        .cidrs
        .unwrap_or_default()
        .iter()
        .filter_map(|cidr| c.network("spec.cidrs", cidr))
        .collect();
    (!c.failed).then(|| ServiceCidr {
        name,
        origin: c.origin.clone(),
        cidrs,
    })
}
