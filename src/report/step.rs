//! What the kernel is told, object by object.

use std::fmt;

use crate::ruleset::{Element, Family, Set, TABLE, Value};
use crate::transaction::{Operation, TableChange, render};

/// One thing that is done.
#[derive(Clone, Debug)]
pub enum Step<'a> {
    /// An element comes or goes.
    Element {
        /// True if it comes.
        comes: bool,
        /// Family of its table.
        family: Family,
        /// Its set.
        set: &'a Set,
        /// Its key.
        key: &'a Value,
        /// The element.
        element: &'a Element,
    },
    /// Anything else in a table.
    Operation {
        /// The table's change.
        table: &'a TableChange,
        /// The operation.
        operation: &'a Operation,
    },
    /// A table that is built anew has so many elements put back as they were.
    PutBack {
        /// Family of the table.
        family: Family,
        /// How many.
        elements: usize,
    },
    /// Something besides our tables.
    Host(String),
}

/// As `+ element ip svcnat SET { ... }`, without an end of line; of several lines for an
/// operation that is several things.
impl fmt::Display for Step<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Vec::new();
        let written = match self {
            Self::Element {
                comes,
                family,
                set,
                key,
                element,
            } => {
                let sign = if *comes { '+' } else { '-' };
                render::element(&mut out, sign, *family, set, (key, element))
            }
            Self::Operation { table, operation } => render::operation(&mut out, table, operation),
            Self::PutBack { family, elements } => {
                let family = family.nft_name();
                let elements = super::count(*elements, "element");
                return write!(f, "+ table {family} {TABLE}: {elements} as before");
            }
            Self::Host(text) => return f.write_str(text),
        };
        written.map_err(|_| fmt::Error)?;
        f.write_str(String::from_utf8_lossy(&out).trim_end())
    }
}
