//! `svcnat explain`: where a packet goes, and why.

mod reasons;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::args::{ExplainArgs, Output};
use super::error::CliError;
use super::inputs::Inputs;
use crate::cluster::{Family, Protocol};
use crate::compile::layout::names;
use crate::compile::{compile, frontend_value_key};
use crate::diff::diff;
use crate::netlink::Nfnetlink;
use crate::plan::{FrontendKey, FrontendKind, Standing};
use crate::ruleset::{ElementData, FieldValue, Ruleset, SetData, Value};
use crate::walk::{Fate, Packet, Trace, walk};
use reasons::Reasons;

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let (destination, port, protocol) = parse(&args.destination).ok_or_else(|| {
        CliError::Usage(format!(
            "{:?} is not ADDRESS:PORT/PROTOCOL, such as 10.254.176.53:80/tcp",
            args.destination
        ))
    })?;
    let inputs = Inputs::resolve(&args.inputs)?;
    let packet = Packet {
        source: args.source,
        destination,
        protocol,
        port,
        iif: args.iif.clone(),
        from_node: args.from_node || inputs.node.addresses.contains(&args.source),
    };
    let mut ruleset = compile(&inputs.plan, &BTreeMap::new());
    if args.live {
        ruleset = installed(&inputs)?;
    }
    let Some(table) = ruleset.tables.get(&Family::of(&destination)) else {
        return Err(CliError::Usage("no table for this family".to_owned()));
    };
    let is_local = |addr: IpAddr| addr.is_loopback() || inputs.node.addresses.contains(&addr);
    let trace = walk(table, &packet, &is_local);
    let known = if args.live {
        remembered(&inputs, &packet, &ruleset)?
    } else {
        None
    };
    match args.output {
        Output::Text => text(out, &inputs, &packet, &trace, known.as_ref())?,
        Output::Json => json(out, &inputs, &packet, &trace, known.as_ref())?,
    }
    Ok(0)
}

/// The rules of this configuration with the elements the kernel holds. Rules are constant,
/// so this is what is installed unless somebody changed them, which is said.
fn installed(inputs: &Inputs) -> Result<Ruleset, CliError> {
    let live = Nfnetlink::open()?.read()?;
    let mut ruleset = compile(&inputs.plan, &live.sets());
    let other_rules = diff(&ruleset, &live).counts();
    if other_rules.rules_added > 0 || other_rules.objects > 0 {
        eprintln!(
            "warning: the installed rules are not those of this configuration (see svcnat diff); \
             the packet is walked through these rules with the installed elements"
        );
    }
    for (family, table) in &mut ruleset.tables {
        let found = live.tables.get(family);
        for (name, set) in &mut table.sets {
            let elements = found
                .and_then(|t| t.sets.get(name))
                .map(|s| s.elements.clone());
            set.elements = elements.unwrap_or_default();
        }
    }
    Ok(ruleset)
}

fn parse(text: &str) -> Option<(IpAddr, u16, Protocol)> {
    let (socket, protocol) = text.rsplit_once('/')?;
    let socket: std::net::SocketAddr = socket.parse().ok()?;
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((socket.ip(), socket.port(), protocol))
}

fn text(
    out: &mut impl Write,
    inputs: &Inputs,
    packet: &Packet,
    trace: &Trace,
    remembered: Option<&Remembered>,
) -> std::io::Result<()> {
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
    let reasons = Reasons::find(inputs, packet, trace);
    if let Some((_, frontend)) = reasons.frontend {
        let (kind, service) = (kind_name(frontend.kind), &frontend.owner.service);
        writeln!(out, "  {kind} of Service {service}, {}", reasons.policy)?;
        for (endpoint, standing) in &reasons.endpoints {
            let to = SocketAddr::new(endpoint.addr, endpoint.port.get());
            match standing {
                Standing::Used => writeln!(out, "  endpoint {to}")?,
                why => writeln!(out, "  endpoint {to} is left out: {why}")?,
            }
        }
        if reasons.by_source {
            writeln!(out, "  chosen by the client's address, on every node alike")?;
        }
        if let Some(seconds) = reasons.affinity {
            writeln!(
                out,
                "  session affinity: a client keeps its endpoint for {seconds} s"
            )?;
        }
        match remembered {
            Some(Remembered::At(endpoint)) => {
                writeln!(
                    out,
                    "  this client is remembered: it goes to {endpoint} for now"
                )?;
            }
            Some(Remembered::No) => writeln!(out, "  this client is not remembered")?,
            None => {}
        }
    }
    for step in &trace.steps {
        write!(out, "  {}: {}", step.chain, step.rule)?;
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
            let seen = if c.masqueraded {
                "this node's address"
            } else {
                "the client's address"
            };
            let to = SocketAddr::from((c.endpoint.addr, c.endpoint.port.get()));
            let why = reasons.masquerade(inputs, packet, c);
            writeln!(
                out,
                "{:6.2} % to {to}, which sees {seen} ({why})",
                c.probability * 100.0
            )
        }),
    }
}

const fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "clusterIP",
        FrontendKind::ExternalIp => "externalIP",
        FrontendKind::LoadBalancer => "load-balancer address",
        FrontendKind::NodePort => "nodePort",
    }
}

fn json(
    out: &mut impl Write,
    inputs: &Inputs,
    packet: &Packet,
    trace: &Trace,
    remembered: Option<&Remembered>,
) -> std::io::Result<()> {
    let reasons = Reasons::find(inputs, packet, trace);
    let steps: Vec<_> = trace
        .steps
        .iter()
        .map(|s| json!({"chain": s.chain, "rule": s.rule, "element": s.element}))
        .collect();
    let candidates: Vec<_> = trace
        .candidates
        .iter()
        .map(|c| {
            json!({
                "address": c.endpoint.addr.to_string(),
                "port": c.endpoint.port.get(),
                "probability": c.probability,
                "masqueraded": c.masqueraded,
                "reason": reasons.masquerade(inputs, packet, c),
            })
        })
        .collect();
    let frontend = reasons.frontend.map(|(_, f)| {
        let endpoints = reasons.endpoints.iter().map(|(e, standing)| {
            json!({
                "address": e.addr.to_string(),
                "port": e.port.get(),
                "used": *standing == Standing::Used,
                "reason": standing.to_string(),
            })
        });
        json!({
            "kind": kind_name(f.kind),
            "service": f.owner.service.to_string(),
            "port": f.owner.port_name,
            "policy": reasons.policy,
            "endpoints": endpoints.collect::<Vec<_>>(),
            "affinitySeconds": reasons.affinity,
            "bySource": reasons.by_source,
            "remembered": match remembered {
                Some(Remembered::At(endpoint)) => json!(endpoint.to_string()),
                Some(Remembered::No) => json!(false),
                None => json!(null),
            },
        })
    });
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
            "masqueraded": trace.masqueraded,
            "frontend": frontend,
            "candidates": candidates,
            "steps": steps,
        })
    )
}

/// What the kernel remembers of a client at a sticky frontend.
enum Remembered {
    /// It goes there.
    At(SocketAddr),
    /// Nothing.
    No,
}

/// Asks the kernel whether the client has an endpoint. IPv6 clients are remembered by a hash
/// of their address, so for them `None` is said. O(remembered clients).
fn remembered(
    inputs: &Inputs,
    packet: &Packet,
    ruleset: &Ruleset,
) -> Result<Option<Remembered>, CliError> {
    let Some((table, key)) = sticky_key(inputs, packet, ruleset) else {
        return Ok(None);
    };
    let set = |name: &str| table.sets.get(name);
    let doors = [names::STICKY_FRONTENDS, names::STICKY_NODE_PORTS];
    let found = doors.iter().find_map(|name| {
        let at = frontend_value_key(&key);
        set(name)?.elements.get(&at)
    });
    let (Some(ElementData::Value(group)), Some(affinity)) =
        (found.map(|e| &e.data), set(names::AFFINITY))
    else {
        return Ok(None);
    };
    let client = Value::from_bytes(
        &[
            group.as_bytes(),
            Value::new().addr(packet.source).as_bytes(),
        ]
        .concat(),
    );
    let clients = Nfnetlink::open()?.elements(table.family, affinity.clone())?;
    let handle =
        client
            .and_then(|key| clients.elements.get(&key))
            .and_then(|element| match &element.data {
                ElementData::Value(handle) => Some(*handle),
                _ => None,
            });
    let Some(handle) = handle else {
        return Ok(Some(Remembered::No));
    };
    let at = Value::from_bytes(
        &[
            handle.as_bytes(),
            Value::new().proto(packet.protocol).as_bytes(),
        ]
        .concat(),
    );
    let endpoint = [names::STICKY_ENDPOINTS, names::STICKY_LOCAL_ENDPOINTS]
        .iter()
        .find_map(|name| {
            let set = set(name)?;
            let ElementData::Value(data) = &set.elements.get(&at?)?.data else {
                return None;
            };
            let SetData::Fields(schema) = &set.data else {
                return None;
            };
            match data.fields(schema)?[..] {
                [FieldValue::Addr(addr), FieldValue::Port(port)] => {
                    Some(SocketAddr::new(addr, port))
                }
                _ => None,
            }
        });
    Ok(Some(endpoint.map_or(Remembered::No, Remembered::At)))
}

fn sticky_key<'r>(
    inputs: &Inputs,
    packet: &Packet,
    ruleset: &'r Ruleset,
) -> Option<(&'r crate::ruleset::Table, FrontendKey)> {
    if packet.source.is_ipv6() {
        return None;
    }
    let nothing = Trace {
        steps: Vec::new(),
        fate: Fate::Accepted,
        candidates: Vec::new(),
        masqueraded: false,
    };
    let (key, _) = Reasons::find(inputs, packet, &nothing).frontend?;
    let table = ruleset.tables.get(&Family::of(&packet.destination))?;
    Some((table, key))
}
