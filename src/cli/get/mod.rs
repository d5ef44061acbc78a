//! `svcnat get`: what the inputs mean on this node, or what is installed, read like kubectl's.

mod live;
mod planned;
mod rows;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;

use super::args::{GetArgs, ListFormat, Resource};
use super::error::CliError;
use super::inputs;
use super::say::{fail, say};
use crate::counters::{Counts, What};
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::plan::{Endpoint, FrontendKey};
use crate::ruleset::Family;
use crate::text::printable;
use live::Installed;
use rows::{Counted, EndpointOf, FrontendRow, HostPortRow, RouteRow, Row, ServiceRow};

/// The policy of who is let around a local one: pods and the node itself.
const FROM_INSIDE: &str = "Local (from inside)";

/// Everything there may be to list; of one resource, all but that is empty.
#[derive(Default)]
struct Found {
    services: Vec<ServiceRow>,
    endpoints: Vec<FrontendRow>,
    routes: Vec<RouteRow>,
    host_ports: Vec<HostPortRow>,
}

/// Exit code 0 if all that was named was found.
pub fn run(args: &GetArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let mut found = if args.live {
        installed(args.resource)?
    } else {
        planned(args)?
    };
    found.endpoints.sort_by(|a, b| {
        let key = |row: &FrontendRow| {
            let at = (row.frontend, row.policy == Some(FROM_INSIDE));
            (row.namespace.clone(), row.service.clone(), at)
        };
        key(a).cmp(&key(b))
    });
    match args.resource {
        Resource::Services => list(args, found.services, out),
        Resource::Endpoints => list(args, found.endpoints, out),
        Resource::Routes => list(args, found.routes, out),
        Resource::Hostports => list(args, found.host_ports, out),
    }
}

fn planned(args: &GetArgs) -> Result<Found, CliError> {
    let inputs = inputs::resolve(&args.inputs)?;
    inputs::say_if_none(&args.inputs);
    let counts = match args.output {
        ListFormat::Table | ListFormat::Name => None,
        ListFormat::Wide | ListFormat::Json | ListFormat::Yaml => counts(&inputs)?,
    };
    let counts = counts.as_ref();
    let mut found = Found::default();
    match args.resource {
        Resource::Services => found.services = planned::services(&inputs, counts),
        Resource::Endpoints => found.endpoints = planned::endpoints(&inputs, counts),
        Resource::Routes => found.routes = planned::routes(&inputs),
        Resource::Hostports => found.host_ports = planned::host_ports(&inputs),
    }
    Ok(found)
}

fn installed(resource: Resource) -> Result<Found, CliError> {
    let mut found = Found::default();
    if resource == Resource::Routes {
        found.routes = live::routes()?;
        return Ok(found);
    }
    let installed = Installed::read()?;
    if installed.is_empty() {
        say("notice: nothing is installed in this network namespace\n");
    }
    match resource {
        Resource::Services => found.services = installed.services(),
        Resource::Endpoints => found.endpoints = installed.endpoints(),
        Resource::Hostports => found.host_ports = installed.host_ports(),
        Resource::Routes => {}
    }
    Ok(found)
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

/// What has been counted of a frontend, and of these endpoints behind it: by whatever frontend
/// of the same service port, which its comment names.
fn counted(
    counts: &Counts,
    (family, port): (Family, &Arc<str>),
    key: &FrontendKey,
    endpoints: &[EndpointOf],
) -> Counted {
    let of = |what| counts.of(family, port, key.protocol(), what);
    let by_endpoint = endpoints.iter().map(|endpoint| {
        let endpoint = Endpoint {
            addr: endpoint.address,
            port: endpoint.port,
        };
        (endpoint.to_string(), of(What::Endpoint(endpoint)))
    });
    Counted {
        connections: of(What::Frontend(*key)),
        refused: of(What::Refused(*key)),
        by_endpoint: Some(by_endpoint.collect()),
    }
}

/// What has been counted of each Service, by namespace and name. O(frontends · log).
fn totals(rows: &[FrontendRow]) -> BTreeMap<(String, String), Counted> {
    let mut totals: BTreeMap<(String, String), Counted> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.policy != Some(FROM_INSIDE)) {
        let name = (row.namespace.clone(), row.service.clone());
        let total = totals.entry(name).or_default();
        if let Some(counted) = &row.counted {
            total.connections += counted.connections;
            total.refused += counted.refused;
        }
    }
    totals
}

/// An object by itself or in a list: with what kind it is.
#[derive(Serialize)]
struct Object<'r, R> {
    kind: String,
    #[serde(flatten)]
    row: &'r R,
}

#[derive(Serialize)]
struct List<'r, R> {
    kind: &'static str,
    items: Vec<Object<'r, R>>,
}

/// Prints those rows that were asked for.
fn list<R: Row>(args: &GetArgs, mut rows: Vec<R>, out: &mut impl Write) -> Result<u8, CliError> {
    let wanted = |namespace: Option<&str>, name: &str| {
        let named = |wanted: &String| match (wanted.split_once('/'), namespace) {
            // A route's name has a slash of its own.
            (Some((of, own)), Some(namespace)) => of == namespace && own == name,
            _ => wanted == name,
        };
        (args.names.is_empty() || args.names.iter().any(named))
            && (args
                .namespace
                .as_deref()
                .is_none_or(|of| namespace.is_none_or(|n| n == of)))
    };
    rows.retain(|row| {
        let (namespace, name) = row.name();
        wanted(namespace, &name)
    });
    let mut code = 0;
    for name in &args.names {
        let is = |row: &R| {
            let (namespace, own) = row.name();
            *name == own || namespace.is_some_and(|n| *name == format!("{n}/{own}"))
        };
        if !rows.iter().any(is) {
            fail(&format!(
                "error: {} {} not found\n",
                R::WORD,
                printable(name)
            ));
            code = 2;
        }
    }
    let object = |row| Object {
        kind: capitalised(R::WORD),
        row,
    };
    match args.output {
        ListFormat::Name => {
            for row in &rows {
                let (namespace, name) = row.name();
                let namespace = namespace.filter(|_| args.namespace.is_none());
                let namespace = namespace.map_or_else(String::new, |n| format!("{n}/"));
                writeln!(out, "{}/{namespace}{name}", R::WORD)?;
            }
        }
        ListFormat::Json | ListFormat::Yaml => {
            let list = List {
                kind: "List",
                items: rows.iter().map(object).collect(),
            };
            let text = if args.output == ListFormat::Json {
                serde_json::to_string_pretty(&list).map_err(std::io::Error::from)? + "\n"
            } else {
                serde_saphyr::to_string(&list).map_err(std::io::Error::other)?
            };
            out.write_all(text.as_bytes())?;
        }
        ListFormat::Table | ListFormat::Wide if rows.is_empty() => {
            if code == 0 {
                say("No resources found\n");
            }
        }
        ListFormat::Table | ListFormat::Wide => table(args, &rows, out)?,
    }
    Ok(code)
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    let first = chars.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(chars).collect()
}

fn table<R: Row>(args: &GetArgs, rows: &[R], out: &mut impl Write) -> std::io::Result<()> {
    let wide = args.output == ListFormat::Wide;
    let shown = |(name, only_wide): &(&str, bool)| {
        (wide || !only_wide) && (args.namespace.is_none() || *name != "NAMESPACE")
    };
    let counted = wide && rows.iter().any(|row| row.counted().is_some());
    let mut lines = Vec::with_capacity(rows.len() + 1);
    let columns = R::COLUMNS.iter().filter(|column| shown(column));
    let mut header: Vec<String> = columns.map(|(name, _)| (*name).to_owned()).collect();
    let by_endpoint = |counted: &Counted| counted.by_endpoint.is_some();
    let by_endpoint = rows.iter().filter_map(Row::counted).any(by_endpoint);
    if counted {
        header.extend(["CONNECTIONS", "REFUSED"].map(str::to_owned));
        header.extend(by_endpoint.then(|| "BY-ENDPOINT".to_owned()));
    }
    lines.push(header);
    for row in rows {
        let cells = R::COLUMNS.iter().zip(row.cells());
        let cells = cells.filter(|(column, _)| shown(column));
        let mut line: Vec<String> = cells.map(|(_, cell)| printable(&cell).into()).collect();
        if let Some(counted) = row.counted().filter(|_| counted) {
            line.extend([counted.connections, counted.refused].map(|n| n.to_string()));
            line.extend(counted.by_endpoint.as_ref().map(|by| {
                let each: Vec<String> = by.iter().map(|(e, n)| format!("{e}={n}")).collect();
                if each.is_empty() {
                    "<none>".to_owned()
                } else {
                    each.join(",")
                }
            }));
        }
        lines.push(line);
    }
    let width = |i: usize| {
        let cells = lines.iter().filter_map(|line| line.get(i));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..lines[0].len()).map(width).collect();
    for line in &lines {
        let padded: Vec<String> = line
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        writeln!(out, "{}", padded.join("   ").trim_end())?;
    }
    Ok(())
}
