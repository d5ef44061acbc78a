//! Which objects the elements of a difference are for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::frontend::FrontendState;
use super::{Scene, Step};
use crate::cluster::{Family, Protocol};
use crate::compile::value::{Class, GROUP_MASK, LIST_MASK, value_of};
use crate::compile::{SetId, Sets, frontend_key_of};
use crate::diff::walk;
use crate::plan::FrontendKey;
use crate::ruleset::{Element, FieldValue, Set, SetKind, Value};
use crate::transaction::{Operation, TableChange};

/// Steps for each object.
type By<'a, K> = BTreeMap<K, Vec<Step<'a>>>;

/// A list, which frontends share: its number and protocol.
pub type ListNumber = (u32, Protocol);

/// The elements of one table's change by what they are for, and all else that changes in it.
#[derive(Debug, Default)]
pub struct Touched<'a> {
    /// Of frontends.
    pub frontends: By<'a, FrontendKey>,
    /// Of host ports.
    pub host_ports: By<'a, FrontendKey>,
    /// Of addresses by themselves.
    pub addresses: By<'a, (SetId, IpAddr)>,
    /// Of prefix lists.
    pub prefixes: By<'a, SetId>,
    /// Endpoints that no frontend leads to, by the name they carry.
    pub orphans: By<'a, String>,
    /// Tables, chains, rules, sets, and elements of sets that are not ours.
    pub others: Vec<Step<'a>>,
    /// Lists that a frontend led to before.
    pub led_to: HashSet<ListNumber>,
    /// Elements of lists, before their frontends are known.
    lists: By<'a, ListNumber>,
    /// Elements of affinity groups, before their frontends are known.
    groups: By<'a, u32>,
}

impl<'a> Touched<'a> {
    /// Sorts them. O(difference), and O(frontends) if endpoints or affinity change.
    pub fn of(scene: &Scene<'a>, table: &'a TableChange) -> Self {
        let mut touched = Self::default();
        let family = table.family;
        if is_rebuilt(table) {
            touched.rebuilt(scene, table);
        } else {
            for operation in &table.operations {
                touched.operation(table, operation);
            }
        }
        touched.find_frontends(sets_before(scene, family), sets_after(scene, family));
        touched
    }

    fn operation(&mut self, table: &'a TableChange, operation: &'a Operation) {
        let (name, elements, comes) = match operation {
            Operation::AddElements(name, elements) => (name, elements, true),
            Operation::DeleteElements(name, elements) => (name, elements, false),
            _ => return self.others.push(Step::Operation { table, operation }),
        };
        match table.sets.get(name).zip(SetId::named(name)) {
            Some((set, id)) => {
                for (key, element) in elements {
                    self.element(table.family, (id, set), (key, element), comes);
                }
            }
            None => self.others.push(Step::Operation { table, operation }),
        }
    }

    /// A table built anew: its elements are compared one by one, the rest is for the table.
    fn rebuilt(&mut self, scene: &Scene<'a>, table: &'a TableChange) {
        let family = table.family;
        for operation in &table.operations {
            let elements = matches!(
                operation,
                Operation::AddElements(..) | Operation::DeleteElements(..)
            );
            if !elements {
                self.others.push(Step::Operation { table, operation });
            }
        }
        let (before, after) = (sets_before(scene, family), sets_after(scene, family));
        let names: BTreeSet<&String> = before
            .into_iter()
            .chain(after)
            .flat_map(BTreeMap::keys)
            .collect();
        let mut kept = 0;
        for name in names {
            let Some(id) = SetId::named(name) else {
                continue;
            };
            let old = before.and_then(|sets| sets.get(name)).filter(is_listed);
            let new = after.and_then(|sets| sets.get(name)).filter(is_listed);
            let none = const { &BTreeMap::new() };
            let of = |set: Option<&'a Set>| set.map_or(none, |set| &set.elements);
            let mut added = 0;
            walk(of(old), of(new), |comes, element| {
                added += usize::from(comes);
                if let Some(set) = if comes { new } else { old } {
                    self.element(family, (id, set), element, comes);
                }
            });
            kept += of(new).len() - added;
        }
        if kept > 0 {
            let elements = kept;
            self.others.push(Step::PutBack { family, elements });
        }
    }

    fn element(
        &mut self,
        family: Family,
        (id, set): (SetId, &'a Set),
        (key, element): (&'a Value, &'a Element),
        comes: bool,
    ) {
        let step = Step::Element {
            comes,
            family,
            set,
            key,
            element,
        };
        let fields = key.fields(&set.key).unwrap_or_default();
        let steps = match (id, &fields[..]) {
            (SetId::HostPorts | SetId::HostPortIps, _) => {
                frontend_key_of(set, key).map(|at| self.host_ports.entry(at).or_default())
            }
            (SetId::Endpoints | SetId::EndpointsLarge, _) => {
                list_of(&fields).map(|list| self.lists.entry(list).or_default())
            }
            (
                SetId::FirewallAllowed,
                [
                    FieldValue::Addr(addr),
                    FieldValue::Proto(p),
                    FieldValue::Port(port),
                    _,
                ],
            ) => frontend_of(*addr, *p, *port).map(|at| self.frontends.entry(at).or_default()),
            (SetId::AffinityGroups, _) => {
                value_of(element).map(|group| self.groups.entry(group).or_default())
            }
            (
                SetId::AffinityLists
                | SetId::AffinityLocalLists
                | SetId::AffinityHandles
                | SetId::AffinityEndpoints
                | SetId::AffinityLocalEndpoints
                | SetId::AffinityTimeout(_),
                [FieldValue::ClassId(number), ..],
            ) => Some(self.groups.entry(number & GROUP_MASK).or_default()),
            (
                SetId::ClusterIps | SetId::ExternalIps | SetId::HairpinIps,
                [FieldValue::Addr(addr), ..],
            ) => Some(self.addresses.entry((id, *addr)).or_default()),
            (
                SetId::NodeportIps
                | SetId::NonMasquerade
                | SetId::PodSources
                | SetId::EgressSources
                | SetId::ServiceCidrs,
                _,
            ) => Some(self.prefixes.entry(id).or_default()),
            _ => frontend_key_of(set, key).map(|at| self.frontends.entry(at).or_default()),
        };
        steps.unwrap_or(&mut self.others).push(step);
    }

    /// Gives the elements of lists and groups to a frontend each, and names all frontends that
    /// lead there.
    fn find_frontends(&mut self, before: Option<&'a Sets>, after: Option<&'a Sets>) {
        let mut wanted: HashSet<ListNumber> = self.lists.keys().copied().collect();
        // Of what is new: whether its list is there already, without a frontend.
        for key in self.frontends.keys().filter(|_| before.is_some()) {
            let state = after.and_then(|sets| FrontendState::read(sets, key));
            let lists = state.into_iter().flat_map(|state| state.lists);
            wanted.extend(lists.map(|list| (list, key.protocol())));
        }
        let mut index = Index::default();
        if let Some(sets) = before {
            index.read(sets, &wanted, &self.groups);
            self.led_to.extend(index.lists.keys());
        }
        if let Some(sets) = after.filter(|_| !self.lists.is_empty() || !self.groups.is_empty()) {
            index.read(sets, &wanted, &self.groups);
        }
        for (list, steps) in std::mem::take(&mut self.lists) {
            self.give(index.lists.get(&list), steps);
        }
        for (group, steps) in std::mem::take(&mut self.groups) {
            self.give(index.groups.get(&group), steps);
        }
    }

    fn give(&mut self, frontends: Option<&BTreeSet<FrontendKey>>, steps: Vec<Step<'a>>) {
        let Some(frontends) = frontends else {
            for step in steps {
                let name = match &step {
                    Step::Element { element, .. } => element.comment.as_deref().unwrap_or(""),
                    _ => "",
                };
                self.orphans.entry(name.to_owned()).or_default().push(step);
            }
            return;
        };
        let has_steps = |key: &&FrontendKey| self.frontends.contains_key(*key);
        let first = frontends.iter().find(has_steps).or(frontends.first());
        if let Some(first) = first {
            self.frontends.entry(*first).or_default().extend(steps);
        }
        for key in frontends {
            self.frontends.entry(*key).or_default();
        }
    }
}

/// Frontends by the lists and groups they lead to.
#[derive(Default)]
struct Index {
    lists: HashMap<ListNumber, BTreeSet<FrontendKey>>,
    groups: HashMap<u32, BTreeSet<FrontendKey>>,
}

impl Index {
    /// O(frontends).
    fn read(&mut self, sets: &Sets, lists: &HashSet<ListNumber>, groups: &By<'_, u32>) {
        let elements = |ids: &'static [SetId]| {
            let found = ids.iter().filter_map(|id| sets.get(id.fixed_name()));
            found.flat_map(|set| set.elements.iter().map(move |(key, e)| (set, key, e)))
        };
        let numbers: HashSet<u32> = lists.iter().map(|(list, _)| *list).collect();
        if !numbers.is_empty() {
            for (set, key, element) in elements(&VALUES) {
                let Some(value) = value_of(element) else {
                    continue;
                };
                let number = value & LIST_MASK;
                let leads = Class::of(value).is_some_and(Class::has_list);
                if leads
                    && numbers.contains(&number)
                    && let Some(at) = frontend_key_of(set, key)
                    && lists.contains(&(number, at.protocol()))
                {
                    let list = (number, at.protocol());
                    self.lists.entry(list).or_default().insert(at);
                }
            }
        }
        if !groups.is_empty() {
            for (set, key, element) in elements(&GROUPS) {
                if let Some(group) = value_of(element)
                    && groups.contains_key(&group)
                    && let Some(at) = frontend_key_of(set, key)
                {
                    self.groups.entry(group).or_default().insert(at);
                }
            }
        }
    }
}

const VALUES: [SetId; 4] = [
    SetId::ServiceIps,
    SetId::ServiceNodeports,
    SetId::InternalServiceIps,
    SetId::InternalServiceNodeports,
];
const GROUPS: [SetId; 2] = [SetId::AffinityServiceIps, SetId::AffinityServiceNodeports];

/// True if the table is removed and added in one.
pub fn is_rebuilt(table: &TableChange) -> bool {
    let adds = |o: &Operation| matches!(o, Operation::AddTable | Operation::OwnTable);
    table.operations.contains(&Operation::DeleteTable) && table.operations.iter().any(adds)
}

/// The kernel's sets.
pub fn sets_before<'a>(scene: &Scene<'a>, family: Family) -> Option<&'a Sets> {
    scene.before.tables.get(&family).map(|table| &table.sets)
}

/// The desired sets.
pub fn sets_after<'a>(scene: &Scene<'a>, family: Family) -> Option<&'a Sets> {
    scene.desired.tables.get(&family).map(|table| &table.sets)
}

fn is_listed(set: &&Set) -> bool {
    !matches!(set.kind, SetKind::Dynamic { .. })
}

fn list_of(fields: &[FieldValue]) -> Option<ListNumber> {
    match fields {
        [FieldValue::ClassId(list), FieldValue::Proto(protocol), _] => {
            Some((*list, Protocol::from_number(*protocol)?))
        }
        _ => None,
    }
}

fn frontend_of(addr: IpAddr, protocol: u8, port: u16) -> Option<FrontendKey> {
    Some(FrontendKey::Address(
        addr,
        Protocol::from_number(protocol)?,
        port.try_into().ok()?,
    ))
}
