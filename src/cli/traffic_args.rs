//! Arguments of the verbs that look at real packets.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{CommonArgs, Output};
use super::duration::duration;
use super::input_args::InputArgs;
use crate::config::InterfaceName;

/// What `flows --help` ends with.
pub const FLOWS_EXAMPLES: &str = "Examples:
  svcnat flows -f lab/                      pod/visitor -> svc/web:80 -> pod/web-2 n2, masqueraded, ESTABLISHED
  svcnat flows                              Services by what is installed, clients by address
  svcnat flows -f lab/ --service web --state established
  svcnat flows -f lab/ --stale              those that apply would cut: their endpoint is gone
  svcnat flows -f lab/ --follow             then what comes (+), changes (~) and goes (-)

Only the first packet of a connection is translated by rules; its flow says where it went.
The kernel counts packets if net.netfilter.nf_conntrack_acct is 1.";

/// How flows are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FlowFormat {
    /// A line each, by names.
    #[default]
    Text,
    /// With addresses, ports and how long it is remembered.
    Wide,
    /// JSON: one document, or one a line with --follow.
    Json,
}

/// The state of a flow, as the kernel calls it.
fn flow_state(text: &str) -> Result<String, String> {
    let known: Vec<&str> = crate::host::conntrack::states().collect();
    if known.iter().any(|known| known.eq_ignore_ascii_case(text)) {
        return Ok(text.to_owned());
    }
    let hint = crate::text::did_you_mean(&text.to_ascii_uppercase(), known.iter().copied());
    Err(format!(
        "{text:?} is no state such as ESTABLISHED, TIME_WAIT, replied or unanswered{hint}"
    ))
}

/// `svcnat flows`.
#[derive(Debug, Args)]
pub struct FlowsArgs {
    /// Only those of this Service: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub service: Option<String>,
    /// Only those that this Pod has as a client or as an endpoint: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "NAME")]
    pub pod: Option<String>,
    /// Only those in this state: of TCP and SCTP as the kernel calls it (ESTABLISHED,
    /// SYN_SENT, TIME_WAIT, ...), of UDP `replied` or `unanswered`
    #[arg(long, value_name = "STATE", value_parser = flow_state)]
    pub state: Option<String>,
    /// Only those of Services and host ports of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Only those whose endpoint is gone: UDP and SCTP flows that `apply` would cut
    #[arg(long, conflicts_with = "follow")]
    pub stale: bool,
    /// Go on with what comes, changes and goes, until interrupted; the inputs are read once
    #[arg(short = 'F', long, alias = "watch")]
    pub follow: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: FlowFormat,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// What `trace --help` ends with.
pub const TRACE_EXAMPLES: &str = "Examples:
  svcnat trace pod/visitor svc/web:80 -f lab/          then, in the pod: curl http://10.254.176.53
  svcnat trace 203.0.113.9 node/n1:30080 -f lab/ --for 2m
  svcnat trace 172.17.0.2 10.254.0.10:53/udp --all -o json

A table svcnat-trace marks the packets of this source, destination, port and protocol, and no
others; it goes when the trace ends, however that is. Lines with = were foretold, the first with !
was not; rules of other programs are told by table, chain and handle (nft -a list chain ...).

Exit codes: 0 as foretold, 1 not, 2 bad usage or input, 3 the host refused, 4 no packet came.";

/// `svcnat trace`.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// Who sends: as of `explain`. A node's own packets have the address that its routes give
    /// them
    pub source: String,
    /// Where to: as of `explain`
    pub destination: String,
    /// Namespace of names that do not say theirs
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// How long to wait for the packet
    #[arg(
        long = "for",
        value_name = "DURATION",
        value_parser = duration,
        default_value = "30s"
    )]
    pub time: Duration,
    /// Go on for all of that time, with every packet; without it the first one that opens a
    /// connection (of UDP: any) is told, and then the end
    #[arg(long)]
    pub all: bool,
    /// Interface the packet comes in by; for detect-local modes that look at it
    #[arg(long, value_name = "NAME")]
    pub iif: Option<InterfaceName>,
    /// Output format; of JSON a document a packet
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}
