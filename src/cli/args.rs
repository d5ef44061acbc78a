//! What the user typed: flags and verbs, validated one by one. `inputs.rs` resolves them
//! together with the configuration file into something to act on.

#[cfg(feature = "daemon")]
use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use super::apply_args::{ApplyArgs, ConfirmArgs, DryRun, GuardianArgs, LossArgs, RollbackArgs};
pub use super::duration::duration;
pub use super::get::args::{GetArgs, ListFormat, Resource};
use super::input_args::InputArgs;
#[cfg(feature = "daemon")]
use super::kube_proxy_flags::KubeProxyFlags;
use super::traffic_args::{FLOWS_EXAMPLES, FlowsArgs, TRACE_EXAMPLES, TraceArgs};
use super::verify::args::EXAMPLES as VERIFY_EXAMPLES;
pub use super::verify::args::VerifyArgs;
use crate::config::InterfaceName;
#[cfg(feature = "daemon")]
use crate::follow::NameWriters;
#[cfg(feature = "daemon")]
use crate::observe::LogFormat;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Kubernetes service NAT for Linux: manifests in, working service network out.
///
/// svcnat turns Services, endpoints, host ports, pod CIDRs and nodes into one nftables
/// ruleset, whose rules depend on what kinds of things there are and whose elements hold the
/// things themselves, and installs it over netlink in one transaction. It acts on the network namespace it runs in and touches nothing but its
/// own tables (ip svcnat, ip6 svcnat) and its own routes.
#[derive(Debug, Parser)]
#[command(
    name = "svcnat",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Examples:
  svcnat render -f lab/ --node-name n1 --service-cluster-ip-range 10.254.0.0/16
  svcnat diff -f lab/ --config svcnat.yaml
  kubectl get services,endpointslices,pods,nodes -A -o json | svcnat apply -f - --node-name n1
  svcnat delete

Exit codes: 0 done, 1 `diff`, `check`, `explain --live` or `verify` found something, 2 bad usage or
input, 3 the host refused."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Print this node's ruleset; needs no privilege and touches nothing
    #[command(after_help = "Examples:
  svcnat render -f lab/ | nft -c -f -       let nft check it
  svcnat render -f lab/ --elements          only the elements, without the rules
  svcnat render -f lab/ -o json             libnftables JSON")]
    Render(RenderArgs),
    /// Say what apply would change, object by object: exit 0 nothing, 1 something
    #[command(after_help = "Examples:
  svcnat diff -f lab/                       + comes, ~ changes, - goes
  svcnat diff -f lab/ -v                    with the kernel's elements under each object
  svcnat diff -f lab/ -q                    the exit code alone
  svcnat diff -f lab/ -o json               for programs: docs/plan.md
  svcnat diff -f lab/ --out plan.json       and keep the plan, for `svcnat apply plan.json`")]
    Diff(DiffArgs),
    /// Install everything in one transaction and say what changed
    #[command(after_help = "Examples:
  svcnat apply -f lab/ --dry-run=client     what would change, by comparing
  svcnat apply -f lab/ --dry-run=server     the kernel checks the very batch and drops it
  svcnat apply -f lab/                      a second run sends nothing
  svcnat apply -f lab/ --confirm 60s        the state before comes back unless somebody says
                                            `svcnat confirm` in time: also if this cut you off
  svcnat apply plan.json                    what `diff --out plan.json` showed, or nothing")]
    Apply(ApplyArgs),
    /// Keep what `apply --confirm` installed: from any shell, as root
    Confirm(ConfirmArgs),
    /// Go back to the state before the last apply
    #[command(after_help = "Examples:
  svcnat rollback --dry-run                 what would be put back
  svcnat rollback

One step: what an apply changed of tables, routes and kernel settings is kept in /run/svcnat
until the next apply, or the next start of the machine. Refused if the tables are no longer as
that apply left them.")]
    Rollback(RollbackArgs),
    /// Put the state before back unless it is confirmed: started by `apply --confirm`
    #[command(hide = true)]
    Guardian(GuardianArgs),
    /// Keep it installed: follow the input files, repair what others change
    #[cfg(feature = "daemon")]
    #[command(after_help = "Examples:
  svcnat run -f /etc/svcnat/manifests --config /etc/svcnat/config.yaml

Stops on SIGTERM or SIGINT and leaves the rules in place; SIGHUP reads the inputs again.")]
    Run(RunArgs),
    /// Remove everything that is ours: tables and routes
    Delete(DeleteArgs),
    /// Validate the inputs and this host: what is in the way of its services, and what repairs it
    #[command(after_help = "Examples:
  svcnat check -f lab/                      each finding once, the worst last
  svcnat check -f lab/ --fix                set what is svcnat's to set, then look again
  svcnat check -f lab/ -o json              for programs

An error costs packets, a warning may, a notice does not. Exit codes: 0 nothing above a notice,
1 a warning or an error, 2 an error in the inputs or a bad usage, 3 the host could not be asked.

With -o json, one document: `problems`, each with `severity` (error, warning, notice), `origin`
(file and document, or null), `object`, `field` (or \"\"), `message`, `owner` (the other program's
table, process or routing protocol, or null) and `repair` (one line, or null); `set`, a line for
each thing that --fix has set.")]
    Check(CheckArgs),
    /// List what the inputs mean on this node, or, with --live, what is installed
    #[command(after_help = "Examples:
  svcnat get services -f lab/ -o wide
  svcnat get endpoints web -n default -f lab/ -o json
  svcnat get services -f lab/ -l 'app in (web,db),!canary' -w
  svcnat get endpoints --live                what the kernel holds, whoever installed it")]
    Get(GetArgs),
    /// Say on one screen what is installed, who keeps it, and what needs attention
    #[command(after_help = "Examples:
  svcnat status
  svcnat status -f lab/                     and whether it is what the inputs say

Exit codes: 0 installed, 3 not installed, 4 it cannot be told, as of systemctl; 2 bad usage or input.")]
    Status(StatusArgs),
    /// Tell where a packet goes and why, without sending it
    #[command(after_help = "Examples:
  svcnat explain 172.17.0.2 10.254.176.53:80/tcp -f lab/
  svcnat explain 203.0.113.9 192.168.50.11:30080/udp -f lab/ -o json
  svcnat explain pod/visitor svc/web -f lab/ --live --probe=5s")]
    Explain(ExplainArgs),
    /// List the tracked connections of our frontends, by names, or follow them
    #[command(after_help = FLOWS_EXAMPLES)]
    Flows(FlowsArgs),
    /// Watch what the kernel does with a real packet, beside what was foretold of it
    #[command(after_help = TRACE_EXAMPLES)]
    Trace(TraceArgs),
    /// Build a whole service network on this machine, of network namespaces, and ask around in it
    #[cfg(feature = "lab")]
    #[command(after_help = super::lab::args::EXAMPLES)]
    Lab(super::lab::args::LabArgs),
    /// Hold packets, and what is to become of them, against what does
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Print a completion script for a shell
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff)
    Man,
    /// Print docs/reference.md: every verb, option and key
    #[command(hide = true)]
    Reference,
    /// Say which version this is, what of it is built, and which forms it reads and writes
    Version {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Output,
    },
}

impl Verb {
    /// What all verbs have that look at anything.
    #[must_use]
    pub const fn common(&self) -> Option<&CommonArgs> {
        match self {
            Self::Render(args) => Some(&args.common),
            Self::Diff(args) => Some(&args.common),
            Self::Apply(args) => Some(&args.common),
            #[cfg(feature = "daemon")]
            Self::Run(args) => Some(&args.common),
            Self::Delete(args) => Some(&args.common),
            Self::Confirm(args) => Some(&args.common),
            Self::Rollback(args) => Some(&args.common),
            Self::Check(args) => Some(&args.common),
            Self::Get(args) => Some(&args.common),
            Self::Status(args) => Some(&args.common),
            Self::Explain(args) => Some(&args.common),
            Self::Flows(args) => Some(&args.common),
            Self::Trace(args) => Some(&args.common),
            #[cfg(feature = "lab")]
            Self::Lab(args) => Some(args.verb.common()),
            Self::Verify(args) => Some(&args.common),
            Self::Guardian(_)
            | Self::Completions { .. }
            | Self::Man
            | Self::Reference
            | Self::Version { .. } => None,
        }
    }
}

/// Help heading of what is common to all verbs.
pub const COMMON: &str = "Common options";

/// What every verb has that looks at inputs or at the kernel.
#[derive(Debug, Args)]
pub struct CommonArgs {
    /// Act on this network namespace: a name of `ip netns`, or a path such as /proc/1/ns/net.
    /// Files are the caller's; sockets, an API server's too, and kernel settings are the
    /// namespace's
    #[arg(long, value_name = "NAME|PATH", help_heading = COMMON)]
    pub netns: Option<String>,
    /// Print nothing but errors: the exit code says the rest
    #[arg(short, long, help_heading = COMMON)]
    pub quiet: bool,
}

/// `text` or `json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// `nft` or `json`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RulesetFormat {
    /// Text for `nft -f`.
    #[default]
    Nft,
    /// libnftables JSON.
    Json,
}

/// `svcnat render`.
#[derive(Debug, Args)]
pub struct RenderArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: RulesetFormat,
    /// Print only the elements, one command a line: what your objects add
    #[arg(long)]
    pub elements: bool,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

/// How a plan is shown.
#[derive(Debug, Args)]
pub struct ViewArgs {
    /// Under each object, what the kernel is told: elements, rules, routes
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// Colours
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub color: Color,
}

/// `svcnat diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// Keep the plan in this file: `svcnat apply FILE` carries out exactly that, or says what
    /// moved since and does nothing
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// How the plan is shown.
    #[command(flatten)]
    pub view: ViewArgs,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// What `run` does when others change our tables.
#[cfg(feature = "daemon")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DriftArg {
    /// Put them right at once.
    #[default]
    Repair,
    /// Say so.
    Report,
    /// Do not look.
    Ignore,
}

/// `--proxy-mode` of kube-proxy on Linux.
#[cfg(feature = "daemon")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// What this program does.
    Nftables,
    /// Done with nftables all the same.
    Iptables,
    /// Done with nftables all the same.
    Ipvs,
}

/// `svcnat run`.
#[cfg(feature = "daemon")]
#[derive(Debug, Args)]
pub struct RunArgs {
    /// What to do when others change our tables
    #[arg(long, value_enum, default_value_t)]
    pub drift: DriftArg,
    /// When to ask the kernel who changed our tables; listening slows others' large commits
    #[arg(long, value_enum, default_value_t, hide_short_help = true)]
    pub name_writers: NameWriters,
    /// Remove everything that is ours when stopped
    #[arg(long)]
    pub cleanup_on_exit: bool,
    /// Follow the Kubernetes API with the service account of this pod
    #[arg(long)]
    pub kubernetes: bool,
    /// Follow the Kubernetes API with this kubeconfig
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of an API server, instead of the kubeconfig's; several are tried in turn
    #[arg(long, value_name = "URL", alias = "master", value_delimiter = ',')]
    pub apiserver: Vec<String>,
    /// Objects per page of a list
    #[arg(long, value_name = "N", default_value_t = 500, hide_short_help = true)]
    pub api_page_size: u32,
    /// Least time between two commits; a lone change never waits
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = duration,
        default_value = "5ms",
        aliases = ["iptables-min-sync-period", "nftables-min-sync-period"]
    )]
    pub min_sync_period: Duration,
    /// How often everything is read back from the kernel and compared
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
    pub verify_period: Duration,
    /// What may be lost at once.
    #[command(flatten)]
    pub loss: LossArgs,
    /// Keep the last good state here, and install it while the API does not answer
    #[arg(long, value_name = "FOLDER")]
    pub state_dir: Option<PathBuf>,
    /// Where /healthz, /livez and /readyz answer, to this host with reasons, and /state;
    /// "none" for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10256")]
    pub healthz_bind_address: String,
    /// Where /metrics answers; "none" for nowhere
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10249")]
    pub metrics_bind_address: String,
    /// Show metrics under kube-proxy's names as well
    #[arg(long)]
    pub kube_proxy_metric_names: bool,
    /// Most series that --service-counters adds to the metrics
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10_000,
        hide_short_help = true
    )]
    pub service_counter_series: usize,
    /// Form of the log
    #[arg(long, value_enum, default_value_t, alias = "logging-format")]
    pub log_format: LogFormat,
    /// Log more: -v debug, -vv trace, -vvv what the libraries below say, too
    #[arg(short, long, action = clap::ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
    /// Own our tables (Linux 6.9): nobody else can change or flush them, and they outlive us
    #[arg(long)]
    pub own_tables: bool,
    /// Remove kube-proxy's nftables tables once ours are in force and no packet needs them.
    #[arg(long)]
    pub take_over_kube_proxy: bool,
    /// Go on although another svcnat writes to this network namespace
    #[arg(long)]
    pub beside_run: bool,
    /// kube-proxy's; every mode of it is one nftables ruleset here
    #[arg(long, value_enum, hide = true)]
    pub proxy_mode: Option<ProxyMode>,
    /// kube-proxy's: this node's address, unless it is 0.0.0.0 or ::
    #[arg(long, value_name = "IP", hide = true)]
    pub bind_address: Option<IpAddr>,
    /// kube-proxy's flags without a meaning here.
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `svcnat delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Go on although another svcnat writes to this network namespace
    #[arg(long)]
    pub beside_run: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Set the kernel settings that svcnat needs, unless --sysctls=ignore, and the routes to
    /// other nodes' pods that are missing, unless --manage-routes=false; nothing else. Then look
    #[arg(long)]
    pub fix: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `svcnat status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where the agent of this network namespace answers: its --healthz-bind-address
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:10256")]
    pub agent: SocketAddr,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `svcnat explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Who sends: an address, pod/[NAMESPACE/]NAME, node/NAME or client/ADDRESS
    pub source: String,
    /// Where to: ADDRESS:PORT[/PROTOCOL], with IPv6 addresses in brackets and TCP by default;
    /// `svc/[NAMESPACE/]NAME[:PORT]`, `lb/[NAMESPACE/]NAME[:PORT]`, node/NAME:PORT or
    /// pod/[NAMESPACE/]NAME:PORT
    pub destination: String,
    /// Namespace of names that do not say theirs
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Interface the packet comes in by; for detect-local modes that look at it
    #[arg(long, value_name = "NAME")]
    pub iif: Option<InterfaceName>,
    /// The packet is sent by this node itself, not forwarded
    #[arg(long)]
    pub from_node: bool,
    /// Look the packet up in what the kernel holds now (needs CAP_NET_ADMIN)
    #[arg(long)]
    pub live: bool,
    /// With --live, send a real packet too, the only one that explain sends: a connection (TCP,
    /// SCTP) or an empty datagram (UDP), from this node or the pod's network namespace. DURATION
    /// is how long an answer is waited for
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = duration,
        requires = "live"
    )]
    pub probe: Option<Duration>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}
