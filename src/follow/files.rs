//! Tells when one of the input files may have changed.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Writers make several changes in a row: wait until they pause.
const SETTLE: Duration = Duration::from_millis(20);

/// Watches folders, and the folders of files: an editor or a config-map mount replaces a
/// file by renaming another over it.
pub struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Watches these files and folders, and folders below them.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn new(paths: &[PathBuf]) -> Result<Self, Errno> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let watch = Self { inotify };
        for path in paths.iter().filter(|p| *p != Path::new("-")) {
            watch.add(path)?;
        }
        Ok(watch)
    }

    fn add(&self, path: &Path) -> Result<(), Errno> {
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE;
        if !path.is_dir() {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
            self.inotify
                .add_watch(parent.unwrap_or(Path::new(".")), flags)?;
            return Ok(());
        }
        self.inotify.add_watch(path, flags)?;
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        for entry in entries.filter(|e| e.path().is_dir()) {
            self.add(&entry.path())?;
        }
        Ok(())
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
        while self.ready(SETTLE)? {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
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
