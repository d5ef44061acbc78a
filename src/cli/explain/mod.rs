//! `svcnat explain`: where a packet goes, and why.

mod live;
mod reasons;
mod say;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use super::args::{ExplainArgs, Output};
use super::error::CliError;
use super::inputs;
use crate::cluster::{Family, Protocol};
use crate::host::interfaces;
use crate::ruleset::Table;
use crate::walk::{Packet, walk};
use reasons::{Nothing, Reasons, Scene};

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let (destination, port, protocol) = parse(&args.destination).ok_or_else(|| {
        CliError::Usage(format!(
            "{:?} is not ADDRESS:PORT/PROTOCOL, such as 10.254.176.53:80/tcp or [fd00::a]:53/udp",
            args.destination
        ))
    })?;
    // No packet has the IPv6 form of an IPv4 address.
    let source = args.source.to_canonical();
    if Family::of(&source) != Family::of(&destination) {
        return Err(CliError::Usage(format!(
            "{source} and {destination} are not of one family: no packet goes from one to the other"
        )));
    }
    let inputs = inputs::resolve(&args.inputs)?;
    let family = Family::of(&destination);
    let mut local: BTreeSet<IpAddr> = inputs.context.addresses.iter().copied().collect();
    if args.live {
        let found = interfaces::list().map_err(|e| CliError::Host(e.to_string()))?;
        local.extend(interfaces::local_addresses(&found));
    }
    let packet = Packet {
        source,
        destination,
        protocol,
        port,
        iif: args.iif.as_ref().map(ToString::to_string),
        from_node: args.from_node || (args.iif.is_none() && local.contains(&source)),
    };
    let ruleset = if args.live {
        live::installed(&inputs, family, packet.from_node)?
    } else {
        Some(inputs.ruleset())
    };
    // A family that nothing is in use of has no table.
    let none = Table::new(family);
    let table = ruleset.as_ref().and_then(|r| r.tables.get(&family));
    let nothing = Nothing::of(args, ruleset.is_some(), table.is_some());
    let table = table.unwrap_or(&none);
    let is_local = |addr: IpAddr| addr.is_loopback() || local.contains(&addr);
    let trace = walk(table, &packet, &is_local);
    let scene = Scene {
        inputs: &inputs,
        packet: &packet,
        trace: &trace,
        local: &local,
        live: args.live,
        nothing,
    };
    let reasons = Reasons::find(&scene);
    match args.output {
        Output::Text => say::text(out, &scene, &reasons)?,
        Output::Json => say::json(out, &scene, &reasons)?,
    }
    Ok(0)
}

/// `ADDRESS:PORT/PROTOCOL`; TCP if there is no protocol.
fn parse(text: &str) -> Option<(IpAddr, u16, Protocol)> {
    let (socket, protocol) = text.rsplit_once('/').unwrap_or((text, "tcp"));
    let socket: std::net::SocketAddr = socket.parse().ok()?;
    if socket.port() == 0 {
        return None;
    }
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return None,
    };
    Some((socket.ip().to_canonical(), socket.port(), protocol))
}
