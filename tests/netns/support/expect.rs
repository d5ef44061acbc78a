//! Tables of packets: each row says who asks where and what must come of it, and is tried
//! in both families and over TCP and UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::thread;

use svcnat::cluster::{Family, Protocol};

use super::addr::{Dual, ip_of, node_of};
use super::agree::Opinion;
use super::client::{Answer, Caller, Outcome, SILENCE};
use super::lab::Lab;

/// Fewest questions of a row that expects answers.
const LEAST: usize = 12;
/// Questions per expected server until one that has not answered counts as missing: with
/// four servers the chance of missing one by bad luck is below 10^-19.
const PER_SERVER: usize = 40;

/// What must come of a question.
#[derive(Clone, Debug)]
enum Want {
    /// Each of these answers sooner or later, and nobody else.
    Answers(Vec<String>),
    Refused,
    Silence,
}

/// Whom the server must see.
#[derive(Clone, Debug)]
enum Seen {
    Anyone,
    /// The client's own address.
    Client,
    /// An address of this node, and not the client's own.
    Node(String),
}

/// One row: `row("why").from("a0").to(addr, 80).answers(&["a1"]).kept()`.
#[derive(Clone, Debug)]
pub struct Row {
    why: String,
    from: String,
    source: Option<Dual>,
    to: Option<(Dual, u16)>,
    want: Want,
    seen: Seen,
    protocols: Vec<Protocol>,
    families: Vec<Family>,
}

/// A row with the sentence that a failure prints.
pub fn row(why: &str) -> Row {
    Row {
        why: why.to_owned(),
        from: "a0".to_owned(),
        source: None,
        to: None,
        want: Want::Silence,
        seen: Seen::Anyone,
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        families: Family::ALL.to_vec(),
    }
}

impl Row {
    /// Who asks.
    pub fn from(mut self, place: &str) -> Self {
        self.from = place.to_owned();
        self
    }

    /// With which of the place's addresses.
    pub fn source(mut self, source: Dual) -> Self {
        self.source = Some(source);
        self
    }

    /// Where to.
    pub fn to(mut self, addr: Dual, port: u16) -> Self {
        self.to = Some((addr, port));
        self
    }

    /// These answer, each of them, and no others.
    pub fn answers(mut self, names: &[&str]) -> Self {
        self.want = Want::Answers(names.iter().map(|name| (*name).to_owned()).collect());
        self
    }

    /// TCP reset or port unreachable.
    pub fn refused(mut self) -> Self {
        self.want = Want::Refused;
        self
    }

    /// Nothing comes back.
    pub fn silence(mut self) -> Self {
        self.want = Want::Silence;
        self
    }

    /// The server sees the client's own address.
    pub fn kept(mut self) -> Self {
        self.seen = Seen::Client;
        self
    }

    /// The server sees an address of this node instead of the client's.
    pub fn masqueraded_by(mut self, node: &str) -> Self {
        self.seen = Seen::Node(node.to_owned());
        self
    }

    /// Only over these.
    pub fn over(mut self, protocols: &[Protocol]) -> Self {
        self.protocols = protocols.to_vec();
        self
    }

    /// Only in this family.
    pub fn only(mut self, family: Family) -> Self {
        self.families = vec![family];
        self
    }

    fn try_in(&self, lab: &Lab, family: Family, protocol: Protocol) -> Result<(), String> {
        let (addr, port) = self.to.expect("a row says where to");
        let to = SocketAddr::new(addr.of(family), port);
        let mut caller = lab.from(&self.from);
        if let Some(source) = self.source {
            caller = caller.source(source.of(family));
        }
        match &self.want {
            Want::Answers(names) => {
                let limit = LEAST.max(PER_SERVER * names.len());
                let outcomes = caller.ask_until(protocol, to, limit, |outcomes| {
                    let distinct = count(outcomes).len();
                    outcomes
                        .last()
                        .is_some_and(|last| !matches!(last, Outcome::Answer(_)))
                        || outcomes.len() >= LEAST && distinct >= names.len()
                });
                self.judge(&outcomes, names, family)?;
            }
            want => {
                let expected = match want {
                    Want::Refused => Outcome::Refused,
                    _ => {
                        caller = caller.patience(SILENCE);
                        Outcome::Silence
                    }
                };
                let outcome = caller.ask(protocol, to);
                if outcome != expected {
                    return Err(format!("expected {expected:?}, got {outcome:?}"));
                }
            }
        }
        self.agree(lab, &caller, protocol, to)
    }

    /// The walker must name everyone who answered, not only the right ones: the caller has
    /// held each answer against it, see `agree`.
    fn agree(
        &self,
        lab: &Lab,
        caller: &Caller<'_>,
        protocol: Protocol,
        to: SocketAddr,
    ) -> Result<(), String> {
        let Some((_, Opinion::Endpoints(endpoints))) = caller.opinion(protocol, to) else {
            return Ok(());
        };
        let names: BTreeSet<String> = endpoints
            .keys()
            .map(|e| lab.owner(e.ip()).unwrap_or_else(|| e.to_string()))
            .collect();
        match &self.want {
            Want::Answers(wanted) if names == wanted.iter().cloned().collect() => Ok(()),
            want => Err(format!("{want:?}, but the walker says {endpoints:?}")),
        }
    }

    fn judge(&self, outcomes: &[Outcome], names: &[String], family: Family) -> Result<(), String> {
        for outcome in outcomes {
            let Outcome::Answer(answer) = outcome else {
                return Err(format!("expected an answer of {names:?}, got {outcome:?}"));
            };
            if !names.contains(&answer.name) {
                return Err(format!(
                    "{} answered, which is not one of {names:?}",
                    answer.name
                ));
            }
            self.judge_source(answer, family)?;
        }
        let counts = count(outcomes);
        match names
            .iter()
            .find(|name| !counts.contains_key(name.as_str()))
        {
            Some(missing) => Err(format!("{missing} never answered: {counts:?}")),
            None => Ok(()),
        }
    }

    fn judge_source(&self, answer: &Answer, family: Family) -> Result<(), String> {
        let own = self.source.unwrap_or_else(|| ip_of(&self.from)).of(family);
        let seen = answer.client.ip();
        match &self.seen {
            Seen::Client if seen != own => Err(format!(
                "{} saw {seen} instead of the client, {own}",
                answer.name
            )),
            Seen::Node(node) if !Lab::masquerade_addresses(node).contains(&seen) => Err(format!(
                "{} saw {seen}, no address of node {node}",
                answer.name
            )),
            Seen::Node(_) if seen == own && node_of(&self.from).is_none_or(|n| n != self.from) => {
                Err(format!("{} saw the client, {own}", answer.name))
            }
            _ => Ok(()),
        }
    }
}

/// How often each server answered.
pub fn count(outcomes: &[Outcome]) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for outcome in outcomes {
        if let Outcome::Answer(answer) = outcome {
            *counts.entry(answer.name.as_str()).or_default() += 1;
        }
    }
    counts
}

impl Lab {
    /// Tries every row, all at once, in every family and protocol it names; fails with the
    /// list of all that went wrong.
    #[track_caller]
    pub fn check(&self, rows: &[Row]) {
        let mut wrong = Vec::new();
        thread::scope(|scope| {
            let mut tries = Vec::new();
            for row in rows {
                for family in &row.families {
                    for protocol in &row.protocols {
                        let handle = scope.spawn(move || row.try_in(self, *family, *protocol));
                        tries.push((row, family, protocol, handle));
                    }
                }
            }
            for (row, family, protocol, handle) in tries {
                let result = handle.join().unwrap_or_else(|panic| {
                    std::panic::resume_unwind(panic);
                });
                if let Err(what) = result {
                    let (from, why) = (&row.from, &row.why);
                    wrong.push(format!("{why} [{from}, {family} {protocol:?}]: {what}"));
                }
            }
        });
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
