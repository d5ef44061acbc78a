//! What changes besides our tables: routes, kernel settings, tracked flows, and clients that
//! lose the endpoint they are remembered with.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::frontend::owner;
use super::{Kind, ObjectChange, Reason, State, Step, at, count, prefix};
use crate::cluster::Protocol;
use crate::plan::{Endpoint, Route};

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Routes.
    pub routes: Vec<RouteChange>,
    /// Kernel settings.
    pub sysctls: Vec<SysctlChange>,
    /// Flows that are cut.
    pub flows: Vec<CutFlow>,
    /// Clients that are forgotten.
    pub clients: Vec<Client>,
}

/// A route that is added, replaced or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteChange {
    /// Destination.
    pub destination: IpNet,
    /// The next hop that is there now, if there is a route; within, `None` for a route without
    /// a next hop or with several.
    pub before: Option<Option<IpAddr>>,
    /// What is wanted, if anything.
    pub after: Option<Route>,
}

/// A kernel setting that is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlChange {
    /// Its name, with dots.
    pub name: String,
    /// What it is.
    pub before: String,
    /// What it will be.
    pub after: String,
}

/// A tracked flow that is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CutFlow {
    /// Protocol.
    pub protocol: Protocol,
    /// Where the client sends to.
    pub to: (IpAddr, u16),
    /// Who answers.
    pub answered_by: (IpAddr, u16),
    /// The flow in words.
    pub text: String,
}

/// A client that is forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// The service port that remembers it, as a comment has it: untrusted text.
    pub service: String,
    /// The endpoint it had, if that is known.
    pub endpoint: Option<Endpoint>,
}

/// What changes of them.
pub fn changes<'a>(host: &Host) -> Vec<ObjectChange<'a>> {
    let mut out: Vec<ObjectChange<'a>> = host.routes.iter().map(route).collect();
    out.extend(host.sysctls.iter().map(|sysctl| {
        let SysctlChange {
            name,
            before,
            after,
        } = sysctl;
        let step = |sign, value| Step::Host(format!("{sign} sysctl {name} = {value}"));
        let state = |value: &String| Some(State::Text(value.clone()));
        ObjectChange::new(Kind::Sysctl, name.clone(), state(before), state(after))
            .saying(format!("{before} -> {after}"))
            .with(vec![step('-', before), step('+', after)])
    }));
    out.extend(flows(&host.flows));
    out.extend(clients(&host.clients));
    out
}

fn route<'a>(change: &RouteChange) -> ObjectChange<'a> {
    let RouteChange {
        destination,
        before,
        after,
    } = change;
    let destination = prefix(destination);
    let old = before.map(|via| via.map_or_else(|| "no one next hop".to_owned(), |v| v.to_string()));
    let new = after.as_ref().map(|route| (route.via, &route.node));
    let text = match (&old, new) {
        (Some(old), Some((via, node))) => format!("via {old} -> {via} (node {node})"),
        (None, Some((via, node))) => format!("via {via} (node {node})"),
        (Some(old), None) => format!("via {old}"),
        (None, None) => String::new(),
    };
    let mut steps = Vec::new();
    if let Some(via) = before {
        let via = via.map_or_else(String::new, |via| format!(" via {via}"));
        steps.push(Step::Host(format!("- route {destination}{via}")));
    }
    if let Some((via, node)) = new {
        let route = format!("+ route {destination} via {via} (node {node})");
        steps.push(Step::Host(route));
    }
    let was = before.map(|via| State::Route { via, node: None });
    let is = new.map(|(via, node)| State::Route {
        via: Some(via),
        node: Some(node.clone()),
    });
    let mut change = ObjectChange::new(Kind::Route, destination, was, is)
        .saying(text)
        .with(steps);
    // Ours have exactly one.
    if *before == Some(None) {
        change.reason = Reason::OtherProgram;
    }
    change
}

/// Flows by where they go and who answers.
fn flows<'a>(flows: &[CutFlow]) -> impl Iterator<Item = ObjectChange<'a>> {
    let mut by: BTreeMap<_, Vec<Step<'a>>> = BTreeMap::new();
    for flow in flows {
        let key = (flow.protocol, flow.to, flow.answered_by);
        let step = Step::Host(format!("- tracked flow {}", flow.text));
        by.entry(key).or_default().push(step);
    }
    by.into_iter().map(|((protocol, to, by), steps)| {
        let name = format!(
            "{} answered by {}",
            at(to.0, to.1, protocol),
            std::net::SocketAddr::new(by.0, by.1)
        );
        let number = steps.len();
        let are = if number == 1 { "is" } else { "are" };
        ObjectChange::new(Kind::Flow, name, Some(State::Count(number)), None)
            .saying(format!("{number} {are} cut"))
            .with(steps)
    })
}

/// Clients by service and endpoint.
fn clients<'a>(clients: &[Client]) -> impl Iterator<Item = ObjectChange<'a>> {
    let mut by: BTreeMap<_, usize> = BTreeMap::new();
    for client in clients {
        *by.entry((&client.service, client.endpoint)).or_default() += 1;
    }
    let by: Vec<_> = by.into_iter().collect();
    by.into_iter()
        .map(|((service, endpoint), number)| {
            let lost = endpoint.map_or_else(String::new, |e| format!(" with endpoint {e}"));
            let clients = count(number, "client");
            let step = format!("- {clients} of lost endpoints");
            ObjectChange::new(
                Kind::Client,
                owner(service).to_owned(),
                Some(State::Count(number)),
                None,
            )
            .saying(format!("{clients}{lost}: balanced anew"))
            .with(vec![Step::Host(step)])
        })
        .collect::<Vec<_>>()
        .into_iter()
}
