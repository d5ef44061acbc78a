//! A walked packet and its reasons, in words and as JSON.

use std::io::Write;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::explain::{Reasons, Remembered, Scene};
use crate::path::Path;
use crate::plan::{Endpoint, Frontend, FrontendKind, SERVICE_ADDRESS, Standing, no_port};
use crate::print;
use crate::walk::{Candidate, Fate, Step, family};

/// In words.
pub fn text(out: &mut impl Write, scene: &Scene<'_>, reasons: &Reasons<'_>) -> std::io::Result<()> {
    let (packet, trace) = (scene.packet, scene.trace);
    let sender = if packet.from_node {
        ", sent by this node"
    } else {
        ""
    };
    writeln!(
        out,
        "{} -> {}/{}{sender}",
        packet.source,
        SocketAddr::new(packet.destination, packet.port),
        packet.protocol,
    )?;
    if let Some(frontend) = reasons.frontend {
        behind(out, scene, reasons, frontend)?;
    }
    if let Some(port) = reasons.host_port {
        writeln!(out, "  hostPort of Pod {}", port.owner)?;
    }
    for step in &trace.steps {
        write!(out, "  {}: {}", step.chain, written(scene, step))?;
        match &step.element {
            Some(comment) => writeln!(out, "   [{comment}]")?,
            None => writeln!(out)?,
        }
    }
    match trace.fate {
        Fate::Dropped => writeln!(out, "dropped: {}", reasons.fate),
        Fate::Refused => writeln!(
            out,
            "refused (TCP reset or ICMP port unreachable): {}",
            reasons.fate
        ),
        Fate::Accepted if trace.candidates.is_empty() => {
            let how = if trace.masqueraded {
                ", behind this node's address"
            } else {
                ""
            };
            writeln!(out, "goes on untranslated{how}: {}", reasons.fate)
        }
        Fate::Accepted => trace.candidates.iter().try_for_each(|c| {
            if reasons.is_service_address(scene, c) {
                let (share, to) = (c.probability * 100.0, socket(&c.endpoint));
                return writeln!(out, "{share:6.2} % lost: endpoint {to} {SERVICE_ADDRESS}");
            }
            let seen = if c.masqueraded {
                "this node's address"
            } else {
                "the client's address"
            };
            writeln!(
                out,
                "{:6.2} % to {}, which sees {seen} ({})",
                c.probability * 100.0,
                socket(&c.endpoint),
                reasons.masquerade(scene, c)
            )
        }),
    }
}

/// What is behind a frontend and how one of it is chosen.
fn behind(
    out: &mut impl Write,
    scene: &Scene<'_>,
    reasons: &Reasons<'_>,
    frontend: &Frontend,
) -> std::io::Result<()> {
    let (kind, service) = (kind_name(frontend.kind), &frontend.owner.service);
    writeln!(out, "  {kind} of Service {service}, {}", reasons.policy)?;
    for (endpoint, standing) in &reasons.endpoints {
        let to = socket(endpoint);
        let of = match reasons.pod(scene, endpoint.addr) {
            (Some(pod), Some(node)) => format!(", pod {pod} on {node}"),
            (Some(pod), None) => format!(", pod {pod}"),
            (None, Some(node)) => format!(" on {node}"),
            (None, None) => String::new(),
        };
        match standing {
            Standing::Used => writeln!(out, "  endpoint {to}{of}")?,
            why => writeln!(out, "  endpoint {to}{of} is left out: {why}")?,
        }
    }
    for addr in &reasons.without_port {
        let why = no_port(&frontend.owner.port_name, frontend.owner.protocol);
        writeln!(out, "  endpoint {addr} is left out: {why}")?;
    }
    if reasons.by_source {
        write!(out, "  chosen by the client's address, on every node alike")?;
        match &scene.trace.candidates[..] {
            [one] => writeln!(out, ": this one always has {}", socket(&one.endpoint))?,
            _ => writeln!(out)?,
        }
    }
    if let Some(seconds) = reasons.affinity {
        writeln!(
            out,
            "  session affinity: a client keeps its endpoint for {seconds} s"
        )?;
    }
    match reasons.memory {
        Remembered::At(endpoint) => writeln!(
            out,
            "  this client is remembered: it goes to {} for now",
            socket(&endpoint)
        ),
        Remembered::Nothing => writeln!(out, "  this client is not remembered"),
        Remembered::NotAsked => Ok(()),
    }
}

fn socket(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr, endpoint.port.get())
}

const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "clusterIP",
        FrontendKind::ExternalIp => "externalIP",
        FrontendKind::LoadBalancer => "load-balancer address",
        FrontendKind::NodePort => "nodePort",
    }
}

/// The rule, as nft writes it.
fn written(scene: &Scene<'_>, step: &Step) -> String {
    print::text::rule(family(scene.packet), &step.rule)
}

/// As JSON: the same facts as fields.
pub fn json(
    out: &mut impl Write,
    scene: &Scene<'_>,
    reasons: &Reasons<'_>,
    path: Option<&Path>,
) -> std::io::Result<()> {
    let trace = scene.trace;
    let steps: Vec<Value> = trace
        .steps
        .iter()
        .map(|s| json!({"chain": s.chain, "rule": written(scene, s), "element": s.element}))
        .collect();
    let candidate = |c: &Candidate| {
        json!({
            "address": c.endpoint.addr.to_string(),
            "port": c.endpoint.port.get(),
            "probability": c.probability,
            "masqueraded": c.masqueraded,
            "serviceAddress": reasons.is_service_address(scene, c),
            "reason": reasons.masquerade(scene, c),
        })
    };
    let fate = match trace.fate {
        Fate::Accepted => "accepted",
        Fate::Dropped => "dropped",
        Fate::Refused => "refused",
    };
    writeln!(
        out,
        "{}",
        json!({
            "fate": fate,
            "reason": reasons.fate,
            "fromNode": scene.packet.from_node,
            "masqueraded": trace.masqueraded,
            "frontend": reasons.frontend.map(|f| frontend(scene, reasons, f)),
            "hostPort": reasons.host_port.map(|p| json!({"pod": p.owner.to_string()})),
            "candidates": trace.candidates.iter().map(candidate).collect::<Vec<_>>(),
            "steps": steps,
            "path": path.map(super::way::json),
        })
    )
}

fn frontend(scene: &Scene<'_>, reasons: &Reasons<'_>, frontend: &Frontend) -> Value {
    let share = |endpoint: &Endpoint| {
        let found = scene.trace.candidates.iter();
        found
            .filter(|c| c.endpoint == *endpoint)
            .map(|c| c.probability)
            .sum::<f64>()
    };
    let mut endpoints: Vec<Value> = reasons
        .endpoints
        .iter()
        .map(|(endpoint, standing)| {
            let (pod, node) = reasons.pod(scene, endpoint.addr);
            json!({
                "address": endpoint.addr.to_string(),
                "port": endpoint.port.get(),
                "pod": pod,
                "node": node,
                "used": *standing == Standing::Used,
                "reason": standing.to_string(),
                "probability": share(endpoint),
            })
        })
        .collect();
    endpoints.extend(reasons.without_port.iter().map(|addr| {
        json!({
            "address": addr.to_string(),
            "port": null,
            "used": false,
            "reason": "its EndpointSlice does not have the port",
            "probability": 0.0,
        })
    }));
    json!({
        "kind": kind_name(frontend.kind),
        "service": frontend.owner.service.to_string(),
        "port": frontend.owner.port_name,
        "policy": reasons.policy,
        "endpoints": endpoints,
        "affinitySeconds": reasons.affinity,
        "bySource": reasons.by_source,
        "remembered": match reasons.memory {
            Remembered::At(endpoint) => json!(socket(&endpoint).to_string()),
            Remembered::Nothing => json!(false),
            Remembered::NotAsked => Value::Null,
        },
    })
}
