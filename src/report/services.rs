//! Services, host ports, addresses and prefix lists: what of them changes.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::describe::Names;
use super::frontend::{FrontendState, element, owner};
use super::touched::{Touched, sets_after, sets_before};
use super::{Action, Kind, ObjectChange, Reason, Scene, State, Step, few};
use crate::cluster::{Family, ObjectName};
use crate::compile::{SetId, Sets, endpoint_of, frontend_value_key, slots_of};
use crate::plan::FrontendKey;
use crate::print::text::range;
use crate::ruleset::{FieldValue, Value};
use crate::text::comment;

/// Prefixes that a line shows.
const MOST_PREFIXES: usize = 4;

/// What changes of one family's objects.
pub fn changes<'a>(
    scene: &Scene<'a>,
    family: Family,
    touched: Touched<'a>,
) -> Vec<ObjectChange<'a>> {
    let none = Sets::new();
    let before = sets_before(scene, family).unwrap_or(&none);
    let after = sets_after(scene, family).unwrap_or(&none);
    let of = Of {
        scene,
        family,
        before,
        after,
    };
    let mut out = Vec::new();
    for (key, steps) in touched.frontends {
        let at = out.len();
        of.frontend(key, steps, &mut out);
        for change in &mut out[at..] {
            if of.lost_its_frontend(change, &touched.led_to) {
                change.reason = Reason::OtherProgram;
            }
        }
    }
    let ports = touched.host_ports.into_iter();
    out.extend(ports.map(|(key, steps)| of.host_port(key, steps)));
    let alone = attach(&mut out, touched.addresses);
    out.extend(
        alone
            .into_iter()
            .map(|(id, addr, steps)| of.address(id, addr, steps)),
    );
    let prefixes = touched.prefixes.into_iter();
    out.extend(prefixes.map(|(id, steps)| of.prefixes(id, steps)));
    out.extend(touched.orphans.into_iter().map(|(name, steps)| {
        let text = "that no frontend leads to".to_owned();
        let mut change = ObjectChange::new(Kind::Endpoints, owner(&name).to_owned(), None, None)
            .saying(text)
            .in_family(family);
        change.reason = Reason::OtherProgram;
        change.object = Action::Remove;
        change.action = Action::Remove;
        change.with(steps)
    }));
    out
}

/// Says of each Service's frontends what becomes of the Service as a whole.
pub fn settle(scene: &Scene<'_>, changes: &mut [ObjectChange<'_>]) {
    let mut known: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let services = changes.iter().filter(|c| c.kind == Kind::Service);
    for change in services {
        let there = known
            .entry(change.name.clone())
            .or_insert_with(|| elsewhere(scene, &change.name));
        there.0 |= change.before.is_some();
        there.1 |= change.after.is_some();
    }
    for change in changes.iter_mut().filter(|c| c.kind == Kind::Service) {
        if let Some((before, after)) = known.get(&change.name) {
            change.object = Action::of(*before, *after);
        }
    }
}

/// Whether a Service has frontends in the kernel, and whether it will have some, by those that
/// its object asks for. O(its ports and addresses).
fn elsewhere(scene: &Scene<'_>, name: &str) -> (bool, bool) {
    let parts = name.split_once('/');
    let name = parts.map(|(namespace, name)| ObjectName::new(namespace, name));
    let Some(service) = name.and_then(|name| scene.cluster.service(&name)) else {
        return (false, false);
    };
    let own = comment::clean(&service.name.to_string());
    let addresses = service.cluster_ips.iter();
    let addresses: Vec<IpAddr> = addresses
        .chain(&service.external_ips)
        .chain(&service.load_balancer_ips)
        .copied()
        .collect();
    let (mut before, mut after) = (false, false);
    for port in &service.ports {
        let at = addresses.iter();
        let at = at.map(|addr| FrontendKey::Address(*addr, port.protocol, port.port));
        let on_node = port.node_port;
        let on_node = on_node.map(|number| FrontendKey::NodePort(port.protocol, number));
        for key in at.chain(on_node) {
            let is_own = |sets: &Sets| comment_of(sets, &key).is_some_and(|c| owner(c) == &*own);
            before |= Family::ALL
                .into_iter()
                .any(|family| sets_before(scene, family).is_some_and(is_own));
            after |= Family::ALL
                .into_iter()
                .any(|family| sets_after(scene, family).is_some_and(is_own));
        }
    }
    (before, after)
}

fn comment_of<'s>(sets: &'s Sets, key: &FrontendKey) -> Option<&'s str> {
    let id = match key {
        FrontendKey::Address(..) => SetId::ServiceIps,
        FrontendKey::NodePort(..) => SetId::ServiceNodeports,
    };
    element(sets, id, &frontend_value_key(key))?
        .comment
        .as_deref()
}

/// Puts what is about an address with an object that changes there; the rest is handed back.
fn attach<'a>(
    changes: &mut [ObjectChange<'a>],
    addresses: BTreeMap<(SetId, IpAddr), Vec<Step<'a>>>,
) -> Vec<(SetId, IpAddr, Vec<Step<'a>>)> {
    let (mut at, mut behind) = (HashMap::new(), HashMap::new());
    for (i, change) in changes.iter().enumerate().filter(|_| !addresses.is_empty()) {
        if let Some(FrontendKey::Address(addr, ..)) = change.frontend {
            at.entry(addr).or_insert(i);
        }
        for state in change.before.iter().chain(&change.after) {
            match state {
                State::Frontend(state) => {
                    let all = state.endpoints.keys();
                    let all = all.chain(state.internal.iter().flat_map(BTreeMap::keys));
                    for endpoint in all {
                        behind.entry(endpoint.addr).or_insert(i);
                    }
                }
                State::HostPort {
                    endpoint: Some(endpoint),
                    ..
                } => {
                    behind.entry(endpoint.addr).or_insert(i);
                }
                _ => {}
            }
        }
    }
    let mut alone = Vec::new();
    for ((id, addr), steps) in addresses {
        let found = match id {
            SetId::HairpinIps => behind.get(&addr),
            _ => at.get(&addr),
        };
        match found {
            Some(i) => changes[*i].operations.extend(steps),
            None => alone.push((id, addr, steps)),
        }
    }
    alone
}

/// One family's sets, before and after.
struct Of<'s, 'a> {
    scene: &'s Scene<'a>,
    family: Family,
    before: &'s Sets,
    after: &'s Sets,
}

impl Of<'_, '_> {
    /// Adds what changes at a frontend: nothing, one thing, or two if it changes hands.
    fn frontend<'a>(
        &self,
        key: FrontendKey,
        steps: Vec<Step<'a>>,
        out: &mut Vec<ObjectChange<'a>>,
    ) {
        let before = FrontendState::read(self.before, &key);
        let after = FrontendState::read(self.after, &key);
        if let (Some(old), Some(new)) = (&before, &after) {
            if steps.is_empty() && old.means(new) {
                return;
            }
            if old.owner() != new.owner() {
                let (come, gone): (Vec<_>, Vec<_>) = steps
                    .into_iter()
                    .partition(|step| matches!(step, Step::Element { comes: true, .. }));
                self.push(key, before, None, gone, out);
                self.push(key, None, after, come, out);
                return;
            }
        }
        self.push(key, before, after, steps, out);
    }

    fn push<'a>(
        &self,
        key: FrontendKey,
        before: Option<FrontendState>,
        after: Option<FrontendState>,
        steps: Vec<Step<'a>>,
        out: &mut Vec<ObjectChange<'a>>,
    ) {
        let names = Names::of(self.scene, self.family, &key);
        let text = names.describe(before.as_ref(), after.as_ref());
        let foreign = match (&before, &after) {
            (Some(before), _) => !before.intact,
            (None, None) => true,
            (None, Some(_)) => false,
        };
        let planned = after.is_some().then(|| names.service()).flatten();
        let known = after.as_ref().or(before.as_ref());
        let name = planned.map(ToString::to_string);
        let name = name.unwrap_or_else(|| known.map_or("", FrontendState::owner).to_owned());
        let state = |state: Option<FrontendState>| state.map(State::Frontend);
        let change = ObjectChange::new(Kind::Service, name, state(before), state(after));
        let change = change.saying(text).in_family(self.family).with(steps);
        out.push(change.at(key, foreign));
    }

    /// True if the endpoints of a frontend that is missing are in the kernel, and no other
    /// leads there: it was taken out from before them.
    fn lost_its_frontend(
        &self,
        change: &ObjectChange<'_>,
        led_to: &std::collections::HashSet<super::touched::ListNumber>,
    ) -> bool {
        let (None, Some(State::Frontend(after)), Some(key)) =
            (&change.before, &change.after, change.frontend)
        else {
            return false;
        };
        let protocol = key.protocol();
        let is_left = |list: &u32| {
            !led_to.contains(&(*list, protocol))
                && !slots_of(self.before, *list, protocol).is_empty()
        };
        after.lists.iter().any(is_left)
    }

    fn host_port<'a>(&self, key: FrontendKey, steps: Vec<Step<'a>>) -> ObjectChange<'a> {
        let at = frontend_value_key(&key);
        let id = match key {
            FrontendKey::Address(..) => SetId::HostPortIps,
            FrontendKey::NodePort(..) => SetId::HostPorts,
        };
        let state = |sets: &Sets| {
            let set = sets.get(id.fixed_name())?;
            let element = set.elements.get(&at)?;
            Some((endpoint_of(set, element), element.comment.clone()))
        };
        let (before, after) = (state(self.before), state(self.after));
        let words = |state: &Option<(Option<crate::plan::Endpoint>, Option<_>)>| {
            let (endpoint, pod): &(_, Option<std::sync::Arc<str>>) = state.as_ref()?;
            let to = endpoint.map_or_else(|| "nowhere".to_owned(), |e| e.to_string());
            Some(format!("{to} pod {}", pod.as_deref().unwrap_or("?")))
        };
        let text = match (words(&before), words(&after)) {
            (Some(old), Some(new)) => format!("{old} -> {new}"),
            (old, new) => new.or(old).unwrap_or_default(),
        };
        let unnamed =
            |state: &Option<(_, Option<_>)>| state.as_ref().is_some_and(|s| s.1.is_none());
        let foreign = unnamed(&before);
        let typed = |state: Option<(Option<_>, Option<std::sync::Arc<str>>)>| {
            state.map(|(endpoint, pod)| State::HostPort {
                endpoint,
                pod: pod.as_deref().unwrap_or_default().to_owned(),
            })
        };
        let name = match key {
            FrontendKey::Address(..) => key.to_string(),
            FrontendKey::NodePort(protocol, port) => format!("{port}/{protocol}"),
        };
        let change = ObjectChange::new(Kind::HostPort, name, typed(before), typed(after));
        let change = change.saying(text).in_family(self.family).with(steps);
        change.at(key, foreign)
    }

    /// An address without anything else that changes there.
    fn address<'a>(&self, id: SetId, addr: IpAddr, steps: Vec<Step<'a>>) -> ObjectChange<'a> {
        let (kind, key) = match id {
            SetId::HairpinIps => (Kind::LocalEndpoint, Value::new().addr(addr).addr(addr)),
            SetId::ClusterIps => (Kind::ClusterIp, Value::new().addr(addr)),
            _ => (Kind::ExternalIp, Value::new().addr(addr)),
        };
        let state = |sets: &Sets| {
            let found = element(sets, id, &key)?;
            Some(found.comment.as_deref().unwrap_or_default().to_owned())
        };
        let (before, after) = (state(self.before), state(self.after));
        let text = match kind {
            Kind::LocalEndpoint => "masqueraded where it reaches itself".to_owned(),
            _ => [&before, &after]
                .into_iter()
                .flatten()
                .map(|name| name.as_str())
                .filter(|name| !name.is_empty())
                .collect::<Vec<_>>()
                .join(" -> "),
        };
        let typed = |state: Option<String>| state.map(State::Text);
        let mut change = ObjectChange::new(kind, addr.to_string(), typed(before), typed(after))
            .saying(text)
            .in_family(self.family)
            .with(steps);
        // It comes and goes with its frontends.
        if kind == Kind::ClusterIp {
            change.reason = Reason::OtherProgram;
        }
        change
    }

    fn prefixes<'a>(&self, id: SetId, steps: Vec<Step<'a>>) -> ObjectChange<'a> {
        let state = |sets: &Sets| {
            let set = sets
                .get(id.fixed_name())
                .filter(|set| !set.elements.is_empty())?;
            let elements = set.elements.iter();
            let all = elements.map(|(key, e)| prefix(&set.key, key, e.end.as_deref()));
            Some(all.collect::<Vec<String>>())
        };
        let (before, after) = (state(self.before), state(self.after));
        let both = before.is_some() && after.is_some();
        let changed: Vec<String> = steps
            .iter()
            .filter_map(|step| match step {
                Step::Element {
                    comes,
                    set,
                    key,
                    element,
                    ..
                } => {
                    let net = prefix(&set.key, key, element.end.as_deref());
                    let sign = if *comes { '+' } else { '-' };
                    Some(if both { format!("{sign} {net}") } else { net })
                }
                _ => None,
            })
            .collect();
        let typed = |state: Option<Vec<String>>| state.map(State::Prefixes);
        ObjectChange::new(
            Kind::Prefixes(id),
            String::new(),
            typed(before),
            typed(after),
        )
        .saying(few(&changed, MOST_PREFIXES))
        .in_family(self.family)
        .with(steps)
    }
}

fn prefix(schema: &[crate::ruleset::DataType], key: &Value, end: Option<&Value>) -> String {
    let first = |value: &Value| {
        value
            .fields(schema)
            .and_then(|fields| fields.first().copied())
    };
    match (first(key), first(end.unwrap_or(key))) {
        (Some(from @ FieldValue::Addr(_)), Some(to)) => range(&from, &to),
        _ => format!("{key:?}"),
    }
}
