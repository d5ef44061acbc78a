//! A tracked connection with names, in words and as JSON.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::cli::names::{Asked, Names, Place};
use crate::host::conntrack::{Change, Entry, Sum};

/// Why a line of `--follow` is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It was tracked at the start.
    Listed,
    New,
    Update,
    Gone,
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        match change {
            Change::New => Self::New,
            Change::Update => Self::Update,
            Change::Gone => Self::Gone,
        }
    }
}

impl Event {
    /// The marks of a plan.
    pub const fn mark(self) -> &'static str {
        match self {
            Self::Listed => " ",
            Self::New => "+",
            Self::Update => "~",
            Self::Gone => "-",
        }
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Listed => "listed",
            Self::New => "new",
            Self::Update => "update",
            Self::Gone => "gone",
        }
    }
}

/// A flow of ours.
pub struct Row {
    pub entry: Entry,
    pub client: Option<Place>,
    pub asked: Asked,
    pub endpoint: Option<Place>,
    /// Whether its endpoint is gone; `None` if that was not asked.
    pub stale: Option<bool>,
}

impl Row {
    /// `None` if the flow is none of our frontends'.
    pub fn of(names: &Names, entry: Entry, stale: Option<bool>) -> Option<Self> {
        let flow = &entry.flow;
        Some(Self {
            asked: names.asked(flow)?,
            client: names.place(flow.original.src).cloned(),
            endpoint: names.place(flow.reply.src).cloned(),
            stale,
            entry,
        })
    }

    /// By what was asked, by whom, and from which port.
    pub fn order(&self) -> (&str, IpAddr, u16) {
        let client = self.entry.flow.original;
        (&self.asked.name, client.src, client.sport)
    }

    /// False if nobody translated it: it was refused, or began before its Service.
    fn is_translated(&self) -> bool {
        self.entry.flow.is_dst_nat()
    }

    fn is_masqueraded(&self) -> bool {
        self.entry.flow.is_src_nat()
    }

    /// In words.
    pub fn line(&self, wide: bool) -> String {
        let flow = &self.entry.flow;
        let client = match &self.client {
            Some(place) => place.name.clone(),
            None => flow.original.src.to_string(),
        };
        let to = match &self.endpoint {
            _ if !self.is_translated() => "nobody: not translated".to_owned(),
            Some(place) => match &place.node {
                Some(node) if place.pod.is_some() => format!("{} {node}", place.name),
                _ => place.name.clone(),
            },
            None => SocketAddr::new(flow.reply.src, flow.reply.sport).to_string(),
        };
        let mut line = format!("{client} -> {} -> {to}", self.asked.name);
        if self.is_translated() && self.is_masqueraded() {
            line += ", masqueraded";
        }
        if let Some(state) = self.entry.state {
            line = format!("{line}, {state}");
        }
        if let Some([there, back]) = self.entry.counted {
            line = format!("{line}, {} out, {} back", said(there), said(back));
        }
        if self.stale == Some(true) {
            line += ", stale: its endpoint is gone";
        }
        if wide {
            let at = |addr, port| SocketAddr::new(addr, port);
            let [from, to, by, seen] = [
                at(flow.original.src, flow.original.sport),
                at(flow.original.dst, flow.original.dport),
                at(flow.reply.src, flow.reply.sport),
                at(flow.reply.dst, flow.reply.dport),
            ];
            line = format!("{line}  [{from} -> {to}, answered by {by} to {seen}]");
            if let Some(seconds) = self.entry.timeout {
                line = format!("{line} for {seconds} s");
            }
        }
        line
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        let flow = &self.entry.flow;
        let end = |addr: IpAddr, port: u16, place: Option<&Place>| {
            json!({
                "address": addr.to_string(),
                "port": port,
                "name": place.map(|place| &place.name),
                "node": place.and_then(|place| place.node.as_ref()),
            })
        };
        let mut asked = end(flow.original.dst, flow.original.dport, None);
        asked["name"] = self.asked.name.clone().into();
        asked["kind"] = json!(self.asked.kind);
        asked["service"] = json!(self.asked.service.as_ref().map(ToString::to_string));
        asked["portName"] = json!(self.asked.port_name);
        let endpoint = self.is_translated().then(|| {
            let endpoint = self.endpoint.as_ref();
            end(flow.reply.src, flow.reply.sport, endpoint)
        });
        let counted = self.entry.counted.map(|[there, back]| {
            json!({
                "out": {"packets": there.packets, "bytes": there.bytes},
                "back": {"packets": back.packets, "bytes": back.bytes},
            })
        });
        json!({
            "protocol": flow.protocol.to_string(),
            "client": end(flow.original.src, flow.original.sport, self.client.as_ref()),
            "destination": asked,
            "endpoint": endpoint,
            "masqueraded": self.is_translated() && self.is_masqueraded(),
            "seenAs": SocketAddr::new(flow.reply.dst, flow.reply.dport).to_string(),
            "state": self.entry.state,
            "counters": counted,
            "timeoutSeconds": self.entry.timeout,
            "stale": self.stale,
        })
    }
}

fn said(sum: Sum) -> String {
    let noun = if sum.packets == 1 {
        "packet"
    } else {
        "packets"
    };
    format!("{} {noun} {} bytes", sum.packets, sum.bytes)
}
