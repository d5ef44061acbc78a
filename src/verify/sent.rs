//! Lines held against real packets. Who sends them is asked through [`Ask`]: a lab of network
//! namespaces, a testbed, a cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Asked, Check, End, Failure, Verdict, spread, written};
use crate::net::Question;

/// How long an answer may take before it counts as silence. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How long silence is listened to where silence is expected.
pub const SILENCE: Duration = Duration::from_millis(400);
/// Questions for each that may answer, by his share: by bad luck one is missed in one of e^20
/// runs, half a billion.
const ENOUGH: f64 = 20.0;

/// Who answered, and whom he saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The address and port that were reached.
    pub by: SocketAddr,
    /// The client's address as he saw it.
    pub seen: IpAddr,
}

/// What came of a question.
pub type Outcome = crate::net::Outcome<Answer>;

#[cfg(feature = "lab")]
impl Outcome {
    /// Of a question in a lab; `by` says at which address somebody of that name was reached.
    #[must_use]
    pub fn of(outcome: crate::lab::Outcome, by: impl FnOnce(&str) -> Option<IpAddr>) -> Self {
        use crate::lab::Outcome as Of;
        match outcome {
            Of::Answer(answer) => match by(&answer.name) {
                Some(addr) => Self::Answer(Answer {
                    by: SocketAddr::new(addr, answer.port),
                    seen: answer.client.ip(),
                }),
                None => Self::Failed(format!("{} answered", answer.name)),
            },
            Of::Refused => Self::Refused,
            Of::Silence => Self::Silence,
            Of::Failed(error) => Self::Failed(error),
        }
    }
}

/// The question of a line, so often.
fn question(asked: &Asked<'_>, patience: Duration, count: usize) -> Question {
    let ends = &asked.ends;
    Question {
        from: ends.source,
        protocol: ends.protocol,
        to: SocketAddr::new(ends.destination, ends.port),
        patience,
        count,
    }
}

/// A network in which questions can be asked and somebody answers at each address and port.
pub trait Ask {
    /// Asks from the host that has the client's address.
    fn ask(&mut self, question: &Question) -> Vec<Outcome>;
    /// The node forgets which clients asked for `to` before.
    ///
    /// # Errors
    /// If it does not, in words.
    fn forget(&mut self, to: IpAddr) -> Result<(), String>;
    /// What lines call who has this address, if he has a name.
    fn name(&self, address: IpAddr) -> Option<String> {
        let _ = address;
        None
    }
    /// True if the node that svcnat runs on has this address.
    fn is_nodes(&self, address: IpAddr) -> bool;
}

/// Sends the packet of a line until its end is known well enough.
pub fn sent(asked: &Asked<'_>, file: &str, network: &mut impl Ask) -> Check {
    let ends = &asked.ends;
    let to = SocketAddr::new(ends.destination, ends.port);
    let mut ask = |patience, count| network.ask(&question(asked, patience, count));
    let found = match &asked.packet.end {
        None => Err("it cannot be told when it is enough".to_owned()),
        Some(End::Refused { .. }) => {
            let outcomes = ask(PATIENCE, 1);
            only(&outcomes, &Outcome::Refused, ends.source, network)
        }
        Some(End::Dropped { .. }) => {
            let outcomes = ask(SILENCE, 1);
            only(&outcomes, &Outcome::Silence, ends.source, network)
        }
        Some(End::Untranslated { masqueraded, .. }) => {
            let owner = Candidate {
                addresses: &[to.ip()],
                port: Some(to.port()),
                share: None,
                masqueraded: *masqueraded,
            };
            let outcomes = ask(PATIENCE, 1);
            judge(&[owner], ends.source, &outcomes, network)
        }
        Some(End::Endpoints { remembered, .. }) => {
            let by = candidates(asked);
            let count = questions(&by);
            let outcomes = match remembered {
                None => Ok(ask(PATIENCE, count)),
                Some(_) => (0..count)
                    .map(|_| as_a_new_client(asked, network))
                    .collect(),
            };
            outcomes.and_then(|outcomes| judge(&by, ends.source, &outcomes, network))
        }
    };
    let failed = |got| {
        Verdict::Failed(Failure {
            expected: written(asked),
            got,
            because: None,
        })
    };
    asked.check(file, found.map_or_else(failed, |()| Verdict::Passed))
}

/// Whoever has the destination answers the packet of a line, and sees the client: as it must be
/// before anything is installed, so that what happens afterwards is the rules' doing.
///
/// # Errors
/// If it is otherwise, in words.
pub fn reaches_its_destination(asked: &Asked<'_>, network: &mut impl Ask) -> Result<(), String> {
    let ends = &asked.ends;
    let to = SocketAddr::new(ends.destination, ends.port);
    let outcomes = network.ask(&question(asked, PATIENCE, 1));
    let owner = Candidate {
        addresses: &[to.ip()],
        port: Some(to.port()),
        share: None,
        masqueraded: false,
    };
    judge(&[owner], ends.source, &outcomes, network)
}

/// One who may answer.
struct Candidate<'a> {
    addresses: &'a [IpAddr],
    port: Option<u16>,
    share: Option<f64>,
    masqueraded: bool,
}

fn candidates<'a>(asked: &'a Asked<'_>) -> Vec<Candidate<'a>> {
    let candidate = |(endpoint, addresses): (&super::Endpoint, &'a [IpAddr])| Candidate {
        addresses,
        port: endpoint.port.map(std::num::NonZeroU16::get),
        share: endpoint.share.map(super::Share::probability),
        masqueraded: endpoint.masqueraded,
    };
    asked.endpoints().map(candidate).collect()
}

/// As many as it takes for everyone to answer.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a number of questions"
)]
fn questions(by: &[Candidate<'_>]) -> usize {
    let even = 1.0 / by.len() as f64;
    let shares = by.iter().map(|candidate| candidate.share.unwrap_or(even));
    let least = shares.fold(1.0, f64::min).max(1e-6);
    (ENOUGH / least).ceil() as usize
}

/// Two questions of a client that is not remembered: the answer to both.
fn as_a_new_client(asked: &Asked<'_>, network: &mut impl Ask) -> Result<Outcome, String> {
    let ends = &asked.ends;
    let to = SocketAddr::new(ends.destination, ends.port);
    network.forget(to.ip())?;
    let outcomes = network.ask(&question(asked, PATIENCE, 2));
    match &outcomes[..] {
        [Outcome::Answer(one), Outcome::Answer(two)] if one.by != two.by => Err(format!(
            "{} and then {}: the client was not remembered",
            one.by, two.by
        )),
        [first, ..] => Ok(first.clone()),
        [] => Err("nothing was asked".to_owned()),
    }
}

fn only(
    outcomes: &[Outcome],
    expected: &Outcome,
    client: IpAddr,
    network: &impl Ask,
) -> Result<(), String> {
    match outcomes {
        [outcome] if outcome == expected => Ok(()),
        [outcome] => Err(in_words(outcome, client, network)),
        other => Err(format!("{} outcomes of one question", other.len())),
    }
}

/// As a line has it, with what a line does not say.
fn in_words(outcome: &Outcome, client: IpAddr, network: &impl Ask) -> String {
    match outcome {
        Outcome::Answer(Answer { by, seen }) => {
            let who = network.name(by.ip()).unwrap_or_else(|| by.ip().to_string());
            let masqueraded = if *seen == client { "" } else { " masqueraded" };
            format!("{who} {}{masqueraded} (who saw {seen})", by.port())
        }
        Outcome::Refused => "refused".to_owned(),
        Outcome::Silence => "dropped (no answer)".to_owned(),
        Outcome::Failed(error) => error.clone(),
    }
}

/// Everyone listed answers, in these shares, nobody else does, and each sees whom he should: the
/// client's address, or one of the node's. A node's own packet may carry another of its addresses
/// either way only if it is masqueraded.
fn judge(
    by: &[Candidate<'_>],
    client: IpAddr,
    outcomes: &[Outcome],
    network: &impl Ask,
) -> Result<(), String> {
    let mut counts: BTreeMap<usize, u64> = BTreeMap::new();
    for outcome in outcomes {
        let Outcome::Answer(answer) = outcome else {
            return Err(in_words(outcome, client, network));
        };
        let found = by.iter().position(|candidate| {
            candidate.addresses.contains(&answer.by.ip())
                && candidate.port.is_none_or(|port| port == answer.by.port())
        });
        let Some(found) = found else {
            return Err(in_words(outcome, client, network));
        };
        let right = match by[found].masqueraded {
            true => network.is_nodes(answer.seen),
            false => answer.seen == client,
        };
        if !right {
            return Err(in_words(outcome, client, network));
        }
        *counts.entry(found).or_default() += 1;
    }
    let count = |n| counts.get(&n).copied().unwrap_or_default();
    let counts: Vec<u64> = (0..by.len()).map(count).collect();
    if let Some(silent) = counts.iter().position(|count| *count == 0) {
        let who: Vec<String> = by[silent]
            .addresses
            .iter()
            .map(ToString::to_string)
            .collect();
        return Err(format!("never {}: {counts:?}", who.join(" or ")));
    }
    match by
        .iter()
        .map(|candidate| candidate.share)
        .collect::<Option<Vec<f64>>>()
    {
        Some(shares) => spread(&counts, &shares),
        None => Ok(()),
    }
}
