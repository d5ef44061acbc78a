//! What `apply` keeps for the way back.

use jiff::Timestamp;

use super::error::CliError;
use super::intent::Intent;
use super::say::say;
use crate::apply::{Installed, ThisHost};
use crate::ruleset::Ruleset;
use crate::undo::{
    Back, Care, Fingerprint, Folder, Record, RoutesBack, TablesBack, Waiting, boot_id, put_back,
    summary,
};

/// The way back from what is about to be done.
pub struct WayBack {
    record: Record,
    folder: Folder,
}

impl WayBack {
    /// What leads back from `intent`; `Err` with the reason if nothing can.
    pub fn of(intent: &Intent) -> Result<Self, String> {
        let (tables, obstacles) = TablesBack::of(&intent.rules.before, &intent.rules.delta);
        if !obstacles.is_empty() {
            return Err(format!(
                "what is not of our making could not be put back: {}",
                obstacles.join("; ")
            ));
        }
        let routes = &intent.routes;
        let folder = Folder::here().map_err(|error| error.to_string())?;
        let record = Record {
            boot_id: boot_id().map_err(|error| error.to_string())?,
            namespace: folder.namespace(),
            made: Timestamp::now().as_second(),
            summary: summary(
                intent.rules.delta.counts(),
                routes.add.len() + routes.replace.len() + routes.delete.len(),
                intent.sysctls.len(),
            ),
            generation: 0,
            after: Fingerprint::default(),
            back: Back {
                tables,
                routes: RoutesBack::of(routes),
                settings: intent.sysctls.iter().map(Into::into).collect(),
            },
            waiting: None,
        };
        Ok(Self { record, folder })
    }

    /// True if nothing is changed that could be put back.
    pub fn is_empty(&self) -> bool {
        self.record.back.is_empty()
    }

    /// Keeps it before anything is changed, for who waits.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn keep_for(&mut self, waiting: Option<Waiting>) -> Result<(), CliError> {
        self.record.waiting = waiting;
        self.keep()
    }

    /// It is done: keeps what is there now.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn installed(
        &mut self,
        waiting: Option<Waiting>,
        generation: u32,
        ruleset: &Ruleset,
    ) -> Result<(), CliError> {
        self.record.generation = generation;
        self.record.after = Fingerprint::of_wanted(ruleset);
        self.record.waiting = waiting;
        self.keep()
    }

    /// Puts it back at once: the installation failed.
    pub fn put_back(&self, host: &mut ThisHost) {
        let said = match put_back(host, &self.record, Care::Whatever) {
            Ok(done) => done.failed.join("; "),
            Err(error) => error.to_string(),
        };
        if !said.is_empty() {
            say(&format!(
                "warning: not all of it could be put back: {said}\n"
            ));
        }
    }

    fn keep(&self) -> Result<(), CliError> {
        let wrong = |error: &dyn std::fmt::Display| {
            CliError::Host(format!("the state before cannot be kept: {error}"))
        };
        Folder::make().map_err(|error| wrong(&error))?;
        self.folder
            .keep(&self.record)
            .map_err(|error| wrong(&error))
    }

    /// True if it leads back from what was really done.
    pub fn covers(&self, done: &Installed) -> bool {
        self.record.back.tables.covers(&done.rules.delta)
    }
}

/// Keeps it for `rollback`, if that can be, and says so if not: the installation stands.
pub fn keep(way: Result<WayBack, String>, done: &Installed, generation: u32, ruleset: &Ruleset) {
    let kept = way.and_then(|mut way| {
        if way.is_empty() {
            // What an earlier apply left is still there.
            return Ok(());
        }
        if !way.covers(done) {
            way.folder.forget().map_err(|error| error.to_string())?;
            return Err("another program changed our tables meanwhile".to_owned());
        }
        let kept = way.installed(None, generation, ruleset);
        kept.map_err(|error| error.to_string())
    });
    if let Err(why) = kept {
        say(&format!(
            "notice: `svcnat rollback` will not lead back from this: {why}\n"
        ));
    }
}
