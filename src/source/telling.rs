//! Hands over what is known of one kind, and says each failure once.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use nix::sys::eventfd::EventFd;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::api::{Event, Failure, Fault, Kind, ROOM, Reason};

/// A server's signs of life are told once in this time at most.
const HEARD: Duration = Duration::from_secs(5);

/// Nobody listens any more.
pub(super) struct Over;

/// What is to be said of a failure.
pub(super) struct Told<'a> {
    /// The server.
    pub server: &'a str,
    /// What we show it.
    pub shown: &'a str,
    /// This node goes on without the kind.
    pub dispensable: bool,
    /// It was one of a watch that had begun.
    pub in_watch: bool,
}

/// Where the events of one kind go.
pub(super) struct Telling {
    kind: Kind,
    sender: Sender<Event>,
    /// How many more objects may wait.
    room: Arc<Semaphore>,
    /// Calls the listener.
    caller: Arc<EventFd>,
    /// The failure that was told last and still stands.
    told: Option<(Reason, String)>,
    /// It was one of a watch that had begun.
    in_watch: bool,
    heard: Option<Instant>,
}

/// The room that an event takes: a list of any length has some. At least one place.
pub(super) fn places(event: &Event) -> u32 {
    match event {
        Event::Reset(_, objects) => {
            let objects = u32::try_from(objects.len()).unwrap_or(ROOM);
            objects.clamp(1, ROOM)
        }
        _ => 1,
    }
}

impl Telling {
    /// Events of `kind`, while there is `room` for them.
    pub const fn new(
        kind: Kind,
        sender: Sender<Event>,
        room: Arc<Semaphore>,
        caller: Arc<EventFd>,
    ) -> Self {
        Self {
            kind,
            sender,
            room,
            caller,
            told: None,
            in_watch: false,
            heard: None,
        }
    }

    /// Hands over an event, as soon as there is room for it: a listener that is busy for long
    /// keeps the server waiting and not everything in memory.
    pub async fn send(&self, event: Event) -> Result<(), Over> {
        let room = self.room.acquire_many(places(&event)).await;
        // The listener gives it back.
        room.map_err(|_| Over)?.forget();
        self.sender.send(event).map_err(|_| Over)?;
        // A full counter calls just as well.
        let _ = self.caller.write(1);
        Ok(())
    }

    /// The server lives.
    pub async fn heard(&mut self) -> Result<(), Over> {
        if self.heard.is_some_and(|at| at.elapsed() < HEARD) {
            return Ok(());
        }
        self.heard = Some(Instant::now());
        self.send(Event::Heard(self.kind)).await
    }

    /// The kind is watched. After a watch that had begun and failed, that is nothing to tell
    /// until the next has lived a while.
    pub async fn followed(&mut self, for_a_while: bool) -> Result<(), Over> {
        if self.told.is_none() || (self.in_watch && !for_a_while) {
            return Ok(());
        }
        self.told = None;
        self.send(Event::Recovered(self.kind.name())).await
    }

    /// The kind cannot be followed; in words that say what to do about it.
    pub async fn failed(&mut self, fault: &Fault, of: Told<'_>) -> Result<(), Over> {
        // Before Kubernetes 1.33 there are no ServiceCIDRs: nothing to tell.
        if of.dispensable && fault.reason == Reason::NotServed {
            self.told = None;
            return Ok(());
        }
        let Told { server, shown, .. } = of;
        let (group, version, plural) = self.kind.resource();
        let text = &fault.text;
        let what = match fault.reason {
            Reason::Unauthorized => format!(
                "401 Unauthorized: the server does not accept {shown}; tried again as soon as that changes"
            ),
            Reason::Forbidden => format!("not allowed to list and watch {plural}: {text}"),
            Reason::NotServed => {
                let group = if group.is_empty() { "core" } else { group };
                format!("the server does not know {plural} of {group}/{version}: {text}")
            }
            _ => text.clone(),
        };
        let without = if of.dispensable { "; done without" } else { "" };
        let told = (fault.reason, format!("{server}: {what}{without}"));
        let failure = Failure {
            reason: told.0,
            message: told.1.clone(),
            repeated: self.told.as_ref() == Some(&told),
            dispensable: of.dispensable,
        };
        self.told = Some(told);
        self.in_watch = of.in_watch;
        self.send(Event::Lost(self.kind.name(), failure)).await
    }
}
