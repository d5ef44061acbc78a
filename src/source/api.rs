//! Follows the Kubernetes API: list, then watch, per kind; what arrives is turned into the
//! cluster's own types here, on a thread of its own, and handed over as events.
//!
//! `kube`'s watcher does the protocol: pages, bookmarks, a new list after `410 Gone`. Added
//! here: only what this node needs is asked for, several API servers take turns, and errors
//! say what is wrong.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{ApiResource, DynamicObject};
use kube::core::GroupVersionKind;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::{Mutex, watch};

use super::clients::Clients;
use super::{Rules, insert_object};
use crate::cluster::{Change, Cluster, ObjectName, Origin};
use crate::problem::Problem;

/// Waits between attempts: doubled from the first to the last.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(15);
/// How long a server without ServiceCIDRs (Kubernetes before 1.33) is left alone.
const NOT_SERVED_WAIT: Duration = Duration::from_secs(600);
/// Headless services and those of another proxy never come here (kube-proxy's own selector).
const OURS: &str = "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless";

/// A kind of object that is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Nodes.
    Node,
    /// Pods of this node.
    Pod,
    /// ServiceCIDRs.
    ServiceCidr,
}

impl Kind {
    /// All of them: the first sync waits for each.
    pub const ALL: [Self; 5] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Node,
        Self::Pod,
        Self::ServiceCidr,
    ];

    /// Kubernetes' name of the kind.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ServiceCidr => "ServiceCIDR",
        }
    }

    /// Group, version and plural in the API's paths.
    #[must_use]
    pub const fn resource(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Service => ("", "v1", "services"),
            Self::EndpointSlice => ("discovery.k8s.io", "v1", "endpointslices"),
            Self::Node => ("", "v1", "nodes"),
            Self::Pod => ("", "v1", "pods"),
            Self::ServiceCidr => ("networking.k8s.io", "v1", "servicecidrs"),
        }
    }
}

/// What the API says.
#[derive(Debug)]
pub enum Event {
    /// A list begins: what it does not name is gone when it ends.
    Listing(Kind),
    /// An object of the list.
    Listed(Kind, Change, Vec<Problem>),
    /// The list is complete.
    Complete(Kind),
    /// An object changed.
    Changed(Kind, Change, Vec<Problem>),
    /// The server cannot be reached or refuses; it is tried again.
    Failed(Kind, String),
}

/// Where the API is.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A kubeconfig file; without one and without servers, the service account of this pod.
    pub kubeconfig: Option<PathBuf>,
    /// Base addresses that replace the one of the kubeconfig; tried in turn.
    pub servers: Vec<String>,
    /// This node: only its Pods are followed.
    pub node_name: String,
    /// Objects per page of a list.
    pub page_size: u32,
    /// How objects are read.
    pub rules: Rules,
}

/// Why the API cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {message}")]
    Kubeconfig {
        /// File.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// Not in a pod, and nothing else was given.
    #[error("no --kubeconfig and no service account of a pod: {0}")]
    InCluster(String),
    /// A server's address.
    #[error("--apiserver {0:?}: {1}")]
    Server(String, String),
    /// The credentials or certificates.
    #[error("cannot make a client of the API: {0}")]
    Client(String),
    /// The operating system refused a thread.
    #[error("cannot start following the API: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running follower of the API. It ends with the process.
pub struct Follower {
    events: Receiver<Event>,
    relist: watch::Sender<u64>,
}

impl Follower {
    /// Events so far.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.events.try_iter()
    }

    /// Lists everything anew, as a second opinion.
    pub fn relist(&self) {
        self.relist.send_modify(|n| *n += 1);
    }
}

/// Starts following. `wake` is called after events were handed over.
///
/// # Errors
/// If the settings cannot be used. That no server answers is an event, not an error.
pub fn follow(
    settings: &Settings,
    wake: impl Fn() + Clone + Send + 'static,
) -> Result<Follower, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let clients = runtime.block_on(Clients::make(settings))?;
    let servers = clients.len();
    let clients = Arc::new(Mutex::new(clients));
    let (sender, events) = channel();
    let (relist, relists) = watch::channel(0);
    let settings = settings.clone();
    std::thread::Builder::new()
        .name("kubernetes-api".to_owned())
        .spawn(move || {
            let followers = Kind::ALL.map(|kind| {
                let one = OneKind {
                    kind,
                    clients: Arc::clone(&clients),
                    servers,
                    settings: settings.clone(),
                    sender: sender.clone(),
                    wake: wake.clone(),
                    relists: relists.clone(),
                };
                one.run()
            });
            runtime.block_on(futures_util::future::join_all(followers));
        })?;
    Ok(Follower { events, relist })
}

/// An error with all its causes: the last one is usually what is wrong.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

struct OneKind<W> {
    kind: Kind,
    clients: Arc<Mutex<Clients>>,
    /// How many of them there are.
    servers: usize,
    settings: Settings,
    sender: Sender<Event>,
    wake: W,
    relists: watch::Receiver<u64>,
}

/// Why a stream of events ended.
enum End {
    Relist,
    /// The server fails; another, or the same a while later, may not.
    Failed,
    /// The server does not know this kind.
    NotServed,
    /// The server does not accept what we show it, and there is something else to show.
    Outdated,
    /// Nobody listens any more.
    Over,
}

impl<W: Fn()> OneKind<W> {
    async fn run(mut self) {
        let mut turn = 0;
        let mut wait = FIRST_WAIT;
        loop {
            let (server, client, version) = self.clients.lock().await.turn(turn);
            match self.follow(&server, client, version, &mut wait).await {
                End::Relist => {}
                End::Over => return,
                End::Outdated => {
                    let renewed = self.clients.lock().await.renew(version).await;
                    if let Err(error) = renewed {
                        self.send(Event::Failed(self.kind, error.to_string()));
                        tokio::time::sleep(wait).await;
                        wait = longer(wait);
                    }
                }
                End::Failed => {
                    turn += 1;
                    self.pause(wait).await;
                    wait = longer(wait);
                }
                End::NotServed => {
                    turn += 1;
                    self.pause(NOT_SERVED_WAIT).await;
                }
            }
        }
    }

    /// Waits, but not if everything is to be listed anew.
    async fn pause(&mut self, wait: Duration) {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = self.relists.changed() => {}
        }
    }

    /// Waits until clients can be made anew, at most this long; true if they can.
    async fn newer(&self, version: u64, wait: Duration) -> bool {
        let end = tokio::time::Instant::now() + wait;
        loop {
            if self.clients.lock().await.outdated(version) {
                return true;
            }
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return false;
            }
            tokio::time::sleep(left.min(FIRST_WAIT)).await;
        }
    }

    fn config(&self) -> watcher::Config {
        let config = watcher::Config::default().page_size(self.settings.page_size);
        match self.kind {
            Kind::Service | Kind::EndpointSlice => config.labels(OURS),
            Kind::Pod => config.fields(&format!("spec.nodeName={}", self.settings.node_name)),
            Kind::Node | Kind::ServiceCidr => config,
        }
    }

    fn send(&self, event: Event) -> bool {
        let sent = self.sender.send(event).is_ok();
        (self.wake)();
        sent
    }

    async fn follow(
        &mut self,
        server: &str,
        client: Client,
        clients: u64,
        wait: &mut Duration,
    ) -> End {
        let (group, version, plural) = self.kind.resource();
        let gvk = GroupVersionKind::gvk(group, version, self.kind.name());
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        let api: Api<DynamicObject> = Api::all_with(client, &resource);
        let mut stream = watcher(api, self.config()).boxed();
        loop {
            let event = tokio::select! {
                event = stream.next() => event,
                changed = self.relists.changed() => {
                    return if changed.is_ok() { End::Relist } else { End::Over };
                }
            };
            let event = match event {
                Some(Ok(event)) => event,
                Some(Err(e)) if self.kind == Kind::ServiceCidr && is_not_found(&e) => {
                    self.send(Event::Listing(self.kind));
                    self.send(Event::Complete(self.kind));
                    return End::NotServed;
                }
                Some(Err(e)) => {
                    let text = self.explain(server, &e).await;
                    if !self.send(Event::Failed(self.kind, text)) {
                        return End::Over;
                    }
                    if is_about_us(&e) && self.newer(clients, *wait).await {
                        return End::Outdated;
                    }
                    // Not every error needs another list: the watcher goes on from where it
                    // was, if this is the only server there is.
                    if self.servers > 1 {
                        return End::Failed;
                    }
                    if !is_about_us(&e) {
                        tokio::time::sleep(*wait).await;
                    }
                    *wait = longer(*wait);
                    continue;
                }
                None => return End::Failed,
            };
            // A list that only begins is no sign that the server answers.
            if !matches!(event, watcher::Event::Init) {
                *wait = FIRST_WAIT;
            }
            let sent = match event {
                watcher::Event::Init => self.send(Event::Listing(self.kind)),
                watcher::Event::InitDone => self.send(Event::Complete(self.kind)),
                watcher::Event::InitApply(object) => {
                    let (change, problems) = self.read(server, object);
                    self.sender
                        .send(Event::Listed(self.kind, change, problems))
                        .is_ok()
                }
                watcher::Event::Apply(object) => {
                    let (change, problems) = self.read(server, object);
                    self.send(Event::Changed(self.kind, change, problems))
                }
                watcher::Event::Delete(object) => {
                    let change = gone(self.kind, name_of(&object));
                    self.send(Event::Changed(self.kind, change, Vec::new()))
                }
            };
            if !sent {
                return End::Over;
            }
        }
    }

    /// What went wrong, in words that say what to do about it.
    async fn explain(&self, server: &str, error: &watcher::Error) -> String {
        if is_unauthorized(error) {
            let clients = self.clients.lock().await;
            return format!(
                "{server}: 401 Unauthorized: the server does not accept {}; tried again as soon as that changes",
                clients.shown()
            );
        }
        format!("{server}: {}", chain(error))
    }

    /// What cannot be used counts as absent, and is reported.
    fn read(&self, server: &str, mut object: DynamicObject) -> (Change, Vec<Problem>) {
        object.metadata.managed_fields = None;
        let name = name_of(&object);
        let (group, version, _) = self.kind.resource();
        let mut value = object.data;
        if let (Value::Object(fields), Ok(metadata)) =
            (&mut value, serde_json::to_value(object.metadata))
        {
            let version = if group.is_empty() {
                version.to_owned()
            } else {
                format!("{group}/{version}")
            };
            fields.insert("apiVersion".to_owned(), version.into());
            fields.insert("kind".to_owned(), self.kind.name().into());
            fields.insert("metadata".to_owned(), metadata);
        }
        let origin = Origin {
            source: server.into(),
            ..Origin::default()
        };
        let mut cluster = Cluster::default();
        let mut problems = Vec::new();
        insert_object(
            &mut cluster,
            None,
            self.settings.rules,
            value,
            &origin,
            &mut problems,
        );
        (found(self.kind, name, cluster), problems)
    }
}

/// The wait after this one: twice as long, a quarter more or less by chance, so that the
/// nodes of a cluster do not all come back to a server at once.
fn longer(wait: Duration) -> Duration {
    // Each state is seeded anew.
    let chance = RandomState::new().build_hasher().finish() % 512;
    let factor = 1.5 + f64::from(u16::try_from(chance).unwrap_or_default()) / 512.0;
    wait.mul_f64(factor).min(LAST_WAIT.mul_f64(factor / 2.0))
}

fn is_not_found(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status)) => status.code == 404,
        _ => false,
    }
}

fn is_unauthorized(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.code == 401,
        _ => false,
    }
}

/// True if other credentials or another authority may help: the server refuses what we show,
/// or TLS cannot agree. A new client means a new list, which nothing else is worth.
fn is_about_us(error: &watcher::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        cause = error.source();
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            if io.kind() == std::io::ErrorKind::InvalidData {
                return true;
            }
            // What an I/O error was made from is not its source, but in it.
            if let Some(inner) = io.get_ref() {
                cause = Some(inner);
            }
        }
    }
    is_unauthorized(error)
}

fn name_of(object: &DynamicObject) -> ObjectName {
    ObjectName::new(
        object.metadata.namespace.clone().unwrap_or_default(),
        object.metadata.name.clone().unwrap_or_default(),
    )
}

/// An object that is no more.
#[must_use]
pub fn gone(kind: Kind, name: ObjectName) -> Change {
    found(kind, name, Cluster::default())
}

fn found(kind: Kind, name: ObjectName, cluster: Cluster) -> Change {
    match kind {
        Kind::Service => {
            let service = cluster.services.into_values().next();
            Change::Service(name, service)
        }
        Kind::EndpointSlice => {
            let slice = cluster.slices.into_values().flatten().next();
            Change::Slice(name, slice.map(Box::new))
        }
        Kind::Pod => Change::Pod(name, cluster.pods.into_values().next().map(Box::new)),
        Kind::Node => Change::Node(
            name.name.to_string(),
            cluster.nodes.into_values().next().map(Box::new),
        ),
        Kind::ServiceCidr => {
            let cidr = cluster.service_cidrs.into_values().next();
            Change::ServiceCidr(name.name.to_string(), cidr.map(Box::new))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_are_not_the_same_twice() {
        let mut waits = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let mut wait = FIRST_WAIT;
            for _ in 0..20 {
                let next = longer(wait);
                assert!(next > wait.mul_f64(1.4) || next >= LAST_WAIT.mul_f64(0.7));
                assert!(next <= LAST_WAIT.mul_f64(1.25));
                wait = next;
            }
            waits.insert(wait);
        }
        assert!(waits.len() > 10, "{waits:?}");
    }
}
