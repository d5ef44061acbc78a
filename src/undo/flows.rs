//! Tracked flows that lead where nothing leads any more once a state was put back: those that
//! began since, at a frontend that is gone again, or with an endpoint that is behind it no
//! more. UDP and SCTP only, as after an installation (`host/conntrack_plan.rs`).
//!
//! No plan is known of that state. What goes is told by the elements that go, and where a
//! frontend leads by the tables that are back: a flow is cut only if both say so, so that one
//! whose endpoint is being given up gracefully, which no table tells, is let be.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::apply::Host;
use crate::compile::{SetId, endpoint_of, frontend_key_of, frontend_value_key};
use crate::host::HostError;
use crate::host::conntrack::Flow;
use crate::host::interfaces::local_addresses;
use crate::net::{Family, Protocol};
use crate::netlink::NetlinkError;
use crate::plan::{Endpoint, FrontendKey, is_kept};
use crate::report::FrontendState;
use crate::ruleset::{Element, FieldValue, LiveRuleset, LiveTable, Set, Value};
use crate::transaction::{Operation, Transaction};

/// What a way back takes away, as far as flows of these protocols may lead there.
#[derive(Debug, Default)]
pub struct Gone {
    endpoints: BTreeSet<Endpoint>,
    frontends: BTreeSet<FrontendKey>,
}

/// Why flows could not be looked after.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// The tables cannot be read.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// Connection tracking or addresses cannot.
    #[error(transparent)]
    Host(#[from] HostError),
}

impl Gone {
    /// What `delta` takes away; of a table that goes as a whole, all that is in `live`.
    /// O(delta), and O(elements) of such a table.
    #[must_use]
    pub fn of(delta: &Transaction, live: Option<&LiveRuleset>) -> Self {
        let mut gone = Self::default();
        for table in &delta.tables {
            for operation in &table.operations {
                match operation {
                    Operation::DeleteElements(name, elements) => {
                        if let Some(set) = table.sets.get(name) {
                            elements.iter().for_each(|(key, e)| gone.add(set, key, e));
                        }
                    }
                    Operation::DeleteTable => {
                        let whole = live.and_then(|live| live.tables.get(&table.family));
                        let sets = whole.into_iter().flat_map(|table| table.sets.values());
                        for set in sets {
                            set.elements
                                .iter()
                                .for_each(|(key, e)| gone.add(set, key, e));
                        }
                    }
                    _ => {}
                }
            }
        }
        gone
    }

    fn add(&mut self, set: &Set, key: &Value, element: &Element) {
        let kept = |number: u8| Protocol::from_number(number).is_some_and(is_kept);
        match SetId::named(&set.name) {
            Some(SetId::Endpoints | SetId::EndpointsLarge) => {
                let fields = key.fields(&set.key).unwrap_or_default();
                if matches!(fields.get(1), Some(FieldValue::Proto(p)) if kept(*p)) {
                    self.endpoints.extend(endpoint_of(set, element));
                }
            }
            Some(
                id @ (SetId::ServiceIps
                | SetId::ServiceNodeports
                | SetId::HostPorts
                | SetId::HostPortIps),
            ) => {
                let key = frontend_key_of(set, key).filter(|key| is_kept(key.protocol()));
                if key.is_some() && matches!(id, SetId::HostPorts | SetId::HostPortIps) {
                    self.endpoints.extend(endpoint_of(set, element));
                }
                self.frontends.extend(key);
            }
            _ => {}
        }
    }

    fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.frontends.is_empty()
    }

    /// Removes the flows that lead there, once it is gone; how many. O(elements + flows) if
    /// there may be any.
    ///
    /// # Errors
    /// If the host cannot be asked.
    pub fn cut(&self, host: &mut impl Host) -> Result<usize, FlowsError> {
        if self.is_empty() {
            return Ok(0);
        }
        let local = local_addresses(&host.interfaces()?);
        let live = host.read()?;
        let mut stale = Vec::new();
        for family in Family::ALL {
            for protocol in Protocol::ALL.into_iter().filter(|p| is_kept(*p)) {
                let mut flows = host.flows(family, protocol)?;
                let table = live.tables.get(&family);
                flows.retain(|flow| flow.is_dst_nat() && self.is_stale(flow, table, &local));
                stale.extend(flows);
            }
        }
        Ok(host.delete_flows(&stale)?)
    }

    fn is_stale(&self, flow: &Flow, table: Option<&LiveTable>, local: &BTreeSet<IpAddr>) -> bool {
        let Ok(port) = flow.original.dport.try_into() else {
            return false;
        };
        let Ok(answers) = flow.reply.sport.try_into() else {
            return false;
        };
        let endpoint = Endpoint {
            addr: flow.reply.src,
            port: answers,
        };
        let address = FrontendKey::Address(flow.original.dst, flow.protocol, port);
        let on_node = FrontendKey::NodePort(flow.protocol, port);
        let here = local.contains(&flow.original.dst);
        let keys: Vec<FrontendKey> = [address]
            .into_iter()
            .chain(here.then_some(on_node))
            .collect();
        let leads = table.map(|table| keys.iter().filter_map(|key| leads_to(table, key)));
        let leads: Vec<BTreeSet<Endpoint>> = leads.into_iter().flatten().collect();
        if leads.is_empty() {
            // None of ours, or not any more.
            return keys.iter().any(|key| self.frontends.contains(key));
        }
        self.endpoints.contains(&endpoint) && !leads.iter().any(|to| to.contains(&endpoint))
    }
}

/// Where a frontend or a host port leads; `None` if there is none.
fn leads_to(table: &LiveTable, key: &FrontendKey) -> Option<BTreeSet<Endpoint>> {
    let frontend = FrontendState::read(&table.sets, key).map(|state| {
        let inside = state.internal.unwrap_or_default();
        state
            .endpoints
            .into_keys()
            .chain(inside.into_keys())
            .collect()
    });
    let host_ports = match key {
        FrontendKey::Address(..) => SetId::HostPortIps,
        FrontendKey::NodePort(..) => SetId::HostPorts,
    };
    let set = table.sets.get(host_ports.fixed_name());
    let host_port = set.and_then(|set| {
        let element = set.elements.get(&frontend_value_key(key))?;
        endpoint_of(set, element)
    });
    match (frontend, host_port) {
        (None, None) => None,
        (found, also) => {
            let mut all: BTreeSet<Endpoint> = found.unwrap_or_default();
            all.extend(also);
            Some(all)
        }
    }
}
