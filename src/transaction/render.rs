//! A delta for people: `+` and `-` before lines of nft syntax.

use std::io::{self, Write};

use super::{Operation, TableChange, Transaction};
use crate::print::text;
use crate::ruleset::{Element, Family, Set, TABLE, Value};

/// Writes the delta, one line per element, rule or object.
///
/// # Errors
/// Those of the writer.
pub fn write(out: &mut impl Write, delta: &Transaction) -> io::Result<()> {
    for table in &delta.tables {
        for operation in &table.operations {
            self::operation(out, table, operation)?;
        }
    }
    Ok(())
}

/// Writes one operation on `table`, one line per element, rule or object.
///
/// # Errors
/// Those of the writer.
pub fn operation(
    out: &mut impl Write,
    table: &TableChange,
    operation: &Operation,
) -> io::Result<()> {
    let family = table.family.nft_name();
    match operation {
        Operation::DeleteTable => writeln!(out, "- table {family} {TABLE}"),
        Operation::OwnTable => writeln!(out, "+ table {family} {TABLE}, owned"),
        Operation::DeleteOtherTable(name) => writeln!(out, "- table {family} {name}"),
        Operation::AddTable => writeln!(out, "+ table {family} {TABLE}"),
        Operation::DeleteChain(name) => writeln!(out, "- chain {family} {TABLE} {name}"),
        Operation::AddChain(chain) => writeln!(out, "+ chain {family} {TABLE} {}", chain.name),
        Operation::FlushChain(name) => writeln!(out, "- chain {family} {TABLE} {name}: all rules"),
        Operation::DeleteSet(name) => writeln!(out, "- set {family} {TABLE} {name}"),
        Operation::AddSet(set) => {
            let declared = text::set_type(table.family, set);
            let counter = if set.counted { "; counter" } else { "" };
            writeln!(
                out,
                "+ set {family} {TABLE} {} {{ {declared}{counter} }}",
                set.name
            )
        }
        Operation::AddRules(chain, rules) => rules.iter().try_for_each(|rule| {
            let rule = text::rule(table.family, rule);
            writeln!(out, "+ chain {family} {TABLE} {chain}: {rule}")
        }),
        Operation::RestoreRules(chain, rules) => rules.iter().try_for_each(|rule| {
            let rule: Vec<String> = rule.iter().map(ToString::to_string).collect();
            let rule = rule.join("; ");
            writeln!(out, "+ chain {family} {TABLE} {chain}: [{rule}]")
        }),
        Operation::DeleteElements(set, elements) => self::elements(out, '-', table, set, elements),
        Operation::AddElements(set, elements) => self::elements(out, '+', table, set, elements),
    }
}

fn elements(
    out: &mut impl Write,
    sign: char,
    table: &TableChange,
    name: &str,
    elements: &[(Value, Element)],
) -> io::Result<()> {
    let family = table.family;
    for (key, element) in elements {
        match table.sets.get(name) {
            Some(set) => self::element(out, sign, family, set, (key, element))?,
            None => write!(
                out,
                "{sign} element {} {TABLE} {name} {{ {key:?} }}",
                family.nft_name()
            )?,
        }
        writeln!(out)?;
    }
    Ok(())
}

/// Writes one element that comes (`+`) or goes (`-`), without an end of line.
///
/// # Errors
/// Those of the writer.
pub fn element(
    out: &mut impl Write,
    sign: char,
    family: Family,
    set: &Set,
    (key, element): (&Value, &Element),
) -> io::Result<()> {
    let (family, name) = (family.nft_name(), &set.name);
    write!(out, "{sign} element {family} {TABLE} {name} {{ ")?;
    text::element(out, set, key, element)?;
    write!(out, " }}")
}
