//! `svcnat lab`, as it is typed.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::args::{CommonArgs, Output};
use crate::cli::input_args::InputArgs;

/// Examples of `lab`.
pub const EXAMPLES: &str = "Examples:
  svcnat lab up -f manifests/                      nodes, pods, a router and a client, svcnat on each node
  svcnat lab show
  svcnat lab ask pod/visitor svc/web -n 60         who answers, and whom he sees
  svcnat lab exec client -- curl http://192.168.50.11:30080/
  svcnat lab exec node/node1 -- svcnat status      any program, as if it ran there
  svcnat lab change -f manifests/                  pods come and go
  svcnat lab down

Each place is a network namespace of one process in the background, and goes with it: the
host's own network gets nothing of it.";

/// `svcnat lab`.
#[derive(Debug, Args)]
pub struct LabArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// What can be done with a lab.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// Build a network out of Nodes, Pods, workloads and Services, and install svcnat on its nodes
    Up(UpArgs),
    /// Draw a lab: places, addresses, who answers where, and Services
    Show(ShowArgs),
    /// List the labs of this machine
    List(ListArgs),
    /// Run a program in a place: node/NAME, pod/[NAMESPACE/]NAME, client, router
    Exec(ExecArgs),
    /// Ask from a place, and say who answered and whom he saw: exit 0 if somebody did each time
    Ask(AskArgs),
    /// Change a lab to other manifests: pods come and go, svcnat follows
    Change(ChangeArgs),
    /// Take a lab down, with all that runs in it
    Down(DownArgs),
    /// Keep a lab: started by `lab up`
    #[command(hide = true)]
    Keep(UpArgs),
}

/// The name of a lab.
#[derive(Debug, Args)]
pub struct NameArgs {
    /// Which lab; left out, the only one there is
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
}

/// `svcnat lab up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// What to call it
    #[arg(long, value_name = "NAME", default_value = "lab")]
    pub name: String,
    /// A Topology document: further clients and links, MTU, failed links, other programs' rules
    /// (docs/lab.md); left out, topology.yaml in a folder of -f
    #[arg(long, value_name = "FILE")]
    pub topology: Option<PathBuf>,
    /// Leave the nodes as an installer does: svcnat, or another, is yours to start
    #[arg(long)]
    pub bare: bool,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from. A node that they name is the only one with svcnat.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// `svcnat lab change`.
#[derive(Debug, Args)]
pub struct ChangeArgs {
    /// Manifests: a file, a folder, or - for standard input; YAML or JSON; repeatable
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", required = true)]
    pub filename: Vec<PathBuf>,
    /// Which lab.
    #[command(flatten)]
    pub lab: NameArgs,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat lab show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which lab.
    #[command(flatten)]
    pub lab: NameArgs,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat lab list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat lab exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Where
    pub place: String,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<std::ffi::OsString>,
    /// Which lab.
    #[command(flatten)]
    pub lab: NameArgs,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat lab ask`.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// Who asks: a place
    pub from: String,
    /// What for: ADDRESS:PORT[/PROTOCOL], or svc/, lb/, node/ or pod/ with a name, as of explain;
    /// or client or router with a port
    pub to: String,
    /// How often, each time over a new connection
    #[arg(short = 'n', long, default_value_t = 1, value_name = "COUNT",
        value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// How long to wait for each answer
    #[arg(long, default_value = "4s", value_parser = crate::cli::duration::duration, value_name = "TIME")]
    pub timeout: std::time::Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Which lab.
    #[command(flatten)]
    pub lab: NameArgs,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat lab down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Every lab of this machine
    #[arg(long, conflicts_with = "name")]
    pub all: bool,
    /// Which lab.
    #[command(flatten)]
    pub lab: NameArgs,
    /// How much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

impl LabVerb {
    /// What all of them have.
    pub const fn common(&self) -> &CommonArgs {
        match self {
            Self::Up(args) | Self::Keep(args) => &args.common,
            Self::Show(args) => &args.common,
            Self::List(args) => &args.common,
            Self::Exec(args) => &args.common,
            Self::Ask(args) => &args.common,
            Self::Change(args) => &args.common,
            Self::Down(args) => &args.common,
        }
    }
}
