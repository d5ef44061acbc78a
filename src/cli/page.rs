//! How a plan comes to standard output: with colours where they are wanted.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use clap::builder::styling::{AnsiColor, Effects, Style as Ansi};

use super::args::{Color, ViewArgs};
use crate::report::{Page, Report, Style, write};
use crate::text::Printable;

/// Writes the lines of a plan.
///
/// # Errors
/// Those of the writer.
pub fn plan(
    out: &mut Printable<impl Write>,
    report: &Report<'_>,
    view: &ViewArgs,
) -> io::Result<()> {
    let coloured = match view.color {
        Color::Always => true,
        Color::Never => false,
        // NO_COLOR, CLICOLOR, TERM, and whether there is a terminal.
        Color::Auto => AutoStream::choice(&io::stdout()) != ColorChoice::Never,
    };
    write(&mut Screen { out, coloured }, report, view.verbose)
}

struct Screen<'o, W: Write> {
    out: &'o mut Printable<W>,
    coloured: bool,
}

impl<W: Write> Page for Screen<'_, W> {
    fn text(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())
    }

    fn styled(&mut self, style: Style, text: &str) -> io::Result<()> {
        if !self.coloured {
            return self.text(text);
        }
        let ansi: Ansi = match style {
            Style::Add => AnsiColor::Green.on_default(),
            Style::Change => AnsiColor::Yellow.on_default(),
            Style::Remove => AnsiColor::Red.on_default(),
            Style::Heading => AnsiColor::Magenta.on_default().effects(Effects::BOLD),
        };
        self.out.codes(&format!("{ansi}"))?;
        self.text(text)?;
        self.out.codes(&format!("{ansi:#}"))
    }
}
