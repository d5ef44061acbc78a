//! Arguments of the verbs that look at real packets.

use clap::{Args, ValueEnum};

use super::args::CommonArgs;
use super::input_args::InputArgs;

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
