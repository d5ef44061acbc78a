//! Follows the Kubernetes API: list, then watch, per kind; what arrives is turned into the
//! cluster's own types, on a thread of its own, and handed over as events.
//!
//! Only what this node needs is asked for, several API servers take turns, nothing is waited
//! for without end ([`Limits`]), and failures say what is wrong.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{Mutex, Semaphore, watch};

use super::Rules;
use super::clients::Clients;
use super::list_watch::OneKind;
use super::telling::{Telling, places};
use crate::text::printable;

pub use super::events::{Event, Failure, Reason, Source};
pub use super::limits::Limits;
pub use crate::cluster::Kind;

/// Objects that may wait to be looked at; then the servers do.
pub(super) const ROOM: u32 = 20_000;

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
    /// Readable while there may be events.
    called: Arc<EventFd>,
}

impl Follower {
    /// Events so far.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        // Nothing there means nobody called.
        let _ = self.called.read();
        let taken = |event: &Event| self.room.add_permits(places(event) as usize);
        self.events.try_iter().inspect(taken)
    }
}

impl AsFd for Follower {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.called.as_fd()
    }
}

impl Source for Follower {
    fn events(&mut self) -> Vec<Event> {
        Self::events(self).collect()
    }

    fn ask_again(&mut self) {
        self.relist.send_modify(|n| *n += 1);
    }

    fn part(&self, kind: Kind) -> &'static str {
        kind.name()
    }

    fn is_remote(&self) -> bool {
        true
    }
}

/// Starts following.
///
/// # Errors
/// If the settings cannot be used. That no server answers is an event, not an error.
pub fn follow(settings: &Settings) -> Result<Follower, ApiError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let clients = runtime.block_on(Clients::make(settings))?;
    let clients = Arc::new(Mutex::new(clients));
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let called = EventFd::from_flags(flags).map_err(std::io::Error::from)?;
    let called = Arc::new(called);
    let (sender, events) = channel();
    let room = Arc::new(Semaphore::new(ROOM as usize));
    let (places, caller) = (Arc::clone(&room), Arc::clone(&called));
    let (relist, relists) = watch::channel(0);
    let settings = Arc::new(settings.clone());
    std::thread::Builder::new()
        .name("kubernetes-api".to_owned())
        .spawn(move || {
            let followers = Kind::ALL.map(|kind| {
                let (sender, caller) = (sender.clone(), Arc::clone(&caller));
                let out = Telling::new(kind, sender, Arc::clone(&places), caller);
                let clients = Arc::clone(&clients);
                OneKind::new(kind, clients, Arc::clone(&settings), out).run(relists.clone())
            });
            runtime.block_on(futures_util::future::join_all(followers));
        })?;
    Ok(Follower {
        events,
        room,
        relist,
        called,
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
