//! `apply --confirm`, on this side: starts the guardian, tells it how far it is, and waits with
//! it for a confirmation.

use std::fs::File;
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::error::CliError;
use super::say::say;
use crate::undo::{Folder, Waiting, process_start};

/// A guardian that was started.
pub struct Asker {
    time: Duration,
    guardian: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// It began to change something.
    began: bool,
}

fn host(error: impl std::fmt::Display) -> CliError {
    CliError::Host(format!(
        "--confirm: no guardian can be started: {error}; nothing was done"
    ))
}

impl Asker {
    /// Starts a guardian, which has the writer's place then.
    ///
    /// # Errors
    /// If it cannot be started, or somebody else writes here or waits already.
    pub fn start(time: Duration) -> Result<Self, CliError> {
        let folder = Folder::make().map_err(host)?;
        if let Some(waiting) = folder.waiting() {
            return Err(super::writer::waits(&waiting));
        }
        let log: File = folder.new_log().map_err(host)?;
        // The very program that runs, whatever became of its file.
        let mut guardian = Command::new("/proc/self/exe")
            .arg0("svcnat")
            .args(["guardian", "--time", &format!("{}ms", time.as_millis())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(host)?;
        let (Some(to), Some(from)) = (guardian.stdin.take(), guardian.stdout.take()) else {
            return Err(host("it has no pipes"));
        };
        let mut asker = Self {
            time,
            guardian,
            to,
            from: BufReader::new(from),
            began: false,
        };
        let answer = asker.hear()?;
        match answer.strip_prefix("refused ") {
            None if answer == "ready" => Ok(asker),
            None => Err(host("it does not answer")),
            Some(why) => Err(CliError::Host(why.to_owned())),
        }
    }

    /// One line of the guardian; empty if it is gone.
    fn hear(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        self.from.read_line(&mut line).map_err(host)?;
        Ok(line.trim_end().to_owned())
    }

    fn tell(&mut self, line: &str) -> Result<(), CliError> {
        let line = format!("{line}\n");
        self.to.write_all(line.as_bytes()).map_err(|error| {
            CliError::Host(format!(
                "the guardian (process {}) is gone: {error}",
                self.guardian.id()
            ))
        })
    }

    /// Who waits from now on, for the record.
    pub fn waiting(&self) -> Option<Waiting> {
        let pid = i32::try_from(self.guardian.id()).ok()?;
        Some(Waiting {
            pid,
            started: process_start(pid)?,
            until: Timestamp::now().checked_add(self.time).ok()?.as_second(),
        })
    }

    /// Something is about to be changed: from here on it is put back.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn begin(&mut self) -> Result<(), CliError> {
        self.tell("begin")?;
        self.began = true;
        Ok(())
    }

    /// The installation failed: what of it was done is put back. What became of that, in words.
    pub fn undo(&mut self) -> String {
        let told = self.tell("undo");
        let heard = told.and_then(|()| self.hear()).unwrap_or_default();
        let heard = heard.split_once(' ').map_or(&*heard, |(_, rest)| rest);
        heard.to_owned()
    }

    /// It is installed. The time starts.
    ///
    /// # Errors
    /// If the guardian is gone.
    pub fn installed(&mut self) -> Result<(), CliError> {
        self.tell("installed").map_err(|_| self.gone())
    }

    /// It is installed, and nobody waits with us.
    fn gone(&self) -> CliError {
        CliError::Host(format!(
            "the guardian (process {}) is gone: nobody puts the state before back any more; what \
             was applied stays, and `svcnat rollback` leads back",
            self.guardian.id()
        ))
    }

    /// Waits until somebody confirms, or the state before is back.
    ///
    /// # Errors
    /// If it is put back, or the guardian is gone.
    pub fn wait(mut self) -> Result<(), CliError> {
        let keyboard = std::io::stdin();
        let mut has_keyboard = keyboard.is_terminal();
        let until = Timestamp::now().checked_add(self.time);
        say(&format!(
            "confirm {}: `svcnat confirm` in any shell{}; otherwise the state before comes back \
             (process {} sees to it, whatever becomes of this one)\n",
            until.map_or_else(
                |_| "in time".to_owned(),
                |until| format!("until {until:.0}")
            ),
            if has_keyboard { ", or Enter here" } else { "" },
            self.guardian.id()
        ));
        loop {
            if !self.from.buffer().is_empty() {
                let answer = self.hear()?;
                return self.ended(&answer);
            }
            let ready = {
                let mut watched = vec![PollFd::new(self.from.get_ref().as_fd(), PollFlags::POLLIN)];
                if has_keyboard {
                    watched.push(PollFd::new(keyboard.as_fd(), PollFlags::POLLIN));
                }
                match poll(&mut watched, PollTimeout::NONE) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(host(error)),
                }
                let is = |fd: &PollFd<'_>| fd.revents().is_some_and(|found| !found.is_empty());
                (is(&watched[0]), watched.get(1).is_some_and(is))
            };
            if ready.0 {
                let answer = self.hear()?;
                return self.ended(&answer);
            }
            if ready.1 {
                let mut line = String::new();
                match keyboard.read_line(&mut line) {
                    Ok(0) | Err(_) => has_keyboard = false,
                    Ok(_) => self.tell("confirm").map_err(|_| self.gone())?,
                }
            }
        }
    }

    fn ended(&mut self, answer: &str) -> Result<(), CliError> {
        let (what, rest) = answer.split_once(' ').unwrap_or((answer, ""));
        match what {
            "kept" => {
                say("confirmed: what was applied stays\n");
                let _ = self.guardian.wait();
                Ok(())
            }
            "back" | "failed" => Err(CliError::Host(rest.to_owned())),
            _ => Err(self.gone()),
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        if !self.began {
            // It ends by itself, and has the writer's place until then.
            let _ = self.tell("end");
            let _ = self.guardian.wait();
        }
    }
}
