//! Who changed our tables: remembers who committed since they were last seen to be whole.
//!
//! Listening costs every program that commits much (`docs/decisions/0004-writers.md`), so by
//! default it begins with the first foreign change and ends some minutes after the last: who
//! does it once is not known, who does it again is named.

use std::time::{Duration, Instant};

use crate::netlink::{NetlinkError, Writer, Writers};
use crate::transaction::{Operation, Transaction};

/// Listening goes on for so long after a foreign change.
const AFTER_DRIFT: Duration = Duration::from_secs(600);
/// Our own commits of more elements than this are made without listening.
const LARGE: usize = 256;
/// Writers remembered at most.
const KEPT: usize = 8;

/// When to listen for who commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum NameWriters {
    /// For ten minutes after each foreign change to our tables.
    #[default]
    AfterDrift,
    /// Always: other programs' large commits take several times as long.
    Always,
    /// Never.
    Never,
}

pub(super) struct WriterLog {
    when: NameWriters,
    writers: Writers,
    until: Option<Instant>,
    seen: Vec<Writer>,
    /// Listening failed, which was said.
    listening_failed: bool,
}

impl WriterLog {
    /// `own` is the port of our commits.
    pub(super) fn open(when: NameWriters, own: u32) -> Result<Self, NetlinkError> {
        let mut log = Self {
            when,
            writers: Writers::open(own)?,
            until: None,
            seen: Vec::new(),
            listening_failed: false,
        };
        log.writers.listen(when == NameWriters::Always)?;
        Ok(log)
    }

    fn due(&self) -> bool {
        match self.when {
            NameWriters::Always => true,
            NameWriters::Never => false,
            NameWriters::AfterDrift => self.until.is_some_and(|until| Instant::now() < until),
        }
    }

    /// Takes note of who committed. One system call while nobody does.
    pub(super) fn note(&mut self) {
        for writer in self.writers.drain() {
            if !self.seen.contains(&writer) {
                self.seen.push(writer);
            }
        }
        let old = self.seen.len().saturating_sub(KEPT);
        self.seen.drain(..old);
        if !self.due() {
            self.listen(false);
        }
    }

    /// Our tables are whole: what was written so far did no harm.
    pub(super) fn clear(&mut self) {
        self.seen.clear();
    }

    /// Who may have done it, in words, and listens from now on.
    pub(super) fn name(&mut self) -> String {
        self.note();
        let names: Vec<String> = self.seen.drain(..).map(|w| w.to_string()).collect();
        let heard = self.until.is_some() || self.when == NameWriters::Always;
        if self.when == NameWriters::AfterDrift {
            self.until = Some(Instant::now() + AFTER_DRIFT);
            self.listen(true);
        }
        match (names.is_empty(), self.when) {
            (false, _) => names.join(", "),
            (true, NameWriters::Never) => "not asked (--name-writers)".to_owned(),
            (true, _) if heard => "unknown".to_owned(),
            (true, _) => "unknown; whoever does it again is named".to_owned(),
        }
    }

    /// Around a commit of ours: a large one is made without listening.
    pub(super) fn while_committing<T>(
        &mut self,
        delta: &Transaction,
        commit: impl FnOnce() -> T,
    ) -> T {
        let elements = delta.tables.iter().flat_map(|table| &table.operations);
        let elements = elements.map(|operation| match operation {
            Operation::AddElements(_, e) | Operation::DeleteElements(_, e) => e.len(),
            _ => 1,
        });
        let large = self.due() && elements.sum::<usize>() > LARGE;
        if large {
            self.note();
            self.listen(false);
        }
        let done = commit();
        if large {
            self.listen(true);
        }
        done
    }

    fn listen(&mut self, listen: bool) {
        let result = self.writers.listen(listen);
        if let (Err(error), false) = (&result, self.listening_failed) {
            tracing::warn!(%error, "cannot hear who commits");
        }
        self.listening_failed = result.is_err();
    }
}
