//! `svcnat get`: what the inputs mean on this node, or what is installed, read like kubectl's.

pub mod args;
mod live;
pub(super) mod planned;
mod print;
mod rows;
mod selector;
#[cfg(feature = "daemon")]
mod watch;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use super::args::{GetArgs, ListFormat, Resource};
use super::error::CliError;
use super::inputs;
use super::say::{fail, say};
use crate::cluster::ObjectName;
use crate::counters::{Counts, What};
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::plan::{Endpoint, FrontendKey};
use crate::problem::Severity;
use crate::ruleset::Family;
use crate::source;
use crate::text::printable;
pub(super) use live::Installed;
use rows::{Counted, EndpointOf, RouteRow, Row, ServiceRow};
pub(super) use rows::{FrontendRow, HostPortRow};

/// The policy of who is let around a local one: pods and the node itself.
const FROM_INSIDE: &str = "Local (from inside)";

/// The label that says whose an EndpointSlice is.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

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
    if args.live && args.selector.is_some() {
        return Err(CliError::Usage(
            "--selector: the kernel holds no labels, so --live cannot select by them; without \
             --live they are those of the objects (-f)"
                .to_owned(),
        ));
    }
    match args.resource {
        Resource::Services => list(args, |found| found.services, out),
        Resource::Endpoints => list(args, |found| found.endpoints, out),
        Resource::Routes => list(args, |found| found.routes, out),
        Resource::Hostports => list(args, |found| found.host_ports, out),
    }
}

/// Whether it is said what is odd, but no error: at the first reading.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    First,
    #[cfg_attr(
        not(feature = "daemon"),
        expect(dead_code, reason = "only a watch reads again")
    )]
    Again,
}

/// Lists one resource, which `rows` takes out, and what becomes of it if that is to be watched.
fn list<R: Row>(
    args: &GetArgs,
    rows: fn(Found) -> Vec<R>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    if args.watch {
        #[cfg(feature = "daemon")]
        return watch::run(args, rows, out);
        #[cfg(not(feature = "daemon"))]
        return Err(CliError::Usage(
            "--watch: this svcnat is built without the feature daemon, which watches".to_owned(),
        ));
    }
    let rows = select(args, rows(read(args, Reading::First)?));
    let code = missing(args, &rows);
    if rows.is_empty() && code == 0 && matches!(args.output, ListFormat::Table | ListFormat::Wide) {
        say("No resources found\n");
    } else {
        print::list(args, &rows, out)?;
    }
    Ok(code)
}

/// Everything there is to list now.
fn read(args: &GetArgs, reading: Reading) -> Result<Found, CliError> {
    let mut found = if args.live {
        installed(args.resource, reading)?
    } else {
        planned(args, reading)?
    };
    found.endpoints.sort_by(|a, b| {
        let key = |row: &FrontendRow| {
            let at = (row.frontend, row.policy == Some(FROM_INSIDE));
            (row.namespace.clone(), row.service.clone(), at)
        };
        key(a).cmp(&key(b))
    });
    Ok(found)
}

fn planned(args: &GetArgs, reading: Reading) -> Result<Found, CliError> {
    let (inputs, labels) = match reading {
        Reading::First => {
            let found = inputs::resolve_labelled(&args.inputs, Severity::Notice)?;
            inputs::say_if_none(&args.inputs);
            found
        }
        Reading::Again => inputs::resolve_labelled(&args.inputs, Severity::Error)?,
    };
    let counts = match args.output {
        ListFormat::Table | ListFormat::Name => None,
        ListFormat::Wide | ListFormat::Json | ListFormat::Yaml => counts(&inputs)?,
    };
    let counts = counts.as_ref();
    let selects = |labels: &source::LabelMap| {
        let selector = args.selector.as_ref();
        selector.is_none_or(|selector| selector.selects(labels))
    };
    let mut found = Found::default();
    match args.resource {
        Resource::Services => {
            found.services = planned::services(&inputs, counts);
            let of =
                |row: &ServiceRow| labels.of_service(&ObjectName::new(&*row.namespace, &*row.name));
            found.services.retain(|row| selects(&of(row)));
        }
        Resource::Endpoints => {
            found.endpoints = planned::endpoints(&inputs, counts);
            // As an EndpointSlice has them: its Service's, and which Service that is.
            let of = |row: &FrontendRow| {
                let name = ObjectName::new(&*row.namespace, &*row.service);
                let mut labels = labels.of_service(&name);
                labels.insert(SERVICE_NAME.to_owned(), row.service.clone());
                labels
            };
            found.endpoints.retain(|row| selects(&of(row)));
        }
        Resource::Routes => {
            found.routes = planned::routes(&inputs);
            let of = |row: &RouteRow| labels.of_node(row.node.as_deref().unwrap_or_default());
            found.routes.retain(|row| selects(&of(row)));
        }
        Resource::Hostports => {
            found.host_ports = planned::host_ports(&inputs);
            let of = |row: &HostPortRow| {
                let pod = ObjectName::new(&*row.namespace, &*row.pod);
                let pod = inputs.cluster.pods.get(&pod);
                pod.map(|pod| pod.labels.clone()).unwrap_or_default()
            };
            found.host_ports.retain(|row| selects(&of(row)));
        }
    }
    Ok(found)
}

fn installed(resource: Resource, reading: Reading) -> Result<Found, CliError> {
    let mut found = Found::default();
    if resource == Resource::Routes {
        found.routes = live::routes()?;
        return Ok(found);
    }
    let installed = Installed::read()?;
    if installed.is_empty() && reading == Reading::First {
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

/// Those rows that were asked for by name or namespace.
fn select<R: Row>(args: &GetArgs, mut rows: Vec<R>) -> Vec<R> {
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
    rows
}

/// Says which names were not found: 2 if there are such, 0 otherwise.
fn missing<R: Row>(args: &GetArgs, rows: &[R]) -> u8 {
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
    code
}
