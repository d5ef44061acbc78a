//! Packets and what becomes of them, as tests: lines that say who asks whom and who answers,
//! held against the ruleset of a node without sending anything ([`model`]), against what a
//! kernel holds ([`Walker`]), or against real packets ([`sent`]). `svcnat verify` is this as a
//! program, `docs/packets.md` has the language.
//!
//! ```
//! use svcnat::config::Config;
//! use svcnat::node::Node;
//! use svcnat::verify::{self, Packets};
//!
//! let manifests = "
//! {apiVersion: v1, kind: Service, metadata: {name: web},
//!  spec: {clusterIP: 10.254.0.10, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}}
//! ---
//! {apiVersion: v1, kind: Pod, metadata: {name: web-1, labels: {app: web}}, spec: {nodeName: n1},
//!  status: {podIP: 172.17.0.2}}
//! ";
//! let config = Config {
//!     node_name: "n1".to_owned(),
//!     cluster_cidrs: vec!["172.17.0.0/16".parse()?],
//!     service_cidrs: vec!["10.254.0.0/16".parse()?],
//!     ..Config::default()
//! };
//! let (node, _) = Node::parse(manifests, config);
//! let packets = Packets::parse(
//!     "packets.txt",
//!     "172.17.0.9 svc/web:80 -> pod/web-1 100%
//!      203.0.113.9 svc/web:80 -> pod/web-1 masqueraded   # no pod
//!      172.17.0.9 10.254.0.10:81 -> refused because no port 81",
//! )?;
//! let checks = verify::model(&node, &packets)?;
//! assert!(checks.iter().all(|check| check.passed()), "{}", verify::failures(&checks));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod folder;
mod language;
mod sandbox;
mod sent;
mod shuffled;
mod spread;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use crate::cluster::{Cluster, Family};
use crate::explain::{EndError, Ends, Names, Nothing, Reasons, Scene};
use crate::node::Node;
use crate::plan::Standing;
use crate::ruleset::{Ruleset, Table};
use crate::walk::{Fate, Trace, walk};

pub use crate::walk::Packet as MadeUp;
pub use folder::{FolderError, folder};
pub use language::{End, Endpoint, Fault, Faults, Packet, Packets, Remembered, Share, Word};
pub use sandbox::{SandboxError, sandbox};
pub use sent::{Answer, Ask, Outcome, PATIENCE, SILENCE, reaches_its_destination, sent};
pub use shuffled::{another_order, shuffled};
pub use spread::{chi_square, chi_square_limit, spread};

/// One thing that was held against what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Where it is written: `packets.txt:3`; the input alone of what must hold for any.
    pub at: String,
    /// What it is about: a client and a destination.
    pub name: String,
    /// How it went.
    pub verdict: Verdict,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As written.
    Passed,
    /// It could not be tried here: why.
    Skipped(String),
    /// Otherwise.
    Failed(Failure),
}

/// What was written and what is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was written.
    pub expected: String,
    /// What is.
    pub got: String,
    /// What decided it, as `explain` says it.
    pub because: Option<String>,
}

impl Check {
    /// Neither failed nor skipped.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.verdict == Verdict::Passed
    }

    /// Something is otherwise than written.
    #[must_use]
    pub const fn failed(&self) -> bool {
        matches!(self.verdict, Verdict::Failed(_))
    }

    /// What must hold for any input: `Ok`, or what was found instead of what was expected.
    #[must_use]
    pub fn of(at: &str, name: &str, expected: &str, found: Result<(), String>) -> Self {
        let failed = |got| {
            Verdict::Failed(Failure {
                expected: expected.to_owned(),
                got,
                because: None,
            })
        };
        Self {
            at: at.to_owned(),
            name: name.to_owned(),
            verdict: found.map_or_else(failed, |()| Verdict::Passed),
        }
    }
}

/// The checks that failed, in words; empty if there are none.
#[must_use]
pub fn failures(checks: &[Check]) -> String {
    let mut out = String::new();
    for Check { at, name, verdict } in checks {
        let Verdict::Failed(failure) = verdict else {
            continue;
        };
        let (expected, got) = (&failure.expected, &failure.got);
        let text = format!("{at}: {name}\n  expected  {expected}\n  got       {got}\n");
        out.push_str(&text);
        if let Some(because) = &failure.because {
            // A string takes it.
            let _ = writeln!(out, "  because   {because}");
        }
    }
    out
}

/// A packet of a line, with the addresses that its names mean.
#[derive(Clone, Debug)]
pub struct Asked<'p> {
    /// As written.
    pub packet: &'p Packet,
    /// Who sends, and where to.
    pub ends: Ends,
    /// Of each endpoint of the line's end, the addresses it may have.
    addresses: Vec<Vec<IpAddr>>,
    namespace: &'p str,
}

impl<'p> Asked<'p> {
    /// The packets of these lines, as `node` knows their names; those without a namespace are in
    /// `namespace`.
    ///
    /// # Errors
    /// If there are ends that nobody has: all of them.
    pub fn of(
        packets: &'p Packets,
        node: &'p Node,
        namespace: &'p str,
    ) -> Result<Vec<Self>, Faults> {
        Self::among(packets, Names::of(node, namespace))
    }

    /// The packets of these lines, by other names as well.
    ///
    /// # Errors
    /// If there are ends that nobody has: all of them.
    pub fn among(packets: &'p Packets, names: Names<'p>) -> Result<Vec<Self>, Faults> {
        let (mut asked, mut all) = (Vec::new(), Vec::new());
        for packet in packets.packets() {
            match Self::one(packet, names) {
                Ok(one) => asked.push(one),
                Err((column, error)) => all.push(Fault {
                    line: packet.line,
                    column,
                    message: error.to_string(),
                }),
            }
        }
        let file = packets.file.clone();
        match all.is_empty() {
            true => Ok(asked),
            false => Err(Faults { file, all }),
        }
    }

    fn one(packet: &'p Packet, names: Names<'p>) -> Result<Self, (usize, EndError)> {
        let (client, destination) = (&packet.client, &packet.destination);
        let found = names.ends(&client.text, &destination.text);
        let ends = found.map_err(|error| {
            let is_client = names.addresses(&client.text).is_err();
            let at = if is_client { client } else { destination };
            (at.column, error)
        })?;
        let by = match &packet.end {
            Some(End::Endpoints { by, .. }) => &by[..],
            _ => &[],
        };
        let addresses = by.iter().map(|endpoint| {
            let found = names.addresses(&endpoint.who.text);
            found.map_err(|error| (endpoint.who.column, error))
        });
        Ok(Self {
            packet,
            ends,
            addresses: addresses.collect::<Result<_, _>>()?,
            namespace: names.namespace,
        })
    }

    /// The endpoints of the line's end, each with the addresses it may have.
    fn endpoints(&self) -> impl Iterator<Item = (&Endpoint, &[IpAddr])> {
        let by = match &self.packet.end {
            Some(End::Endpoints { by, .. }) => &by[..],
            _ => &[],
        };
        let addresses = self.addresses.iter().map(Vec::as_slice);
        by.iter().zip(addresses)
    }

    /// Where those that the line says may answer, of those that it says the port of.
    #[must_use]
    pub fn sockets(&self) -> Vec<SocketAddr> {
        let sockets = |(endpoint, addresses): (&Endpoint, &[IpAddr])| {
            let port = endpoint.port?.get();
            let family = Family::of(&self.ends.destination);
            let same = addresses.iter().find(|addr| Family::of(addr) == family);
            same.map(|addr| SocketAddr::new(*addr, port))
        };
        self.endpoints().filter_map(sockets).collect()
    }

    /// True if the line names an object: so is it answered.
    fn has_names(&self) -> bool {
        let is_name = |word: &Word| word.text.parse::<IpAddr>().is_err();
        let destination = &self.packet.destination.text;
        let socket = destination
            .rsplit_once('/')
            .map_or(&**destination, |(at, _)| at);
        is_name(&self.packet.client) || socket.parse::<SocketAddr>().is_err()
    }

    /// How it went with the line, in a file of this name.
    #[must_use]
    pub fn check(&self, file: &str, verdict: Verdict) -> Check {
        Check {
            at: format!("{file}:{}", self.packet.line),
            name: self.name(),
            verdict,
        }
    }

    /// `pod/visitor svc/web:80`.
    #[must_use]
    pub fn name(&self) -> String {
        format!(
            "{} {}",
            self.packet.client.text, self.packet.destination.text
        )
    }
}

/// What became of a made-up packet.
#[derive(Clone, Debug)]
pub struct Found {
    /// Rule by rule.
    pub trace: Trace,
    /// Somebody is to answer: the destination is a frontend or a host port.
    pub is_ours: bool,
    /// As a line has it.
    pub end: End,
    /// True if the line says so too.
    pub as_written: bool,
    /// What decided it, in Kubernetes' words.
    pub because: String,
}

impl Found {
    /// Whether it is as the line says.
    #[must_use]
    pub fn verdict(self, asked: &Asked<'_>) -> Verdict {
        if self.as_written {
            return Verdict::Passed;
        }
        Verdict::Failed(Failure {
            expected: written(asked),
            got: self.end.to_string(),
            because: Some(self.because).filter(|why| !why.is_empty()),
        })
    }
}

/// Where made-up packets are sent: through a ruleset, on a node.
#[derive(Clone, Copy, Debug)]
pub struct Walker<'a> {
    /// The node and its objects.
    pub node: &'a Node,
    /// The ruleset: [`Node::ruleset`], or what a kernel was found to hold.
    pub ruleset: &'a Ruleset,
    /// The node's addresses.
    pub local: &'a BTreeSet<IpAddr>,
    /// A kernel was asked, and has no table of ours of the packets' family.
    pub absent: bool,
}

impl Walker<'_> {
    /// What becomes of the packet of a line.
    #[must_use]
    pub fn walk(&self, asked: &Asked<'_>) -> Found {
        let packet = self.packet(&asked.ends);
        let family = Family::of(&packet.destination);
        let none = Table::new(family);
        let table = self.ruleset.tables.get(&family);
        let is_local = |addr: IpAddr| addr.is_loopback() || self.local.contains(&addr);
        let trace = walk(table.unwrap_or(&none), &packet, &is_local);
        let scene = Scene {
            inputs: self.node,
            packet: &packet,
            trace: &trace,
            local: self.local,
            live: false,
            nothing: Nothing::of(true, !self.absent, table.is_some()),
        };
        let reasons = Reasons::find(&scene);
        let end = self.end(asked, &trace, &reasons);
        Found {
            as_written: is_as_written(asked, &trace, &end, &reasons.fate),
            because: decisive(asked, &scene, &reasons),
            is_ours: reasons.frontend.is_some() || reasons.host_port.is_some(),
            end,
            trace,
        }
    }

    /// The packet of these ends, as this node meets it.
    #[must_use]
    pub fn packet(&self, ends: &Ends) -> MadeUp {
        MadeUp {
            source: ends.source,
            destination: ends.destination,
            protocol: ends.protocol,
            port: ends.port,
            iif: None,
            from_node: self.local.contains(&ends.source),
        }
    }

    /// In the language, by names if the line has any.
    fn end(&self, asked: &Asked<'_>, trace: &Trace, reasons: &Reasons<'_>) -> End {
        let because = None;
        let by_name = asked.has_names();
        let endpoint = |candidate: &crate::walk::Candidate| {
            let addr = candidate.endpoint.addr;
            let name = || name(&self.node.cluster, asked.namespace, addr);
            let text = by_name.then(name).flatten();
            Endpoint {
                who: Word {
                    text: text.unwrap_or_else(|| addr.to_string()),
                    column: 0,
                },
                port: Some(candidate.endpoint.port),
                share: Some(Share::of(candidate.probability)),
                masqueraded: candidate.masqueraded,
            }
        };
        match trace.fate {
            Fate::Refused => End::Refused { because },
            Fate::Dropped => End::Dropped { because },
            Fate::Accepted if trace.candidates.is_empty() => End::Untranslated {
                masqueraded: trace.masqueraded,
                because,
            },
            Fate::Accepted => End::Endpoints {
                by: trace.candidates.iter().map(endpoint).collect(),
                remembered: reasons.affinity.map(|time| Remembered(Some(time))),
            },
        }
    }
}

/// `pod/web-1`, `node/n1`, as [`ends`] reads it; nothing if nobody is known to have the address.
fn name(cluster: &Cluster, namespace: &str, addr: IpAddr) -> Option<String> {
    let of_pod = |its: &str, name: &str| match its == namespace {
        true => format!("pod/{name}"),
        false => format!("pod/{its}/{name}"),
    };
    let mut nodes = cluster.nodes.values();
    if let Some(node) = nodes.find(|node| node.addresses.contains(&addr)) {
        return Some(format!("node/{}", node.name));
    }
    let mut pods = cluster.pods.values();
    if let Some(pod) = pods.find(|pod| pod.addresses.contains(&addr)) {
        return Some(of_pod(&pod.name.namespace, &pod.name.name));
    }
    cluster.services.keys().find_map(|service| {
        let slices = cluster.slices_of(service);
        let mut endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
        let pod = endpoints.find(|e| e.address == addr)?.pod.as_ref()?;
        Some(of_pod(&service.namespace, pod))
    })
}

/// Whether what became of a packet is what its line says. A line without an end says nothing.
fn is_as_written(asked: &Asked<'_>, trace: &Trace, found: &End, why: &str) -> bool {
    let says = |words: &Option<String>| {
        let words = words.as_deref().unwrap_or_default().to_lowercase();
        why.to_lowercase().contains(&words)
    };
    match (&asked.packet.end, found) {
        (Some(End::Refused { because }), End::Refused { .. })
        | (Some(End::Dropped { because }), End::Dropped { .. }) => says(because),
        (
            Some(End::Untranslated {
                masqueraded,
                because,
            }),
            End::Untranslated {
                masqueraded: is, ..
            },
        ) => masqueraded == is && says(because),
        (
            Some(End::Endpoints { remembered, .. }),
            End::Endpoints {
                remembered: found, ..
            },
        ) => {
            let memory = match (remembered, found) {
                (Some(Remembered(None)), found) => found.is_some(),
                (written, found) => written == found,
            };
            memory && are_as_written(asked, trace)
        }
        _ => false,
    }
}

/// Each that may answer is written down, sees whom he should, and has his share; nobody else is.
fn are_as_written(asked: &Asked<'_>, trace: &Trace) -> bool {
    let mut shares = vec![0.0; asked.addresses.len()];
    let all_known = trace.candidates.iter().all(|candidate| {
        let at = candidate.endpoint;
        let found = asked.endpoints().position(|(endpoint, addresses)| {
            addresses.contains(&at.addr)
                && endpoint.port.is_none_or(|port| port == at.port)
                && endpoint.masqueraded == candidate.masqueraded
        });
        found.map(|n| shares[n] += candidate.probability).is_some()
    });
    let mut found = asked.endpoints().zip(&shares);
    all_known
        && found.all(|((endpoint, _), probability)| {
            *probability > 0.0 && endpoint.share.is_none_or(|share| share.is(*probability))
        })
}

/// The one line of an explanation that decides: why an endpoint that is written down is left
/// out, or sees another address; why the packet ends; or else whose frontend it is.
fn decisive(asked: &Asked<'_>, scene: &Scene<'_>, reasons: &Reasons<'_>) -> String {
    if !reasons.fate.is_empty() {
        return reasons.fate.clone();
    }
    for (written, addresses) in asked.endpoints() {
        let candidates = scene.trace.candidates.iter();
        let mut own = candidates.filter(|c| addresses.contains(&c.endpoint.addr));
        let Some(candidate) = own.next() else {
            let mut known = reasons.endpoints.iter();
            let left_out =
                known.find(|(e, why)| addresses.contains(&e.addr) && *why != Standing::Used);
            if let Some((_, why)) = left_out {
                return format!("{} is left out: {why}", written.who.text);
            }
            continue;
        };
        if candidate.masqueraded != written.masqueraded {
            let whom = match candidate.masqueraded {
                true => "this node's address",
                false => "the client's address",
            };
            let why = reasons.masquerade(scene, candidate);
            return format!("{} sees {whom}: {why}", written.who.text);
        }
    }
    match (reasons.frontend, reasons.host_port) {
        (Some(frontend), _) => {
            let service = &frontend.owner.service;
            format!("Service {service}: {}", reasons.policy)
        }
        (None, Some(port)) => format!("hostPort of Pod {}", port.owner),
        (None, None) => String::new(),
    }
}

/// Holds these lines against what `walker` says.
#[must_use]
pub fn walked(walker: &Walker<'_>, file: &str, asked: &[Asked<'_>]) -> Vec<Check> {
    let check = |asked: &Asked<'_>| asked.check(file, walker.walk(asked).verdict(asked));
    asked.iter().map(check).collect()
}

/// What a line says, or that it says nothing.
fn written(asked: &Asked<'_>) -> String {
    let end = asked.packet.end.as_ref();
    end.map_or_else(|| "(no -> and end)".to_owned(), ToString::to_string)
}

/// The addresses of a node that packets of its own come from, as far as its objects and settings
/// tell them.
#[must_use]
pub fn addresses(node: &Node) -> BTreeSet<IpAddr> {
    node.context.addresses.iter().copied().collect()
}

/// Holds lines against the ruleset that is planned for `node`, and looks whether that differs
/// from itself. Nothing is sent, and nothing of the host is asked.
///
/// # Errors
/// If lines have ends that nobody has.
pub fn model(node: &Node, packets: &Packets) -> Result<Vec<Check>, Faults> {
    let asked = Asked::of(packets, node, "default")?;
    let ruleset = node.ruleset();
    let walker = Walker {
        node,
        ruleset: &ruleset,
        local: &addresses(node),
        absent: false,
    };
    let mut checks = walked(&walker, &packets.file, &asked);
    checks.push(differs_from_itself(node, &packets.file));
    Ok(checks)
}

/// A ruleset that a kernel holds as it was rendered leaves nothing to do.
#[must_use]
pub fn differs_from_itself(node: &Node, at: &str) -> Check {
    let found = match node.diff(&node.ruleset().into_live()) {
        delta if delta.is_empty() => Ok(()),
        delta => Err(format!("{:?}", delta.counts())),
    };
    let name = "the ruleset differs from itself in nothing";
    Check::of(at, name, "no differences", found)
}

#[cfg(test)]
mod tests;
