//! Arguments of `svcnat verify`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::cli::args::CommonArgs;
use crate::cli::input_args::InputArgs;

/// What `verify --help` ends with.
pub const EXAMPLES: &str = "Examples:
  svcnat verify -f lab/ --packets packets.txt
  svcnat verify tests/*/                    folders with input.yaml, config.yaml and packets.txt
  svcnat verify tests/*/ -o junit >verify.xml
  svcnat verify tests/web --write           write down what becomes of each packet now
  svcnat verify tests/*/ --sandbox          installed, in network namespaces of their own
  svcnat verify tests/*/ --send             with real packets between network namespaces
  svcnat verify -f lab/ --packets packets.txt --live
  svcnat verify --packets packets.txt --lab in the lab that is up (svcnat lab up)

A line of packets.txt is `CLIENT DESTINATION -> END`, with ends as of explain:
  pod/visitor svc/web:80 -> pod/web-1 50%, pod/web-2 50%
  203.0.113.9 node/n1:30080 -> pod/web-1 masqueraded, pod/web-2 masqueraded
  pod/visitor svc/web:81/udp -> refused because no port 81

Exit codes: 0 all as written, 1 something otherwise, 2 bad usage or input, 3 the host refused.";

/// How it is said how it went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum VerifyFormat {
    /// What is otherwise, and a line for each file.
    #[default]
    Text,
    /// The Test Anything Protocol, version 14.
    Tap,
    /// JUnit's XML: a suite for each file, a case for each packet.
    Junit,
    /// One document.
    Json,
}

/// `svcnat verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Folders with input.yaml, packets.txt and perhaps config.yaml each
    #[arg(value_name = "FOLDER", conflicts_with_all = ["filename", "packets", "config"])]
    pub folders: Vec<PathBuf>,
    /// The packets of the objects of -f, and what is to become of them
    #[arg(long, value_name = "FILE")]
    pub packets: Option<PathBuf>,
    /// Walk the packets through the planned ruleset; needs no privilege (the default)
    #[arg(long, group = "where")]
    pub model: bool,
    /// Walk them through what is installed in this network namespace, and over this host as
    /// `explain --live` does (needs CAP_NET_ADMIN); nothing is changed
    #[arg(long, group = "where")]
    pub live: bool,
    /// Install in a network namespace of its own, which goes with it, and walk them through what
    /// the kernel has then (needs CAP_SYS_ADMIN); a second apply must send nothing, nft load the
    /// same, and delete leave nothing
    #[arg(long, group = "where")]
    pub sandbox: bool,
    /// Send them for real, around a node with the ruleset and nothing else, whose neighbours have
    /// all addresses and send everything its way: network namespaces that go with it (needs
    /// CAP_SYS_ADMIN and CAP_NET_ADMIN); with the checks of --sandbox
    #[cfg(feature = "lab")]
    #[arg(long, group = "where", conflicts_with = "write")]
    pub send: bool,
    /// Send them in the lab of this name, or in the only one, between its places (`svcnat lab`):
    /// objects and names are the lab's, clients are called as it calls them
    #[cfg(feature = "lab")]
    #[arg(long, group = "where", value_name = "NAME", num_args = 0..=1, default_missing_value = "",
          conflicts_with_all = ["write", "folders", "filename", "config"])]
    pub lab: Option<String>,
    /// Write what becomes of a packet now in place of what is otherwise
    #[arg(long, conflicts_with_all = ["live", "sandbox"])]
    pub write: bool,
    /// Namespace of names that do not say theirs
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: VerifyFormat,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}
