//! Neighbours as rtnetlink messages (linux/neighbour.h): who was found on a link.

use std::net::IpAddr;

use super::attr::{request, u16_at};
use super::error::ExchangeError;
use super::message::Message;
use crate::net::Family;

/// RTM_NEWNEIGH and RTM_GETNEIGH.
const NEW: u16 = 28;
const GET: u16 = 30;
const NDA_DST: u16 = 1;

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

/// Whether the neighbour in an answer answers; `None` for other messages.
///
/// # Errors
/// If its lengths do not add up.
pub fn answers(message: &Message<'_>) -> Result<Option<bool>, ExchangeError> {
    if message.kind != NEW {
        return Ok(None);
    }
    let (head, _) = message.split::<12>().ok_or(ExchangeError::Garbled)?;
    let state = u16_at(head, 8).ok_or(ExchangeError::Garbled)?;
    Ok(Some(state & SILENT == 0))
}
