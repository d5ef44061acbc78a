//! What was typed after `svcnat get`.

use clap::{Args, ValueEnum};

use super::selector::Selector;
use crate::cli::args::CommonArgs;
use crate::cli::input_args::InputArgs;

/// What `svcnat get` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Resource {
    /// Services with their addresses and endpoint counts.
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Endpoints behind each frontend, as this node uses them.
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// Routes to the other nodes' pods.
    #[value(alias = "route")]
    Routes,
    /// Host ports of this node's pods.
    #[value(alias = "hostport")]
    Hostports,
}

/// How lists are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// Columns.
    #[default]
    Table,
    /// More columns.
    Wide,
    /// JSON: a List of objects.
    Json,
    /// The same as YAML.
    Yaml,
    /// RESOURCE/NAMESPACE/NAME, one a line.
    Name,
}

/// `svcnat get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// What to list
    #[arg(value_enum)]
    pub resource: Resource,
    /// Only these: NAME, or NAMESPACE/NAME; a route's is its destination
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Only this namespace; all of them are listed otherwise
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// As kubectl has it: all namespaces are what is listed anyway
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Only objects with these labels, as kubectl has it: a=b, a!=b, 'a in (x,y)',
    /// 'a notin (x)', a, '!a', with commas between them. Endpoints have their Service's labels
    /// and kubernetes.io/service-name, host ports their Pod's, routes their Node's
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "names")]
    pub selector: Option<Selector>,
    /// After the list, each object that changes, until interrupted
    #[arg(short, long)]
    pub watch: bool,
    /// What is installed, from the kernel alone; needs no input, and root
    #[arg(long, conflicts_with_all = ["filename", "config"])]
    pub live: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: ListFormat,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}
