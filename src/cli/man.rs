//! `svcnat man`: one manual page for all verbs, with the options they share written once.

use std::io::Write;

use clap::{Arg, Command, CommandFactory};
use clap_mangen::Man;

use super::args::Cli;
use super::error::CliError;
use super::input_args::INPUTS;
use super::reference::{ENVIRONMENT, EXIT_CODES, SHARED, heading_of, is_own, type_of, verbs};
use crate::config::settings;

pub fn run(out: &mut impl Write) -> Result<u8, CliError> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let page = Man::new(command.clone()).section("8");
    page.render_title(out)?;
    page.render_name_section(out)?;
    writeln!(
        out,
        ".SH SYNOPSIS\n\\fBsvcnat\\fR \\fIVERB\\fR [\\fIOPTIONS\\fR]"
    )?;
    page.render_description_section(out)?;
    writeln!(out, ".SH VERBS")?;
    for (name, verb) in verbs(&command) {
        write_verb(&name, verb, out)?;
    }
    if let Some(verb) = command.find_subcommand("diff") {
        for (heading, title) in SHARED {
            let title = title.to_uppercase();
            writeln!(out, ".SH {title}\nThe same for every verb that has them.")?;
            out.write_all(&options(verb, |arg| heading_of(arg) == heading)?)?;
        }
    }
    write_keys(out)?;
    for (title, rows) in [
        ("ENVIRONMENT", &ENVIRONMENT[..]),
        ("EXIT STATUS", &EXIT_CODES),
    ] {
        writeln!(out, ".SH {title}")?;
        for (name, means) in rows {
            writeln!(
                out,
                ".TP\n\\fB{name}\\fR\n{}",
                roff(&means.replace('`', ""))
            )?;
        }
    }
    examples(&command, out)?;
    write!(out, "{REST}")?;
    Ok(0)
}

fn write_verb(name: &str, verb: &Command, out: &mut impl Write) -> Result<(), CliError> {
    let inputs = verb.get_arguments().any(|arg| heading_of(arg) == INPUTS);
    let positional: String = verb
        .get_positionals()
        .map(|arg| format!(" \\fI{}\\fR", arg.get_id().as_str().to_uppercase()))
        .collect();
    writeln!(
        out,
        ".SS \"svcnat {name}{positional}{}\"",
        if inputs { " [\\fIINPUTS\\fR]" } else { "" }
    )?;
    let mut description = Vec::new();
    Man::new(verb.clone()).render_description_section(&mut description)?;
    out.write_all(&without_heading(&description))?;
    let own = |arg: &Arg| is_own(arg) && !arg.is_hide_set();
    if verb.get_arguments().any(own) {
        out.write_all(&options(verb, own)?)?;
    }
    examples(verb, out)
}

/// The keys of the configuration file; what each means is said of its flag, if it has one.
fn write_keys(out: &mut impl Write) -> Result<(), CliError> {
    writeln!(
        out,
        ".SH CONFIGURATION FILE\nEach setting has a key there; after a dot, in an object."
    )?;
    for setting in settings() {
        let means = match setting.flag {
            Some(flag) => format!("--{}", flag.name),
            None => setting.help().to_owned(),
        };
        let text = format!("{means} ({})", type_of(setting));
        writeln!(out, ".TP\n\\fB{}\\fR\n{}", setting.key, roff(&text))?;
    }
    Ok(())
}

/// A line of text: a dot or a quote at its start would be a request.
fn roff(line: &str) -> String {
    format!("\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))
}

/// The options of `verb` that `wanted` picks.
fn options(verb: &Command, wanted: impl Fn(&Arg) -> bool) -> Result<Vec<u8>, CliError> {
    let verb = verb.clone().mut_args(|arg| {
        let unwanted = !wanted(&arg);
        // What the short help leaves out belongs here all the more.
        arg.hide(unwanted)
            .hide_short_help(false)
            .help_heading(None::<&str>)
    });
    let mut section = Vec::new();
    Man::new(verb).render_options_section(&mut section)?;
    Ok(without_heading(&section))
}

/// A section as clap_mangen makes it, without the line that opens it.
fn without_heading(section: &[u8]) -> Vec<u8> {
    section
        .split_inclusive(|byte| *byte == b'\n')
        .filter(|line| {
            !line.starts_with(b".SH ") && !line.starts_with(b".ie ") && !line.starts_with(b".el ")
        })
        .flatten()
        .copied()
        .collect()
}

/// The text after the help, line by line as it was written.
fn examples(command: &Command, out: &mut impl Write) -> Result<(), CliError> {
    let Some(text) = command.get_after_help() else {
        return Ok(());
    };
    writeln!(out, ".PP\n.EX")?;
    for line in text.to_string().lines() {
        writeln!(out, "{}", roff(line))?;
    }
    writeln!(out, ".EE")?;
    Ok(())
}

const REST: &str = r#".SH FILES
.TP
\fI/etc/svcnat/config.yaml\fR
Settings that \fBsvcnat.service\fR gives to \fBsvcnat run\fR.
.TP
\fI/etc/default/svcnat\fR
Its other options: where the objects come from.
.TP
\fI/etc/svcnat/manifests\fR
The folder it follows unless told otherwise.
.TP
\fI/var/lib/svcnat\fR
The last good state.
.SH NOTES
Stopping \fBsvcnat run\fR, or removing the package, leaves the rules in the kernel; \fBsvcnat delete\fR removes them.
.SH SEE ALSO
\fBnft\fR(8), \fBsystemctl\fR(1)
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_every_verb_and_option_with_its_help() {
        let mut page = Vec::new();
        run(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap();
        let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
        let mut command = Cli::command().disable_help_subcommand(true);
        command.build();
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            assert!(page.contains(&format!("svcnat {}", verb.get_name())));
            let options = verb.get_opts().filter(|arg| !arg.is_hide_set());
            for option in options.filter(|arg| arg.get_id() != "help") {
                let help = option
                    .get_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                let name = option.get_long().unwrap_or_default();
                assert!(!help.is_empty() && page.contains(&help), "--{name}: {help}");
                assert!(page.contains(&format!("--{name}")), "--{name}");
            }
        }
    }
}
