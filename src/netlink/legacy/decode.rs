//! Entries of a legacy table as rules of [`crate::foreign`], in the expressions that iptables-nft
//! would have written. An entry is a header (struct ipt_entry or ip6t_entry), matches (struct
//! xt_entry_match) and a target (struct xt_entry_target); chains are where entries begin.

use std::collections::BTreeMap;

use crate::foreign::{Base, Chain, End, Expr, Family, Hook, Op, Property, Rule, Table};
use crate::netlink::attr::{u16_at, u32_at};

/// Bytes of struct ipt_getinfo.
pub(super) const INFO: usize = 84;
/// Of struct xt_entry_match and xt_entry_target before their data, and where their name and
/// revision are.
const EXTENSION: usize = 32;
const EXTENSION_NAME: std::ops::Range<usize> = 2..31;
const EXTENSION_REVISION: usize = 31;
/// The target that jumps and decides has no name (XT_STANDARD_TARGET); that of a chain's head is
/// called so (XT_ERROR_TARGET).
const STANDARD: &str = "";
const HEAD: &str = "ERROR";
/// Verdicts are -NF_DROP - 1 and so on; XT_RETURN is -NF_REPEAT - 1.
const DROP: i32 = -1;
const ACCEPT: i32 = -2;
const QUEUE: i32 = -4;
const RETURN: i32 = -5;
/// IPT_INV_* and IP6T_INV_*, which are the same.
const NOT_IIF: u8 = 0x01;
const NOT_OIF: u8 = 0x02;
const NOT_SOURCE: u8 = 0x08;
const NOT_DESTINATION: u8 = 0x10;
const NOT_FRAGMENT: u8 = 0x20;
const NOT_PROTOCOL: u8 = 0x40;
/// IPT_F_FRAG.
const FRAGMENT: u8 = 0x01;
/// NFT_META_IIFNAME, NFT_META_OIFNAME and NFT_META_L4PROTO.
const IIFNAME: u32 = 6;
const OIFNAME: u32 = 7;
const L4PROTO: u32 = 16;
/// NFT_REG_1.
const REGISTER: usize = 16;
/// Names of the chains of hooks.
const HOOKS: [(Hook, &str); 5] = [
    (Hook::Prerouting, "PREROUTING"),
    (Hook::Input, "INPUT"),
    (Hook::Forward, "FORWARD"),
    (Hook::Output, "OUTPUT"),
    (Hook::Postrouting, "POSTROUTING"),
];

/// What the kernel says of a table (struct ipt_getinfo).
pub(super) struct Info {
    valid: u32,
    entry: [u32; 5],
    underflow: [u32; 5],
    /// Bytes of its entries.
    pub(super) size: usize,
}

impl Info {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |i: usize| u32_at(bytes, 32 + 4 * i);
        let mut found = Self {
            valid: number(0)?,
            entry: [0; 5],
            underflow: [0; 5],
            size: usize::try_from(number(12)?).ok()?,
        };
        for i in 0..5 {
            found.entry[i] = number(1 + i)?;
            found.underflow[i] = number(6 + i)?;
        }
        Some(found)
    }

    /// The base chain that begins at an offset.
    fn base(&self, at: usize) -> Option<usize> {
        let begins = |i: &usize| self.valid & (1 << i) != 0 && self.entry[*i] as usize == at;
        (0..5).find(begins)
    }
}

/// Where things are in an entry of a family. Counters are aligned as 64-bit numbers are.
struct Layout {
    /// Bytes of an address.
    address: usize,
    /// Of the two names and two masks of devices.
    devices: usize,
    protocol: usize,
    flags: usize,
    inverted: usize,
    goto: u8,
    /// target_offset, and next_offset behind it.
    offsets: usize,
    /// Bytes of the header.
    header: usize,
}

impl Layout {
    const fn of(family: Family) -> Self {
        const COUNTERS: usize = align_of::<u64>();
        match family {
            Family::Ip6 => Self {
                address: 16,
                devices: 64,
                protocol: 128,
                flags: 131,
                inverted: 132,
                goto: 0x04,
                offsets: 140,
                header: 148_usize.next_multiple_of(COUNTERS) + 16,
            },
            _ => Self {
                address: 4,
                devices: 16,
                protocol: 80,
                flags: 82,
                inverted: 83,
                goto: 0x02,
                offsets: 88,
                header: 96_usize.next_multiple_of(COUNTERS) + 16,
            },
        }
    }
}

/// An entry and where it is.
struct Entry<'a> {
    at: usize,
    bytes: &'a [u8],
    target: Extension<'a>,
}

/// A match or target.
#[derive(Clone, Copy)]
struct Extension<'a> {
    name: &'a str,
    revision: u32,
    info: &'a [u8],
}

impl<'a> Extension<'a> {
    /// The first of `bytes`, and what comes after it.
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let size = usize::from(u16_at(bytes, 0)?);
        let (own, rest) = bytes.split_at_checked(size)?;
        let info = own.get(EXTENSION..)?;
        let extension = Self {
            name: text(&own[EXTENSION_NAME])?,
            revision: u32::from(own[EXTENSION_REVISION]),
            info,
        };
        Some((extension, rest))
    }

    fn verdict(&self) -> Option<i32> {
        u32_at(self.info, 0).map(u32::cast_signed)
    }
}

fn text(bytes: &[u8]) -> Option<&str> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(&bytes[..end]).ok()
}

/// A table from its entries; `None` if they are not as they should be.
pub(super) fn table(family: Family, name: &str, info: &Info, bytes: &[u8]) -> Option<Table> {
    let layout = Layout::of(family);
    let mut entries = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let offsets = at + layout.offsets;
        let target = usize::from(u16_at(bytes, offsets)?);
        let next = usize::from(u16_at(bytes, offsets + 2)?);
        let entry = bytes.get(at..at + next)?;
        if target < layout.header || next <= target {
            return None;
        }
        let (target, _) = Extension::split(entry.get(target..)?)?;
        entries.push(Entry {
            at,
            bytes: entry,
            target,
        });
        at += next;
    }
    // Jumps are to offsets: the entry after a chain's head.
    let mut names: BTreeMap<usize, &str> = BTreeMap::new();
    for pair in entries.windows(2) {
        if pair[0].target.name == HEAD {
            names.insert(pair[1].at, text(pair[0].target.info)?);
        }
    }
    let mut table = Table::default();
    let mut current: Option<(String, Option<usize>)> = None;
    for entry in &entries {
        if let Some(i) = info.base(entry.at) {
            let chain = Chain {
                base: Some(base(name, i)),
                ..Chain::default()
            };
            table.chains.insert(HOOKS[i].1.to_owned(), chain);
            current = Some((HOOKS[i].1.to_owned(), Some(i)));
        } else if let Some(name) = names.get(&entry.at) {
            table.chains.insert((*name).to_owned(), Chain::default());
            current = Some(((*name).to_owned(), None));
        }
        let Some((chain, hook)) = &current else {
            continue;
        };
        let chain = table.chains.get_mut(chain)?;
        if hook.is_some_and(|i| info.underflow[i] as usize == entry.at) {
            // What is left of a base chain's packets.
            if let Some(base) = &mut chain.base {
                base.drops = entry.target.verdict()? == DROP;
            }
            current = None;
        } else if entry.target.name == HEAD {
            current = None;
        } else {
            chain.rules.push(Rule {
                handle: chain.rules.len() as u64 + 1,
                expressions: expressions(&layout, entry, &names)?,
            });
        }
    }
    Some(table)
}

/// Where a table's chain of a hook stands (enum nf_ip_hook_priorities).
fn base(table: &str, hook: usize) -> Base {
    let hook = HOOKS[hook].0;
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    };
    Base {
        hook,
        priority,
        drops: false,
        nat: table == "nat",
        devices: Vec::new(),
    }
}

fn expressions(
    layout: &Layout,
    entry: &Entry<'_>,
    names: &BTreeMap<usize, &str>,
) -> Option<Vec<Expr>> {
    let mut found = header(layout, entry.bytes)?;
    let end = usize::from(u16_at(entry.bytes, layout.offsets)?);
    let mut matches = entry.bytes.get(layout.header..end)?;
    while !matches.is_empty() {
        let (one, rest) = Extension::split(matches)?;
        found.push(Expr::XtMatch(
            one.name.to_owned(),
            one.revision,
            one.info.to_vec(),
        ));
        matches = rest;
    }
    let target = entry.target;
    if target.name != STANDARD {
        found.push(Expr::XtTarget(
            target.name.to_owned(),
            target.revision,
            target.info.to_vec(),
        ));
        return Some(found);
    }
    let end = match target.verdict()? {
        DROP => End::Drop,
        ACCEPT => End::Accept,
        RETURN => End::Return,
        verdict if verdict < 0 && -(verdict + 1) & 0xff == -(QUEUE + 1) => End::Queue,
        verdict => {
            let to = usize::try_from(verdict).ok()?;
            match names.get(&to) {
                Some(name) if entry.bytes.get(layout.flags)? & layout.goto != 0 => {
                    End::Goto((*name).to_owned())
                }
                Some(name) if to != entry.at + entry.bytes.len() => End::Jump((*name).to_owned()),
                // A rule without a target.
                _ if to == entry.at + entry.bytes.len() => End::Continue,
                _ => return None,
            }
        }
    };
    found.push(Expr::End(end));
    Some(found)
}

/// What an entry's struct ipt_ip or ip6t_ip6 asks for.
fn header(layout: &Layout, bytes: &[u8]) -> Option<Vec<Expr>> {
    let mut found = Vec::new();
    let inverted = *bytes.get(layout.inverted)?;
    let op = |flag: u8| {
        if inverted & flag == 0 {
            Op::Eq
        } else {
            Op::Neq
        }
    };
    let mut ask = |property, value: &[u8], mask: &[u8], op: Op| {
        // With nothing of it masked, all packets have it.
        if mask.iter().all(|byte| *byte == 0) && op == Op::Eq {
            return;
        }
        found.push(Expr::Load(property, REGISTER, value.len()));
        found.push(Expr::Bitwise {
            source: REGISTER,
            destination: REGISTER,
            mask: mask.to_vec(),
            xor: vec![0; mask.len()],
        });
        let value = value.iter().zip(mask).map(|(byte, mask)| byte & mask);
        found.push(Expr::Cmp(REGISTER, op, value.collect()));
    };
    let n = layout.address;
    let field = |at: usize, len: usize| bytes.get(at..at + len);
    // struct iphdr and ipv6hdr: the source at 12 or 8, the destination behind it.
    let first = if n == 4 { 12 } else { 8 };
    for (i, flag) in [NOT_SOURCE, NOT_DESTINATION].into_iter().enumerate() {
        let offset = first + u32::try_from(i * n).ok()?;
        let property = Property::Payload { base: 1, offset };
        ask(property, field(i * n, n)?, field((i + 2) * n, n)?, op(flag));
    }
    for (i, (key, flag)) in [(IIFNAME, NOT_IIF), (OIFNAME, NOT_OIF)]
        .into_iter()
        .enumerate()
    {
        let (name, mask) = (
            field(layout.devices + 16 * i, 16)?,
            field(layout.devices + 32 + 16 * i, 16)?,
        );
        ask(Property::Meta(key), name, mask, op(flag));
    }
    let protocol = u16_at(bytes, layout.protocol)?;
    if protocol != 0 {
        let protocol = u8::try_from(protocol).ok()?;
        ask(
            Property::Meta(L4PROTO),
            &[protocol],
            &[0xff],
            op(NOT_PROTOCOL),
        );
    }
    let is_fragment = n == 4 && bytes.get(layout.flags)? & FRAGMENT != 0;
    if is_fragment && inverted & NOT_FRAGMENT == 0 {
        // Such a packet is no later fragment of another: no protocol is less than this.
        found.push(Expr::Load(Property::Meta(L4PROTO), REGISTER, 1));
        found.push(Expr::Cmp(REGISTER, Op::Lt, vec![0]));
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table as the kernel gives it: entries in a row, and where its chains begin.
    struct Bytes {
        layout: Layout,
        all: Vec<u8>,
    }

    impl Bytes {
        /// Appends an entry; returns where it is.
        fn entry(&mut self, header: &[(usize, &[u8])], extensions: &[Vec<u8>]) -> u32 {
            let at = self.all.len();
            let mut bytes = vec![0; self.layout.header];
            for (from, value) in header {
                bytes[*from..from + value.len()].copy_from_slice(value);
            }
            let (target, matches) = extensions.split_last().unwrap();
            bytes.extend(matches.concat());
            let (target_at, next) = (bytes.len(), bytes.len() + target.len());
            for (i, offset) in [target_at, next].into_iter().enumerate() {
                let to = self.layout.offsets + 2 * i;
                bytes[to..to + 2].copy_from_slice(&u16::try_from(offset).unwrap().to_ne_bytes());
            }
            bytes.extend(target);
            self.all.extend(bytes);
            u32::try_from(at).unwrap()
        }
    }

    fn extension(name: &str, revision: u8, info: &[u8]) -> Vec<u8> {
        let size = (EXTENSION + info.len()).next_multiple_of(8);
        let mut bytes = u16::try_from(size).unwrap().to_ne_bytes().to_vec();
        bytes.extend(name.as_bytes());
        bytes.resize(EXTENSION_REVISION, 0);
        bytes.push(revision);
        bytes.extend(info);
        bytes.resize(size, 0);
        bytes
    }

    fn verdict(verdict: i32) -> Vec<u8> {
        extension(STANDARD, 0, &verdict.to_ne_bytes())
    }

    fn head(name: &str) -> Vec<u8> {
        let mut info = name.as_bytes().to_vec();
        info.resize(30, 0);
        extension(HEAD, 0, &info)
    }

    /// `-P FORWARD DROP`, `-A FORWARD ! -i docker0 -d 172.17.0.0/16 -p tcp -m comment -j sub`,
    /// `-A FORWARD -g sub`, `-A sub -j REJECT`.
    fn filter(family: Family) -> (Info, Vec<u8>) {
        let mut bytes = Bytes {
            layout: Layout::of(family),
            all: Vec::new(),
        };
        let Layout {
            address,
            devices,
            protocol,
            flags,
            inverted,
            goto,
            ..
        } = bytes.layout;
        let begin = bytes.entry(
            &[
                (address, &[172, 17, 0, 0]),
                (3 * address, &[255, 255, 0, 0]),
                (devices, b"docker0\0"),
                (devices + 32, &[255; 8]),
                (protocol, &6_u16.to_ne_bytes()),
                (inverted, &[NOT_IIF]),
            ],
            &[extension("comment", 0, b"x"), verdict(0)],
        );
        let second = bytes.entry(&[(flags, &[goto])], &[verdict(0)]);
        let policy = bytes.entry(&[], &[verdict(DROP)]);
        bytes.entry(&[], &[head("sub")]);
        let sub = bytes.entry(&[], &[extension("REJECT", 0, &[0; 4])]);
        bytes.entry(&[], &[verdict(RETURN)]);
        bytes.entry(&[], &[head("ERROR")]);
        let mut all = bytes.all;
        // Both lead to the chain, which came later.
        for end in [second, policy] {
            let at = end as usize - 8;
            all[at..at + 4].copy_from_slice(&sub.to_ne_bytes());
        }
        let info = Info {
            valid: 1 << 2,
            entry: [0, 0, begin, 0, 0],
            underflow: [0, 0, policy, 0, 0],
            size: all.len(),
        };
        (info, all)
    }

    #[test]
    fn entries_become_rules_of_their_chains() {
        for family in [Family::Ip, Family::Ip6] {
            let (info, bytes) = filter(family);
            let found = table(family, "filter", &info, &bytes).unwrap();
            let names: Vec<&String> = found.chains.keys().collect();
            assert_eq!(names, ["FORWARD", "sub"]);
            let forward = &found.chains["FORWARD"];
            let base = forward.base.as_ref().unwrap();
            assert!(base.drops && base.hook == Hook::Forward && base.priority == 0);
            let ends: Vec<&Expr> = forward
                .rules
                .iter()
                .map(|rule| rule.expressions.last().unwrap())
                .collect();
            let to = "sub".to_owned();
            let wanted = [&Expr::End(End::Jump(to.clone())), &Expr::End(End::Goto(to))];
            assert_eq!(ends, wanted);
            let first = &forward.rules[0].expressions;
            let compared = first.iter().filter_map(|expr| match expr {
                Expr::Cmp(_, op, value) => Some((*op, value.len())),
                _ => None,
            });
            let address = Layout::of(family).address;
            let wanted = [(Op::Eq, address), (Op::Neq, 16), (Op::Eq, 1)];
            assert_eq!(compared.collect::<Vec<_>>(), wanted);
            assert!(
                matches!(&first[first.len() - 2], Expr::XtMatch(name, 0, _) if name == "comment")
            );
            assert_eq!(forward.rules[1].expressions.len(), 1);
            let sub: Vec<&Expr> = found.chains["sub"]
                .rules
                .iter()
                .flat_map(|rule| &rule.expressions)
                .collect();
            assert!(matches!(sub[0], Expr::XtTarget(name, 0, _) if name == "REJECT"));
            assert_eq!(sub[1], &Expr::End(End::Return));
        }
    }

    #[test]
    fn what_is_no_table_is_no_reason_to_end() {
        let (info, bytes) = filter(Family::Ip);
        for end in 0..bytes.len() {
            let whole = table(Family::Ip, "filter", &info, &bytes[..end]);
            // At an entry's end it is a table with fewer of them.
            assert!(whole.is_none_or(|table| table.chains.len() <= 2));
        }
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0xff;
            let _ = table(Family::Ip, "filter", &info, &other);
        }
        assert!(Info::decode(&[0; INFO - 1]).is_none());
    }
}
