//! The desired state of this node held in memory and changed object by object.
//!
//! Full and incremental are one mechanism. A change is planned twice for the services it
//! concerns: as they were and as they are. Both plans are compiled by the same code as a
//! whole plan, with the numbers and slots that are in force, and the difference between the
//! two sets of elements is what the kernel is told. Nothing else is looked at, so the work is
//! O(the changed services), however many there are.
//!
//! What concerns all services at once, as another address of this node, is planned anew and
//! compared in memory as well ([`Next::Replan`]).
//!
//! Pure: objects in, [`Step`] out. Who commits a step to the kernel and fails calls
//! [`Engine::distrust`]; the next step then starts from what the kernel really holds.

mod installed;
mod known;
pub mod quarantine;
mod rebuild;
mod same;
mod shared;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::{Change, Cluster, EndpointSlice, Family, Names, ObjectName, Slices};
use crate::compile::skeleton;
use crate::compile::{Numbers, SetId, Sets, Uses, node_level, same_rules, services};
use crate::config::Config;
use crate::diff::Changes;
use crate::plan::{
    Claims, FamilyPlan, NodeContext, NodePlan, Route, ServicePlan, Serving, Shape, SlotDemand,
    api_service, beaten_host_ports, plan_node_level, plan_routes, plan_service, serving_of,
    unknown_pods,
};
use crate::problem::Problem;
use crate::ruleset::Ruleset;
use crate::transaction::Transaction;
use installed::Elements;
use known::Known;
use quarantine::Quarantine;
use same::{same_service, same_slice};
use shared::Shared;
use units::{Before, Parts, Unit};

/// What a step leads to besides the ruleset, for who cleans up after it.
#[derive(Debug)]
pub struct Step {
    /// Operations for the kernel; empty if the objects' change changes nothing here.
    pub delta: Transaction,
    /// The changed frontends as they were, and their lists.
    pub before: NodePlan,
    /// The same as they are.
    pub after: NodePlan,
    /// Services that were planned anew, and those whose serving endpoints changed.
    pub services: Vec<ObjectName>,
    /// Services that changed at all, also in what no rule depends on.
    pub touched: Vec<ObjectName>,
    /// Endpoints that served `services` before; flows may still lead to them.
    pub served: Serving,
    /// What was found wrong, and was not before.
    pub problems: Vec<Problem>,
    /// Nodes, ranges or pods of this node changed: routes may be others.
    pub node_level: bool,
}

/// What is to be done next.
#[derive(Debug)]
pub enum Next {
    /// This much changed.
    Step(Box<Step>),
    /// Something that may concern every service: [`Engine::replan`].
    Replan,
    /// Start over from the kernel's state: [`Engine::rebuild`].
    Rebuild,
}

/// Cluster, plan and ruleset of this node, and what changed since the last step.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    interface_addresses: Vec<std::net::IpAddr>,
    node: NodeContext,
    cluster: Cluster,
    names: Names,
    /// Which service a slice belongs to.
    slice_service: BTreeMap<ObjectName, ObjectName>,
    endpoints: usize,
    families: Vec<FamilyState>,
    routes: BTreeSet<Route>,
    ruleset: Ruleset,
    changed: BTreeMap<ObjectName, Before>,
    /// What weighted lists ask for.
    demand: SlotDemand,
    /// What is wrong with the objects.
    known: Known,
    node_level_changed: bool,
    /// Everything is to be planned anew.
    replan: bool,
    /// The kernel holds what the ruleset says, as far as we know.
    trusted: bool,
    quarantine: Quarantine,
}

/// What is kept per family besides the ruleset.
#[derive(Debug)]
struct FamilyState {
    /// The plan without services.
    frame: FamilyPlan,
    numbers: Numbers,
    claims: Claims,
    shared: Shared,
    /// What the elements ask of the rules.
    uses: Uses,
}

impl Engine {
    /// An engine that knows nothing yet. `interface_addresses` are this node's addresses if
    /// neither the configuration nor a Node object names any.
    #[must_use]
    pub fn new(config: Config, interface_addresses: Vec<std::net::IpAddr>) -> Self {
        Self::with_cluster(config, interface_addresses, Cluster::default())
    }

    /// An engine that knows these objects; its first step is a rebuild.
    #[must_use]
    pub fn with_cluster(
        config: Config,
        interface_addresses: Vec<std::net::IpAddr>,
        cluster: Cluster,
    ) -> Self {
        let (node, _) = NodeContext::resolve(&cluster, &config, &interface_addresses);
        let mut engine = Self {
            config,
            interface_addresses,
            node,
            cluster: Cluster::default(),
            names: Names::default(),
            slice_service: BTreeMap::new(),
            endpoints: 0,
            families: Vec::new(),
            routes: BTreeSet::new(),
            ruleset: Ruleset::default(),
            changed: BTreeMap::new(),
            demand: SlotDemand::default(),
            known: Known::default(),
            node_level_changed: false,
            replan: true,
            trusted: false,
            quarantine: Quarantine::default(),
        };
        engine.replace(cluster);
        engine
    }

    /// Other objects altogether: a rebuild.
    pub fn replace(&mut self, cluster: Cluster) {
        self.slice_service = services_of_slices(&cluster);
        self.endpoints = count_endpoints(&cluster);
        self.cluster = cluster;
        self.replan = true;
        self.changed.clear();
        self.quarantine.clear();
    }

    /// Settings in force.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// This node.
    #[must_use]
    pub const fn node(&self) -> &NodeContext {
        &self.node
    }

    /// The objects.
    #[must_use]
    pub const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// What the kernel holds, as far as every step so far was committed.
    #[must_use]
    pub const fn ruleset(&self) -> &Ruleset {
        &self.ruleset
    }

    /// Routes to other nodes' pods.
    #[must_use]
    pub const fn routes(&self) -> &BTreeSet<Route> {
        &self.routes
    }

    /// Endpoints of all slices, in every state.
    #[must_use]
    pub const fn endpoint_count(&self) -> usize {
        self.endpoints
    }

    /// A slice by its own name.
    #[must_use]
    pub fn slice(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        let service = self.slice_service.get(name)?;
        self.cluster.slices.get(service)?.get(name)
    }

    /// True if objects changed since the last step.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.plans_all() || self.node_level_changed || !self.changed.is_empty()
    }

    /// Prefixes whose local addresses take node ports, by family.
    pub fn node_port_addresses(&self) -> impl Iterator<Item = &ipnet::IpNet> {
        self.families
            .iter()
            .flat_map(|family| &family.frame.node_port_addresses)
    }

    /// The next step starts from what the kernel holds: a commit failed, or somebody meddled.
    pub const fn distrust(&mut self) {
        self.trusted = false;
    }

    /// True if the next step plans everything anew.
    const fn plans_all(&self) -> bool {
        self.replan || !self.trusted
    }

    /// Other settings. Everything is planned anew, unless nothing differs.
    pub fn reconfigure(&mut self, config: Config) {
        self.replan |= config != self.config;
        self.config = config;
    }

    /// Other addresses of this node; they matter only where nothing else names any.
    pub fn set_interface_addresses(&mut self, addresses: Vec<std::net::IpAddr>) {
        if addresses != self.interface_addresses {
            self.interface_addresses = addresses;
            self.node_level_changed = true;
        }
    }

    /// Takes in one changed object. O(its service) the first time since the last step.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(name, object) => {
                if same_service(self.cluster.service(&name), object.as_deref()) {
                    // But it may have been read elsewhere.
                    if let (Some(old), Some(new)) = (self.cluster.services.get_mut(&name), object) {
                        old.origin = new.origin;
                    }
                    return;
                }
                self.touch(&name);
                match object {
                    Some(mut object) => {
                        self.names.share_service(&mut object);
                        self.cluster.services.insert(object.name.clone(), object);
                    }
                    None => drop(self.cluster.services.remove(&name)),
                }
            }
            Change::Slice(name, object) => self.apply_slice(name, object),
            Change::Pod(name, object) => {
                if self.cluster.pods.get(&name) != object.as_deref() {
                    self.node_level_changed = true;
                    put(&mut self.cluster.pods, name, object);
                }
            }
            Change::Node(name, object) => {
                if self.cluster.nodes.get(&name) != object.as_deref() {
                    self.node_level_changed = true;
                    put(&mut self.cluster.nodes, name, object);
                }
            }
            Change::ServiceCidr(name, object) => {
                if self.cluster.service_cidrs.get(&name) != object.as_deref() {
                    self.node_level_changed = true;
                    put(&mut self.cluster.service_cidrs, name, object);
                }
            }
        }
    }

    fn apply_slice(&mut self, name: ObjectName, object: Option<Box<EndpointSlice>>) {
        let old = self.slice_service.get(&name).cloned();
        if let (Some(service), Some(new)) = (&old, &object)
            && *service == new.service
            && let Some(slices) = self.cluster.slices.get_mut(service)
            && let Some(known) = slices.get_mut(&name)
            && same_slice(known, new)
        {
            known.origin.clone_from(&new.origin);
            return;
        }
        if let Some(service) = old {
            self.touch(&service);
            if let Some(slices) = self.cluster.slices.get_mut(&service) {
                let gone = slices.remove(&name);
                self.endpoints -= gone.map_or(0, |slice| slice.endpoints.len());
                if slices.is_empty() {
                    self.cluster.slices.remove(&service);
                }
            }
            self.slice_service.remove(&name);
        }
        if let Some(mut slice) = object {
            self.touch(&slice.service);
            let service = self.cluster.services.get_key_value(&slice.service);
            self.names
                .share_slice(&mut slice, service.map(|(name, _)| name));
            self.endpoints += slice.endpoints.len();
            self.slice_service
                .insert(slice.name.clone(), slice.service.clone());
            let slices = self.cluster.slices.entry(slice.service.clone());
            slices.or_default().insert(*slice);
        }
    }

    /// Remembers how a service was before it changes.
    fn touch(&mut self, name: &ObjectName) {
        // Its endpoints are the API servers, which no Service may take.
        self.node_level_changed |= *name == api_service();
        if !self.plans_all() && !self.changed.contains_key(name) {
            let before = Before {
                parts: self.parts(name),
                serving: serving_of(&self.cluster, [name]),
            };
            self.changed.insert(name.clone(), before);
        }
        // Changed, it may be one that the kernel takes.
        self.quarantine.release(name);
    }

    /// What a service brings now. O(its endpoints · log).
    fn parts(&self, name: &ObjectName) -> Parts {
        let slices = self.cluster.slices_of(name);
        Family::ALL
            .iter()
            .map(|family| match self.cluster.services.get(name) {
                Some(service) if !self.quarantine.holds(name) => {
                    plan_service(service, &slices, *family, &self.node)
                }
                _ => ServicePlan::empty(*family),
            })
            .collect()
    }

    /// What to do about all changes since the last step.
    pub fn advance(&mut self) -> Next {
        if !self.trusted {
            return Next::Rebuild;
        }
        if self.replan {
            return Next::Replan;
        }
        let mut frames = None;
        let mut problems = Vec::new();
        if self.node_level_changed {
            let (mut node, found) =
                NodeContext::resolve(&self.cluster, &self.config, &self.interface_addresses);
            node.weighted_slots = self.node.weighted_slots;
            problems.extend(found);
            if node != self.node {
                self.replan = true;
                return Next::Replan;
            }
            let mut made = Vec::new();
            for family in Family::ALL {
                let (frame, found) =
                    plan_node_level(&self.cluster, &self.config, &self.node, family);
                problems.extend(found);
                made.push(frame);
            }
            let (routes, found) = plan_routes(&self.cluster, &self.config, &self.node);
            problems.extend(found);
            self.routes = routes;
            frames = Some(made);
        }
        let node_level = std::mem::take(&mut self.node_level_changed);
        let touched = self.changed.keys().cloned().collect();
        let (asked, mut served) = self.asked();
        for (before, after) in asked.values() {
            for (before, after) in before.iter().zip(after) {
                self.demand.remove(&before.weighted);
                self.demand.add(&after.weighted);
            }
        }
        if self.demand.limit(self.config.slot_limits) != self.node.weighted_slots {
            self.replan = true;
            return Next::Replan;
        }
        let units = self.units(asked, &mut served);
        if node_level {
            self.known.node(problems);
        }
        let mut step = Step {
            delta: Transaction::default(),
            before: self.empty_plan(),
            after: self.empty_plan(),
            services: units.keys().cloned().collect(),
            touched,
            served,
            problems: Vec::new(),
            node_level,
        };
        for (i, family) in Family::ALL.into_iter().enumerate() {
            let frame = frames
                .as_mut()
                .map(|frames| std::mem::replace(&mut frames[i], FamilyPlan::empty(family)));
            if !self.family_step(i, family, &units, frame, &mut step) {
                // The ruleset in memory may be changed in part.
                self.distrust();
                return Next::Rebuild;
            }
        }
        if node_level || !units.is_empty() {
            self.look_at_host_ports_and_pods();
        }
        step.problems = self.known.untold();
        Next::Step(Box::new(step))
    }

    /// What of this node's is beaten by a claim, or matters only because there is one.
    /// O(host ports).
    fn look_at_host_ports_and_pods(&mut self) {
        let (families, node) = (&self.families, &self.node);
        let beaten = families
            .iter()
            .flat_map(|state| beaten_host_ports(&state.frame.host_ports, &state.claims, node));
        self.known.host_ports(beaten);
        let unknown = families
            .iter()
            .filter(|state| state.frame.pod_sources.is_empty() && !state.claims.is_empty());
        let unknown = unknown.map(|state| state.frame.family);
        self.known.pods(unknown_pods(&self.config, unknown));
    }

    /// A plan of nothing.
    #[must_use]
    pub fn empty_plan(&self) -> NodePlan {
        NodePlan {
            shape: Shape::of(&self.config),
            families: Vec::new(),
            routes: BTreeSet::new(),
        }
    }

    /// One family's share of a step; false if only a rebuild will do.
    fn family_step(
        &mut self,
        i: usize,
        family: Family,
        units: &BTreeMap<ObjectName, Unit>,
        frame: Option<FamilyPlan>,
        step: &mut Step,
    ) -> bool {
        let Some(state) = self.families.get_mut(i) else {
            return false;
        };
        let mut befores = FamilyPlan::empty(family);
        befores
            .node_port_addresses
            .clone_from(&state.frame.node_port_addresses);
        let mut afters = befores.clone();
        for Unit { before, after } in units.values() {
            befores.add(before[i].clone());
            afters.add(after[i].clone());
        }
        let (mut old, mut new) = (Elements::default(), Elements::default());
        let mut released = Numbers::default();
        let none = Sets::new();
        let installed = self.ruleset.tables.get(&family);
        let sets = installed.map_or(&none, |table| &table.sets);
        services(&mut old, &befores, sets, &mut released);
        state.numbers.release(&released);
        services(&mut new, &afters, sets, &mut state.numbers);
        for Unit { before, after } in units.values() {
            state.shared.change(&before[i], &after[i]);
        }
        let mut other_rules = false;
        let before_frame = frame.map(|frame| std::mem::replace(&mut state.frame, frame));
        if let Some(before) = &before_frame {
            let frame = &state.frame;
            other_rules |= !same_rules(before, frame);
            state.shared.change_hosts(before, frame);
            befores.host_ports.clone_from(&before.host_ports);
            afters.host_ports.clone_from(&frame.host_ports);
            afters
                .node_port_addresses
                .clone_from(&frame.node_port_addresses);
        }
        state.shared.settle(&mut old, &mut new);
        let had_node_ports = state.uses.has(SetId::ServiceNodeports);
        let mut changes = Changes::new();
        other_rules |= old.changes_to(&new, &mut state.uses, &mut changes);
        let has_node_ports = state.uses.has(SetId::ServiceNodeports);
        if before_frame.is_some() || had_node_ports != has_node_ports {
            let (mut old, mut new) = (Elements::default(), Elements::default());
            let before = before_frame.as_ref().unwrap_or(&state.frame);
            node_level(&mut old, before, had_node_ports);
            node_level(&mut new, &state.frame, has_node_ports);
            other_rules |= old.changes_to(&new, &mut state.uses, &mut changes);
        }
        let parts = other_rules.then(|| state.uses.parts());
        let skeleton = parts.map(|parts| {
            let table = skeleton(&state.frame, &Shape::of(&self.config), &parts);
            (!table.chains.is_empty()).then_some(table)
        });
        let uses = &state.uses;
        match installed::change(&mut self.ruleset, family, skeleton, changes, uses) {
            Ok(delta) => step.delta.tables.extend(delta),
            Err(installed::Incomplete) => return false,
        }
        step.before.families.push(befores);
        step.after.families.push(afters);
        true
    }

    /// What the last step or rebuild found wrong was told to somebody: only what begins from
    /// now on is handed out again.
    pub fn told(&mut self) {
        self.known.told();
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, object: Option<Box<V>>) {
    match object {
        Some(object) => drop(map.insert(key, *object)),
        None => drop(map.remove(&key)),
    }
}

fn services_of_slices(cluster: &Cluster) -> BTreeMap<ObjectName, ObjectName> {
    let slices = cluster.slices.values().flat_map(Slices::iter);
    slices
        .map(|slice| (slice.name.clone(), slice.service.clone()))
        .collect()
}

fn count_endpoints(cluster: &Cluster) -> usize {
    let slices = cluster.slices.values().flat_map(Slices::iter);
    slices.map(|slice| slice.endpoints.len()).sum()
}

#[cfg(test)]
mod tests;
