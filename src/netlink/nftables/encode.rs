//! A delta as one netlink batch: one buffer, sent by one system call.

use super::batch::Batch;
use super::constants::table as table_attr;
use super::constants::{
    BATCH_BEGIN, BATCH_END, BATCH_GENID, SUBSYS, chain, common, counter, elem, msg, rule, set,
};
use super::error::{NetlinkError, Unfit};
use super::expr;
use super::set_types::{self, length, type_number, userdata};
use crate::netlink::attr::{Open, Writer, request};
use crate::netlink::ffi::{RawExpr, Scratch};
use crate::netlink::message::{flag, nfgenmsg};
use crate::ruleset::{
    Element, ElementData, Family, Set, SetData, SetKind, TABLE, TABLE_COMMENT, Table, Value,
    bytecode::verdict, lower,
};
use crate::transaction::{Count, Operation, TableChange, Transaction};

/// Where a list of elements is cut: an attribute holds at most 65,535 bytes.
const MAX_LIST: usize = 65_000;
/// The most one element takes: two keys and data of 64 bytes, a chain's name of 256, a
/// comment of 256, a counter and their headers. Larger ones are refused.
const MAX_ELEMENT: usize = 800;
/// What one commonly takes (64 to 69 of clusters of 10,000 to 100,000 services).
const ELEMENT: usize = 72;
/// Bytes of an element's comment without its NUL: one byte says its length.
const MAX_COMMENT: usize = 254;

/// How the batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// With BATCH_END: the kernel commits.
    Commit,
    /// Without: the kernel checks everything and throws it away.
    Validate,
}

struct Encoder {
    w: Writer,
    scratch: Scratch,
    seq: u32,
    /// Where the last message began.
    last: usize,
}

impl Encoder {
    fn next(&mut self) -> u32 {
        self.seq = self.seq.wrapping_add(1);
        self.last = self.w.bytes.len();
        self.seq
    }

    /// Appends an attribute to the last message, which libnftnl wrote.
    fn append(&mut self, kind: u16, payload: &[u8]) {
        let open = self.w.reopen(self.last);
        self.w.attr(kind, payload);
        self.w.end_message(open);
    }

    /// Whether all that was written so far has lengths that say what is there.
    fn fits(&self) -> Result<(), Unfit> {
        if self.w.overflowed() {
            Err(Unfit::Long)
        } else {
            Ok(())
        }
    }

    fn open(&mut self, kind: u8, flags: u16, family: Family) -> Open {
        let seq = self.next();
        let header = nfgenmsg(family.number(), 0, 0);
        self.w
            .message(kind_of(kind), flag::REQUEST | flags, seq, &header)
    }
}

/// Encodes `delta`, bound to ruleset generation `generation` (0: whatever it is).
/// Sequence numbers start after `seq`. O(delta).
///
/// # Errors
/// [`NetlinkError::Unfit`] if an operation cannot be written as messages.
pub fn batch(
    delta: &Transaction,
    generation: u32,
    finish: Finish,
    seq: u32,
) -> Result<Batch, NetlinkError> {
    let counts = delta.counts();
    let elements = counts.elements_added + counts.elements_deleted;
    let mut e = Encoder {
        w: Writer::with_capacity(ELEMENT * elements),
        scratch: Scratch::default(),
        seq,
        last: 0,
    };
    let first = e.next();
    let frame = nfgenmsg(0, 0, SUBSYS);
    let open = e.w.message(BATCH_BEGIN, flag::REQUEST, first, &frame);
    if generation != 0 {
        e.w.u32(BATCH_GENID, generation);
    }
    e.w.end_message(open);
    let mut starts = Vec::new();
    for (t, table) in delta.tables.iter().enumerate() {
        for (o, operation) in table.operations.iter().enumerate() {
            starts.push((e.seq.wrapping_add(1).wrapping_sub(first), t, o));
            encode(&mut e, table, operation)
                .and_then(|()| e.fits())
                .map_err(|why| NetlinkError::unfit(table, operation, why))?;
        }
    }
    let last = (!starts.is_empty()).then_some(e.last);
    if finish == Finish::Commit {
        let end = e.next();
        let flags = flag::REQUEST | flag::ACK;
        let open = e.w.message(BATCH_END, flags, end, &frame);
        e.w.end_message(open);
    }
    Ok(Batch {
        finish: (finish == Finish::Commit).then_some(e.last),
        bytes: e.w.bytes,
        first,
        starts,
        messages: e.seq.wrapping_sub(seq),
        last,
    })
}

fn encode(e: &mut Encoder, table: &TableChange, operation: &Operation) -> Result<(), Unfit> {
    let family = table.family;
    match operation {
        Operation::AddTable | Operation::DeleteTable => {
            let seq = e.next();
            let add = *operation == Operation::AddTable;
            e.scratch.table(family, add, seq, &mut e.w.bytes)?;
            if add {
                e.append(table_attr::USERDATA, &set_types::comment(TABLE_COMMENT));
            }
        }
        Operation::OwnTable => {
            let open = e.open(msg::NEWTABLE, flag::CREATE, family);
            e.w.string(table_attr::NAME, TABLE);
            e.w.u32(
                table_attr::FLAGS,
                table_attr::FLAG_OWNER | table_attr::FLAG_PERSIST,
            );
            e.w.attr(table_attr::USERDATA, &set_types::comment(TABLE_COMMENT));
            e.w.end_message(open);
        }
        Operation::DeleteOtherTable(name) => {
            let open = e.open(msg::DELTABLE, 0, family);
            e.w.string(table_attr::NAME, name);
            e.w.end_message(open);
        }
        Operation::AddChain(added) => {
            let seq = e.next();
            e.scratch
                .chain(family, &added.name, added.base, true, seq, &mut e.w.bytes)?;
            if !added.comment.is_empty() {
                e.append(chain::USERDATA, &set_types::comment(added.comment));
            }
        }
        Operation::DeleteChain(name) => {
            let seq = e.next();
            e.scratch
                .chain(family, name, None, false, seq, &mut e.w.bytes)?;
        }
        Operation::FlushChain(name) => {
            let open = e.open(msg::DELRULE, 0, family);
            e.w.string(rule::TABLE, TABLE);
            e.w.string(rule::CHAIN, name);
            e.w.end_message(open);
        }
        Operation::AddRules(name, rules) => {
            let empty = Table::new(family);
            let skeleton = table.skeleton.as_ref().unwrap_or(&empty);
            for rule in rules {
                let code = lower(rule, skeleton);
                let code: Result<Vec<RawExpr<'_>>, Unfit> = code.iter().map(expr::encode).collect();
                let seq = e.next();
                e.scratch.rule(family, name, &code?, seq, &mut e.w.bytes)?;
            }
        }
        Operation::RestoreRules(name, rules) => {
            for code in rules {
                let code: Result<Vec<RawExpr<'_>>, Unfit> = code.iter().map(expr::encode).collect();
                let seq = e.next();
                e.scratch.rule(family, name, &code?, seq, &mut e.w.bytes)?;
            }
        }
        Operation::AddSet(set) => return add_set(e, family, set),
        Operation::DeleteSet(name) => {
            let open = e.open(msg::DELSET, 0, family);
            e.w.string(set::TABLE, TABLE);
            e.w.string(set::NAME, name);
            e.w.end_message(open);
        }
        Operation::AddElements(name, elements) => {
            return list(e, table, msg::NEWSETELEM, name, elements);
        }
        Operation::DeleteElements(name, elements) => {
            return list(e, table, msg::DELSETELEM, name, elements);
        }
    }
    Ok(())
}

fn add_set(e: &mut Encoder, family: Family, set: &Set) -> Result<(), Unfit> {
    let bytes = |n: usize| u32::try_from(n).map_err(|_| Unfit::Long);
    let open = e.open(msg::NEWSET, flag::CREATE, family);
    let w = &mut e.w;
    w.string(set::TABLE, TABLE);
    w.string(set::NAME, &set.name);
    let concatenated = set.key.len() > 1;
    let mut flags = match set.kind {
        SetKind::Exact => 0,
        SetKind::Interval if concatenated => set::FLAG_INTERVAL | set::FLAG_CONCAT,
        SetKind::Interval => set::FLAG_INTERVAL,
        SetKind::Dynamic { .. } => set::FLAG_TIMEOUT | set::FLAG_EVAL,
    };
    if set.data != SetData::None {
        flags |= set::FLAG_MAP;
    }
    w.u32(set::FLAGS, flags);
    w.u32(set::KEY_TYPE, type_number(&set.key));
    w.u32(set::KEY_LEN, bytes(length(&set.key))?);
    match &set.data {
        SetData::None => {}
        SetData::Verdict => {
            w.u32(set::DATA_TYPE, set::TYPE_VERDICT);
            w.u32(set::DATA_LEN, 0);
        }
        SetData::Fields(fields) => {
            w.u32(set::DATA_TYPE, type_number(fields));
            w.u32(set::DATA_LEN, bytes(length(fields))?);
        }
    }
    // Rules name sets by name; the kernel wants a number for the time of the transaction.
    w.u32(set::ID, e.seq);
    if let SetKind::Dynamic { size, timeout } = set.kind {
        let desc = w.nest(set::DESC);
        w.u32(set::DESC_SIZE, size);
        w.end_nest(desc);
        w.attr(set::TIMEOUT, &(u64::from(timeout) * 1000).to_be_bytes());
    }
    if set.kind == SetKind::Interval && concatenated {
        let desc = w.nest(set::DESC);
        let concat = w.nest(set::DESC_CONCAT);
        for field in &set.key {
            let item = w.nest(common::LIST_ELEM);
            w.u32(set::FIELD_LEN, bytes(field.byte_len())?);
            w.end_nest(item);
        }
        w.end_nest(concat);
        w.end_nest(desc);
    }
    w.attr(set::USERDATA, &userdata(set, family));
    if set.counted {
        // Elements are given a copy of it.
        counter(w, set::EXPR, Count::default());
    }
    w.end_message(open);
    Ok(())
}

fn counter(w: &mut Writer, kind: u16, count: Count) {
    let expression = w.nest(kind);
    w.string(common::EXPR_NAME, counter::NAME);
    let data = w.nest(common::EXPR_DATA);
    w.attr(counter::BYTES, &count.bytes.to_be_bytes());
    w.attr(counter::PACKETS, &count.packets.to_be_bytes());
    w.end_nest(data);
    w.end_nest(expression);
}

/// Element messages: as many as it takes, each with a list below [`MAX_LIST`].
fn list(
    e: &mut Encoder,
    table: &TableChange,
    kind: u8,
    name: &str,
    elements: &[(Value, Element)],
) -> Result<(), Unfit> {
    let schema = table.sets.get(name);
    let carried = table.carried.get(name);
    let interval = schema.is_some_and(|s| s.kind == SetKind::Interval);
    let plain_interval = interval && schema.is_some_and(|s| s.key.len() == 1);
    let flags = if kind == msg::NEWSETELEM {
        flag::CREATE
    } else {
        0
    };
    let mut rest = elements.iter().peekable();
    while rest.peek().is_some() {
        let open = e.open(kind, flags, table.family);
        let w = &mut e.w;
        w.string(elem::LIST_TABLE, TABLE);
        w.string(elem::LIST_SET, name);
        let list = w.nest(elem::LIST_ELEMENTS);
        let start = w.bytes.len();
        for (key, element) in rest.by_ref() {
            let before = w.bytes.len();
            if plain_interval {
                range(w, key, element)?;
            } else {
                let count = carried.and_then(|counts| counts.get(key));
                self::element(w, key, element, interval, count)?;
            }
            if w.bytes.len() - before > MAX_ELEMENT {
                return Err(Unfit::Long);
            }
            if w.bytes.len() - start > MAX_LIST - MAX_ELEMENT {
                break;
            }
        }
        w.end_nest(list);
        w.end_message(open);
    }
    Ok(())
}

fn value<const N: usize>(w: &mut Writer, kind: u16, value: &Value<N>) -> Result<(), Unfit> {
    if value.as_bytes().is_empty() {
        return Err(Unfit::Value(N));
    }
    let nest = w.nest(kind);
    w.attr(common::DATA_VALUE, value.as_bytes());
    w.end_nest(nest);
    Ok(())
}

fn element(
    w: &mut Writer,
    key: &Value,
    element: &Element,
    interval: bool,
    count: Option<&Count>,
) -> Result<(), Unfit> {
    let item = w.nest(common::LIST_ELEM);
    value(w, elem::KEY, key)?;
    if interval {
        value(w, elem::KEY_END, element.end.as_deref().unwrap_or(key))?;
    }
    match &element.data {
        ElementData::None => {}
        ElementData::Value(data) => value(w, elem::DATA, data)?,
        ElementData::Goto(chain) => {
            let data = w.nest(elem::DATA);
            let nest = w.nest(common::DATA_VERDICT);
            w.u32(common::VERDICT_CODE, verdict::GOTO.cast_unsigned());
            w.string(common::VERDICT_CHAIN, chain);
            w.end_nest(nest);
            w.end_nest(data);
        }
    }
    comment(w, element)?;
    if let Some(count) = count {
        counter(w, elem::EXPR, *count);
    }
    w.end_nest(item);
    Ok(())
}

fn comment(w: &mut Writer, element: &Element) -> Result<(), Unfit> {
    let Some(text) = &element.comment else {
        return Ok(());
    };
    let len = u8::try_from(text.len() + 1);
    let len = len.map_err(|_| Unfit::Comment(text.len(), MAX_COMMENT))?;
    let user = w.nest_plain(elem::USERDATA);
    w.bytes.extend_from_slice(&[elem::UDATA_COMMENT, len]);
    w.bytes.extend_from_slice(text.as_bytes());
    w.bytes.push(0);
    w.end_plain(user);
    Ok(())
}

/// A range of a one-field interval set: its start, and a marker one past its end. The
/// last address of all needs no marker.
fn range(w: &mut Writer, key: &Value, element: &Element) -> Result<(), Unfit> {
    self::element(w, key, element, false, None)?;
    let end = element.end.as_deref().unwrap_or(key);
    if let Some(past) = successor(end) {
        let item = w.nest(common::LIST_ELEM);
        value(w, elem::KEY, &past)?;
        w.u32(elem::FLAGS, elem::FLAG_INTERVAL_END);
        w.end_nest(item);
    }
    Ok(())
}

/// The next value in byte order, `None` after the last.
#[must_use]
pub fn successor(value: &Value) -> Option<Value> {
    step(value, |byte| byte.overflowing_add(1))
}

/// The value before in byte order, `None` before the first.
#[must_use]
pub fn predecessor(value: &Value) -> Option<Value> {
    step(value, |byte| byte.overflowing_sub(1))
}

fn step(value: &Value, by: impl Fn(u8) -> (u8, bool)) -> Option<Value> {
    let mut bytes = value.as_bytes().to_vec();
    for byte in bytes.iter_mut().rev() {
        let (next, overflow) = by(*byte);
        *byte = next;
        if !overflow {
            return Value::from_bytes(&bytes);
        }
    }
    None
}

/// The type of a message of nf_tables.
pub(super) const fn kind_of(kind: u8) -> u16 {
    SUBSYS << 8 | kind as u16
}

/// A request for all objects of one kind, whatever the family and table.
#[must_use]
pub fn dump_all(kind: u8) -> Vec<u8> {
    request(kind_of(kind), flag::DUMP, &nfgenmsg(0, 0, 0), |_| {})
}

/// A request for objects of one kind in our table of `family`; element requests name a set.
#[must_use]
pub fn dump(kind: u8, family: Family, set: Option<&str>) -> Vec<u8> {
    let header = nfgenmsg(family.number(), 0, 0);
    request(kind_of(kind), flag::DUMP, &header, |w| {
        if kind != msg::GETTABLE {
            // NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and the list's are all 1.
            w.string(chain::TABLE, TABLE);
        }
        if let Some(set) = set {
            w.string(elem::LIST_SET, set);
        }
    })
}

/// A request for these elements of a set, each answered by itself before an acknowledgement.
/// O(keys).
///
/// # Errors
/// If there are more keys than a request can hold, or one has no bytes.
pub fn get_elements(family: Family, set: &str, keys: &[&Value]) -> Result<Vec<u8>, Unfit> {
    let header = nfgenmsg(family.number(), 0, 0);
    let mut written = Ok(());
    let bytes = request(kind_of(msg::GETSETELEM), 0, &header, |w| {
        w.string(elem::LIST_TABLE, TABLE);
        w.string(elem::LIST_SET, set);
        let list = w.nest(elem::LIST_ELEMENTS);
        written = keys.iter().try_for_each(|key| {
            let item = w.nest(common::LIST_ELEM);
            value(w, elem::KEY, *key)?;
            w.end_nest(item);
            Ok(())
        });
        w.end_nest(list);
        if w.overflowed() {
            written = Err(Unfit::Long);
        }
    });
    written.map(|()| bytes)
}

/// A request for the generation.
#[must_use]
pub fn get_generation() -> Vec<u8> {
    request(kind_of(msg::GETGEN), 0, &nfgenmsg(0, 0, 0), |_| {})
}

#[cfg(test)]
mod tests;
