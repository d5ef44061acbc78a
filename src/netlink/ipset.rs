//! Reads ipsets (linux/netfilter/ipset/ip_set.h).

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::attr::{Attrs, request};
use super::error::ExchangeError;
use super::exchange::Exchange;
use super::message::{flag, nfgenmsg};
use super::socket::Bus;
use crate::foreign::{Family, IpElement, IpSet};

/// NFNL_SUBSYS_IPSET and IPSET_CMD_LIST; the version of the protocol in which sets have numbers
/// (IPSET_PROTOCOL, Linux 4.17).
const LIST: u16 = 6 << 8 | 7;
const VERSION: u8 = 7;
/// Sets of more elements than this are not kept.
const MOST_ELEMENTS: usize = 20_000;

/// IPSET_ATTR_* of a command, of an element, and of an address.
mod attribute {
    pub const PROTOCOL: u16 = 1;
    pub const SETNAME: u16 = 2;
    pub const TYPENAME: u16 = 3;
    pub const FAMILY: u16 = 5;
    pub const DATA: u16 = 7;
    pub const ELEMENTS: u16 = 8;
    pub const INDEX: u16 = 11;

    pub const IP: u16 = 1;
    pub const CIDR: u16 = 3;
    pub const PORT: u16 = 4;
    pub const L4PROTO: u16 = 7;
    pub const FLAGS: u16 = 8;
    pub const NETMASK: u16 = 20;
    pub const NAME: u16 = 18;
    pub const IP2: u16 = 20;
    pub const CIDR2: u16 = 21;
    pub const IFACE: u16 = 23;

    pub const ADDRESS: [u16; 2] = [1, 2];
    /// IPSET_ATTR_BITMASK of a set's header (Linux 6.2).
    pub const BITMASK: u16 = 12;
}
/// IPSET_FLAG_NOMATCH; IPSET_FLAG_PHYSDEV and IPSET_FLAG_IFACE_WILDCARD ask for other devices.
const NOMATCH: u32 = 1 << 2;
const OTHER_DEVICES: u32 = 1 << 1 | 1 << 7;

/// All sets of this network namespace by the kernel's number.
///
/// # Errors
/// If the kernel has no ipsets, or does not let us read them.
pub(super) fn list() -> Result<BTreeMap<u16, IpSet>, ExchangeError> {
    let mut exchange = Exchange::open(Bus::Netfilter)?;
    let request = request(LIST, flag::DUMP, &nfgenmsg(0, 0, 0), |w| {
        w.attr(attribute::PROTOCOL, &[VERSION]);
    });
    let mut sets: BTreeMap<u16, IpSet> = BTreeMap::new();
    let mut last = None;
    exchange.request(&request, |message| {
        let a = message.attrs();
        // A set of many elements takes several messages, of which the first has the header.
        if let (Some(index), Some(kind)) = (a.u16(attribute::INDEX), a.string(attribute::TYPENAME))
        {
            sets.insert(index, declared(a, kind));
            last = Some(index);
        }
        let set = last.and_then(|index| sets.get_mut(&index));
        if let Some(set) = set
            && let Some(elements) = &mut set.elements
        {
            for (_, item) in a.nested(attribute::ELEMENTS) {
                match element(Attrs(item)) {
                    Some(element) if elements.len() < MOST_ELEMENTS => elements.push(element),
                    _ => {
                        set.elements = None;
                        break;
                    }
                }
            }
        }
        Ok::<(), ExchangeError>(())
    })?;
    Ok(sets)
}

fn declared(a: Attrs<'_>, kind: &str) -> IpSet {
    let header = a.nested(attribute::DATA);
    // Addresses under a mask are not those that packets have.
    let masked = [attribute::NETMASK, attribute::BITMASK];
    let masked = masked.iter().any(|kind| header.get(*kind).is_some());
    IpSet {
        name: a.string(attribute::SETNAME).unwrap_or_default().to_owned(),
        kind: kind.to_owned(),
        family: a.u8(attribute::FAMILY).and_then(Family::from_number),
        elements: (!masked).then(Vec::new),
    }
}

/// `None` if there is something about it that is not understood.
fn element(a: Attrs<'_>) -> Option<IpElement> {
    let flags = a.u32(attribute::FLAGS).unwrap_or(0);
    if flags & OTHER_DEVICES != 0 {
        return None;
    }
    let net = |ip: u16, cidr: u16| {
        let address = a.nested(ip);
        let mut kinds = attribute::ADDRESS.into_iter();
        let address: IpAddr = kinds.find_map(|kind| address.addr(kind))?;
        let whole = IpNet::from(address);
        let length = a.u8(cidr).unwrap_or(whole.prefix_len());
        IpNet::new(address, length).ok()
    };
    Some(IpElement {
        net: net(attribute::IP, attribute::CIDR),
        other: net(attribute::IP2, attribute::CIDR2),
        port: a.u16(attribute::PORT),
        protocol: a.u8(attribute::L4PROTO),
        device: a.string(attribute::IFACE).map(str::to_owned),
        set: a.string(attribute::NAME).map(str::to_owned),
        excluded: flags & NOMATCH != 0,
    })
}
