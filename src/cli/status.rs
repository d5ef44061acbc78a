//! `svcnat status`: one screen. What is installed, who keeps it, how the agent is, and what
//! needs attention. It works beside a running agent and without one, with inputs and without.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use super::args::{Output, StatusArgs};
use super::error::{CliError, owner_name, refusal};
use super::from_inputs::FromInputs;
use super::inputs;
use super::intent::{Intent, host};
use super::say::{count, fail};
use crate::apply::{DesiredRules as _, ThisHost};
use crate::compile::{FOLLOWING, SetId, frontend_key_of};
use crate::host::routes;
use crate::host::writer::{Place, look};
use crate::netlink::Nfnetlink;
use crate::problem::Severity;
use crate::report::{FrontendState, Report};
use crate::ruleset::LiveRuleset;

/// Nothing is installed: as `systemctl status` says of a unit that is not active (LSB).
const NOT_INSTALLED: u8 = 3;
/// It cannot be told.
const UNKNOWN: u8 = 4;
/// An agent on this host answers at once.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any agent's state.
const LONGEST: u64 = 1 << 20;

/// What there is to say.
#[derive(Default)]
struct Status {
    generation: u32,
    tables: Vec<String>,
    services: usize,
    frontends: usize,
    endpoints: usize,
    host_ports: usize,
    routes: usize,
    keeper: Option<String>,
    agent: Option<Value>,
    attention: Vec<String>,
}

pub fn run(args: &StatusArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let status = match of(args) {
        Ok(status) => status,
        Err(error @ (CliError::Usage(_) | CliError::Invalid(_))) => return Err(error),
        Err(CliError::Kernel(error)) => return Ok(unknown(&refusal(error))),
        Err(error) => return Ok(unknown(&error)),
    };
    match args.output {
        Output::Text => text(out, &status)?,
        Output::Json => writeln!(out, "{}", document(&status))?,
    }
    Ok(if status.tables.is_empty() {
        NOT_INSTALLED
    } else {
        0
    })
}

/// Says why it cannot be told, and hands back the exit code for that.
pub fn unknown(error: &CliError) -> u8 {
    fail(&format!(
        "error: it cannot be told what is installed: {error}\n"
    ));
    UNKNOWN
}

fn of(args: &StatusArgs) -> Result<Status, CliError> {
    let mut status = Status::default();
    let mut kernel = Nfnetlink::open()?;
    if args.inputs.filename.is_empty() {
        status.installed(&kernel.read(FOLLOWING)?);
    } else {
        let node = inputs::resolve_from(&args.inputs, Severity::Error)?;
        let mut wanted = FromInputs::new(&node);
        let intent = Intent::of(&mut ThisHost::open()?, &node, &mut wanted)?;
        status.installed(&intent.rules.before);
        let report = Report::of(&intent.scene(&node, wanted.ruleset()));
        if !report.is_empty() {
            let closing = report.closing();
            status
                .attention
                .push(format!("not as the inputs say: {closing} (svcnat diff)"));
        }
    }
    status.routes = routes::list_ours().map_err(host)?.len();
    let running = match look() {
        Ok(Place::Held(holder)) => {
            status.keeper = Some(holder.to_string());
            holder.verb == "run"
        }
        Ok(Place::Free | Place::Squatted(_)) => false,
        Err(error) => {
            let what = format!("it cannot be told whether an agent runs: {error}");
            status.attention.push(what);
            false
        }
    };
    if let Some(port) = kernel.owner()?
        && status.keeper.is_none()
    {
        status.keeper = Some(owner_name(port));
    }
    if running {
        match ask(args.agent) {
            Ok(state) => status.agent(state),
            Err(error) => {
                let what = format!("the agent does not answer at {}: {error}", args.agent);
                status.attention.push(what);
            }
        }
    }
    Ok(status)
}

impl Status {
    /// Counts what the kernel holds. O(elements).
    fn installed(&mut self, live: &LiveRuleset) {
        self.generation = live.generation;
        let mut services = BTreeSet::new();
        let mut endpoints = BTreeSet::new();
        let mut changed = 0;
        for (family, table) in &live.tables {
            let rules = table.chains.values().map(|chain| chain.rules.len()).sum();
            self.tables.push(format!(
                "{} svcnat ({}, {})",
                family.nft_name(),
                count(table.chains.len(), "chain"),
                count(rules, "rule")
            ));
            for id in [SetId::ServiceIps, SetId::ServiceNodeports] {
                let set = table.sets.get(id.fixed_name());
                let keys = set.into_iter().flat_map(|set| {
                    let keys = set.elements.keys();
                    keys.filter_map(|key| frontend_key_of(set, key))
                });
                for key in keys {
                    let Some(state) = FrontendState::read(&table.sets, &key) else {
                        continue;
                    };
                    self.frontends += 1;
                    changed += usize::from(!state.is_intact());
                    services.insert(state.owner().to_owned());
                    let inside = state.internal.iter().flat_map(BTreeMap::keys);
                    endpoints.extend(state.endpoints.keys().chain(inside).copied());
                }
            }
            let ports = [SetId::HostPorts, SetId::HostPortIps];
            let ports = ports
                .iter()
                .filter_map(|id| table.sets.get(id.fixed_name()));
            self.host_ports += ports.map(|set| set.elements.len()).sum::<usize>();
            for what in &table.foreign {
                let family = family.nft_name();
                self.attention
                    .push(format!("{what} in table {family} svcnat is not ours"));
            }
        }
        (self.services, self.endpoints) = (services.len(), endpoints.len());
        if changed > 0 {
            let frontends = count(changed, "frontend");
            self.attention
                .push(format!("{frontends} changed by another program"));
        }
    }

    fn agent(&mut self, state: Value) {
        let conditions = state["conditions"].as_array();
        let failing = conditions
            .into_iter()
            .flatten()
            .filter(|c| c["status"] == "False");
        for condition in failing {
            let of = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            let (what, since, reason) = (of("type"), of("since"), of("reason"));
            self.attention
                .push(format!("{what}: since {since}: {reason}"));
        }
        self.agent = Some(state);
    }
}

/// What the agent says of itself.
fn ask(at: SocketAddr) -> Result<Value, String> {
    let answer = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&at, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "GET /state HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.take(LONGEST).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = answer().map_err(|error| error.to_string())?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or("that is no HTTP")?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 200 ") {
        return Err(status.to_owned());
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

fn text(out: &mut impl Write, status: &Status) -> std::io::Result<()> {
    let keeper = match &status.keeper {
        Some(keeper) => format!("kept by {keeper}"),
        None => "no agent keeps it so".to_owned(),
    };
    if status.tables.is_empty() {
        writeln!(out, "not installed")?;
        if let Some(keeper) = &status.keeper {
            writeln!(out, "writer      {keeper}")?;
        }
    } else {
        writeln!(out, "installed, {keeper}")?;
        writeln!(out, "tables      {}", status.tables.join(", "))?;
        writeln!(
            out,
            "services    {} with {} and {}",
            status.services,
            count(status.frontends, "frontend"),
            count(status.endpoints, "endpoint")
        )?;
        writeln!(out, "host ports  {}", status.host_ports)?;
    }
    writeln!(out, "routes      {}", status.routes)?;
    writeln!(out, "generation  {}", status.generation)?;
    if let Some(agent) = &status.agent {
        let ready = if agent["ready"] == true {
            "ready"
        } else {
            "not ready"
        };
        writeln!(out, "agent       {ready}")?;
        for (field, label) in [
            ("lastGood", "committed "),
            ("lastFailed", "failed    "),
            ("lastDrift", "repaired  "),
        ] {
            if let Value::Object(what) = &agent[field] {
                let time = what.get("time").and_then(Value::as_str).unwrap_or("?");
                let rest = what.iter().filter(|(name, _)| *name != "time");
                let rest: String = rest
                    .map(|(name, value)| format!(" {name}={value}"))
                    .collect();
                writeln!(out, "{label}  {time}{rest}")?;
            }
        }
    }
    for what in &status.attention {
        writeln!(out, "attention   {what}")?;
    }
    Ok(())
}

fn document(status: &Status) -> Value {
    json!({
        "installed": !status.tables.is_empty(),
        "tables": status.tables,
        "services": status.services,
        "frontends": status.frontends,
        "endpoints": status.endpoints,
        "hostPorts": status.host_ports,
        "routes": status.routes,
        "generation": status.generation,
        "keeper": status.keeper,
        "agent": status.agent,
        "attention": status.attention,
    })
}
