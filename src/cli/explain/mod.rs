//! `svcnat explain`: where a packet goes, and why.

mod ends;
mod live;
mod reasons;
mod say;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use super::args::{ExplainArgs, Output};
use super::error::CliError;
use super::inputs;
use super::say::say;
use crate::cluster::Family;
use crate::host::interfaces;
use crate::ruleset::Table;
use crate::walk::{Packet, walk};
use ends::Ends;
use reasons::{Nothing, Reasons, Scene};

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    let Ends {
        source,
        destination,
        port,
        protocol,
        sender_node,
    } = ends::of(&inputs, &args.namespace, &args.source, &args.destination)?;
    let family = Family::of(&destination);
    let mut local: BTreeSet<IpAddr> = inputs.context.addresses.iter().copied().collect();
    if args.live {
        let found = interfaces::list().map_err(|e| CliError::Host(e.to_string()))?;
        local.extend(interfaces::local_addresses(&found));
    }
    let this_node = &inputs.context.name;
    if let Some(node) = sender_node.filter(|node| node != this_node) {
        say(&format!(
            "warning: {} is on node {node}, and this is what {this_node} does with its packets: \
             what {node} translates never comes here as it was sent (ask with --node-name={node})\n",
            args.source
        ));
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
