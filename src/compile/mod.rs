//! nftables technique: from a [`NodePlan`] to a [`Ruleset`].
//!
//! The skeleton (tables, chains, rules, empty sets) is constant for a configuration. All
//! that services, endpoints and pods bring is elements. Pure: the only input besides the
//! plan is what the kernel holds already, so that numbers and slots stay put.

mod allocate;
mod elements;
pub mod layout;
mod maglev;
mod sets;
mod skeleton;
mod words;

use std::collections::BTreeMap;

use foldhash::{HashMap, HashMapExt};

pub use allocate::{Numbers, Sets, endpoint_of, frontend_key_of, frontend_value_key};
pub use elements::{Sink, cluster_ip, hairpin, sticky_protocol};

use crate::plan::{Endpoint, FamilyPlan, ListKey, NodePlan, Shape};
use crate::ruleset::{Element, Family, Ruleset, Table, Value};
use allocate::Memory;
use elements::Numbered;
use layout::{Class, names};

/// Affinity timeout that always has its set and rule: the API's default. Other timeouts
/// cost one set and one rule each while in use.
pub const DEFAULT_TIMEOUT: u32 = 10_800;

/// The ruleset that carries out `plan`.
///
/// `previous` is what the kernel holds (or nothing): it never changes what the ruleset
/// means, only which of several equal numbers and slots are used. O(plan).
#[must_use]
pub fn compile(plan: &NodePlan, previous: &BTreeMap<Family, &Sets>) -> Ruleset {
    compile_numbered(plan, previous).0
}

/// The same, with the numbers it took: what [`services`] needs to go on from here.
#[must_use]
pub fn compile_numbered(
    plan: &NodePlan,
    previous: &BTreeMap<Family, &Sets>,
) -> (Ruleset, BTreeMap<Family, Numbers>) {
    let none = Sets::new();
    let mut ruleset = Ruleset::default();
    let mut all = BTreeMap::new();
    for family in &plan.families {
        let sets = previous.get(&family.family).copied().unwrap_or(&none);
        let mut table = skeleton(family, &plan.shape);
        let mut numbers = Numbers::default();
        let mut gathered = Gathered::default();
        services(&mut gathered, family, sets, &mut numbers);
        addresses(&mut gathered, family);
        node_level(&mut gathered, family);
        gathered.fill(&mut table);
        ruleset.tables.insert(family.family, table);
        all.insert(family.family, numbers);
    }
    (ruleset, all)
}

/// Elements by set, in the order they come: sorting them once and building each map from the
/// sorted list takes half the time of adding them one by one, and half the memory.
#[derive(Default)]
struct Gathered(Vec<(String, Vec<(Value, Element)>)>);

impl Sink for Gathered {
    fn put(&mut self, set: &str, key: Value, element: Element) {
        match self.0.iter_mut().find(|(name, _)| name == set) {
            Some((_, elements)) => elements.push((key, element)),
            None => self.0.push((set.to_owned(), vec![(key, element)])),
        }
    }
}

impl Gathered {
    fn fill(self, table: &mut Table) {
        for (name, elements) in self.0 {
            if let Some(set) = table.sets.get_mut(&name) {
                set.elements = elements.into_iter().collect();
            } else {
                debug_assert!(false, "the skeleton has no set {name}");
            }
        }
    }
}

/// The table without elements. Of all that services bring only the affinity timeouts shape
/// it, of this node its pods' prefixes.
fn skeleton(plan: &FamilyPlan, shape: &Shape) -> Table {
    skeleton::table(&skeleton::Outline {
        family: plan.family,
        shape,
        pod_sources: &plan.pod_sources,
        egress_sources: &plan.egress_sources,
        timeouts: plan
            .lists
            .values()
            .filter_map(|list| list.affinity_timeout)
            .chain([DEFAULT_TIMEOUT])
            .collect(),
    })
}

/// The elements of the plan's lists and frontends. `numbers` has those of all other lists,
/// and is given these. O(these).
pub fn services(sink: &mut impl Sink, plan: &FamilyPlan, previous: &Sets, numbers: &mut Numbers) {
    let memory = Memory::new(previous, plan);
    let numbered = lists(sink, plan, &memory, numbers);
    for (key, frontend) in &plan.frontends {
        elements::frontend(sink, key, frontend, |list| numbered.get(list));
    }
}

/// The elements that several services may share: one per address or protocol.
fn addresses(sink: &mut impl Sink, plan: &FamilyPlan) {
    for addr in &plan.local_endpoints {
        elements::hairpin(sink, *addr);
    }
    for (addr, comment) in &plan.cluster_ips {
        elements::cluster_ip(sink, *addr, comment);
    }
    for (key, list) in &plan.lists {
        if list.affinity_timeout.is_some() {
            elements::sticky_protocol(sink, key.port.protocol);
        }
    }
}

/// The elements that no service brings: host ports, and the prefixes of this node and of
/// the cluster. O(these).
pub fn node_level(sink: &mut impl Sink, plan: &FamilyPlan) {
    for (key, port) in &plan.host_ports {
        elements::host_port(sink, key, port);
    }
    for (set, prefixes) in [
        (names::NODE_PORT_ADDRESSES, &plan.node_port_addresses),
        (names::SERVICE_RANGES, &plan.service_ranges),
        (names::NON_MASQUERADE, &plan.non_masquerade),
    ] {
        elements::prefixes(sink, set, prefixes);
    }
}

/// Numbers every list and writes its slots and its affinity. Lists that have a number in
/// the kernel choose first.
fn lists<'p>(
    sink: &mut impl Sink,
    plan: &'p FamilyPlan,
    memory: &Memory<'_>,
    pools: &mut Numbers,
) -> HashMap<&'p ListKey, Numbered> {
    let mut numbers: HashMap<&ListKey, u32> = HashMap::with_capacity(plan.lists.len());
    for known in [true, false] {
        for key in plan.lists.keys() {
            let wanted = memory.list(key);
            if wanted.is_some() == known
                && let Some(number) = allocate::list_number(&mut pools.lists, key, wanted)
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
                allocate::group_number(&mut pools.groups, &key.port, memory.group(number))
            })
        });
        let class = elements::class_of(list);
        let slots = match class {
            Class::BySource => elements::source_slots(list),
            _ => allocate::slots(&memory.slots(number, key.port.protocol), &list.endpoints),
        };
        elements::slots(
            sink,
            class,
            number,
            key.port.protocol,
            &slots,
            &list.comment,
        );
        let numbered = Numbered {
            number,
            class,
            group,
            view: key.view,
        };
        elements::sticky(sink, key, list, &numbered, |group, endpoint| {
            if let Some(handle) = handle_of.get(&(group, *endpoint)) {
                return Some(*handle);
            }
            let wanted = memory.handle(group, endpoint);
            let handle = allocate::handle(&mut pools.handles, group, endpoint, wanted)?;
            handle_of.insert((group, *endpoint), handle);
            Some(handle)
        });
        out.insert(key, numbered);
    }
    out
}
