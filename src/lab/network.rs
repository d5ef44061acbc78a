//! What a lab is made of: places, which are network namespaces, and the links between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::server::Answer;

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Between nodes and clients.
    Router,
    /// A node.
    Node,
    /// A pod with a namespace of its own.
    Pod,
    /// A host beyond the router.
    Client,
}

/// A host of the lab: a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// What it calls itself when it answers.
    pub name: String,
    /// Its addresses, the first of each family first.
    pub addresses: Vec<IpAddr>,
    /// Bridges, with the addresses that the place has on them.
    pub bridges: BTreeMap<String, Vec<IpNet>>,
    /// Addresses of other interfaces.
    pub interfaces: BTreeMap<String, Vec<IpNet>>,
    /// Routes besides those that addresses bring along.
    pub routes: BTreeSet<Route>,
    /// Whether it forwards packets from the start.
    pub forwards: bool,
    /// Where it answers.
    pub answers: BTreeSet<Answer>,
}

/// A route of a place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Destination.
    pub to: IpNet,
    /// Next hop; none if the destination is a neighbour.
    pub via: Option<IpAddr>,
    /// The interface.
    pub device: Option<String>,
}

/// A link from an interface of a place to a port of another's bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cable {
    /// Whose interface.
    pub place: String,
    /// Its name there.
    pub device: String,
    /// Whose bridge.
    pub to: String,
    /// Name of the bridge; without one it is a link from host to host.
    pub bridge: Option<String>,
    /// Name of its port.
    pub port: String,
    /// Frames go back to where they came from: a pod reaches itself through a Service.
    pub hairpin: bool,
    /// Largest IP packet, if not the usual.
    pub mtu: Option<u32>,
    /// Whether it works.
    pub up: bool,
}

/// Everything there is to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Places by name: `router`, `node/NAME`, `pod/[NAMESPACE/]NAME`, `client`, `client/NAME`.
    pub places: BTreeMap<String, Place>,
    /// Links.
    pub cables: Vec<Cable>,
}

impl Place {
    /// A host that is connected to nothing yet.
    #[must_use]
    pub fn new(kind: Kind, name: &str, addresses: Vec<IpAddr>) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            addresses,
            bridges: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            routes: BTreeSet::new(),
            forwards: false,
            answers: BTreeSet::new(),
        }
    }

    /// Does it answer over that protocol at that port?
    #[must_use]
    pub fn answers_at(&self, asked: &Answer) -> bool {
        let mut all = self.answers.iter();
        all.any(|answer| (answer.protocol, answer.port) == (asked.protocol, asked.port))
    }

    /// True if nothing of its interfaces, addresses and links would have to change.
    #[must_use]
    pub fn is_wired_as(&self, other: &Self) -> bool {
        (self.kind, &self.bridges, &self.interfaces, self.forwards)
            == (
                other.kind,
                &other.bridges,
                &other.interfaces,
                other.forwards,
            )
    }
}

impl Route {
    /// To a destination behind a next hop.
    #[must_use]
    pub const fn via(to: IpNet, via: IpAddr) -> Self {
        Self {
            to,
            via: Some(via),
            device: None,
        }
    }

    /// To neighbours at an interface.
    #[must_use]
    pub fn at(to: IpNet, device: &str) -> Self {
        Self {
            to,
            via: None,
            device: Some(device.to_owned()),
        }
    }
}

impl Network {
    /// Whoever has `addr`.
    #[must_use]
    pub fn owner(&self, addr: IpAddr) -> Option<&str> {
        let has = |place: &Place| {
            let bridges = place.bridges.values().flatten();
            place.addresses.contains(&addr) || bridges.into_iter().any(|net| net.addr() == addr)
        };
        let found = self.places.iter().find(|(_, place)| has(place));
        found.map(|(name, _)| name.as_str())
    }

    /// Gives links that stay the ports that they had `before`, and others none of those.
    pub fn keep_ports(&mut self, before: &Self, gone: &BTreeSet<String>) {
        let mut taken: BTreeMap<(String, String), String> = BTreeMap::new();
        for cable in before
            .cables
            .iter()
            .filter(|cable| !gone.contains(&cable.place))
        {
            let end = (cable.place.clone(), cable.device.clone());
            taken.insert(end, cable.port.clone());
        }
        // A link that has gone may be there a moment longer.
        let used: BTreeSet<String> = before
            .cables
            .iter()
            .map(|cable| cable.port.clone())
            .collect();
        let mut free = (0..)
            .map(|n| format!("port{n}"))
            .filter(|port| !used.contains(port));
        for cable in &mut self.cables {
            let end = (cable.place.clone(), cable.device.clone());
            match taken.get(&end) {
                Some(port) => cable.port.clone_from(port),
                None => cable.port = free.next().unwrap_or_default(),
            }
        }
    }
}
