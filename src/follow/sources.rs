//! What sources say, taken in: the same words from files and from the API.

use std::time::Duration;

use super::Agent;
use super::tell::report;
use crate::apply::Host;
use crate::cluster::Kind;
use crate::observe::Condition;
use crate::source::events::{Event, Failure};

impl<H: Host> Agent<'_, H> {
    /// What the source said since the last turn; a part of it that was lost.
    pub(super) fn source_events(&mut self) -> Option<Failure> {
        let mut lost = None;
        for event in self.source.events() {
            match &event {
                Event::Found(problems) => report(problems),
                Event::Lost(part, failure) => {
                    self.source_failed(part, failure);
                    lost = Some(failure.clone());
                }
                Event::Recovered(part) => {
                    self.observed.good(Condition::Source(part));
                    self.agenda.reading.outcome(true, self.sync.now());
                }
                Event::Reset(kind, _) => {
                    let part = self.source.part(*kind);
                    self.observed.known(Condition::Source(part));
                }
                Event::Apply(_) | Event::Delete(..) => self.count(&event),
                Event::Settings(_) | Event::Listing(..) | Event::Heard(_) => {}
            }
            self.pending.take(event, &self.engine);
        }
        self.tell_progress();
        lost
    }

    fn count(&self, event: &Event) {
        let kind = match event {
            Event::Apply(object) => object.kind(),
            Event::Delete(kind, _) => *kind,
            _ => return,
        };
        let of = |counted| u64::from(kind == counted);
        self.observed
            .queued(of(Kind::Service), of(Kind::EndpointSlice));
    }

    fn tell_progress(&mut self) {
        let now = self.now();
        let quiet = now.saturating_duration_since(self.progress);
        if self.ready || self.pending.is_complete() || quiet < Duration::from_secs(1) {
            return;
        }
        self.progress = now;
        let objects = self.pending.heard_of();
        let listing = format!("listing: {objects} objects so far");
        self.line.say(&listing);
        self.told.borrow_mut().status(listing);
        tracing::info!(objects, "listing");
    }

    /// Asks for everything once more if it is time to: `anyway`, because something of it is
    /// held, or because it failed and does not come again by itself.
    pub(super) fn ask_again(&mut self, anyway: bool) {
        let second = self.guard.ask(self.now());
        if second {
            self.pending.await_second_reading();
        }
        if anyway || second || self.agenda.reading.is_due(self.now()) {
            self.source.ask_again();
        }
    }
}
