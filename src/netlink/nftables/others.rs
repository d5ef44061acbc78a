//! Reads other programs' tables of nf_tables, of every family that IP packets come by, for
//! [`crate::foreign`] to walk; and who owns ours.

mod expressions;

use nix::errno::Errno;

use super::NetlinkError;
use super::constants::{chain, common, elem, msg, rule, set, table};
use super::decode;
use super::encode::{dump_all, kind_of};
use super::kernel::Nfnetlink;
use super::trace::TRACE_TABLE;
use crate::foreign::{Base, Chain, Element, Family, Found, Hook, Rule, Rules, Set, Value};
use crate::netlink::attr::{Attrs, request};
use crate::netlink::error::ExchangeError;
use crate::netlink::message::{Message, flag, nfgenmsg};
use crate::ruleset::TABLE;
use expressions::{end, expressions};

/// Sets of more elements than this are not kept but asked for keys, and not even read if the
/// kernel says how many there are.
const MOST_ELEMENTS: u32 = 20_000;

/// NFTA_TABLE_OWNER: the netlink port of the owner.
pub(super) const TABLE_OWNER: u16 = 7;
/// NFT_SET_ELEM_CATCHALL.
const CATCHALL: u32 = 2;
/// NFTA_TABLE_HANDLE, NFTA_CHAIN_HANDLE and NFTA_RULE_HANDLE.
const TABLE_HANDLE: u16 = 4;
const CHAIN_HANDLE: u16 = 2;
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
    pub(in crate::netlink) fn others(&mut self) -> Result<Rules, NetlinkError> {
        let mut rules = Rules::default();
        let request = dump_all(msg::GETTABLE);
        self.exchange.request(&request, |message| {
            let a = message.attrs();
            let flags = a.u32(table::FLAGS).unwrap_or_default();
            if let (Some(family), Some(name)) = (family(message), a.string(table::NAME))
                && flags & table::FLAG_DORMANT == 0
            {
                let handle = a.u64(TABLE_HANDLE);
                if !is_ours(family, name) {
                    let key = (family, name.to_owned());
                    rules.tables.entry(key).or_default().handle = handle;
                } else if name == TABLE {
                    rules.ours.extend(handle.map(|handle| (family, handle)));
                }
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
                let chain = Chain {
                    handle: a.u64(CHAIN_HANDLE).unwrap_or_default(),
                    base,
                    rules: Vec::new(),
                };
                table.chains.insert(name.to_owned(), chain);
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
            if let (Ok(Some(found)), Some(table)) = (found, rules.tables.get_mut(&key))
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

    /// Whether a set of another program's table holds a key, or a range that the key is in; the
    /// value of a map. O(1) in the elements of a hash, O(log n) in those of ranges.
    pub fn holds_key(&mut self, of: (Family, &str), set: &str, key: &[u8]) -> Found {
        match self.get_key(of, set, Some(key)) {
            Ok(Found::No) => self.get_key(of, set, None).unwrap_or(Found::Unknown),
            found => found.unwrap_or(Found::Unknown),
        }
    }

    /// One element; what all other keys lead to (`*`), if there is no key.
    fn get_key(
        &mut self,
        (family, table): (Family, &str),
        set: &str,
        key: Option<&[u8]>,
    ) -> Result<Found, NetlinkError> {
        let header = nfgenmsg(message_family(family), 0, 0);
        let request = request(kind_of(msg::GETSETELEM), 0, &header, |w| {
            w.string(elem::LIST_TABLE, table);
            w.string(elem::LIST_SET, set);
            let list = w.nest(elem::LIST_ELEMENTS);
            let item = w.nest(common::LIST_ELEM);
            if let Some(key) = key {
                let data = w.nest(elem::KEY);
                w.attr(common::DATA_VALUE, key);
                w.end_nest(data);
            } else {
                w.u32(elem::FLAGS, CATCHALL);
            }
            w.end_nest(item);
            w.end_nest(list);
        });
        let mut found = None;
        let asked = self.exchange.request(&request, |message| {
            let mut list = message.attrs().nested(elem::LIST_ELEMENTS);
            found = list.find_map(|(_, item)| bound(Attrs(item)));
            Ok::<(), ExchangeError>(())
        });
        match asked {
            Ok(_) => Ok(found.map_or(Found::No, |bound| Found::Yes(bound.value))),
            Err(error) if error.refused() == Some(Errno::ENOENT) => Ok(Found::No),
            Err(error) => Err(error.into()),
        }
    }

    /// `None` if there are more than [`MOST_ELEMENTS`].
    fn elements_of(
        &mut self,
        family: u8,
        table: &str,
        name: &str,
    ) -> Result<Option<Vec<Bound>>, NetlinkError> {
        let header = nfgenmsg(family, 0, 0);
        let request = request(kind_of(msg::GETSETELEM), flag::DUMP, &header, |w| {
            w.string(elem::LIST_TABLE, table);
            w.string(elem::LIST_SET, name);
        });
        let mut found = Some(Vec::new());
        self.exchange.request(&request, |message| {
            let list = message.attrs().nested(elem::LIST_ELEMENTS);
            if let Some(all) = &mut found {
                all.extend(list.filter_map(|(_, item)| bound(Attrs(item))));
            }
            found = found
                .take()
                .filter(|all| all.len() <= MOST_ELEMENTS as usize);
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
