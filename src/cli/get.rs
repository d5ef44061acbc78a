//! `svcnat get`: tables that read like kubectl's.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use serde_json::{Value as Json, json};

use super::args::{GetArgs, Resource, TableFormat};
use super::error::CliError;
use super::inputs;
use super::say::say;
use crate::cluster::{ObjectName, Service};
use crate::counters::{Counts, What};
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::plan::{Endpoint, FamilyPlan, Frontend, FrontendKey, ListKey, ServicePortKey, Target};
use crate::text::printable;

/// Column names and rows; each row also as JSON.
struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

pub fn run(args: &GetArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    inputs::say_if_none(&args.inputs);
    let wide = args.output == TableFormat::Wide;
    let counts = match args.output {
        TableFormat::Table => None,
        TableFormat::Wide | TableFormat::Json => counts(&inputs)?,
    };
    let table = match args.resource {
        Resource::Services => services(&inputs, wide, counts.as_ref()),
        Resource::Endpoints => endpoints(&inputs, counts.as_ref()),
        Resource::Routes => routes(&inputs),
        Resource::Hostports => host_ports(&inputs),
    };
    match args.output {
        TableFormat::Json => {
            let items: Vec<Json> = table
                .rows
                .iter()
                .map(|row| {
                    let fields = table.columns.iter().zip(row);
                    fields.map(|(c, v)| (camel(c), json!(v))).collect()
                })
                .collect();
            writeln!(out, "{}", json!({ "items": items }))?;
        }
        TableFormat::Table | TableFormat::Wide => print(out, &table)?,
    }
    Ok(0)
}

/// What the kernel has counted, if it is to count.
fn counts(inputs: &Node) -> Result<Option<Counts>, CliError> {
    if !inputs.config.service_counters {
        return Ok(None);
    }
    let counts = Counts::read(&mut Nfnetlink::open()?)?;
    if counts.is_none() {
        say("warning: nothing is counted: the installed sets have no counters (svcnat diff)\n");
    }
    Ok(counts)
}

fn print(out: &mut impl Write, table: &Table) -> std::io::Result<()> {
    if table.rows.is_empty() {
        say("No resources found\n");
        return Ok(());
    }
    let shown: Vec<Vec<_>> = table
        .rows
        .iter()
        .map(|row| row.iter().map(|cell| printable(cell)).collect())
        .collect();
    let width = |i: usize| {
        let cells = shown.iter().map(|row| row[i].chars().count());
        cells.chain([table.columns[i].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..table.columns.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", padded.join("   ").trim_end())
    };
    line(&mut table.columns.iter().copied())?;
    shown
        .iter()
        .try_for_each(|row| line(&mut row.iter().map(|cell| &**cell)))
}

/// `CLUSTER-IP` as `clusterIp`, `PORT(S)` as `ports`.
fn camel(column: &str) -> String {
    let mut out = String::new();
    for (i, word) in column.to_lowercase().split('-').enumerate() {
        let word = word.replace(['(', ')'], "");
        let mut chars = word.chars();
        match chars.next() {
            Some(first) if i > 0 => out.extend(first.to_uppercase()),
            first => out.extend(first),
        }
        out.push_str(chars.as_str());
    }
    out
}

fn or_none(items: &[String]) -> String {
    if items.is_empty() {
        "<none>".to_owned()
    } else {
        items.join(",")
    }
}

fn services(inputs: &Node, wide: bool, counts: Option<&Counts>) -> Table {
    let mut columns = vec![
        "NAMESPACE",
        "NAME",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL-IP",
        "PORT(S)",
        "AGE",
        "ENDPOINTS",
    ];
    if wide {
        columns.push("SELECTOR");
    }
    let totals = counts.map(|counts| {
        columns.extend(["CONNECTIONS", "REFUSED"]);
        connections(inputs, counts)
    });
    let rows = inputs
        .cluster
        .services
        .values()
        .map(|service| {
            let ips: Vec<String> = service
                .cluster_ips
                .iter()
                .map(ToString::to_string)
                .collect();
            let external: Vec<String> = service
                .external_ips
                .iter()
                .chain(&service.load_balancer_ips)
                .map(ToString::to_string)
                .collect();
            let cluster_ip = if service.headless {
                "None".to_owned()
            } else {
                or_none(&ips)
            };
            let mut row = vec![
                service.name.namespace.to_string(),
                service.name.name.to_string(),
                service.service_type.to_string(),
                cluster_ip,
                or_none(&external),
                ports(service),
                age(service.created.as_deref()),
                count(inputs, service).to_string(),
            ];
            if wide {
                let selector: Vec<String> = service
                    .selector
                    .iter()
                    .map(|(k, v)| format!("{k}={v}"))
                    .collect();
                row.push(or_none(&selector));
            }
            if let Some(totals) = &totals {
                let (taken, refused) = totals.get(&service.name).copied().unwrap_or_default();
                row.extend([taken.to_string(), refused.to_string()]);
            }
            row
        })
        .collect();
    Table { columns, rows }
}

/// Connections taken and refused by service. O(frontends).
fn connections<'i>(inputs: &'i Node, counts: &Counts) -> BTreeMap<&'i ObjectName, (u64, u64)> {
    let mut totals: BTreeMap<&ObjectName, (u64, u64)> = BTreeMap::new();
    for plan in &inputs.plan.families {
        for (key, frontend) in &plan.frontends {
            let of = |what| counts.of(plan.family, &frontend.comment, key.protocol(), what);
            let total = totals.entry(&frontend.owner.service).or_default();
            total.0 += of(What::Frontend(*key));
            total.1 += of(What::Refused(*key));
        }
    }
    totals
}

fn ports(service: &Service) -> String {
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|p| match p.node_port {
            Some(node_port) => format!("{}:{node_port}/{}", p.port, p.protocol),
            None => format!("{}/{}", p.port, p.protocol),
        })
        .collect();
    or_none(&ports)
}

/// Endpoints this node uses for the service, over all its ports.
fn count(inputs: &Node, service: &Service) -> usize {
    let mut found: BTreeSet<Endpoint> = BTreeSet::new();
    for family in &inputs.plan.families {
        let lists = family
            .lists
            .iter()
            .filter(|(key, _)| key.port.service == service.name);
        found.extend(lists.flat_map(|(_, list)| list.endpoints.keys().copied()));
    }
    found.len()
}

/// Time since creation as kubectl shows it, from an RFC 3339 timestamp in UTC.
fn age(created: Option<&str>) -> String {
    let seconds = created.and_then(unix_seconds).and_then(|then| {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .ok()?;
        now.as_secs().checked_sub(then)
    });
    match seconds {
        None => "<unknown>".to_owned(),
        Some(s) if s < 120 => format!("{s}s"),
        Some(s) if s < 7200 => format!("{}m", s / 60),
        Some(s) if s < 172_800 => format!("{}h", s / 3600),
        Some(s) => format!("{}d", s / 86_400),
    }
}

/// Seconds since 1970 of `YYYY-MM-DDTHH:MM:SSZ`.
fn unix_seconds(text: &str) -> Option<u64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days from civil: years that begin in March end with the leap day.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year.checked_sub(1)?, month + 9)
    };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day;
    let epoch = 719_469;
    Some(days.checked_sub(epoch)? * 86_400 + hour * 3600 + minute * 60 + second)
}

fn endpoints(inputs: &Node, counts: Option<&Counts>) -> Table {
    let mut columns = vec!["SERVICE", "PORT", "KIND", "FRONTEND", "POLICY", "ENDPOINTS"];
    if counts.is_some() {
        columns.extend(["CONNECTIONS", "REFUSED", "BY-ENDPOINT"]);
    }
    let mut rows = Vec::new();
    for family in &inputs.plan.families {
        let list = |key: &ListKey| {
            let found = family.lists.get(key).map(|l| l.endpoints.iter());
            let shown: Vec<String> = found
                .into_iter()
                .flatten()
                .map(|(e, weight)| match weight {
                    1 => e.to_string(),
                    _ => format!("{e}*{weight}"),
                })
                .collect();
            or_none(&shown)
        };
        for (key, frontend) in &family.frontends {
            let mut push = |policy: &str, endpoints: String| {
                let mut row = vec![
                    frontend.owner.service.to_string(),
                    port_name(&frontend.owner),
                    frontend.kind.to_string(),
                    key.to_string(),
                    policy.to_owned(),
                    endpoints,
                ];
                row.extend(
                    counts
                        .into_iter()
                        .flat_map(|c| counted(c, key, frontend, family)),
                );
                rows.push(row);
            };
            match &frontend.target {
                Target::List(key) => push(&format!("{:?}", key.view), list(key)),
                Target::Split { outside, inside } => {
                    push(
                        "Local",
                        outside.as_ref().map_or_else(|| "<dropped>".into(), list),
                    );
                    push(
                        "Local (from inside)",
                        inside.as_ref().map_or_else(|| "<none>".into(), list),
                    );
                }
                Target::Reject => push("-", "<refused>".into()),
                Target::Drop => push("Local", "<dropped>".into()),
            }
        }
    }
    rows.sort();
    Table { columns, rows }
}

fn port_name(port: &ServicePortKey) -> String {
    match &*port.port_name {
        "" => "<unnamed>".to_owned(),
        name => name.to_owned(),
    }
}

/// Connections to a frontend, those nobody could serve, and to each endpoint of its service
/// port by whatever frontend.
fn counted(
    counts: &Counts,
    key: &FrontendKey,
    frontend: &Frontend,
    family: &FamilyPlan,
) -> [String; 3] {
    let of = |what| counts.of(family.family, &frontend.comment, key.protocol(), what);
    let lists = frontend
        .target
        .lists()
        .filter_map(|list| family.lists.get(list));
    let endpoints: BTreeSet<&Endpoint> = lists.flat_map(|list| list.endpoints.keys()).collect();
    let by_endpoint: Vec<String> = endpoints
        .into_iter()
        .map(|endpoint| format!("{endpoint}={}", of(What::Endpoint(*endpoint))))
        .collect();
    [
        of(What::Frontend(*key)).to_string(),
        of(What::Refused(*key)).to_string(),
        or_none(&by_endpoint),
    ]
}

fn routes(inputs: &Node) -> Table {
    let rows = inputs
        .plan
        .routes
        .iter()
        .map(|r| vec![r.destination.to_string(), r.via.to_string(), r.node.clone()])
        .collect();
    Table {
        columns: vec!["DESTINATION", "VIA", "NODE"],
        rows,
    }
}

fn host_ports(inputs: &Node) -> Table {
    let rows = inputs
        .plan
        .families
        .iter()
        .flat_map(|family| &family.host_ports)
        .map(|(key, port)| {
            vec![
                key.addr.map_or_else(|| "*".to_owned(), |a| a.to_string()),
                format!("{}/{}", key.port, key.protocol),
                port.endpoint.to_string(),
                port.owner.to_string(),
            ]
        })
        .collect();
    Table {
        columns: vec!["HOST-IP", "HOST-PORT", "ENDPOINT", "POD"],
        rows,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_seconds_since_1970() {
        assert_eq!(unix_seconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(unix_seconds("2026-11-24T10:28:00Z"), Some(1_795_516_080));
        assert_eq!(unix_seconds("yesterday"), None);
    }

    #[test]
    fn columns_become_json_names() {
        assert_eq!(camel("CLUSTER-IP"), "clusterIp");
        assert_eq!(camel("PORT(S)"), "ports");
    }
}
