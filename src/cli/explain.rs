//! `svcnat explain`: where a packet goes, and why.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;

use serde_json::json;

use super::args::{ExplainArgs, Output};
use super::error::CliError;
use super::inputs::Inputs;
use crate::cluster::{Family, Protocol};
use crate::compile::compile;
use crate::diff::diff;
use crate::netlink::Nfnetlink;
use crate::plan::{FrontendKey, Target};
use crate::ruleset::Ruleset;
use crate::walk::{Fate, Packet, Trace, walk};

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
    match args.output {
        Output::Text => text(out, &inputs, &packet, &trace)?,
        Output::Json => json(out, &trace)?,
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
) -> std::io::Result<()> {
    writeln!(
        out,
        "{} -> {}:{}/{}{}",
        packet.source,
        packet.destination,
        packet.port,
        packet.protocol,
        if packet.from_node {
            ", sent by this node"
        } else {
            ""
        }
    )?;
    frontend(out, inputs, packet)?;
    for step in &trace.steps {
        write!(out, "  {}: {}", step.chain, step.rule)?;
        match &step.element {
            Some(comment) => writeln!(out, "   [{comment}]")?,
            None => writeln!(out)?,
        }
    }
    match trace.fate {
        Fate::Dropped => writeln!(out, "dropped"),
        Fate::Refused => writeln!(out, "refused (TCP reset or ICMP port unreachable)"),
        Fate::Accepted if trace.candidates.is_empty() => writeln!(
            out,
            "goes on untranslated{}",
            if trace.masqueraded {
                ", masqueraded behind this node's address"
            } else {
                ""
            }
        ),
        Fate::Accepted => trace.candidates.iter().try_for_each(|c| {
            let seen = if c.masqueraded {
                "this node's address"
            } else {
                "the client's address"
            };
            let to = std::net::SocketAddr::from((c.endpoint.addr, c.endpoint.port.get()));
            writeln!(
                out,
                "{:6.2} % to {to}, which sees {seen}",
                c.probability * 100.0
            )
        }),
    }
}

/// Which frontend it is, and which endpoints were considered and left out.
fn frontend(out: &mut impl Write, inputs: &Inputs, packet: &Packet) -> std::io::Result<()> {
    let Ok(port) = packet.port.try_into() else {
        return Ok(());
    };
    let family = Family::of(&packet.destination);
    let Some(plan) = inputs.plan.families.iter().find(|p| p.family == family) else {
        return Ok(());
    };
    let by_address = FrontendKey::Address(packet.destination, packet.protocol, port);
    let by_port = FrontendKey::NodePort(packet.protocol, port);
    let found = plan.frontends.get(&by_address).or_else(|| {
        let local = inputs.node.addresses.contains(&packet.destination);
        plan.frontends.get(&by_port).filter(|_| local)
    });
    let Some(frontend) = found else {
        return writeln!(out, "  no frontend of any Service");
    };
    let why = match &frontend.target {
        Target::List(list) => format!("policy {:?}", list.view),
        Target::Split { outside: None, .. } => "policy Local, no endpoint on this node".to_owned(),
        Target::Split { .. } => "policy Local; pods and this node go to any endpoint".to_owned(),
        Target::Reject => "no endpoint anywhere".to_owned(),
        Target::Drop => "policy Local, no endpoint on this node".to_owned(),
    };
    writeln!(
        out,
        "  {:?} of Service {}, {why}",
        frontend.kind, frontend.owner.service
    )?;
    let used: Vec<IpAddr> = plan
        .lists
        .iter()
        .filter(|(key, _)| key.port == frontend.owner)
        .flat_map(|(_, list)| list.endpoints.keys().map(|e| e.addr))
        .collect();
    let slices = inputs.cluster.slices.get(&frontend.owner.service);
    for endpoint in slices.into_iter().flatten().flat_map(|(_, s)| &s.endpoints) {
        if Family::of(&endpoint.address) == family && !used.contains(&endpoint.address) {
            let why = match (endpoint.ready, endpoint.terminating) {
                (true, _) => "hints are for other zones or nodes, or it is not on this node",
                (false, true) => "it is terminating, and others are ready",
                (false, false) => "it is not ready",
            };
            writeln!(out, "  left out: {}: {why}", endpoint.address)?;
        }
    }
    Ok(())
}

fn json(out: &mut impl Write, trace: &Trace) -> std::io::Result<()> {
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
            })
        })
        .collect();
    let fate = match trace.fate {
        Fate::Accepted => "accepted",
        Fate::Dropped => "dropped",
        Fate::Refused => "refused",
    };
    writeln!(
        out,
        "{}",
        json!({"fate": fate, "masqueraded": trace.masqueraded, "candidates": candidates, "steps": steps})
    )
}
