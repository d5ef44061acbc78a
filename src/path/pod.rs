//! Pods as hosts of their own, where their namespace is known: whether the client's packet and the
//! endpoint's answer leave it, and whether its own rules let in what comes.

use std::net::IpAddr;

use super::asked::Asked;
use super::say::{outcome, refused};
use super::way::{Way, a_way, transport};
use super::{At, Node, Route, RouteQuestion, State, device};
use crate::foreign::{self, Device, Hook, Span, Verdict};
use crate::walk;

impl<N: Node> Way<'_, N> {
    /// The client's packet leaves its pod.
    pub(super) fn leaves_client(&mut self, packet: &walk::Packet) {
        let to = (packet.destination, packet.port);
        let seen = foreign::Packet::first(packet.source, to, packet.protocol, Device::None);
        self.in_pod(At::Client, packet.source, |pod| pod.sends(At::Client, seen));
    }

    /// The endpoint's pod lets the packet in, and its answer leaves.
    pub(super) fn at_endpoint(&mut self, seen: &foreign::Packet) {
        let (Some(from), Some(port)) = (self.seen_from(seen), seen.port) else {
            return;
        };
        let (at, to) = (At::Endpoint, seen.destination);
        let mut seen = foreign::Packet::first(from, (to, port), seen.protocol, Device::None);
        self.in_pod(at, to, |pod| {
            seen.iif = pod.link_to(from);
            if pod.lets(at, Hook::Prerouting, &mut seen) && pod.lets(at, Hook::Input, &mut seen) {
                pod.sends(at, seen.reply(Device::None));
            }
        });
    }

    /// The client's pod lets the answer in. Of its own connection nothing is translated there.
    pub(super) fn at_client(&mut self, reply: &foreign::Packet) {
        let (client, Some(port)) = (reply.destination, reply.source_port) else {
            return;
        };
        let asked = (reply.source, port);
        let first = foreign::Packet::first(client, asked, reply.protocol, Device::None);
        self.in_pod(At::Client, client, |pod| {
            let mut reply = first.reply(pod.link_to(asked.0));
            let _ = pod.lets(At::Client, Hook::Prerouting, &mut reply)
                && pod.lets(At::Client, Hook::Input, &mut reply);
        });
    }

    /// The address that an endpoint sees. Masqueraded, it is the one of this node that the pod has
    /// for its router; `None` if that is another.
    fn seen_from(&mut self, seen: &foreign::Packet) -> Option<IpAddr> {
        if !seen.masqueraded {
            return Some(seen.source);
        }
        let (_, pod) = self.node.pod(seen.destination)?;
        match pod.route(&RouteQuestion::to(seen.source)) {
            Some(Route::Device { via, .. }) => via.filter(|via| self.node.is_local(*via)),
            _ => None,
        }
    }

    /// Does so as the pod, if that is known here; what is found is told with where that is.
    fn in_pod(&mut self, at: At, pod: IpAddr, work: impl FnOnce(&mut Way<'_, N>)) {
        let Some((place, node)) = self.node.pod(pod) else {
            return;
        };
        let mut inside = Way {
            node,
            hops: Vec::new(),
        };
        work(&mut inside);
        for mut hop in inside.hops {
            if hop.state == State::Fine {
                continue;
            }
            hop.at = at;
            hop.found = format!("{}, in the namespace of {pod}", hop.found);
            let enter = format!("nsenter --net={place} ");
            let repair = hop
                .repair
                .map(|repair| repair.replace("; ", &format!("; {enter}")));
            hop.repair = repair.map(|repair| format!("{enter}{repair}"));
            self.hops.push(hop);
        }
    }

    /// The device by which packets to an address leave.
    fn link_to(&mut self, address: IpAddr) -> Device {
        match self.node.route(&RouteQuestion::to(address)) {
            Some(Route::Device { index, .. }) => device(self.node, index),
            _ => Device::Unknown,
        }
    }

    /// Leaves the pod: there is a route, its own rules let it out, and the next hop answers.
    fn sends(&mut self, at: At, mut seen: foreign::Packet) {
        let to = seen.destination;
        let question = RouteQuestion {
            transport: transport(&seen),
            ..RouteQuestion::to(to)
        };
        let (index, via) = match self.node.route(&question) {
            Some(Route::Device { index, via, .. }) => (index, via),
            Some(Route::Refused(errno)) => {
                let back = if seen.is_reply { " back" } else { "" };
                let found = format!("there is no way{back} to {to}: {}", refused(errno));
                let repair = match errno {
                    libc::ENETUNREACH | libc::EHOSTUNREACH => {
                        "ip route add default via GATEWAY, once its link is up".to_owned()
                    }
                    errno => a_way(to, errno),
                };
                self.note(at, State::Broken, found, Some(repair));
                return;
            }
            Some(Route::Local) | None => return,
        };
        seen.oif = device(self.node, index);
        seen.next_hop = Some(via.unwrap_or(to));
        if self.lets(at, Hook::Output, &mut seen) && self.lets(at, Hook::Postrouting, &mut seen) {
            self.neighbour(index, via.unwrap_or(to));
        }
    }

    /// True if the pod's own chains at a hook let a packet go on as it is. Where they give it to
    /// another, such as a proxy of a mesh, it is not followed.
    fn lets(&mut self, at: At, hook: Hook, seen: &mut foreign::Packet) -> bool {
        let others = self.node.others();
        let outcomes = foreign::hook(&others, hook, Span::All, seen, &Asked::new(self.node));
        for found in outcomes {
            let (verdict, certain) = match &found.verdict {
                Verdict::Perhaps(inner, _) => (&**inner, false),
                verdict => (verdict, true),
            };
            let ends = !matches!(verdict, Verdict::Pass | Verdict::Snat);
            if matches!(verdict, Verdict::Drop | Verdict::Reject) {
                self.hops.push(outcome(at, &found, seen));
            }
            if ends && certain {
                return false;
            }
        }
        true
    }
}
