//! Other programs that do the same job, or undo it, by everybody's chains. Pure.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;

use crate::foreign::{Base, Chain, Conditions, Effect, Family, Hook, Origin, Rules, Table};
use crate::plan::{FrontendKey, NodePlan};
use crate::problem::Problem;

/// kube-proxy's tables in nftables mode.
const KUBE_PROXY_TABLE: &str = "kube-proxy";
/// Its chain in iptables mode.
const KUBE_SERVICES: &str = "KUBE-SERVICES";
/// What becomes of a translation that is ours to make.
const ELSEWHERE: &str = "remove the rule, or what wrote it";
/// Conflicts named of each kind; the rest are counted.
const NAMED: usize = 5;

/// What ours is to be held against.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// This node's plan.
    pub plan: &'a NodePlan,
    /// Where pods are, this node's and others'.
    pub pods: &'a [IpNet],
    /// Priority of our translation of destinations.
    pub priority: i32,
}

/// A chain and where it is.
#[derive(Clone, Copy)]
struct Place<'a> {
    origin: Origin,
    table: &'a str,
    name: &'a str,
    base: &'a Base,
    /// Its table came after ours; `None` if that cannot be told.
    newer: Option<bool>,
}

impl Place<'_> {
    fn warn(&self, message: &str, repair: &str) -> Problem {
        let (origin, table) = (self.origin, self.table);
        let (owner, look) = match origin.legacy {
            true => (
                format!("{origin} table {table}"),
                format!("{origin}-save -t {table}"),
            ),
            false => (
                format!("table {origin} {table}"),
                format!("nft -a list table {origin} {table}"),
            ),
        };
        Problem::warning(None, object(origin, table), "", message)
            .of(owner)
            .repaired_by(format!("{repair}: {look}"))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hook, priority) = (self.base.hook.nft_name(), self.base.priority);
        let name = self.name;
        write!(f, "its chain {name} (hook {hook}, priority {priority})")
    }
}

/// All that was found, each once, with its chain.
#[must_use]
pub fn others(rules: &Rules, ours: &Ours<'_>) -> Vec<Problem> {
    let mut problems = proxies(rules);
    let unread = rules.unread.iter();
    problems.extend(unread.map(|what| Problem::warning(None, "other programs", "", what.clone())));
    for (origin, name, table) in rules.all() {
        for (chain_name, chain) in &table.chains {
            let Some(base) = &chain.base else { continue };
            let place = Place {
                origin,
                table: name,
                name: chain_name,
                base,
                newer: match rules.ours.values().max() {
                    // Ours will come after whatever is there.
                    None => Some(false),
                    Some(ours) => table.handle.map(|handle| handle > *ours),
                },
            };
            let found = |effect| rules_that(table, chain_name, chain, &effect);
            match base.hook {
                Hook::Prerouting | Hook::Output => {
                    problems.extend(translated(place, &found(Effect::Dnat), ours));
                }
                Hook::Postrouting => {
                    problems.extend(masqueraded(place, &found(Effect::Snat), ours));
                }
                Hook::Ingress | Hook::Egress | Hook::Input | Hook::Forward => {}
            }
        }
    }
    problems
}

fn object(origin: Origin, table: &str) -> String {
    match origin.legacy {
        true => format!("{origin} table {table}"),
        false => format!("nftables table {origin} {table}"),
    }
}

/// kube-proxy, in the two modes that show in tables.
fn proxies(rules: &Rules) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    for (origin, name, table) in rules.all() {
        let mode = if name == KUBE_PROXY_TABLE {
            "nftables"
        } else if name == "nat" && table.chains.contains_key(KUBE_SERVICES) {
            "iptables"
        } else {
            continue;
        };
        problems.insert(proxied(&object(origin, name), "", mode));
    }
    problems.into_iter().collect()
}

/// What to say of kube-proxy in this mode, after what was seen of it.
#[must_use]
pub fn proxied(object: &str, seen: &str, mode: &str) -> Problem {
    let message = format!(
        "{seen}kube-proxy ({mode} mode) translates services here as well, or did: whoever comes \
         first decides"
    );
    Problem::warning(None, object, "", message)
        .of("kube-proxy")
        .repaired_by("stop it, then kube-proxy --cleanup")
}

/// The rules with this effect that packets can come to from a chain, each with its own chain's
/// name and the conditions on the way to it.
fn rules_that<'t>(
    table: &'t Table,
    name: &'t str,
    chain: &'t Chain,
    effect: &Effect,
) -> Vec<(&'t str, Conditions)> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut left = vec![(name, chain, Conditions::default())];
    while let Some((name, chain, on_the_way)) = left.pop() {
        if !seen.insert(name) {
            continue;
        }
        for rule in &chain.rules {
            let (own, does) = rule.summary();
            let all = on_the_way.and(&own);
            match does {
                Effect::To(to) => {
                    let next = table.chains.get_key_value(&to);
                    left.extend(next.map(|(name, chain)| (name.as_str(), chain, all)));
                }
                does if does == *effect => found.push((name, all)),
                _ => {}
            }
        }
    }
    found
}

/// Translations of destinations that are ours to translate.
fn translated(place: Place<'_>, rules: &[(&str, Conditions)], ours: &Ours<'_>) -> Vec<Problem> {
    use std::cmp::Ordering::{Equal, Greater, Less};
    let order = match (place.base.priority.cmp(&ours.priority), place.newer) {
        (Less, _) => "before svcnat's",
        // The kernel asks the chain that came last first.
        (Equal, Some(true)) => "before svcnat's, which was there before it",
        (Equal, None) => "at the priority of svcnat's: whoever came last decides",
        (Greater | Equal, _) => "after svcnat's, where svcnat leaves it untranslated",
    };
    // kube-proxy is named once, not by each of its services.
    let by_others = rules.iter().filter(|(name, _)| !name.starts_with("KUBE-"));
    let conflicts: BTreeSet<(String, &str)> = by_others
        .filter(|_| place.table != KUBE_PROXY_TABLE)
        .filter_map(|(name, rule)| Some((claimed(rule, place.origin.family, ours)?, *name)))
        .collect();
    let named = conflicts.iter().take(NAMED).map(|(what, by)| {
        let by = if *by == place.name {
            place.to_string()
        } else {
            format!("{place} by way of chain {by}")
        };
        place.warn(&format!("{by} translates {what} too, {order}"), ELSEWHERE)
    });
    let more = conflicts.len().saturating_sub(NAMED);
    let rest = (more > 0).then(|| {
        place.warn(
            &format!("{place} translates {more} more of ours, {order}"),
            ELSEWHERE,
        )
    });
    named.chain(rest).collect()
}

/// True if chains of one family see packets of the other.
fn sees(family: Family, packets: crate::cluster::Family) -> bool {
    match family {
        Family::Inet | Family::Bridge | Family::Netdev => true,
        Family::Ip => packets == crate::cluster::Family::Ip,
        Family::Ip6 => packets == crate::cluster::Family::Ip6,
    }
}

/// What of ours a rule is for, if it is known to be.
fn claimed(rule: &Conditions, family: Family, ours: &Ours<'_>) -> Option<String> {
    let protocol = |number: u8| rule.protocol.is_none_or(|p| p == number);
    let port = |number: u16| rule.port.is_none_or(|p| p == number);
    for plan in &ours.plan.families {
        if !sees(family, plan.family) {
            continue;
        }
        for (key, frontend) in &plan.frontends {
            let at = match (key, rule.destination) {
                (FrontendKey::Address(addr, ..), Some(net)) => net.contains(addr),
                (FrontendKey::NodePort(..), None) => rule.port.is_some(),
                _ => false,
            };
            if at && protocol(key.protocol().number()) && port(key.port().get()) {
                return Some(format!("{key} of Service {}", frontend.owner.service));
            }
        }
        for (key, host_port) in &plan.host_ports {
            let at = match (key.addr, rule.destination) {
                (Some(addr), Some(net)) => net.contains(&addr),
                (_, None) => rule.port.is_some(),
                (None, Some(net)) => {
                    net.prefix_len() == net.max_prefix_len() && rule.port.is_some()
                }
            };
            if at && protocol(key.protocol.number()) && port(key.port.get()) {
                let (port, owner) = (key.port, &host_port.owner);
                return Some(format!("hostPort {port}/{} of Pod {owner}", key.protocol));
            }
        }
    }
    None
}

/// Masquerades of pods: nobody else sees their addresses then.
fn masqueraded(place: Place<'_>, rules: &[(&str, Conditions)], ours: &Ours<'_>) -> Vec<Problem> {
    let sources: BTreeSet<IpNet> = rules
        .iter()
        .filter(|(name, _)| !name.starts_with("KUBE-") && place.table != KUBE_PROXY_TABLE)
        .filter_map(|(_, rule)| match rule.source {
            Some(net) if ours.pods.iter().any(|pods| overlap(pods, &net)) => Some(net),
            // Whatever leaves: pods as well.
            None if !rule.conditional => ours.pods.first().copied(),
            _ => None,
        })
        .collect();
    let sources = sources.into_iter().map(|net| {
        let message = format!(
            "{place} masquerades packets from {net}, which are pods: where it applies, others see \
             this node's address instead of the pod's"
        );
        place.warn(&message, "leave the cluster's own destinations out of it")
    });
    sources.collect()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.addr()) || b.contains(&a.addr())
}
