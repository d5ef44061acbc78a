//! Lists as tables, documents and names.

use std::io::Write;

use serde::Serialize;

use super::rows::{Counted, Row};
use crate::cli::args::{GetArgs, ListFormat};
use crate::text::printable;

/// An object by itself or in a list: with what kind it is.
#[derive(Serialize)]
pub struct Object<'r, R> {
    kind: String,
    #[serde(flatten)]
    row: &'r R,
}

impl<'r, R: Row> Object<'r, R> {
    pub fn of(row: &'r R) -> Self {
        let mut chars = R::WORD.chars();
        let first = chars.next().map(|c| c.to_ascii_uppercase());
        Self {
            kind: first.into_iter().chain(chars).collect(),
            row,
        }
    }
}

#[derive(Serialize)]
struct List<'r, R> {
    kind: &'static str,
    items: Vec<Object<'r, R>>,
}

/// Prints rows in the form that was asked for.
pub fn list<R: Row>(args: &GetArgs, rows: &[R], out: &mut impl Write) -> std::io::Result<()> {
    match args.output {
        ListFormat::Name => {
            for row in rows {
                writeln!(out, "{}", name(args, row))?;
            }
            Ok(())
        }
        ListFormat::Json | ListFormat::Yaml => {
            let list = List {
                kind: "List",
                items: rows.iter().map(Object::of).collect(),
            };
            let text = if args.output == ListFormat::Json {
                serde_json::to_string_pretty(&list)? + "\n"
            } else {
                serde_saphyr::to_string(&list).map_err(std::io::Error::other)?
            };
            out.write_all(text.as_bytes())
        }
        ListFormat::Table | ListFormat::Wide => {
            Table::default().print(args, &rows.iter().collect::<Vec<_>>(), out)
        }
    }
}

/// `service/default/web`; without the namespace if that was given.
pub fn name<R: Row>(args: &GetArgs, row: &R) -> String {
    let (namespace, name) = row.name();
    let namespace = namespace.filter(|_| args.namespace.is_none());
    let namespace = namespace.map_or_else(String::new, |n| format!("{n}/"));
    format!("{}/{namespace}{name}", R::WORD)
}

/// Rows under one header, in columns as wide as what was in them so far.
#[derive(Default)]
pub struct Table {
    header: Vec<String>,
    widths: Vec<usize>,
}

impl Table {
    /// Prints rows, and the header before them if it is the first, or has changed.
    pub fn print<R: Row>(
        &mut self,
        args: &GetArgs,
        rows: &[&R],
        out: &mut impl Write,
    ) -> std::io::Result<()> {
        let mut lines = lines(args, rows);
        if lines[0] == self.header {
            lines.remove(0);
        } else {
            self.header.clone_from(&lines[0]);
            self.widths = vec![0; self.header.len()];
        }
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for line in &lines {
            let padded: Vec<String> = line
                .iter()
                .zip(&self.widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            writeln!(out, "{}", padded.join("   ").trim_end())?;
        }
        Ok(())
    }
}

/// The cells of the header, and of each row.
fn lines<R: Row>(args: &GetArgs, rows: &[&R]) -> Vec<Vec<String>> {
    let wide = args.output == ListFormat::Wide;
    let shown = |(name, only_wide): &(&str, bool)| {
        (wide || !only_wide) && (args.namespace.is_none() || *name != "NAMESPACE")
    };
    let counted = wide && rows.iter().any(|row| row.counted().is_some());
    let mut lines = Vec::with_capacity(rows.len() + 1);
    let columns = R::COLUMNS.iter().filter(|column| shown(column));
    let mut header: Vec<String> = columns.map(|(name, _)| (*name).to_owned()).collect();
    let by_endpoint = |counted: &Counted| counted.by_endpoint.is_some();
    let by_endpoint = rows.iter().filter_map(|row| row.counted()).any(by_endpoint);
    if counted {
        header.extend(["CONNECTIONS", "REFUSED"].map(str::to_owned));
        header.extend(by_endpoint.then(|| "BY-ENDPOINT".to_owned()));
    }
    lines.push(header);
    for row in rows {
        let cells = R::COLUMNS.iter().zip(row.cells());
        let cells = cells.filter(|(column, _)| shown(column));
        let mut line: Vec<String> = cells.map(|(_, cell)| printable(&cell).into()).collect();
        if let Some(counted) = row.counted().filter(|_| counted) {
            line.extend([counted.connections, counted.refused].map(|n| n.to_string()));
            line.extend(counted.by_endpoint.as_ref().map(|by| {
                let each: Vec<String> = by.iter().map(|(e, n)| format!("{e}={n}")).collect();
                if each.is_empty() {
                    "<none>".to_owned()
                } else {
                    each.join(",")
                }
            }));
        }
        lines.push(line);
    }
    lines
}
