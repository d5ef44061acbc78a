//! Serves HTTP to anybody without being held up by anybody: connections are bounded by number
//! and time, and a lack of descriptors passes.
//!
//! Where one more would be too many, the oldest is closed: who holds connections open and
//! says nothing keeps nobody out.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

/// Bytes of a request's head: what a health check or a scrape needs, many times over.
const HEAD: usize = 16 << 10;
/// After the kernel had no descriptor or memory for a connection.
const PAUSE: Duration = Duration::from_millis(200);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Of one listener.
    pub each: usize,
    /// Of all listeners that share a [`Connections`].
    pub all: usize,
    /// For a request's head, and from one request to the next.
    pub idle: Duration,
    /// A connection is asked to end after this, and made to after `idle` more.
    pub life: Duration,
}

impl Bounds {
    /// So many connections; load balancers and Prometheus ask every few seconds.
    pub const fn new(each: usize, all: usize) -> Self {
        Self {
            each,
            all,
            idle: Duration::from_secs(20),
            life: Duration::from_secs(120),
        }
    }
}

/// Connections of some listeners.
pub(super) struct Connections {
    bounds: Bounds,
    /// Oldest first, with the listener's name.
    open: Mutex<VecDeque<(String, AbortHandle)>>,
}

impl Connections {
    /// None yet.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            bounds,
            open: Mutex::default(),
        })
    }

    /// Counts a connection, and closes the oldest ones that are too many with it. O(open), at
    /// the bound only.
    fn add(&self, listener: &str, task: AbortHandle) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back((listener.to_owned(), task));
        let of_listener = |(of, _): &&(String, AbortHandle)| of == listener;
        let each = |open: &VecDeque<_>| open.iter().filter(of_listener).count();
        if open.len() <= self.bounds.each.min(self.bounds.all) {
            return;
        }
        open.retain(|(_, task)| !task.is_finished());
        if each(&open) > self.bounds.each
            && let Some(oldest) = open.iter().position(|(of, _)| of == listener)
            && let Some((_, task)) = open.remove(oldest)
        {
            task.abort();
        }
        if open.len() > self.bounds.all
            && let Some((_, task)) = open.pop_front()
        {
            task.abort();
        }
    }

    /// Closes the oldest.
    fn make_room(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(_, task)| !task.is_finished());
        if let Some((_, task)) = open.pop_front() {
            task.abort();
        }
    }
}

/// Serves until the listener itself fails; `routes` are those for who asks.
pub(super) async fn serve(
    name: &str,
    listener: TcpListener,
    routes: impl Fn(IpAddr) -> Router,
    connections: &Connections,
) -> io::Error {
    let mut said = false;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let routes = routes(peer.ip().to_canonical());
                let task = tokio::spawn(answer(stream, routes, connections.bounds));
                connections.add(name, task.abort_handle());
            }
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) if is_of_the_host(&error) => {
                if !said {
                    tracing::warn!(listener = name, %error, "cannot take a connection; goes on");
                }
                said = true;
                connections.make_room();
                sleep(PAUSE).await;
            }
            Err(error) => return error,
        }
    }
}

async fn answer(stream: TcpStream, routes: Router, bounds: Bounds) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.idle)
        .max_buf_size(HEAD)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    tokio::pin!(served);
    tokio::select! {
        // A client that breaks off, or says nothing, is its own affair.
        _ = served.as_mut() => return,
        () = sleep(bounds.life) => {}
    }
    served.as_mut().graceful_shutdown();
    let _ = timeout(bounds.idle, served).await;
}

/// The client went away before it was welcome (accept(2) passes on pending network errors).
fn is_of_the_connection(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ECONNABORTED
                | Errno::ECONNRESET
                | Errno::EINTR
                | Errno::ENETDOWN
                | Errno::EPROTO
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::EOPNOTSUPP
                | Errno::ENETUNREACH
        )
    )
}

/// Descriptors or memory are short; the listener is as good as before.
fn is_of_the_host(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
    )
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

    /// Runs `test` against a server with these bounds.
    fn with_server(bounds: Bounds, test: impl AsyncFnOnce(SocketAddr)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let routes = Router::new().route("/", get(async || "well"));
            let connections = Connections::new(bounds);
            tokio::select! {
                error = serve("test", listener, |_| routes.clone(), &connections) => panic!("{error}"),
                () = test(address) => {}
            }
        });
    }

    async fn asked(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(QUESTION).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn idle_connections_in_any_number_keep_nobody_out() {
        with_server(Bounds::new(8, 8), async |address| {
            let mut idle = Vec::new();
            for _ in 0..200 {
                idle.push(TcpStream::connect(address).await.unwrap());
            }
            for _ in 0..3 {
                assert!(asked(address).await.ends_with("well"));
            }
            // The oldest were closed, the newest not.
            assert_eq!(idle[0].read(&mut [0]).await.unwrap_or(0), 0);
            let mut newest = idle.pop().unwrap();
            newest.write_all(QUESTION).await.unwrap();
            let mut text = String::new();
            newest.read_to_string(&mut text).await.unwrap();
            assert!(text.ends_with("well"), "{text}");
        });
    }

    #[test]
    fn heads_that_drip_and_connections_that_never_end_are_closed() {
        let bounds = Bounds {
            idle: Duration::from_millis(300),
            life: Duration::from_millis(900),
            ..Bounds::new(8, 8)
        };
        with_server(bounds, async |address| {
            let start = tokio::time::Instant::now();
            let mut silent = TcpStream::connect(address).await.unwrap();
            let mut drips = TcpStream::connect(address).await.unwrap();
            for byte in QUESTION {
                sleep(Duration::from_millis(50)).await;
                if drips.write_all(&[*byte]).await.is_err() {
                    break;
                }
            }
            let left = drips.read(&mut [0; 9]).await.unwrap_or(0);
            assert_eq!(left, 0, "a head that drips has no answer");
            assert_eq!(silent.read(&mut [0]).await.unwrap_or(0), 0);
            assert!(start.elapsed() < Duration::from_secs(5));
            // One that asks again and again lives on, but not for ever.
            let mut busy = TcpStream::connect(address).await.unwrap();
            let mut asked = 0;
            loop {
                let question = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
                let sent = busy.write_all(question).await.is_ok();
                let mut answer = [0; 4096];
                if !sent || busy.read(&mut answer).await.unwrap_or(0) == 0 {
                    break;
                }
                asked += 1;
                sleep(Duration::from_millis(50)).await;
            }
            assert!(asked > 2, "{asked}");
            assert!(start.elapsed() < Duration::from_secs(20));
        });
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        with_server(Bounds::new(8, 8), async |address| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let mut sent = 0;
            let line = [b'a'; 1024];
            while sent < 1 << 20 && stream.write_all(&line).await.is_ok() {
                sent += line.len();
                tokio::task::yield_now().await;
            }
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
            assert!(asked(address).await.ends_with("well"));
        });
    }
}
