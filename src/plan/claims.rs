//! Who has what several Services claim: addresses, ports of addresses, node ports.
//!
//! A clusterIP comes before every other address, for all its ports; else the older object
//! comes first (`metadata.creationTimestamp`, then namespace and name). Who loses a frontend
//! loses that one only. Decided here for a whole plan and for one changed Service alike:
//! [`Claims`] knows all claims, and [`Claims::award`] leaves a Service what is its own.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use super::service::ServicePlan;
use super::types::{FrontendKey, FrontendKind, ListKey};
use crate::cluster::ObjectName;
use crate::problem::Problem;

/// Ports named in one message; of more only the number is said.
const NAMED_PORTS: usize = 8;

/// Who claims something. The order is that of precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claimant {
    /// When the object was made, from [`moment`]; `u64::MAX` if that is not known.
    since: u64,
    /// The object.
    pub name: ObjectName,
}

impl Claimant {
    /// An object with its `metadata.creationTimestamp`.
    #[must_use]
    pub fn new(name: &ObjectName, created: Option<&str>) -> Self {
        Self {
            since: created.and_then(moment).unwrap_or(u64::MAX),
            name: name.clone(),
        }
    }
}

/// A time as the API writes it (RFC 3339 in UTC with whole seconds) as one number that grows
/// with it: its digits. `None` for anything else.
#[must_use]
pub fn moment(text: &str) -> Option<u64> {
    const FORM: &[u8] = b"0000-00-00T00:00:00Z";
    let fits = |(c, form): (u8, &u8)| match form {
        b'0' => c.is_ascii_digit(),
        form => c == *form,
    };
    let right = text.len() == FORM.len() && text.bytes().zip(FORM).all(fits);
    right.then(|| {
        let digits = text.bytes().filter(u8::is_ascii_digit);
        digits.fold(0, |all, digit| all * 10 + u64::from(digit - b'0'))
    })
}

/// A claim to one thing: lower ranks come first, whoever has them.
type Claim = (u8, Arc<Claimant>);

/// Claims by what they are to. Nearly everything is claimed once, so further claims are kept
/// apart.
#[derive(Debug)]
struct Contest<K> {
    first: HashMap<K, Claim>,
    more: HashMap<K, BTreeSet<Claim>>,
}

impl<K> Default for Contest<K> {
    fn default() -> Self {
        Self {
            first: HashMap::default(),
            more: HashMap::default(),
        }
    }
}

impl<K: Copy + Eq + Hash> Contest<K> {
    /// Who comes first.
    fn holder(&self, key: &K) -> Option<&Claim> {
        self.first.get(key)
    }

    /// All who claim it.
    fn all<'a>(&'a self, key: &K) -> impl Iterator<Item = &'a ObjectName> + use<'a, K> {
        let first = self.first.get(key).into_iter();
        let more = self.more.get(key).into_iter().flatten();
        first.chain(more).map(|(_, claimant)| &claimant.name)
    }

    fn claim(&mut self, key: K, claim: Claim) {
        match self.first.get_mut(&key) {
            None => drop(self.first.insert(key, claim)),
            Some(first) if *first == claim => {}
            Some(first) => {
                let later = if claim < *first {
                    std::mem::replace(first, claim)
                } else {
                    claim
                };
                self.more.entry(key).or_default().insert(later);
            }
        }
    }

    fn give_up(&mut self, key: &K, claim: &Claim) {
        let more = self.more.get_mut(key);
        if self.first.get(key) == Some(claim) {
            match more.and_then(BTreeSet::pop_first) {
                Some(next) => drop(self.first.insert(*key, next)),
                None => drop(self.first.remove(key)),
            }
        } else if let Some(more) = more {
            more.remove(claim);
        }
        if self.more.get(key).is_some_and(BTreeSet::is_empty) {
            self.more.remove(key);
        }
    }
}

/// What a claim is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claimed {
    /// A frontend.
    Frontend(FrontendKey),
    /// An address, as a clusterIP.
    ClusterIp(IpAddr),
    /// An address, as an external one. Several may share it.
    External(IpAddr),
}

/// All claims of one family.
#[derive(Debug, Default)]
pub struct Claims {
    frontends: Contest<FrontendKey>,
    cluster_ips: Contest<IpAddr>,
    external: Contest<IpAddr>,
}

impl Claims {
    /// A Service gives up what `before` claims and claims what `after` does. O(both).
    pub fn change(&mut self, before: &ServicePlan, after: &ServicePlan) {
        each_difference(before, after, |claimed, claim| match claimed {
            Claimed::Frontend(key) => self.frontends.give_up(&key, claim),
            Claimed::ClusterIp(addr) => self.cluster_ips.give_up(&addr, claim),
            Claimed::External(addr) => self.external.give_up(&addr, claim),
        });
        each_difference(after, before, |claimed, claim| match claimed {
            Claimed::Frontend(key) => self.frontends.claim(key, claim.clone()),
            Claimed::ClusterIp(addr) => self.cluster_ips.claim(addr, claim.clone()),
            Claimed::External(addr) => self.external.claim(addr, claim.clone()),
        });
    }

    /// Services whose share may change when one goes from `before` to `after`.
    /// O(what it claims anew or no longer, and who else claims that).
    pub fn rivals(
        &self,
        before: &ServicePlan,
        after: &ServicePlan,
        mut found: impl FnMut(&ObjectName),
    ) {
        for (one, other) in [(before, after), (after, before)] {
            each_difference(one, other, |claimed, claim| {
                let mut found = |name: &ObjectName| {
                    if *name != claim.1.name {
                        found(name);
                    }
                };
                match claimed {
                    Claimed::Frontend(key) => self.frontends.all(&key).for_each(&mut found),
                    Claimed::ClusterIp(addr) => {
                        self.cluster_ips.all(&addr).for_each(&mut found);
                        self.external.all(&addr).for_each(&mut found);
                    }
                    Claimed::External(_) => {}
                }
            });
        }
    }

    /// True if nobody claims anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frontends.first.is_empty() && self.cluster_ips.first.is_empty()
    }

    /// Who has a frontend, if anybody claims it.
    #[must_use]
    pub fn holder(&self, key: &FrontendKey) -> Option<&ObjectName> {
        self.frontends.holder(key).map(|(_, c)| &c.name)
    }

    /// Leaves a Service what is its own: frontends that nobody comes before it at, and the
    /// lists these lead to. O(its frontends).
    #[must_use]
    pub fn award(&self, mut part: ServicePlan) -> (ServicePlan, Vec<Problem>) {
        let mut lost = Lost::default();
        let Some(me) = part.claimant.clone() else {
            return (part, Vec::new());
        };
        let before = part.frontends.len();
        part.cluster_ips.retain(|addr, _| {
            let holder = self.cluster_ips.holder(addr).map(|(_, holder)| holder);
            let other = holder.filter(|holder| holder.name != me.name);
            if let Some(other) = other {
                lost.cluster_ip(*addr, other, None);
            }
            other.is_none()
        });
        part.frontends.retain(|key, frontend| {
            if let (FrontendKey::Address(addr, ..), true) =
                (key, frontend.kind != FrontendKind::ClusterIp)
                && let Some((_, other)) = self.cluster_ips.holder(addr)
                && other.name != me.name
            {
                lost.address(*addr, frontend.kind, other);
                return false;
            }
            let holder = self.frontends.holder(key).map(|(_, holder)| holder);
            let other = holder.filter(|holder| holder.name != me.name);
            if let Some(other) = other {
                lost.frontend(key, frontend.kind, other);
            }
            other.is_none()
        });
        if part.frontends.len() < before {
            let used: BTreeSet<&ListKey> = part
                .frontends
                .values()
                .flat_map(|f| f.target.lists())
                .collect();
            part.lists.retain(|key, _| used.contains(key));
        }
        let problems = lost.problems(&part);
        (part, problems)
    }
}

/// Shows each claim of `one` that `other` does not make.
fn each_difference(one: &ServicePlan, other: &ServicePlan, mut found: impl FnMut(Claimed, &Claim)) {
    let Some(claimant) = &one.claimant else {
        return;
    };
    let same = one.claimant == other.claimant;
    let mut claim = (0, Arc::clone(claimant));
    let mut externals: Option<IpAddr> = None;
    for (key, frontend) in &one.frontends {
        let kind = other.frontends.get(key).map(|f| f.kind);
        let external = frontend.kind != FrontendKind::ClusterIp;
        claim.0 = u8::from(external);
        if !(same && kind.is_some_and(|k| (k != FrontendKind::ClusterIp) == external)) {
            found(Claimed::Frontend(*key), &claim);
        }
        // In order, so all ports of an address follow each other.
        if let (FrontendKey::Address(addr, ..), true) = (key, external)
            && externals != Some(*addr)
        {
            externals = Some(*addr);
            if !(same && has_external(other, *addr)) {
                claim.0 = 0;
                found(Claimed::External(*addr), &claim);
            }
        }
    }
    for addr in one.cluster_ips.keys() {
        if !(same && other.cluster_ips.contains_key(addr)) {
            claim.0 = 0;
            found(Claimed::ClusterIp(*addr), &claim);
        }
    }
    if let Some(addr) = one.reserved
        && !(same && other.reserved == one.reserved)
    {
        claim.0 = 1;
        found(Claimed::ClusterIp(addr), &claim);
    }
}

fn has_external(part: &ServicePlan, addr: IpAddr) -> bool {
    let first = FrontendKey::first_of(addr);
    let mut at = part
        .frontends
        .range(first..)
        .take_while(|(key, _)| matches!(key, FrontendKey::Address(other, ..) if *other == addr));
    at.any(|(_, frontend)| frontend.kind != FrontendKind::ClusterIp)
}

/// What a Service lost, and to whom: one message for each other Service and address.
#[derive(Default)]
struct Lost {
    /// Ports at its own clusterIP.
    cluster_ips: BTreeMap<(IpAddr, ObjectName), Vec<String>>,
    /// External addresses that are clusterIPs.
    addresses: BTreeMap<(IpAddr, &'static str), ObjectName>,
    /// Ports of external addresses.
    ports: BTreeMap<(IpAddr, &'static str, ObjectName), Vec<String>>,
    /// Node ports.
    node_ports: BTreeMap<ObjectName, Vec<String>>,
}

const fn field(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "spec.clusterIP",
        FrontendKind::ExternalIp => "spec.externalIPs",
        FrontendKind::LoadBalancer => "status.loadBalancer.ingress",
        FrontendKind::NodePort => "spec.ports[].nodePort",
    }
}

impl Lost {
    fn cluster_ip(&mut self, addr: IpAddr, to: &Claimant, port: Option<String>) {
        let ports = self.cluster_ips.entry((addr, to.name.clone()));
        ports.or_default().extend(port);
    }

    fn address(&mut self, addr: IpAddr, kind: FrontendKind, to: &Claimant) {
        self.addresses.insert((addr, field(kind)), to.name.clone());
    }

    fn frontend(&mut self, key: &FrontendKey, kind: FrontendKind, to: &Claimant) {
        let port = format!("{}/{}", key.port(), key.protocol());
        match key {
            FrontendKey::NodePort(..) => {
                let ports = self.node_ports.entry(to.name.clone());
                ports.or_default().push(port);
            }
            FrontendKey::Address(addr, ..) if kind == FrontendKind::ClusterIp => {
                self.cluster_ip(*addr, to, Some(port));
            }
            FrontendKey::Address(addr, ..) => {
                let ports = self.ports.entry((*addr, field(kind), to.name.clone()));
                ports.or_default().push(port);
            }
        }
    }

    fn problems(self, part: &ServicePlan) -> Vec<Problem> {
        let Some(me) = &part.claimant else {
            return Vec::new();
        };
        let object = || format!("Service {}", me.name);
        let warning = |field: &str, message: String| {
            Problem::warning(part.origin.as_ref(), object(), field, message)
        };
        let mut out = Vec::new();
        for ((addr, other), ports) in self.cluster_ips {
            let keeps = match listed(&ports) {
                ports if ports.is_empty() => String::new(),
                ports => format!(", which keeps {ports}"),
            };
            let message = format!("{addr} is already the clusterIP of Service {other}{keeps}");
            out.push(warning(field(FrontendKind::ClusterIp), message));
        }
        for ((addr, field), other) in self.addresses {
            let message = format!(
                "{addr} is the clusterIP of Service {other}, which keeps it; nothing at this \
                 address leads to Service {}",
                me.name
            );
            out.push(warning(field, message));
        }
        for ((addr, field, other), ports) in self.ports {
            let message = format!(
                "{addr} port {} already leads to Service {other}, which keeps it",
                listed(&ports)
            );
            out.push(warning(field, message));
        }
        for (other, ports) in self.node_ports {
            let message = format!(
                "{} is already the node port of Service {other}, which keeps it",
                listed(&ports)
            );
            out.push(warning(field(FrontendKind::NodePort), message));
        }
        out
    }
}

fn listed(ports: &[String]) -> String {
    let mut text = ports[..ports.len().min(NAMED_PORTS)].join(", ");
    if ports.len() > NAMED_PORTS {
        text.push_str(&format!(" and {} more", ports.len() - NAMED_PORTS));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_ordered_as_time_is_and_other_texts_are_none() {
        let known = |text: &str| moment(text).expect(text);
        assert!(known("2025-12-31T23:59:59Z") < known("2026-01-01T00:00:00Z"));
        for other in [
            "",
            "2026",
            "2026-01-01T00:00:00+02:00",
            "2026-01-01 00:00:00Z",
        ] {
            assert_eq!(moment(other), None, "{other}");
        }
    }

    #[test]
    fn the_older_claimant_comes_first_and_one_of_unknown_age_last() {
        let at = |name: &str, created| Claimant::new(&ObjectName::new("default", name), created);
        let old = at("z", Some("2025-01-01T00:00:00Z"));
        let new = at("a", Some("2026-01-01T00:00:00Z"));
        assert!(old < new);
        assert!(new < at("a", None));
        assert!(at("a", None) < at("b", None));
    }

    #[test]
    fn who_gives_up_leaves_it_to_the_next_in_order() {
        let claim = |name: &str| {
            let name = ObjectName::new("default", name);
            (0, Arc::new(Claimant::new(&name, None)))
        };
        let mut contest: Contest<u8> = Contest::default();
        for name in ["b", "c", "a"] {
            contest.claim(1, claim(name));
        }
        let holder = |contest: &Contest<u8>| {
            let found = contest.holder(&1);
            found.map(|(_, c)| c.name.name.to_string())
        };
        assert_eq!(holder(&contest).as_deref(), Some("a"));
        contest.give_up(&1, &claim("b"));
        contest.give_up(&1, &claim("a"));
        assert_eq!(holder(&contest).as_deref(), Some("c"));
        contest.give_up(&1, &claim("c"));
        assert_eq!(holder(&contest), None);
        assert!(contest.more.is_empty());
    }
}
