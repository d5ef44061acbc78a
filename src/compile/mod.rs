//! nftables technique: from a [`NodePlan`] to a [`Ruleset`].
//!
//! All that services, endpoints and pods bring is elements. The skeleton (tables, chains,
//! rules, empty sets) depends on the configuration, this node's prefixes and on which kinds
//! of things the elements bring ([`Parts`]), never on how many. Pure: the only input besides
//! the plan is what the kernel holds already, so that numbers and slots stay put.
//!
//! A feature is a file: its chains, its rules, its elements.

mod affinity;
mod egress;
mod endpoints;
mod following;
mod frontends;
mod host_ports;
mod local_policy;
mod maglev;
mod numbers;
mod parts;
mod sets;
mod skeleton;
mod source_ranges;
pub mod value;
mod words;

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

pub use egress::hairpin;
pub use following::FOLLOWING;
pub use frontends::{cluster_ip, external_ip};
pub use numbers::{Numbers, Sets, endpoint_of, frontend_key_of, frontend_value_key, slots_of};
pub use parts::{Parts, Uses};
pub use sets::{Counted, SetId};

use crate::config::UnservedExternal;
use crate::plan::{Endpoint, FamilyPlan, ListKey, NodePlan, Shape, View};
use crate::ruleset::{Datum, Element, ElementData, Family, Ruleset, Table, Value};
use numbers::InstalledNumbers;
use value::{Affinity, Class, Mode, frontend_value};

/// Takes elements: their set, the key and the element.
pub trait Sink {
    /// Adds one element to a set.
    fn put(&mut self, set: SetId, key: Value, element: Element);
}

/// What a list was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListRef {
    /// Its number.
    pub number: u32,
    /// Its class.
    pub class: Class,
    /// Its affinity group, if it has affinity.
    pub group: Option<u32>,
    /// Which endpoints it holds.
    pub view: View,
}

impl ListRef {
    /// The value of a frontend that leads here.
    #[must_use]
    pub fn value(&self, mode: Mode) -> u32 {
        let affinity = match (self.group, self.view) {
            (None, _) => Affinity::None,
            (Some(_), View::Cluster) => Affinity::Cluster,
            (Some(_), View::Local) => Affinity::Local,
        };
        frontend_value(mode, affinity, self.class, self.number)
    }
}

/// What a compilation leaves behind for who goes on from it, for one family.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// The numbers it took: what [`services`] needs.
    pub numbers: Numbers,
    /// What its elements ask of the rules.
    pub uses: Uses,
}

/// The ruleset that carries out `plan`.
///
/// `previous` is what the kernel holds (or nothing): it never changes what the ruleset
/// means, only which of several equal numbers and slots are used. O(plan).
#[must_use]
pub fn compile(plan: &NodePlan, previous: &BTreeMap<Family, &Sets>) -> Ruleset {
    compile_numbered(plan, previous).0
}

/// The same, with what is needed to go on from here.
#[must_use]
pub fn compile_numbered(
    plan: &NodePlan,
    previous: &BTreeMap<Family, &Sets>,
) -> (Ruleset, BTreeMap<Family, Compiled>) {
    let none = Sets::new();
    let mut ruleset = Ruleset::default();
    let mut all = BTreeMap::new();
    for family in &plan.families {
        let sets = previous.get(&family.family).copied().unwrap_or(&none);
        let mut compiled = Compiled::default();
        let mut gathered = Gathered::default();
        services(&mut gathered, family, sets, &mut compiled.numbers);
        addresses(&mut gathered, family, &plan.shape);
        let node_ports = gathered.0.contains_key(&SetId::ServiceNodeports);
        node_level(&mut gathered, family, node_ports);
        let elements = gathered.by_key();
        for (set, elements) in &elements {
            compiled.uses.fill(*set, elements);
        }
        let mut table = skeleton(family, &plan.shape, &compiled.uses.parts());
        for (id, elements) in elements {
            if let Some(set) = table.sets.get_mut(&*id.name()) {
                set.elements = elements;
            }
        }
        if !table.chains.is_empty() {
            ruleset.tables.insert(family.family, table);
        }
        all.insert(family.family, compiled);
    }
    (ruleset, all)
}

/// Elements by set, in the order they come: sorting them once and building each map from the
/// sorted list takes half the time of adding them one by one, and half the memory.
#[derive(Default)]
struct Gathered(BTreeMap<SetId, Vec<(Value, Element)>>);

impl Sink for Gathered {
    fn put(&mut self, set: SetId, key: Value, element: Element) {
        self.0.entry(set).or_default().push((key, element));
    }
}

impl Gathered {
    /// Elements that several lists brought alike are one.
    fn by_key(self) -> BTreeMap<SetId, BTreeMap<Value, Element>> {
        let sets = self.0.into_iter();
        sets.map(|(id, elements)| (id, elements.into_iter().collect()))
            .collect()
    }
}

/// The table without elements, as `parts` ask for it; without chains if nothing does.
#[must_use]
pub fn skeleton(plan: &FamilyPlan, shape: &Shape, parts: &Parts) -> Table {
    skeleton::table(&skeleton::Outline {
        family: plan.family,
        shape,
        pod_sources: &plan.pod_sources,
        egress_sources: &plan.egress_sources,
        parts,
    })
}

/// The elements of the plan's lists and frontends. `numbers` has those of all other lists,
/// and is given these. O(these).
pub fn services(sink: &mut impl Sink, plan: &FamilyPlan, previous: &Sets, numbers: &mut Numbers) {
    let installed = InstalledNumbers::new(previous, plan);
    let numbered = lists(sink, plan, &installed, numbers);
    for (key, frontend) in &plan.frontends {
        frontends::frontend(sink, key, frontend, |list| numbered.get(list));
    }
}

/// The elements that several services may share: one per address.
fn addresses(sink: &mut impl Sink, plan: &FamilyPlan, shape: &Shape) {
    for addr in &plan.local_endpoints {
        hairpin(sink, *addr);
    }
    for (addr, comment) in &plan.cluster_ips {
        cluster_ip(sink, *addr, comment);
    }
    if wants_external_ips(shape) {
        for addr in plan.external_ips() {
            external_ip(sink, addr);
        }
    }
}

/// True if external addresses are elements by themselves.
#[must_use]
pub fn wants_external_ips(shape: &Shape) -> bool {
    shape.unserved_external != UnservedExternal::Forward
}

/// The elements that no service brings: host ports, and the prefixes of this node and of
/// the cluster, as far as something asks for them: `node_ports` says whether there are any.
/// O(these).
pub fn node_level(sink: &mut impl Sink, plan: &FamilyPlan, node_ports: bool) {
    for (key, port) in &plan.host_ports {
        host_ports::element(sink, key, port);
    }
    if node_ports {
        frontends::prefixes(sink, SetId::NodeportIps, &plan.node_port_addresses);
    }
    if !plan.egress_sources.is_empty() {
        frontends::prefixes(sink, SetId::NonMasquerade, &plan.non_masquerade);
    }
    frontends::prefixes(sink, SetId::ServiceCidrs, &plan.service_ranges);
    for (set, prefixes) in [
        (SetId::PodSources, &plan.pod_sources),
        (SetId::EgressSources, &plan.egress_sources),
    ] {
        if frontends::is_set(prefixes) {
            frontends::prefixes(sink, set, prefixes);
        }
    }
}

/// True if two plans without services have the same prefixes in rules: more than a few are
/// elements.
#[must_use]
pub fn same_rules(one: &FamilyPlan, other: &FamilyPlan) -> bool {
    let is_set = |prefixes: &[IpNet]| frontends::is_set(prefixes);
    let same = |one: &[IpNet], other: &[IpNet]| one == other || (is_set(one) && is_set(other));
    same(&one.pod_sources, &other.pod_sources) && same(&one.egress_sources, &other.egress_sources)
}

/// Numbers every list and writes its slots and its affinity. Lists that have a number in
/// the kernel choose first.
fn lists<'p>(
    sink: &mut impl Sink,
    plan: &'p FamilyPlan,
    installed: &InstalledNumbers<'_>,
    pools: &mut Numbers,
) -> HashMap<&'p ListKey, ListRef> {
    let mut numbers: HashMap<&ListKey, u32> = HashMap::with_capacity(plan.lists.len());
    for known in [true, false] {
        for key in plan.lists.keys() {
            let wanted = installed.list(key);
            if wanted.is_some() == known
                && let Some(number) = numbers::list_number(&mut pools.lists, key, wanted)
            {
                numbers.insert(key, number);
            }
        }
    }
    let mut group_of = HashMap::new();
    let mut handle_of: HashMap<(u32, Endpoint), u32> = HashMap::new();
    let mut out = HashMap::with_capacity(plan.lists.len());
    for (key, list) in &plan.lists {
        let Some(number) = numbers.get(key).copied() else {
            continue;
        };
        let group = list.affinity_timeout.and_then(|_| {
            *group_of.entry(&key.port).or_insert_with(|| {
                numbers::group_number(&mut pools.groups, &key.port, installed.group(number))
            })
        });
        let class = endpoints::class_of(list);
        let slots = match class {
            Class::BySource => endpoints::source_slots(list),
            _ => numbers::slots(&installed.slots(number, key.port.protocol), &list.endpoints),
        };
        endpoints::slots(
            sink,
            class,
            number,
            key.port.protocol,
            &slots,
            &list.comment,
        );
        let numbered = ListRef {
            number,
            class,
            group,
            view: key.view,
        };
        affinity::elements(sink, key, list, &numbered, |group, endpoint| {
            if let Some(handle) = handle_of.get(&(group, *endpoint)) {
                return Some(*handle);
            }
            let wanted = installed.handle(group, endpoint);
            let handle = numbers::handle(&mut pools.handles, group, endpoint, wanted)?;
            handle_of.insert((group, *endpoint), handle);
            Some(handle)
        });
        out.insert(key, numbered);
    }
    out
}

/// The data of an element that is a number.
fn number(id: u32) -> ElementData {
    ElementData::Value(Datum::new().u32(id))
}

fn address_and_port(endpoint: &Endpoint) -> ElementData {
    ElementData::Value(Datum::new().addr(endpoint.addr).port(endpoint.port.get()))
}

/// An element of an interval set that reaches from one key to another.
fn ranged(start: Value, end: Value) -> Element {
    let element = Element::new(ElementData::None);
    if start == end {
        element
    } else {
        element.through(end)
    }
}
