//! `svcnat run`: keep it installed. Puts the sources and the agent together.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use super::args::{DriftArg, Output, RunArgs};
use super::error::CliError;
use super::inputs;
use super::{delete, writer};
use crate::config::Config;
use crate::counters::{Counts, What};
use crate::follow::{Agent, Drift, Options, RunError, Signals, SyncError, notify};
use crate::netlink::Nfnetlink;
use crate::observe::{
    Binds, Capability, ConnectionSource, Connections, Counted, Shared, drop_all_but, init_log,
    serve,
};
use crate::plan::of_url;
use crate::progress::Progress;
use crate::source::events::Source;
use crate::source::{Files, Reading, Rules, Watch, api};
use crate::text::printable;

pub fn run(args: &RunArgs) -> Result<u8, CliError> {
    let from_api = args.kubernetes || args.kubeconfig.is_some() || !args.apiserver.is_empty();
    check(args, from_api)?;
    let mut notes = args.kube_proxy.check().map_err(CliError::Usage)?;
    let progress = Progress::new();
    progress.say("starting");
    let verbosity = (!args.common.quiet).then_some(args.verbose);
    init_log(args.log_format, verbosity, &progress);
    privileges(from_api);
    if let Err(error) = crate::host::raise_descriptor_limit() {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    progress.start();
    let signals = signals()?;
    let (mut config, found) = inputs::config(&args.inputs)?;
    let _seat = writer::take("run", args.beside_run)?;
    // With files they are found again at each reading.
    notes.extend(found.into_iter().filter(|_| from_api));
    for note in notes {
        tracing::warn!(object = note.object, reason = note.message, "setting");
    }
    node_address(args, &mut config);
    let start = Instant::now();
    banner(args, &config, from_api);
    let source: Box<dyn Source + '_> = if from_api {
        Box::new(from_the_api(args, &mut config)?)
    } else {
        Box::new(files(args)?)
    };
    let options = Options {
        drift: match args.drift {
            DriftArg::Repair => Drift::Repair,
            DriftArg::Report => Drift::Report,
            DriftArg::Ignore => Drift::Ignore,
        },
        min_sync_period: args.min_sync_period,
        verify_period: args.verify_period,
        limit: (&args.loss).into(),
        state_dir: args.state_dir.clone(),
        name_writers: args.name_writers,
        own_tables: args.own_tables,
        take_over: args.take_over_kube_proxy,
    };
    let connections =
        ConnectionSource::new(Box::new(read_connections), args.service_counter_series);
    let observed = Shared::new(args.kube_proxy_metric_names, Some(connections));
    let binds = Binds {
        healthz: bind("healthz-bind-address", 10_256, &args.healthz_bind_address)?,
        metrics: bind("metrics-bind-address", 10_249, &args.metrics_bind_address)?,
    };
    serve(&observed, binds)
        .map_err(|e| CliError::Host(format!("cannot start the health server: {e}")))?;
    let (mut agent, monitor) =
        Agent::new(options, config, source, observed, progress).map_err(host)?;
    agent.run(&monitor, &signals).map_err(ended)?;
    notify("STOPPING=1");
    tracing::info!(
        ran_s = start.elapsed().as_secs(),
        rules = if args.cleanup_on_exit {
            "are removed"
        } else {
            "stay in force"
        },
        "told to stop"
    );
    // With its socket goes the ownership of the tables.
    drop(agent);
    if args.cleanup_on_exit {
        // The last word on standard error: nobody may be there to read it.
        let mut said = Vec::new();
        let code = delete::all(Output::Text, &mut said);
        super::say::say(&String::from_utf8_lossy(&said));
        return code;
    }
    Ok(0)
}

/// Follows the API. Its servers' addresses are not to be taken by any Service.
fn from_the_api(args: &RunArgs, config: &mut Config) -> Result<api::Follower, CliError> {
    config.protected = args
        .apiserver
        .iter()
        .filter_map(|url| of_url(url))
        .collect();
    config.protected.extend(servers(args.kubeconfig.as_deref()));
    let settings = api::Settings {
        kubeconfig: args.kubeconfig.clone(),
        servers: args.apiserver.clone(),
        node_name: config.node_name.clone(),
        all_nodes: config.needs_all_nodes(),
        page_size: args.api_page_size,
        rules: Rules {
            manifests: false,
            legacy_source_ranges: config.legacy_source_ranges,
        },
        limits: api::Limits::default(),
    };
    api::follow(&settings).map_err(|e| CliError::Usage(e.to_string()))
}

/// kube-proxy takes the address it binds to for the node's, unless it binds to all.
fn node_address(args: &RunArgs, config: &mut Config) {
    let address = args.bind_address.filter(|addr| !addr.is_unspecified());
    if let Some(address) = address.filter(|_| args.inputs.settings.0.settings.node_ips.is_none()) {
        config.node_ips = vec![address];
    }
}

/// What the kernel has counted. O(elements).
fn read_connections() -> Result<Option<Vec<Connections>>, String> {
    let read = || Counts::read(&mut Nfnetlink::open()?);
    let counts = read().map_err(|e| e.to_string())?;
    Ok(counts.map(|counts| {
        let rows = counts.iter().map(|(subject, connections)| {
            let (namespace, service, port) = subject.names();
            Connections {
                family: subject.family.to_string(),
                namespace: printable(namespace).into_owned(),
                service: printable(service).into_owned(),
                port: printable(port).into_owned(),
                protocol: subject.protocol.to_string(),
                counted: match subject.what {
                    What::Frontend(at) => Counted::Frontend(at.to_string()),
                    What::Refused(at) => Counted::Refused(at.to_string()),
                    What::Internal(at) => Counted::Frontend(at.to_string()),
                    What::Endpoint(at) => Counted::Endpoint(at.to_string()),
                },
                connections,
            }
        });
        rows.collect()
    }))
}

/// What is started, where, and by which of its settings it differs from others.
fn banner(args: &RunArgs, config: &Config, from_api: bool) {
    let paths = |paths: &[PathBuf]| {
        let paths = paths.iter().map(|path| path.display().to_string());
        paths.collect::<Vec<_>>().join(", ")
    };
    let servers: Vec<String> = args
        .apiserver
        .iter()
        .map(|url| without_password(url))
        .collect();
    let servers = servers.join(", ");
    let sources = if !from_api {
        format!("files: {}", paths(&args.inputs.filename))
    } else if let Some(kubeconfig) = &args.kubeconfig {
        format!("API: {} {servers}", kubeconfig.display())
    } else if args.apiserver.is_empty() {
        "API: the service account of this pod".to_owned()
    } else {
        format!("API: {servers}")
    };
    let state_dir = args.state_dir.as_ref().map(|dir| dir.display().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        node = &*printable(&config.node_name),
        sources = &*printable(sources.trim_end()),
        config = args.inputs.config.as_ref().map(|path| printable(&path.display().to_string()).into_owned()),
        state_dir = state_dir.map(|dir| printable(&dir).into_owned()),
        service_ranges = list(&config.service_cidrs),
        cluster_cidrs = list(&config.cluster_cidrs),
        detect_local = ?config.detect_local,
        manage_routes = config.manage_routes,
        sysctls = ?config.sysctls,
        drift = ?args.drift,
        own_tables = args.own_tables,
        take_over_kube_proxy = args.take_over_kube_proxy,
        min_sync_period = ?args.min_sync_period,
        verify_period = ?args.verify_period,
        max_endpoint_loss = args.loss.max_endpoint_loss,
        allow_empty = args.loss.allow_empty,
        healthz = args.healthz_bind_address,
        metrics = args.metrics_bind_address,
        "svcnat starts"
    );
}

/// An address without the user and password it may have.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        (_, None) => url.to_owned(),
    }
}

fn list(prefixes: &[impl std::fmt::Display]) -> String {
    let prefixes: Vec<String> = prefixes.iter().map(ToString::to_string).collect();
    prefixes.join(",")
}

/// Where the servers of a kubeconfig answer. A file that cannot be read is the follower's to
/// complain about.
fn servers(kubeconfig: Option<&Path>) -> Vec<SocketAddr> {
    let read = kubeconfig.and_then(|path| kube::config::Kubeconfig::read_from(path).ok());
    let clusters = read.into_iter().flat_map(|found| found.clusters);
    let urls = clusters.filter_map(|named| named.cluster?.server);
    urls.filter_map(|url| of_url(&url)).collect()
}

/// Gives up what is not needed. Files of others may only be readable to root.
fn privileges(from_api: bool) {
    let mut wanted = vec![Capability::CAP_NET_ADMIN];
    if !from_api {
        wanted.push(Capability::CAP_DAC_READ_SEARCH);
    }
    match drop_all_but(&wanted) {
        Ok(held) => tracing::info!(held = held.join(","), "capabilities"),
        Err(error) => tracing::warn!(%error, "cannot give up capabilities"),
    }
}

/// An address, `0`-port for any, or nothing for `none`.
fn bind(flag: &str, port: u16, text: &str) -> Result<Option<SocketAddr>, CliError> {
    if text.is_empty() || text == "none" {
        return Ok(None);
    }
    // As in kube-proxy, an address alone has the default port.
    if let Ok(address) = text.parse::<std::net::IpAddr>() {
        return Ok(Some(SocketAddr::new(address, port)));
    }
    text.parse().map(Some).map_err(|_| {
        CliError::Usage(format!(
            "--{flag}: {text:?} is not ADDRESS:PORT, nor \"none\""
        ))
    })
}

fn host(error: SyncError) -> CliError {
    match error {
        SyncError::Kernel(error) => CliError::Kernel(error),
        SyncError::Host(error) => CliError::Host(error.to_string()),
    }
}

fn ended(error: RunError) -> CliError {
    match error {
        RunError::Input(text) => CliError::Usage(text),
        RunError::Objects(text) => CliError::Invalid(text),
        RunError::Sync(error) => host(error),
        RunError::Wait(_) => CliError::Host(error.to_string()),
    }
}

fn check(args: &RunArgs, from_api: bool) -> Result<(), CliError> {
    let files = &args.inputs.filename;
    if files.iter().any(|path| path == Path::new("-")) {
        return Err(CliError::Usage(
            "run follows files and folders; standard input has only one reading".to_owned(),
        ));
    }
    files
        .iter()
        .chain(&args.inputs.config)
        .try_for_each(|path| can_be_followed(path))
        .map_err(CliError::Usage)?;
    if from_api && !files.is_empty() {
        return Err(CliError::Usage(
            "objects come from the API or from files (-f), not from both".to_owned(),
        ));
    }
    if !from_api && !args.loss.allow_empty {
        inputs::given(&args.inputs)?;
    }
    Ok(())
}

/// Only a file or a folder can be read again; a pipe would be waited for.
pub(super) fn can_be_followed(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(format!(
            "{}: is neither a file nor a folder, and run follows nothing else",
            path.display()
        )),
        // What is not there is named when it is read.
        _ => Ok(()),
    }
}

fn signals() -> Result<Signals, CliError> {
    let signals = Signals::default();
    let register = |signal, flag: &Arc<AtomicBool>| {
        signal_hook::flag::register(signal, Arc::clone(flag))
            .map(drop)
            .map_err(|e| CliError::Host(format!("cannot handle signals: {e}")))
    };
    register(signal_hook::consts::SIGTERM, &signals.stop)?;
    register(signal_hook::consts::SIGINT, &signals.stop)?;
    register(signal_hook::consts::SIGHUP, &signals.reload)?;
    Ok(signals)
}

fn files(args: &RunArgs) -> Result<Files<'_>, CliError> {
    let paths: Vec<PathBuf> = args
        .inputs
        .filename
        .iter()
        .chain(&args.inputs.config)
        .cloned()
        .collect();
    // Watch before reading: a change in between is seen.
    let watch =
        Watch::new(&paths).map_err(|e| CliError::Host(format!("cannot watch the inputs: {e}")))?;
    let read = move || {
        // It may have become a pipe.
        paths.iter().try_for_each(|path| can_be_followed(path))?;
        let mut found = inputs::objects(&args.inputs).map_err(|e| e.to_string())?;
        node_address(args, &mut found.config);
        Ok(Reading {
            config: found.config,
            cluster: found.cluster,
            problems: found.problems,
        })
    };
    Ok(Files::new(watch, read, args.inputs.skip_invalid))
}
