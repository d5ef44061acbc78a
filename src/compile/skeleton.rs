//! The rules: what the configuration, this node's prefixes and the kinds of things in use ask
//! for, whatever the number of services or endpoints.
//!
//! Each feature has a file of its own with its chains; here they are put together. What
//! nothing uses is not there: no set, no chain, no rule, and no table without any of them.
//! docs/packet-flow.md draws the way of a packet through the chains.

use ipnet::IpNet;

use super::parts::Parts;
use super::sets::SetId;
use super::value::CLASS_MASK;
use super::words::{goto, in_set, load, rule};
use super::{affinity, egress, endpoints, frontends, host_ports, local_policy};
use crate::config::Unallocated;
use crate::plan::Shape;
use crate::ruleset::{
    Action, Chain, ChainType, Family, Hook, Match, Rule, Selector, Statement, Table,
};

/// nft's `dstnat` for the nat hooks before routing.
const DSTNAT: i32 = -100;
/// nft's `srcnat`.
const SRCNAT: i32 = 100;

/// What decides about rules rather than elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outline<'a> {
    /// Family of the table.
    pub family: Family,
    /// Settings.
    pub shape: &'a Shape,
    /// Prefixes of pods, where pods are told by address.
    pub pod_sources: &'a [IpNet],
    /// Prefixes of this node's pods that are masqueraded on their way out.
    pub egress_sources: &'a [IpNet],
    /// The kinds of things in use.
    pub parts: &'a Parts,
}

impl Outline<'_> {
    /// True if the set has elements.
    pub(super) fn has(&self, set: SetId) -> bool {
        self.parts.has(set)
    }

    /// True if packets are looked up in the frontends at all.
    pub(super) fn has_frontends(&self) -> bool {
        self.parts
            .has_any(&[SetId::ServiceIps, SetId::ServiceNodeports])
    }
}

/// The table without elements: the sets and chains in use. Without chains there is no use
/// for it.
#[must_use]
pub fn table(outline: &Outline<'_>) -> Table {
    let mut table = Table::new(outline.family);
    // Each chain after those that its rules lead to: the kernel resolves targets as it reads.
    let chains = [
        frontends::reject_chain(outline),
        frontends::external_chain(outline),
        endpoints::chains(outline),
        frontends::retry_chain(outline),
        affinity::lookup_chains(outline),
        local_policy::chains(outline),
        frontends::chains(outline),
        host_ports::chains(outline),
        affinity::update_chains(outline),
        base_chains(outline),
    ];
    table.chains = chains.into_iter().flatten().collect();
    for id in used_sets(outline, &table.chains) {
        let set = id.declaration(outline.family, outline.shape.counters);
        table.sets.insert(set.name.clone(), set);
    }
    table
}

/// The sets that rules use.
fn used_sets(outline: &Outline<'_>, chains: &[Chain]) -> Vec<SetId> {
    let statements = chains
        .iter()
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.statements);
    let used: std::collections::BTreeSet<&str> = statements.filter_map(Statement::set).collect();
    let timeouts = outline.parts.timeouts().map(SetId::AffinityTimeout);
    SetId::FIXED
        .into_iter()
        .chain(timeouts)
        .filter(|id| used.contains(&*id.name()))
        .collect()
}

/// The two hooks that translate. The rules are in the base chains themselves: a jump costs
/// every new connection of the machine.
fn translation(outline: &Outline<'_>, hook: Hook) -> Vec<Rule> {
    let mut rules = Vec::new();
    if outline.has(SetId::ServiceIps) {
        let key = super::words::frontend_key();
        rules.push(rule([load(key, SetId::ServiceIps), goto("service")]));
    }
    if hook == Hook::Output {
        rules.extend(host_ports::on_loopback(outline));
    }
    let beyond =
        outline
            .parts
            .has_any(&[SetId::ExternalIps, SetId::ClusterIps, SetId::ServiceCidrs]);
    if host_ports::has_local_address(outline) {
        rules.push(rule([Match::DaddrLocal.into(), goto("local-address")]));
    } else if beyond {
        // What this node answers at itself is never refused.
        rules.push(rule([Match::DaddrLocal.into(), Action::Return.into()]));
    }
    let daddr = [Selector::Daddr];
    if hook == Hook::Prerouting && outline.has(SetId::ExternalIps) {
        rules.push(rule([
            in_set(daddr.clone(), SetId::ExternalIps),
            goto("external-address"),
        ]));
    }
    if outline.has(SetId::ClusterIps) {
        rules.push(rule([
            in_set(daddr.clone(), SetId::ClusterIps),
            goto("reject-chain"),
        ]));
    }
    if outline.has(SetId::ServiceCidrs) {
        let last = match outline.shape.unallocated {
            Unallocated::Drop => Action::Drop.into(),
            Unallocated::Reject => goto("reject-chain"),
        };
        rules.push(rule([in_set(daddr, SetId::ServiceCidrs), last]));
    }
    rules
}

fn postrouting(outline: &Outline<'_>) -> Vec<Rule> {
    let mut rules = affinity::update_rules(outline);
    // Also where everything is refused and nothing translated: chains of type nat see packets
    // only where connections are tracked, which a `ct` expression asks the kernel for.
    if !translation(outline, Hook::Prerouting).is_empty() {
        rules.push(rule([
            Match::Priority {
                mask: CLASS_MASK,
                value: 0,
                negated: true,
            }
            .into(),
            Match::CtStatusDnat.into(),
            Action::ClearPriority.into(),
        ]));
    }
    rules.extend(egress::rules(outline));
    rules
}

/// Only chains of type nat: packets of connections that exist meet none of our rules.
fn base_chains(outline: &Outline<'_>) -> Vec<Chain> {
    use Hook::{Input, Output, Postrouting, Prerouting};
    let chains = [
        (
            "nat-prerouting",
            "first packets that come in",
            Prerouting,
            DSTNAT,
            translation(outline, Prerouting),
        ),
        (
            "nat-output",
            "first packets of this node",
            Output,
            DSTNAT,
            translation(outline, Output),
        ),
        (
            "nat-input",
            "session affinity of what this node itself answers",
            Input,
            SRCNAT,
            affinity::update_rules(outline),
        ),
        (
            "nat-postrouting",
            "masquerade",
            Postrouting,
            SRCNAT,
            postrouting(outline),
        ),
    ];
    chains
        .into_iter()
        .filter(|(.., rules)| !rules.is_empty())
        .map(|(name, comment, hook, priority, rules)| {
            Chain::base(name, comment, ChainType::Nat, hook, priority, rules)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Uses;
    use crate::config::Config;
    use crate::ruleset::{Element, ElementData, Value};

    fn refusing() -> Table {
        let mut uses = Uses::default();
        let key = Value::new().addr([10, 254, 0, 1].into());
        for set in [SetId::ClusterIps, SetId::ServiceCidrs] {
            uses.add(set, &key, &Element::new(ElementData::None));
        }
        let plan = crate::plan::FamilyPlan::empty(Family::Ip);
        super::super::skeleton(&plan, &Shape::of(&Config::default()), &uses.parts())
    }

    #[test]
    fn what_this_node_answers_at_itself_is_not_refused() {
        let table = refusing();
        for hook in ["nat-prerouting", "nat-output"] {
            let rules = &table.chain(hook).expect("a chain").rules;
            let own = rule([Match::DaddrLocal.into(), Action::Return.into()]);
            assert_eq!(rules.first(), Some(&own), "{hook}");
        }
    }

    #[test]
    fn a_table_that_only_refuses_asks_for_connection_tracking() {
        let table = refusing();
        let rules = table.chains.iter().flat_map(|chain| &chain.rules);
        let mut statements = rules.flat_map(|rule| &rule.statements);
        assert!(statements.any(|s| *s == Match::CtStatusDnat.into()));
    }
}
