//! A traced packet, held against what was foretold of it. Pure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::cluster::{Family, Protocol};
use crate::netlink::{Decision, Ends, Judge, MARKS, SEEN, TRACE_TABLE, Verdict};
use crate::ruleset::{Action, LiveTable, Rule, Statement, TABLE, Table, lower};
use crate::walk::{Fate, Step, Trace};

/// Chains of ours that a packet meets once its destination is decided.
const AFTER: [&str; 2] = ["nat-postrouting", "nat-input"];

/// The rules of our table by chain and handle, as far as they are known.
#[derive(Default)]
pub struct Rules(BTreeMap<(String, u64), Rule>);

impl Rules {
    /// Those of `table` that the kernel holds: `live`, with the handles it gave them.
    pub fn of(table: &Table, live: &LiveTable, handles: &[(String, u64)]) -> Self {
        let mut found = BTreeMap::new();
        let mut next: BTreeMap<&str, usize> = BTreeMap::new();
        for (chain, handle) in handles {
            let number = next.entry(chain).or_default();
            let code = live.chains.get(chain).and_then(|c| c.rules.get(*number));
            *number += 1;
            let mut known = table.chain(chain).into_iter().flat_map(|c| &c.rules);
            let rule = known.find(|rule| Some(&lower(rule, table)) == code);
            if let Some(rule) = rule {
                found.insert((chain.clone(), *handle), rule.clone());
            }
        }
        Self(found)
    }

    /// The rule of ours that decided.
    pub fn rule(&self, decision: &Decision) -> Option<&Rule> {
        match decision.judge {
            Judge::Rule(handle) if is_ours(decision) => {
                self.0.get(&(decision.chain.clone(), handle))
            }
            _ => None,
        }
    }
}

/// What was foretold.
pub struct Foretold {
    /// Our table, with the installed elements.
    pub table: Table,
    /// The walk through it.
    pub trace: Trace,
    /// Where its way over the node breaks off otherwise, in one sentence: another program's
    /// rule, a route that is not there and so on.
    pub broken: Option<String>,
}

/// What was seen of one packet.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// In order.
    pub decisions: Vec<Decision>,
}

/// How it ended, as far as nf_tables saw.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End<'a> {
    /// Dropped, or refused: that is a drop with an answer.
    Dropped(&'a Decision),
    /// It went out, or to this node itself, to and from there.
    Reached(Ends),
    /// Nothing is known of it after this.
    Lost(&'a Decision),
}

/// How a decision stands to what was foretold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// It was foretold.
    Foretold,
    /// The first that is not as foretold.
    Differs,
    /// Nothing was foretold about it.
    Open,
}

/// A line of what is told: a decision, or a step that was foretold and did not come.
pub enum Line<'a> {
    Decided(Mark, &'a Decision, Option<&'a Step>),
    Missing(&'a Step),
}

fn is_ours(decision: &Decision) -> bool {
    let family = Family::ALL.iter().any(|f| f.nft_name() == decision.family);
    family && decision.table == TABLE
}

/// True if a packet begins with this: it was marked just now.
fn begins(decision: &Decision) -> bool {
    let marked = matches!(decision.judge, Judge::Rule(_)) && MARKS.contains(&&*decision.chain);
    marked && is_own(decision)
}

/// Adds a decision to the packet that it is about, among those under way; `now` is when. One
/// with another number that was not marked just now has got it on its way: it is the packet
/// with the same source, or else the last that anything was said of. If none is under way, it
/// is a packet that somebody else traces.
pub fn add<T: Copy>(under_way: &mut Vec<(Seen, T)>, decision: Decision, now: T) {
    let of = |seen: &Seen| {
        seen.decisions
            .last()
            .is_some_and(|d| d.packet == decision.packet)
    };
    let mut at = under_way.iter().rposition(|(seen, _)| of(seen));
    if at.is_none() && !begins(&decision) {
        let source = decision.ends.map(|ends| ends.source);
        let same = |seen: &Seen| source.is_some() && seen.first().map(|f| f.source) == source;
        at = under_way.iter().rposition(|(seen, _)| same(seen));
        at = at.or_else(|| under_way.len().checked_sub(1));
    }
    match at {
        Some(at) => {
            under_way[at].0.decisions.push(decision);
            under_way[at].1 = now;
        }
        None if !begins(&decision) => {}
        None => {
            let decisions = vec![decision];
            under_way.push((Seen { decisions }, now));
        }
    }
}

/// True for what the trace's own table does.
fn is_own(decision: &Decision) -> bool {
    decision.table == TRACE_TABLE
}

impl Seen {
    /// The packet as it came.
    pub fn first(&self) -> Option<Ends> {
        self.decisions.iter().find_map(|d| d.ends)
    }

    /// True if our rules were asked where it goes: they are not for a packet of a connection
    /// that is tracked already.
    pub fn is_first_of_connection(&self) -> bool {
        self.decisions.iter().any(is_ours)
    }

    /// How it ended.
    pub fn end(&self) -> Option<End<'_>> {
        let dropped = self.decisions.iter().find(|d| d.verdict == Verdict::Drop);
        if let Some(decision) = dropped {
            return Some(End::Dropped(decision));
        }
        let last = self.decisions.last()?;
        let seen = self.decisions.iter().rev();
        let mut seen = seen.filter(|d| is_own(d) && SEEN.contains(&&*d.chain));
        // The headers come with the first that is said of a chain.
        Some(match seen.find_map(|d| d.ends) {
            Some(ends) => End::Reached(ends),
            None => End::Lost(last),
        })
    }

    /// Decision by decision, beside what was foretold of it, up to where the destination is
    /// decided; which masquerade follows depends on the draw, and is judged by its result.
    pub fn lines<'a>(&'a self, foretold: Option<&'a Foretold>, rules: &Rules) -> Vec<Line<'a>> {
        let mut steps = foretold
            .map(|f| f.trace.steps.as_slice())
            .unwrap_or_default();
        let until = steps.iter().position(|step| AFTER.contains(&&*step.chain));
        steps = &steps[..until.unwrap_or(steps.len())];
        let mut lines = Vec::new();
        // Rules of ours are asked once, for the first packet of a connection.
        let mut open = foretold.is_none() || !self.is_first_of_connection();
        let mut after = false;
        let told = |d: &&Decision| !is_own(d) && d.judge != Judge::Nobody;
        for decision in self.decisions.iter().filter(told) {
            if is_ours(decision) && AFTER.contains(&&*decision.chain) && !after {
                after = true;
                if !open && let Some(step) = steps.first() {
                    lines.push(Line::Missing(step));
                    open = true;
                }
            }
            let rule = matches!(decision.judge, Judge::Rule(_)) && is_ours(decision);
            if !rule || open || after {
                lines.push(Line::Decided(Mark::Open, decision, None));
                continue;
            }
            let same = |step: &Step| {
                step.chain == decision.chain && Some(&step.rule) == rules.rule(decision)
            };
            // The walk follows every draw, and what comes after one that found nothing.
            let missed = steps
                .iter()
                .take_while(|step| translates(step) && !same(step));
            let missed = missed.count();
            match steps.get(missed).filter(|step| same(step)) {
                Some(step) => {
                    let rest = if translates(step) {
                        steps.len()
                    } else {
                        missed + 1
                    };
                    steps = &steps[rest..];
                    lines.push(Line::Decided(Mark::Foretold, decision, Some(step)));
                }
                None => {
                    open = true;
                    lines.extend(steps.first().map(Line::Missing));
                    lines.push(Line::Decided(Mark::Differs, decision, None));
                }
            }
        }
        if !open && let Some(step) = steps.first() {
            lines.push(Line::Missing(step));
        }
        lines
    }

    /// True if it ended as foretold.
    pub fn ended_as(&self, foretold: &Foretold, rules: &Rules) -> bool {
        let Some(end) = self.end() else { return false };
        let broken = foretold.broken.is_some();
        let foretold = &foretold.trace;
        let (to, masqueraded) = match (end, foretold.fate) {
            (End::Dropped(by), Fate::Accepted) => return broken && !is_ours(by),
            (End::Lost(_), Fate::Accepted) => return broken,
            (End::Dropped(by), Fate::Refused) => return is_ours(by) && refuses(rules.rule(by)),
            (End::Dropped(by), Fate::Dropped) => return is_ours(by) && !refuses(rules.rule(by)),
            (End::Reached(ends), Fate::Accepted) => (ends.destination, self.is_masqueraded(ends)),
            _ => return false,
        };
        if foretold.candidates.is_empty() {
            let asked = self.first().map(|first| first.destination);
            return asked == Some(to) && masqueraded == foretold.masqueraded;
        }
        foretold.candidates.iter().any(|candidate| {
            let endpoint = (candidate.endpoint.addr, candidate.endpoint.port.get());
            endpoint == to && candidate.masqueraded == masqueraded
        })
    }

    /// True if it went out or was delivered.
    pub fn arrived(&self) -> bool {
        matches!(self.end(), Some(End::Reached(_)))
    }

    /// True if its source was another at the end.
    pub fn is_masqueraded(&self, ends: Ends) -> bool {
        self.first()
            .is_some_and(|first| first.source != ends.source)
    }

    /// What became of it, in words.
    pub fn ended(&self, rules: &Rules) -> String {
        match self.end() {
            None => "nothing is known of it".to_owned(),
            Some(End::Dropped(by)) => {
                let how = match is_ours(by) && refuses(rules.rule(by)) {
                    true => "refused",
                    false => "dropped",
                };
                format!("{how} by {}", judge(by))
            }
            Some(End::Reached(ends)) => {
                let translated = self
                    .first()
                    .is_some_and(|f| f.destination != ends.destination);
                let seen = match self.is_masqueraded(ends) {
                    true => "this node's address",
                    false => "the client's address",
                };
                let how = match translated {
                    true => "goes to",
                    false => "goes on untranslated, to",
                };
                let to = SocketAddr::from(ends.destination);
                format!("{how} {to}, which sees {seen}")
            }
            Some(End::Lost(last)) => format!(
                "not seen any more after {}: there is no route for it, a kernel setting such as \
                 rp_filter is against it, or something that is not nf_tables has it",
                judge(last)
            ),
        }
    }
}

/// True for a rule that says where the packet goes, if its draw finds anything.
fn translates(step: &Step) -> bool {
    let mut statements = step.rule.statements.iter();
    statements.any(|s| matches!(s, Statement::Action(Action::Dnat { .. })))
}

fn refuses(rule: Option<&Rule>) -> bool {
    let mut statements = rule.into_iter().flat_map(|rule| &rule.statements);
    statements.any(|s| {
        matches!(
            s,
            Statement::Action(Action::Reject | Action::RejectTcpReset)
        )
    })
}

/// Who decided, in words.
fn judge(decision: &Decision) -> String {
    let Decision {
        family,
        table,
        chain,
        ..
    } = decision;
    let at = format!("chain {chain} of table {family} {table}");
    match decision.judge {
        Judge::Rule(handle) => format!("rule handle {handle} of {at}"),
        Judge::Policy => format!("the policy of {at}"),
        Judge::End | Judge::Nobody => at,
    }
}

/// What was foretold, in words.
pub fn foretold(was: &Foretold) -> String {
    let ours = led(&was.trace);
    match &was.broken {
        Some(broken) if was.trace.fate == Fate::Accepted => format!("{ours}; {broken}"),
        _ => ours,
    }
}

/// What our rules make of it.
fn led(trace: &Trace) -> String {
    match trace.fate {
        Fate::Dropped => "dropped".to_owned(),
        Fate::Refused => "refused".to_owned(),
        Fate::Accepted if trace.candidates.is_empty() => match trace.masqueraded {
            true => "goes on untranslated, behind this node's address".to_owned(),
            false => "goes on untranslated".to_owned(),
        },
        Fate::Accepted => {
            let one = |c: &crate::walk::Candidate| {
                let to = SocketAddr::new(c.endpoint.addr, c.endpoint.port.get());
                let seen = match c.masqueraded {
                    true => "this node's address",
                    false => "the client's address",
                };
                format!("{to}, which sees {seen} ({:.2} %)", c.probability * 100.0)
            };
            let all: Vec<String> = trace.candidates.iter().map(one).collect();
            format!("goes to {}", all.join(", or "))
        }
    }
}

/// `10.0.0.1:40000 -> 10.254.0.10:80/TCP`.
pub fn named(ends: Ends, protocol: Protocol) -> String {
    let at = |(addr, port): (IpAddr, u16)| SocketAddr::new(addr, port);
    let (from, to) = (at(ends.source), at(ends.destination));
    format!("{from} -> {to}/{protocol}")
}

#[cfg(test)]
mod tests;
