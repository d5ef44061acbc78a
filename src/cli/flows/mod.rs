//! `svcnat flows`: the tracked connections of our frontends, by names.

mod row;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::error::CliError;
use super::inputs;
use super::intent::host;
use super::names::Names;
use super::say::say;
use super::traffic_args::{FlowFormat, FlowsArgs};
use crate::apply::{Host as _, ThisHost};
use crate::cluster::{Family, ObjectName, Protocol};
use crate::host::conntrack::{Conntrack, Entry, Events, Flow};
use crate::host::conntrack_plan::closed;
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::text::did_you_mean;
use row::{Event, Row};

/// How often it is looked whether frontends came or went.
const REFRESH: Duration = Duration::from_secs(1);

pub fn run(args: &FlowsArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let given = !args.inputs.filename.is_empty();
    if args.stale && !given {
        return Err(CliError::Usage(
            "--stale holds flows against the endpoints that there are: name manifests with -f"
                .to_owned(),
        ));
    }
    let inputs = given.then(|| inputs::resolve(&args.inputs)).transpose()?;
    let inputs = inputs.as_ref();
    // Listening begins before the table is read, so that nothing happens in between.
    let events = args.follow.then(Events::open).transpose().map_err(host)?;
    let mut names = Names::read(inputs)?;
    let wanted = Wanted::of(args, &names)?;
    let stale = match inputs {
        Some(inputs) => Some(stale(inputs)?),
        None => None,
    };
    let mut rows: Vec<Row> = entries()?
        .into_iter()
        .filter_map(|entry| {
            let is_stale = stale.as_ref().map(|stale| stale.contains(&entry.flow));
            Row::of(&names, entry, is_stale)
        })
        .filter(|row| wanted.has(row) && (!args.stale || row.stale == Some(true)))
        .collect();
    rows.sort_by(|a, b| a.order().cmp(&b.order()));
    let Some(events) = events else {
        match args.output {
            FlowFormat::Json => {
                let rows: Vec<_> = rows.iter().map(Row::json).collect();
                writeln!(out, "{}", json!({ "flows": rows }))?;
            }
            _ if rows.is_empty() => say("notice: no such flow is tracked\n"),
            format => rows
                .iter()
                .try_for_each(|row| writeln!(out, "{}", row.line(format == FlowFormat::Wide)))?,
        }
        return Ok(0);
    };
    for row in &rows {
        tell(args, Event::Listed, row, out)?;
    }
    follow(args, &mut names, inputs, &wanted, &events, out)
}

/// One line of `--follow`.
fn tell(args: &FlowsArgs, event: Event, row: &Row, out: &mut impl Write) -> Result<(), CliError> {
    match args.output {
        FlowFormat::Json => {
            let mut document = row.json();
            document["event"] = event.word().into();
            writeln!(out, "{document}")?;
        }
        format => {
            let line = row.line(format == FlowFormat::Wide);
            writeln!(out, "{} {line}", event.mark())?;
        }
    }
    Ok(())
}

/// Tells what happens until somebody ends it.
fn follow(
    args: &FlowsArgs,
    names: &mut Names,
    inputs: Option<&Node>,
    wanted: &Wanted,
    events: &Events,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let mut known = kernel.generation()?;
    let mut looked = Instant::now();
    loop {
        out.flush()?;
        let mut wait = [PollFd::new(events.as_fd(), PollFlags::POLLIN)];
        match poll(&mut wait, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(CliError::Host(format!("cannot wait for events: {errno}"))),
        }
        let (happened, whole) = events.drain();
        if !whole {
            say(
                "warning: more happened than the kernel could queue: some events are missing \
                 (svcnat flows lists what is tracked)\n",
            );
        }
        if looked.elapsed() >= REFRESH {
            looked = Instant::now();
            let generation = kernel.generation()?;
            if generation != known {
                known = generation;
                names.refresh(inputs)?;
            }
        }
        for (change, entry) in happened {
            if let Some(row) = Row::of(names, entry, None).filter(|row| wanted.has(row)) {
                tell(args, Event::from(change), &row, out)?;
            }
        }
    }
}

/// The whole table.
fn entries() -> Result<Vec<Entry>, CliError> {
    let mut table = Conntrack::open().map_err(host)?;
    let mut entries = Vec::new();
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            entries.extend(table.entries(family, protocol).map_err(host)?);
        }
    }
    Ok(entries)
}

/// The flows that `apply` would cut: the same judgement.
fn stale(inputs: &Node) -> Result<BTreeSet<Flow>, CliError> {
    let mut this = ThisHost::open()?;
    let delta = inputs.diff(&this.read()?);
    let local = crate::host::interfaces::local_addresses(&this.interfaces().map_err(host)?);
    let gone = closed(&delta, &local);
    let (plan, cluster) = (&inputs.plan, &inputs.cluster);
    let found = crate::apply::stale_flows(&mut this, &gone, plan, cluster, &local);
    Ok(found.map_err(host)?.into_iter().collect())
}

/// Which flows are asked for.
struct Wanted {
    service: Option<ObjectName>,
    pod: Option<ObjectName>,
    state: Option<String>,
    namespace: Option<String>,
}

impl Wanted {
    fn of(args: &FlowsArgs, names: &Names) -> Result<Self, CliError> {
        let named = |text: &String| match text.split_once('/') {
            Some((namespace, name)) => ObjectName::new(namespace, name),
            None => {
                let namespace = args.namespace.as_deref().unwrap_or("default");
                ObjectName::new(namespace, text.as_str())
            }
        };
        let service = args.service.as_ref().map(named);
        let pod = args.pod.as_ref().map(named);
        known("Service", service.as_ref(), names.services())?;
        known("Pod", pod.as_ref(), names.pods())?;
        Ok(Self {
            service,
            pod,
            state: args.state.clone(),
            namespace: args.namespace.clone(),
        })
    }

    fn has(&self, row: &Row) -> bool {
        let asked = &row.asked;
        let owner = asked.service.as_ref().or(asked.pod.as_ref());
        let pods = [row.client.as_ref(), row.endpoint.as_ref()];
        let mut pods = pods.into_iter().flatten().filter_map(|p| p.pod.as_ref());
        let same_state = |state: &String| {
            let of_flow = row.entry.state;
            of_flow.is_some_and(|of_flow| of_flow.eq_ignore_ascii_case(state))
        };
        (self.service.is_none() || asked.service == self.service)
            && (self.pod.is_none() || pods.any(|pod| Some(pod) == self.pod.as_ref()))
            && self.state.as_ref().is_none_or(same_state)
            && self
                .namespace
                .as_ref()
                .is_none_or(|namespace| owner.is_some_and(|owner| *owner.namespace == **namespace))
    }
}

/// That somebody is known by that name; perhaps one that is spelt alike is meant.
fn known<'n>(
    kind: &str,
    wanted: Option<&ObjectName>,
    names: impl Iterator<Item = &'n ObjectName>,
) -> Result<(), CliError> {
    let Some(wanted) = wanted else { return Ok(()) };
    let names: BTreeSet<&ObjectName> = names.collect();
    if names.contains(wanted) {
        return Ok(());
    }
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let hint = did_you_mean(&wanted.to_string(), names.iter().map(String::as_str));
    Err(CliError::Usage(format!(
        "neither the inputs nor what is installed know a {kind} {wanted}{hint}"
    )))
}
