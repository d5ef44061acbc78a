//! Neighbours as rtnetlink messages (linux/neighbour.h): who was found on a link.

use std::net::IpAddr;

use super::attr::{request, u16_at, u32_at};
use super::error::ExchangeError;
use super::message::{Message, flag};
use crate::net::Family;

/// RTM_NEWNEIGH and RTM_GETNEIGH.
const NEW: u16 = 28;
const GET: u16 = 30;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// RTM_NEWNEIGHTBL and RTM_GETNEIGHTBL; NDTA_*.
const NEW_TABLE: u16 = 64;
const GET_TABLE: u16 = 66;
const NDTA_THRESH3: u16 = 4;
const NDTA_CONFIG: u16 = 5;

/// NUD_INCOMPLETE and NUD_FAILED: it was asked and has not answered.
const SILENT: u16 = 0x01 | 0x20;

/// Asks for one neighbour on the interface with this index; refused with ENOENT if nobody ever
/// asked for it.
#[must_use]
pub fn get(interface: u32, addr: IpAddr) -> Vec<u8> {
    // struct ndmsg: family, padding, index, state, flags, type.
    let mut head = [0; 12];
    head[0] = Family::of(&addr).number();
    head[4..8].copy_from_slice(&interface.to_ne_bytes());
    request(GET, 0, &head, |w| w.addr(NDA_DST, addr))
}

/// The neighbours of one family, of all network namespaces of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    pub family: Family,
    /// How many there are.
    pub entries: u32,
    /// How many there may be (`gc_thresh3`).
    pub most: u32,
}

/// Asks how full the tables of all families are.
#[must_use]
pub fn dump_tables() -> Vec<u8> {
    // struct ndtmsg.
    request(GET_TABLE, flag::DUMP, &[0; 4], |_| {})
}

/// How full a table is; `None` for other messages, tables that are not ours, and settings of
/// one interface.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode_table(message: &Message<'_>) -> Result<Option<Table>, ExchangeError> {
    if message.kind != NEW_TABLE {
        return Ok(None);
    }
    let (head, a) = message.split::<4>().ok_or(ExchangeError::Garbled)?;
    // struct ndt_config: lengths of a key and of an entry, then the number of entries.
    let entries = a.get(NDTA_CONFIG).and_then(|config| u32_at(config, 4));
    let (family, most) = (Family::from_number(head[0]), a.host_u32(NDTA_THRESH3));
    let (Some(family), Some(entries), Some(most)) = (family, entries, most) else {
        return Ok(None);
    };
    Ok(Some(Table {
        family,
        entries,
        most,
    }))
}

/// What the kernel holds of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// It answered, or needs not to.
    pub answers: bool,
    /// Its link-layer address, if that is an Ethernet one.
    pub mac: Option<[u8; 6]>,
}

/// The neighbour in an answer; `None` for other messages.
///
/// # Errors
/// If its lengths do not add up.
pub fn decode(message: &Message<'_>) -> Result<Option<Entry>, ExchangeError> {
    if message.kind != NEW {
        return Ok(None);
    }
    let (head, a) = message.split::<12>().ok_or(ExchangeError::Garbled)?;
    let state = u16_at(head, 8).ok_or(ExchangeError::Garbled)?;
    Ok(Some(Entry {
        answers: state & SILENT == 0,
        mac: a.get(NDA_LLADDR).and_then(|mac| mac.try_into().ok()),
    }))
}
