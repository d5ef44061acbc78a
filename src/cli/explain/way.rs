//! A packet's way over this node, hop by hop, in words and as JSON.

use std::io::{self, Write};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::path::{Hop, Path, State};

/// In words: a tick, a cross or a question mark at each hop, the first cross once more at the
/// end with what would repair it.
pub fn text(out: &mut impl Write, path: &Path) -> io::Result<()> {
    writeln!(out, "the way over this node:")?;
    for hop in &path.hops {
        line(out, hop, "  ")?;
    }
    for leg in &path.legs {
        if let Some(to) = &leg.to {
            let to = SocketAddr::new(to.addr, to.port.get());
            writeln!(out, "  to {to} ({:.2} %)", leg.share * 100.0)?;
        }
        for hop in &leg.hops {
            line(out, hop, "    ")?;
        }
    }
    if let Some(hop) = &path.probe {
        line(out, hop, "  ")?;
    }
    let Some(hop) = path.broken() else {
        return match path.all().any(|hop| hop.state == State::Unknown) {
            false => writeln!(out, "nothing of this node is in its way"),
            true => writeln!(
                out,
                "nothing is known to be in its way; see what cannot be told"
            ),
        };
    };
    writeln!(out, "{}: {}", hop.at, hop.found)?;
    match &hop.repair {
        Some(repair) => writeln!(out, "repair: {repair}"),
        None => Ok(()),
    }
}

fn line(out: &mut impl Write, hop: &Hop, indent: &str) -> io::Result<()> {
    let mark = match hop.state {
        State::Fine => "\u{2713}",
        State::Unknown => "?",
        State::Broken => "\u{2717}",
    };
    writeln!(out, "{indent}{mark} {:<20} {}", hop.at, hop.found)
}

/// As JSON: every hop, and the first that is broken.
pub fn json(path: &Path) -> Value {
    let hops = |hops: &[Hop]| hops.iter().map(hop).collect::<Vec<_>>();
    let legs: Vec<Value> = path
        .legs
        .iter()
        .map(|leg| {
            json!({
                "to": leg.to.map(|to| SocketAddr::new(to.addr, to.port.get()).to_string()),
                "probability": leg.share,
                "hops": hops(&leg.hops),
            })
        })
        .collect();
    json!({
        "hops": hops(&path.hops),
        "legs": legs,
        "probe": path.probe.as_ref().map(hop),
        "broken": path.broken().map(hop),
    })
}

fn hop(hop: &Hop) -> Value {
    let state = match hop.state {
        State::Fine => "fine",
        State::Unknown => "unknown",
        State::Broken => "broken",
    };
    json!({
        "at": hop.at.to_string(),
        "state": state,
        "found": hop.found,
        "owner": hop.owner,
        "repair": hop.repair,
    })
}
