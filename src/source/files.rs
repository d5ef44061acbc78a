//! Files as a source: read whole, when one of them may have changed or when asked.

use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::events::{Event, Failure, Reason, Source};
use super::{Entered, is_hidden};
use crate::cluster::{Cluster, Kind};
use crate::config::Config;
use crate::problem::{Problem, Severity};

/// Writers make several changes in a row: wait until they pause.
const SETTLE: Duration = Duration::from_millis(20);
/// But no longer than this: some folders never come to rest.
const SETTLE_LATEST: Duration = Duration::from_millis(200);

/// Objects read from files, with the settings that go with them.
pub struct Reading {
    /// Settings.
    pub config: Config,
    /// Objects, completed.
    pub cluster: Cluster,
    /// What was found.
    pub problems: Vec<Problem>,
}

/// Files, and how to read them. What cannot be used changes nothing: a half-written file is
/// followed by a whole one, and the last good state stays until then.
pub struct Files<'a> {
    watch: Watch,
    read: Box<dyn Fn() -> Result<Reading, String> + 'a>,
    /// Leave invalid objects out instead.
    skip_invalid: bool,
    /// To be read, whatever changed.
    asked: bool,
    /// What was last found wrong.
    told: Vec<Problem>,
}

impl<'a> Files<'a> {
    /// Files that `watch` tells of and `read` reads; with `skip_invalid` objects that cannot be
    /// used are left out.
    pub fn new(
        watch: Watch,
        read: impl Fn() -> Result<Reading, String> + 'a,
        skip_invalid: bool,
    ) -> Self {
        Self {
            watch,
            read: Box::new(read),
            skip_invalid,
            asked: false,
            told: Vec::new(),
        }
    }

    fn reading(&mut self, events: &mut Vec<Event>) -> Result<Reading, (Reason, String)> {
        let changed = self.watch.settle();
        // A folder that came meanwhile is another one.
        self.watch.add_new();
        let cannot_wait = |e| (Reason::Unreadable, format!("cannot watch the inputs: {e}"));
        changed.map_err(cannot_wait)?;
        let mut found = (self.read)().map_err(|text| (Reason::Unreadable, text))?;
        let problems = std::mem::take(&mut found.problems);
        let mut errors = problems.iter().filter(|p| p.severity == Severity::Error);
        let invalid = errors.next().filter(|_| !self.skip_invalid).map(|first| {
            let count = 1 + errors.count();
            let noun = if count == 1 { "error" } else { "errors" };
            let first = first.without_severity();
            format!("{count} {noun} in the input, the first: {first}")
        });
        // Read again because it failed, or is held, it is mostly wrong in the same way.
        if problems != self.told {
            events.push(Event::Found(problems.clone()));
            self.told = problems;
        }
        invalid.map_or(Ok(found), |text| Err((Reason::Invalid, text)))
    }
}

impl AsFd for Files<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watch.as_fd()
    }
}

impl Source for Files<'_> {
    fn events(&mut self) -> Vec<Event> {
        let changed = self.watch.ready(Duration::ZERO);
        let mut events = Vec::new();
        if !std::mem::take(&mut self.asked) && changed == Ok(false) {
            return events;
        }
        match self.reading(&mut events) {
            Ok(Reading {
                config,
                mut cluster,
                ..
            }) => {
                events.push(Event::Settings(Box::new(config)));
                let kinds = Kind::ALL.into_iter();
                events.extend(kinds.map(|kind| Event::Reset(kind, cluster.take(kind))));
                events.push(Event::Recovered("files"));
            }
            Err((reason, message)) => {
                let failure = Failure {
                    reason,
                    message,
                    repeated: false,
                    dispensable: false,
                };
                events.push(Event::Lost("files", failure));
            }
        }
        events
    }

    fn ask_again(&mut self) {
        self.asked = true;
    }

    fn part(&self, _: Kind) -> &'static str {
        "files"
    }

    fn is_remote(&self) -> bool {
        false
    }
}

/// Watches folders, and the folders of files: an editor or a config-map mount replaces a
/// file by renaming another over it.
pub struct Watch {
    inotify: Inotify,
    paths: Vec<PathBuf>,
}

impl Watch {
    /// Watches these files and folders, and folders below them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(paths: &[PathBuf]) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let paths = paths.iter().filter(|p| *p != Path::new("-"));
        let paths: Vec<PathBuf> = paths.cloned().collect();
        let watch = Self { inotify, paths };
        for path in &watch.paths {
            watch.add(path, &mut Entered::default())?;
        }
        Ok(watch)
    }

    fn add(&self, path: &Path, entered: &mut Entered) -> Result<(), Errno> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            // The folder itself, which nothing above it tells of.
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        let Some(found) = path.metadata().ok().filter(Metadata::is_dir) else {
            let folder = |path: &Path| match path.parent() {
                Some(parent) if parent != Path::new("") => parent.to_owned(),
                _ => PathBuf::from("."),
            };
            self.inotify.add_watch(&folder(path), flags)?;
            // Behind a link, the folder of the file itself; a link to nowhere has none.
            if path.is_symlink()
                && let Ok(file) = path.canonicalize()
            {
                self.inotify.add_watch(&folder(&file), flags)?;
            }
            return Ok(());
        };
        if !entered.first(&found) {
            return Ok(());
        }
        self.inotify.add_watch(path, flags)?;
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let entries = entries.filter(|e| !is_hidden(&e.path()));
        for entry in entries.filter(|e| e.path().is_dir() || e.path().is_symlink()) {
            self.add(&entry.path(), entered)?;
        }
        Ok(())
    }

    /// Watches folders and links that came since. One that went while we looked is no error:
    /// whatever follows it is a change of the folder it was in. One that cannot be watched is
    /// read with the others, and does not end the agent.
    fn add_new(&self) {
        for path in &self.paths {
            match self.add(path, &mut Entered::default()) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(error) => {
                    let path = path.display();
                    tracing::warn!(%path, %error, "something new in it cannot be watched");
                }
            }
        }
    }

    /// True if there may be something new, once writers pause. Does not wait for a change.
    ///
    /// # Errors
    /// If the kernel refuses to tell.
    pub fn changed(&self) -> Result<bool, Errno> {
        if !self.ready(Duration::ZERO)? {
            return Ok(false);
        }
        self.settle()?;
        self.add_new();
        Ok(true)
    }

    /// Takes what was told of changes, until writers pause.
    fn settle(&self) -> Result<(), Errno> {
        let latest = Instant::now() + SETTLE_LATEST;
        while Instant::now() < latest && self.ready(SETTLE)? {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn ready(&self, timeout: Duration) -> Result<bool, Errno> {
        let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(n) => Ok(n > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
