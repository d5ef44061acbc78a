//! The host as far as an installation reads and changes it: the one door through which every
//! verb goes. The kernel is behind it, or a stand-in in memory for tests (`tests/fake.rs`).

use std::collections::BTreeSet;
use std::time::Instant;

use super::writer_log::{NameWriters, WriterLog};
use crate::cluster::Protocol;
use crate::compile::FOLLOWING;
use crate::counters;
use crate::host::HostError;
use crate::host::conntrack::{Conntrack, Flow, StaleFlow};
use crate::host::interfaces::{self, Interface};
use crate::host::routes::{self, LiveRoute, RouteDelta, RouteReport};
use crate::host::sysctl::Sysctls;
use crate::netlink::{self, Committed, NetlinkError, Nfnetlink};
use crate::ruleset::{Family, LiveRuleset, Set};
use crate::transaction::Transaction;

/// All that an installation reads and changes. What fails says why the kernel could not be
/// asked, or would not do it.
#[expect(clippy::missing_errors_doc, reason = "said once, above")]
pub trait Host {
    /// The time, as far as it matters here.
    fn now(&self) -> Instant;
    /// Interfaces and their addresses.
    fn interfaces(&mut self) -> Result<Vec<Interface>, HostError>;
    /// Kernel settings.
    fn sysctls(&self) -> Sysctls;

    /// The generation of all rulesets of the namespace.
    fn generation(&mut self) -> Result<u32, NetlinkError>;
    /// Our tables as they are.
    fn read(&mut self) -> Result<LiveRuleset, NetlinkError>;
    /// The same without elements, with how many there are.
    fn outline(&mut self) -> Result<LiveRuleset, NetlinkError>;
    /// The elements of one set, those that packets filled in included.
    fn elements(&mut self, family: Family, set: Set) -> Result<Set, NetlinkError>;
    /// True if every element of `set` is there as it is here.
    fn holds(&mut self, family: Family, set: &Set) -> Result<bool, NetlinkError>;
    /// All tables of both families, others' too.
    fn table_names(&mut self) -> Result<Vec<(Family, String)>, NetlinkError>;
    /// Has the elements that `delta` adds go on from what those they replace have counted.
    fn carry_counters(&mut self, delta: &mut Transaction) -> Result<(), NetlinkError>;
    /// Carries out `delta`, all of it or nothing. [`NetlinkError::Raced`] if the generation is
    /// not `generation` any more (0: whatever it is).
    fn commit(&mut self, delta: &Transaction, generation: u32) -> Result<Committed, NetlinkError>;
    /// Returns when each packet that was under way is through the rules it met.
    fn let_packets_pass(&mut self);
    /// Has the kernel check `delta` and throw it away.
    fn validate(&mut self, delta: &Transaction, generation: u32)
    -> Result<Committed, NetlinkError>;

    /// Our routes.
    fn routes(&mut self) -> Result<BTreeSet<LiveRoute>, HostError>;
    /// Changes our routes; those that fail are in the report.
    fn change_routes(&mut self, delta: &RouteDelta) -> Result<RouteReport, HostError>;

    /// Tracked flows of a family and protocol.
    fn flows(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Flow>, HostError>;
    /// Removes these flows; returns how many were still there.
    fn delete_flows(&mut self, flows: &[Flow]) -> Result<usize, HostError>;
    /// Removes flows of these kinds; returns how many it found itself.
    fn delete_stale(&mut self, stale: &[StaleFlow]) -> Result<usize, HostError>;

    /// Takes note of who committed.
    fn note_writers(&mut self);
    /// Our tables are whole: who wrote so far did no harm.
    fn clear_writers(&mut self);
    /// Who may have changed our tables since they were last whole, in words.
    fn who_wrote(&mut self) -> Result<String, NetlinkError>;
}

/// The kernel of this network namespace.
pub struct ThisHost {
    tables: Nfnetlink,
    /// Who else commits, if that is asked.
    writers: Option<WriterLog>,
    /// Opened when first needed, and anew after it failed.
    conntrack: Option<Conntrack>,
}

impl ThisHost {
    /// Opens the socket to nf_tables.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            tables: Nfnetlink::open()?,
            writers: None,
            conntrack: None,
        })
    }

    /// The same, and hears who else commits.
    ///
    /// # Errors
    /// If the kernel does not let us.
    pub fn listening(when: NameWriters) -> Result<Self, NetlinkError> {
        let mut host = Self::open()?;
        host.writers = Some(WriterLog::open(when, host.tables.port())?);
        Ok(host)
    }

    /// `progress` is called between the pages of what is read from nf_tables.
    pub fn on_progress(&mut self, progress: Box<dyn FnMut()>) {
        self.tables.on_progress(progress);
    }

    fn conntrack<T>(
        &mut self,
        work: impl FnOnce(&mut Conntrack) -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        let mut table = match self.conntrack.take() {
            Some(table) => table,
            None => Conntrack::open()?,
        };
        let result = work(&mut table);
        self.conntrack = result.is_ok().then_some(table);
        result
    }
}

impl Host for ThisHost {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn interfaces(&mut self) -> Result<Vec<Interface>, HostError> {
        interfaces::list()
    }

    fn sysctls(&self) -> Sysctls {
        Sysctls::default()
    }

    fn generation(&mut self) -> Result<u32, NetlinkError> {
        self.tables.generation()
    }

    fn read(&mut self) -> Result<LiveRuleset, NetlinkError> {
        self.tables.read(FOLLOWING)
    }

    fn outline(&mut self) -> Result<LiveRuleset, NetlinkError> {
        self.tables.outline()
    }

    fn elements(&mut self, family: Family, set: Set) -> Result<Set, NetlinkError> {
        self.tables.elements(family, set)
    }

    fn holds(&mut self, family: Family, set: &Set) -> Result<bool, NetlinkError> {
        self.tables.holds(family, set)
    }

    fn table_names(&mut self) -> Result<Vec<(Family, String)>, NetlinkError> {
        self.tables.table_names()
    }

    fn carry_counters(&mut self, delta: &mut Transaction) -> Result<(), NetlinkError> {
        counters::carry(&mut self.tables, delta)
    }

    fn commit(&mut self, delta: &Transaction, generation: u32) -> Result<Committed, NetlinkError> {
        let tables = &mut self.tables;
        match &mut self.writers {
            Some(writers) => writers.while_committing(delta, || tables.commit(delta, generation)),
            None => tables.commit(delta, generation),
        }
    }

    fn let_packets_pass(&mut self) {
        netlink::let_packets_pass();
    }

    fn validate(
        &mut self,
        delta: &Transaction,
        generation: u32,
    ) -> Result<Committed, NetlinkError> {
        self.tables.validate(delta, generation)
    }

    fn routes(&mut self) -> Result<BTreeSet<LiveRoute>, HostError> {
        routes::list_ours()
    }

    fn change_routes(&mut self, delta: &RouteDelta) -> Result<RouteReport, HostError> {
        routes::apply(delta)
    }

    fn flows(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Flow>, HostError> {
        self.conntrack(|table| table.dump(family, protocol))
    }

    fn delete_flows(&mut self, flows: &[Flow]) -> Result<usize, HostError> {
        self.conntrack(|table| table.delete_flows(flows))
    }

    fn delete_stale(&mut self, stale: &[StaleFlow]) -> Result<usize, HostError> {
        self.conntrack(|table| table.delete(stale))
            .map(|deleted| deleted.entries)
    }

    fn note_writers(&mut self) {
        if let Some(writers) = &mut self.writers {
            writers.note();
        }
    }

    fn clear_writers(&mut self) {
        if let Some(writers) = &mut self.writers {
            writers.clear();
        }
    }

    fn who_wrote(&mut self) -> Result<String, NetlinkError> {
        // A new generation is in force some time before its writer is announced. An empty
        // batch changes nothing, but waits for the commit under way, announcement included.
        self.tables.commit(&Transaction::default(), 0)?;
        let writers = self.writers.as_mut();
        Ok(writers.map_or_else(|| "not asked".to_owned(), WriterLog::name))
    }
}
