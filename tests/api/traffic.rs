//! Connections while things change: every endpoint answers with its own address, and each
//! answer is held against what its service was since the agent last agreed.
//!
//! Clients, services and endpoints share one namespace: all of 172.17.0.0/16 is local to its
//! loopback, and so is the way to service addresses.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::harness::{Random, address, service};
use crate::server::Server;
use crate::support::run;

/// Endpoints that a service may have; no two services share one.
const POOL: usize = 12;
/// Services that have and had no endpoints refuse, rather than let clients wait.
pub const REFUSE: &str = "--unallocated=reject";
/// Endpoints that answer for five services that never change, after 40 that do: three each,
/// but of the one with session affinity always the same.
pub const STEADY_ENDPOINTS: usize = 4 * 3 + 1;

/// What a service was: `None` if there was none.
type State = Option<BTreeSet<usize>>;

/// Services and all they were since the last word that the kernel agrees.
pub struct Traffic {
    server: Server,
    /// For each service its states, the oldest first, with the change that made them.
    histories: Mutex<Vec<Vec<(usize, State)>>>,
    changes: AtomicUsize,
    stop: AtomicBool,
    /// Services from this one on never change.
    steady: usize,
}

/// What clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections that were answered.
    pub answered: usize,
    /// Connections that were refused, rightly.
    pub refused: usize,
    /// Endpoints that answered.
    pub endpoints: BTreeSet<(usize, usize)>,
    /// Connections that nobody answered, or that broke, in words.
    pub unanswered: Vec<String>,
    /// SYNs that had to be sent again, of all clients.
    pub syns_again: u64,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, refused) = (self.answered, self.refused);
        let (endpoints, unanswered) = (self.endpoints.len(), self.unanswered.len());
        write!(
            f,
            "{answered} answered by {endpoints} endpoints, {refused} rightly refused, \
             {unanswered} unanswered, {} SYNs sent again",
            self.syns_again
        )
    }
}

impl Traffic {
    /// Services that change, and after them services that never do. Everything listens.
    pub fn new(server: &Server, changing: usize, steady: usize) -> Self {
        run("ip", &["addr", "add", "172.17.255.1/16", "dev", "lo"], "");
        run("ip", &["route", "add", "10.254.0.0/16", "dev", "lo"], "");
        let listener = TcpListener::bind("0.0.0.0:8080").unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that is gone already asks for nothing.
                let _ = stream.and_then(|mut stream| {
                    let SocketAddr::V4(own) = stream.local_addr()? else {
                        return Ok(());
                    };
                    stream.write_all(&own.ip().octets())
                });
            }
        });
        let traffic = Self {
            server: server.clone(),
            histories: Mutex::new(vec![vec![(0, None)]; changing + steady]),
            changes: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            steady: changing,
        };
        for n in 0..changing + steady {
            traffic.put(n, n % 3 == 0, &[0, 1, 2]);
        }
        traffic
    }

    fn record(&self, n: usize, state: State) {
        // The history knows a change before anybody can see it.
        let mut histories = self.histories.lock().unwrap();
        let change = self.changes.fetch_add(1, Ordering::SeqCst) + 1;
        histories[n].push((change, state));
    }

    /// Service `n` with these endpoints.
    pub fn put(&self, n: usize, sticky: bool, endpoints: &[usize]) {
        self.record(n, Some(endpoints.iter().copied().collect()));
        let mut object = service(n);
        if sticky {
            object["spec"]["sessionAffinity"] = "ClientIP".into();
        }
        self.server.put(object);
        self.server.put(slice(n, endpoints));
    }

    /// One random change of a service that changes.
    pub fn change(&self, random: &mut Random) {
        let n = random.below(self.steady);
        match random.below(10) {
            0 => {
                // A slice that stayed would be seen again before the next one.
                self.record(n, None);
                self.server.delete("EndpointSlice", &format!("s{n}-a"));
                self.server.delete("Service", &format!("s{n}"));
            }
            1 => {
                self.record(n, Some(BTreeSet::new()));
                self.server.put(service(n));
                self.server.delete("EndpointSlice", &format!("s{n}-a"));
            }
            _ => {
                let count = random.below(6) + 1;
                let endpoints: Vec<usize> = (0..count).map(|_| random.below(POOL)).collect();
                self.put(n, random.below(2) == 0, &endpoints);
            }
        }
    }

    /// The kernel holds what the server says: what services were before no longer counts.
    pub fn agreed(&self) {
        for history in self.histories.lock().unwrap().iter_mut() {
            let last = history.pop().unwrap();
            *history = vec![last];
        }
    }

    /// Runs `changes` while clients connect: some to services that change, one to those that
    /// do not. An answer or a refusal that no state of its service explains is a panic.
    pub fn during<T>(&self, changes: impl FnOnce() -> T) -> (T, [Seen; 2]) {
        let (steady, all) = (self.steady, self.histories.lock().unwrap().len());
        self.stop.store(false, Ordering::Relaxed);
        let sent_again = syns_sent_again();
        std::thread::scope(|scope| {
            let changing = scope.spawn(move || self.connect(0, steady, 1));
            let steady = scope.spawn(move || self.connect(steady, all, 2));
            // Whatever happens, the clients end.
            let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(changes));
            self.stop.store(true, Ordering::Relaxed);
            let mut seen = [changing, steady].map(|client| {
                client
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            });
            for seen in &mut seen {
                seen.syns_again = syns_sent_again() - sent_again;
            }
            let result = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (result, seen)
        })
    }

    fn connect(&self, from: usize, to: usize, seed: u64) -> Seen {
        let mut random = Random(seed);
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            let n = from + random.below(to - from);
            let before = self.states(n);
            let outcome = ask(n);
            // What came while we asked counts as well.
            let states: Vec<State> = before.into_iter().chain(self.states(n)).collect();
            match outcome {
                Ok(Some((of, endpoint))) => {
                    let known = states.iter().flatten().any(|e| e.contains(&endpoint));
                    assert!(
                        of == n && known,
                        "s{n} led to endpoint {endpoint} of s{of}; it was {states:?}"
                    );
                    seen.answered += 1;
                    seen.endpoints.insert((of, endpoint));
                }
                Ok(None) => {
                    let empty = |state: &State| state.as_ref().is_none_or(BTreeSet::is_empty);
                    assert!(
                        states.iter().any(empty),
                        "s{n} was refused; it was {states:?}"
                    );
                    seen.refused += 1;
                }
                Err(error) => seen
                    .unanswered
                    .push(format!("s{n}: {error}; it was {states:?}")),
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        seen
    }

    fn states(&self, n: usize) -> Vec<State> {
        let histories = self.histories.lock().unwrap();
        histories[n]
            .iter()
            .map(|(_, state)| state.clone())
            .collect()
    }
}

/// Service and number of the endpoint that answers for service `n`; `None` if refused.
fn ask(n: usize) -> std::io::Result<Option<(usize, usize)>> {
    let to: SocketAddr = format!("{}:80", address(n)).parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Closed with a reset: no port stays behind.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect_timeout(&to.into(), Duration::from_secs(5)) {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        result => result?,
    }
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut own = [0; 4];
    TcpStream::from(socket).read_exact(&mut own)?;
    Ok(Some((own[2].into(), usize::from(own[3]) - 2)))
}

/// How many SYNs this namespace has sent more than once.
fn syns_sent_again() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let mut words = || lines.next().unwrap().split_whitespace();
    let (names, values) = (words(), words());
    let (_, value) = names
        .zip(values)
        .find(|(name, _)| *name == "TCPSynRetrans")
        .unwrap();
    value.parse().unwrap()
}

/// Endpoint `e` of service `n`.
fn endpoint(n: usize, e: usize) -> Ipv4Addr {
    Ipv4Addr::new(
        172,
        17,
        u8::try_from(n).unwrap(),
        u8::try_from(e + 2).unwrap(),
    )
}

fn slice(n: usize, endpoints: &[usize]) -> serde_json::Value {
    let mut slice = crate::harness::slice(n, &[]);
    slice["endpoints"] = endpoints
        .iter()
        .map(|e| json!({"addresses": [endpoint(n, *e)]}))
        .collect();
    slice
}
