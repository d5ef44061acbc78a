//! The process in the background that a lab belongs to: it builds it, answers what is asked
//! about it, changes it, and is it. With this process everything goes, however it ends.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid};

use super::args::UpArgs;
use super::folder::{Folder, PlaceView, Reply, Request, ServiceView, View};
use crate::cli::error::CliError;
use crate::cli::inputs;
use crate::cli::say::report;
use crate::cluster::ServiceType;
use crate::lab::{Kind, Lab, LabError, On, Topology, manifests, ports};
use crate::problem::Severity;
use crate::source::{self, Input};

/// How long who asks may take to say what.
const PATIENCE: Duration = Duration::from_secs(2);
/// A request is shorter: manifests by standard input are in it.
const LONGEST: u64 = 64 << 20;

/// Starts a keeper with the arguments of this process, and waits until the lab is up.
///
/// # Errors
/// If the lab cannot be built; the keeper has said why, and is gone.
pub fn start() -> Result<(), CliError> {
    let host = |error: std::io::Error| CliError::Host(format!("cannot start the lab: {error}"));
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // `lab up` becomes `lab keep`; nothing stands between the two words.
    if let Some(verb) = arguments.iter_mut().find(|word| *word == "up") {
        *verb = "keep".into();
    }
    // The very program that runs, whatever became of its file.
    let mut keeper = Command::new("/proc/self/exe")
        .arg0("svcnat")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(host)?;
    let mut said = String::new();
    if let Some(stdout) = keeper.stdout.take() {
        BufReader::new(stdout).read_line(&mut said).map_err(host)?;
    }
    if said == "up\n" {
        return Ok(());
    }
    // It told why.
    let ended = keeper.wait().map_err(host)?;
    std::process::exit(ended.code().unwrap_or(3));
}

/// Of the lab's making and changing.
fn cli(error: LabError) -> CliError {
    match error {
        LabError::Input(_) | LabError::Absent(_) => CliError::Usage(error.to_string()),
        _ => CliError::Host(error.to_string()),
    }
}

/// Builds the lab and keeps it until it is told to end.
///
/// # Errors
/// If it cannot be built; nothing is left then.
pub fn keep(args: &UpArgs) -> Result<u8, CliError> {
    let folder = Folder::of(&args.name)?;
    // The end of the terminal that `lab up` was typed at is not the lab's.
    setsid().map_err(|error| CliError::Host(format!("the lab's session: {error}")))?;
    let mut ending = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        ending.add(signal);
    }
    // Before the first thread: they have them blocked as well.
    ending
        .thread_block()
        .map_err(|error| CliError::Host(format!("the lab's signals: {error}")))?;
    let lock = folder.make()?;
    // Each place has files and sockets. Where it cannot be raised the lab may still be small.
    crate::host::raise_descriptor_limit().ok();
    let kept = build(args, &folder).and_then(|(lab, listener)| {
        let in_the_background = detach(&folder);
        in_the_background.map_err(|error| CliError::Host(format!("the lab's log: {error}")))?;
        serve(lab, &listener, &folder, ending);
        Ok(0)
    });
    if kept.is_err() {
        folder.clear()?;
    }
    drop(lock);
    kept
}

fn build(args: &UpArgs, folder: &Folder) -> Result<(Lab, UnixListener), CliError> {
    let beside = args
        .inputs
        .filename
        .iter()
        .map(|path| path.join("topology.yaml"));
    let topology = args
        .topology
        .clone()
        .or_else(|| beside.into_iter().find(|path| path.exists()));
    let topology = topology.as_deref().map(Topology::read);
    let topology = topology.transpose().map_err(cli)?.unwrap_or_default();
    let (config, mut problems) = inputs::config(&args.inputs)?;
    let on = match inputs::named_node(&args.inputs)? {
        _ if args.bare => On::None,
        Some(name) => On::One(name),
        None => On::Each,
    };
    let input = |path: &std::path::PathBuf| match path.to_str() {
        Some("-") => Input::Stdin,
        _ => Input::Path(path.clone()),
    };
    let sources: Vec<Input> = args.inputs.filename.iter().map(input).collect();
    let loaded = source::load(&sources, config.legacy_source_ranges);
    let loaded = loaded.map_err(|error| CliError::Usage(error.to_string()))?;
    let (lab, found) = Lab::up(loaded, config, topology, on).map_err(cli)?;
    problems.extend(found);
    problems.retain(|problem| problem.severity >= Severity::Warning);
    report(&problems);
    let bound = UnixListener::bind(folder.socket());
    let listener = bound.map_err(|e| CliError::Host(format!("the lab's socket: {e}")))?;
    remember(&lab, folder).map_err(|e| CliError::Host(format!("the lab's folder: {e}")))?;
    Ok((lab, listener))
}

/// What others read of it.
fn remember(lab: &Lab, folder: &Folder) -> std::io::Result<()> {
    folder.note(lab.namespaces().values())?;
    folder.link(lab.namespaces().iter())?;
    let text = serde_json::to_string_pretty(&manifests(&lab.cluster))?;
    let new = folder.objects().with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, folder.objects())
}

/// Says that it is up, and speaks to nobody's terminal from then on.
fn detach(folder: &Folder) -> std::io::Result<()> {
    let log = File::create(folder.log())?;
    std::io::stdout().write_all(b"up\n")?;
    std::io::stdout().flush()?;
    dup2_stdin(File::open("/dev/null")?)?;
    dup2_stdout(&log)?;
    dup2_stderr(&log)?;
    std::env::set_current_dir("/")
}

fn serve(mut lab: Lab, listener: &UnixListener, folder: &Folder, ending: SigSet) {
    // A signal ends it as a request does.
    let waiting = folder.clone();
    std::thread::spawn(move || {
        while ending.wait().is_err() {}
        // Without an answer it ends all the same.
        if waiting.ask(&Request::Down).is_err() {
            std::process::exit(0);
        }
    });
    for stream in listener.incoming().flatten() {
        let peer = nix::sys::socket::getsockopt(
            &stream.as_fd(),
            nix::sys::socket::sockopt::PeerCredentials,
        );
        let own = nix::unistd::geteuid().as_raw();
        let may = peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
        let request = read(&stream).filter(|_| may);
        let Some(request) = request else {
            continue;
        };
        let ends = matches!(request, Request::Down);
        let reply = match request {
            Request::Show => Reply::Lab(view(&lab, folder)),
            Request::Down => Reply::Done { notes: Vec::new() },
            Request::Anew => done(lab.anew().map(|()| Vec::new())),
            Request::Again => done(lab.again()),
            Request::Change { files, stdin } => change(&mut lab, folder, files, stdin),
        };
        let text = serde_json::to_string(&reply).unwrap_or_default();
        // Who asked may be gone.
        (&stream).write_all(format!("{text}\n").as_bytes()).ok();
        if ends {
            break;
        }
    }
    // Nobody is to come any more; whoever waits for the end waits for the lock.
    fs::remove_file(folder.socket()).ok();
}

fn done(notes: Result<Vec<String>, LabError>) -> Reply {
    match notes {
        Ok(notes) => Reply::Done { notes },
        Err(error) => Reply::Failed {
            why: error.to_string(),
            input: false,
        },
    }
}

fn read(stream: &UnixStream) -> Option<Request> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST))
        .read_line(&mut line)
        .ok()?;
    serde_json::from_str(&line).ok()
}

fn change(
    lab: &mut Lab,
    folder: &Folder,
    files: Vec<std::path::PathBuf>,
    stdin: Option<String>,
) -> Reply {
    let inputs = files
        .into_iter()
        .map(Input::Path)
        .chain(stdin.map(Input::Given));
    let inputs: Vec<Input> = inputs.collect();
    let failed = |why: String, input| Reply::Failed { why, input };
    let loaded = match source::load(&inputs, lab.config.legacy_source_ranges) {
        Ok(loaded) => loaded,
        Err(error) => return failed(error.to_string(), true),
    };
    let problems = match lab.change(loaded) {
        Ok(problems) => problems,
        Err(error) => {
            let input = matches!(error, LabError::Input(_));
            return failed(error.to_string(), input);
        }
    };
    if let Err(error) = remember(lab, folder) {
        return failed(format!("the lab's folder: {error}"), false);
    }
    let odd = problems
        .iter()
        .filter(|problem| problem.severity >= Severity::Warning);
    Reply::Done {
        notes: odd.map(ToString::to_string).collect(),
    }
}

fn view(lab: &Lab, folder: &Folder) -> View {
    let managed: Vec<&str> = lab.nodes().collect();
    let places = lab.network.places.iter().map(|(name, place)| {
        let kind = match place.kind {
            Kind::Router => "router",
            Kind::Node => "node",
            Kind::Pod => "pod",
            Kind::Client => "client",
        };
        let link = lab.network.cables.iter().find(|cable| cable.place == *name);
        let node = link.and_then(|link| link.to.strip_prefix("node/"));
        let is_node = place.kind == Kind::Node;
        let bridge = place.bridges.values().flatten().filter(|_| is_node);
        let answers = ports(&place.answers);
        let namespace = lab.namespaces().get(name);
        let view = PlaceView {
            kind: kind.to_owned(),
            answers_as: place.name.clone(),
            addresses: place.addresses.clone(),
            node: node.map(str::to_owned),
            bridge: bridge.map(ToString::to_string).collect(),
            svcnat: is_node.then(|| managed.contains(&place.name.as_str())),
            ports: answers
                .iter()
                .flat_map(|(port, over)| {
                    over.iter()
                        .map(move |protocol| format!("{port}/{protocol}"))
                })
                .collect(),
            namespace: namespace
                .map(crate::lab::Namespace::path)
                .unwrap_or_default(),
        };
        (name.clone(), view)
    });
    View {
        name: folder.name.clone(),
        pid: std::process::id(),
        objects: folder.objects(),
        places: places.collect(),
        services: lab
            .cluster
            .services_with_slices()
            .map(|(service, slices)| {
                let addresses = service.cluster_ips.iter().chain(&service.load_balancer_ips);
                let addresses = addresses.chain(&service.external_ips);
                let at = addresses.flat_map(|addr| {
                    service.ports.iter().map(move |port| {
                        let socket = std::net::SocketAddr::new(*addr, port.port.get());
                        format!("{socket}/{}", port.protocol)
                    })
                });
                let nodes = service.ports.iter().filter_map(|port| {
                    Some(format!("nodePort {}/{}", port.node_port?, port.protocol))
                });
                let endpoints = slices.iter().flat_map(|slice| {
                    slice
                        .endpoints
                        .iter()
                        .filter(|endpoint| endpoint.ready)
                        .map(|endpoint| {
                            let pod = endpoint.pod.as_ref().map(ToString::to_string);
                            pod.unwrap_or_else(|| endpoint.address.to_string())
                        })
                });
                let mut endpoints: Vec<String> = endpoints.collect();
                endpoints.sort_by_key(|name| super::show::counted(name));
                endpoints.dedup();
                ServiceView {
                    name: service.name.to_string(),
                    at: match service.service_type {
                        _ if service.headless => vec!["headless".to_owned()],
                        ServiceType::ExternalName => vec!["a name of others".to_owned()],
                        _ => at.chain(nodes).collect(),
                    },
                    endpoints,
                }
            })
            .collect(),
    }
}
