//! Where objects come from: files that are read whole, or something that says what there is
//! and what changes.

use std::time::Duration;

use super::tell::report;
use super::{Agent, FILES, RunError, Watch};
use crate::apply::Host;
use crate::cluster::Cluster;
use crate::config::Config;
use crate::observe::Condition;
use crate::problem::{Problem, Severity};
use crate::source::api;

/// Objects read from files, with the settings that go with them.
pub struct Reading {
    /// Settings.
    pub config: Config,
    /// Objects, completed.
    pub cluster: Cluster,
    /// What was found.
    pub problems: Vec<Problem>,
}

/// Where objects come from.
pub enum Sources<'a> {
    /// Files: what changed there, and how to read them.
    Files {
        /// Tells when to read again.
        watch: Watch,
        /// Reads everything.
        read: Box<dyn Fn() -> Result<Reading, String> + 'a>,
    },
    /// Something that says what objects there are, and which change.
    Api(Box<dyn Objects>),
}

/// Says what objects there are, and which change. It wakes the agent when there is news.
pub trait Objects {
    /// News since the last call.
    fn events(&self) -> Vec<api::Event>;
    /// Lists everything anew, as a second opinion.
    fn list_again(&self);
}

impl Objects for api::Follower {
    fn events(&self) -> Vec<api::Event> {
        Self::events(self).collect()
    }

    fn list_again(&self) {
        self.relist();
    }
}

impl<H: Host> Agent<'_, H> {
    /// What the API said since the last turn.
    pub(super) fn api_events(&mut self) {
        let Sources::Api(follower) = &self.sources else {
            return;
        };
        let now = self.now();
        for event in follower.events() {
            match &event {
                api::Event::Failed(kind, failure) => self.source_failed(*kind, failure),
                api::Event::Recovered(kind) => {
                    self.observed.good(Condition::Source(kind.name()));
                }
                api::Event::Listed(_, _, problems) | api::Event::Changed(_, _, problems) => {
                    report(problems);
                }
                api::Event::Complete(kind) => {
                    self.observed.known(Condition::Source(kind.name()));
                }
                api::Event::Listing(_) | api::Event::Heard(_) => {}
            }
            if let api::Event::Changed(kind, ..) = event {
                self.observed.queued(
                    u64::from(kind == api::Kind::Service),
                    u64::from(kind == api::Kind::EndpointSlice),
                );
            }
            self.pending.take(event, self.engine.cluster());
        }
        if !self.ready && now.saturating_duration_since(self.progress) >= Duration::from_secs(1) {
            self.progress = now;
            let listing = format!("listing: {} objects so far", self.pending.len());
            self.line.say(&listing);
            self.told.borrow_mut().status(listing);
            tracing::info!(objects = self.pending.len(), "listing");
        }
    }

    /// Reads inputs again: files if they changed, or if it is time to after a failure; both
    /// kinds as long as something of them is held.
    pub(super) fn reread(&mut self, changed: bool) {
        let again = self.second_reading_due();
        if !(changed || again || self.agenda.reading.is_due(self.sync.now())) {
            return;
        }
        if matches!(self.sources, Sources::Files { .. }) {
            let result = self.read_files(again).map_err(|e| e.to_string());
            self.agenda.reading.outcome(result.is_ok(), self.sync.now());
            self.observed.outcome(FILES, &result);
        }
    }

    /// Reads files again; true if what they say is to be carried out. What cannot be used
    /// changes nothing: a half-written file is followed by a whole one, and the last good state
    /// stays until then. `second`: what was read before is held.
    pub(super) fn read_files(&mut self, second: bool) -> Result<bool, RunError> {
        let Sources::Files { watch, read } = &self.sources else {
            return Ok(false);
        };
        // A folder that came meanwhile is another one.
        watch.renew();
        let reading = read().map_err(RunError::Input)?;
        // Read again because it failed, or is held, it is mostly wrong in the same way.
        if reading.problems != self.file_problems {
            report(&reading.problems);
            self.file_problems.clone_from(&reading.problems);
        }
        let is_error = |p: &&Problem| p.severity == Severity::Error;
        let errors = reading.problems.iter().filter(is_error).count();
        if errors > 0 && !self.options.skip_invalid {
            let first = reading.problems.iter().find(is_error);
            let first = first.map(|problem| problem.without_severity().to_string());
            let first = first.unwrap_or_default();
            let noun = if errors == 1 { "error" } else { "errors" };
            let what = format!("{errors} {noun} in the input, the first: {first}");
            return Err(RunError::Objects(what));
        }
        if !self.may_replace(&reading.cluster, second)? {
            return Ok(false);
        }
        self.engine.reconfigure(reading.config);
        self.engine.replace(reading.cluster);
        Ok(true)
    }
}
