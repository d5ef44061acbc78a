//! One writer per network namespace: two that keep different rules installed undo each other
//! for ever, and what is applied beside a running agent is gone in a moment.
//!
//! The writer listens on an abstract Unix socket (unix(7)). Such names belong to the network
//! namespace, as the rules do: every container on the host's network sees the same one, no
//! file is left behind, and the kernel gives the name back at any death. Who comes second
//! connects, and the kernel says who listens (SO_PEERCRED).

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, getsockopt, shutdown, socket,
    sockopt::PeerCredentials,
};
use nix::unistd::geteuid;

/// The name, without the NUL before it.
const NAME: &[u8] = b"svcnat-writer";
/// A holder answers at once; one that is stopped does not.
const PATIENCE: Duration = Duration::from_millis(300);
/// What a holder says of itself is shorter.
const LONGEST: u64 = 100;

/// Who writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its process id; `None` if it is of a PID namespace that we do not see.
    pub pid: Option<i32>,
    /// Its verb: `run`, `apply`, `delete`; empty if it did not say.
    pub verb: String,
    /// Since when, if it said so.
    pub since: Option<Timestamp>,
    /// Until when it waits for a confirmation, if it does.
    pub until: Option<Timestamp>,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("svcnat")?;
        if !self.verb.is_empty() {
            write!(f, " {}", self.verb)?;
        }
        match self.pid {
            Some(pid) => write!(f, " (process {pid}")?,
            None => f.write_str(" (a process of another container")?,
        }
        match self.since {
            Some(since) => write!(f, ", since {since:.0})")?,
            None => f.write_str(")")?,
        }
        match self.until {
            Some(until) => write!(f, ", which waits for `svcnat confirm` until {until:.0}"),
            None => Ok(()),
        }
    }
}

/// What is known of the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nobody writes.
    Free,
    /// A writer that counts: root's, or our own user's.
    Held(Holder),
    /// Something else has the name. It cannot write the rules, and does not count.
    Squatted(String),
}

/// The writer's place, given back when dropped.
#[derive(Debug)]
pub struct Seat {
    listener: Arc<UnixListener>,
    /// Until when it waits for a confirmation, in seconds since 1970; 0 if it does not.
    until: Arc<AtomicI64>,
    thread: Option<JoinHandle<()>>,
}

impl Seat {
    /// Takes the place for `verb`, or says what is there. The thread that answers who asks has
    /// the privileges of this moment.
    ///
    /// # Errors
    /// If the system has no socket or thread to give.
    pub fn take(verb: &str) -> io::Result<Result<Self, Place>> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => Arc::new(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Ok(Err(look()?)),
            Err(error) => return Err(error),
        };
        let answering = Arc::clone(&listener);
        let line = format!("{verb} {}", Timestamp::now().as_second());
        let until = Arc::new(AtomicI64::new(0));
        let waiting = Arc::clone(&until);
        let thread = std::thread::Builder::new()
            .name("writer".to_owned())
            .spawn(move || answer(&answering, &line, &waiting))?;
        Ok(Ok(Self {
            listener,
            until,
            thread: Some(thread),
        }))
    }
}

impl Seat {
    /// Tells who asks that this one waits for a confirmation until then.
    pub fn waits_until(&self, until: Timestamp) {
        self.until.store(until.as_second(), Ordering::Relaxed);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Ends the wait of the thread, which has the other copy of the socket.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn answer(listener: &UnixListener, line: &str, until: &AtomicI64) {
    loop {
        match listener.accept() {
            // Who asked and left has its answer.
            Ok((mut stream, _)) => {
                let line = match until.load(Ordering::Relaxed) {
                    0 => format!("{line}\n"),
                    until => format!("{line} {until}\n"),
                };
                drop(stream.write_all(line.as_bytes()));
            }
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
            // Out of descriptors, for example: others have to wait.
            Err(_) => std::thread::sleep(PATIENCE),
        }
    }
}

/// Who writes to this network namespace.
///
/// # Errors
/// If the system has no socket to give.
pub fn look() -> io::Result<Place> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(fd.as_raw_fd(), &UnixAddr::new_abstract(NAME)?) {
        Ok(()) => {}
        Err(Errno::ECONNREFUSED) => return Ok(Place::Free),
        // A queue that nobody empties: no writer of ours leaves that to happen.
        Err(Errno::EAGAIN) => return Ok(Place::Squatted("a process that does not answer".into())),
        Err(error) => return Err(error.into()),
    }
    let peer = getsockopt(&fd.as_fd(), PeerCredentials)?;
    let pid = Some(peer.pid()).filter(|pid| *pid > 0);
    if peer.uid() != 0 && peer.uid() != geteuid().as_raw() {
        let pid = pid.map_or_else(|| "unknown".to_owned(), |pid| pid.to_string());
        let uid = peer.uid();
        return Ok(Place::Squatted(format!("process {pid} of user {uid}")));
    }
    let stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    // One that is stopped says nothing; it holds the place all the same.
    let _ = stream.take(LONGEST).read_to_string(&mut line);
    let (verb, since, until) = said(&line);
    Ok(Place::Held(Holder {
        pid,
        verb,
        since,
        until,
    }))
}

/// The verb and the times in a holder's answer, as far as they make sense.
fn said(line: &str) -> (String, Option<Timestamp>, Option<Timestamp>) {
    let mut words = line.split_ascii_whitespace();
    let verb = words.next().unwrap_or_default();
    let known = !verb.is_empty() && verb.len() < 20 && verb.bytes().all(|b| b.is_ascii_lowercase());
    let mut time = || {
        let seconds = words.next().and_then(|seconds| seconds.parse().ok());
        seconds.and_then(|seconds| Timestamp::from_second(seconds).ok())
    };
    let (since, until) = (time(), time());
    (
        if known {
            verb.to_owned()
        } else {
            String::new()
        },
        since,
        until,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_holder_says_is_taken_only_as_far_as_it_makes_sense() {
        let (verb, since, until) = said("run 1700000000\n");
        assert_eq!((&*verb, until), ("run", None));
        let until = said("guardian 1700000000 1700000060\n").2;
        assert_eq!(until.unwrap().as_second(), 1_700_000_060);
        assert_eq!(since.unwrap().as_second(), 1_700_000_000);
        for odd in ["", "\u{1b}[31m 5", "RUN x", "run 99999999999999999999"] {
            let (verb, since, _) = said(odd);
            assert!(verb.is_empty() || verb == "run", "{odd:?}");
            assert!(since.is_none() || odd.ends_with('5'), "{odd:?}");
        }
    }

    #[test]
    fn a_holder_is_named_by_verb_process_and_time() {
        let holder = |pid| Holder {
            pid,
            verb: "run".to_owned(),
            since: Timestamp::from_second(1_700_000_000).ok(),
            until: None,
        };
        assert_eq!(
            holder(Some(7)).to_string(),
            "svcnat run (process 7, since 2023-11-14T22:13:20Z)"
        );
        let hidden = holder(None).to_string();
        assert!(hidden.contains("another container"), "{hidden}");
    }
}
