//! `svcnat reference`: docs/reference.md, from what the program itself is made of. The manual
//! page takes the same texts.

use std::io::Write;

use clap::builder::PossibleValue;
use clap::{Arg, Args, Command, CommandFactory};

use super::args::{COMMON, Cli};
use super::error::CliError;
use super::input_args::{INPUTS, SETTINGS, SettingArgs};
use crate::config::{API_VERSION, Form, Setting, settings};

/// Headings of the options that verbs share, and where they stand in a page.
pub const SHARED: [(&str, &str); 3] = [
    (COMMON, "Common options"),
    (INPUTS, "Inputs"),
    (SETTINGS, "Settings"),
];

/// What an exit code means.
pub const EXIT_CODES: [(&str, &str); 5] = [
    ("0", "Done; `diff`: no differences; `status`: installed."),
    (
        "1",
        "`diff` found differences; `check` a warning or an error; `explain --live`: something is in the packet's way; `trace`: a packet did not do as foretold; `verify`: something is otherwise than written.",
    ),
    ("2", "Bad usage or input; nothing was done."),
    (
        "3",
        "The host refused, or did not do all of it; `status`: not installed.",
    ),
    (
        "4",
        "`status`: it cannot be told what is installed; `trace`: no such packet came.",
    ),
];

/// Which variables of the environment are looked at.
pub const ENVIRONMENT: [(&str, &str); 6] = [
    (
        "NO_COLOR",
        "If it is set and not empty, no colours (`--color=auto`).",
    ),
    (
        "CLICOLOR, CLICOLOR_FORCE, TERM",
        "Whether there are colours, too: CLICOLOR=0 and TERM=dumb are against them, \
         CLICOLOR_FORCE=1 wants them without a terminal as well.",
    ),
    (
        "KUBERNETES_SERVICE_HOST, KUBERNETES_SERVICE_PORT",
        "Where `run --kubernetes` finds the API server, unless `--apiserver` says it.",
    ),
    (
        "HTTPS_PROXY, NO_PROXY",
        "A proxy to the API server of a kubeconfig that names none (`run`), and who is reached \
         without it; in lower case as well.",
    ),
    (
        "NOTIFY_SOCKET",
        "Where `run` tells the service manager that it is ready (sd_notify(3)).",
    ),
    (
        "SVCNAT_OPTIONS",
        "Options of svcnat.service, in /etc/default/svcnat; the program itself does not read it.",
    ),
];

pub fn run(out: &mut impl Write) -> Result<u8, CliError> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    writeln!(
        out,
        "# Reference\n\nEvery verb, option and key of svcnat, as the program says it: \
         `scripts/update-goldens` writes this file, and a test holds it.\n\n## Verbs\n"
    )?;
    let verbs = verbs(&command);
    for (name, verb) in &verbs {
        let anchor = name.replace(' ', "-");
        writeln!(
            out,
            "- [`svcnat {name}`](#svcnat-{anchor}): {}.",
            about(verb)
        )?;
    }
    for (name, verb) in &verbs {
        write_verb(name, verb, out)?;
    }
    if let Some((_, verb)) = verbs.iter().find(|(name, _)| name == "diff") {
        for (heading, title) in SHARED.iter().filter(|(heading, _)| *heading != SETTINGS) {
            writeln!(out, "\n## {title}\n")?;
            for arg in verb
                .get_arguments()
                .filter(|arg| heading_of(arg) == *heading)
            {
                write_arg(arg, out)?;
            }
        }
    }
    write_settings(out)?;
    for (title, rows) in [
        ("Environment", &ENVIRONMENT[..]),
        ("Exit codes", &EXIT_CODES),
    ] {
        writeln!(out, "\n## {title}\n")?;
        for (name, means) in rows {
            writeln!(out, "- `{}`: {means}", name.replace(", ", "`, `"))?;
        }
    }
    Ok(0)
}

/// The verbs, and those that they have, by what one types.
pub fn verbs(command: &Command) -> Vec<(String, &Command)> {
    let mut all = Vec::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let name = verb.get_name();
        all.push((name.to_owned(), verb));
        let below = verbs(verb).into_iter();
        all.extend(below.map(|(inner, verb)| (format!("{name} {inner}"), verb)));
    }
    all
}

fn about(verb: &Command) -> String {
    verb.get_about()
        .map(ToString::to_string)
        .unwrap_or_default()
}

/// Under which heading the help has it.
pub fn heading_of(arg: &Arg) -> &str {
    arg.get_help_heading().unwrap_or_default()
}

/// Whether it is the verb's own and has a meaning of its own.
pub fn is_own(arg: &Arg) -> bool {
    let shared = SHARED
        .iter()
        .any(|(heading, _)| heading_of(arg) == *heading);
    !shared && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn write_verb(name: &str, verb: &Command, out: &mut impl Write) -> Result<(), CliError> {
    writeln!(out, "\n### svcnat {name}\n\n{}.", about(verb))?;
    let (hidden, own): (Vec<&Arg>, Vec<&Arg>) = verb
        .get_arguments()
        .filter(|arg| is_own(arg))
        .partition(|arg| arg.is_hide_set());
    let has = |heading: &str| verb.get_arguments().any(|arg| heading_of(arg) == heading);
    let shared: Vec<String> = SHARED
        .iter()
        .filter(|(heading, _)| has(heading))
        .map(|(_, title)| {
            let anchor = title.to_lowercase().replace(' ', "-");
            format!("[{}](#{anchor})", title.to_lowercase())
        })
        .collect();
    if own.len() + shared.len() > 0 {
        writeln!(out)?;
    }
    for arg in own {
        write_arg(arg, out)?;
    }
    if !shared.is_empty() {
        writeln!(out, "- and {}.", shared.join(", "))?;
    }
    if !hidden.is_empty() {
        let names = hidden.iter().filter_map(|arg| arg.get_long());
        let names: Vec<String> = names.map(|name| format!("`--{name}`")).collect();
        writeln!(
            out,
            "- Of kube-proxy's flags these are taken as well; those that have no effect, or \
             another way here, are named with the reason: {}.",
            names.join(", ")
        )?;
    }
    if let Some(text) = verb.get_after_help() {
        writeln!(out, "\n```\n{text}\n```")?;
    }
    Ok(())
}

/// How its value stands after the flag.
fn value_of(arg: &Arg) -> String {
    let id = || arg.get_id().as_str().to_uppercase();
    let value = arg
        .get_value_names()
        .map_or_else(id, |names| names.join(" "));
    let optional = arg.get_num_args().is_some_and(|n| n.min_values() == 0);
    match (arg.get_action().takes_values(), optional) {
        (false, _) => String::new(),
        (true, false) => format!(" {value}"),
        (true, true) => format!("[={value}]"),
    }
}

fn write_arg(arg: &Arg, out: &mut impl Write) -> Result<(), CliError> {
    let value = value_of(arg);
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let long = arg.get_long().map(|long| format!("`--{long}{value}`"));
    let positional = arg.is_positional().then(|| format!("`{}`", value.trim()));
    let names = [short, long, positional].into_iter().flatten();
    let names = names.collect::<Vec<_>>().join(", ");
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    write!(out, "- {names}: {help}.")?;
    let words = arg.get_possible_values();
    if !value.is_empty() && !words.is_empty() {
        let means = |word: &PossibleValue| word.get_help().map(ToString::to_string);
        write!(
            out,
            " {}",
            one_of(words.iter().map(|word| (word.get_name(), means(word))))
        )?;
    }
    let defaults = arg.get_default_values();
    if !value.is_empty() && !defaults.is_empty() {
        let defaults: Vec<_> = defaults.iter().map(|d| d.to_string_lossy()).collect();
        write!(out, " Default: `{}`.", defaults.join(","))?;
    }
    write_aliases(&arg.get_all_aliases().unwrap_or_default(), out)?;
    writeln!(out)?;
    Ok(())
}

fn write_aliases(aliases: &[&str], out: &mut impl Write) -> std::io::Result<()> {
    if aliases.is_empty() {
        return Ok(());
    }
    let aliases: Vec<String> = aliases.iter().map(|name| format!("`--{name}`")).collect();
    write!(out, " Also {}.", aliases.join(", "))
}

fn one_of<'w>(words: impl Iterator<Item = (&'w str, Option<String>)>) -> String {
    let words: Vec<String> = words
        .map(|(word, means)| match means {
            Some(means) => format!("`{word}` ({})", means.trim().trim_end_matches('.')),
            None => format!("`{word}`"),
        })
        .collect();
    format!("One of {}.", words.join(", "))
}

/// Type and default of a setting, in words.
pub fn type_of(setting: &Setting) -> String {
    format!("{}; default: {}", setting.form.words(), (setting.default)())
}

fn write_settings(out: &mut impl Write) -> Result<(), CliError> {
    writeln!(
        out,
        "\n## Settings\n\nEach is a key of the configuration file (`--config`) and a flag, which \
         wins over the file:\n\n```\napiVersion: {API_VERSION}\nkind: Configuration\n\
         masqueradeBit: 15\ndetectLocalMode: BridgeInterface\ndetectLocal: {{bridgeInterface: \
         cni0}}\n```\n"
    )?;
    let command = SettingArgs::augment_args(Command::new("settings"));
    for setting in settings() {
        write!(out, "- `{}`", setting.key)?;
        if let Some(flag) = setting.flag {
            let arg = command
                .get_arguments()
                .find(|arg| arg.get_id() == flag.name);
            write!(
                out,
                ", `--{}{}`",
                flag.name,
                arg.map(value_of).unwrap_or_default()
            )?;
        }
        write!(out, " ({}): {}.", type_of(setting), setting.help())?;
        if let Form::Words(words) = setting.form {
            let means = |means: &str| Some(means.to_owned());
            write!(
                out,
                " {}",
                one_of(words.iter().map(|(word, m)| (*word, means(m))))
            )?;
        }
        write_aliases(setting.flag.map_or(&[], |flag| flag.aliases), out)?;
        writeln!(out)?;
    }
    Ok(())
}
