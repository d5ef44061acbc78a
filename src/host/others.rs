//! Other programs that do the same job, or undo it, by everybody's nftables chains. Pure.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::netlink::{End, ForeignBase, ForeignChain, ForeignHook as Hook, ForeignRule};
use crate::plan::{FrontendKey, NodePlan};
use crate::problem::Problem;

/// kube-proxy's tables in nftables mode.
const KUBE_PROXY_TABLE: &str = "kube-proxy";
/// Its chain in iptables mode.
pub(super) const KUBE_SERVICES: &str = "KUBE-SERVICES";
/// Jumps followed: deeper than people and programs nest them.
const DEPTH: usize = 16;
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

/// A table and its chains by name.
type Tables<'a> = BTreeMap<(&'a str, &'a str), BTreeMap<&'a str, &'a ForeignChain>>;

/// How packets that no earlier rule accepts end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Policy,
    Dropped,
    Refused,
}

/// All that was found, each once, with its chain.
#[must_use]
pub fn others(chains: &[ForeignChain], ours: &Ours<'_>) -> Vec<Problem> {
    let tables = tables(chains);
    let mut problems = proxies(chains);
    problems.extend(drops(
        chains,
        &[
            Hook::Ingress,
            Hook::Egress,
            Hook::Prerouting,
            Hook::Forward,
            Hook::Output,
            Hook::Postrouting,
        ],
    ));
    let walks = Walks { tables: &tables };
    for (chain, base) in base_chains(chains) {
        problems.extend(ended(chain, base, &walks, ours));
        match base.hook {
            Hook::Prerouting | Hook::Output => {
                let rules = walks.rules(chain, &End::Dnat);
                problems.extend(translated(chain, base, &rules, ours));
            }
            Hook::Postrouting => {
                let rules = walks.rules(chain, &End::Snat);
                problems.extend(masqueraded(chain, base, &rules, ours));
            }
            Hook::Ingress | Hook::Egress | Hook::Input | Hook::Forward => {}
        }
    }
    problems
}

/// Chains at these hooks that end the way of what their rules have not let through.
#[must_use]
pub fn drops(chains: &[ForeignChain], hooks: &[Hook]) -> Vec<Problem> {
    let say = |(chain, base, last): (&ForeignChain, &ForeignBase, Last)| {
        let how = match last {
            Last::Policy => "drops by policy",
            Last::Dropped => "drops, by its last rule,",
            Last::Refused => "refuses, by its last rule,",
        };
        let what = match base.hook {
            Hook::Forward => "forwarded packets",
            Hook::Output => "packets this node sends",
            _ => "packets",
        };
        let place = place(chain, base);
        warn(
            chain,
            &format!(
                "{place} {how} {what} that no earlier rule of it accepts: pods and services get \
                 through only as far as those do"
            ),
        )
    };
    dropping(chains, hooks).into_iter().map(say).collect()
}

fn dropping<'a>(
    chains: &'a [ForeignChain],
    hooks: &[Hook],
) -> Vec<(&'a ForeignChain, &'a ForeignBase, Last)> {
    let tables = tables(chains);
    let walks = Walks { tables: &tables };
    let at_hook = base_chains(chains).filter(|(_, base)| hooks.contains(&base.hook));
    at_hook
        .filter_map(|(chain, base)| {
            let policy = base.drops.then_some(Last::Policy);
            let last = walks.last(chain, DEPTH).or(policy)?;
            Some((chain, base, last))
        })
        .collect()
}

fn tables(chains: &[ForeignChain]) -> Tables<'_> {
    let mut tables = Tables::new();
    for chain in chains {
        let table = tables.entry((chain.family, &chain.table)).or_default();
        table.insert(&chain.name, chain);
    }
    tables
}

fn base_chains(chains: &[ForeignChain]) -> impl Iterator<Item = (&ForeignChain, &ForeignBase)> {
    chains
        .iter()
        .filter_map(|chain| Some((chain, chain.base.as_ref()?)))
}

fn warn(chain: &ForeignChain, message: &str) -> Problem {
    let object = format!("nftables table {} {}", chain.family, chain.table);
    Problem::warning(None, object, "", message)
}

fn place(chain: &ForeignChain, base: &ForeignBase) -> String {
    format!(
        "its chain {} (hook {}, priority {})",
        chain.name,
        base.hook.nft_name(),
        base.priority
    )
}

/// kube-proxy, in the two modes that show in nf_tables.
fn proxies(chains: &[ForeignChain]) -> Vec<Problem> {
    let mut problems = BTreeSet::new();
    for chain in chains {
        let mode = if chain.table == KUBE_PROXY_TABLE {
            "nftables"
        } else if chain.table == "nat" && chain.name == KUBE_SERVICES {
            "iptables"
        } else {
            continue;
        };
        problems.insert(warn(chain, &proxy(mode)));
    }
    problems.into_iter().collect()
}

/// What to say of kube-proxy in this mode.
#[must_use]
pub fn proxy(mode: &str) -> String {
    format!(
        "kube-proxy ({mode} mode) translates services here as well, or did: whoever comes first \
         decides; stop it, then `kube-proxy --cleanup`"
    )
}

/// Follows jumps within a table.
struct Walks<'a> {
    tables: &'a Tables<'a>,
}

impl<'a> Walks<'a> {
    fn target(&self, from: &ForeignChain, name: &str) -> Option<&'a ForeignChain> {
        let table = self.tables.get(&(from.family, from.table.as_str()))?;
        table.get(name).copied()
    }

    /// How a packet ends that meets no rule with a condition, if not by the policy.
    fn last(&self, chain: &ForeignChain, depth: usize) -> Option<Last> {
        for rule in chain.rules.iter().filter(|rule| !rule.conditional) {
            match &rule.end {
                End::Drop => return Some(Last::Dropped),
                End::Reject => return Some(Last::Refused),
                End::Accept | End::Return => return None,
                End::Jump(to) | End::Goto(to) => {
                    let next = self.target(chain, to).filter(|_| depth > 0);
                    let found = next.and_then(|next| self.last(next, depth - 1));
                    if found.is_some() || matches!(rule.end, End::Goto(_)) {
                        return found;
                    }
                }
                End::Next | End::Dnat | End::Snat => {}
            }
        }
        None
    }

    /// The rules with this end that packets can come to from a chain, each with its own
    /// chain's name and the conditions on the way to it.
    fn rules(&self, chain: &'a ForeignChain, end: &End) -> Vec<(&'a str, ForeignRule)> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        self.collect(chain, &ForeignRule::default(), end, &mut seen, &mut found);
        found
    }

    fn collect(
        &self,
        chain: &'a ForeignChain,
        on_the_way: &ForeignRule,
        end: &End,
        seen: &mut BTreeSet<&'a str>,
        found: &mut Vec<(&'a str, ForeignRule)>,
    ) {
        if !seen.insert(&chain.name) {
            return;
        }
        for rule in &chain.rules {
            let all = both(on_the_way, rule);
            match &rule.end {
                End::Jump(to) | End::Goto(to) => {
                    if let Some(next) = self.target(chain, to) {
                        self.collect(next, &all, end, seen, found);
                    }
                }
                own if own == end => found.push((&chain.name, all)),
                _ => {}
            }
        }
    }
}

/// The conditions of both.
fn both(first: &ForeignRule, then: &ForeignRule) -> ForeignRule {
    ForeignRule {
        conditional: first.conditional || then.conditional,
        others: first.others || then.others,
        source: then.source.or(first.source),
        destination: then.destination.or(first.destination),
        port: then.port.or(first.port),
        protocol: then.protocol.or(first.protocol),
        end: then.end.clone(),
    }
}

/// Rules that drop or refuse what is for our frontends, before it is translated, or what is for
/// pods. Only those whose conditions are all understood: a firewall's way to let some packets
/// pass and others not is nothing to warn of.
fn ended<'a>(
    chain: &'a ForeignChain,
    base: &ForeignBase,
    walks: &Walks<'a>,
    ours: &Ours<'_>,
) -> Vec<Problem> {
    let before = match base.hook {
        Hook::Prerouting | Hook::Output => base.priority < ours.priority,
        Hook::Ingress => true,
        Hook::Forward | Hook::Postrouting => false,
        Hook::Input | Hook::Egress => return Vec::new(),
    };
    let pods = |net: IpNet| (ours.pods.iter().copied()).find(|pods| overlap(pods, &net));
    let what = |rule: &ForeignRule| {
        if rule.others || rule.source.is_some() {
            return None;
        }
        let destination = rule.destination?;
        if before {
            claimed(rule, chain.family, ours).map(|what| format!("packets to {what}"))
        } else if rule.port.is_none() && rule.protocol.is_none() {
            pods(destination).map(|pods| format!("packets to pods in {pods}"))
        } else {
            None
        }
    };
    let found: BTreeSet<(String, &str)> = [(End::Drop, "drops"), (End::Reject, "refuses")]
        .iter()
        .flat_map(|(end, verb)| {
            let rules = walks.rules(chain, end).into_iter();
            let by_others = rules.filter(|(name, _)| !name.starts_with("KUBE-"));
            by_others.filter_map(|(_, rule)| Some((what(&rule)?, *verb)))
        })
        .collect();
    let place = place(chain, base);
    let say = |(what, verb): &(String, &str)| {
        warn(
            chain,
            &format!("{place} {verb} {what}, unless an earlier rule of it accepts them"),
        )
    };
    found.iter().take(NAMED).map(say).collect()
}

/// Translations of destinations that are ours to translate.
fn translated(
    chain: &ForeignChain,
    base: &ForeignBase,
    rules: &[(&str, ForeignRule)],
    ours: &Ours<'_>,
) -> Vec<Problem> {
    let order = match base.priority.cmp(&ours.priority) {
        std::cmp::Ordering::Less => "before svcnat's",
        std::cmp::Ordering::Equal => "at the priority of svcnat's: whoever was there first decides",
        std::cmp::Ordering::Greater => "after svcnat's, where svcnat leaves it untranslated",
    };
    // kube-proxy is named once, not by each of its services.
    let by_others = rules.iter().filter(|(name, _)| !name.starts_with("KUBE-"));
    let conflicts: BTreeSet<(String, &str)> = by_others
        .filter(|_| chain.table != KUBE_PROXY_TABLE)
        .filter_map(|(name, rule)| Some((claimed(rule, chain.family, ours)?, *name)))
        .collect();
    let named = conflicts.iter().take(NAMED).map(|(what, by)| {
        let by = if *by == chain.name {
            place(chain, base)
        } else {
            format!("{} by way of chain {by}", place(chain, base))
        };
        warn(chain, &format!("{by} translates {what} too, {order}"))
    });
    let more = conflicts.len().saturating_sub(NAMED);
    let rest = (more > 0).then(|| {
        let place = place(chain, base);
        warn(
            chain,
            &format!("{place} translates {more} more of ours, {order}"),
        )
    });
    named.chain(rest).collect()
}

/// True if chains of one family see packets of the other.
fn sees(family: &str, packets: &str) -> bool {
    matches!(family, "inet" | "bridge" | "netdev") || family == packets
}

/// What of ours a rule is for, if it is known to be.
fn claimed(rule: &ForeignRule, family: &str, ours: &Ours<'_>) -> Option<String> {
    let protocol = |number: u8| rule.protocol.is_none_or(|p| p == number);
    let port = |number: u16| rule.port.is_none_or(|p| p == number);
    for plan in &ours.plan.families {
        if !sees(family, plan.family.nft_name()) {
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
fn masqueraded(
    chain: &ForeignChain,
    base: &ForeignBase,
    rules: &[(&str, ForeignRule)],
    ours: &Ours<'_>,
) -> Vec<Problem> {
    let sources: BTreeSet<IpNet> = rules
        .iter()
        .filter(|(name, _)| !name.starts_with("KUBE-") && chain.table != KUBE_PROXY_TABLE)
        .filter_map(|(_, rule)| match rule.source {
            Some(net) if ours.pods.iter().any(|pods| overlap(pods, &net)) => Some(net),
            // Whatever leaves: pods as well.
            None if !rule.conditional => ours.pods.first().copied(),
            _ => None,
        })
        .collect();
    let sources = sources.into_iter().map(|net| {
        warn(
            chain,
            &format!(
                "{} masquerades packets from {net}, which are pods: where it applies, others see \
                 this node's address instead of the pod's; leave the cluster's own destinations out \
                 of it",
                place(chain, base)
            ),
        )
    });
    sources.collect()
}

fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.addr()) || b.contains(&a.addr())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(end: End) -> ForeignRule {
        ForeignRule {
            end,
            ..ForeignRule::default()
        }
    }

    fn chain(name: &str, hook: Option<Hook>, drops: bool, rules: Vec<ForeignRule>) -> ForeignChain {
        ForeignChain {
            family: "inet",
            table: "t".to_owned(),
            name: name.to_owned(),
            base: hook.map(|hook| ForeignBase {
                hook,
                priority: 0,
                drops,
            }),
            rules,
        }
    }

    fn found(chains: &[ForeignChain]) -> usize {
        drops(chains, &[Hook::Forward]).len()
    }

    #[test]
    fn a_forward_chain_drops_by_policy_or_by_a_last_rule_that_every_packet_takes() {
        let forward = Some(Hook::Forward);
        let to = || rule(End::Jump("sub".to_owned()));
        assert_eq!(found(&[chain("f", forward, true, vec![])]), 1);
        assert_eq!(found(&[chain("f", forward, false, vec![])]), 0);
        for end in [End::Drop, End::Reject] {
            let last = vec![rule(End::Next), rule(end.clone())];
            assert_eq!(found(&[chain("f", forward, false, last)]), 1);
            let mut some = rule(end.clone());
            some.conditional = true;
            assert_eq!(found(&[chain("f", forward, false, vec![some])]), 0);
            // Accepted before.
            let accepted = vec![rule(End::Accept), rule(end.clone())];
            assert_eq!(found(&[chain("f", forward, false, accepted)]), 0);
            // In a chain that every packet is sent to.
            let sub = chain("sub", None, false, vec![rule(end)]);
            let jumps = chain("f", forward, false, vec![to()]);
            assert_eq!(found(&[jumps, sub]), 1);
        }
    }

    #[test]
    fn chains_that_lead_to_each_other_end_the_search() {
        let to = |name: &str| rule(End::Jump(name.to_owned()));
        let chains = [
            chain("f", Some(Hook::Forward), false, vec![to("f")]),
            chain("a", None, false, vec![to("f")]),
        ];
        assert_eq!(found(&chains), 0);
    }
}
