//! Packets through what is installed here, and over this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cli::error::CliError;
use crate::cli::explain::live::{self, Installed};
use crate::cli::intent::host;
use crate::cluster::Family;
use crate::compile::FOLLOWING;
use crate::host::interfaces;
use crate::host::surroundings::Surroundings;
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::path::{Ours, follow};
use crate::ruleset::{Ruleset, Table};
use crate::verify::{self, Asked, Check, Failure, Verdict, Walker};
use crate::walk::Fate;

/// Whether what is installed is what the inputs say, and what becomes of each packet.
pub fn checks(node: &Node, file: &str, asked: &[Asked<'_>]) -> Result<Vec<Check>, CliError> {
    let mut local = verify::addresses(node);
    local.extend(interfaces::local_addresses(
        &interfaces::list().map_err(host)?,
    ));
    let mut found: BTreeMap<Family, Installed> = BTreeMap::new();
    let is_local = |addr: IpAddr| addr.is_loopback() || local.contains(&addr);
    let none = Ruleset::default();
    let walker = Walker {
        node,
        ruleset: &none,
        local: &local,
        absent: true,
    };
    for family in Family::ALL {
        let ends = asked.iter().map(|asked| &asked.ends);
        let ends = ends.filter(|ends| Family::of(&ends.destination) == family);
        let packets: Vec<_> = ends.map(|ends| walker.packet(ends)).collect();
        if !packets.is_empty() {
            found.insert(family, live::installed(node, family, &packets, &is_local)?);
        }
    }
    let mut checks = Vec::new();
    for (family, mut installed) in found {
        let surroundings = Surroundings::new(std::mem::take(&mut installed.others));
        let mut surroundings = surroundings.map_err(host)?;
        // Lines are about new connections.
        surroundings.looks_at_flows = false;
        let here = Here {
            node,
            local: &local,
            installed: &installed,
        };
        for asked in asked {
            if Family::of(&asked.ends.destination) == family {
                let verdict = here.verdict(asked, &mut surroundings);
                checks.push((asked.packet.line, asked.check(file, verdict)));
            }
        }
    }
    checks.sort_by_key(|(line, _)| *line);
    let mut checks: Vec<Check> = checks.into_iter().map(|(_, check)| check).collect();
    checks.push(is_installed(node, file)?);
    Ok(checks)
}

fn is_installed(node: &Node, file: &str) -> Result<Check, CliError> {
    let live = Nfnetlink::open()?.read(FOLLOWING)?;
    let delta = node.diff(&live);
    let found = match delta.is_empty() {
        true => Ok(()),
        false => Err("differences: svcnat diff tells them".to_owned()),
    };
    let name = "what is installed";
    Ok(Check::of(file, name, "what the inputs say", found))
}

struct Here<'a> {
    node: &'a Node,
    local: &'a BTreeSet<IpAddr>,
    installed: &'a Installed,
}

impl Here<'_> {
    /// What our rules make of it; and where that is as written and somebody is to answer, whether
    /// anything of this host is in the way.
    fn verdict(&self, asked: &Asked<'_>, surroundings: &mut Surroundings) -> Verdict {
        let none = Ruleset::default();
        let ruleset = self.installed.ruleset.as_ref();
        let walker = Walker {
            node: self.node,
            ruleset: ruleset.unwrap_or(&none),
            local: self.local,
            absent: ruleset.is_none(),
        };
        let found = walker.walk(asked);
        if !found.as_written || found.trace.fate != Fate::Accepted {
            return found.verdict(asked);
        }
        let family = Family::of(&asked.ends.destination);
        let empty = Table::new(family);
        let ours = Ours {
            table: walker.ruleset.tables.get(&family).unwrap_or(&empty),
            trace: &found.trace,
            reason: &found.because,
            expected: found.is_ours,
            pods: &self.node.context.pod_cidrs,
            altered: self.installed.agreement.alters(&found.trace),
        };
        let path = follow(surroundings, &walker.packet(&asked.ends), &ours);
        match path.broken() {
            None => Verdict::Passed,
            Some(hop) => Verdict::Failed(Failure {
                expected: found.end.to_string(),
                got: format!("{}: {}", hop.at, hop.found),
                because: hop
                    .repair
                    .as_ref()
                    .map(|repair| format!("repair: {repair}")),
            }),
        }
    }
}
