//! Follows the Kubernetes API: list, then watch, per kind; what arrives is turned into the
//! cluster's own types, on a thread of its own, and handed over as events.
//!
//! Only what this node needs is asked for, several API servers take turns, nothing is waited
//! for without end ([`Limits`]), and failures say what is wrong.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore, watch};

use super::Rules;
use super::clients::Clients;
use super::list_watch::OneKind;
use super::telling::Telling;
use crate::cluster::{Change, Cluster, ObjectName};
use crate::problem::Problem;
use crate::text::printable;

pub use super::limits::Limits;

/// Events that may wait to be looked at; then the servers do.
const ROOM: usize = 20_000;

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
    /// A list begins: what it does not name is gone when it ends. One that began before and
    /// did not end is void.
    Listing(Kind),
    /// An object of the list.
    Listed(Kind, Change, Vec<Problem>),
    /// The list is complete.
    Complete(Kind),
    /// An object changed.
    Changed(Kind, Change, Vec<Problem>),
    /// A server lives and has nothing new: said every few seconds at most. Any other event
    /// but a failure is a sign of life as well.
    Heard(Kind),
    /// A kind cannot be followed at the moment; it is tried again, without end.
    Failed(Kind, Failure),
    /// A kind that failed is followed again.
    Recovered(Kind),
}

/// Why a kind cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure.
    pub reason: Reason,
    /// The server, and what is wrong. Printable whatever the server says.
    pub message: String,
    /// True if the same was said before and nothing else in between.
    pub repeated: bool,
    /// True if this node does without the kind: nothing to worry about, but worth a word.
    pub dispensable: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.name(), self.message)
    }
}

/// What sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// No connection.
    Unreachable,
    /// A connection, and no answer in time, or one that drips.
    Silent,
    /// TLS cannot agree, mostly on a certificate.
    Tls,
    /// Our own token cannot be read.
    Credentials,
    /// 401: the server does not know us.
    Unauthorized,
    /// 403: we may not.
    Forbidden,
    /// 404: the server does not know the kind.
    NotServed,
    /// 429, 503 or 504.
    Busy,
    /// Any other refusal.
    ServerError,
    /// Not what an API server says.
    NotUnderstood,
    /// More than this node takes ([`Limits`]).
    TooLarge,
    /// Lists expire or watches end again and again.
    Expired,
    /// The same, without a reason given.
    Ended,
}

impl Reason {
    /// True if there was no answer at all, or none that ended: the server, or the way to it,
    /// is gone.
    pub(super) const fn is_of_the_way(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Silent | Self::Tls | Self::Ended
        )
    }

    /// One word, for labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotServed => "not-served",
            Self::Busy => "busy",
            Self::ServerError => "server-error",
            Self::NotUnderstood => "not-understood",
            Self::TooLarge => "too-large",
            Self::Expired => "expired",
            Self::Ended => "ended",
        }
    }
}

/// One question that failed.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub reason: Reason,
    /// Printable.
    pub text: String,
    /// What the server asks for in `Retry-After`.
    pub retry_after: Option<Duration>,
}

impl Fault {
    pub fn new(reason: Reason, text: impl AsRef<str>) -> Self {
        Self {
            reason,
            text: printable(text.as_ref()).into_owned(),
            retry_after: None,
        }
    }
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
    /// Follow all Nodes, or only this one.
    pub all_nodes: bool,
    /// Objects per page of a list; 0: no pages.
    pub page_size: u32,
    /// How objects are read.
    pub rules: Rules,
    /// Deadlines and bounds.
    pub limits: Limits,
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
    room: Arc<Semaphore>,
    relist: watch::Sender<u64>,
}

impl Follower {
    /// Events so far.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        let taken = |_: &Event| self.room.add_permits(1);
        self.events.try_iter().inspect(taken)
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
    let clients = Arc::new(Mutex::new(clients));
    let (sender, events) = channel();
    let room = Arc::new(Semaphore::new(ROOM));
    let places = Arc::clone(&room);
    let (relist, relists) = watch::channel(0);
    let settings = Arc::new(settings.clone());
    std::thread::Builder::new()
        .name("kubernetes-api".to_owned())
        .spawn(move || {
            let followers = Kind::ALL.map(|kind| {
                let (sender, wake) = (sender.clone(), wake.clone());
                let out = Telling::new(kind, sender, Arc::clone(&places), wake);
                let clients = Arc::clone(&clients);
                OneKind::new(kind, clients, Arc::clone(&settings), out).run(relists.clone())
            });
            runtime.block_on(futures_util::future::join_all(followers));
        })?;
    Ok(Follower {
        events,
        room,
        relist,
    })
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

/// An object that is no more.
#[must_use]
pub fn gone(kind: Kind, name: ObjectName) -> Change {
    found(kind, name, Cluster::default())
}

/// The object that was read into an empty cluster, if it could be used.
pub(super) fn found(kind: Kind, name: ObjectName, cluster: Cluster) -> Change {
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
