//! `svcnat get -w`: the list, then whatever of it changes.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level::pipe;

use super::print::{Object, Table, name};
use super::rows::Row;
use super::{Found, Reading, missing, read, select};
use crate::cli::args::{GetArgs, ListFormat, Resource};
use crate::cli::error::CliError;
use crate::cli::intent::host;
use crate::cli::run::can_be_followed;
use crate::cli::say::{fail, said_once};
use crate::host::monitor::Monitor;
use crate::netlink::Nfnetlink;
use crate::source::Watch;

/// Between two looks at the kernel's generation, as the agent has it.
const LOOK: u16 = 50;

/// What may change what is listed.
enum Source {
    /// The inputs.
    Files(Watch, Vec<PathBuf>),
    /// The rulesets of this network namespace, last seen at this generation.
    Rules(Nfnetlink, u32),
    /// Its routes.
    Routes(Monitor),
}

impl Source {
    /// Watches from now on: whatever is read later is no older than what is watched.
    fn open(args: &GetArgs) -> Result<Self, CliError> {
        if args.live && args.resource == Resource::Routes {
            return Ok(Self::Routes(Monitor::open().map_err(host)?));
        }
        if args.live {
            let mut kernel = Nfnetlink::open()?;
            let generation = kernel.generation()?;
            return Ok(Self::Rules(kernel, generation));
        }
        let files = &args.inputs.filename;
        if files.iter().any(|path| path.as_os_str() == "-") {
            return Err(CliError::Usage(
                "--watch follows files and folders; standard input has only one reading".to_owned(),
            ));
        }
        let paths: Vec<PathBuf> = files.iter().chain(&args.inputs.config).cloned().collect();
        let watch = Watch::new(&paths)
            .map_err(|e| CliError::Host(format!("cannot watch the inputs: {e}")))?;
        let source = Self::Files(watch, paths);
        source.can_be_read().map_err(CliError::Usage)?;
        Ok(source)
    }

    /// A file may have become a pipe, which would be waited for.
    fn can_be_read(&self) -> Result<(), String> {
        match self {
            Self::Files(_, paths) => paths.iter().try_for_each(|path| can_be_followed(path)),
            Self::Rules(..) | Self::Routes(_) => Ok(()),
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Files(watch, _) => Some(watch.as_fd()),
            Self::Rules(..) => None,
            Self::Routes(monitor) => Some(monitor.as_fd()),
        }
    }

    /// True if it is to be read again.
    fn changed(&mut self) -> Result<bool, CliError> {
        match self {
            Self::Files(watch, _) => watch
                .changed()
                .map_err(|e| CliError::Host(format!("cannot watch the inputs: {e}"))),
            Self::Rules(kernel, seen) => {
                let now = kernel.generation()?;
                Ok(std::mem::replace(seen, now) != now)
            }
            Self::Routes(monitor) => Ok(monitor.drain(|_| true).routes),
        }
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
enum Change {
    Added,
    Modified,
    Deleted,
}

/// A change as Kubernetes' own watches write them.
#[derive(Serialize)]
struct Event<'r, R> {
    r#type: Change,
    object: Object<'r, R>,
}

/// Lists, and goes on until it is interrupted, or nobody reads any more: exit code 0.
pub fn run<R: Row>(
    args: &GetArgs,
    rows: fn(Found) -> Vec<R>,
    out: &mut impl Write,
) -> Result<u8, CliError> {
    let interrupts =
        interrupts().map_err(|e| CliError::Host(format!("cannot handle signals: {e}")))?;
    let mut source = Source::open(args)?;
    let mut known = select(args, rows(read(args, Reading::First)?));
    let code = missing(args, &known);
    if code != 0 {
        return Ok(code);
    }
    let mut table = Table::default();
    print(args, &mut table, &changes(&[], &known), out)?;
    while wait(&source, &interrupts)? {
        if !source.changed()? {
            continue;
        }
        let found = source
            .can_be_read()
            .map_err(CliError::Usage)
            .and_then(|()| read(args, Reading::Again));
        let now = match found {
            Ok(found) => select(args, rows(found)),
            // A half-written file is followed by a whole one.
            Err(error @ (CliError::Usage(_) | CliError::Invalid(_))) => {
                fail(&said_once(&format!("error: {error}\n")));
                continue;
            }
            Err(error) => return Err(error),
        };
        print(args, &mut table, &changes(&known, &now), out)?;
        known = now;
    }
    Ok(0)
}

/// Readable as soon as it is to end.
fn interrupts() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        pipe::register(signal, writer.try_clone()?)?;
    }
    Ok(reader)
}

/// Waits until there may be something new; false if it is to end.
fn wait(source: &Source, interrupts: &UnixStream) -> Result<bool, CliError> {
    let stdout = io::stdout();
    let mut fds = vec![
        PollFd::new(interrupts.as_fd(), PollFlags::POLLIN),
        // Of a pipe, that its reader is gone.
        PollFd::new(stdout.as_fd(), PollFlags::empty()),
    ];
    fds.extend(source.fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
    let timeout = match source {
        Source::Rules(..) => PollTimeout::from(LOOK),
        Source::Files(..) | Source::Routes(_) => PollTimeout::NONE,
    };
    match poll(&mut fds, timeout) {
        Ok(_) => Ok(!fds[..2].iter().any(|fd| fd.any() == Some(true))),
        Err(Errno::EINTR) => Ok(true),
        Err(error) => Err(CliError::Host(format!("cannot wait: {error}"))),
    }
}

/// What tells rows apart.
fn key<R: Row>(row: &R) -> (String, String, String) {
    let (namespace, name) = row.name();
    (
        namespace.unwrap_or_default().to_owned(),
        name,
        row.part().unwrap_or_default(),
    )
}

/// What became of which rows, in their order; what is gone comes last.
fn changes<'r, R: Row>(before: &'r [R], after: &'r [R]) -> Vec<(Change, &'r R)> {
    // Node ports have a row in each family.
    let mut gone: BTreeMap<_, VecDeque<&R>> = BTreeMap::new();
    for row in before {
        gone.entry(key(row)).or_default().push_back(row);
    }
    let mut out = Vec::new();
    for row in after {
        match gone.get_mut(&key(row)).and_then(VecDeque::pop_front) {
            None => out.push((Change::Added, row)),
            Some(old) if old != row => out.push((Change::Modified, row)),
            Some(_) => {}
        }
    }
    let gone = gone.into_values().flatten();
    out.extend(gone.map(|row| (Change::Deleted, row)));
    out
}

fn print<R: Row>(
    args: &GetArgs,
    table: &mut Table,
    changes: &[(Change, &R)],
    out: &mut impl Write,
) -> io::Result<()> {
    let event = |change: &(Change, _)| Event {
        r#type: change.0,
        object: Object::of(change.1),
    };
    match args.output {
        ListFormat::Json => {
            for change in changes {
                writeln!(out, "{}", serde_json::to_string(&event(change))?)?;
            }
        }
        ListFormat::Yaml => {
            for change in changes {
                let text = serde_saphyr::to_string(&event(change)).map_err(io::Error::other)?;
                write!(out, "---\n{text}")?;
            }
        }
        ListFormat::Name => {
            for (change, row) in changes {
                match change {
                    Change::Added | Change::Modified => writeln!(out, "{}", name(args, *row))?,
                    Change::Deleted => deleted(args, *row, out)?,
                }
            }
        }
        ListFormat::Table | ListFormat::Wide => {
            let rows = |deleted| {
                let rows = changes.iter();
                rows.filter(move |(change, _)| (*change == Change::Deleted) == deleted)
                    .map(|(_, row)| *row)
            };
            let shown: Vec<&R> = rows(false).collect();
            if !shown.is_empty() {
                table.print(args, &shown, out)?;
            }
            for row in rows(true) {
                deleted(args, row, out)?;
            }
        }
    }
    out.flush()
}

fn deleted<R: Row>(args: &GetArgs, row: &R, out: &mut impl Write) -> io::Result<()> {
    let part = row
        .part()
        .map_or_else(String::new, |part| format!(" {part}"));
    writeln!(out, "{}{part} deleted", name(args, row))
}
