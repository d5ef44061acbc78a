//! A network namespace without a name: made by a thread, entered by threads, held by an open
//! file. When the last descriptor is closed and nobody is in it any more the kernel takes it
//! away with all that is in it, whatever became of who made it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::{panic, thread};

use nix::sched::{CloneFlags, setns, unshare};

/// Settings that every namespace starts with, before it has an interface: no waiting for
/// duplicate addresses or routers, no checks of source addresses inherited from the host, as
/// many refusals a second as there are clients to refuse, and no news of shorter ways.
const SETTINGS: [(&str, &str); 13] = [
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
];

/// A network namespace of this process.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    /// A new one, with nothing but its loopback interface, which is down.
    ///
    /// # Errors
    /// If the caller may not: CAP_SYS_ADMIN is needed.
    pub fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
                let error = io::Error::from(errno);
                match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        io::Error::new(error.kind(), format!("{error}; it needs CAP_SYS_ADMIN"))
                    }
                    _ => error,
                }
            })?;
            for (name, value) in SETTINGS {
                write(name, value)?;
            }
            File::open("/proc/thread-self/ns/net")
        });
        let file = made
            .join()
            .unwrap_or_else(|panic| panic::resume_unwind(panic))?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// The one at a path such as `/proc/7/fd/12`.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn open(path: &std::path::Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self {
            file: Arc::new(file),
        })
    }

    /// Where other programs find it while this process lives.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Runs `work` on a thread of its own inside: sockets that it opens and programs that it
    /// starts belong there.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&*self.file, CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread there, and all that it will start.
    ///
    /// # Errors
    /// If it cannot be entered.
    pub fn move_in(&self) -> io::Result<()> {
        Ok(setns(&*self.file, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs a program inside, and waits for its end.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn output(&self, command: &mut Command) -> io::Result<std::process::Output> {
        self.enter(|| command.output())?
    }

    /// Sets a value below `net/` of `/proc/sys`, if the kernel has it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn set(&self, name: &str, value: &str) -> io::Result<()> {
        self.enter(|| write(name, value))?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What a kernel does not have (IPv6, bridges' hooks) needs no setting.
fn write(name: &str, value: &str) -> io::Result<()> {
    match fs::write(format!("/proc/sys/net/{name}"), value) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!("set net/{name} to {value}: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}
