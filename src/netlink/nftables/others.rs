//! Reads other programs' tables, of every family that IP packets come by, for
//! [`crate::foreign`] to walk; and who owns ours.

use super::NetlinkError;
use super::constants::{chain, common, elem, msg, rule, set, table};
use super::decode;
use super::encode::{dump_all, kind_of};
use super::kernel::Nfnetlink;
use super::trace::TRACE_TABLE;
use crate::foreign::{
    Base, Chain, Element, End, Expr, Family, Hook, Op, Property, Rule, Rules, Set, Value,
};
use crate::netlink::attr::{Attrs, request};
use crate::netlink::error::ExchangeError;
use crate::netlink::message::{Message, flag, nfgenmsg};
use crate::ruleset::TABLE;

/// Sets of more elements than this are not read, if the kernel says how many there are.
const MOST_ELEMENTS: u32 = 20_000;

/// Attributes of expressions (linux/netfilter/nf_tables.h, nf_tables_compat.h), by expression.
mod attribute {
    /// Of nearly all that write a register.
    pub const DREG: u16 = 1;
    pub const PAYLOAD: [u16; 4] = [1, 2, 3, 4];
    /// NFTA_PAYLOAD_SREG: the packet is changed.
    pub const PAYLOAD_SREG: u16 = 5;
    /// NFTA_META_KEY and NFTA_CT_KEY.
    pub const KEY: u16 = 2;
    pub const META_SREG: u16 = 3;
    pub const CT_DIRECTION: u16 = 3;
    pub const CT_SREG: u16 = 4;
    pub const SREG: u16 = 1;
    pub const OP: u16 = 2;
    pub const CMP_DATA: u16 = 3;
    pub const RANGE_FROM: u16 = 3;
    pub const RANGE_TO: u16 = 4;
    pub const BITWISE_DREG: u16 = 2;
    pub const BITWISE_LEN: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;
    pub const BITWISE_OP: u16 = 6;
    pub const BYTEORDER_DREG: u16 = 2;
    pub const BYTEORDER_LEN: u16 = 4;
    pub const LOOKUP: [u16; 3] = [1, 2, 3];
    pub const LOOKUP_FLAGS: u16 = 5;
    pub const IMMEDIATE_DATA: u16 = 2;
    pub const NAT_TYPE: u16 = 1;
    pub const NAT_ADDRESS: u16 = 3;
    pub const NAT_PORT: u16 = 5;
    pub const FIB_RESULT: u16 = 2;
    pub const FIB_FLAGS: u16 = 3;
    pub const XT: [u16; 3] = [1, 2, 3];
    pub const OBJREF_TYPE: u16 = 1;
    pub const DYNSET_EXPR: u16 = 7;
    pub const DYNSET_EXPRESSIONS: u16 = 10;
    /// Registers that `hash` and `socket` write.
    pub const SECOND_DREG: u16 = 2;
}

/// NFTA_TABLE_OWNER: the netlink port of the owner.
pub(super) const TABLE_OWNER: u16 = 7;
/// NFT_META_MARK and NFT_CT_MARK.
const MARK: u32 = 3;
/// NFT_FIB_RESULT_ADDRTYPE.
const FIB_ADDRTYPE: u32 = 3;
/// NF_DROP, NF_ACCEPT, NF_QUEUE (in the low half), NFT_JUMP, NFT_GOTO, NFT_RETURN.
const DROP: i32 = 0;
const ACCEPT: i32 = 1;
const QUEUE: i32 = 3;
const JUMP: i32 = -3;
const GOTO: i32 = -4;
const RETURN: i32 = -5;
/// NFT_SET_ELEM_CATCHALL.
const CATCHALL: u32 = 2;
/// NFTA_RULE_HANDLE.
const RULE_HANDLE: u16 = 3;
/// NFTA_HOOK_DEV, NFTA_HOOK_DEVS.
const HOOK_DEV: u16 = 3;
const HOOK_DEVS: u16 = 4;
/// NFTA_SET_DESC_CONCAT, NFTA_SET_FIELD_LEN.
const DESC_CONCAT: u16 = 2;
const FIELD_LEN: u16 = 1;

impl Nfnetlink {
    /// The tables of other programs that are not switched off. O(rules + elements), of sets up to
    /// 20,000 elements.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn others(&mut self) -> Result<Rules, NetlinkError> {
        let mut rules = Rules::default();
        let request = dump_all(msg::GETTABLE);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            let flags = a.u32(table::FLAGS).unwrap_or_default();
            if let (Some(family), Some(name)) = (family(message), a.string(table::NAME))
                && flags & table::FLAG_DORMANT == 0
                && !is_ours(family, name)
            {
                let key = (family, name.to_owned());
                rules.tables.entry(key).or_default();
            }
            Ok::<(), ExchangeError>(())
        })?;
        let request = dump_all(msg::GETCHAIN);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            if let (Some(table), Some(name)) = (
                table_of(&mut rules, message, a.string(chain::TABLE)),
                a.string(chain::NAME),
            ) {
                let base = family(message).and_then(|family| base(family, a));
                let rules = Vec::new();
                table.chains.insert(name.to_owned(), Chain { base, rules });
            }
            Ok::<(), ExchangeError>(())
        })?;
        let request = dump_all(msg::GETRULE);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            if let (Some(table), Some(name)) = (
                table_of(&mut rules, message, a.string(rule::TABLE)),
                a.string(rule::CHAIN),
            ) && let Some(chain) = table.chains.get_mut(name)
            {
                chain.rules.push(Rule {
                    handle: a.u64(RULE_HANDLE).unwrap_or_default(),
                    expressions: expressions(a.nested(rule::EXPRESSIONS)),
                });
            }
            Ok::<(), ExchangeError>(())
        })?;
        let mut filled = Vec::new();
        let request = dump_all(msg::GETSET);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            if let (Some(table), Some(name), Some(family)) = (
                table_of(&mut rules, message, a.string(set::TABLE)),
                a.string(set::NAME),
                family(message),
            ) {
                table.sets.insert(name.to_owned(), declared(a));
                let table = a.string(set::TABLE).unwrap_or_default().to_owned();
                if a.u32(set::COUNT).is_none_or(|count| count <= MOST_ELEMENTS) {
                    filled.push((family, table, name.to_owned()));
                }
            }
            Ok::<(), ExchangeError>(())
        })?;
        for (family, table, name) in filled {
            let found = self.elements_of(message_family(family), &table, &name);
            // A set that goes while we read is not known, which is no reason to fail.
            let key = (family, table);
            if let (Ok(found), Some(table)) = (found, rules.tables.get_mut(&key))
                && let Some(set) = table.sets.get_mut(&name)
            {
                fill(set, found);
            }
        }
        Ok(rules)
    }

    /// The netlink port of who owns one of our tables; mostly its process id.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn owner(&mut self) -> Result<Option<u32>, NetlinkError> {
        let mut owner = None;
        let request = dump_all(msg::GETTABLE);
        self.exchange.request(&request, |message| {
            if decode::is_of_our_table(message) && decode::ownership(message).0 {
                owner = message.attrs().u32(TABLE_OWNER).or(owner);
            }
            Ok::<(), ExchangeError>(())
        })?;
        Ok(owner)
    }

    fn elements_of(
        &mut self,
        family: u8,
        table: &str,
        name: &str,
    ) -> Result<Vec<Bound>, NetlinkError> {
        let header = nfgenmsg(family, 0, 0);
        let request = request(kind_of(msg::GETSETELEM), flag::DUMP, &header, |w| {
            w.string(elem::LIST_TABLE, table);
            w.string(elem::LIST_SET, name);
        });
        let mut found = Vec::new();
        self.exchange.request(&request, |message| {
            let list = message.attrs().nested(elem::LIST_ELEMENTS);
            found.extend(list.filter_map(|(_, item)| bound(Attrs(item))));
            Ok::<(), ExchangeError>(())
        })?;
        Ok(found)
    }
}

/// An element as the kernel gives it; of a plain interval, either of its ends.
struct Bound {
    key: Vec<u8>,
    last: Option<Vec<u8>>,
    end: bool,
    value: Option<Value>,
    catch_all: bool,
}

fn family(message: &Message<'_>) -> Option<Family> {
    Family::from_number(message.family())
}

const fn message_family(family: Family) -> u8 {
    match family {
        Family::Inet => 1,
        Family::Ip => 2,
        Family::Netdev => 5,
        Family::Bridge => 7,
        Family::Ip6 => 10,
    }
}

fn is_ours(family: Family, table: &str) -> bool {
    matches!(family, Family::Ip | Family::Ip6) && [TABLE, TRACE_TABLE].contains(&table)
}

fn table_of<'r>(
    rules: &'r mut Rules,
    message: &Message<'_>,
    name: Option<&str>,
) -> Option<&'r mut crate::foreign::Table> {
    let key = (family(message)?, name?.to_owned());
    rules.tables.get_mut(&key)
}

fn base(family: Family, a: Attrs<'_>) -> Option<Base> {
    let hook = a.nested(chain::HOOK);
    let listed = hook.nested(HOOK_DEVS).filter_map(|(_, name)| text(name));
    let devices = hook.string(HOOK_DEV).map(str::to_owned).into_iter();
    let mut devices: Vec<String> = devices.chain(listed).collect();
    devices.sort();
    devices.dedup();
    Some(Base {
        hook: Hook::from_number(family, hook.u32(chain::HOOK_NUM)?)?,
        priority: hook.u32(chain::HOOK_PRIORITY).unwrap_or(0).cast_signed(),
        drops: a.u32(chain::POLICY) == Some(0),
        nat: a.string(chain::TYPE) == Some("nat"),
        devices,
    })
}

fn text(bytes: &[u8]) -> Option<String> {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8(bytes[..end].to_vec()).ok()
}

/// A register's first byte: NFT_REG_1 to NFT_REG_4 are of 16 bytes, NFT_REG32_00 on of four.
fn register(number: Option<u32>) -> Option<usize> {
    let number = usize::try_from(number?).ok()?;
    match number {
        1..=4 => Some(number * 16),
        8..=23 => Some((number - 4) * 4),
        _ => None,
    }
}

fn data(a: Attrs<'_>, kind: u16) -> Vec<u8> {
    let value = a.nested(kind).get(common::DATA_VALUE);
    value.map(<[u8]>::to_vec).unwrap_or_default()
}

fn expressions(list: Attrs<'_>) -> Vec<Expr> {
    let items = list.filter(|(kind, _)| *kind == common::LIST_ELEM);
    items
        .map(|(_, item)| {
            let item = Attrs(item);
            let name = item.string(common::EXPR_NAME).unwrap_or_default();
            let data = item.nested(common::EXPR_DATA);
            expression(name, data).unwrap_or_else(|| Expr::Condition(name.to_owned()))
        })
        .collect()
}

/// One expression; `None` if it is not followed and may keep the rule from being for a packet.
fn expression(name: &str, a: Attrs<'_>) -> Option<Expr> {
    let len = |kind| a.u32(kind).and_then(|len| usize::try_from(len).ok());
    let dreg = || register(a.u32(attribute::DREG));
    let other = || Property::Other(name.to_owned());
    Some(match name {
        "payload" => {
            let [to, base, offset, length] = attribute::PAYLOAD;
            if a.u32(attribute::PAYLOAD_SREG).is_some() {
                return Some(Expr::Nothing);
            }
            let property = Property::Payload {
                base: a.u32(base)?,
                offset: a.u32(offset)?,
            };
            Expr::Load(property, register(a.u32(to))?, len(length)?)
        }
        "meta" => match register(a.u32(attribute::META_SREG)) {
            Some(from) if a.u32(attribute::KEY) == Some(MARK) => Expr::SetMark(from),
            Some(_) => Expr::Nothing,
            None => {
                let key = a.u32(attribute::KEY)?;
                Expr::Load(Property::Meta(key), dreg()?, meta_len(key))
            }
        },
        "ct" => match a.u32(attribute::CT_SREG) {
            Some(_) if a.u32(attribute::KEY) == Some(MARK) => Expr::SetCtMark,
            Some(_) => Expr::Nothing,
            None => {
                let key = a.u32(attribute::KEY)?;
                // The tuple of answers has the endpoint and the port that the client is given.
                let property = match a.u8(attribute::CT_DIRECTION) {
                    Some(1) => other(),
                    _ => Property::Ct(key),
                };
                Expr::Load(property, dreg()?, ct_len(key))
            }
        },
        "fib" if a.u32(attribute::FIB_RESULT) == Some(FIB_ADDRTYPE) => {
            Expr::Load(Property::FibType(a.u32(attribute::FIB_FLAGS)?), dreg()?, 4)
        }
        "rt" | "exthdr" | "osf" | "xfrm" | "fib" | "tunnel" => Expr::Load(other(), dreg()?, 16),
        "numgen" => Expr::Load(other(), dreg()?, 4),
        "hash" | "socket" => {
            let to = register(a.u32(attribute::SECOND_DREG)).or_else(dreg)?;
            Expr::Load(other(), to, 4)
        }
        "cmp" => Expr::Cmp(
            register(a.u32(attribute::SREG))?,
            op(a.u32(attribute::OP)?)?,
            data(a, attribute::CMP_DATA),
        ),
        "range" => Expr::Range(
            register(a.u32(attribute::SREG))?,
            a.u32(attribute::OP)? == 1,
            data(a, attribute::RANGE_FROM),
            data(a, attribute::RANGE_TO),
        ),
        "bitwise" => {
            let destination = register(a.u32(attribute::BITWISE_DREG))?;
            let (mask, xor) = (
                data(a, attribute::BITWISE_MASK),
                data(a, attribute::BITWISE_XOR),
            );
            if a.u32(attribute::BITWISE_OP).unwrap_or(0) != 0 || mask.len() != xor.len() {
                return Some(Expr::Lose(destination, len(attribute::BITWISE_LEN)?));
            }
            Expr::Bitwise {
                source: register(a.u32(attribute::SREG))?,
                destination,
                mask,
                xor,
            }
        }
        "byteorder" => Expr::Lose(
            register(a.u32(attribute::BYTEORDER_DREG))?,
            len(attribute::BYTEORDER_LEN)?,
        ),
        "lookup" => {
            let [set, key, to] = attribute::LOOKUP;
            Expr::Lookup {
                set: a.string(set)?.to_owned(),
                key: register(a.u32(key))?,
                inverted: a.u32(attribute::LOOKUP_FLAGS).unwrap_or(0) & 1 != 0,
                to: register(a.u32(to)),
            }
        }
        "immediate" => match end(a.nested(attribute::IMMEDIATE_DATA)) {
            Some(end) => Expr::End(end),
            None => Expr::Constant(dreg()?, data(a, attribute::IMMEDIATE_DATA)),
        },
        "nat" if a.u32(attribute::NAT_TYPE) == Some(1) => Expr::Dnat {
            address: register(a.u32(attribute::NAT_ADDRESS)),
            port: register(a.u32(attribute::NAT_PORT)),
        },
        "nat" | "masq" => Expr::Snat,
        "redir" => Expr::Redirect,
        "reject" => Expr::Reject,
        "queue" | "fwd" | "synproxy" => Expr::End(End::Queue),
        "notrack" => Expr::Notrack,
        "match" | "target" => {
            let [name_of, revision, info] = attribute::XT;
            let xt = a.string(name_of)?.to_owned();
            let info = a.get(info).unwrap_or_default().to_vec();
            match name {
                "match" => Expr::XtMatch(xt, a.u32(revision).unwrap_or(0), info),
                _ => Expr::XtTarget(xt, info),
            }
        }
        "dynset" => {
            let inner = [attribute::DYNSET_EXPR, attribute::DYNSET_EXPRESSIONS];
            // A meter breaks off where its limit is reached; else the set is updated.
            return inner
                .iter()
                .all(|kind| a.get(*kind).is_none())
                .then_some(Expr::Nothing);
        }
        // NFT_OBJECT_QUOTA, NFT_OBJECT_LIMIT and NFT_OBJECT_CONNLIMIT are conditions.
        "objref" => {
            let kind = a.u32(attribute::OBJREF_TYPE)?;
            return (!matches!(kind, 2 | 4 | 5)).then_some(Expr::Nothing);
        }
        "counter" | "log" | "last" | "dup" | "flow_offload" => Expr::Nothing,
        _ => return None,
    })
}

/// NFT_CMP_*.
const fn op(number: u32) -> Option<Op> {
    Some(match number {
        0 => Op::Eq,
        1 => Op::Neq,
        2 => Op::Lt,
        3 => Op::Lte,
        4 => Op::Gt,
        5 => Op::Gte,
        _ => return None,
    })
}

/// Bytes that a property fills in a register.
const fn meta_len(key: u32) -> usize {
    match key {
        // NFT_META_PROTOCOL, _IIFTYPE and _OIFTYPE.
        1 | 8 | 9 => 2,
        // NFT_META_IIFNAME, _OIFNAME, _BRI_IIFNAME, _BRI_OIFNAME, _IIFKIND, _OIFKIND.
        6 | 7 | 17 | 18 | 26 | 27 => 16,
        // NFT_META_NFPROTO, _L4PROTO, _PKTTYPE.
        15 | 16 | 19 => 1,
        _ => 4,
    }
}

const fn ct_len(key: u32) -> usize {
    match key {
        // NFT_CT_DIRECTION, _L3PROTOCOL, _PROTOCOL.
        1 | 7 | 10 => 1,
        // NFT_CT_PROTO_SRC, _PROTO_DST, _ZONE.
        11 | 12 | 17 => 2,
        // NFT_CT_SRC, _DST, _HELPER, _LABELS, _SRC_IP6, _DST_IP6.
        6 | 8 | 9 | 13 | 21 | 22 => 16,
        // NFT_CT_PKTS, _BYTES, _AVGPKT.
        14..=16 => 8,
        _ => 4,
    }
}

fn end(data: Attrs<'_>) -> Option<End> {
    let verdict = Attrs(data.get(common::DATA_VERDICT)?);
    let chain = || verdict.string(common::VERDICT_CHAIN).map(str::to_owned);
    let code = verdict.u32(common::VERDICT_CODE)?.cast_signed();
    Some(match code {
        DROP => End::Drop,
        ACCEPT => End::Accept,
        JUMP => End::Jump(chain()?),
        GOTO => End::Goto(chain()?),
        RETURN => End::Return,
        code if code > 0 && code & 0xff == QUEUE => End::Queue,
        _ => End::Continue,
    })
}

fn declared(a: Attrs<'_>) -> Set {
    let key_len = a
        .u32(set::KEY_LEN)
        .and_then(|len| usize::try_from(len).ok());
    let key_len = key_len.unwrap_or_default();
    let concat = a.nested(set::DESC).nested(DESC_CONCAT);
    let fields: Vec<usize> = concat
        .filter_map(|(_, field)| usize::try_from(Attrs(field).u32(FIELD_LEN)?).ok())
        .map(|len| len.next_multiple_of(4))
        .collect();
    Set {
        fields: if fields.is_empty() {
            vec![key_len]
        } else {
            fields
        },
        key_len,
        elements: None,
        other: None,
    }
}

fn bound(a: Attrs<'_>) -> Option<Bound> {
    let bytes = |kind| a.nested(kind).get(common::DATA_VALUE).map(<[u8]>::to_vec);
    let flags = a.u32(elem::FLAGS).unwrap_or(0);
    let catch_all = flags & CATCHALL != 0;
    let value = a.get(elem::DATA).map(Attrs).map(|data| match end(data) {
        Some(end) => Value::End(end),
        None => Value::Data(data.get(common::DATA_VALUE).unwrap_or_default().to_vec()),
    });
    Some(Bound {
        key: if catch_all {
            Vec::new()
        } else {
            bytes(elem::KEY)?
        },
        last: bytes(elem::KEY_END),
        end: flags & elem::FLAG_INTERVAL_END != 0,
        value,
        catch_all,
    })
}

/// Puts the ends of plain intervals together: each begins at a key and goes up to the one before
/// the next bound.
fn fill(set: &mut Set, mut bounds: Vec<Bound>) {
    if let Some(at) = bounds.iter().position(|bound| bound.catch_all) {
        set.other = bounds.swap_remove(at).value;
    }
    let plain = bounds.iter().any(|bound| bound.end);
    bounds.sort_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)));
    let mut elements: Vec<Element> = Vec::with_capacity(bounds.len());
    let mut open = false;
    for bound in bounds {
        if plain
            && open
            && let Some(before) = elements.last_mut()
        {
            before.last = before_that(&bound.key);
            open = false;
        }
        if !bound.end {
            elements.push(Element {
                key: bound.key,
                last: bound.last,
                value: bound.value,
            });
            open = true;
        }
    }
    if plain
        && open
        && let Some(last) = elements.last_mut()
    {
        last.last = Some(vec![0xff; last.key.len()]);
    }
    set.elements = Some(elements);
}

/// The key before this one, as a number.
fn before_that(key: &[u8]) -> Option<Vec<u8>> {
    let mut key = key.to_vec();
    for byte in key.iter_mut().rev() {
        match byte.checked_sub(1) {
            Some(less) => {
                *byte = less;
                return Some(key);
            }
            None => *byte = 0xff,
        }
    }
    None
}
