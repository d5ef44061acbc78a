//! A traced packet in words and as JSON.

use std::io::{self, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::packet::{Foretold, Line, Mark, Rules, Seen, foretold, named};
use crate::netlink::{Decision, Judge, Verdict};
use crate::print;
use crate::walk::{Packet, Step, family};

/// A packet, and what was to become of it.
pub struct Scene<'a> {
    pub seen: &'a Seen,
    pub foretold: Option<&'a Foretold>,
    pub rules: &'a Rules,
    pub packet: &'a Packet,
}

impl Scene<'_> {
    fn lines(&self) -> Vec<Line<'_>> {
        self.seen.lines(self.foretold, self.rules)
    }

    fn ended_as_foretold(&self) -> Option<bool> {
        let foretold = self.foretold?;
        Some(self.seen.ended_as(foretold, self.rules))
    }

    /// True if anything was not as foretold.
    pub fn differs(&self) -> bool {
        let differs =
            |line: &Line<'_>| matches!(line, Line::Missing(_) | Line::Decided(Mark::Differs, ..));
        self.ended_as_foretold() == Some(false) || self.lines().iter().any(differs)
    }

    /// A rule of ours as nft writes it.
    fn written(&self, decision: &Decision) -> Option<String> {
        let rule = self.rules.rule(decision)?;
        Some(print::text::rule(family(self.packet), rule))
    }

    fn step(&self, step: &Step) -> String {
        let rule = print::text::rule(family(self.packet), &step.rule);
        let element = step.element.as_ref();
        let element = element.map_or_else(String::new, |e| format!("   [{e}]"));
        format!("{}: {rule}{element}", step.chain)
    }

    fn first(&self) -> String {
        let first = self.seen.first();
        first.map_or_else(
            || "a packet without headers".to_owned(),
            |ends| named(ends, self.packet.protocol),
        )
    }
}

fn verdict(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Continue => "continue".to_owned(),
        Verdict::Accept => "accept".to_owned(),
        Verdict::Drop => "drop".to_owned(),
        Verdict::Jump(chain) => format!("jump {chain}"),
        Verdict::Goto(chain) => format!("goto {chain}"),
        Verdict::Return => "return".to_owned(),
        Verdict::Other(3) => "queue".to_owned(),
        Verdict::Other(code) => format!("verdict {code}"),
    }
}

/// In words: `=` is as foretold, `!` is not.
pub fn text(out: &mut impl Write, scene: &Scene<'_>) -> io::Result<()> {
    writeln!(out, "{}", scene.first())?;
    if scene.foretold.is_some() && !scene.seen.is_first_of_connection() {
        let why = "its connection is tracked already, or something else decided before";
        writeln!(out, "  our rules were not asked: {why}")?;
    }
    let mut differs = false;
    for line in scene.lines() {
        match line {
            Line::Missing(step) => {
                differs = true;
                writeln!(out, "! foretold, and not done: {}", scene.step(step))?;
            }
            Line::Decided(mark, decision, step) => {
                differs |= mark == Mark::Differs;
                let mark = match mark {
                    Mark::Foretold => '=',
                    Mark::Differs => '!',
                    Mark::Open => ' ',
                };
                let Decision {
                    family,
                    table,
                    chain,
                    ..
                } = decision;
                let given = verdict(&decision.verdict);
                let what = match (scene.written(decision), decision.judge) {
                    (Some(rule), _) => rule,
                    (None, Judge::Rule(handle)) => format!("rule handle {handle}: {given}"),
                    (None, Judge::Policy) => format!("policy {given}"),
                    (None, Judge::End | Judge::Nobody) => format!("end: {given}"),
                };
                let element = step.and_then(|step| step.element.as_ref());
                let element = element.map_or_else(String::new, |e| format!("   [{e}]"));
                writeln!(out, "{mark} {family} {table} {chain}: {what}{element}")?;
            }
        }
    }
    let ended = scene.seen.ended(scene.rules);
    match (scene.ended_as_foretold(), scene.foretold) {
        (Some(true), _) if differs => writeln!(out, "= {ended}: as foretold, by another way"),
        (Some(true), Some(was)) => {
            writeln!(out, "= {ended}: as foretold")?;
            match was.broken.as_ref().filter(|_| !scene.seen.arrived()) {
                Some(broken) => writeln!(out, "  {broken}"),
                None => Ok(()),
            }
        }
        (Some(false), Some(was)) => {
            writeln!(out, "! {ended}\n  foretold: {}", foretold(was))
        }
        _ => writeln!(out, "  {ended}"),
    }
}

/// As JSON: the same facts as fields.
pub fn json(scene: &Scene<'_>) -> Value {
    let lines: Vec<Value> = scene
        .lines()
        .iter()
        .map(|line| match line {
            Line::Missing(step) => json!({
                "missing": true,
                "chain": step.chain,
                "rule": print::text::rule(family(scene.packet), &step.rule),
                "element": step.element,
                "asForetold": false,
            }),
            Line::Decided(mark, decision, step) => json!({
                "family": decision.family,
                "table": decision.table,
                "chain": decision.chain,
                "by": match decision.judge {
                    Judge::Rule(_) => "rule",
                    Judge::Policy => "policy",
                    Judge::End | Judge::Nobody => "end",
                },
                "handle": match decision.judge {
                    Judge::Rule(handle) => Some(handle),
                    Judge::Policy | Judge::End | Judge::Nobody => None,
                },
                "verdict": verdict(&decision.verdict),
                "rule": scene.written(decision),
                "element": step.and_then(|step| step.element.as_ref()),
                "asForetold": match mark {
                    Mark::Foretold => Some(true),
                    Mark::Differs => Some(false),
                    Mark::Open => None,
                },
            }),
        })
        .collect();
    let first = scene.seen.first();
    let at = |end: Option<(std::net::IpAddr, u16)>| end.map(|e| SocketAddr::from(e).to_string());
    json!({
        "source": at(first.map(|ends| ends.source)),
        "destination": at(first.map(|ends| ends.destination)),
        "protocol": scene.packet.protocol.to_string(),
        "decisions": lines,
        "end": scene.seen.ended(scene.rules),
        "foretold": scene.foretold.map(foretold),
        "asForetold": scene.foretold.map(|_| !scene.differs()),
    })
}
