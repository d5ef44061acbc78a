//! From what was typed to something to act on: flags over file over defaults, objects
//! read, problems printed, this node's plan made.

use std::path::PathBuf;

use super::error::CliError;
use super::input_args::InputArgs;
use super::say::{report, say};
use crate::config::file::{
    self, MODES, parse_cidr_list, parse_destinations, parse_node_port_addresses,
};
use crate::config::{Config, DetectLocal, InterfaceName, PartialConfig};
use crate::node::{Node, Objects};
use crate::problem::{Problem, Severity};
use crate::progress::Progress;
use crate::source::{self, Input};
use crate::text::did_you_mean;

/// What installs needs an input: nothing given is not the same as nothing wanted.
///
/// # Errors
/// If no file, folder or standard input was named.
pub fn given(args: &InputArgs) -> Result<(), CliError> {
    if args.filename.is_empty() {
        return Err(CliError::Usage(
            "must specify -f or a cluster: -f FILE, -f FOLDER or -f - (`run` also takes \
             --kubernetes, --kubeconfig or --apiserver)"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Says that there are no objects if none were given, where that is allowed: settings alone
/// have a ruleset too.
pub fn say_if_none(args: &InputArgs) {
    if args.filename.is_empty() {
        say("notice: no objects were given (-f)\n");
    }
}

/// Resolves and prints problems on standard error.
///
/// # Errors
/// If something cannot be used and `--skip-invalid` was not given.
pub fn resolve(args: &InputArgs) -> Result<Node, CliError> {
    resolve_from(args, Severity::Notice)
}

/// The same, saying of the problems only those that are as bad as `least`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_from(args: &InputArgs, least: Severity) -> Result<Node, CliError> {
    let (node, problems) = collect(args)?;
    let said = problems.iter().filter(|p| p.severity >= least);
    report(&said.cloned().collect::<Vec<Problem>>());
    let errors = problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    if errors > 0 && !args.skip_invalid {
        let noun = if errors == 1 { "error" } else { "errors" };
        return Err(CliError::Invalid(format!("{errors} {noun} in the input")));
    }
    Ok(node)
}

/// The same, with the problems handed back instead of printed.
///
/// # Errors
/// If a flag or a file cannot be used at all.
pub fn collect(args: &InputArgs) -> Result<(Node, Vec<Problem>), CliError> {
    let objects = Progress::during("reading the inputs", || objects(args))?;
    Ok(Node::of(objects))
}

/// Settings and objects, without a plan.
///
/// # Errors
/// If a flag or a file cannot be used at all.
pub fn objects(args: &InputArgs) -> Result<Objects, CliError> {
    let (config, notes) = config(args)?;
    let input = |path: &PathBuf| match path.to_str() {
        Some("-") => Input::Stdin,
        _ => Input::Path(path.clone()),
    };
    let sources: Vec<Input> = args.filename.iter().map(input).collect();
    let mut objects = Objects::read(&sources, config).map_err(usage)?;
    objects.problems.splice(0..0, notes);
    Ok(objects)
}

fn usage(error: impl std::fmt::Display) -> CliError {
    CliError::Usage(error.to_string())
}

/// What a flag lists; `None` if it was not given.
fn list<T>(
    flag: &str,
    values: &[String],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, CliError> {
    if values.is_empty() {
        return Ok(None);
    }
    parse(&values.join(","))
        .map(Some)
        .map_err(|e| CliError::Usage(format!("--{flag}: {e}")))
}

/// The settings, flags over file over defaults, and what was found odd in them. One that is
/// wrong is an error whatever becomes of invalid objects: everything else depends on them.
///
/// # Errors
/// If a flag or the file cannot be used.
pub fn config(args: &InputArgs) -> Result<(Config, Vec<Problem>), CliError> {
    let (mut file, mut notes) = (PartialConfig::default(), Vec::new());
    if let Some(path) = &args.config {
        let read = file::read(path).map_err(usage)?;
        (file, notes) = (read.settings, read.notes);
    }
    let mut config = flags(args)?.or(file).or_defaults();
    if config.node_name.is_empty() {
        config.node_name = nix::unistd::gethostname()
            .map(|name| name.to_string_lossy().trim().to_lowercase())
            .unwrap_or_default();
    }
    let wrong: Vec<String> = config
        .validate()
        .iter()
        .map(|p| format!("{}: {}: {}", p.object, p.field, p.message))
        .collect();
    if wrong.is_empty() {
        Ok((config, notes))
    } else {
        Err(CliError::Usage(wrong.join("; ")))
    }
}

/// What the flags say.
fn flags(args: &InputArgs) -> Result<PartialConfig, CliError> {
    let ranges = &args.service_cluster_ip_range;
    let ranges = match &args.service_cluster_ip_range_from {
        Some(path) => Some(source::service_ranges_from(path).map_err(usage)?),
        None => list("service-cluster-ip-range", ranges, parse_cidr_list)?,
    };
    let node_ports = &args.nodeport_addresses;
    let kept = &args.non_masquerade_cidrs;
    Ok(PartialConfig {
        node_name: args.node_name.clone(),
        node_ips: (!args.node_ip.is_empty()).then(|| args.node_ip.clone()),
        cluster_cidrs: list("cluster-cidr", &args.cluster_cidr, parse_cidr_list)?,
        pod_cidrs: list("pod-cidr", &args.pod_cidr, parse_cidr_list)?,
        service_cidrs: ranges,
        nodeport_addresses: list("nodeport-addresses", node_ports, parse_node_port_addresses)?,
        node_port_range: args.service_node_port_range,
        masquerade_all: args.masquerade_all,
        service_counters: args.service_counters,
        masquerade_bit: args.masquerade_bit,
        detect_local: detect_local(args)?,
        egress_masquerade: args.egress_masquerade,
        non_masquerade_cidrs: list("non-masquerade-cidrs", kept, parse_destinations)?,
        masquerade_cidrs: list("masquerade-cidrs", &args.masquerade_cidrs, parse_cidr_list)?,
        legacy_source_ranges: args.source_ranges_annotation,
        manage_routes: args.manage_routes,
        sysctls: args.sysctls,
        unallocated: args.unallocated,
        unserved_external: args.unserved_external,
        ..PartialConfig::default()
    })
}

fn detect_local(args: &InputArgs) -> Result<Option<DetectLocal>, CliError> {
    let mode = args.detect_local_mode.as_deref();
    let names = [
        (
            "pod-bridge-interface",
            &args.pod_bridge_interface,
            "BridgeInterface",
        ),
        (
            "pod-interface-name-prefix",
            &args.pod_interface_name_prefix,
            "InterfaceNamePrefix",
        ),
    ];
    for (flag, value, its) in names {
        if value.is_some() && mode != Some(its) {
            return Err(CliError::Usage(format!(
                "--{flag} has no effect without --detect-local-mode={its}"
            )));
        }
    }
    let Some(mode) = mode else {
        return Ok(None);
    };
    let name = |value: &Option<InterfaceName>, flag: &str| {
        value
            .clone()
            .ok_or_else(|| CliError::Usage(format!("--detect-local-mode {mode} needs --{flag}")))
    };
    let detector = match mode {
        "ClusterCIDR" => DetectLocal::ClusterCidr,
        "NodeCIDR" => DetectLocal::NodeCidr,
        "BridgeInterface" => {
            DetectLocal::BridgeInterface(name(&args.pod_bridge_interface, "pod-bridge-interface")?)
        }
        "InterfaceNamePrefix" => DetectLocal::InterfaceNamePrefix(name(
            &args.pod_interface_name_prefix,
            "pod-interface-name-prefix",
        )?),
        other => {
            let near = did_you_mean(other, MODES);
            return Err(CliError::Usage(format!(
                "--detect-local-mode: {other:?} is none of {}{near}",
                MODES.join(", ")
            )));
        }
    };
    Ok(Some(detector))
}
