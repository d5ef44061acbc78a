//! The process that puts the state before back if nobody confirms: started by `apply
//! --confirm`, in a session of its own, so that it outlives the shell, its terminal and the
//! `apply` that asked.
//!
//! `apply` speaks to it in lines through a pipe, and hears from it through another; the end of
//! the first says that `apply` is gone. `svcnat confirm` comes by a socket in a folder that
//! only root can enter. While it lives it has the writer's place, so that nobody else changes
//! what it may have to put back.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, geteuid, getppid, setsid};

use super::args::GuardianArgs;
use super::error::CliError;
use super::writer;
use crate::apply::ThisHost;
use crate::host::writer::Seat;
use crate::text::printable;
use crate::undo::{Care, Folder, Record, put_back};

/// How long who confirms may take to say so.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long an installation may take at least, however short the time to confirm is.
const INSTALLING: Duration = Duration::from_secs(60);
/// How often the way back is tried, and how long after each other.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Where an installation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing was changed yet.
    Before,
    /// It is under way.
    Installing,
    /// It is done, and waits.
    Waiting,
}

/// How it ends.
enum End {
    /// Nothing was changed, or nobody is there to change it.
    Quietly,
    Kept,
    PutBack(&'static str),
}

struct Guardian {
    folder: Folder,
    seat: Option<Seat>,
    time: Duration,
    stage: Stage,
    deadline: Option<Instant>,
    asker: Pid,
    listener: UnixListener,
    signals: SignalFd,
}

pub fn run(args: &GuardianArgs) -> Result<u8, CliError> {
    let asker = getppid();
    match start(args, asker) {
        Ok(guardian) => {
            tell("ready");
            guardian.watch();
            Ok(0)
        }
        Err(error) => {
            tell(&format!("refused {error}"));
            Err(error)
        }
    }
}

fn start(args: &GuardianArgs, asker: Pid) -> Result<Guardian, CliError> {
    let host = |error: &dyn std::fmt::Display| CliError::Host(format!("the guardian: {error}"));
    // No terminal's end is ours from here on. It fails for who leads a group already.
    setsid().map_err(|error| host(&error))?;
    std::env::set_current_dir("/").map_err(|error| host(&error))?;
    // Before the first thread: it has them blocked as well. The end of a session may bring
    // SIGHUP and SIGTERM to all that is left of it.
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block().map_err(|error| host(&error))?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&set, flags).map_err(|error| host(&error))?;
    let seat = writer::take("guardian", false)?;
    let folder = Folder::make().map_err(|error| host(&error))?;
    let socket = folder.socket();
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(host(&error)),
        _ => {}
    }
    let listener = UnixListener::bind(&socket).map_err(|error| host(&error))?;
    Ok(Guardian {
        folder,
        seat,
        time: args.time,
        stage: Stage::Before,
        deadline: None,
        asker,
        listener,
        signals,
    })
}

/// A line to `apply`, which may be gone.
fn tell(line: &str) {
    let line = line.replace('\n', " ");
    let _ = std::io::stdout().write_all(format!("{line}\n").as_bytes());
    let _ = std::io::stdout().flush();
}

/// A line to the log, with the time.
fn log(line: &str) {
    let now = Timestamp::now();
    let line = format!("{now:.0} {}\n", printable(line));
    let _ = std::io::stderr().write_all(line.as_bytes());
}

impl Guardian {
    fn watch(mut self) {
        let end = self.wait();
        // A socket that nobody listens to says that nobody waits.
        let _ = std::fs::remove_file(self.folder.socket());
        match end {
            End::Quietly => {}
            End::Kept => log("confirmed"),
            End::PutBack(why) => self.put_back(why),
        }
    }

    fn wait(&mut self) -> End {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned();
        let mut asker = stdin.ok().map(|fd| BufReader::new(File::from(fd)));
        loop {
            let left = self
                .deadline
                .map(|at| at.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return self.late(asker);
            }
            let [signal, visitor, said] = match self.listen(asker.as_ref(), left) {
                Ok(ready) => ready,
                Err(error) => {
                    log(&format!("waiting failed: {error}"));
                    sleep(PATIENCE);
                    continue;
                }
            };
            if signal && self.is_told_to_end() {
                return match self.stage {
                    Stage::Before => End::Quietly,
                    Stage::Installing => self.late(asker),
                    Stage::Waiting => End::PutBack("the guardian was told to end"),
                };
            }
            while let Some(from) = asker
                .as_mut()
                .filter(|asker| said || !asker.buffer().is_empty())
            {
                let mut line = String::new();
                let gone = from.read_line(&mut line).unwrap_or(0) == 0;
                let more = !from.buffer().is_empty();
                if gone {
                    asker = None;
                }
                if let Some(end) = self.asked(line.trim(), gone) {
                    return end;
                }
                if !more {
                    break;
                }
            }
            if visitor && self.visited() {
                return End::Kept;
            }
        }
    }

    /// True if it was; the end of a terminal is none of its business.
    fn is_told_to_end(&self) -> bool {
        let hang_up = u32::try_from(Signal::SIGHUP as i32).unwrap_or_default();
        std::iter::from_fn(|| self.signals.read_signal().ok().flatten())
            .any(|found| found.ssi_signo != hang_up)
    }

    /// Waits until a signal comes, or somebody, or `apply` says something: those that did; or
    /// until so much time has passed.
    fn listen(
        &self,
        asker: Option<&BufReader<File>>,
        left: Option<Duration>,
    ) -> nix::Result<[bool; 3]> {
        const LONGEST: u16 = 60_000;
        let mut watched = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        let stdin = asker.map(|asker| asker.get_ref().as_fd());
        watched.extend(stdin.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        // A millisecond more: it is cut off otherwise.
        let timeout = left.map_or(PollTimeout::NONE, |left| {
            let wait = u16::try_from(left.as_millis() + 1).unwrap_or(LONGEST);
            PollTimeout::from(wait.min(LONGEST))
        });
        poll(&mut watched, timeout)?;
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|found| !found.is_empty());
        let [signal, visitor] = [ready(&watched[0]), ready(&watched[1])];
        Ok([signal, visitor, watched.get(2).is_some_and(ready)])
    }

    /// What `apply` says, or that it is gone.
    fn asked(&mut self, line: &str, gone: bool) -> Option<End> {
        match (self.stage, line) {
            (Stage::Before, "begin") => {
                self.stage = Stage::Installing;
                self.count_down(self.time.max(INSTALLING));
            }
            (Stage::Before, _) => return Some(End::Quietly),
            (Stage::Installing, "installed") => {
                self.stage = Stage::Waiting;
                self.count_down(self.time);
                log("installed; waiting for a confirmation");
            }
            (Stage::Installing, _) if gone => {
                return Some(End::PutBack(
                    "the apply that asked ended before it was done",
                ));
            }
            (Stage::Installing, "undo") => return Some(End::PutBack("it could not be installed")),
            (Stage::Waiting, "confirm") if self.keep() => return Some(End::Kept),
            _ => {}
        }
        None
    }

    fn count_down(&mut self, time: Duration) {
        self.deadline = Some(Instant::now() + time);
        if let (Some(seat), Ok(until)) = (&self.seat, Timestamp::now().checked_add(time)) {
            seat.waits_until(until);
        }
    }

    /// Nobody confirmed. An installation that takes longer than the time itself is ended.
    fn late(&self, asker: Option<BufReader<File>>) -> End {
        if self.stage == Stage::Waiting {
            return End::PutBack("nobody confirmed in time");
        }
        if let Some(mut asker) = asker {
            // Ours only as long as it is our parent.
            if getppid() == self.asker {
                let _ = kill(self.asker, Signal::SIGKILL);
            }
            // Until it is gone.
            let _ = asker.read_to_end(&mut Vec::new());
        }
        End::PutBack("the installation was not done in time")
    }

    /// Somebody came; true if it was confirmed.
    fn visited(&mut self) -> bool {
        let Ok((stream, _)) = self.listener.accept() else {
            return false;
        };
        let _ = stream.set_read_timeout(Some(PATIENCE));
        let peer = getsockopt(&stream.as_fd(), PeerCredentials);
        let may = peer.is_ok_and(|peer| peer.uid() == 0 || peer.uid() == geteuid().as_raw());
        let mut line = String::new();
        let mut from = BufReader::new((&stream).take(100));
        if from.read_line(&mut line).is_err() || !may || line.trim() != "confirm" {
            return false;
        }
        let answer = |text: &str| drop((&stream).write_all(format!("{text}\n").as_bytes()));
        if self.stage != Stage::Waiting {
            answer("busy");
            return false;
        }
        let summary = self
            .folder
            .last()
            .ok()
            .flatten()
            .map(|record| record.summary);
        if !self.keep() {
            answer("failed");
            return false;
        }
        answer(&format!("kept {}", summary.unwrap_or_default()));
        true
    }

    /// Nobody waits any more; the way back stays for `rollback`.
    fn keep(&self) -> bool {
        let kept = self.folder.last().and_then(|record| {
            let record = record.map(|record| Record {
                waiting: None,
                ..record
            });
            record.map_or(Ok(()), |record| self.folder.keep(&record))
        });
        if let Err(error) = &kept {
            log(&format!("cannot be confirmed: {error}"));
        }
        if kept.is_ok() {
            tell("kept");
        }
        kept.is_ok()
    }

    fn put_back(&self, why: &str) {
        let mut said = String::new();
        for left in (0..TRIES).rev() {
            match self.try_back() {
                Ok(done) => {
                    let _ = self.folder.forget();
                    let said = format!("{why}: the state before is back ({done})");
                    log(&said);
                    tell(&format!("back {said}"));
                    return;
                }
                Err(error) if error == said => {}
                Err(error) => {
                    log(&format!("the state before is not back yet: {error}"));
                    said = error;
                }
            }
            if left > 0 {
                sleep(PAUSE);
            }
        }
        log(&format!(
            "{why}, and the state before could not be put back: {said}"
        ));
        tell(&format!(
            "failed {why}, and the state before could not be put back: {said}"
        ));
    }

    fn try_back(&self) -> Result<String, String> {
        let record = self.folder.last().map_err(|error| error.to_string())?;
        let record = record.ok_or_else(|| "nothing was kept of it".to_owned())?;
        let mut host = ThisHost::open().map_err(|error| error.to_string())?;
        let done =
            put_back(&mut host, &record, Care::Watched).map_err(|error| error.to_string())?;
        let failed: Vec<String> = (done.failed.iter())
            .map(|what| format!("; not: {what}"))
            .collect();
        Ok(format!("{done}{}", failed.concat()))
    }
}

/// Tells the guardian of this network namespace that what was applied is to stay. What it
/// answers; `None` if there is none.
pub fn confirm(folder: &Folder) -> std::io::Result<Option<String>> {
    let stream = match UnixStream::connect(folder.socket()) {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(10 * PATIENCE))?;
    (&stream).write_all(b"confirm\n")?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    Ok(Some(answer.trim().to_owned()))
}
