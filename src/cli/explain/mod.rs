//! `svcnat explain`: where a packet goes, and why.

pub(super) mod live;
mod probe;
mod say;
mod way;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use super::args::{ExplainArgs, Output};
use super::error::CliError;
use super::inputs;
use super::say::say;
use crate::cluster::Family;
use crate::explain::{Ends, Names, Nothing, Reasons, Scene};
use crate::host::interfaces;
use crate::host::surroundings::Surroundings;
use crate::path::{Ours, follow};
use crate::ruleset::Table;
use crate::walk::{Packet, walk};
use live::Installed;

pub fn run(args: &ExplainArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    let Ends {
        source,
        destination,
        port,
        protocol,
        sender_node,
    } = Names::of(&inputs, &args.namespace).ends(&args.source, &args.destination)?;
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
    let is_local = |addr: IpAddr| addr.is_loopback() || local.contains(&addr);
    let installed = if args.live {
        live::installed(&inputs, family, std::slice::from_ref(&packet), &is_local)?
    } else {
        Installed {
            ruleset: Some(inputs.ruleset()),
            ..Installed::default()
        }
    };
    let ruleset = installed.ruleset;
    // A family that nothing is in use of has no table.
    let none = Table::new(family);
    let table = ruleset.as_ref().and_then(|r| r.tables.get(&family));
    let given = !args.inputs.filename.is_empty();
    let nothing = Nothing::of(given, ruleset.is_some(), table.is_some());
    let table = table.unwrap_or(&none);
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
    let path = if args.live {
        let ours = Ours {
            table,
            trace: &trace,
            reason: &reasons.fate,
            expected: reasons.frontend.is_some() || reasons.host_port.is_some(),
            pods: &inputs.context.pod_cidrs,
            altered: installed.agreement.alters(&trace),
        };
        let host = Surroundings::new(installed.others);
        let mut host = host.map_err(|e| CliError::Host(e.to_string()))?;
        let mut path = follow(&mut host, &packet, &ours);
        let probe = args.probe;
        path.probe = probe.map(|patience| probe::send(&mut host, &packet, &path, patience));
        Some(path)
    } else {
        None
    };
    match args.output {
        Output::Text => {
            say::text(out, &scene, &reasons)?;
            path.iter().try_for_each(|path| way::text(out, path))?;
        }
        Output::Json => say::json(out, &scene, &reasons, path.as_ref())?,
    }
    Ok(u8::from(path.is_some_and(|path| path.broken().is_some())))
}
