//! The walker's second opinion: what `svcnat explain --live` says of a packet must be what the
//! packet met with.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use svcnat::cluster::Protocol;

use super::addr::{ip_of, node_ip, node_of, split};
use super::lab::{Lab, PodLink};
use super::program::run_svcnat;

/// What the walker says.
#[derive(Debug, PartialEq, Eq)]
pub enum Opinion {
    /// One of these answers; true if it sees a node's address instead of the client's.
    Endpoints(BTreeSet<SocketAddr>, BTreeSet<bool>),
    Refused,
    Dropped,
    /// svcnat leaves it alone: what comes of it is not its affair.
    Untouched,
}

impl Lab {
    /// Walks a packet through the tables of the node it meets first, and of a second node if
    /// it is addressed there and the first one lets it pass. `None` if nothing was applied.
    pub fn opinion(
        &self,
        from: &str,
        source: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
    ) -> Option<Opinion> {
        let owner = self
            .nodes()
            .into_iter()
            .find(|node| ip_of(node).both().contains(&to.ip()));
        let first = match node_of(from) {
            Some(node) => node.to_owned(),
            // From outside: straight to a node's own address, else where the router sends it.
            None => owner.clone().unwrap_or_else(|| "a".to_owned()),
        };
        let iif = match (from == first, node_of(from).is_some(), self.plan.link) {
            (true, ..) => None,
            (_, true, PodLink::Bridge) => Some("docker0".to_owned()),
            (_, true, PodLink::Routed) => Some(format!("veth{}", &from[1..])),
            (_, false, _) => Some("eth0".to_owned()),
        };
        let said = self.explain(&first, source, to, protocol, iif.as_deref())?;
        let opinion = read(&said, false);
        match (opinion, owner) {
            (Opinion::Untouched, Some(second)) if second != first => {
                let masqueraded = said["masqueraded"] == true;
                let (number, _) = split(&first);
                let source = if masqueraded {
                    node_ip(number).of(svcnat::cluster::Family::of(&source))
                } else {
                    source
                };
                let said = self.explain(&second, source, to, protocol, Some("eth0"))?;
                Some(read(&said, masqueraded))
            }
            (opinion, _) => Some(opinion),
        }
    }

    fn explain(
        &self,
        node: &str,
        source: IpAddr,
        to: SocketAddr,
        protocol: Protocol,
        iif: Option<&str>,
    ) -> Option<Value> {
        let (args, input) = self.applied.lock().unwrap().get(node)?.clone();
        let (source, to) = (source.to_string(), format!("{to}/{protocol}"));
        let mut all = vec!["explain", &source, &to, "--live", "-o", "json"];
        match iif {
            Some(iif) => all.extend(["--iif", iif]),
            None => all.push("--from-node"),
        }
        all.extend(args.iter().map(String::as_str));
        let run = run_svcnat(self.at(node), &all, &input).expect(0);
        Some(serde_json::from_str(&run.stdout).unwrap())
    }
}

fn read(said: &Value, already_masqueraded: bool) -> Opinion {
    let candidates = said["candidates"].as_array().unwrap();
    match said["fate"].as_str().unwrap() {
        "refused" => Opinion::Refused,
        "dropped" => Opinion::Dropped,
        _ if candidates.is_empty() => Opinion::Untouched,
        _ => {
            let to = |c: &Value| {
                let addr: IpAddr = c["address"].as_str().unwrap().parse().unwrap();
                SocketAddr::new(addr, u16::try_from(c["port"].as_u64().unwrap()).unwrap())
            };
            Opinion::Endpoints(
                candidates.iter().map(to).collect(),
                candidates
                    .iter()
                    .map(|c| already_masqueraded || c["masqueraded"] == true)
                    .collect(),
            )
        }
    }
}
