//! `svcnat lab show`: a drawing, as a tree of who hangs on whom.

use std::io::Write;

use super::args::ShowArgs;
use super::folder::{Folder, PlaceView, View};
use crate::cli::args::Output;
use crate::cli::error::CliError;

/// So many endpoints are drawn with their names.
const MANY: usize = 8;

pub fn run(args: &ShowArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let view = Folder::meant(args.lab.name.as_deref())?.view()?;
    match args.output {
        Output::Text => draw(&view, out)?,
        Output::Json => writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&view).unwrap_or_default()
        )?,
    }
    Ok(0)
}

/// The places from the clients to the pods, and the Services.
pub fn draw(view: &View, out: &mut impl Write) -> std::io::Result<()> {
    let of = |kind: &'static str| {
        view.places
            .iter()
            .filter(move |(_, place)| place.kind == kind)
    };
    let mut lines: Vec<(String, &PlaceView)> = Vec::new();
    lines.extend(of("client").map(|(name, place)| (name.clone(), place)));
    lines.extend(of("router").map(|(name, place)| (format!("└─ {name}"), place)));
    for (last, (name, place)) in with_last(of("node")) {
        let (branch, trunk) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        lines.push((format!("   {branch}{name}"), place));
        let own = of("pod").filter(|(_, pod)| name.strip_prefix("node/") == pod.node.as_deref());
        let mut own: Vec<_> = own.collect();
        own.sort_by_key(|(name, _)| counted(name));
        for (last, (name, pod)) in with_last(own.into_iter()) {
            let branch = if last { "└─ " } else { "├─ " };
            lines.push((format!("   {trunk}{branch}{name}"), pod));
        }
    }
    let width = lines.iter().map(|(text, _)| text.chars().count()).max();
    let width = width.unwrap_or(0);
    let told: Vec<(String, String)> = lines.iter().map(|(_, place)| told(place)).collect();
    // The addresses of places that have more to tell.
    let more = told.iter().filter(|(_, more)| !more.is_empty());
    let column = more.map(|(own, _)| own.len()).max().unwrap_or(0);
    for ((text, _), (own, more)) in lines.iter().zip(&told) {
        let line = format!("{text:width$}  {own:column$}  {more}");
        writeln!(out, "{}", line.trim_end())?;
    }
    let width = view
        .services
        .iter()
        .map(|service| service.name.chars().count())
        .max();
    for service in &view.services {
        let name = &service.name;
        let to = match &service.endpoints[..] {
            // Names alone: there is nothing to lead anywhere.
            [] if service.at.iter().all(|at| !at.contains('/')) => String::new(),
            [] => " -> nobody".to_owned(),
            some if some.len() > MANY => {
                format!(" -> {}, ... ({})", some[..MANY].join(", "), some.len())
            }
            some => format!(" -> {}", some.join(", ")),
        };
        writeln!(
            out,
            "{name:width$}  {}{to}",
            service.at.join(", "),
            width = width.unwrap_or(0)
        )?;
    }
    writeln!(out, "objects: {}", view.objects.display())
}

/// Each with whether it is the last.
fn with_last<T>(all: impl Iterator<Item = T>) -> impl Iterator<Item = (bool, T)> {
    let mut all = all.peekable();
    std::iter::from_fn(move || {
        let next = all.next()?;
        Some((all.peek().is_none(), next))
    })
}

/// A name for sorting: `web-2` comes before `web-10`.
pub fn counted(name: &str) -> (String, usize, String) {
    let before = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = &name[before.len()..];
    (before.to_owned(), number.len(), number.to_owned())
}

/// Addresses, and where it answers.
fn told(place: &PlaceView) -> (String, String) {
    let addresses: Vec<String> = place.addresses.iter().map(ToString::to_string).collect();
    let mut more = Vec::new();
    if !place.bridge.is_empty() {
        more.push(format!("docker0 {}", place.bridge.join(" ")));
    }
    if place.svcnat == Some(false) {
        more.push("without svcnat".to_owned());
    }
    if !place.ports.is_empty() {
        more.push(format!("answers at {}", place.ports.join(", ")));
    }
    (addresses.join(" "), more.join("  "))
}
