//! `svcnat check`: what does not fit, in the inputs and between them and this host.

use std::io::Write;

use ipnet::IpNet;
use serde_json::json;

use super::args::{CheckArgs, Output};
use super::error::{CliError, owner_name};
use super::inputs;
use super::intent::host;
use super::say::count;
use super::{ways, writer};
use crate::config::Sysctls;
use crate::diff::diff;
use crate::foreign::Rules;
use crate::host::interfaces::{self, Interface};
use crate::host::others::{self, Ours};
use crate::host::{HostError, check, hidden, routes, sysctl};
use crate::netlink::{self, Nfnetlink};
use crate::node::Node;
use crate::problem::{Problem, Severity};
use crate::ruleset::{Hook, LiveRuleset, Ruleset};

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let (inputs, inputs_own) = inputs::collect(&args.inputs)?;
    let mut hosts = of_host(&inputs).map_err(host)?;
    hosts.extend(of_kernel(&inputs));
    if let Some(other) = writer::other() {
        hosts.push(Problem::notice(None, "this network namespace", other));
    }
    let errors = |problems: &[Problem]| {
        let errors = problems.iter().filter(|p| p.severity == Severity::Error);
        errors.count()
    };
    let code = match (errors(&inputs_own), errors(&hosts)) {
        (0, 0) => 0,
        (0, _) => 3,
        _ => 2,
    };
    let mut problems = [inputs_own, hosts].concat();
    problems.sort();
    problems.dedup();
    let errors = errors(&problems);
    match args.output {
        Output::Text => {
            for problem in &problems {
                writeln!(out, "{problem}")?;
            }
            let others = problems.len() - errors;
            writeln!(
                out,
                "{}, {}",
                count(errors, "error"),
                match others {
                    1 => "1 warning or notice".to_owned(),
                    n => format!("{n} warnings and notices"),
                }
            )?;
        }
        Output::Json => {
            let list: Vec<_> = problems
                .iter()
                .map(|p| {
                    json!({
                        "severity": p.severity.to_string(),
                        "origin": p.origin.as_ref().map(ToString::to_string),
                        "object": p.object,
                        "field": p.field,
                        "message": p.message,
                    })
                })
                .collect();
            writeln!(out, "{}", json!({ "problems": list }))?;
        }
    }
    Ok(code)
}

fn of_host(inputs: &Node) -> Result<Vec<Problem>, HostError> {
    let interfaces = interfaces::list()?;
    let mut problems = check::overlaps(&inputs.context.service_ranges, &interfaces);
    problems.extend(check::next_hops(
        inputs.plan.routes.iter().cloned(),
        routes::next_hop,
    )?);
    problems.extend(of_sysctls(inputs, &interfaces)?);
    problems.extend(check::capability());
    Ok(problems)
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
    let mut delta = diff(&desired, &live);
    for table in &mut delta.tables {
        // Our table may be there already: check as if it were built anew.
        let delete = crate::transaction::Operation::DeleteTable;
        let add = crate::transaction::Operation::AddTable;
        table.operations.splice(0..0, [add, delete]);
    }
    match kernel.owner() {
        Ok(Some(owner)) => problems.push(owned(owner)),
        Ok(None) | Err(_) => {
            if let Err(e) = kernel.validate(&delta, 0) {
                problems.extend(failed(super::error::refusal(e).to_string()));
            }
        }
    }
    problems
}

/// Tables that have an owner are nobody else's to try a batch on: in order if that is a
/// daemon of ours.
fn owned(port: u32) -> Problem {
    let message = format!(
        "the tables svcnat belong to {}: the kernel was not asked whether it takes the ruleset",
        owner_name(port)
    );
    if writer::other().is_some() {
        Problem::notice(None, "kernel", message)
    } else {
        Problem::error(None, "kernel", "", message)
    }
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
