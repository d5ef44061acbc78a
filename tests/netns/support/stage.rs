//! The network that the folders of `rulesets/` are about (`rulesets/README.md` has its plan),
//! around the node that svcnat runs on.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use svcnat::cluster::Protocol;
use svcnat::lab::{Around, Outcome, Vantage};
use svcnat::net::Question;

use super::netns::Netns;

/// The name of the node in every configuration.
pub const NODE: &str = "node1";

fn vantage() -> Vantage {
    let addrs = |list: &[&str]| {
        list.iter()
            .map(|a| a.parse().expect("an address"))
            .collect()
    };
    let nets = |list: &[&str]| {
        list.iter()
            .map(|net| net.parse().expect("a prefix"))
            .collect()
    };
    Vantage {
        name: NODE.to_owned(),
        addresses: addrs(&["192.168.50.11", "fd00:50::11"]),
        pod_cidrs: nets(&["172.17.0.0/24", "fd00:17::/64"]),
        others: vec![(
            "node2".to_owned(),
            addrs(&["192.168.50.12", "fd00:50::12"]),
            nets(&["172.17.1.0/24", "fd00:17:0:1::/64"]),
        )],
        cluster_cidrs: nets(&["172.17.0.0/16", "fd00:17::/48"]),
    }
}

/// The network, up and answering.
#[derive(Debug)]
pub struct Stage {
    around: Around,
    node: Netns,
}

impl Stage {
    /// With a host for each of these addresses, and a server at each of these sockets.
    pub fn new(
        addrs: impl IntoIterator<Item = IpAddr>,
        servers: &BTreeSet<(SocketAddr, Protocol)>,
    ) -> Self {
        let around = Around::new(vantage(), addrs, servers).expect("make the network");
        let node = Netns::of(NODE, around.node());
        Self { around, node }
    }

    /// The namespace of the node that svcnat runs on.
    pub const fn node(&self) -> &Netns {
        &self.node
    }

    /// The namespace that has this address.
    pub fn at(&self, addr: IpAddr) -> Netns {
        Netns::of(&addr.to_string(), self.around.at(addr).expect("a host"))
    }

    /// Does the node that svcnat runs on have this address?
    pub fn is_nodes(addr: IpAddr) -> bool {
        vantage().has(addr)
    }

    /// Asks from an address `count` times, each over a connection of its own, or until there
    /// is no answer.
    pub fn ask(
        &self,
        from: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        patience: Duration,
        count: usize,
    ) -> Vec<Outcome> {
        self.asked(&Question {
            from,
            protocol,
            to,
            patience,
            count,
        })
    }

    /// The same.
    pub fn asked(&self, question: &Question) -> Vec<Outcome> {
        self.around.ask(question).expect("a host")
    }
}
