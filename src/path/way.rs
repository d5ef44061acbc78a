//! The packet at one point of its way after the other, with what the host says of each.

use std::net::IpAddr;

use ipnet::IpNet;

use super::asked::Asked;
use super::follow::Ours;
use super::say::{outcome, owner, refused};
use super::{At, Hop, Listener, Neighbour, Node, Route, RouteQuestion, State, device};
use crate::foreign::{self, Device, Hook, Outcome, Span, Verdict};
use crate::net::{Endpoint, Protocol};
use crate::walk::{Fate, Packet};

/// Where the packet is, and what was found so far.
pub(super) struct Way<'n, N> {
    pub(super) node: &'n mut N,
    pub(super) hops: Vec<Hop>,
}

impl<N: Node> Way<'_, N> {
    pub(super) fn note(
        &mut self,
        at: At,
        state: State,
        found: impl Into<String>,
        repair: Option<String>,
    ) {
        self.hops.push(Hop {
            at,
            state,
            found: found.into(),
            owner: None,
            repair,
        });
    }

    /// The device that packets from the client come in by: as said, or as the way back to it is.
    pub(super) fn arrival(&mut self, packet: &Packet, pods: &[IpNet]) -> Device {
        if packet.from_node {
            return Device::None;
        }
        let route = self.node.route(&RouteQuestion::to(packet.source));
        if let Some(name) = &packet.iif {
            self.note(At::Arrives, State::Fine, format!("by {name}"), None);
            return match self.node.index(name) {
                Some(index) => Device::Known(name.clone(), index),
                None => Device::Unknown,
            };
        }
        match route {
            Some(Route::Device {
                index,
                via: Some(via),
                ..
            }) if pods.iter().any(|pods| pods.contains(&packet.source)) => {
                let name = self.astray(At::Arrives, packet.source, via, index);
                Device::Known(name, index)
            }
            Some(Route::Device { index, via, .. }) => {
                let (name, wrong) = self.node.device(index);
                let by = via.map_or_else(String::new, |via| format!(", by way of {via}"));
                let (state, wrong) = match wrong {
                    None => (State::Fine, String::new()),
                    Some(wrong) => (State::Broken, format!(", which {wrong}")),
                };
                let repair = (state == State::Broken).then(|| format!("ip link set {name} up"));
                self.note(At::Arrives, state, format!("by {name}{wrong}{by}"), repair);
                if via.is_none() {
                    self.link(index, packet.source, false);
                }
                Device::Known(name, index)
            }
            Some(Route::Local) => {
                let found = "the client's address is this node's own: nobody else may use it";
                self.note(At::Arrives, State::Broken, found, None);
                Device::Unknown
            }
            Some(Route::Refused(errno)) => {
                let client = packet.source;
                let found = format!("no answer finds its way to {client}: {}", refused(errno));
                let repair = format!("ip route add {client} via GATEWAY");
                self.note(At::Arrives, State::Broken, found, Some(repair));
                Device::Unknown
            }
            None => Device::Unknown,
        }
    }

    /// What this node sends is routed once before it is translated: by which device.
    pub(super) fn sent(&mut self, to: IpAddr) -> Device {
        match self.node.route(&RouteQuestion::to(to)) {
            Some(Route::Refused(errno)) => {
                let found = format!(
                    "this node itself has no route to {to}, which it needs before the address is \
                     translated: {}",
                    refused(errno)
                );
                let repair = Some("ip route add default via GATEWAY".to_owned());
                self.note(At::Sent, State::Broken, found, repair);
                Device::Unknown
            }
            found => {
                self.note(At::Sent, State::Fine, "by this node itself", None);
                match found {
                    Some(Route::Device { index, .. }) => device(self.node, index),
                    _ => Device::Unknown,
                }
            }
        }
    }

    /// Others' chains at a hook. True if one of them certainly ends or translates the packet.
    pub(super) fn hook(&mut self, hook: Hook, span: Span, seen: &mut foreign::Packet) -> bool {
        let name = At::Hook(hook, seen.is_reply);
        let others = self.node.others();
        let host = Asked::new(self.node);
        let outcomes = foreign::hook(&others, hook, span, seen, &host);
        let unread: &[String] = match hook {
            Hook::Forward | Hook::Input | Hook::Output
                if !seen.is_reply && seen.bridge.is_none() =>
            {
                &others.unread
            }
            _ => &[],
        };
        let mut ended = false;
        let mut passed = Vec::new();
        for found in outcomes {
            match &found.verdict {
                Verdict::Pass => passed.push(owner(&found.place)),
                Verdict::Snat if seen.is_reply => passed.push(owner(&found.place)),
                _ => {
                    let hop = outcome(name, &found, seen);
                    ended |= hop.state == State::Broken && ends(&found);
                    self.hops.push(hop);
                }
            }
        }
        if !passed.is_empty() && !ended {
            let found = format!("passes {}", passed.join(", "));
            self.note(name, State::Fine, found, None);
        }
        for what in unread {
            self.note(name, State::Unknown, what, None);
        }
        ended
    }

    pub(super) fn tracking(&mut self, seen: &foreign::Packet, ours: &Ours<'_>) {
        if seen.untracked {
            let found = "another program's rule says that it is not tracked: nothing translates it";
            let state = if ours.expected {
                State::Broken
            } else {
                State::Fine
            };
            self.note(At::Conntrack, state, found, None);
        }
        if let Some((count, max)) = self.node.tracked()
            && count >= max
            && max > 0
        {
            let found = format!("the table is full: {count} of {max} connections are tracked");
            let repair = format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2);
            self.note(At::Conntrack, State::Broken, found, Some(repair));
        }
    }

    /// A connection that is tracked goes on to where it went, whatever the rules say by now.
    pub(super) fn flows(&mut self, packet: &Packet, ours: &Ours<'_>) {
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
            self.note(At::Conntrack, State::Broken, found, Some(repair));
        }
    }

    pub(super) fn ours(&mut self, ours: &Ours<'_>) {
        if ours.altered {
            let found = "its rules are not as they should be: somebody changed them, or they are \
                         of another configuration";
            let repair = Some("svcnat diff; svcnat apply".to_owned());
            self.note(At::Svcnat, State::Broken, found, repair);
        }
        match ours.trace.fate {
            Fate::Accepted if ours.trace.candidates.is_empty() => {
                let state = if ours.expected {
                    State::Broken
                } else {
                    State::Fine
                };
                self.note(
                    At::Svcnat,
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
                self.note(At::Svcnat, State::Fine, found, None);
            }
            Fate::Dropped => {
                self.note(
                    At::Svcnat,
                    State::Broken,
                    format!("drops it: {}", ours.reason),
                    None,
                );
            }
            Fate::Refused => {
                self.note(
                    At::Svcnat,
                    State::Broken,
                    format!("refuses it: {}", ours.reason),
                    None,
                );
            }
        }
    }

    /// `is_here`: the destination is a pod of this node by its address, and no router leads to it.
    pub(super) fn route(&mut self, seen: &foreign::Packet, is_here: bool) -> Option<Route> {
        let iif = match &seen.iif {
            Device::Known(_, index) if *index != 0 => Some(*index),
            _ => None,
        };
        let question = RouteQuestion {
            source: Some(seen.source).filter(|_| iif.is_some()),
            destination: seen.destination,
            iif,
            mark: seen.mark.unwrap_or(0),
            transport: transport(seen),
        };
        let route = self.node.route(&question)?;
        let to = seen.destination;
        match &route {
            Route::Local => {
                self.note(
                    At::Route(false),
                    State::Fine,
                    format!("{to} is this node"),
                    None,
                );
            }
            Route::Device {
                index,
                via: Some(via),
                ..
            } if is_here => {
                self.astray(At::Route(false), to, *via, *index);
            }
            Route::Device { index, via, dead } => {
                let (name, wrong) = self.node.device(*index);
                let by = via.map_or_else(|| "on link".to_owned(), |via| format!("via {via}"));
                let wrong = wrong.or_else(|| dead.then(|| "has no carrier".to_owned()));
                match wrong {
                    None => {
                        self.note(
                            At::Route(false),
                            State::Fine,
                            format!("{to} {by} by {name}"),
                            None,
                        );
                    }
                    Some(wrong) => {
                        let found = format!("{to} {by} by {name}, which {wrong}");
                        let repair = format!("ip link set {name} up");
                        self.note(At::Route(false), State::Broken, found, Some(repair));
                    }
                }
            }
            Route::Refused(errno) => {
                let (at, found, repair) = self.no_route(seen, *errno);
                self.note(at, State::Broken, found, repair);
            }
        }
        Some(route)
    }

    /// Packets to a pod of this node that leave by way of a router; with their device.
    fn astray(&mut self, at: At, pod: IpAddr, via: IpAddr, index: u32) -> String {
        let name = self.node.device(index).0;
        let found = format!(
            "{pod} is a pod of this node by its address, and packets to it leave via {via} by {name}"
        );
        let repair = format!("ip route get {pod}; ip addr: who has its prefix?");
        self.note(at, State::Broken, found, Some(repair));
        name
    }

    /// Why the kernel does not route a packet.
    pub(super) fn no_route(
        &mut self,
        seen: &foreign::Packet,
        errno: i32,
    ) -> (At, String, Option<String>) {
        let at = At::Route(false);
        let to = seen.destination;
        let again = |node: &mut N| {
            node.route(&RouteQuestion {
                mark: seen.mark.unwrap_or(0),
                transport: transport(seen),
                ..RouteQuestion::to(to)
            })
        };
        let Device::Known(name, iif) = &seen.iif else {
            let repair = a_way(to, errno);
            return (
                at,
                format!("no way to {to}: {}", refused(errno)),
                Some(repair),
            );
        };
        // What it would send itself has a way: the packet is refused for where it comes from.
        match again(self.node) {
            Some(Route::Refused(own)) => {
                let repair = a_way(to, own);
                (
                    at,
                    format!("no way to {to}: {}", refused(own)),
                    Some(repair),
                )
            }
            _ if errno == libc::EHOSTUNREACH => {
                let setting = forwarding(seen, name);
                let found = format!("this node does not forward what comes in by {name}");
                (
                    At::Forwarding,
                    found,
                    Some(format!("sysctl -w {}=1", dotted(&setting))),
                )
            }
            _ if errno == libc::EXDEV || !self.believed(seen.source, name, *iif) => {
                let source = seen.source;
                let found = format!(
                    "the kernel does not believe that {source} comes in by {name} (rp_filter): {}",
                    refused(errno)
                );
                let repair = format!("sysctl -w net.ipv4.conf.{name}.rp_filter=2");
                (at, found, Some(repair))
            }
            _ => {
                let source = seen.source;
                let found = format!(
                    "what comes from {source} by {name} has no way to {to}, which this node itself \
                     has: {}, or a source address that cannot be",
                    refused(errno)
                );
                let repair = format!("ip rule; ip route get {to} from {source} iif {name}");
                (at, found, Some(repair))
            }
        }
    }

    /// Whether `rp_filter` lets a source come in by a device. Some kernels say EINVAL of that,
    /// too.
    fn believed(&mut self, source: IpAddr, device: &str, iif: u32) -> bool {
        let strictness = |of: &str| {
            let value = self.node.setting(&format!("net/ipv4/conf/{of}/rp_filter"));
            value.and_then(|value| value.trim().parse::<u8>().ok())
        };
        let strictness = strictness("all").max(strictness(device)).unwrap_or(0);
        if strictness == 0 || source.is_ipv6() {
            return true;
        }
        let back = self.node.route(&RouteQuestion::to(source));
        match back {
            Some(Route::Device { index, .. }) => strictness > 1 || index == iif,
            _ => false,
        }
    }

    /// True if this node does not forward what comes in by the packet's device.
    pub(super) fn forwarding(&mut self, seen: &foreign::Packet) -> bool {
        let Device::Known(name, _) = &seen.iif else {
            return false;
        };
        let setting = forwarding(seen, name);
        let value = self.node.setting(&setting);
        let is_off = value.is_some_and(|value| value.trim() == "0");
        if is_off {
            let found = format!("this node does not forward what comes in by {name}");
            let repair = format!("sysctl -w {}=1", dotted(&setting));
            self.note(At::Forwarding, State::Broken, found, Some(repair));
        }
        is_off
    }

    pub(super) fn neighbour(&mut self, index: u32, next: IpAddr) {
        let name = self.node.device(index).0;
        match self.node.neighbour(index, next) {
            Neighbour::Known => {
                self.note(
                    At::Neighbour,
                    State::Fine,
                    format!("{next} answers on {name}"),
                    None,
                );
            }
            Neighbour::Unasked => {}
            Neighbour::Mistaken(asked, own) => {
                let (asked, own) = (mac(asked), mac(own));
                let found =
                    format!("packets to {next} go to {asked} on {name}, and {next} has {own}");
                let repair = format!("ip neigh del {next} dev {name}");
                self.note(At::Neighbour, State::Broken, found, Some(repair));
            }
            Neighbour::Silent => {
                let found =
                    format!("{next} does not answer on {name} (ARP or neighbour discovery)");
                let repair = format!("ip neigh show dev {name}; ping -c1 {next}");
                self.note(At::Neighbour, State::Broken, found, Some(repair));
            }
        }
    }

    /// Tells of a next hop only that it is not found.
    pub(super) fn silent(&mut self, index: u32, next: IpAddr) {
        let before = self.hops.len();
        self.neighbour(index, next);
        let told = self.hops.split_off(before);
        let broken = told.into_iter().filter(|hop| hop.state == State::Broken);
        self.hops.extend(broken);
    }

    pub(super) fn listener(&mut self, seen: &foreign::Packet) {
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
                self.note(At::Endpoint, State::Fine, found, None);
            }
            Some(Listener::No) => {
                let found = format!("nobody listens at {port}/{protocol} of {addr}");
                let repair = match seen.asked {
                    Some(_) => "compare targetPort with the port the program listens at".to_owned(),
                    None => {
                        format!("ss -ln, in the network namespace of {addr}: who listens where?")
                    }
                };
                self.note(At::Endpoint, State::Broken, found, Some(repair));
            }
            Some(Listener::Elsewhere(other)) => {
                let found = format!("whoever listens at {port}/{protocol} does so at {other} only");
                let repair = "let the program listen at all addresses of its pod".to_owned();
                self.note(At::Endpoint, State::Broken, found, Some(repair));
            }
        }
    }
}

/// As `ip link` writes it.
fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// What gives packets a way, or says which route or rule denies it to them.
pub(super) fn a_way(to: IpAddr, errno: i32) -> String {
    match errno {
        libc::EINVAL | libc::EACCES => format!("ip rule; ip route show table all to match {to}"),
        _ => format!("ip route add {to} via GATEWAY"),
    }
}

/// What routing rules may ask for besides addresses.
pub(super) fn transport(seen: &foreign::Packet) -> Option<(Protocol, u16, u16)> {
    let port = |port: Option<u16>| port.unwrap_or_default();
    Some((seen.protocol, port(seen.source_port), port(seen.port)))
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
