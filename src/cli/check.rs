//! `svcnat check`: what does not fit, in the inputs and between them and this host.

use std::io::Write;

use serde_json::json;

use super::apply::needed_sysctls;
use super::args::{CheckArgs, Output};
use super::error::CliError;
use super::inputs::Inputs;
use crate::compile::compile;
use crate::diff::diff;
use crate::host::{self, check, interfaces, routes, sysctl};
use crate::netlink::Nfnetlink;
use crate::problem::{Problem, Severity};
use crate::ruleset::LiveRuleset;

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let (inputs, mut problems) = Inputs::collect(&args.inputs)?;
    problems.extend(of_host(&inputs).map_err(|e| CliError::Host(e.to_string()))?);
    problems.extend(of_kernel(&inputs));
    problems.sort();
    problems.dedup();
    let errors = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    match args.output {
        Output::Text => {
            for problem in &problems {
                writeln!(out, "{problem}")?;
            }
            let others = problems.len() - errors;
            writeln!(out, "{errors} errors, {others} warnings and notices")?;
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
    Ok(if errors == 0 { 0 } else { 2 })
}

fn of_host(inputs: &Inputs) -> Result<Vec<Problem>, host::HostError> {
    let interfaces = interfaces::list()?;
    let mut pods: Vec<(String, ipnet::IpNet)> = inputs
        .cluster
        .nodes
        .values()
        .flat_map(|n| n.pod_cidrs.iter().map(|c| (format!("Node {}", n.name), *c)))
        .collect();
    pods.extend(
        inputs
            .node
            .pod_cidrs
            .iter()
            .map(|c| ("this node".to_owned(), *c)),
    );
    let mut problems = check::overlaps(&inputs.node.service_ranges, &pods, &interfaces);
    problems.extend(check::next_hops(
        inputs.plan.routes.iter().cloned(),
        routes::next_hop,
    )?);
    if let Ok(needed) = needed_sysctls(inputs) {
        problems.extend(check::sysctls(&sysctl::Sysctls::default().status(&needed)?));
    }
    problems.extend(check::capability());
    Ok(problems)
}

/// Asks the kernel itself: it checks the very batch and throws it away.
fn of_kernel(inputs: &Inputs) -> Vec<Problem> {
    let failed = |message: String| vec![Problem::error(None, "kernel", "", message)];
    let mut kernel = match Nfnetlink::open() {
        Ok(kernel) => kernel,
        Err(e) => return failed(e.to_string()),
    };
    let mut problems = Vec::new();
    match kernel.table_names() {
        Ok(names) => {
            let found: Vec<check::ForeignChain> = names
                .into_iter()
                .map(|(family, table)| check::ForeignChain {
                    family: family.nft_name().to_owned(),
                    table,
                    chain: String::new(),
                    hook: None,
                    policy_drop: false,
                })
                .collect();
            problems.extend(check::foreign_tables(&found));
        }
        Err(e) => return failed(e.to_string()),
    }
    let live = LiveRuleset::default();
    let mut delta = diff(&compile(&inputs.plan, &live.sets()), &live);
    for table in &mut delta.tables {
        // Our table may be there already: check as if it were built anew.
        let delete = crate::diff::Operation::DeleteTable;
        let add = crate::diff::Operation::AddTable;
        table.operations.splice(0..0, [add, delete]);
    }
    if let Err(e) = kernel.validate(&delta, 0) {
        problems.extend(failed(e.to_string()));
    }
    problems
}
