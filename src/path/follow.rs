//! From the device that the packet comes in by to the endpoint, and back.

use std::net::IpAddr;

use ipnet::IpNet;

use super::way::Way;
use super::{Hop, Leg, Node, Path, Route, device};
use crate::foreign::{self, Device, Hook, Span};
use crate::net::Endpoint;
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
    /// Where this node's own pods are.
    pub pods: &'a [IpNet],
    /// Somebody changed our rules, or they are of another configuration.
    pub altered: bool,
}

impl Ours<'_> {
    pub(super) fn priority(&self, hook: ruleset::Hook) -> Option<i32> {
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
    if !packet.from_node
        && packet.iif.is_none()
        && ours.trace.candidates.is_empty()
        && let Some(ports) = way.direct(packet.source, packet.destination)
    {
        return way.bridged(packet, &ports, ours);
    }
    if !packet.from_node && packet.iif.is_none() {
        way.leaves_client(packet);
    }
    let iif = way.arrival(packet, ours.pods);
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
    let before = ours_at.map_or(Span::All, Span::Before);
    // Frames of a bridge that are translated before they are taken up from it may never be.
    let called = !packet.from_node && way.enters(&mut seen);
    if !packet.from_node && !called {
        way.taken_up(&mut seen);
    }
    let translated = way.hook(asking, before, &mut seen);
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
    let after = Span::After(ours_at.unwrap_or(i32::MAX));
    if ours.trace.candidates.is_empty() {
        let at = (packet.destination, packet.port);
        let ours = (ours, ours.trace.masqueraded);
        let hops = leg(&mut way, seen, asking, after, at, ours);
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
            after,
            (addr, port.get()),
            (ours, candidate.masqueraded),
        );
        path.legs.push(Leg {
            to: Some(candidate.endpoint),
            share: candidate.probability,
            hops,
        });
    }
    path
}

/// From our translation to the destination and back; with whether we masquerade the packet, so
/// that the endpoint answers to this node.
fn leg<N: Node>(
    way: &mut Way<'_, N>,
    mut seen: foreign::Packet,
    asking: Hook,
    after: Span,
    (destination, port): (IpAddr, u16),
    (ours, masqueraded): (&Ours<'_>, bool),
) -> Vec<Hop> {
    seen.destination = destination;
    seen.port = Some(port);
    seen.mark = seen.mark.map(|mark| mark | ours.trace.mark);
    if asking == Hook::Prerouting {
        way.hook(asking, after, &mut seen);
    }
    let is_here = ours.pods.iter().any(|pods| pods.contains(&destination));
    let called = asking == Hook::Prerouting && way.is_at_port(&seen);
    let ports = match seen.asked {
        Some(_) if called => way.ports(seen.source, destination),
        _ => None,
    };
    let Some(route) = way.route(&seen, is_here) else {
        return std::mem::take(&mut way.hops);
    };
    let leads_to =
        |bridge| matches!(route, Route::Device { index, via: None, .. } if index == bridge);
    let ports = ports.filter(|ports| leads_to(ports.bridge));
    if called && ports.is_none() {
        way.taken_up(&mut seen);
    }
    if asking == Hook::Output {
        // What this node sends is routed anew once it is translated, but the chains of the hook
        // all see the device of the first routing decision (struct nf_hook_state).
        way.hook(asking, after, &mut seen);
    }
    let every = Span::All;
    let back = match route {
        Route::Local => {
            if asking != Hook::Output {
                way.hook(Hook::Input, every, &mut seen);
            }
            way.listener(&seen);
            None
        }
        Route::Device { index, via, .. } => {
            seen.oif = device(way.node, index);
            seen.next_hop = Some(via.unwrap_or(destination));
            if let Some(ports) = &ports {
                way.crosses(ports, &mut seen);
            } else if asking != Hook::Output {
                way.forwarding(&seen);
            }
            if asking != Hook::Output {
                way.hook(Hook::Forward, every, &mut seen);
            }
            let masquerade = ours.priority(ruleset::Hook::Postrouting);
            let before = masquerade.map_or(Span::All, Span::Before);
            way.hook(Hook::Postrouting, before, &mut seen);
            seen.mark = seen.mark.map(|mark| mark & !ours.trace.mark);
            seen.masqueraded |= masqueraded;
            if let Some(at) = masquerade {
                way.hook(Hook::Postrouting, Span::After(at), &mut seen);
            }
            match &ports {
                Some(ports) => way.leaves(ports, &mut seen),
                None => {
                    way.hook(Hook::Egress, every, &mut seen);
                    way.goes_out(index, &mut seen);
                }
            }
            if via.is_none() {
                way.link(index, destination, destination == seen.source);
            }
            way.neighbour(index, via.unwrap_or(destination));
            way.listener(&seen);
            way.at_endpoint(&seen);
            Some(index)
        }
        Route::Refused(_) => return std::mem::take(&mut way.hops),
    };
    way.answer(&seen, asking, back, masqueraded);
    std::mem::take(&mut way.hops)
}
