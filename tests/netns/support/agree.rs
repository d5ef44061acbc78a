//! The walker's second opinion: what `svcnat explain --live` says of a packet must be what the
//! packet met with. Every question a [`Caller`](super::client::Caller) asks goes through
//! here, unless the test says why it cannot ([`Caller::unwalked`](super::client::Caller)).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use svcnat::cluster::{Family, Protocol};

use super::addr::{ip_of, node_ip, node_of, split};
use super::client::{Answer, Outcome};
use super::lab::{Lab, PodLink};
use super::program::run_svcnat;

/// Where a packet comes from and goes to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// The client's place.
    pub from: String,
    /// Its address.
    pub source: IpAddr,
    /// What it asks for.
    pub to: SocketAddr,
    /// Protocol.
    pub protocol: Protocol,
}

/// What the walker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opinion {
    /// One of these answers; true for those that see a node's address, not the client's.
    Endpoints(BTreeMap<SocketAddr, bool>),
    Refused,
    Dropped,
    /// svcnat does not translate it: whoever has the address answers, or nobody. True if
    /// it leaves behind a node's address.
    Untouched(bool),
}

impl Opinion {
    /// What is wrong about an outcome if the opinion is right.
    pub fn contradicts(
        &self,
        lab: &Lab,
        question: &Question,
        outcome: &Outcome,
    ) -> Result<(), String> {
        let wrong = match (self, outcome) {
            (Self::Endpoints(endpoints), Outcome::Answer(answer)) => {
                let found = endpoints
                    .iter()
                    .find(|(to, _)| lab.is_called(**to, &answer.name) && to.port() == answer.port);
                match found {
                    Some((_, masqueraded)) => seen(question, answer, *masqueraded).err(),
                    None => Some(String::new()),
                }
            }
            (Self::Untouched(masqueraded), Outcome::Answer(answer)) => {
                if lab.is_called(question.to, &answer.name) {
                    seen(question, answer, *masqueraded).err()
                } else {
                    Some(String::new())
                }
            }
            (Self::Refused, Outcome::Refused)
            | (Self::Dropped, Outcome::Silence)
            | (Self::Untouched(_), _) => None,
            _ => Some(String::new()),
        };
        wrong.map_or(Ok(()), |what| {
            Err(format!(
                "{question:?} met with {outcome:?}, but the walker says {self:?} {what}"
            ))
        })
    }
}

/// A node that asks from its own address looks the same either way.
fn seen(question: &Question, answer: &Answer, masqueraded: bool) -> Result<(), String> {
    let own = answer.client.ip() == question.source;
    let is_node = node_of(&question.from) == Some(question.from.as_str());
    if is_node || own != masqueraded {
        Ok(())
    } else {
        Err(format!("(source seen: {})", answer.client.ip()))
    }
}

impl Lab {
    /// Is this the name that a server at this address answers with?
    fn is_called(&self, at: SocketAddr, name: &str) -> bool {
        name == at.to_string() || self.owner(at.ip()).is_none_or(|owner| owner == name)
    }

    /// Walks a packet through the tables of the node it meets first, and of a second node if
    /// it is addressed there and the first one lets it pass. `None` if nothing was applied.
    /// Asked once for each set of objects applied: a client that was remembered since then
    /// has one of the endpoints it could have had.
    pub fn opinion(&self, question: &Question) -> Option<Opinion> {
        if let Some(known) = self.opinions.lock().unwrap().get(question) {
            return known.clone();
        }
        let opinion = self.ask_walker(question);
        let mut known = self.opinions.lock().unwrap();
        known.insert(question.clone(), opinion.clone());
        opinion
    }

    fn ask_walker(&self, question: &Question) -> Option<Opinion> {
        let Question {
            from, source, to, ..
        } = question;
        let owner = self
            .nodes()
            .into_iter()
            .find(|node| ip_of(node).both().contains(&to.ip()));
        let first = match node_of(from) {
            Some(node) => node.to_owned(),
            // From outside: straight to a node's own address, else where the router sends it.
            None => owner.clone().unwrap_or_else(|| "a".to_owned()),
        };
        let iif = match (*from == first, node_of(from).is_some(), self.plan.link) {
            (true, ..) => None,
            (_, true, PodLink::Bridge) => Some("docker0".to_owned()),
            (_, true, PodLink::Routed) => Some(format!("veth{}", &from[1..])),
            (_, false, _) => Some("eth0".to_owned()),
        };
        let opinion = self.explain(&first, question, *source, iif.as_deref())?;
        match (opinion, owner) {
            (Opinion::Untouched(masqueraded), Some(second)) if second != first => {
                let (number, _) = split(&first);
                let source = if masqueraded {
                    node_ip(number).of(Family::of(source))
                } else {
                    *source
                };
                let then = self.explain(&second, question, source, Some("eth0"))?;
                Some(match then {
                    Opinion::Endpoints(mut endpoints) => {
                        endpoints.values_mut().for_each(|m| *m |= masqueraded);
                        Opinion::Endpoints(endpoints)
                    }
                    Opinion::Untouched(again) => Opinion::Untouched(again || masqueraded),
                    end => end,
                })
            }
            (opinion, _) => Some(opinion),
        }
    }

    fn explain(
        &self,
        node: &str,
        question: &Question,
        source: IpAddr,
        iif: Option<&str>,
    ) -> Option<Opinion> {
        let (args, input) = self.applied.lock().unwrap().get(node)?.clone();
        let to = format!("{}/{}", question.to, question.protocol);
        let source = source.to_string();
        let mut all = vec!["explain", &source, &to, "--live", "-o", "json"];
        match iif {
            Some(iif) => all.extend(["--iif", iif]),
            None => all.push("--from-node"),
        }
        all.extend(args.iter().map(String::as_str));
        let run = run_svcnat(self.at(node), &all, &input);
        // 1: something is in the packet's way, as where it is refused.
        assert!(matches!(run.code, 0 | 1), "{}: {}", run.command, run.stderr);
        Some(read(&serde_json::from_str(&run.stdout).unwrap()))
    }
}

fn read(said: &Value) -> Opinion {
    let candidates = said["candidates"].as_array().unwrap();
    match said["fate"].as_str().unwrap() {
        "refused" => Opinion::Refused,
        "dropped" => Opinion::Dropped,
        _ if candidates.is_empty() => Opinion::Untouched(said["masqueraded"] == true),
        _ => {
            let to = |c: &Value| {
                let addr: IpAddr = c["address"].as_str().unwrap().parse().unwrap();
                let port = u16::try_from(c["port"].as_u64().unwrap()).unwrap();
                (SocketAddr::new(addr, port), c["masqueraded"] == true)
            };
            Opinion::Endpoints(candidates.iter().map(to).collect())
        }
    }
}
