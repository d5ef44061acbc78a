//! A frontend's change in words.

use std::collections::BTreeMap;

use super::frontend::{Answer, FrontendState, Weights};
use super::{Scene, count, few};
use crate::cluster::{Family, ObjectName};
use crate::plan::{
    Endpoint, Frontend, FrontendKey, ListKey, ServicePortKey, Standing, Target, View, Viewpoint,
    standings,
};

/// Endpoints that a line shows.
const MOST_ENDPOINTS: usize = 3;

/// What is known of a frontend's Service besides what is in the kernel.
pub struct Names<'s, 'a> {
    scene: &'s Scene<'a>,
    family: Family,
    planned: Option<&'a Frontend>,
}

impl<'s, 'a> Names<'s, 'a> {
    /// Of the frontend at `key`.
    pub fn of(scene: &'s Scene<'a>, family: Family, key: &FrontendKey) -> Self {
        let plan = scene
            .plan
            .families
            .iter()
            .find(|plan| plan.family == family);
        Self {
            scene,
            family,
            planned: plan.and_then(|plan| plan.frontends.get(key)),
        }
    }

    /// The Service that is to have it.
    pub fn service(&self) -> Option<&'a ObjectName> {
        self.planned.map(|frontend| &frontend.owner.service)
    }

    /// The change from one state to the other.
    pub fn describe(
        &self,
        before: Option<&FrontendState>,
        after: Option<&FrontendState>,
    ) -> String {
        match (before, after) {
            (None, None) => "elements of no frontend".to_owned(),
            (None, Some(state)) | (Some(state), None) => whole(state),
            (Some(before), Some(after)) => {
                let parts = self.changes(before, after);
                if parts.is_empty() {
                    "numbers in the kernel only".to_owned()
                } else {
                    parts.join("; ")
                }
            }
        }
    }

    fn changes(&self, before: &FrontendState, after: &FrontendState) -> Vec<String> {
        let mut parts = Vec::new();
        let mut say = |what: &str, before: String, after: String| {
            if before != after {
                parts.push(format!("{what} {before} -> {after}"));
            }
        };
        // The policy of a frontend that nobody serves is not told.
        let has_policy = before.answer == Answer::Endpoints && after.answer == Answer::Endpoints;
        if has_policy || (before.local && after.local) {
            say("externalTrafficPolicy", policy(before), policy(after));
        }
        say("session affinity", affinity(before), affinity(after));
        say("balancing", balancing(before), balancing(after));
        say("sources", sources(before), sources(after));
        say("port name", port_name(before), port_name(after));
        let views = self.views();
        let here = if after.local { " on this node" } else { "" };
        let main = self.list(
            here,
            (before.answer, &before.endpoints),
            (after.answer, &after.endpoints),
            views.0,
        );
        parts.extend(main);
        let none = BTreeMap::new();
        let inside = |state: &FrontendState| match &state.internal {
            Some(_) => Answer::Endpoints,
            None => state.answer,
        };
        let endpoints = |state: &'_ FrontendState| state.internal.clone().unwrap_or(none.clone());
        if before.internal.is_some() && after.internal.is_some() {
            parts.extend(self.list(
                " for pods and this node",
                (inside(before), &endpoints(before)),
                (inside(after), &endpoints(after)),
                views.1,
            ));
        } else if let Some(internal) = &after.internal {
            let endpoints = count(internal.len(), "endpoint");
            parts.push(format!("{endpoints} for pods and this node"));
        }
        parts
    }

    /// The lists that it leads to: for all or for outsiders, and for pods and this node.
    fn views(&self) -> (Option<&'a ListKey>, Option<&'a ListKey>) {
        match self.planned.map(|frontend| &frontend.target) {
            Some(Target::List(list)) => (Some(list), None),
            Some(Target::Split { outside, inside }) => (outside.as_ref(), inside.as_ref()),
            Some(Target::Reject | Target::Drop) | None => (None, None),
        }
    }

    fn list(
        &self,
        which: &str,
        (was, before): (Answer, &Weights),
        (is, after): (Answer, &Weights),
        list: Option<&ListKey>,
    ) -> Option<String> {
        if (was, before) == (is, after) {
            return None;
        }
        let gone: Vec<&Endpoint> = before.keys().filter(|e| !after.contains_key(e)).collect();
        let standings = self.standings(list, !gone.is_empty());
        let mut items: Vec<String> = gone
            .iter()
            .map(|endpoint| self.lost(endpoint, &standings))
            .collect();
        let come = after.keys().filter(|e| !before.contains_key(e));
        items.extend(come.map(|endpoint| format!("+ {}", self.endpoint(endpoint))));
        if was != is && items.is_empty() {
            return Some(format!("{} -> {}", answer(was, before), answer(is, after)));
        }
        if items.is_empty() {
            let weighed = after.iter().filter_map(|(endpoint, weight)| {
                let old = before.get(endpoint).filter(|old| *old != weight)?;
                Some(format!("{endpoint} {old} -> {weight}"))
            });
            let weighed: Vec<String> = weighed.collect();
            return Some(format!("weights{which} {}", few(&weighed, MOST_ENDPOINTS)));
        }
        let items = few(&items, MOST_ENDPOINTS);
        let end = match is {
            Answer::Endpoints => "",
            Answer::Refused => ": refused",
            Answer::Dropped => ": dropped",
            Answer::Unknown => ": unknown",
        };
        let (old, new) = (before.len(), after.len());
        Some(format!("endpoints{which} {old} -> {new}{end} ({items})"))
    }

    /// Where the endpoints of its service port stand.
    fn standings(&self, list: Option<&ListKey>, asked: bool) -> BTreeMap<Endpoint, Standing> {
        let Some(owner) = self.planned.map(|f| &*f.owner).filter(|_| asked) else {
            return BTreeMap::new();
        };
        let ServicePortKey {
            service,
            port_name,
            protocol,
        } = owner;
        let ports = self
            .scene
            .cluster
            .service(service)
            .map(|service| &service.ports);
        let port = ports
            .into_iter()
            .flatten()
            .find(|port| port.name == *port_name && port.protocol == *protocol);
        let Some(port) = port else {
            return BTreeMap::new();
        };
        let slices = self.scene.cluster.slices_of(service);
        let from = Viewpoint {
            node: &self.scene.node.name,
            zone: self.scene.node.zone.as_deref(),
        };
        let view = list.map_or(View::Cluster, |list| list.view);
        standings(&slices, self.family, port, from, view)
    }

    fn lost(&self, endpoint: &Endpoint, standings: &BTreeMap<Endpoint, Standing>) -> String {
        let why = standings.get(endpoint).filter(|s| **s != Standing::Used);
        let named = self.endpoint(endpoint);
        match why {
            Some(why) => format!("- {named}: {why}"),
            None => format!("- {named}"),
        }
    }

    /// `10.20.1.12:5432 pod db-1 on n1`, as far as that is known.
    fn endpoint(&self, endpoint: &Endpoint) -> String {
        let mut out = endpoint.to_string();
        let Some(service) = self.service() else {
            return out;
        };
        let slices = self.scene.cluster.slices_of(service);
        let mut all = slices.iter().flat_map(|slice| &slice.endpoints);
        if let Some(found) = all.find(|e| e.address == endpoint.addr) {
            for (word, name) in [(" pod ", &found.pod), (" on ", &found.node_name)] {
                if let Some(name) = name {
                    out.push_str(word);
                    out.push_str(name);
                }
            }
        }
        out
    }
}

/// All that a frontend is.
fn whole(state: &FrontendState) -> String {
    let mut parts = vec![answer(state.answer, &state.endpoints)];
    if state.local && state.answer == Answer::Endpoints {
        parts[0].push_str(" on this node");
    }
    if let Some(internal) = &state.internal {
        let endpoints = count(internal.len(), "endpoint");
        parts.push(format!("{endpoints} for pods and this node"));
    }
    if state.affinity.is_some() {
        parts.push(format!("session affinity {}", affinity(state)));
    }
    if state.by_source {
        parts.push("by source address".to_owned());
    }
    if state.sources.is_some() {
        parts.push(format!("from {} only", sources(state)));
    }
    parts.join(", ")
}

fn answer(answer: Answer, endpoints: &Weights) -> String {
    match answer {
        Answer::Endpoints => count(endpoints.len(), "endpoint"),
        Answer::Refused => "no endpoint: refused".to_owned(),
        Answer::Dropped => "no endpoint that may be used here: dropped".to_owned(),
        Answer::Unknown => "a value that is not of svcnat".to_owned(),
    }
}

fn policy(state: &FrontendState) -> String {
    if state.local { "Local" } else { "Cluster" }.to_owned()
}

fn affinity(state: &FrontendState) -> String {
    let seconds = |seconds| format!("{seconds} s");
    state.affinity.map_or_else(|| "none".to_owned(), seconds)
}

fn balancing(state: &FrontendState) -> String {
    if state.by_source {
        "by source address"
    } else {
        "random"
    }
    .to_owned()
}

fn sources(state: &FrontendState) -> String {
    match &state.sources {
        None => "all".to_owned(),
        Some(sources) if sources.is_empty() => "nobody".to_owned(),
        Some(sources) => few(sources, MOST_ENDPOINTS),
    }
}

fn port_name(state: &FrontendState) -> String {
    let comment = state.comment.as_deref().unwrap_or_default();
    let name = comment.split_once(':').map_or("", |(_, name)| name);
    if name.is_empty() { "none" } else { name }.to_owned()
}
