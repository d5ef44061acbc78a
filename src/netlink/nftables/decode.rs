//! What the kernel says of our tables, read into the ruleset's own types.

use super::constants::{chain, common, counter, elem, rule, set, table};
use super::encode::predecessor;
use super::expr;
use super::set_types;
use crate::netlink::attr::Attrs;
use crate::netlink::message::Message;
use crate::ruleset::bytecode::{Instr, verdict};
use crate::ruleset::{
    BaseChain, ChainType, Datum, Element, ElementData, Hook, Set, SetData, SetKind, TABLE, Value,
};
use crate::transaction::Count;

/// True if a message is about our table: its name is the first attribute of all kinds.
#[must_use]
pub fn is_of_our_table(message: &Message<'_>) -> bool {
    message.attrs().string(table::NAME) == Some(TABLE)
}

/// Name of the table in a table message.
#[must_use]
pub fn table_name(message: &Message<'_>) -> Option<String> {
    message.attrs().string(table::NAME).map(str::to_owned)
}

/// Whether a table has an owner, and whether it had one that is gone.
#[must_use]
pub fn ownership(message: &Message<'_>) -> (bool, bool) {
    let flags = message.attrs().u32(table::FLAGS).unwrap_or(0);
    let owned = flags & table::FLAG_OWNER != 0;
    (owned, !owned && flags & table::FLAG_PERSIST != 0)
}

/// A set without its elements, and its name if it is none of ours.
///
/// # Errors
/// The set's name, if it is of a kind that we never make.
pub fn set(message: &Message<'_>) -> Result<Set, String> {
    let a = message.attrs();
    let name = a.string(set::NAME).unwrap_or("?").to_owned();
    declaration(&name, a).ok_or(name)
}

/// How many elements a set message says its set has, if the kernel tells.
#[must_use]
pub fn element_count(message: &Message<'_>) -> Option<u32> {
    message.attrs().u32(set::COUNT)
}

fn declaration(name: &str, a: Attrs<'_>) -> Option<Set> {
    let flags = a.u32(set::FLAGS).unwrap_or(0);
    let key = set_types::fields(a.u32(set::KEY_TYPE)?)?;
    let data = match a.u32(set::DATA_TYPE) {
        _ if flags & set::FLAG_MAP == 0 => SetData::None,
        Some(set::TYPE_VERDICT) => SetData::Verdict,
        Some(number) => SetData::Fields(set_types::fields(number)?),
        None => return None,
    };
    let concat = if key.len() > 1 { set::FLAG_CONCAT } else { 0 };
    let kind = match flags & !set::FLAG_MAP {
        0 => SetKind::Exact,
        f if f == set::FLAG_INTERVAL | concat => SetKind::Interval,
        f if f == set::FLAG_TIMEOUT | set::FLAG_EVAL => SetKind::Dynamic {
            size: a.nested(set::DESC).u32(set::DESC_SIZE)?,
            timeout: u32::try_from(a.u64(set::TIMEOUT)? / 1000).ok()?,
        },
        _ => return None,
    };
    let counted = match a.get(set::EXPR).map(Attrs) {
        None => false,
        Some(expression) if expression.string(common::EXPR_NAME) == Some(counter::NAME) => true,
        Some(_) => return None,
    };
    let mut found = Set::exact(name, &key);
    found.counted = counted;
    found.data = data;
    found.kind = kind;
    Some(found)
}

/// A chain's name and hook. The hook is `None` for a regular chain; `Err` with the name if
/// it is a base chain that we would never make.
///
/// # Errors
/// The chain's name, as said.
pub fn chain(message: &Message<'_>) -> Result<(String, Option<BaseChain>), String> {
    let a = message.attrs();
    let name = a.string(chain::NAME).unwrap_or("?").to_owned();
    if a.get(chain::HOOK).is_none() {
        return Ok((name, None));
    }
    match base(a) {
        Some(base) => Ok((name, Some(base))),
        None => Err(name),
    }
}

fn base(a: Attrs<'_>) -> Option<BaseChain> {
    const ACCEPT: u32 = 1;
    let hook = a.nested(chain::HOOK);
    let chain_type = match a.string(chain::TYPE)? {
        "filter" => ChainType::Filter,
        "nat" => ChainType::Nat,
        _ => return None,
    };
    (a.u32(chain::POLICY)? == ACCEPT).then_some(BaseChain {
        chain_type,
        hook: Hook::from_number(hook.u32(chain::HOOK_NUM)?)?,
        priority: hook.u32(chain::HOOK_PRIORITY)?.cast_signed(),
    })
}

/// A rule's chain and instructions.
#[must_use]
pub fn rule(message: &Message<'_>) -> Option<(String, Vec<Instr>)> {
    let a = message.attrs();
    let code = a
        .nested(rule::EXPRESSIONS)
        .filter(|(kind, _)| *kind == common::LIST_ELEM)
        .filter(|(_, item)| !expr::is_idle(Attrs(item)))
        .map(|(_, item)| expr::decode(Attrs(item)))
        .collect();
    Some((a.string(rule::CHAIN)?.to_owned(), code))
}

/// Adds the elements of one message to `set`. One-field interval sets come as bounds, and
/// are collected in `bounds` until [`ranges`] pairs them.
///
/// # Errors
/// What is wrong with an element that we could not have made.
pub fn elements(
    message: &Message<'_>,
    set: &mut Set,
    bounds: &mut Vec<Bound>,
) -> Result<(), String> {
    let plain_interval = set.kind == SetKind::Interval && set.key.len() == 1;
    for (_, item) in message.attrs().nested(elem::LIST_ELEMENTS) {
        let a = Attrs(item);
        let (key, element) =
            element(a).ok_or_else(|| format!("set {}: an element of another make", set.name))?;
        if plain_interval {
            let end = a.u32(elem::FLAGS).unwrap_or(0) & elem::FLAG_INTERVAL_END != 0;
            bounds.push(Bound { key, end, element });
        } else {
            set.elements.insert(key, element);
        }
    }
    Ok(())
}

/// Hands the elements of one message to `each`, as they are without a schema.
pub fn each_element(message: &Message<'_>, mut each: impl FnMut(&Value, &Element)) {
    for (_, item) in message.attrs().nested(elem::LIST_ELEMENTS) {
        if let Some((key, element)) = element(Attrs(item)) {
            each(&key, &element);
        }
    }
}

/// Hands the elements of one message to `each`, with what they have counted.
pub fn counters(message: &Message<'_>, mut each: impl FnMut(&Value, &Element, Count)) {
    for (_, item) in message.attrs().nested(elem::LIST_ELEMENTS) {
        let a = Attrs(item);
        let expression = a.nested(elem::EXPR);
        if expression.string(common::EXPR_NAME) != Some(counter::NAME) {
            continue;
        }
        let data = expression.nested(common::EXPR_DATA);
        if let (Some(packets), Some(bytes)) = (data.u64(counter::PACKETS), data.u64(counter::BYTES))
            && let Some((key, element)) = element(a)
        {
            each(&key, &element, Count { packets, bytes });
        }
    }
}

/// One element, without a schema; `None` if we could not have made it.
pub(super) fn element(a: Attrs<'_>) -> Option<(Value, Element)> {
    let bytes = |kind| a.nested(kind).get(common::DATA_VALUE);
    let key = Value::from_bytes(bytes(elem::KEY)?)?;
    let data = match a.get(elem::DATA).map(Attrs) {
        None => ElementData::None,
        Some(data) => match data.get(common::DATA_VERDICT).map(Attrs) {
            None => ElementData::Value(Datum::from_bytes(bytes(elem::DATA)?)?),
            Some(v) if v.u32(common::VERDICT_CODE)?.cast_signed() == verdict::GOTO => {
                ElementData::Goto(v.string(common::VERDICT_CHAIN)?.into())
            }
            Some(_) => return None,
        },
    };
    let mut element = Element::new(data);
    let end = bytes(elem::KEY_END).and_then(Value::from_bytes);
    element.end = end.filter(|end| *end != key).map(Box::new);
    element.comment = a.get(elem::USERDATA).and_then(comment);
    Some((key, element))
}

/// The comment in an element's userdata: type, length, text with NUL, repeated.
fn comment(mut userdata: &[u8]) -> Option<std::sync::Arc<str>> {
    while let [kind, len, rest @ ..] = userdata {
        let (value, tail) = rest.split_at_checked(usize::from(*len))?;
        if *kind == elem::UDATA_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return std::str::from_utf8(text).ok().map(Into::into);
        }
        userdata = tail;
    }
    None
}

/// One bound of a range, as the kernel keeps it.
#[derive(Clone, Debug)]
pub struct Bound {
    key: Value,
    /// True: the first value no longer in the range.
    end: bool,
    element: Element,
}

/// Pairs the bounds of a one-field interval set into ranges. O(n log n).
pub fn ranges(set: &mut Set, mut bounds: Vec<Bound>) {
    bounds.sort_by(|a, b| a.key.cmp(&b.key).then(b.end.cmp(&a.end)));
    let last = Value::from_bytes(&vec![0xff; set_types::length(&set.key)]);
    let mut open: Option<(Value, Element)> = None;
    let close = |set: &mut Set, open: Option<(Value, Element)>, end: Option<Value>| {
        if let (Some((key, mut element)), Some(end)) = (open, end) {
            element.end = (end != key).then(|| Box::new(end));
            set.elements.insert(key, element);
        }
    };
    for bound in bounds {
        let before = predecessor(&bound.key);
        close(set, open.take(), before);
        if !bound.end {
            open = Some((bound.key, bound.element));
        }
    }
    close(set, open, last);
}
