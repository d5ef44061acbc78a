//! `svcnat lab show`: a drawing, as a tree of who hangs on whom.

use std::io::Write;

use super::args::ShowArgs;
use super::folder::{Folder, PlaceView, View};
use crate::cli::args::Output;
use crate::cli::error::CliError;

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
    let widest = view
        .places
        .keys()
        .map(|name| name.chars().count())
        .max()
        .unwrap_or(0);
    for (name, place) in of("client") {
        line(out, "", name, widest + 6, place)?;
    }
    for (name, place) in of("router") {
        line(out, "└─ ", name, widest + 3, place)?;
    }
    let nodes: Vec<_> = of("node").collect();
    for (n, (name, place)) in nodes.iter().enumerate() {
        let last = n + 1 == nodes.len();
        let (branch, trunk) = if last {
            ("└─ ", "   ")
        } else {
            ("├─ ", "│  ")
        };
        line(out, &format!("   {branch}"), name, widest, place)?;
        let own = of("pod").filter(|(_, pod)| name.strip_prefix("node/") == pod.node.as_deref());
        let pods: Vec<_> = own.collect();
        for (m, (name, pod)) in pods.iter().enumerate() {
            let branch = if m + 1 == pods.len() {
                "└─ "
            } else {
                "├─ "
            };
            line(
                out,
                &format!("   {trunk}{branch}"),
                name,
                widest.saturating_sub(3),
                pod,
            )?;
        }
    }
    let width = view
        .services
        .iter()
        .map(|service| service.name.chars().count())
        .max();
    for service in &view.services {
        let name = &service.name;
        let to = match &service.endpoints[..] {
            [] => "nobody".to_owned(),
            some => some.join(", "),
        };
        writeln!(
            out,
            "{name:width$}  {} -> {to}",
            service.at.join(", "),
            width = width.unwrap_or(0)
        )?;
    }
    writeln!(out, "objects: {}", view.objects.display())
}

fn line(
    out: &mut impl Write,
    branch: &str,
    name: &str,
    width: usize,
    place: &PlaceView,
) -> std::io::Result<()> {
    let addresses: Vec<String> = place.addresses.iter().map(ToString::to_string).collect();
    let mut text = format!("{branch}{name:width$}  {}", addresses.join(" "));
    if !place.bridge.is_empty() {
        text += &format!("  docker0 {}", place.bridge.join(" "));
    }
    if place.svcnat == Some(false) {
        text += "  without svcnat";
    }
    if !place.ports.is_empty() {
        text += &format!("  answers at {}", place.ports.join(", "));
    }
    writeln!(out, "{}", text.trim_end())
}
