//! What is installed, from the kernel alone: no input is read.
//!
//! Names come from the comments of elements, which hold at most 127 bytes and no characters
//! that a terminal would act on; what no element says is not known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::rows::{EndpointOf, FrontendRow, HostPortRow, Outcome, Port, RouteRow, ServiceRow};
use crate::cli::error::CliError;
use crate::cli::intent::host;
use crate::compile::value::{Class, LIST_MASK, value_of};
use crate::compile::{FOLLOWING, SetId, endpoint_of, frontend_key_of};
use crate::counters::Counts;
use crate::host::routes;
use crate::netlink::Nfnetlink;
use crate::plan::{Endpoint, FrontendKey};
use crate::ruleset::{Element, Family, FieldValue, LiveTable, Set, Value};

/// Our tables as the kernel holds them, and what they have counted, if they count.
pub struct Installed {
    tables: BTreeMap<Family, LiveTable>,
    counts: Option<Counts>,
}

/// The slots of an endpoint list: list number and protocol.
type Slots = BTreeMap<(u32, u8), BTreeMap<Endpoint, u32>>;

impl Installed {
    /// Reads them. O(elements).
    pub fn read() -> Result<Self, CliError> {
        let mut kernel = Nfnetlink::open()?;
        Ok(Self {
            tables: kernel.read(FOLLOWING)?.tables,
            counts: Counts::read(&mut kernel)?,
        })
    }

    /// True if there is no table of ours.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Frontends and their endpoints. O(elements · log).
    pub fn endpoints(&self) -> Vec<FrontendRow> {
        let tables = self.tables.iter();
        tables
            .flat_map(|(family, table)| frontends(*family, table, self.counts.as_ref()))
            .collect()
    }

    /// Services, put together from their frontends. O(elements · log).
    pub fn services(&self) -> Vec<ServiceRow> {
        let mut found: BTreeMap<(String, String), (ServiceRow, BTreeSet<Endpoint>)> =
            BTreeMap::new();
        let rows = self.endpoints();
        let totals = self.counts.as_ref().map(|_| super::totals(&rows));
        for row in rows {
            let key = (row.namespace.clone(), row.service.clone());
            let (service, endpoints) = found.entry(key).or_insert_with(|| {
                let service = ServiceRow {
                    namespace: row.namespace.clone(),
                    name: row.service.clone(),
                    ..ServiceRow::default()
                };
                (service, BTreeSet::new())
            });
            endpoints.extend(row.endpoints.iter().map(|e| Endpoint {
                addr: e.address,
                port: e.port,
            }));
            add(service, &row);
        }
        let done = found.into_iter().map(|(name, (mut service, endpoints))| {
            service.endpoints = endpoints.len();
            service.counted = totals
                .as_ref()
                .and_then(|totals| totals.get(&name).cloned());
            service
        });
        done.collect()
    }

    /// Host ports. O(these).
    pub fn host_ports(&self) -> Vec<HostPortRow> {
        let sets = [SetId::HostPorts, SetId::HostPortIps];
        let elements = self
            .tables
            .values()
            .flat_map(|table| sets.into_iter().flat_map(|set| elements(table, set)));
        elements
            .filter_map(|(set, key, element)| {
                let at = frontend_key_of(set, key)?;
                let endpoint = endpoint_of(set, element)?;
                let (namespace, pod) = split(element.comment.as_deref().unwrap_or_default());
                Some(HostPortRow {
                    namespace,
                    pod,
                    host_ip: match at {
                        FrontendKey::Address(addr, ..) => Some(addr),
                        FrontendKey::NodePort(..) => None,
                    },
                    host_port: at.port(),
                    protocol: at.protocol(),
                    address: endpoint.addr,
                    port: endpoint.port,
                })
            })
            .collect()
    }
}

/// Routes of ours in the kernel's main table.
pub fn routes() -> Result<Vec<RouteRow>, CliError> {
    let found = routes::list_ours().map_err(host)?.into_iter();
    let rows = found.filter_map(|route| {
        Some(RouteRow {
            destination: route.destination,
            via: route.via?,
            node: None,
        })
    });
    Ok(rows.collect())
}

/// Adds to a Service what one of its frontends tells.
fn add(service: &mut ServiceRow, row: &FrontendRow) {
    let (port, node_port) = match row.frontend {
        FrontendKey::Address(addr, _, port) => {
            let addresses = match &*row.kind {
                "ClusterIP" => &mut service.cluster_ips,
                _ => &mut service.external_ips,
            };
            if !addresses.contains(&addr) {
                addresses.push(addr);
            }
            (Some(port), None)
        }
        FrontendKey::NodePort(_, node_port) => (None, Some(node_port)),
    };
    let protocol = row.frontend.protocol();
    let same = |p: &&mut Port| p.name == row.port_name && p.protocol == protocol;
    if let Some(known) = service.ports.iter_mut().find(same) {
        known.node_port = known.node_port.or(node_port);
    } else if let Some(port) = port {
        service.ports.push(Port {
            name: row.port_name.clone(),
            port,
            protocol,
            node_port,
        });
    }
}

fn elements(table: &LiveTable, set: SetId) -> impl Iterator<Item = (&Set, &Value, &Element)> {
    let set = table.sets.get(set.fixed_name());
    set.into_iter()
        .flat_map(|set| set.elements.iter().map(move |(k, e)| (set, k, e)))
}

/// A table's frontends: addresses first, whose ports the node ports are of.
fn frontends(family: Family, table: &LiveTable, counts: Option<&Counts>) -> Vec<FrontendRow> {
    let mut lists = Slots::new();
    for id in [SetId::Endpoints, SetId::EndpointsLarge] {
        for (set, key, element) in elements(table, id) {
            let fields = key.fields(&set.key).unwrap_or_default();
            if let (Some(endpoint), [FieldValue::ClassId(list), FieldValue::Proto(protocol), ..]) =
                (endpoint_of(set, element), &fields[..])
            {
                let list = lists.entry((*list, *protocol)).or_default();
                *list.entry(endpoint).or_default() += 1;
            }
        }
    }
    let cluster_ips: BTreeSet<IpAddr> = elements(table, SetId::ClusterIps)
        .filter_map(|(set, key, _)| match key.fields(&set.key)?[..] {
            [FieldValue::Addr(addr)] => Some(addr),
            _ => None,
        })
        .collect();
    let maps = [
        (SetId::ServiceIps, SetId::InternalServiceIps),
        (SetId::ServiceNodeports, SetId::InternalServiceNodeports),
    ];
    let mut rows = Vec::new();
    for (all, inside) in maps {
        let inside: BTreeMap<&Value, (&Set, &Element)> = elements(table, inside)
            .map(|(set, key, element)| (key, (set, element)))
            .collect();
        for (set, key, element) in elements(table, all) {
            let local = inside.get(key).map(|(_, element)| *element);
            let policy = local.map(|_| "Local");
            let kind = |key: &FrontendKey| match key {
                FrontendKey::NodePort(..) => "NodePort",
                FrontendKey::Address(addr, ..) if cluster_ips.contains(addr) => "ClusterIP",
                FrontendKey::Address(..) => "External",
            };
            let row = |element, policy| {
                let mut row = row(set, key, element, &lists, policy, kind)?;
                row.counted = counts.zip(element.comment.as_ref()).map(|(counts, port)| {
                    super::counted(counts, (family, port), &row.frontend, &row.endpoints)
                });
                Some(row)
            };
            rows.extend(row(element, policy));
            if let Some(element) = local {
                rows.extend(row(element, Some(super::FROM_INSIDE)));
            }
        }
    }
    rows
}

fn row(
    set: &Set,
    key: &Value,
    element: &Element,
    lists: &Slots,
    policy: Option<&'static str>,
    kind: impl Fn(&FrontendKey) -> &'static str,
) -> Option<FrontendRow> {
    let frontend = frontend_key_of(set, key)?;
    let value = value_of(element)?;
    let list = (value & LIST_MASK, frontend.protocol().number());
    let class = Class::of(value)?;
    let (outcome, endpoints) = match class {
        Class::Reject => (Outcome::Refused, None),
        Class::Drop => (Outcome::Dropped, None),
        _ => (Outcome::Endpoints, lists.get(&list)),
    };
    let comment = element.comment.as_deref().unwrap_or_default();
    let (namespace, rest) = split(comment);
    let (service, port_name) = rest.split_once(':').unwrap_or((&rest, ""));
    Some(FrontendRow {
        namespace,
        service: service.to_owned(),
        port_name: port_name.to_owned(),
        kind: kind(&frontend).to_owned(),
        frontend,
        policy,
        outcome,
        endpoints: in_lowest_terms(class, endpoints),
        counted: None,
    })
}

/// Endpoints by address, with weights as small as they can be. The slots of a list that is
/// balanced by source address are a prime number, so their shares are not quite the weights.
fn in_lowest_terms(class: Class, slots: Option<&BTreeMap<Endpoint, u32>>) -> Vec<EndpointOf> {
    const fn common(a: u32, b: u32) -> u32 {
        if b == 0 { a } else { common(b, a % b) }
    }
    let slots = || slots.into_iter().flatten();
    let unit = match class {
        Class::BySource => slots().map(|(_, slots)| *slots).min().unwrap_or(1),
        _ => slots().fold(0, |all, (_, slots)| common(all, *slots)),
    };
    let unit = unit.max(1);
    slots()
        .map(|(endpoint, slots)| EndpointOf {
            address: endpoint.addr,
            port: endpoint.port,
            weight: (slots + unit / 2) / unit,
        })
        .collect()
}

/// `namespace/name` in two.
fn split(comment: &str) -> (String, String) {
    let (namespace, name) = comment.split_once('/').unwrap_or(("", comment));
    (namespace.to_owned(), name.to_owned())
}
