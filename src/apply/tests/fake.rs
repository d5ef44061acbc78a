//! A host in memory for tests: tables that only transactions change, other programs that come
//! in between, a kernel that refuses, and whatever else is broken on some node.

use std::collections::{BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::apply::Host;
use crate::apply::rules::next;
use crate::cluster::Protocol;
use crate::fuzzing::{Kernel, Refused};
use crate::host::HostError;
use crate::host::conntrack::{Flow, StaleFlow};
use crate::host::interfaces::{Interface, Kind};
use crate::host::routes::{LiveRoute, RouteDelta, RouteError, RouteReport};
use crate::host::sysctl::Sysctls;
use crate::netlink::{Committed, ExchangeError, NetlinkError, Refusal};
use crate::ruleset::{Element, Family, LiveRuleset, Set};
use crate::transaction::{Operation, Transaction};

/// Something that another program does to the tables.
pub(crate) type Deed = Box<dyn FnMut(&mut Kernel)>;

/// Which elements a kernel does not take.
pub(crate) type Suspicion = Box<dyn Fn(&Element) -> bool>;

pub(crate) struct Fake {
    pub(crate) kernel: Kernel,
    pub(crate) generation: u32,
    pub(crate) now: Instant,
    pub(crate) routes: BTreeSet<LiveRoute>,
    pub(crate) flows: BTreeSet<Flow>,
    pub(crate) sysctls: PathBuf,
    /// What we changed, in order.
    pub(crate) log: Vec<String>,
    /// What others do before each of our next commits.
    pub(crate) in_between: VecDeque<Deed>,
    /// Somebody commits to tables of their own before each of ours.
    pub(crate) busy_neighbour: bool,
    pub(crate) broken: Broken,
    /// Full read-backs so far, and how long each takes.
    pub(crate) reads: usize,
    pub(crate) read_takes: Duration,
    writers: Vec<String>,
}

/// What does not work.
#[derive(Default)]
pub(crate) struct Broken {
    /// The kernel has no owned tables.
    pub(crate) owning: bool,
    /// It takes no such element.
    pub(crate) elements: Option<(Suspicion, Errno)>,
    /// So many commits are carried out, and their answer is lost.
    pub(crate) answers: usize,
    /// After so many commits nothing comes through any more: we were killed.
    pub(crate) dies_after: Option<usize>,
    pub(crate) reading: bool,
    pub(crate) counters: bool,
    pub(crate) conntrack: bool,
    pub(crate) routing: bool,
    /// Routes the kernel does not take.
    pub(crate) routes: BTreeSet<IpNet>,
    pub(crate) interfaces: bool,
}

fn broken(is: bool, what: &'static str) -> Result<(), HostError> {
    let source = ExchangeError::Refused(Refusal {
        errno: Errno::EIO,
        text: None,
        offset: None,
    });
    match is {
        true => Err(HostError::Netlink { what, source }),
        false => Ok(()),
    }
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self {
            kernel: Kernel::default(),
            generation: 1,
            now: Instant::now(),
            routes: BTreeSet::new(),
            flows: BTreeSet::new(),
            sysctls: "/nonexistent-sysctl-root".into(),
            log: Vec::new(),
            in_between: VecDeque::new(),
            busy_neighbour: false,
            broken: Broken::default(),
            reads: 0,
            read_takes: Duration::ZERO,
            writers: Vec::new(),
        }
    }

    /// Another program commits.
    pub(crate) fn another(&mut self, deed: impl FnOnce(&mut Kernel)) {
        deed(&mut self.kernel);
        self.generation = next(self.generation);
        self.writers.push("nft (pid 4711)".to_owned());
    }

    fn run(&mut self, delta: &Transaction, bound: u32) -> Result<Kernel, NetlinkError> {
        if bound != 0 && bound != self.generation {
            return Err(NetlinkError::Raced);
        }
        let refused = |at, errno, element| {
            let refusal = Refusal {
                errno,
                text: None,
                offset: None,
            };
            NetlinkError::refused(refusal, delta, Some(at), element)
        };
        for (t, table) in delta.tables.iter().enumerate() {
            for (o, operation) in table.operations.iter().enumerate() {
                match operation {
                    Operation::OwnTable if self.broken.owning => {
                        return Err(refused((t, o), Errno::EOPNOTSUPP, None));
                    }
                    Operation::AddElements(_, elements) => {
                        let Some((bad, errno)) = &self.broken.elements else {
                            continue;
                        };
                        if let Some(found) = elements.iter().find(|(_, e)| bad(e)) {
                            return Err(refused((t, o), *errno, Some(found.clone())));
                        }
                    }
                    _ => {}
                }
            }
        }
        let mut after = self.kernel.clone();
        after.carry_out(delta).map_err(|error| {
            let Refused {
                at, errno, element, ..
            } = error;
            refused(at, errno, element.map(|boxed| *boxed))
        })?;
        Ok(after)
    }
}

impl Host for Fake {
    fn now(&self) -> Instant {
        self.now
    }

    fn interfaces(&mut self) -> Result<Vec<Interface>, HostError> {
        broken(self.broken.interfaces, "list interfaces")?;
        Ok(vec![Interface {
            index: 2,
            name: "eth0".into(),
            kind: Kind::Physical,
            up: true,
            mtu: 1500,
            master: None,
            peer: None,
            peer_namespace: None,
            hairpin: false,
            isolated: false,
            mac: None,
            addresses: vec!["192.168.50.11/24".parse().unwrap()],
            default_route: BTreeSet::new(),
        }])
    }

    fn sysctls(&self) -> Sysctls {
        Sysctls::at(&self.sysctls)
    }

    fn generation(&mut self) -> Result<u32, NetlinkError> {
        Ok(self.generation)
    }

    fn read(&mut self) -> Result<LiveRuleset, NetlinkError> {
        if self.broken.reading {
            return Err(NetlinkError::Interrupted);
        }
        self.reads += 1;
        self.now += self.read_takes;
        Ok(self.kernel.live(self.generation))
    }

    fn outline(&mut self) -> Result<LiveRuleset, NetlinkError> {
        let mut live = self.kernel.live(self.generation);
        let tables = live.tables.values_mut();
        let sets = tables.flat_map(|table| table.sets.values_mut());
        sets.for_each(|set| set.elements.clear());
        Ok(live)
    }

    fn elements(&mut self, family: Family, set: Set) -> Result<Set, NetlinkError> {
        let table = self.kernel.tables.get(&family);
        let found = table.and_then(|table| table.sets.get(&set.name));
        found.cloned().ok_or(NetlinkError::Interrupted)
    }

    fn holds(&mut self, family: Family, set: &Set) -> Result<bool, NetlinkError> {
        Ok(self.elements(family, set.clone())?.elements == set.elements)
    }

    fn table_names(&mut self) -> Result<Vec<(Family, String)>, NetlinkError> {
        let ours = self.kernel.tables.keys();
        let ours = ours.map(|family| (*family, crate::ruleset::TABLE.to_owned()));
        Ok(ours.chain(self.kernel.others.iter().cloned()).collect())
    }

    fn carry_counters(&mut self, _: &mut Transaction) -> Result<(), NetlinkError> {
        match self.broken.counters {
            true => Err(NetlinkError::Interrupted),
            false => Ok(()),
        }
    }

    fn commit(&mut self, delta: &Transaction, bound: u32) -> Result<Committed, NetlinkError> {
        if let Some(left) = &mut self.broken.dies_after {
            let error = || ExchangeError::Send(std::io::ErrorKind::BrokenPipe.into());
            *left = left.checked_sub(1).ok_or_else(error)?;
        }
        if self.busy_neighbour {
            self.another(|_| {});
        }
        if let Some(deed) = self.in_between.pop_front() {
            self.another(deed);
        }
        self.kernel = self.run(delta, bound)?;
        self.generation = next(self.generation);
        let counts = delta.counts();
        let changed = [
            counts.objects,
            counts.rules_added,
            counts.elements_added,
            counts.elements_deleted,
        ];
        self.log.push(format!("commit {changed:?}"));
        if let Some(left) = self.broken.answers.checked_sub(1) {
            self.broken.answers = left;
            return Err(NetlinkError::Unconfirmed { lost: true });
        }
        Ok(Committed {
            bytes: 1,
            messages: 1,
            micros: 1,
        })
    }

    fn let_packets_pass(&mut self) {
        self.log.push("packets pass".to_owned());
    }

    fn validate(&mut self, delta: &Transaction, bound: u32) -> Result<Committed, NetlinkError> {
        self.run(delta, bound).map(|_| Committed::default())
    }

    fn routes(&mut self) -> Result<BTreeSet<LiveRoute>, HostError> {
        broken(self.broken.routing, "list routes")?;
        Ok(self.routes.clone())
    }

    fn change_routes(&mut self, delta: &RouteDelta) -> Result<RouteReport, HostError> {
        let mut report = RouteReport::default();
        let replaced = delta.replace.iter().map(|(old, _)| old);
        for route in delta.delete.iter().chain(replaced) {
            assert!(self.routes.remove(route), "there is no {route}");
        }
        let new = delta.replace.iter().map(|(_, new)| new);
        for route in delta.add.iter().chain(new) {
            if self.broken.routes.contains(&route.destination) {
                report.errors.push(RouteError::OwnAddress {
                    route: route.clone(),
                });
                continue;
            }
            self.routes.insert(LiveRoute {
                destination: route.destination,
                via: Some(route.via),
                metric: 0,
            });
            report.added += 1;
        }
        report.deleted = delta.delete.len();
        for (what, n) in [("come", report.added), ("go", report.deleted)] {
            if n > 0 {
                self.log.push(format!("routes {what}"));
            }
        }
        Ok(report)
    }

    fn flows(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Flow>, HostError> {
        broken(self.broken.conntrack, "list tracked connections")?;
        let all = self.flows.iter();
        let found = all.filter(|flow| flow.family == family && flow.protocol == protocol);
        Ok(found.cloned().collect())
    }

    fn delete_flows(&mut self, flows: &[Flow]) -> Result<usize, HostError> {
        broken(self.broken.conntrack, "delete tracked connections")?;
        let gone = flows.iter().filter(|flow| self.flows.remove(flow)).count();
        if gone > 0 {
            self.log.push("flows".to_owned());
        }
        Ok(gone)
    }

    fn delete_stale(&mut self, stale: &[StaleFlow]) -> Result<usize, HostError> {
        let all = self.flows.iter();
        let found = all.filter(|flow| stale.iter().any(|stale| stale.matches(flow)));
        let found: Vec<Flow> = found.cloned().collect();
        self.delete_flows(&found)
    }

    fn note_writers(&mut self) {}

    fn clear_writers(&mut self) {
        self.writers.clear();
    }

    fn who_wrote(&mut self) -> Result<String, NetlinkError> {
        Ok(std::mem::take(&mut self.writers).join(", "))
    }
}
