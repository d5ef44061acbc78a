//! What is tidied up after a commit: tracked flows and remembered clients of endpoints that
//! are gone. None of it is the commit: rules that are in force stay so whatever fails here.
//! What failed is owed, and tried again later from what the kernel holds by then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::clients::{Gone, forget_clients, gone_clients};
use super::host::Host;
use crate::cluster::{Cluster, Family, Protocol};
use crate::engine::{Engine, Step};
use crate::host::HostError;
use crate::host::conntrack::{Flow, StaleFlow};
use crate::host::conntrack_plan::{self, Context, FrontendAddress};
use crate::netlink::NetlinkError;
use crate::plan::{NodePlan, plan, serving, serving_of};
use crate::ruleset::Ruleset;
use crate::transaction::Transaction;

/// How one piece of tidying up went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// What was removed.
    pub removed: usize,
    /// `None` if there was nothing to do; otherwise whether anything is owed now, and why.
    pub owed: Option<Result<(), String>>,
}

/// What is owed, and what is needed to do it.
#[derive(Debug, Default)]
pub(super) struct Tidy {
    flows: OwedFlows,
    /// Handles of endpoints that are gone, whose clients are still remembered.
    clients: Gone,
}

#[derive(Debug, Default)]
struct OwedFlows {
    owed: bool,
    /// Frontends that were closed or changed since flows were last tidied.
    addresses: BTreeSet<FrontendAddress>,
}

impl OwedFlows {
    /// Takes note of how an attempt went that was about `addresses`, or about everything.
    fn note(
        &mut self,
        result: Result<usize, String>,
        addresses: BTreeSet<FrontendAddress>,
        all: bool,
    ) -> Tidied {
        match result {
            Ok(removed) => {
                if all {
                    self.owed = false;
                    self.addresses.clear();
                }
                Tidied {
                    removed,
                    // What is owed from before is still owed, and was told.
                    owed: (!self.owed).then_some(Ok(())),
                }
            }
            Err(error) => {
                self.owed = true;
                self.addresses.extend(addresses);
                Tidied {
                    removed: 0,
                    owed: Some(Err(error)),
                }
            }
        }
    }
}

impl Tidy {
    /// True if anything is.
    pub(super) fn is_owed(&self) -> bool {
        self.flows.owed || !self.clients.is_empty()
    }

    /// Flows after an increment that made these stale.
    pub(super) fn flows_after(&mut self, host: &mut impl Host, stale: &[StaleFlow]) -> Tidied {
        if stale.is_empty() {
            return Tidied::default();
        }
        let result = host.delete_stale(stale).map_err(|e| e.to_string());
        let addresses = stale.iter().filter_map(address_of).collect();
        self.flows.note(result, addresses, false)
    }

    /// Flows after `plan` was compared with the kernel whole, and `committed` put it right.
    /// O(tracked flows).
    pub(super) fn flows_in(
        &mut self,
        host: &mut impl Host,
        plan: &NodePlan,
        cluster: &Cluster,
        committed: &Transaction,
        local_addresses: &BTreeSet<IpAddr>,
    ) -> Tidied {
        let mut addresses = conntrack_plan::closed(committed, local_addresses);
        addresses.extend(&self.flows.addresses);
        let stale = stale_flows(host, &addresses, plan, cluster, local_addresses);
        let result = stale.and_then(|stale| host.delete_flows(&stale));
        let result = result.map_err(|e| e.to_string());
        self.flows.note(result, addresses, true)
    }

    /// Flows that are owed. O(cluster): the plan they are held against is made anew.
    pub(super) fn owed_flows(
        &mut self,
        host: &mut impl Host,
        engine: &Engine,
        local_addresses: &BTreeSet<IpAddr>,
    ) -> Tidied {
        if !self.flows.owed {
            return Tidied::default();
        }
        let (plan, _) = plan(engine.cluster(), engine.config(), engine.node());
        let nothing = Transaction::default();
        self.flows_in(host, &plan, engine.cluster(), &nothing, local_addresses)
    }

    /// Clients of the endpoints that `committed` removed, and of those that are owed. Also
    /// how many commits it took.
    pub(super) fn clients(
        &mut self,
        host: &mut impl Host,
        committed: &Transaction,
        desired: &Ruleset,
    ) -> (Tidied, u32) {
        for (family, handles) in gone_clients(committed, desired) {
            self.clients.entry(family).or_default().extend(handles);
        }
        if self.clients.is_empty() {
            return (Tidied::default(), 0);
        }
        let mut commits = 0;
        let mut removed = 0;
        let mut error: Option<NetlinkError> = None;
        let mut owed: BTreeMap<Family, _> = BTreeMap::new();
        for (family, handles) in std::mem::take(&mut self.clients) {
            match forget_clients(host, family, &handles, desired) {
                Ok(forgotten) => {
                    removed += forgotten.clients;
                    commits += u32::from(forgotten.committed);
                }
                Err(failed) => {
                    owed.insert(family, handles);
                    error = Some(failed);
                }
            }
        }
        self.clients = owed;
        let owed = Some(error.map_or(Ok(()), |error| Err(error.to_string())));
        (Tidied { removed, owed }, commits)
    }
}

/// Tracked UDP and SCTP flows that lead where no new one would once `plan` is in force, and
/// `closed` are the frontends that this takes away ([`conntrack_plan::closed`]). O(tracked flows).
///
/// # Errors
/// If the table cannot be read.
pub fn stale_flows(
    host: &mut impl Host,
    closed: &BTreeSet<FrontendAddress>,
    plan: &NodePlan,
    cluster: &Cluster,
    local_addresses: &BTreeSet<IpAddr>,
) -> Result<Vec<Flow>, HostError> {
    let serving = serving(cluster);
    let context = Context {
        local_addresses,
        serving: &serving,
    };
    let mut stale = Vec::new();
    for family in Family::ALL {
        for protocol in [Protocol::Udp, Protocol::Sctp] {
            let flows = host.flows(family, protocol)?;
            stale.extend(conntrack_plan::stale_in(plan, closed, flows, &context));
        }
    }
    Ok(stale)
}

/// Flows that an increment made stale. Pure; O(what it changed).
pub(crate) fn stale_after(
    engine: &Engine,
    step: &Step,
    local_addresses: &BTreeSet<IpAddr>,
) -> Vec<StaleFlow> {
    let serving = serving_of(engine.cluster(), &step.services);
    let context = |serving| Context {
        local_addresses,
        serving,
    };
    conntrack_plan::stale_after(
        (&step.before, &context(&step.served)),
        (&step.after, &context(&serving)),
    )
}

fn address_of(flow: &StaleFlow) -> Option<FrontendAddress> {
    Some((flow.original_dst?, flow.protocol, flow.original_dport))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(last: u8) -> BTreeSet<FrontendAddress> {
        [([10, 0, 0, last].into(), Protocol::Udp, 53)].into()
    }

    #[test]
    fn flows_that_could_not_be_removed_are_owed_until_all_are_looked_at() {
        let mut flows = OwedFlows::default();
        let failed = flows.note(Err("no conntrack".into()), addresses(1), false);
        assert_eq!(failed.owed, Some(Err("no conntrack".into())));
        let other = flows.note(Ok(3), addresses(2), false);
        assert_eq!((other.removed, other.owed), (3, None), "the first is owed");
        let failed = flows.note(Err("still not".into()), addresses(3), false);
        assert!(failed.owed.is_some_and(|owed| owed.is_err()));
        assert_eq!(
            flows.addresses.len(),
            2,
            "what could not be removed is known"
        );
        let all = flows.note(Ok(5), addresses(1), true);
        assert_eq!(all.owed, Some(Ok(())));
        assert!(!flows.owed && flows.addresses.is_empty());
    }
}
