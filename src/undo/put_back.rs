//! Putting a state back: routes that come, rules, flows, routes that go, kernel settings. The reverse
//! of an installation, and like it: what the rules lead to is reachable as long as they do.

use std::fmt;

use super::fingerprint::Fingerprint;
use super::flows::Gone;
use super::record::Record;
use crate::apply::Host;
use crate::host::HostError;
use crate::host::routes::RouteReport;
use crate::netlink::NetlinkError;
use crate::ruleset::LiveRuleset;
use crate::transaction::{Counts, Operation, Transaction, take_ahead};

/// Times it is tried again after another program's commit came first.
const TRIES: usize = 20;

/// What is made sure of first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// Who puts it back has been in this network namespace since, so that the generation tells
    /// whether anybody committed. It is put back whatever others did.
    Watched,
    /// Nothing is done unless what was left is still there.
    Unchanged,
    /// It is put back whatever others did.
    Whatever,
}

/// What was put back.
#[derive(Debug, Default)]
pub struct PutBack {
    /// Of the tables.
    pub rules: Counts,
    /// Of the routes.
    pub routes: RouteReport,
    /// Kernel settings written.
    pub settings: usize,
    /// Tracked flows that led where nothing leads any more.
    pub flows: usize,
    /// What could not be put back; the rest is.
    pub failed: Vec<String>,
}

/// Why nothing was put back.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Somebody changed what the installation left.
    #[error("what the last apply left is no longer there: {}", .0.join("; "))]
    Differs(Vec<String>),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Something else of the host refused.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl fmt::Display for PutBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&summary(self.rules, self.routes.changed(), self.settings))?;
        match self.flows {
            0 => Ok(()),
            1 => f.write_str(", 1 tracked flow cut"),
            flows => write!(f, ", {flows} tracked flows cut"),
        }
    }
}

/// What was done, in a few words.
#[must_use]
pub fn summary(rules: Counts, routes: usize, settings: usize) -> String {
    let counted = [
        (rules.elements_added, "element", "added"),
        (rules.elements_deleted, "element", "deleted"),
        (rules.rules_added, "rule", "written"),
        (routes, "route", "changed"),
        (settings, "kernel setting", "changed"),
    ];
    let words = counted.iter().filter(|(count, ..)| *count > 0);
    let words: Vec<String> = words
        .map(|(count, noun, done)| {
            let plural = if *count == 1 { "" } else { "s" };
            format!("{count} {noun}{plural} {done}")
        })
        .collect();
    match words.is_empty() {
        true if rules.objects > 0 => "tables changed".to_owned(),
        true => "nothing changed".to_owned(),
        false => words.join(", "),
    }
}

/// Puts back what `record` keeps; what others changed besides stays. O(difference) if it was
/// watched and nobody committed since, otherwise our tables are read back.
///
/// # Errors
/// If the rules are not put back; then nothing is, but routes that come back may be there.
pub fn put_back(host: &mut impl Host, record: &Record, care: Care) -> Result<PutBack, Refusal> {
    let live = host.routes()?;
    let (routes, mut failed) = record.back.routes.steps(&live);
    let mut bound = record.generation;
    let untouched = care == Care::Watched && bound != 0 && host.generation()? == record.generation;
    let mut known = None;
    let mut rules = untouched.then(|| record.back.tables.steps(None));
    if care == Care::Unchanged {
        let now = host.read()?;
        let mut differs = record.after.differences(&Fingerprint::of_live(&now));
        differs.extend(record.back.routes.differences(&live));
        if !differs.is_empty() {
            return Err(Refusal::Differs(differs));
        }
        bound = now.generation;
        rules = Some(record.back.tables.steps(Some(&now)));
        known = Some(now);
    }
    let (coming, going) = routes.split();
    let mut report = host.change_routes(&coming)?;
    let (mut counts, mut gone) = (Counts::default(), Gone::default());
    for last in (0..TRIES).rev() {
        let (delta, lost) = match rules.take() {
            Some(rules) => rules,
            None => {
                let now = host.read()?;
                // Somebody came in between.
                let differs = record.after.differences(&Fingerprint::of_live(&now));
                if care == Care::Unchanged && !differs.is_empty() {
                    return Err(Refusal::Differs(differs));
                }
                bound = now.generation;
                let steps = record.back.tables.steps(Some(&now));
                known = Some(now);
                steps
            }
        };
        counts = delta.counts();
        let seen = whole(host, &delta, known.take())?;
        gone = Gone::of(&delta, seen.as_ref());
        match commit(host, delta, bound) {
            Ok(counters) => {
                failed.extend(lost);
                failed.extend(
                    counters.map(|error| {
                        format!("counters of replaced elements start from 0: {error}")
                    }),
                );
                break;
            }
            // Another program came first, or what was left is not there after all.
            Err(_) if last > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
    let flows = gone.cut(host).unwrap_or_else(|error| {
        failed.push(format!("tracked flows that began since: {error}"));
        0
    });
    report.extend(host.change_routes(&going)?);
    failed.extend(report.errors.iter().map(ToString::to_string));
    let mut settings = 0;
    for setting in &record.back.settings {
        match host.sysctls().put_back(&setting.path, &setting.before) {
            Ok(written) => settings += usize::from(written),
            Err(error) => failed.push(error.to_string()),
        }
    }
    Ok(PutBack {
        rules: counts,
        routes: report,
        settings,
        flows,
        failed,
    })
}

/// Our tables as they are, if one goes as a whole: what is in it was not kept.
fn whole(
    host: &mut impl Host,
    delta: &Transaction,
    known: Option<LiveRuleset>,
) -> Result<Option<LiveRuleset>, NetlinkError> {
    let mut operations = delta.tables.iter().flat_map(|table| &table.operations);
    match known {
        None if operations.any(|o| *o == Operation::DeleteTable) => host.read().map(Some),
        known => Ok(known),
    }
}

/// Commits it, interval sets ahead; says why counters are lost, if they are.
fn commit(
    host: &mut impl Host,
    mut delta: Transaction,
    bound: u32,
) -> Result<Option<NetlinkError>, NetlinkError> {
    if delta.is_empty() {
        return Ok(None);
    }
    let first = take_ahead(&mut delta);
    let mut bound = bound;
    if !first.is_empty() {
        host.commit(&first, bound)?;
        bound = crate::apply::next_generation(bound);
    }
    let lost = host.carry_counters(&mut delta).err();
    delta.tables.retain(|table| !table.operations.is_empty());
    if !delta.is_empty() {
        host.commit(&delta, bound)?;
    }
    Ok(lost)
}
