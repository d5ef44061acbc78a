//! Follows one kind of object: lists it, watches it from there, and begins anew when that
//! fails, at another server if there is one.

use std::sync::Arc;
use std::time::Duration;

use kube::api::{ListParams, WatchParams};
use kube::core::Request;
use serde_json::value::RawValue;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};

use super::answers::{Line, Stub, is_older, no_version, object, read_page};
use super::api::{Event, Fault, Kind, Reason, Settings};
use super::clients::{Clients, Target};
use super::exchange::{Lines, Said, ask, body, error_event};
use super::limits::{Backoff, Limits, about};
use super::telling::{Over, Telling, Told};
use crate::cluster::{Names, Object};

/// Headless services and those of another proxy never come here (kube-proxy's own selector).
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";
/// How often files are looked at that may let a refusing server accept us.
const FILES: Duration = Duration::from_millis(200);

/// What is to be asked next.
enum Position {
    /// For everything.
    List,
    /// For what changed since this version.
    Watch(String),
    /// Whether the server is there, and not older than this version: then the same. A watch
    /// from a version that is yet to come says nothing and does not fail, as after the store
    /// was set back to a copy.
    Check(String),
}

/// Why a question has no answer.
enum Stop {
    /// Nobody listens any more.
    Over,
    /// Everything is to be listed anew.
    Relist,
    /// It failed.
    Fault(Fault),
}

impl From<Over> for Stop {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Follows one kind.
pub(super) struct OneKind {
    kind: Kind,
    clients: Arc<Mutex<Clients>>,
    settings: Arc<Settings>,
    out: Telling,
    /// Names that objects share.
    names: Names,
    turn: usize,
    /// How many servers there are.
    servers: usize,
    position: Position,
    page_size: u32,
    backoff: Backoff,
    /// Silent answers in a row.
    silent: usize,
    /// A list was complete, or done without.
    complete: bool,
    /// The last question was answered with a watch.
    in_watch: bool,
}

impl OneKind {
    pub fn new(
        kind: Kind,
        clients: Arc<Mutex<Clients>>,
        settings: Arc<Settings>,
        out: Telling,
    ) -> Self {
        Self {
            kind,
            clients,
            out,
            names: Names::default(),
            turn: 0,
            servers: settings.servers.len().max(1),
            position: Position::List,
            page_size: settings.page_size,
            backoff: Backoff::new(&settings.limits),
            silent: 0,
            complete: false,
            in_watch: false,
            settings,
        }
    }

    /// Follows until nobody listens.
    pub async fn run(mut self, mut relists: watch::Receiver<u64>) {
        loop {
            let target = self.clients.lock().await.turn(self.turn);
            let stop = tokio::select! {
                done = self.step(&target) => match done {
                    Ok(()) => continue,
                    Err(stop) => stop,
                },
                changed = relists.changed() => {
                    if changed.is_ok() { Stop::Relist } else { Stop::Over }
                }
            };
            let pause = match stop {
                Stop::Over => return,
                Stop::Relist => {
                    self.position = Position::List;
                    continue;
                }
                Stop::Fault(fault) => self.failed(fault, &target).await,
            };
            let Ok(pause) = pause else { return };
            // Not longer than until everything is to be listed anew.
            tokio::select! {
                () = sleep(pause) => {}
                changed = relists.changed() => match changed {
                    Ok(()) => self.position = Position::List,
                    Err(_) => return,
                }
            }
        }
    }

    async fn step(&mut self, target: &Target) -> Result<(), Stop> {
        self.in_watch = false;
        match std::mem::replace(&mut self.position, Position::List) {
            Position::List => {
                let version = self.list(target).await?;
                self.position = Position::Watch(version);
                Ok(())
            }
            Position::Watch(version) => self.watch(target, version).await,
            Position::Check(version) => {
                self.position = Position::Check(version.clone());
                let now = self.check(target).await?;
                self.not_older(target, &now, &version)?;
                self.position = Position::Watch(version);
                Ok(())
            }
        }
    }

    /// Everything is to be listed anew if the server's store is older than what it said before.
    fn not_older(&mut self, target: &Target, now: &str, before: &str) -> Result<(), Fault> {
        if !is_older(now, before) {
            return Ok(());
        }
        self.position = Position::List;
        let text = "the server's store is older than what it said before";
        tracing::warn!(
            kind = self.kind.name(),
            server = target.server,
            had = before,
            has = now,
            "{text}: listed anew"
        );
        Err(Fault::new(Reason::Expired, text))
    }

    fn limits(&self) -> Limits {
        self.settings.limits.patient(self.silent / self.servers)
    }

    fn request(&self) -> Request {
        let (group, version, plural) = self.kind.resource();
        Request::new(match group {
            "" => format!("/api/{version}/{plural}"),
            group => format!("/apis/{group}/{version}/{plural}"),
        })
    }

    /// Label and field selectors: only what this node needs.
    fn selectors(&self) -> (Option<String>, Option<String>) {
        let node = &self.settings.node_name;
        match self.kind {
            Kind::Service | Kind::EndpointSlice => (Some(OURS.to_owned()), None),
            Kind::Pod => (None, Some(format!("spec.nodeName={node}"))),
            Kind::Node if !self.settings.all_nodes => (None, Some(format!("metadata.name={node}"))),
            Kind::Node | Kind::ServiceCidr => (None, None),
        }
    }

    /// The version of the server's store now, for the price of one object.
    async fn check(&mut self, target: &Target) -> Result<String, Fault> {
        let text = self.page(target, 1, None).await?;
        let page = read_page(&text)?;
        Ok(page.metadata.resource_version)
    }

    async fn page(
        &mut self,
        target: &Target,
        size: u32,
        next: Option<&str>,
    ) -> Result<Vec<u8>, Fault> {
        let limits = self.limits();
        let (label_selector, field_selector) = self.selectors();
        // Without a resource version: what the store holds now, not what a cache held.
        let params = ListParams {
            label_selector,
            field_selector,
            limit: (size > 0).then_some(size),
            continue_token: next.map(str::to_owned),
            ..ListParams::default()
        };
        let request = self.request().list(&params).map_err(|e| impossible(&e))?;
        let answer = ask(target, request, &limits).await?;
        let most = limits.page_bytes;
        let text = body(answer, &target.life, &limits, most, "one page of the list").await?;
        self.silent = 0;
        Ok(text)
    }

    /// Lists everything; the version it was listed at.
    async fn list(&mut self, target: &Target) -> Result<String, Stop> {
        let limits = self.settings.limits.clone();
        let (mut bytes, mut count) = (0, 0);
        let mut objects = Vec::new();
        let mut next: Option<String> = None;
        loop {
            let text = match self.page(target, self.page_size, next.as_deref()).await {
                // Not if it is one object already.
                Err(fault) if fault.reason == Reason::TooLarge && self.page_size != 1 => {
                    self.page_size = match self.page_size {
                        0 => 500,
                        size => size.div_ceil(4),
                    };
                    continue;
                }
                page => page?,
            };
            let page = read_page(&text)?;
            bytes += text.len();
            let items = page.items.unwrap_or_default();
            count += items.len();
            if bytes > limits.list_bytes || count > limits.list_objects {
                return Err(Stop::Fault(Fault::new(
                    Reason::TooLarge,
                    format!(
                        "the list has more than {} bytes or {} objects, the limits of one list",
                        limits.list_bytes, limits.list_objects
                    ),
                )));
            }
            for item in items {
                objects.extend(self.object(target, item).await?);
            }
            self.out.send(Event::Listing(self.kind, count)).await?;
            let more = page.metadata.continue_.filter(|token| !token.is_empty());
            if more.is_none() {
                let version = page.metadata.resource_version;
                if version.is_empty() {
                    return Err(Stop::Fault(no_version()));
                }
                self.complete = true;
                self.out.send(Event::Reset(self.kind, objects)).await?;
                return Ok(version);
            }
            if more == next {
                return Err(Stop::Fault(Fault::new(
                    Reason::NotUnderstood,
                    "the list goes on where it was before: metadata.continue is the same again",
                )));
            }
            next = more;
        }
    }

    /// The object in a text, if it can be used; what is wrong with it is told.
    async fn object(&mut self, target: &Target, text: &RawValue) -> Result<Option<Object>, Over> {
        let (rules, most) = (self.settings.rules, self.settings.limits.object_bytes);
        let (mut found, problems) = object(self.kind, &target.server, rules, text, most);
        if let Some(object) = &mut found {
            self.names.share_object(object);
        }
        if !problems.is_empty() {
            self.out.send(Event::Found(problems)).await?;
        }
        Ok(found)
    }

    /// Watches from a version until the watch ends.
    async fn watch(&mut self, target: &Target, version: String) -> Result<(), Stop> {
        let limits = self.limits();
        let (label_selector, field_selector) = self.selectors();
        let params = WatchParams {
            label_selector,
            field_selector,
            timeout: Some(limits.watch_seconds()),
            bookmarks: true,
            send_initial_events: false,
        };
        let request = self.request().watch(&params, &version);
        self.position = Position::Watch(version);
        let request = request.map_err(|e| impossible(&e))?;
        let answer = ask(target, request, &limits).await.inspect_err(|fault| {
            // Only a bad moment is worth the same question again.
            if matches!(
                fault.reason,
                Reason::Expired | Reason::ServerError | Reason::NotServed
            ) {
                self.position = Position::List;
            }
        })?;
        self.silent = 0;
        self.in_watch = true;
        self.out.heard().await?;
        self.out.followed(false).await?;
        let mut lines = Lines::new(answer, Arc::clone(&target.life), &limits);
        let begun = Instant::now();
        let mut steady = false;
        let mut last = begun;
        let mut mute = true;
        loop {
            if !steady && begun.elapsed() >= limits.steady {
                steady = true;
                self.backoff.reset();
                self.out.followed(true).await?;
            }
            let silent = target.life.heard() + limits.silence;
            let dead = last + limits.mute;
            let until = if steady {
                dead.min(silent)
            } else {
                dead.min(silent).min(begun + limits.steady)
            };
            match lines.next(until).await {
                Ok(Said::Line(line)) => {
                    mute = false;
                    self.line(target, &line).await?;
                    // Handing it over may have taken a while.
                    last = Instant::now();
                    target.life.sign();
                }
                Ok(Said::Nothing) if Instant::now() < dead => {
                    if Instant::now() >= target.life.heard() + limits.silence {
                        self.ask_whether_there(target).await?;
                    }
                }
                Ok(Said::Nothing) => {
                    // Perhaps only this watch is. Asked on a new connection.
                    self.clients.lock().await.reconnect(target);
                    self.doubt();
                    return Ok(());
                }
                Ok(Said::End) if steady => {
                    // Not even a bookmark before the end.
                    if mute {
                        self.doubt();
                    }
                    return Ok(self.out.heard().await?);
                }
                Ok(Said::End) => {
                    let text = "watches end as soon as they begin";
                    return Err(Stop::Fault(Fault::new(Reason::Ended, text)));
                }
                Err(fault) => {
                    if fault.reason == Reason::TooLarge {
                        // In a list it can be told from the others, and left out.
                        self.position = Position::List;
                    }
                    return Err(Stop::Fault(fault));
                }
            }
        }
    }

    /// Asks a server that said nothing on any connection for one object, on a new one. Any
    /// answer shows that it lives, a refusal too.
    async fn ask_whether_there(&mut self, target: &Target) -> Result<(), Fault> {
        let life = Arc::clone(&target.life);
        life.doubted(async {
            let mut clients = self.clients.lock().await;
            clients.reconnect(target);
            let target = clients.turn(self.turn);
            drop(clients);
            match (self.check(&target).await, &self.position) {
                (Ok(now), Position::Watch(before)) => {
                    let before = before.clone();
                    self.not_older(&target, &now, &before)
                }
                (Err(fault), _) if fault.reason.is_of_the_way() => Err(fault),
                _ => Ok(()),
            }
        })
        .await
    }

    /// Before the next watch, the server is asked whether it is there.
    fn doubt(&mut self) {
        if let Position::Watch(version) = &mut self.position {
            self.position = Position::Check(std::mem::take(version));
        }
    }

    /// Takes in one line of a watch.
    async fn line(&mut self, target: &Target, line: &[u8]) -> Result<(), Stop> {
        let said: Line<'_> = match serde_json::from_slice(line) {
            Ok(said) => said,
            Err(error) => {
                self.position = Position::List;
                let text = format!("a line of the watch is no event: {error}");
                return Err(Stop::Fault(Fault::new(Reason::NotUnderstood, text)));
            }
        };
        if said.kind == "ERROR" {
            let fault = error_event(said.object.get());
            // Everything but a bad moment of the server means that we cannot go on from here.
            if matches!(fault.reason, Reason::Expired | Reason::ServerError) {
                self.position = Position::List;
            }
            return Err(Stop::Fault(fault));
        }
        let stub = Stub::of(said.object);
        let name = stub.name();
        let version = stub.version();
        if version.is_empty() {
            self.position = Position::List;
            return Err(Stop::Fault(no_version()));
        }
        if let ("BOOKMARK", Position::Watch(before)) = (said.kind, &self.position) {
            let before = before.clone();
            self.not_older(target, &version, &before)?;
        }
        self.position = Position::Watch(version);
        match said.kind {
            "BOOKMARK" => Ok(self.out.heard().await?),
            "DELETED" => {
                let event = Event::Delete(self.kind, name);
                Ok(self.out.send(event).await?)
            }
            "ADDED" | "MODIFIED" => {
                let object = self.object(target, said.object).await?;
                let event = object.map_or(Event::Delete(self.kind, name), Event::Apply);
                Ok(self.out.send(event).await?)
            }
            other => {
                self.position = Position::List;
                let text = format!("a line of the watch has an unknown type, {other:?}");
                Err(Stop::Fault(Fault::new(Reason::NotUnderstood, text)))
            }
        }
    }

    /// Tells of a failure and turns to the next server; how long to wait. Nothing if nobody
    /// listens.
    async fn failed(&mut self, fault: Fault, target: &Target) -> Result<Duration, Stop> {
        let reason = fault.reason;
        let fresh = self.backoff.is_fresh();
        self.silent = match reason {
            Reason::Silent => self.silent + 1,
            _ => 0,
        };
        // Servers restart, and forget the past. Once is no failure.
        let passing = fresh && matches!(reason, Reason::Ended | Reason::Expired);
        let dispensable = self.does_without(reason);
        if !passing {
            self.tell(&fault, target).await?;
        }
        if dispensable && (reason == Reason::NotServed || !self.complete) {
            self.complete = true;
            let nothing = Event::Reset(self.kind, Vec::new());
            self.out.send(nothing).await?;
        }
        if matches!(reason, Reason::Unreachable | Reason::Silent | Reason::Ended) {
            self.clients.lock().await.reconnect(target);
        }
        let mut wait = self.backoff.wait();
        if matches!(
            reason,
            Reason::Unauthorized | Reason::Tls | Reason::Credentials
        ) {
            // A new client means a new list, which nothing but a new file is worth.
            if self.newer(target.version, wait).await {
                let renewed = self.clients.lock().await.renew(target.version).await;
                if let Err(error) = renewed {
                    let fault = Fault::new(Reason::Credentials, error.to_string());
                    self.tell(&fault, target).await?;
                    return Ok(wait);
                }
                return Ok(Duration::ZERO);
            }
            wait = Duration::ZERO;
        }
        if self.servers > 1 && !passing {
            self.turn += 1;
            self.position = Position::List;
        } else {
            let asked = fault.retry_after.unwrap_or_default();
            wait = wait.max(asked.min(self.settings.limits.last_wait));
        }
        if dispensable {
            wait = about(self.settings.limits.dispensed);
        }
        Ok(wait)
    }

    /// Tells of a failure.
    async fn tell(&mut self, fault: &Fault, target: &Target) -> Result<(), Stop> {
        let shown = self.clients.lock().await.shown().to_owned();
        let dispensable = self.does_without(fault.reason);
        let told = Told {
            server: &target.server,
            shown: &shown,
            dispensable,
            in_watch: self.in_watch,
        };
        Ok(self.out.failed(fault, told).await?)
    }

    /// True if this node goes on without the kind.
    fn does_without(&self, reason: Reason) -> bool {
        self.kind == Kind::ServiceCidr && matches!(reason, Reason::NotServed | Reason::Forbidden)
    }

    /// Waits until clients can be made anew, at most this long; true if they can.
    async fn newer(&self, version: u64, wait: Duration) -> bool {
        let end = Instant::now() + wait;
        loop {
            if self.clients.lock().await.outdated(version) {
                return true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            sleep(left.min(FILES)).await;
        }
    }
}

/// A request that cannot be written down.
fn impossible(error: &kube::core::request::Error) -> Fault {
    Fault::new(Reason::NotUnderstood, super::api::chain(error))
}
