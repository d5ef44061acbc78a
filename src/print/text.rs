//! The ruleset as text for `nft -f`, laid out as `nft list` would.

use std::io::{self, Write};

use crate::ruleset::{
    Action, Chain, ClassId, DataType, Element, ElementData, Family, Hook, Match, Rule, Ruleset,
    Selector, Set, SetData, SetKind, Statement, TABLE, TABLE_COMMENT, Table, Value,
};
use crate::text::comment;

/// Writes all tables: each is emptied and filled anew, in the one transaction that `nft -f`
/// makes of a file.
///
/// # Errors
/// Those of the writer.
pub fn ruleset(out: &mut impl Write, ruleset: &Ruleset) -> io::Result<()> {
    for table in ruleset.tables.values() {
        let family = table.family.nft_name();
        writeln!(out, "add table {family} {TABLE}")?;
        writeln!(out, "delete table {family} {TABLE}")?;
    }
    for table in ruleset.tables.values() {
        self::table(out, table)?;
    }
    Ok(())
}

/// Writes only the elements, one `add element` command a line: what objects add.
///
/// # Errors
/// Those of the writer.
pub fn elements(out: &mut impl Write, ruleset: &Ruleset) -> io::Result<()> {
    for table in ruleset.tables.values() {
        for set in table
            .sets
            .values()
            .filter(|set| set.data != SetData::Verdict)
        {
            for (key, element) in &set.elements {
                let family = table.family.nft_name();
                write!(out, "add element {family} {TABLE} {} {{ ", set.name)?;
                self::element(out, set, key, element)?;
                writeln!(out, " }}")?;
            }
        }
    }
    Ok(())
}

fn table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    let family = table.family.nft_name();
    writeln!(out, "table {family} {TABLE} {{ comment \"{TABLE_COMMENT}\"")?;
    for set in table.sets.values() {
        declare(out, table.family, set)?;
        writeln!(out)?;
    }
    for (i, chain) in table.chains.iter().enumerate() {
        // Chains of one line stand together.
        let short = |chain: &Chain| chain.base.is_none() && chain.rules.len() == 1;
        let before = i.checked_sub(1).and_then(|i| table.chains.get(i));
        if before.is_some_and(|before| !(short(before) && short(chain))) {
            writeln!(out)?;
        }
        self::chain(out, table.family, chain)?;
    }
    writeln!(out, "}}")
}

/// The first line of a set or chain: its comment belongs to it, where `nft list` shows it.
fn open(out: &mut impl Write, keyword: &str, name: &str, comment: &str) -> io::Result<()> {
    write!(out, "\t{keyword} {name} {{")?;
    if !comment.is_empty() {
        write!(out, " comment \"{comment}\"")?;
    }
    writeln!(out)
}

fn declare(out: &mut impl Write, family: Family, set: &Set) -> io::Result<()> {
    let keyword = match set.data {
        SetData::None => "set",
        SetData::Fields(_) | SetData::Verdict => "map",
    };
    open(out, keyword, &set.name, set.comment)?;
    let declared = set_type(family, set);
    match set.kind {
        SetKind::Exact => writeln!(out, "\t\t{declared}")?,
        SetKind::Interval => writeln!(out, "\t\t{declared}; flags interval")?,
        SetKind::Dynamic { size, timeout } => writeln!(
            out,
            "\t\t{declared}; size {size}; flags dynamic,timeout; timeout {timeout}s"
        )?,
    }
    if set.counted {
        writeln!(out, "\t\tcounter")?;
    }
    elements_of(out, set)?;
    writeln!(out, "\t}}")
}

/// The elements of a set: one a line, those without a comment as many as fit.
fn elements_of(out: &mut impl Write, set: &Set) -> io::Result<()> {
    const WIDTH: usize = 96;
    if set.elements.is_empty() {
        return Ok(());
    }
    out.write_all(b"\t\telements = { ")?;
    let (mut line, mut width) = (Vec::new(), 0);
    for (i, (key, element)) in set.elements.iter().enumerate() {
        line.clear();
        self::element(&mut line, set, key, element)?;
        let fits = element.comment.is_none() && width + line.len() <= WIDTH;
        if i > 0 {
            out.write_all(if fits { b", " } else { b",\n\t\t\t     " })?;
        }
        width = if fits { width } else { 0 } + line.len() + 2;
        out.write_all(&line)?;
    }
    writeln!(out, " }}")
}

/// The `type` or `typeof` line of a set.
#[must_use]
pub fn set_type(family: Family, set: &Set) -> String {
    let names = |fields: &[DataType], name: &dyn Fn(&DataType) -> String| {
        fields.iter().map(name).collect::<Vec<_>>().join(" . ")
    };
    let typed = |t: &DataType| t.nft_name().to_owned();
    let expressed = |t: &DataType| match t {
        DataType::Ipv4Addr | DataType::Ipv6Addr => format!("{} daddr", family.nft_name()),
        DataType::InetProto => "meta l4proto".to_owned(),
        // Not `tcp dport`: nft would list every rule that uses the map as one for TCP.
        DataType::InetService => "th dport".to_owned(),
        DataType::ClassId => "meta priority".to_owned(),
        DataType::Slot => "numgen random mod 2".to_owned(),
    };
    let (keyword, name): (_, &dyn Fn(&DataType) -> String) = if set.needs_typeof() {
        ("typeof", &expressed)
    } else {
        ("type", &typed)
    };
    let key = names(&set.key, name);
    match &set.data {
        SetData::None => format!("{keyword} {key}"),
        SetData::Fields(data) => format!("{keyword} {key} : {}", names(data, name)),
        SetData::Verdict => format!("{keyword} {key} : verdict"),
    }
}

/// Writes one element as it stands between the braces of a set.
///
/// # Errors
/// Those of the writer.
pub fn element(out: &mut impl Write, set: &Set, key: &Value, element: &Element) -> io::Result<()> {
    write_key(out, set, key, element.end.as_deref())?;
    if let Some(comment) = &element.comment {
        // Ours are clean; one read back from the kernel is whatever somebody put there.
        write!(out, " comment \"{}\"", comment::clean(comment))?;
    }
    match &element.data {
        ElementData::None => Ok(()),
        ElementData::Goto(chain) => write!(out, " : goto {chain}"),
        ElementData::Value(value) => {
            out.write_all(b" : ")?;
            let schema = match &set.data {
                SetData::Fields(schema) => schema.as_slice(),
                SetData::None | SetData::Verdict => &[],
            };
            write_fields(out, schema, value)
        }
    }
}

fn write_fields<const N: usize>(
    out: &mut impl Write,
    schema: &[DataType],
    value: &Value<N>,
) -> io::Result<()> {
    let Some(fields) = value.fields(schema) else {
        return write!(out, "{value:?}");
    };
    for (i, field) in fields.iter().enumerate() {
        if i > 0 {
            out.write_all(b" . ")?;
        }
        write!(out, "{field}")?;
    }
    Ok(())
}

fn write_key(out: &mut impl Write, set: &Set, key: &Value, end: Option<&Value>) -> io::Result<()> {
    let Some(end) = end.filter(|end| *end != key) else {
        return write_fields(out, &set.key, key);
    };
    let (Some(from), Some(to)) = (key.fields(&set.key), end.fields(&set.key)) else {
        return write!(out, "{key:?}-{end:?}");
    };
    for (i, (from, to)) in from.iter().zip(&to).enumerate() {
        if i > 0 {
            out.write_all(b" . ")?;
        }
        write!(out, "{}", Range { from, to })?;
    }
    Ok(())
}

/// A range of one field: a single value, a prefix where it is one, else `a-b`.
pub(super) struct Range<'a> {
    pub(super) from: &'a crate::ruleset::FieldValue,
    pub(super) to: &'a crate::ruleset::FieldValue,
}

impl Range<'_> {
    /// The prefix length, if the range is one network.
    pub(super) fn prefix_len(&self) -> Option<u8> {
        use crate::ruleset::FieldValue::Addr;
        let (Addr(from), Addr(to)) = (self.from, self.to) else {
            return None;
        };
        let bits = if from.is_ipv4() { 32 } else { 128 };
        (0..=bits).find(|len| {
            ipnet::IpNet::new(*from, *len)
                .is_ok_and(|net| net.network() == *from && net.broadcast() == *to)
        })
    }
}

impl std::fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.from == self.to {
            return write!(f, "{}", self.from);
        }
        match self.prefix_len() {
            Some(len) => write!(f, "{}/{len}", self.from),
            None => write!(f, "{}-{}", self.from, self.to),
        }
    }
}

/// A range of one field as nft writes it: a single value, a prefix where it is one, else `a-b`.
#[must_use]
pub fn range(from: &crate::ruleset::FieldValue, to: &crate::ruleset::FieldValue) -> String {
    Range { from, to }.to_string()
}

fn chain(out: &mut impl Write, family: Family, chain: &Chain) -> io::Result<()> {
    if let (None, [only]) = (chain.base, &chain.rules[..]) {
        write!(out, "\tchain {} {{ ", chain.name)?;
        if !chain.comment.is_empty() {
            write!(out, "comment \"{}\"; ", chain.comment)?;
        }
        return writeln!(out, "{}; }}", self::rule(family, only));
    }
    open(out, "chain", &chain.name, chain.comment)?;
    if let Some(base) = chain.base {
        writeln!(
            out,
            "\t\ttype {} hook {} priority {}; policy accept;",
            base.chain_type.nft_name(),
            base.hook.nft_name(),
            priority(base.hook, base.priority)
        )?;
    }
    for rule in &chain.rules {
        writeln!(out, "\t\t{}", self::rule(family, rule))?;
    }
    writeln!(out, "\t}}")
}

/// A base chain's priority by nft's name for it at that hook.
fn priority(hook: Hook, priority: i32) -> String {
    match (hook, priority) {
        (_, 0) => "filter".to_owned(),
        (Hook::Postrouting, 100) => "srcnat".to_owned(),
        (Hook::Prerouting, -100) => "dstnat".to_owned(),
        (Hook::Prerouting, p) if (-110..-100).contains(&p) => format!("dstnat - {}", -100 - p),
        (_, p) => p.to_string(),
    }
}

/// One rule as nft writes it.
#[must_use]
pub fn rule(family: Family, rule: &Rule) -> String {
    rule.statements
        .iter()
        .map(|statement| match statement {
            Statement::Match(m) => matching(family, m),
            Statement::Action(a) => action(family, a),
        })
        .collect::<Vec<_>>()
        .join(" ")
}

/// A selector as nft writes it.
#[must_use]
pub fn selector(family: Family, selector: &Selector) -> String {
    let ip = family.nft_name();
    match selector {
        Selector::Saddr => format!("{ip} saddr"),
        Selector::Daddr => format!("{ip} daddr"),
        Selector::L4Proto => "meta l4proto".to_owned(),
        Selector::Dport => "th dport".to_owned(),
        Selector::Priority => "meta priority".to_owned(),
        Selector::PriorityMasked { mask } => format!("meta priority & {}", ClassId(*mask)),
        Selector::CtOriginalSaddr => format!("ct original {ip} saddr"),
        Selector::CtOriginalDaddr => format!("ct original {ip} daddr"),
        Selector::CtOriginalDport => "ct original proto-dst".to_owned(),
        Selector::CtReplySaddr => format!("ct reply {ip} saddr"),
        Selector::CtReplySport => "ct reply proto-src".to_owned(),
        Selector::Random { modulus } => format!("numgen random mod {modulus}"),
        Selector::SourceHash { modulus, seed } => {
            format!("jhash {ip} saddr mod {modulus} seed 0x{seed:x}")
        }
    }
}

fn key(family: Family, key: &[Selector]) -> String {
    key.iter()
        .map(|s| selector(family, s))
        .collect::<Vec<_>>()
        .join(" . ")
}

const fn not(negated: bool) -> &'static str {
    if negated { "!= " } else { "" }
}

/// A condition as nft writes it.
#[must_use]
pub fn matching(family: Family, m: &Match) -> String {
    let ip = family.nft_name();
    match m {
        Match::CtStatusDnat => "ct status dnat".to_owned(),
        Match::L4Proto(protocol) => format!("meta l4proto {}", protocol.nft_name()),
        Match::DaddrLoopback { negated } => {
            let loopback = match family {
                Family::Ip => "127.0.0.0/8",
                Family::Ip6 => "::1",
            };
            format!("{ip} daddr {}{loopback}", not(*negated))
        }
        Match::Daddr(addr) => format!("{ip} daddr {addr}"),
        Match::SaddrIn { prefix, negated } => {
            let not = not(*negated);
            if prefix.prefix_len() == prefix.max_prefix_len() {
                format!("{ip} saddr {not}{}", prefix.addr())
            } else {
                format!("{ip} saddr {not}{}", prefix.trunc())
            }
        }
        Match::SaddrLocal => "fib saddr type local".to_owned(),
        Match::DaddrLocal => "fib daddr type local".to_owned(),
        Match::Priority {
            mask,
            value,
            negated,
        } => {
            let op = if *negated { "!=" } else { "==" };
            format!(
                "meta priority & {} {op} {}",
                ClassId(*mask),
                ClassId(*value)
            )
        }
        Match::MarkSet { mask } => format!("meta mark & 0x{mask:08x} != 0x00000000"),
        Match::Iifname {
            name,
            prefix,
            negated,
        } => format!(
            "iifname {}\"{}{}\"",
            not(*negated),
            comment::clean(name),
            if *prefix { "*" } else { "" }
        ),
        Match::InSet {
            key: fields,
            set,
            negated,
        } => {
            let op = match (*negated, &fields[..]) {
                (true, _) => "!= ",
                (false, [Selector::PriorityMasked { .. }]) => "== ",
                (false, _) => "",
            };
            format!("{} {op}@{set}", key(family, fields))
        }
    }
}

/// An action as nft writes it.
#[must_use]
pub fn action(family: Family, a: &Action) -> String {
    match a {
        Action::LoadPriority { key: fields, map } => {
            format!("meta priority set {} map @{map}", key(family, fields))
        }
        Action::ClearPriority => "meta priority set none".to_owned(),
        Action::SetMark { bit } => format!("meta mark set meta mark | 0x{bit:08x}"),
        Action::FlipMark { bit } => format!("meta mark set meta mark ^ 0x{bit:08x}"),
        Action::Dnat { key: fields, map } => {
            format!(
                "dnat {} to {} map @{map}",
                family.nft_name(),
                key(family, fields)
            )
        }
        Action::Remember {
            map,
            key: fields,
            timeout,
        } => format!(
            "update @{map} {{ {} timeout {timeout}s : meta priority }}",
            key(family, fields)
        ),
        Action::Masquerade => "masquerade fully-random".to_owned(),
        Action::RejectTcpReset => "reject with tcp reset".to_owned(),
        Action::Reject => "reject".to_owned(),
        Action::Drop => "drop".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
    }
}
