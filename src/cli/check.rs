//! `svcnat check`: what does not fit, in the inputs and between them and this host.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use super::args::{CheckArgs, Output};
use super::error::{CliError, owner_name};
use super::fix::{self, Fixed};
use super::inputs;
use super::intent::host;
use super::say::count;
use super::{ways, writer};
use crate::cluster::Family;
use crate::config::Sysctls;
use crate::diff::diff;
use crate::foreign::Rules;
use crate::host::interfaces::{self, Interface};
use crate::host::others::{self, Ours};
use crate::host::routes::{self, RouteDelta, RouteError};
use crate::host::{HostError, capacity, check, features, hidden, sysctl};
use crate::netlink::{self, NetlinkError, Nfnetlink};
use crate::node::Node;
use crate::problem::{Problem, Severity};
use crate::ruleset::{Hook, LiveRuleset, Ruleset, TABLE};
use crate::transaction::Transaction;

/// Exit codes besides 0: something was found; the inputs are at fault; the host could not be
/// asked.
const FOUND: u8 = 1;
const INPUTS: u8 = 2;
const UNASKED: u8 = 3;

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let (inputs, inputs_own) = inputs::collect(&args.inputs)?;
    let fixed = match args.fix {
        true => fix::fix(&inputs)?,
        false => Fixed::default(),
    };
    let capability = check::capability();
    let wrong = |problem: &Problem| problem.severity == Severity::Error;
    let invalid = inputs_own.iter().any(wrong);
    let mut problems = inputs_own;
    problems.extend(of_host(&inputs).map_err(host)?);
    problems.extend(of_kernel(&inputs));
    problems.extend(fixed.problems.iter().cloned());
    let other = writer::other();
    problems.extend(other.map(|who| Problem::notice(None, "this network namespace", who)));
    let code = match problems.iter().map(|problem| problem.severity).max() {
        _ if invalid => INPUTS,
        _ if capability.is_some() => UNASKED,
        Some(Severity::Error | Severity::Warning) => FOUND,
        Some(Severity::Notice) | None => 0,
    };
    problems.extend(capability);
    problems.sort();
    problems.dedup();
    match args.output {
        Output::Text => text(&problems, &fixed, out)?,
        Output::Json => writeln!(out, "{}", document(&problems, &fixed))?,
    }
    Ok(code)
}

fn text(problems: &[Problem], fixed: &Fixed, out: &mut impl Write) -> std::io::Result<()> {
    for line in fixed.lines() {
        writeln!(out, "set: {line}")?;
    }
    for problem in problems {
        writeln!(out, "{}", problem.without_repair())?;
        if !problem.repair.is_empty() {
            writeln!(out, "  repair: {}", problem.repair)?;
        }
    }
    let is_error = |problem: &&Problem| problem.severity == Severity::Error;
    let errors = problems.iter().filter(is_error).count();
    let others = match problems.len() - errors {
        1 => "1 warning or notice".to_owned(),
        n => format!("{n} warnings and notices"),
    };
    writeln!(out, "{}, {others}", count(errors, "error"))
}

/// The keys are promised (`svcnat check --help`).
fn document(problems: &[Problem], fixed: &Fixed) -> serde_json::Value {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let one = |problem: &Problem| {
        json!({
            "severity": problem.severity.to_string(),
            "origin": problem.origin.as_ref().map(ToString::to_string),
            "object": problem.object,
            "field": problem.field,
            "message": problem.message,
            "owner": given(&problem.owner),
            "repair": given(&problem.repair),
        })
    };
    let problems: Vec<_> = problems.iter().map(one).collect();
    json!({ "problems": problems, "set": fixed.lines() })
}

/// The other nodes: name, pods' prefixes, addresses.
fn other_nodes(inputs: &Node) -> Vec<(&str, &[IpNet], &[IpAddr])> {
    let objects = inputs.cluster.nodes.values();
    let objects = objects.map(|node| (&*node.name, &*node.pod_cidrs, &*node.addresses));
    let listed = inputs.config.nodes.iter();
    let listed = listed.map(|node| (&*node.name, &*node.pod_cidrs, &*node.addresses));
    let mut nodes: Vec<_> = objects.chain(listed).collect();
    nodes.retain(|(name, ..)| *name != inputs.context.name);
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn of_host(inputs: &Node) -> Result<Vec<Problem>, HostError> {
    let context = &inputs.context;
    let interfaces = interfaces::list()?;
    let nodes = other_nodes(inputs);
    let nodes = nodes.iter().flat_map(|(name, cidrs, addresses)| {
        cidrs.iter().map(move |cidr| (*name, cidr, *addresses))
    });
    let cidrs = nodes.clone().map(|(name, cidr, _)| (name, cidr));
    let routed = inputs.config.manage_routes;
    let mut problems = check::overlaps(&context.service_ranges, &interfaces);
    let (pods, others) = (&context.pod_cidrs, routes::made_by_others()?);
    problems.extend(check::pod_overlaps(
        pods,
        cidrs.clone(),
        &interfaces,
        routed,
    ));
    problems.extend(check::routes_in_the_way(
        &context.service_ranges,
        nodes,
        &others,
    ));
    problems.extend(check::next_hops(
        inputs.plan.routes.iter().cloned(),
        routes::next_hop,
    )?);
    problems.extend(of_routes(inputs)?);
    problems.extend(of_sysctls(inputs, &interfaces)?);
    problems.extend(capacity::tracking()?.problems());
    let uses = |family| {
        inputs
            .plan
            .families
            .iter()
            .any(|plan| plan.family == family)
    };
    let mut tables = capacity::neighbour_tables()?;
    tables.retain(|table| uses(table.family));
    problems.extend(capacity::neighbours(&tables));
    let setting = |name: &str| capacity::setting(&format!("ipv4/{name}")).unwrap_or_default();
    let (range, reserved) = ("ip_local_port_range", "ip_local_reserved_ports");
    problems.extend(capacity::ports(
        &inputs.plan,
        &setting(range),
        &setting(reserved),
    ));
    let mut ways = capacity::Ways::open()?;
    let way = |to| ways.to(to);
    problems.extend(capacity::sizes(&interfaces, pods, cidrs, way)?);
    if setting("conf/all/route_localnet") == "1" {
        let object = "sysctl net.ipv4.conf.all.route_localnet";
        let message = "is 1, as kube-proxy sets it and svcnat does not need: neighbours reach what \
                       listens at this node's 127.0.0.1";
        let repair = "sysctl -w net.ipv4.conf.all.route_localnet=0";
        problems.push(Problem::notice(None, object, message).repaired_by(repair));
    }
    Ok(problems)
}

/// What of our routes is not as it should be; nothing where they are not ours to manage.
pub(super) fn missing_routes(inputs: &Node) -> Result<RouteDelta, HostError> {
    if !inputs.config.manage_routes {
        return Ok(RouteDelta::default());
    }
    Ok(routes::plan(&inputs.plan.routes, &routes::list_ours()?))
}

fn of_routes(inputs: &Node) -> Result<Vec<Problem>, HostError> {
    let delta = missing_routes(inputs)?;
    let mut cannot: BTreeSet<IpNet> = BTreeSet::new();
    let mut problems = Vec::new();
    for error in routes::obstacles(&delta)? {
        // That a next hop is this host itself is among what is said of next hops.
        if let RouteError::Foreign { route, foreign } = &error {
            let owner = format!("routing protocol {}", foreign.protocol_name());
            let repair = format!(
                "ip route del {}, or --manage-routes=false",
                route.destination
            );
            let problem = Problem::error(
                None,
                format!("node {}", route.node),
                "",
                format!(
                    "route to {} via {}: another program's is there, {foreign}",
                    route.destination, route.via
                ),
            );
            problems.push(problem.of(owner).repaired_by(repair));
        }
        cannot.insert(error.destination());
    }
    for route in &inputs.plan.routes {
        if !matches!(routes::next_hop(route.via)?, routes::NextHop::OnLink(_)) {
            cannot.insert(route.destination);
        }
    }
    problems.extend(check::routes(&delta, is_installed(), &cannot));
    Ok(problems)
}

/// True if there is a table of ours.
fn is_installed() -> bool {
    let names = Nfnetlink::open().and_then(|mut kernel| kernel.table_names());
    names.is_ok_and(|names| names.iter().any(|(_, name)| name == TABLE))
}

/// As `--sysctls` says: what is to be left alone is not looked at, what is to be set is no
/// error.
fn of_sysctls(inputs: &Node, interfaces: &[Interface]) -> Result<Vec<Problem>, HostError> {
    let wish = inputs.config.sysctls;
    if wish == Sysctls::Ignore {
        return Ok(Vec::new());
    }
    let needed = sysctl::needed_by(&inputs.context, interfaces);
    let sysctls = sysctl::Sysctls::default();
    let mut status = sysctls.status(&needed)?;
    let mut problems = Vec::new();
    if wish == Sysctls::Apply {
        let to_set = match sysctls.to_set(&needed) {
            Ok(to_set) => to_set,
            // One of many findings.
            Err(error) => {
                let object = "sysctls";
                return Ok(vec![Problem::error(None, object, "", error.to_string())]);
            }
        };
        for set in to_set {
            status.retain(|status| status.setting != set.setting);
            let (name, wanted) = (set.setting.name(), set.setting.wanted);
            let message = format!("is {}, and will be set to {wanted}", set.old);
            problems.push(Problem::notice(None, format!("sysctl {name}"), message));
        }
    }
    problems.extend(check::sysctls(&status));
    Ok(problems)
}

/// Asks the kernel itself: who else is there, and whether it takes the very batch, which it
/// checks and throws away.
fn of_kernel(inputs: &Node) -> Vec<Problem> {
    let failed = |message: String| vec![Problem::error(None, "kernel", "", message)];
    let mut kernel = match Nfnetlink::open() {
        Ok(kernel) => kernel,
        Err(e) => return failed(e.to_string()),
    };
    let live = LiveRuleset::default();
    let desired = inputs.ruleset_over(&live);
    let others = match netlink::others(&mut kernel) {
        Ok(others) => others,
        Err(e) => return failed(e.to_string()),
    };
    let mut problems = of_others(inputs, &desired, &others);
    let broken = ways::broken(inputs, &desired, others);
    problems.extend(broken.unwrap_or_else(|e| failed(e.to_string())));
    match kernel.owner() {
        Ok(Some(owner)) => problems.push(owned(owner)),
        Ok(None) | Err(_) => {
            let mut delta = diff(&desired, &live);
            features::anew(&mut delta);
            let refusal = kernel.validate(&delta, 0).err();
            let families = Family::ALL.into_iter();
            let families = families.filter(|family| desired.tables.contains_key(family));
            let missing =
                features::missing(families.flat_map(features::features).collect(), |delta| {
                    takes(&mut kernel, delta)
                });
            match (missing, refusal) {
                (Err(e), None) => problems.extend(failed(super::error::refusal(e).to_string())),
                // What is refused is refused for what is missing.
                (Ok(missing), refusal) if refusal.is_none() || !missing.is_empty() => {
                    let used = refusal.is_some();
                    problems.extend(missing.iter().map(|one| features::problem(one, used)));
                }
                (_, Some(e)) => problems.extend(failed(super::error::refusal(e).to_string())),
                (Ok(_), None) => {}
            }
        }
    }
    problems
}

/// Whether the kernel takes this; an error if it could not be asked.
fn takes(kernel: &mut Nfnetlink, delta: &Transaction) -> Result<bool, NetlinkError> {
    match kernel.validate(delta, 0) {
        Ok(_) => Ok(true),
        Err(NetlinkError::Refused { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tables that have an owner are nobody else's to try a batch on: in order if that is a
/// daemon of ours.
fn owned(port: u32) -> Problem {
    let owner = owner_name(port);
    let message = format!(
        "the tables svcnat belong to {owner}: the kernel was not asked whether it takes the ruleset"
    );
    let problem = if writer::other().is_some() {
        Problem::notice(None, "kernel", message)
    } else {
        Problem::error(None, "kernel", "", message)
    };
    problem.of(owner)
}

/// Other programs that do the same job, or undo it.
fn of_others(inputs: &Node, desired: &Ruleset, rules: &Rules) -> Vec<Problem> {
    let nodes = inputs
        .cluster
        .nodes
        .values()
        .flat_map(|node| &node.pod_cidrs);
    let pods = inputs
        .config
        .cluster_cidrs
        .iter()
        .chain(&inputs.context.pod_cidrs);
    let pods: Vec<IpNet> = pods.chain(nodes).copied().collect();
    let hooks = desired.tables.values().flat_map(|table| &table.chains);
    let ours = hooks.filter_map(|chain| chain.base.filter(|base| base.hook == Hook::Prerouting));
    let ours = Ours {
        plan: &inputs.plan,
        pods: &pods,
        priority: ours.map(|base| base.priority).min().unwrap_or_default(),
    };
    let mut problems = others::others(rules, &ours);
    problems.extend(hidden::hidden(&ours));
    problems
}
