//! What is asked of the host on a packet's way, and what of a packet rules change.

use std::net::IpAddr;

use super::{Family, Packet, Value};

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// To this host.
    Here,
    /// By the device with this index.
    Device(u32),
    /// Nowhere.
    Nowhere,
}

/// What a set that was not read says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The kernel could not be asked.
    Unknown,
    /// It does not hold it.
    No,
    /// It holds it; a map's value.
    Yes(Option<Value>),
}

/// What is asked of the host on a packet's way.
pub trait World {
    /// True if an address is this host's.
    fn is_local(&self, address: IpAddr) -> bool;

    /// Where packets with this mark to an address go; `None` if the kernel could not be asked.
    fn leads(&self, _to: IpAddr, _mark: u32) -> Option<Leads> {
        None
    }

    /// Whether a set of a table, which was not read, holds a key.
    fn element(&self, _of: (Family, &str), _set: &str, _key: &[u8]) -> Found {
        Found::Unknown
    }
}

impl<F: Fn(IpAddr) -> bool> World for F {
    fn is_local(&self, address: IpAddr) -> bool {
        self(address)
    }
}

/// What rules change of a packet and its connection that other rules may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    mark: Option<u32>,
    ct_mark: Option<u32>,
    untracked: bool,
    zone: Option<u16>,
}

impl State {
    pub(super) const fn of(packet: &Packet) -> Self {
        Self {
            mark: packet.mark,
            ct_mark: packet.ct_mark,
            untracked: packet.untracked,
            zone: packet.zone,
        }
    }

    pub(super) const fn put(self, packet: &mut Packet) {
        packet.mark = self.mark;
        packet.ct_mark = self.ct_mark;
        packet.untracked = self.untracked;
        packet.zone = self.zone;
    }

    /// Either this or that: what both agree on. That a connection is not tracked is said only
    /// where it is certain.
    pub(super) fn or(self, other: Self) -> Self {
        let same = |a: Option<u32>, b| a.filter(|_| a == b);
        Self {
            mark: same(self.mark, other.mark),
            ct_mark: same(self.ct_mark, other.ct_mark),
            untracked: self.untracked && other.untracked,
            zone: self.zone.filter(|_| self.zone == other.zone),
        }
    }
}
