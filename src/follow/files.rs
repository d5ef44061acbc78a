//! Tells when one of the input files may have changed.

use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::source::{Entered, is_hidden};

/// Writers make several changes in a row: wait until they pause.
const SETTLE: Duration = Duration::from_millis(20);
/// But no longer than this: some folders never come to rest.
const SETTLE_LATEST: Duration = Duration::from_millis(200);

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

    /// Watches what is now where the inputs are.
    pub fn renew(&self) {
        self.add_new();
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

    /// Waits up to `timeout` for a change, and then until writers pause. True if there was
    /// one; a signal ends the wait early.
    ///
    /// # Errors
    /// If the kernel refuses to wait.
    pub fn wait(&self, timeout: Duration) -> Result<bool, Errno> {
        if !self.ready(timeout)? {
            return Ok(false);
        }
        let latest = Instant::now() + SETTLE_LATEST;
        while Instant::now() < latest && self.ready(SETTLE)? {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
        self.add_new();
        Ok(true)
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
