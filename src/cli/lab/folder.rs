//! Where labs are known by name: `/run/svcnat/labs/NAME/`, for root alone, with the socket of
//! the process that keeps the lab. That process has the folder locked (flock) from before there
//! is a part of the lab until there is none: a lab whose folder nobody has locked has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cli::error::CliError;
use crate::lab::Namespace;
use crate::text::did_you_mean;
use crate::undo::network_namespace;

const ROOT: &str = "/run/svcnat/labs";
/// How long what runs in a lab may take to end when it is told to.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long who keeps a lab may take to build it, and to end.
const LONG: Duration = Duration::from_secs(30);
/// Between two looks.
const TURN: Duration = Duration::from_millis(5);

/// What is asked of who keeps a lab: a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// What there is.
    Show,
    /// Other objects: absolute paths, and what standard input held.
    Change {
        files: Vec<PathBuf>,
        stdin: Option<String>,
    },
    /// svcnat once more on each node: the notes are those that something was sent to.
    Again,
    /// svcnat anew on each node, and with it no remembered clients.
    Anew,
    /// The end.
    Down,
}

/// What is said to it: a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// What there is.
    Lab(View),
    /// It is done; what was found odd.
    Done { notes: Vec<String> },
    /// It was not.
    Failed { why: String, input: bool },
}

/// A lab, as others see it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct View {
    /// Its name.
    pub name: String,
    /// The process that keeps it.
    pub pid: u32,
    /// Its objects, completed: a file that every verb reads with -f.
    pub objects: PathBuf,
    /// Its places by name.
    pub places: BTreeMap<String, PlaceView>,
    /// Its Services, in order.
    pub services: Vec<ServiceView>,
}

impl View {
    /// Addresses by the name of their place.
    pub fn hosts(&self) -> BTreeMap<String, Vec<IpAddr>> {
        let places = self.places.iter();
        places
            .map(|(name, place)| (name.clone(), place.addresses.clone()))
            .collect()
    }
}

/// A place of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlaceView {
    /// `router`, `node`, `pod` or `client`.
    pub kind: String,
    /// What it says when it answers.
    pub answers_as: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The node that it is on, of a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its bridge's addresses, of a node.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub bridge: Vec<String>,
    /// Whether svcnat is on it, of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub svcnat: Option<bool>,
    /// Where it answers: `80/TCP`.
    pub ports: Vec<String>,
    /// Its network namespace, for --netns and other programs.
    pub namespace: PathBuf,
}

/// A Service of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// `NAMESPACE/NAME`.
    pub name: String,
    /// Its addresses and ports.
    pub at: Vec<String>,
    /// Its endpoints.
    pub endpoints: Vec<String>,
}

/// The folder of a lab.
#[derive(Clone, Debug)]
pub struct Folder {
    pub name: String,
    path: PathBuf,
}

/// Whether a lab can have this name: it becomes a folder's.
fn check(name: &str) -> Result<(), CliError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if (1..=40).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "--name {name:?}: expected up to 40 lower-case letters, digits and hyphens"
    )))
}

fn host(what: &str, path: &Path) -> impl FnOnce(io::Error) -> CliError {
    let what = format!("cannot {what} {}", path.display());
    move |error| {
        let root = match error.kind() {
            ErrorKind::PermissionDenied => "; labs are for root",
            _ => "",
        };
        CliError::Host(format!("{what}: {error}{root}"))
    }
}

/// Who has a lab's folder locked.
enum Held {
    /// This process, as long as it has the file.
    Here(File),
    /// Who keeps the lab, or takes the rest of it away.
    Elsewhere,
    /// Nobody: there is no folder.
    Absent,
}

impl Folder {
    /// The folder of this name, whether or not it is there.
    pub fn of(name: &str) -> Result<Self, CliError> {
        check(name)?;
        Ok(Self {
            name: name.to_owned(),
            path: Path::new(ROOT).join(name),
        })
    }

    /// All there are, in name order.
    pub fn all() -> Result<Vec<Self>, CliError> {
        let entries = match fs::read_dir(ROOT) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(host("read", Path::new(ROOT)))?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names.iter().map(|name| Self::of(name)).collect()
    }

    /// The one that is meant: by name, or the only one that runs.
    pub fn meant(name: Option<&str>) -> Result<Self, CliError> {
        let all = Self::all()?;
        if let Some(name) = name {
            if let Some(found) = all.iter().find(|folder| folder.name == name) {
                return Ok(found.clone());
            }
            let names = all.iter().map(|folder| folder.name.as_str());
            let near = did_you_mean(name, names);
            return Err(CliError::Usage(format!("there is no lab {name}{near}")));
        }
        let alive: Vec<&Self> = all.iter().filter(|folder| folder.is_alive()).collect();
        match alive[..] {
            [only] => Ok(only.clone()),
            [] => match &all[..] {
                [only] => Ok(only.clone()),
                _ => Err(CliError::Usage(
                    "there is no lab: svcnat lab up -f ...".to_owned(),
                )),
            },
            _ => {
                let names: Vec<&str> = alive.iter().map(|folder| folder.name.as_str()).collect();
                let names = names.join(", ");
                Err(CliError::Usage(format!(
                    "there are several labs: --name is one of {names}"
                )))
            }
        }
    }

    /// Locks the folder, if nobody else has.
    fn hold(&self) -> io::Result<Held> {
        loop {
            let file = match File::open(&self.path) {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Held::Absent),
                opened => opened?,
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Held::Elsewhere),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Another one may have taken its place meanwhile.
            let inode = file.metadata()?.ino();
            if fs::metadata(&self.path).is_ok_and(|now| now.ino() == inode) {
                return Ok(Held::Here(file));
            }
        }
    }

    /// Is it being built, there, or being taken down?
    pub fn is_alive(&self) -> bool {
        matches!(self.hold(), Ok(Held::Elsewhere))
    }

    /// Makes it, and locks it for as long as the file is open; what an ended lab left behind is
    /// taken away.
    pub fn make(&self) -> Result<File, CliError> {
        let root = DirBuilder::new().recursive(true).mode(0o700).create(ROOT);
        root.map_err(host("make", Path::new(ROOT)))?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let made = match DirBuilder::new().mode(0o700).create(&self.path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                made => made.map(|()| true).map_err(host("make", &self.path))?,
            };
            match self.hold().map_err(host("lock", &self.path))? {
                Held::Here(lock) if made => return Ok(lock),
                Held::Here(_lock) => self.clear()?,
                Held::Absent => {}
                // Who takes the rest of one away, or only looks, is soon done.
                Held::Elsewhere if self.connect().is_err() && Instant::now() < deadline => {
                    std::thread::sleep(TURN);
                }
                Held::Elsewhere => {
                    let name = &self.name;
                    return Err(CliError::Usage(format!(
                        "there is a lab {name} already: svcnat lab down --name {name}, or another --name"
                    )));
                }
            }
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("socket")
    }

    pub fn objects(&self) -> PathBuf {
        self.path.join("objects.json")
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    fn namespaces(&self) -> PathBuf {
        self.path.join("namespaces")
    }

    /// Notes which namespaces are the lab's, by the kernel's cookies: no other gets one of
    /// these numbers. What runs in those that were and are not any more is ended, as what ran
    /// in a pod is.
    pub fn note<'a>(&self, all: impl Iterator<Item = &'a Namespace>) -> io::Result<()> {
        let mut gone = self.noted();
        let mut text = String::new();
        for namespace in all {
            let cookie = namespace.enter(network_namespace)??;
            gone.remove(&cookie);
            text += &format!("{cookie}\n");
        }
        let new = self.namespaces().with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, self.namespaces())?;
        if !gone.is_empty() {
            end_all_in(&gone);
        }
        Ok(())
    }

    /// The namespaces that were noted last, none before.
    fn noted(&self) -> BTreeSet<u64> {
        let noted = fs::read_to_string(self.namespaces()).unwrap_or_default();
        noted.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Links to the places' namespaces, for this program and others: who is told of a pod may
    /// look into it.
    pub fn link<'a>(
        &self,
        all: impl Iterator<Item = (&'a String, &'a Namespace)>,
    ) -> io::Result<()> {
        let folder = self.path.join("netns");
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir(&folder)?,
        }
        for (name, namespace) in all {
            // Names of files are shorter than those that objects may have.
            let name: String = name.replace('/', "_").chars().take(200).collect();
            let link = folder.join(&name);
            let link = match link.symlink_metadata() {
                Ok(_) => folder.join(format!("{name}-{}", namespace.as_fd().as_raw_fd())),
                Err(_) => link,
            };
            symlink(namespace.path(), link)?;
        }
        Ok(())
    }

    /// Talks to who keeps the lab.
    pub fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.socket())
    }

    /// The same as soon as the lab is built.
    fn reach(&self) -> io::Result<UnixStream> {
        let deadline = Instant::now() + LONG;
        loop {
            match self.connect() {
                Err(_) if self.is_alive() && Instant::now() < deadline => std::thread::sleep(TURN),
                done => return done,
            }
        }
    }

    /// Asks who keeps it.
    pub fn ask(&self, request: &Request) -> Result<Reply, CliError> {
        let name = &self.name;
        let ended = |error: io::Error| match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => CliError::Host(format!(
                "the lab {name} has ended: svcnat lab down --name {name} takes the rest of it away"
            )),
            _ => CliError::Host(format!("the lab {name} does not answer: {error}")),
        };
        let mut stream = self.reach().map_err(ended)?;
        let mut line = serde_json::to_string(request).map_err(|e| ended(e.into()))?;
        line.push('\n');
        stream.write_all(line.as_bytes()).map_err(ended)?;
        let mut answer = String::new();
        BufReader::new(&stream)
            .read_line(&mut answer)
            .map_err(ended)?;
        if answer.is_empty() {
            return Err(ended(ErrorKind::ConnectionRefused.into()));
        }
        let reply = serde_json::from_str(&answer).map_err(|error| ended(error.into()))?;
        match reply {
            Reply::Failed { why, input: true } => Err(CliError::Usage(why)),
            Reply::Failed { why, .. } => Err(CliError::Host(why)),
            other => Ok(other),
        }
    }

    /// What there is of it.
    pub fn view(&self) -> Result<View, CliError> {
        match self.ask(&Request::Show)? {
            Reply::Lab(view) => Ok(view),
            _ => Err(CliError::Host(format!(
                "the lab {} is of another version",
                self.name
            ))),
        }
    }

    /// Ends it, whether it is being built, runs or has ended, and waits until it is gone.
    pub fn down(&self) -> Result<(), CliError> {
        let deadline = Instant::now() + LONG;
        let mut keeper = None;
        let mut told = false;
        loop {
            match self.hold().map_err(host("lock", &self.path))? {
                Held::Absent => return Ok(()),
                Held::Here(_lock) => return self.clear(),
                Held::Elsewhere => {}
            }
            if !told && let Ok(stream) = self.connect() {
                keeper = getsockopt(&stream.as_fd(), PeerCredentials).ok();
                // It hears one after the other.
                drop(stream);
                // It may be told by another at the same time, and end before it answers.
                told = self.ask(&Request::Down).is_ok();
            }
            if Instant::now() > deadline {
                let pid = keeper.map_or_else(String::new, |p| format!(" (process {})", p.pid()));
                let name = &self.name;
                return Err(CliError::Host(format!("the lab {name}{pid} does not end")));
            }
            std::thread::sleep(TURN);
        }
    }

    /// Ends what still runs in its namespaces, and removes the folder.
    pub fn clear(&self) -> Result<(), CliError> {
        end_all_in(&self.noted());
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(host("remove", &self.path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Ends all processes in these namespaces: asks them to, and after a while makes them.
fn end_all_in(cookies: &BTreeSet<u64>) {
    let mut told = processes_in(cookies);
    if told.is_empty() {
        return;
    }
    let tell = |pids: &[i32], signal| {
        for pid in pids {
            // One that has ended meanwhile needs nothing.
            kill(Pid::from_raw(*pid), signal).ok();
        }
    };
    tell(&told, Signal::SIGTERM);
    let deadline = Instant::now() + PATIENCE;
    while !told.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
        told = processes_in(cookies);
    }
    tell(&told, Signal::SIGKILL);
}

/// Processes whose network namespace is one of these.
fn processes_in(cookies: &BTreeSet<u64>) -> Vec<i32> {
    let inode = |path: &Path| fs::metadata(path).map(|found| found.ino()).ok();
    let own = inode(Path::new("/proc/self/ns/net"));
    // Many processes are in few namespaces: each is looked at once.
    let mut known: BTreeMap<u64, bool> = BTreeMap::new();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        let path = entry.path().join("ns/net");
        let Some(number) = inode(&path).filter(|number| Some(*number) != own) else {
            continue;
        };
        let is_one = known.entry(number).or_insert_with(|| {
            let cookie =
                Namespace::open(&path).and_then(|namespace| namespace.enter(network_namespace));
            matches!(cookie, Ok(Ok(cookie)) if cookies.contains(&cookie))
        });
        if *is_one && pid != i32::try_from(std::process::id()).unwrap_or_default() {
            found.push(pid);
        }
    }
    found
}
