//! A made-up packet's whole way over this node: what comes in, others' rules and ours at each
//! hook, routes, neighbours, the endpoint, and the answer's way back. Pure: what the host says is
//! asked through [`Node`].

mod answer;
mod asked;
mod bridge;
mod follow;
mod pod;
mod say;
mod way;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

pub use follow::{Ours, follow};

use crate::foreign::{Device, Family, Found, Hook, Rules};
use crate::net::{Endpoint, Protocol};

/// How it looks at one point of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The packet goes on.
    Fine,
    /// It cannot be told.
    Unknown,
    /// The packet ends here, or what comes of it is not what it should be.
    Broken,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    /// The client's pod, as a host of its own.
    Client,
    /// How the packet comes to this node.
    Arrives,
    /// How this node sends it.
    Sent,
    /// Others' chains at a hook; of the answer, if that is true.
    Hook(Hook, bool),
    /// Connection tracking.
    Conntrack,
    /// Our own rules.
    Svcnat,
    /// Whether this node forwards at all.
    Forwarding,
    /// The routing decision; of the answer, if that is true.
    Route(bool),
    /// The next hop, or the endpoint on its link.
    Neighbour,
    /// This node's end of the link to a pod.
    Link,
    /// Who listens there, and what the endpoint's pod does as a host of its own.
    Endpoint,
    /// What a real packet met.
    Probe,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (is_answer, name) = match self {
            Self::Client => (false, "client"),
            Self::Arrives => (false, "arrives"),
            Self::Sent => (false, "sent"),
            Self::Hook(hook, is_answer) => (*is_answer, hook.nft_name()),
            Self::Conntrack => (false, "conntrack"),
            Self::Svcnat => (false, "svcnat"),
            Self::Forwarding => (false, "forwarding"),
            Self::Route(is_answer) => (*is_answer, "route"),
            Self::Neighbour => (false, "neighbour"),
            Self::Link => (false, "link"),
            Self::Endpoint => (false, "endpoint"),
            Self::Probe => (false, "probe"),
        };
        let of = if is_answer { "answer: " } else { "" };
        f.pad(&format!("{of}{name}"))
    }
}

/// One point of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// What is looked at.
    pub at: At,
    /// How it looks.
    pub state: State,
    /// What was found, in one sentence; with whose it is if it is another program's.
    pub found: String,
    /// Whose it is, if it is another program's: its table and chain.
    pub owner: Option<String>,
    /// One line that would repair it.
    pub repair: Option<String>,
}

/// The way to one endpoint, or to where an untranslated packet goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Leg {
    /// Where to; `None` if nothing translates the packet.
    pub to: Option<Endpoint>,
    /// How likely it is, 0 to 1.
    pub share: f64,
    /// Hops, in order.
    pub hops: Vec<Hop>,
}

/// The whole of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Path {
    /// Up to where our rules decide.
    pub hops: Vec<Hop>,
    /// From there on, to each that it may go to.
    pub legs: Vec<Leg>,
    /// What a real packet met, if one was sent.
    pub probe: Option<Hop>,
}

impl Path {
    /// All hops in order.
    pub fn all(&self) -> impl Iterator<Item = &Hop> {
        let legs = self.legs.iter().flat_map(|leg| &leg.hops);
        self.hops.iter().chain(legs).chain(&self.probe)
    }

    /// The first that is broken.
    #[must_use]
    pub fn broken(&self) -> Option<&Hop> {
        self.all().find(|hop| hop.state == State::Broken)
    }
}

/// What is asked of the routing tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteQuestion {
    /// From here, if that matters yet.
    pub source: Option<IpAddr>,
    /// To there.
    pub destination: IpAddr,
    /// Index of the device that it came in by; this host sends it otherwise.
    pub iif: Option<u32>,
    /// The packet mark.
    pub mark: u32,
    /// Its protocol and ports, 0 for one that is not known; `None` if they do not matter.
    pub transport: Option<(Protocol, u16, u16)>,
}

impl RouteQuestion {
    /// What this host sends to an address.
    #[must_use]
    pub const fn to(destination: IpAddr) -> Self {
        Self {
            source: None,
            destination,
            iif: None,
            mark: 0,
            transport: None,
        }
    }
}

/// What becomes of a packet, as the routing tables have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To this host itself.
    Local,
    /// By a device, to a next hop if the destination is not on link.
    Device {
        /// Its index.
        index: u32,
        /// The next hop.
        via: Option<IpAddr>,
        /// The carrier is away, or the next hop is known to be dead.
        dead: bool,
    },
    /// Not at all: the kernel's error (an `errno`).
    Refused(i32),
}

/// Whether a neighbour is known on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// It answered, or needs not to.
    Known,
    /// Nobody asked lately.
    Unasked,
    /// It did not answer.
    Silent,
    /// Packets go to this link-layer address, and it has that one.
    Mistaken([u8; 6], [u8; 6]),
}

/// What is asked of the host.
pub trait Node: Sized {
    /// True if an address is this host's.
    fn is_local(&self, address: IpAddr) -> bool;
    /// Where a packet goes; `None` if the kernel could not be asked.
    fn route(&mut self, question: &RouteQuestion) -> Option<Route>;
    /// The name of a device; what is wrong with it, if anything is.
    fn device(&mut self, index: u32) -> (String, Option<String>);
    /// True if a device is a bridge.
    fn is_bridge(&self, index: u32) -> bool;
    /// The index of a device.
    fn index(&self, name: &str) -> Option<u32>;
    /// Whether a neighbour answers on a device.
    fn neighbour(&mut self, device: u32, address: IpAddr) -> Neighbour;
    /// This node's end of the link to a pod, by the pod's address; `None` if that cannot be known
    /// here.
    fn link(&mut self, address: IpAddr) -> Option<PodLink>;
    /// True if the pod with one address sends to the other without a router.
    fn is_on_link(&mut self, pod: IpAddr, to: IpAddr) -> bool;
    /// A pod as a host of its own, and where its namespace is; `None` if that cannot be known here.
    fn pod(&mut self, address: IpAddr) -> Option<(String, &mut Self)>;
    /// A setting under /proc/sys.
    fn setting(&self, path: &str) -> Option<String>;
    /// Tracked connections, and how many there may be.
    fn tracked(&mut self) -> Option<(u64, u64)>;
    /// Where connections from a client to there already go, whatever the rules say by now, as
    /// connection tracking has it.
    fn flows(&mut self, from: IpAddr, to: (IpAddr, u16), protocol: Protocol) -> Vec<Endpoint>;
    /// Whether somebody listens there; `None` if that cannot be known here.
    fn listens(&mut self, at: Endpoint, protocol: Protocol) -> Option<Listener>;
    /// Other programs' rules.
    fn others(&self) -> Arc<Rules>;
    /// Whether a set of others, which was not read, holds a key.
    fn element(&mut self, of: (Family, &str), set: &str, key: &[u8]) -> Found;
}

/// This node's end of a veth pair whose other end is in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLink {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// As a bridge's port, it sends back to where a frame came from.
    pub hairpin: bool,
    /// As a bridge's port, it exchanges no frames with others that are isolated.
    pub isolated: bool,
}

/// Who is at an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Somebody listens.
    Yes,
    /// Nobody does.
    No,
    /// Somebody does, at another address of it only.
    Elsewhere(IpAddr),
}

/// A device by its index, as rules see it.
fn device(node: &mut impl Node, index: u32) -> Device {
    Device::Known(node.device(index).0, index)
}

#[cfg(test)]
mod tests;
