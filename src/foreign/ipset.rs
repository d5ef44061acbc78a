//! Sets of the ipset kind, which matches of iptables ask for (linux/netfilter/ipset/ip_set.h).

use ipnet::IpNet;

use super::packet::{Device, Packet};
use crate::net::Protocol;

/// Sets in sets (`list:set`) that are followed.
const DEPTH: usize = 4;

/// A set, by what its elements are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet {
    /// Its name.
    pub name: String,
    /// Its type, such as `hash:ip,port`.
    pub kind: String,
    /// Its family; `None` if it is of none, as sets of ports.
    pub family: Option<super::Family>,
    /// Its elements; `None` if they were too many or not understood.
    pub elements: Option<Vec<IpElement>>,
}

/// An element: the parts that its set's type has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpElement {
    /// The first address or prefix.
    pub net: Option<IpNet>,
    /// The other one, of types with two.
    pub other: Option<IpNet>,
    /// The port.
    pub port: Option<u16>,
    /// The port's protocol (IPPROTO_*), where the type has it.
    pub protocol: Option<u8>,
    /// The device.
    pub device: Option<String>,
    /// The set in this one.
    pub set: Option<String>,
    /// What it says is that the set does not hold it.
    pub excluded: bool,
}

/// Whether a set holds a packet's properties. `of_source` has a bit for each part of the type, the
/// lowest for the first, set where the packet's source counts. `None` if it cannot be told.
pub(super) fn holds<'s>(
    sets: &dyn Fn(&str) -> Option<&'s IpSet>,
    set: &'s IpSet,
    of_source: u8,
    packet: &Packet,
) -> Option<bool> {
    nested(sets, set, of_source, packet, DEPTH)
}

fn nested<'s>(
    sets: &dyn Fn(&str) -> Option<&'s IpSet>,
    set: &'s IpSet,
    of_source: u8,
    packet: &Packet,
    depth: usize,
) -> Option<bool> {
    let is_v4 = packet.destination.is_ipv4();
    if set
        .family
        .is_some_and(|f| (f == super::Family::Ip) != is_v4)
    {
        return Some(false);
    }
    let (_, parts) = set.kind.split_once(':')?;
    let parts: Vec<&str> = parts.split(',').collect();
    // The most specific element decides; of equal ones the first.
    let mut best: Option<(u8, bool)> = None;
    let mut perhaps = false;
    for element in set.elements.as_ref()? {
        let held = match &element.set {
            Some(name) if depth > 0 => {
                sets(name).and_then(|inner| nested(sets, inner, of_source, packet, depth - 1))
            }
            Some(_) => None,
            None => element.holds(&parts, of_source, packet),
        };
        match held {
            Some(false) => {}
            None => perhaps = true,
            Some(true) => {
                let length = |net: &Option<IpNet>| net.map_or(0, |net| net.prefix_len());
                let length = length(&element.net).saturating_add(length(&element.other));
                if best.is_none_or(|(longest, _)| length > longest) {
                    best = Some((length, !element.excluded));
                }
            }
        }
    }
    match best {
        Some((_, holds)) if !perhaps => Some(holds),
        None if !perhaps => Some(false),
        _ => None,
    }
}

impl IpElement {
    fn holds(&self, parts: &[&str], of_source: u8, packet: &Packet) -> Option<bool> {
        let mut all = Some(true);
        let mut net = self.net;
        for (i, part) in parts.iter().enumerate() {
            let is_source = of_source & (1 << i) != 0;
            let held = match *part {
                "ip" | "net" => {
                    let address = match is_source {
                        true => packet.source,
                        false => packet.destination,
                    };
                    let held = net?.contains(&address);
                    net = self.other;
                    Some(held)
                }
                "port" => self.holds_port(is_source, packet),
                "iface" => {
                    let device = match is_source {
                        true => &packet.iif,
                        false => &packet.oif,
                    };
                    match device {
                        Device::Known(name, _) => Some(self.device.as_ref() == Some(name)),
                        Device::None => Some(false),
                        Device::Unknown => None,
                    }
                }
                _ => None,
            };
            match held {
                Some(false) => return Some(false),
                Some(true) => {}
                None => all = None,
            }
        }
        all
    }

    fn holds_port(&self, is_source: bool, packet: &Packet) -> Option<bool> {
        let has = |protocol: u8| protocol == packet.protocol.number();
        if !self.protocol.is_none_or(has) {
            return Some(false);
        }
        // Sets of ports without protocols are of TCP and UDP.
        if self.protocol.is_none() && packet.protocol == Protocol::Sctp {
            return Some(false);
        }
        let port = match is_source {
            true => packet.source_port,
            false => packet.port,
        };
        port.map(|port| Some(port) == self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::Family;

    fn packet() -> Packet {
        Packet::first(
            [172, 17, 0, 9].into(),
            ([172, 17, 1, 2].into(), 80),
            Protocol::Tcp,
            Device::Known("docker0".into(), 3),
        )
    }

    fn net(text: &str) -> IpElement {
        IpElement {
            net: Some(text.parse().unwrap()),
            ..IpElement::default()
        }
    }

    fn set(kind: &str, elements: Vec<IpElement>) -> IpSet {
        IpSet {
            name: "s".into(),
            kind: kind.into(),
            family: Some(Family::Ip),
            elements: Some(elements),
        }
    }

    fn held(set: &IpSet, of_source: u8) -> Option<bool> {
        holds(&|_| None, set, of_source, &packet())
    }

    #[test]
    fn each_part_is_of_the_source_or_the_destination() {
        let to = set("hash:net", vec![net("172.17.1.0/24")]);
        assert_eq!((held(&to, 0), held(&to, 1)), (Some(true), Some(false)));
        let port = |protocol, port| {
            let element = IpElement {
                protocol: Some(protocol),
                port: Some(port),
                ..net("172.17.1.2/32")
            };
            held(&set("hash:ip,port", vec![element]), 0)
        };
        assert_eq!(port(6, 80), Some(true));
        assert_eq!(port(17, 80), Some(false));
        assert_eq!(port(6, 81), Some(false));
        let other = |address: &str| IpElement {
            other: Some(address.parse().unwrap()),
            ..net("172.17.1.2/32")
        };
        let both = set("hash:ip,ip", vec![other("172.17.0.9/32")]);
        assert_eq!((held(&both, 2), held(&both, 0)), (Some(true), Some(false)));
    }

    #[test]
    fn the_longest_prefix_decides() {
        let except = |text: &str| IpElement {
            excluded: true,
            ..net(text)
        };
        let elements = vec![net("172.17.0.0/16"), except("172.17.1.0/24")];
        let mut found = set("hash:net", elements);
        assert_eq!(held(&found, 0), Some(false));
        found.elements.as_mut().unwrap().push(net("172.17.1.2/32"));
        assert_eq!(held(&found, 0), Some(true));
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let unread = IpSet {
            elements: None,
            ..set("hash:ip", Vec::new())
        };
        assert_eq!(held(&unread, 0), None);
        // A client's port, and hardware addresses.
        let ports = IpElement {
            port: Some(80),
            ..IpElement::default()
        };
        let mut by_port = set("bitmap:port", vec![ports]);
        by_port.family = None;
        assert_eq!((held(&by_port, 0), held(&by_port, 1)), (Some(true), None));
        assert_eq!(held(&set("hash:mac", vec![IpElement::default()]), 0), None);
        let v6 = IpSet {
            family: Some(Family::Ip6),
            ..unread
        };
        assert_eq!(held(&v6, 0), Some(false));
    }

    #[test]
    fn sets_in_sets_are_followed_and_not_for_ever() {
        let inner = |name: &str| IpElement {
            set: Some(name.into()),
            ..IpElement::default()
        };
        let to = set("hash:net", vec![net("172.17.1.0/24")]);
        let list = set("list:set", vec![inner("nets")]);
        let named = |name: &str| (name == "nets").then_some(&to);
        assert_eq!(holds(&named, &list, 0, &packet()), Some(true));
        let itself = |_: &str| Some(&list);
        assert_eq!(holds(&itself, &list, 0, &packet()), None);
    }
}
