//! `svcnat trace`: what the kernel does with a real packet, beside what was foretold.

mod packet;
mod say;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::args::Output;
use super::error::{CliError, owner_name};
use super::explain::live;
use super::inputs;
use super::intent::host;
use super::say::say;
use super::traffic_args::TraceArgs;
use crate::cluster::Family;
use crate::explain::{Ends, Names};
use crate::host::interfaces;
use crate::host::surroundings::Surroundings;
use crate::netlink::{NetlinkError, Nfnetlink, Traced, Tracer};
use crate::node::Node;
use crate::path::{Ours, follow};
use crate::ruleset::Table;
use crate::walk::{Packet, walk};
use packet::{Foretold, Rules, Seen, add};

/// A packet is whole when nothing more was said for so long: it passes the hooks in one go.
const QUIET: Duration = Duration::from_millis(300);
/// Exit code if no packet came.
const NONE_CAME: u8 = 4;

pub fn run(args: &TraceArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    let Ends {
        source,
        destination,
        port,
        protocol,
        ..
    } = Names::of(&inputs, &args.namespace).ends(&args.source, &args.destination)?;
    let found = interfaces::list().map_err(host)?;
    let mut local: BTreeSet<IpAddr> = inputs.context.addresses.iter().copied().collect();
    local.extend(interfaces::local_addresses(&found));
    let packet = Packet {
        source,
        destination,
        protocol,
        port,
        iif: args.iif.as_ref().map(ToString::to_string),
        from_node: local.contains(&source),
    };
    // Without inputs the rules are read, but what they mean is not known.
    let given = !args.inputs.filename.is_empty();
    let foretold = if given {
        Some(foretell(&inputs, &packet, &local)?)
    } else {
        say("notice: nothing is foretold without inputs (-f)\n");
        None
    };
    let rules = match &foretold {
        Some(foretold) => rules(&foretold.table)?,
        None => Rules::default(),
    };
    let traced = Traced {
        source,
        destination,
        protocol,
        port,
        opening: !args.all,
    };
    let tracer = Tracer::arm(&traced).map_err(under_way)?;
    say(&format!(
        "tracing {source} -> {}/{protocol} for {} s: send the packet now\n",
        std::net::SocketAddr::new(destination, port),
        args.time.as_secs_f64()
    ));
    let mut report = Report {
        args,
        foretold: foretold.as_ref(),
        rules: &rules,
        packet: &packet,
        told: 0,
        different: false,
    };
    watch(&tracer, args, &mut report, out)?;
    Ok(match (report.told, report.different) {
        (0, _) => {
            say(&format!(
                "no such packet came within {} s: it was not sent, or it did not get here \
                 (svcnat explain --live says what its way should be)\n",
                args.time.as_secs_f64()
            ));
            NONE_CAME
        }
        (_, different) => u8::from(different),
    })
}

/// What is told, and how it went.
struct Report<'a> {
    args: &'a TraceArgs,
    foretold: Option<&'a Foretold>,
    rules: &'a Rules,
    packet: &'a Packet,
    told: usize,
    different: bool,
}

impl Report<'_> {
    fn tell(&mut self, seen: &Seen, out: &mut impl Write) -> Result<(), CliError> {
        let scene = say::Scene {
            seen,
            foretold: self.foretold,
            rules: self.rules,
            packet: self.packet,
        };
        match self.args.output {
            Output::Text => say::text(out, &scene)?,
            Output::Json => writeln!(out, "{}", say::json(&scene))?,
        }
        out.flush()?;
        self.told += 1;
        self.different |= scene.differs();
        Ok(())
    }
}

/// Tells of the first packet, or with `--all` of each, as soon as it is whole.
fn watch(
    tracer: &Tracer,
    args: &TraceArgs,
    report: &mut Report<'_>,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let until = Instant::now() + args.time;
    let mut under_way: Vec<(Seen, Instant)> = Vec::new();
    loop {
        let now = Instant::now();
        // No packet is cut off in its midst by the end of the time.
        if now >= until && under_way.is_empty() {
            return Ok(());
        }
        let wait = match under_way.is_empty() {
            true => until.saturating_duration_since(now),
            false => QUIET / 3,
        };
        let timeout = PollTimeout::try_from(wait.max(Duration::from_millis(1)));
        let mut fds = [PollFd::new(tracer.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(CliError::Host(format!("cannot wait for packets: {errno}"))),
        }
        let (decisions, whole) = tracer.drain();
        if !whole {
            say("warning: more was said than the kernel could queue: some of it is missing\n");
        }
        for decision in decisions {
            add(&mut under_way, decision, Instant::now());
        }
        let is_over = |(_, last): &(Seen, Instant)| last.elapsed() >= QUIET;
        while under_way.first().is_some_and(is_over) {
            let (seen, _) = under_way.remove(0);
            report.tell(&seen, out)?;
            if !args.all {
                return Ok(());
            }
        }
    }
}

/// The walk through what is installed, and over the node, as of `explain --live`.
fn foretell(
    inputs: &Node,
    packet: &Packet,
    local: &BTreeSet<IpAddr>,
) -> Result<Foretold, CliError> {
    let family = Family::of(&packet.destination);
    let is_local = |addr: IpAddr| addr.is_loopback() || local.contains(&addr);
    let installed = live::installed(inputs, family, std::slice::from_ref(packet), &is_local)?;
    let mut tables = installed.ruleset.map(|r| r.tables).unwrap_or_default();
    let table = tables.remove(&family).unwrap_or_else(|| Table::new(family));
    let trace = walk(&table, packet, &is_local);
    let ours = Ours {
        table: &table,
        trace: &trace,
        reason: "",
        expected: !trace.candidates.is_empty(),
        pods: &inputs.context.pod_cidrs,
        altered: installed.agreement.alters(&trace),
    };
    let mut surroundings = Surroundings::new(installed.others).map_err(host)?;
    let path = follow(&mut surroundings, packet, &ours);
    let broken = path
        .broken()
        .map(|hop| format!("{}: {}", hop.at, hop.found));
    Ok(Foretold {
        table,
        trace,
        broken,
    })
}

/// Our rules by the handles that the kernel gave them.
fn rules(table: &Table) -> Result<Rules, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let live = kernel.outline()?;
    let handles = kernel.rule_handles(table.family)?;
    let live = live.tables.get(&table.family);
    Ok(live.map_or_else(Rules::default, |live| Rules::of(table, live, &handles)))
}

/// Names who else traces, if that is why.
fn under_way(error: NetlinkError) -> CliError {
    let NetlinkError::Owned { family, .. } = error else {
        return error.into();
    };
    let owner = Nfnetlink::open().and_then(|mut kernel| kernel.tracer(family));
    match owner {
        Ok(Some(port)) => CliError::Host(format!(
            "another trace is under way in this network namespace: {}",
            owner_name(port)
        )),
        _ => error.into(),
    }
}
