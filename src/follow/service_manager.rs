//! sd_notify(3): one datagram to the socket the service manager names.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// A sign of life so often: a watchdog of a second is content with it.
const ALIVE: Duration = Duration::from_millis(250);

/// How long a service manager may keep us waiting: its queue is full if it hangs.
const PATIENCE: Duration = Duration::from_millis(10);

/// Sends `state`, such as `READY=1`, if there is a service manager to hear it. False if it
/// did not take it.
pub fn notify(state: &str) -> bool {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return true;
    };
    let bytes = name.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|to| {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(state.as_bytes(), &to)
    });
    if let Err(e) = &sent {
        tracing::debug!(error = %e, "the service manager does not listen");
    }
    sent.is_ok()
}

/// What the service manager was told last.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    alive: Option<Instant>,
    /// When it was last thought about what else there is to say.
    said: Option<Instant>,
    status: String,
    /// It has not heard yet that we are ready.
    owes_ready: bool,
}

impl ServiceManager {
    /// Says that we are alive, in the middle of work too; not more often than anybody needs.
    pub(super) fn alive(&mut self) {
        if take(&mut self.alive) {
            notify("WATCHDOG=1");
        }
    }

    /// Says that we are alive, and the status if it is another one; likewise.
    pub(super) fn how(&mut self, status: impl FnOnce() -> Option<String>) {
        self.alive();
        if !take(&mut self.said) {
            return;
        }
        if self.owes_ready {
            self.ready();
        }
        if let Some(status) = status() {
            self.status(status);
        }
    }

    /// Says that we are ready, until it is heard: a unit waits for it.
    pub(super) fn ready(&mut self) {
        self.owes_ready = !notify("READY=1");
    }

    /// Says how things are, if that is news.
    pub(super) fn status(&mut self, status: String) {
        if status != self.status && notify(&format!("STATUS={status}")) {
            self.status = status;
        }
    }
}

/// True if the last time is long enough ago; then it is now.
fn take(last: &mut Option<Instant>) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= ALIVE);
    if due {
        *last = Some(Instant::now());
    }
    due
}
