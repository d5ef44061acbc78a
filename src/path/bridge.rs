//! Bridges: what frames meet at their ports, and what goes from one port to another without being
//! routed. The kernel shows frames to the hooks of IP as well if `bridge-nf-call-iptables` says so
//! (net/bridge/br_netfilter_hooks.c); a packet that is translated there and whose route leads back
//! to the bridge goes on from port to port.

use std::net::IpAddr;

use super::follow::Ours;
use super::way::Way;
use super::{At, Leg, Node, Path, PodLink, State};
use crate::foreign::{self, Device, Hook, Span};
use crate::ruleset;
use crate::walk::{Fate, Packet};

const EVERY: Span = Span::All;

/// Two ports of one bridge.
pub(super) struct Ports {
    /// Index of the bridge.
    pub(super) bridge: u32,
    name: String,
    from: PodLink,
    to: PodLink,
}

/// The setting that shows frames to the hooks of IP.
const fn calls(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(_) => "net/bridge/bridge-nf-call-iptables",
        IpAddr::V6(_) => "net/bridge/bridge-nf-call-ip6tables",
    }
}

fn port(link: &PodLink) -> Device {
    Device::Known(link.name.clone(), link.index)
}

impl<N: Node> Way<'_, N> {
    /// True if the hooks of IP see the frames of an address's family.
    pub(super) fn is_called(&self, address: IpAddr) -> bool {
        let value = self.node.setting(calls(address));
        value.is_some_and(|value| value.trim() == "1")
    }

    /// The ports of two pods, if they are on one bridge.
    pub(super) fn ports(&mut self, from: IpAddr, to: IpAddr) -> Option<Ports> {
        let (from, to) = (self.node.link(from)?, self.node.link(to)?);
        let bridge = from.master.filter(|master| to.master == Some(*master))?;
        Some(Ports {
            name: self.node.device(bridge).0,
            bridge,
            from,
            to,
        })
    }

    /// The same if one pod sends to the other's own link-layer address.
    pub(super) fn direct(&mut self, from: IpAddr, to: IpAddr) -> Option<Ports> {
        let ports = self.ports(from, to).filter(|_| from != to)?;
        self.node.is_on_link(from, to).then_some(ports)
    }

    /// The port that an address is at, if a device is a bridge; not known of whom no namespace of
    /// this machine has.
    fn port(&mut self, device: u32, address: IpAddr) -> Option<Device> {
        match self.node.link(address) {
            Some(link) => (link.master == Some(device)).then(|| port(&link)),
            None => self.node.is_bridge(device).then_some(Device::Unknown),
        }
    }

    /// Others' chains of the family netdev at a port that is known.
    fn at_port(&mut self, hook: Hook, seen: &mut foreign::Packet) {
        let device = match hook {
            Hook::Egress => &seen.oif,
            _ => &seen.iif,
        };
        if *device != Device::Unknown {
            self.hook(hook, EVERY, seen);
        }
    }

    /// Others' chains at a hook of the bridge that the packet's device is or was.
    fn at_bridge(&mut self, bridge: &str, hook: Hook, seen: &mut foreign::Packet) {
        seen.bridge = Some(bridge.to_owned());
        self.hook(hook, EVERY, seen);
        seen.bridge = None;
    }

    /// Comes in by its device, up to this host's IP and through this span of its hook
    /// prerouting; by a bridge's port first, if the pod that sent it is at one.
    pub(super) fn comes_in(&mut self, seen: &mut foreign::Packet, span: Span) {
        let called = self.enters(seen);
        if !called {
            self.taken_up(seen);
        }
        self.hook(Hook::Prerouting, span, seen);
        // A masqueraded client's address may lead back to the bridge.
        let back = seen.masqueraded && self.ports(seen.source, seen.destination).is_some();
        if called && !back {
            self.taken_up(seen);
        }
    }

    /// True if the pod that sent it is at a port of the bridge it comes in by, and the hook
    /// prerouting of IP comes before what takes frames up from there.
    pub(super) fn is_at_port(&mut self, seen: &foreign::Packet) -> bool {
        match seen.iif {
            Device::Known(_, index) => {
                self.port(index, seen.source).is_some() && self.is_called(seen.source)
            }
            _ => false,
        }
    }

    /// Enters by the port of the pod that sent it, if it is at one of a bridge: [`Way::is_at_port`].
    pub(super) fn enters(&mut self, seen: &mut foreign::Packet) -> bool {
        let Device::Known(bridge, index) = seen.iif.clone() else {
            return false;
        };
        let Some(port) = self.port(index, seen.source) else {
            return false;
        };
        let iif = std::mem::replace(&mut seen.iif, port);
        self.at_port(Hook::Ingress, seen);
        self.at_bridge(&bridge, Hook::Prerouting, seen);
        seen.iif = iif;
        self.is_at_port(seen)
    }

    /// From a bridge's port to the bridge as a device of this host, or in by another device.
    pub(super) fn taken_up(&mut self, seen: &mut foreign::Packet) {
        if let Device::Known(bridge, index) = seen.iif.clone()
            && let Some(port) = self.port(index, seen.source)
        {
            let iif = std::mem::replace(&mut seen.iif, port);
            self.at_bridge(&bridge, Hook::Input, seen);
            seen.iif = iif;
        }
        self.hook(Hook::Ingress, EVERY, seen);
    }

    /// Sent by this host through a device with this index: out by the port of the pod that it is
    /// for, if that is a bridge.
    pub(super) fn goes_out(&mut self, device: u32, seen: &mut foreign::Packet) {
        let Some(port) = self.port(device, seen.destination) else {
            return;
        };
        let bridge = self.node.device(device).0;
        let oif = std::mem::replace(&mut seen.oif, port);
        self.at_bridge(&bridge, Hook::Output, seen);
        self.at_bridge(&bridge, Hook::Postrouting, seen);
        self.at_port(Hook::Egress, seen);
        seen.oif = oif;
    }

    /// From port to port.
    pub(super) fn crosses(&mut self, ports: &Ports, seen: &mut foreign::Packet) {
        if ports.from.isolated && ports.to.isolated {
            let (from, to) = (&ports.from.name, &ports.to.name);
            let found = format!(
                "{from} and {to} are isolated ports of {}: no frame goes from one to the other",
                ports.name
            );
            let repair = format!("ip link set {to} type bridge_slave isolated off");
            self.note(At::Link, State::Broken, found, Some(repair));
        }
        let devices = (seen.iif.clone(), seen.oif.clone());
        (seen.iif, seen.oif) = (port(&ports.from), port(&ports.to));
        self.at_bridge(&ports.name, Hook::Forward, seen);
        (seen.iif, seen.oif) = devices;
    }

    /// Out by the port it crossed to.
    pub(super) fn leaves(&mut self, ports: &Ports, seen: &mut foreign::Packet) {
        let oif = std::mem::replace(&mut seen.oif, port(&ports.to));
        self.at_bridge(&ports.name, Hook::Postrouting, seen);
        self.hook(Hook::Egress, EVERY, seen);
        seen.oif = oif;
    }

    /// A packet from one pod to another's own address, on one bridge: nothing routes it.
    pub(super) fn bridged(&mut self, packet: &Packet, ports: &Ports, ours: &Ours<'_>) -> Path {
        self.leaves_client(packet);
        let (name, bridge) = (&ports.from.name, &ports.name);
        let found = format!("by {name}, to another port of {bridge}: nothing routes it");
        self.note(At::Arrives, State::Fine, found, None);
        self.link(ports.bridge, packet.source, false);
        let to = (packet.destination, packet.port);
        let on = Device::Known(ports.name.clone(), ports.bridge);
        let mut seen = foreign::Packet::first(packet.source, to, packet.protocol, on.clone());
        let called = self.enters(&mut seen);
        let mut path = Path::default();
        if called {
            let at = ours.priority(ruleset::Hook::Prerouting);
            let before = at.map_or(Span::All, Span::Before);
            let ended = self.hook(Hook::Prerouting, before, &mut seen);
            self.tracking(&seen, ours);
            if !ended {
                self.ours(ours);
            }
            path.hops = std::mem::take(&mut self.hops);
            if ended || ours.trace.fate != Fate::Accepted {
                return path;
            }
            if let Some(at) = at {
                self.hook(Hook::Prerouting, Span::After(at), &mut seen);
            }
        }
        seen.oif = on;
        self.between(ports, called, &mut seen);
        self.link(ports.bridge, packet.destination, false);
        self.listener(&seen);
        self.at_endpoint(&seen);
        self.answer(&seen, Hook::Prerouting, Some(ports.bridge), false);
        path.legs.push(Leg {
            to: None,
            share: 1.0,
            hops: std::mem::take(&mut self.hops),
        });
        path
    }

    /// Between two ports, with the hooks of IP if they are called.
    fn between(&mut self, ports: &Ports, called: bool, seen: &mut foreign::Packet) {
        self.crosses(ports, seen);
        if called {
            self.hook(Hook::Forward, EVERY, seen);
            self.hook(Hook::Postrouting, EVERY, seen);
        }
        self.leaves(ports, seen);
    }

    /// The answer of an endpoint that sends it to the client's own link-layer address.
    pub(super) fn answered_over(&mut self, ports: &Ports, reply: &mut foreign::Packet) {
        let called = self.enters(reply);
        if called {
            self.hook(Hook::Prerouting, EVERY, reply);
        } else if let Some((asked, _)) = reply.asked {
            let (endpoint, client, bridge) = (reply.source, reply.destination, &ports.name);
            let found = format!(
                "{endpoint} answers {client} over {bridge}, where nothing gives the answer the \
                 address {asked} that the client asked"
            );
            let setting = calls(client).replace('/', ".");
            let repair = format!("modprobe br_netfilter; sysctl -w {setting}=1");
            self.note(At::Route(true), State::Broken, found, Some(repair));
        }
        reply.oif = reply.iif.clone();
        self.between(ports, called, reply);
    }

    /// What is wrong with the link to a pod that is on link by `device`. `back`: the packet came
    /// from the same pod.
    pub(super) fn link(&mut self, device: u32, address: IpAddr, back: bool) {
        let Some(link) = self.node.link(address) else {
            return;
        };
        let (name, of) = (&link.name, self.node.device(device).0);
        let (found, repair) = if !link.up {
            let found = format!("{name}, by which {address} is reached, is down");
            (found, format!("ip link set {name} up"))
        } else if link.index != device && link.master != Some(device) {
            let found = format!("{name}, by which {address} is reached, is no port of {of}");
            (found, format!("ip link set {name} master {of}"))
        } else if back
            && link.master == Some(device)
            && !link.hairpin
            // What is translated on the bridge does not come to it from above.
            && self.is_called(address)
        {
            let found = format!(
                "{name} sends nothing back to {address}, where it came from: hairpin is off"
            );
            let repair = format!("ip link set {name} type bridge_slave hairpin on");
            (found, repair)
        } else {
            return;
        };
        self.note(At::Link, State::Broken, found, Some(repair));
    }
}
