//! What nf_tables says of a traced packet: one message a decision.

use std::net::IpAddr;

use crate::foreign::Family;
use crate::netlink::attr::Attrs;
use crate::netlink::message::Message;
use crate::netlink::nftables::constants::common;
use crate::netlink::nftables::encode::kind_of;

/// NFTA_TRACE_* (linux/netfilter/nf_tables.h).
mod attribute {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const RULE_HANDLE: u16 = 3;
    pub const TYPE: u16 = 4;
    pub const VERDICT: u16 = 5;
    pub const ID: u16 = 6;
    pub const NETWORK_HEADER: u16 = 8;
    pub const TRANSPORT_HEADER: u16 = 9;
    pub const POLICY: u16 = 16;
}

/// NFT_MSG_TRACE.
const MSG_TRACE: u8 = 17;

/// What a rule, a chain's end or its policy did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On to the next rule.
    Continue,
    /// Done with this chain's hook.
    Accept,
    /// Dropped; also what a reject ends in.
    Drop,
    /// To a chain, and back.
    Jump(String),
    /// To a chain, and not back.
    Goto(String),
    /// Back.
    Return,
    /// Handed to a program, or something else that this does not know by name.
    Other(i32),
}

/// Whose verdict it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// That of the rule with this handle.
    Rule(u64),
    /// A chain came to its end.
    End,
    /// No rule of a base chain had anything to do with the packet: all that is said is what it
    /// looks like there.
    Nobody,
    /// The policy of a base chain.
    Policy,
}

/// Addresses and ports at that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Destination address and port.
    pub destination: (IpAddr, u16),
}

/// One decision about a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The kernel's number of the packet. It may get another one on its way, as where it
    /// leaves a bridge.
    pub packet: u32,
    /// nft's name of the table's family.
    pub family: &'static str,
    /// Table.
    pub table: String,
    /// Chain.
    pub chain: String,
    /// Who decided.
    pub judge: Judge,
    /// What.
    pub verdict: Verdict,
    /// The packet, where the kernel says it: with the first decision of each base chain.
    pub ends: Option<Ends>,
}

/// Decodes what is said of a packet; `None` of anything else.
pub fn decision(message: &Message<'_>) -> Option<Decision> {
    if message.kind != kind_of(MSG_TRACE) {
        return None;
    }
    let a = message.attrs();
    let family = Family::from_number(message.family())?.nft_name();
    let judge = match a.u32(attribute::TYPE)? {
        1 => Judge::Policy,
        2 => Judge::End,
        _ => (a.u64(attribute::RULE_HANDLE)).map_or(Judge::Nobody, Judge::Rule),
    };
    let verdict = match judge {
        Judge::Policy => verdict(a.u32(attribute::POLICY)?.cast_signed(), a),
        Judge::End | Judge::Nobody | Judge::Rule(_) => {
            let given = a.nested(attribute::VERDICT);
            verdict(given.u32(common::VERDICT_CODE)?.cast_signed(), given)
        }
    };
    Some(Decision {
        packet: a.u32(attribute::ID)?,
        family,
        table: a.lossy_string(attribute::TABLE)?,
        chain: a.lossy_string(attribute::CHAIN)?,
        judge,
        verdict,
        ends: ends(a),
    })
}

fn verdict(code: i32, a: Attrs<'_>) -> Verdict {
    let chain = || a.lossy_string(common::VERDICT_CHAIN).unwrap_or_default();
    match code {
        0 => Verdict::Drop,
        1 => Verdict::Accept,
        -1 => Verdict::Continue,
        -3 => Verdict::Jump(chain()),
        -4 => Verdict::Goto(chain()),
        -5 => Verdict::Return,
        other => Verdict::Other(other),
    }
}

/// Addresses and ports in the headers.
fn ends(a: Attrs<'_>) -> Option<Ends> {
    let network = a.get(attribute::NETWORK_HEADER)?;
    let transport = a.get(attribute::TRANSPORT_HEADER)?;
    let port = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
    let addr = |at: usize, v6: bool| {
        let bytes = network.get(at..)?;
        Some(match v6 {
            false => IpAddr::from(*bytes.first_chunk::<4>()?),
            true => IpAddr::from(*bytes.first_chunk::<16>()?),
        })
    };
    let (source, destination) = match network.first()? >> 4 {
        4 => (addr(12, false)?, addr(16, false)?),
        6 => (addr(8, true)?, addr(24, true)?),
        _ => return None,
    };
    Some(Ends {
        source: (source, port(0)?),
        destination: (destination, port(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::{Writer, request};
    use crate::netlink::message::{Messages, nfgenmsg};
    use proptest::prelude::*;

    fn message(kind: u32, body: impl FnOnce(&mut Writer)) -> Vec<u8> {
        request(kind_of(MSG_TRACE), 0, &nfgenmsg(2, 0, 0), |w| {
            w.string(attribute::TABLE, "filter");
            w.string(attribute::CHAIN, "forward");
            w.u32(attribute::TYPE, kind);
            w.u32(attribute::ID, 7);
            body(w);
        })
    }

    fn read(bytes: &[u8]) -> Option<Decision> {
        decision(&Messages(bytes).next().unwrap())
    }

    #[test]
    fn decisions_are_read_with_the_packet_as_it_is_then() {
        let mut header = vec![0x45; 20];
        header[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        let found = read(&message(3, |w| {
            w.attr(attribute::RULE_HANDLE, &9_u64.to_be_bytes());
            let verdict = w.nest(attribute::VERDICT);
            w.u32(common::VERDICT_CODE, (-3_i32).cast_unsigned());
            w.string(common::VERDICT_CHAIN, "services");
            w.end_nest(verdict);
            w.attr(attribute::NETWORK_HEADER, &header);
            w.attr(attribute::TRANSPORT_HEADER, &[0x9c, 0x40, 0, 80]);
        }));
        let found = found.unwrap();
        assert_eq!(found.judge, Judge::Rule(9));
        assert_eq!(found.verdict, Verdict::Jump("services".into()));
        let ends = found.ends.unwrap();
        assert_eq!(ends.source, (IpAddr::from([10, 0, 0, 1]), 40_000));
        assert_eq!(ends.destination, (IpAddr::from([10, 0, 0, 2]), 80));
        let policy = read(&message(1, |w| w.u32(attribute::POLICY, 0))).unwrap();
        assert_eq!(
            (policy.judge, policy.verdict),
            (Judge::Policy, Verdict::Drop)
        );
        assert_eq!(policy.ends, None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let whole = request(kind_of(MSG_TRACE), 0, &bytes, |_| {});
            let _ = read(&whole);
        }
    }
}
