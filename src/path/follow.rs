//! From the device that the packet comes in by to the endpoint, and back.

use std::net::IpAddr;

use super::say::{outcome, owner, refused};
use super::{Hop, Leg, Listener, Neighbour, Node, Path, Route, RouteQuestion, State, device};
use crate::foreign::{self, Device, Hook, Outcome, Verdict};
use crate::net::{Endpoint, Protocol};
use crate::ruleset::{self, Table};
use crate::walk::{Fate, Packet, Trace};

/// What our rules make of the packet, and where they stand among others'.
#[derive(Clone, Copy, Debug)]
pub struct Ours<'a> {
    /// The table it was walked through.
    pub table: &'a Table,
    /// What came of it.
    pub trace: &'a Trace,
    /// Why it is dropped or refused, if it is, or why it is left alone.
    pub reason: &'a str,
    /// True if something of ours was to answer.
    pub expected: bool,
    /// Somebody changed our rules, or they are of another configuration.
    pub altered: bool,
}

impl Ours<'_> {
    fn priority(&self, hook: ruleset::Hook) -> Option<i32> {
        let bases = self.table.chains.iter().filter_map(|chain| chain.base);
        bases
            .into_iter()
            .find(|base| base.hook == hook)
            .map(|base| base.priority)
    }
}

/// Follows `packet` over the node.
pub fn follow(node: &mut impl Node, packet: &Packet, ours: &Ours<'_>) -> Path {
    let mut way = Way {
        node,
        hops: Vec::new(),
    };
    let iif = way.arrival(packet);
    let oif = match packet.from_node {
        true => way.sent(packet.destination),
        false => Device::None,
    };
    let mut seen = foreign::Packet::first(
        packet.source,
        (packet.destination, packet.port),
        packet.protocol,
        iif,
    );
    seen.oif = oif;
    let asking = if packet.from_node {
        Hook::Output
    } else {
        Hook::Prerouting
    };
    let ours_at = match asking {
        Hook::Output => ours.priority(ruleset::Hook::Output),
        _ => ours.priority(ruleset::Hook::Prerouting),
    };
    let before = ours_at.map_or(i32::MAX, |at| at.saturating_sub(1));
    if !packet.from_node {
        way.hook(Hook::Ingress, i32::MIN..=i32::MAX, &mut seen);
    }
    let translated = way.hook(asking, i32::MIN..=before, &mut seen);
    way.tracking(&seen, ours);
    let mut path = Path::default();
    if translated {
        path.hops = way.hops;
        return path;
    }
    way.flows(packet, ours);
    way.ours(ours);
    path.hops = std::mem::take(&mut way.hops);
    if ours.trace.fate != Fate::Accepted {
        return path;
    }
    let after = ours_at.unwrap_or(i32::MAX)..=i32::MAX;
    if ours.trace.candidates.is_empty() {
        let at = (packet.destination, packet.port);
        let hops = leg(&mut way, seen, asking, after, at, ours.trace.masqueraded);
        path.legs.push(Leg {
            to: None,
            share: 1.0,
            hops,
        });
        return path;
    }
    for candidate in &ours.trace.candidates {
        let mut seen = seen.clone();
        seen.asked = Some((packet.destination, packet.port));
        let Endpoint { addr, port } = candidate.endpoint;
        let hops = leg(
            &mut way,
            seen,
            asking,
            after.clone(),
            (addr, port.get()),
            candidate.masqueraded,
        );
        path.legs.push(Leg {
            to: Some(candidate.endpoint),
            share: candidate.probability,
            hops,
        });
    }
    path
}

/// From our translation to the destination and back. `masqueraded`: the endpoint answers to this
/// node.
fn leg<N: Node>(
    way: &mut Way<'_, N>,
    mut seen: foreign::Packet,
    asking: Hook,
    after: std::ops::RangeInclusive<i32>,
    (destination, port): (IpAddr, u16),
    masqueraded: bool,
) -> Vec<Hop> {
    seen.destination = destination;
    seen.port = Some(port);
    if asking == Hook::Prerouting {
        way.hook(asking, after.clone(), &mut seen);
    }
    let Some(route) = way.route(&seen) else {
        return std::mem::take(&mut way.hops);
    };
    if asking == Hook::Output {
        // What this node sends is routed anew as soon as it is translated.
        if let Route::Device { index, .. } = route {
            seen.oif = device(way.node, index);
        }
        way.hook(asking, after, &mut seen);
    }
    let every = i32::MIN..=i32::MAX;
    let back = match route {
        Route::Local => {
            if asking != Hook::Output {
                way.hook(Hook::Input, every.clone(), &mut seen);
            }
            way.listener(&seen);
            None
        }
        Route::Device { index, via, .. } => {
            seen.oif = device(way.node, index);
            if asking != Hook::Output {
                way.forwarding(&seen);
                way.hook(Hook::Forward, every.clone(), &mut seen);
            }
            way.hook(Hook::Postrouting, every.clone(), &mut seen);
            way.hook(Hook::Egress, every, &mut seen);
            way.neighbour(index, via.unwrap_or(destination));
            way.listener(&seen);
            Some(index)
        }
        Route::Refused(_) => return std::mem::take(&mut way.hops),
    };
    way.answer(&seen, asking, back, masqueraded);
    std::mem::take(&mut way.hops)
}

struct Way<'n, N> {
    node: &'n mut N,
    hops: Vec<Hop>,
}

impl<N: Node> Way<'_, N> {
    fn note(&mut self, at: &str, state: State, found: impl Into<String>, repair: Option<String>) {
        self.hops.push(Hop {
            at: at.to_owned(),
            state,
            found: found.into(),
            repair,
        });
    }

    /// The device that packets from the client come in by: as said, or as the way back to it is.
    fn arrival(&mut self, packet: &Packet) -> Device {
        if packet.from_node {
            return Device::None;
        }
        let back = RouteQuestion {
            source: None,
            destination: packet.source,
            iif: None,
            mark: 0,
        };
        let route = self.node.route(&back);
        if let Some(name) = &packet.iif {
            self.note("arrives", State::Fine, format!("by {name}"), None);
            return match self.node.index(name) {
                Some(index) => Device::Known(name.clone(), index),
                None => Device::Unknown,
            };
        }
        match route {
            Some(Route::Device { index, via, .. }) => {
                let (name, wrong) = self.node.device(index);
                let by = via.map_or_else(String::new, |via| format!(", by way of {via}"));
                let (state, wrong) = match wrong {
                    None => (State::Fine, String::new()),
                    Some(wrong) => (State::Broken, format!(", which {wrong}")),
                };
                let repair = (state == State::Broken).then(|| format!("ip link set {name} up"));
                self.note("arrives", state, format!("by {name}{wrong}{by}"), repair);
                Device::Known(name, index)
            }
            Some(Route::Local) => {
                let found = "the client's address is this node's own: nobody else may use it";
                self.note("arrives", State::Broken, found, None);
                Device::Unknown
            }
            Some(Route::Refused(errno)) => {
                let client = packet.source;
                let found = format!("no answer finds its way to {client}: {}", refused(errno));
                let repair = format!("ip route add {client} via GATEWAY");
                self.note("arrives", State::Broken, found, Some(repair));
                Device::Unknown
            }
            None => Device::Unknown,
        }
    }

    /// What this node sends is routed once before it is translated: by which device.
    fn sent(&mut self, to: IpAddr) -> Device {
        let question = RouteQuestion {
            source: None,
            destination: to,
            iif: None,
            mark: 0,
        };
        match self.node.route(&question) {
            Some(Route::Refused(errno)) => {
                let found = format!(
                    "this node itself has no route to {to}, which it needs before the address is \
                     translated: {}",
                    refused(errno)
                );
                let repair = Some("ip route add default via GATEWAY".to_owned());
                self.note("sent", State::Broken, found, repair);
                Device::Unknown
            }
            found => {
                self.note("sent", State::Fine, "by this node itself", None);
                match found {
                    Some(Route::Device { index, .. }) => device(self.node, index),
                    _ => Device::Unknown,
                }
            }
        }
    }

    /// Others' chains at a hook. True if one of them certainly ends or translates the packet.
    fn hook(
        &mut self,
        hook: Hook,
        priorities: std::ops::RangeInclusive<i32>,
        seen: &mut foreign::Packet,
    ) -> bool {
        let name = format!(
            "{}{}",
            if seen.is_reply { "answer: " } else { "" },
            hook.nft_name()
        );
        let node = &*self.node;
        let is_local = |address| node.is_local(address);
        let outcomes = foreign::hook(node.others(), hook, priorities, seen, &is_local);
        let unread: Vec<String> = match hook {
            Hook::Forward | Hook::Input | Hook::Output if !seen.is_reply => node.unread().to_vec(),
            _ => Vec::new(),
        };
        let mut ended = false;
        let mut passed = Vec::new();
        for found in outcomes {
            match &found.verdict {
                Verdict::Pass => passed.push(owner(&found.place)),
                Verdict::Snat if seen.is_reply => passed.push(owner(&found.place)),
                _ => {
                    let hop = outcome(&name, &found, seen);
                    ended |= hop.state == State::Broken && ends(&found);
                    self.hops.push(hop);
                }
            }
        }
        if !passed.is_empty() && !ended {
            let found = format!("passes {}", passed.join(", "));
            self.note(&name, State::Fine, found, None);
        }
        for what in unread {
            self.note(&name, State::Unknown, what, None);
        }
        ended
    }

    fn tracking(&mut self, seen: &foreign::Packet, ours: &Ours<'_>) {
        if seen.untracked {
            let found = "another program's rule says that it is not tracked: nothing translates it";
            let state = if ours.expected {
                State::Broken
            } else {
                State::Fine
            };
            self.note("conntrack", state, found, None);
        }
        if let Some((count, max)) = self.node.tracked()
            && count >= max
            && max > 0
        {
            let found = format!("the table is full: {count} of {max} connections are tracked");
            let repair = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2);
            self.note("conntrack", State::Broken, found, Some(repair));
        }
    }

    /// A connection that is tracked goes on to where it went, whatever the rules say by now.
    fn flows(&mut self, packet: &Packet, ours: &Ours<'_>) {
        // TCP clients begin a connection with another port each time.
        if !ours.expected || packet.protocol == Protocol::Tcp {
            return;
        }
        let to = (packet.destination, packet.port);
        let flows = self.node.flows(packet.source, to, packet.protocol);
        let stale: Vec<String> = flows
            .into_iter()
            .filter(|at| ours.trace.candidates.iter().all(|c| c.endpoint != *at))
            .map(|at| std::net::SocketAddr::new(at.addr, at.port.get()).to_string())
            .collect();
        if !stale.is_empty() {
            let found = format!(
                "a flow of this client is tracked that goes to {}, where no rule leads any more",
                stale.join(", ")
            );
            let repair = format!(
                "conntrack -D -p {} -s {} -d {} --dport {}",
                packet.protocol.nft_name(),
                packet.source,
                packet.destination,
                packet.port
            );
            self.note("conntrack", State::Broken, found, Some(repair));
        }
    }

    fn ours(&mut self, ours: &Ours<'_>) {
        if ours.altered {
            let found = "its rules are not as they should be: somebody changed them, or they are \
                         of another configuration";
            let repair = Some("svcnat diff; svcnat apply".to_owned());
            self.note("svcnat", State::Broken, found, repair);
        }
        match ours.trace.fate {
            Fate::Accepted if ours.trace.candidates.is_empty() => {
                let state = if ours.expected {
                    State::Broken
                } else {
                    State::Fine
                };
                self.note(
                    "svcnat",
                    state,
                    format!("leaves it alone: {}", ours.reason),
                    None,
                );
            }
            Fate::Accepted => {
                let found = match ours.trace.candidates.len() {
                    1 => "leads it to an endpoint".to_owned(),
                    n => format!("leads it to one of {n} endpoints"),
                };
                self.note("svcnat", State::Fine, found, None);
            }
            Fate::Dropped => {
                self.note(
                    "svcnat",
                    State::Broken,
                    format!("drops it: {}", ours.reason),
                    None,
                );
            }
            Fate::Refused => {
                self.note(
                    "svcnat",
                    State::Broken,
                    format!("refuses it: {}", ours.reason),
                    None,
                );
            }
        }
    }

    fn route(&mut self, seen: &foreign::Packet) -> Option<Route> {
        let iif = match &seen.iif {
            Device::Known(_, index) if *index != 0 => Some(*index),
            _ => None,
        };
        let question = RouteQuestion {
            source: Some(seen.source).filter(|_| iif.is_some()),
            destination: seen.destination,
            iif,
            mark: seen.mark.unwrap_or(0),
        };
        let route = self.node.route(&question)?;
        let to = seen.destination;
        match &route {
            Route::Local => {
                self.note("route", State::Fine, format!("{to} is this node"), None);
            }
            Route::Device { index, via, dead } => {
                let (name, wrong) = self.node.device(*index);
                let by = via.map_or_else(|| "on link".to_owned(), |via| format!("via {via}"));
                let wrong = wrong.or_else(|| dead.then(|| "has no carrier".to_owned()));
                match wrong {
                    None => {
                        self.note("route", State::Fine, format!("{to} {by} by {name}"), None);
                    }
                    Some(wrong) => {
                        let found = format!("{to} {by} by {name}, which {wrong}");
                        let repair = format!("ip link set {name} up");
                        self.note("route", State::Broken, found, Some(repair));
                    }
                }
            }
            Route::Refused(errno) => {
                let (found, repair) = self.no_route(seen, *errno);
                self.note("route", State::Broken, found, repair);
            }
        }
        Some(route)
    }

    /// Why the kernel does not route a packet.
    fn no_route(&mut self, seen: &foreign::Packet, errno: i32) -> (String, Option<String>) {
        let to = seen.destination;
        let again = |node: &mut N| {
            node.route(&RouteQuestion {
                source: None,
                destination: to,
                iif: None,
                mark: seen.mark.unwrap_or(0),
            })
        };
        let Device::Known(name, _) = &seen.iif else {
            let repair = format!("ip route add {to} via GATEWAY");
            return (format!("no way to {to}: {}", refused(errno)), Some(repair));
        };
        // What it would send itself has a way: the packet is refused for where it comes from.
        match again(self.node) {
            Some(Route::Refused(own)) => {
                let repair = format!("ip route add {to} via GATEWAY");
                (format!("no way to {to}: {}", refused(own)), Some(repair))
            }
            _ if errno == libc::EHOSTUNREACH => {
                let setting = forwarding(seen, name);
                let found = format!("this node does not forward what comes in by {name}");
                (found, Some(format!("sysctl -w {}=1", dotted(&setting))))
            }
            _ => {
                let source = seen.source;
                let found = format!(
                    "the kernel does not believe that {source} comes in by {name} (rp_filter, or a \
                     source address that cannot be): {}",
                    refused(errno)
                );
                (
                    found,
                    Some(format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2")),
                )
            }
        }
    }

    fn forwarding(&mut self, seen: &foreign::Packet) {
        let Device::Known(name, _) = &seen.iif else {
            return;
        };
        let setting = forwarding(seen, name);
        if self
            .node
            .setting(&setting)
            .is_some_and(|value| value.trim() == "0")
        {
            let found = format!("this node does not forward what comes in by {name}");
            let repair = format!("sysctl -w {}=1", dotted(&setting));
            self.note("forward", State::Broken, found, Some(repair));
        }
    }

    fn neighbour(&mut self, index: u32, next: IpAddr) {
        let name = self.node.device(index).0;
        match self.node.neighbour(index, next) {
            Neighbour::Known => {
                self.note(
                    "neighbour",
                    State::Fine,
                    format!("{next} answers on {name}"),
                    None,
                );
            }
            Neighbour::Unasked => {}
            Neighbour::Silent => {
                let found =
                    format!("{next} does not answer on {name} (ARP or neighbour discovery)");
                let repair = format!("ip neigh show dev {name}; ping -c1 {next}");
                self.note("neighbour", State::Broken, found, Some(repair));
            }
        }
    }

    fn listener(&mut self, seen: &foreign::Packet) {
        let Some(port) = seen.port.and_then(|port| port.try_into().ok()) else {
            return;
        };
        let at = Endpoint {
            addr: seen.destination,
            port,
        };
        let (protocol, addr) = (seen.protocol, at.addr);
        match self.node.listens(at, protocol) {
            None => {}
            Some(Listener::Yes) => {
                let found = format!("somebody listens at {port}/{protocol} of {addr}");
                self.note("endpoint", State::Fine, found, None);
            }
            Some(Listener::No) => {
                let found = format!("nobody listens at {port}/{protocol} of {addr}");
                let repair = "compare targetPort with the port the program listens at".to_owned();
                self.note("endpoint", State::Broken, found, Some(repair));
            }
            Some(Listener::Elsewhere(other)) => {
                let found = format!("whoever listens at {port}/{protocol} does so at {other} only");
                let repair = "let the program listen at all addresses of its pod".to_owned();
                self.note("endpoint", State::Broken, found, Some(repair));
            }
        }
    }

    /// The answer's way back, as far as it is this node's. `from`: the device it comes in by;
    /// this node itself answers otherwise.
    fn answer(
        &mut self,
        seen: &foreign::Packet,
        asking: Hook,
        from: Option<u32>,
        masqueraded: bool,
    ) {
        let every = i32::MIN..=i32::MAX;
        let iif = from.map_or(Device::None, |index| device(self.node, index));
        let mut reply = seen.reply(iif);
        // What the endpoint answers to; connection tracking gives the client back on the way.
        let to_this_node = masqueraded || asking == Hook::Output;
        if from.is_some() {
            self.hook(Hook::Ingress, every.clone(), &mut reply);
            self.hook(Hook::Prerouting, every.clone(), &mut reply);
        } else {
            self.hook(Hook::Output, every.clone(), &mut reply);
        }
        if asking == Hook::Output {
            if from.is_some() {
                self.hook(Hook::Input, every, &mut reply);
            }
            return;
        }
        let question = RouteQuestion {
            source: Some(reply.source).filter(|_| from.is_some()),
            destination: reply.destination,
            iif: from,
            mark: reply.mark.unwrap_or(0),
        };
        match self.node.route(&question) {
            Some(Route::Device { index, .. }) => {
                reply.oif = device(self.node, index);
                if from.is_some() {
                    self.hook(Hook::Forward, every.clone(), &mut reply);
                }
                self.hook(Hook::Postrouting, every.clone(), &mut reply);
                self.hook(Hook::Egress, every, &mut reply);
            }
            Some(Route::Refused(errno)) => {
                let (client, by) = (reply.destination, reply.source);
                let found = match to_this_node {
                    true => format!("no way back to {client}: {}", refused(errno)),
                    false => format!(
                        "what {by} answers to {client} is not routed: {}",
                        refused(errno)
                    ),
                };
                let repair = format!("ip route add {client} via GATEWAY");
                self.note("answer: route", State::Broken, found, Some(repair));
            }
            Some(Route::Local) | None => {}
        }
    }
}

/// True if nothing of the packet is left for later chains.
const fn ends(found: &Outcome) -> bool {
    !matches!(found.verdict, Verdict::Perhaps(..) | Verdict::Snat)
}

/// The setting that lets packets of a device through.
fn forwarding(seen: &foreign::Packet, device: &str) -> String {
    match seen.destination {
        IpAddr::V4(_) => format!("net/ipv4/conf/{device}/forwarding"),
        IpAddr::V6(_) => "net/ipv6/conf/all/forwarding".to_owned(),
    }
}

/// As sysctl names it. Dots in a device's name are slashes there.
fn dotted(path: &str) -> String {
    path.chars()
        .map(|c| match c {
            '/' => '.',
            '.' => '/',
            c => c,
        })
        .collect()
}
