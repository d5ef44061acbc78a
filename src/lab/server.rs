//! Who answers: one thread with every socket of every place, each bound to its namespace.
//!
//! A TCP connection whose first line is of HTTP gets a response with `NAME CLIENT-ADDRESS` as
//! its body and is closed. Another one gets `NAME CLIENT-ADDRESS CLIENT-PORT SERVER-PORT` for
//! each line that it sends, and so does a UDP datagram.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use super::namespace::Namespace;
use super::sctp::SctpListener;
use crate::net::Protocol;

/// How many clients may wait to be accepted.
const BACKLOG: i32 = 4096;
/// A line that does not end within this is none.
const LONGEST: usize = 8192;

/// Where somebody answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// Protocol.
    pub protocol: Protocol,
    /// Port.
    pub port: u16,
    /// At this address only.
    pub addr: Option<IpAddr>,
    /// With this name instead of the place's.
    pub name: Option<String>,
}

impl Answer {
    /// At every address of the place, with its name.
    #[must_use]
    pub const fn at(protocol: Protocol, port: u16) -> Self {
        Self {
            protocol,
            port,
            addr: None,
            name: None,
        }
    }
}

enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Sctp(SctpListener),
}

impl Listener {
    fn open(protocol: Protocol, addr: SocketAddr) -> io::Result<Self> {
        Ok(match protocol {
            Protocol::Tcp => {
                let socket = bound(Type::STREAM, addr)?;
                socket.listen(BACKLOG)?;
                Self::Tcp(socket.into())
            }
            Protocol::Udp => Self::Udp(bound(Type::DGRAM, addr)?.into()),
            Protocol::Sctp => Self::Sctp(SctpListener::open(addr)?),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
            Self::Sctp(socket) => socket.as_fd(),
        }
    }
}

/// The sockets of an answer.
fn open(answer: &Answer) -> io::Result<Vec<Listener>> {
    let at = |addr: IpAddr| {
        let at = SocketAddr::new(addr, answer.port);
        let told = |e: io::Error| io::Error::new(e.kind(), format!("answer at {at}: {e}"));
        match Listener::open(answer.protocol, at) {
            // A kernel without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Ok(None),
            opened => opened.map(Some).map_err(told),
        }
    };
    let (four, six) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    let sockets = match (answer.addr, answer.protocol) {
        (Some(addr), _) => vec![at(addr)?],
        // A raw socket is of one family.
        (None, Protocol::Sctp) => vec![at(four)?, at(six)?],
        (None, _) => match at(six)? {
            None => vec![at(four)?],
            both => vec![both],
        },
    };
    Ok(sockets.into_iter().flatten().collect())
}

fn bound(kind: Type, addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), kind, None)?;
    if addr.is_ipv6() {
        // The wildcard serves both families; a given address only its own.
        socket.set_only_v6(!addr.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// A listener or a connection, whose it is and what it answers with.
struct Named<T> {
    place: String,
    name: String,
    port: u16,
    socket: T,
    /// What was sent of a line so far.
    begun: Vec<u8>,
}

/// What the thread is told.
enum Order {
    Serve(Named<Listener>),
    /// Close everything of this place that is at this port, or everything.
    Stop(String, Option<(Protocol, u16)>, Sender<()>),
}

/// The thread with all the servers; it ends when this is dropped.
#[derive(Debug)]
pub struct Servers {
    orders: Option<Sender<Order>>,
    wake: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Servers {
    /// A thread without any server yet.
    ///
    /// # Errors
    /// If there are no descriptors left.
    pub fn start() -> io::Result<Self> {
        let (orders, inbox) = channel();
        let (bell, wake) = io::pipe()?;
        let thread = thread::spawn(move || Loop::new(inbox, bell).run());
        Ok(Self {
            orders: Some(orders),
            wake: Some(wake),
            thread: Some(thread),
        })
    }

    /// Answers from now on, in a place, as its `name`.
    ///
    /// # Errors
    /// If the address cannot be had.
    pub fn serve(
        &mut self,
        place: &str,
        name: &str,
        namespace: &Namespace,
        answers: &[Answer],
    ) -> io::Result<()> {
        let opened = namespace.enter(|| {
            let mut opened = Vec::new();
            for answer in answers {
                opened.extend(open(answer)?.into_iter().map(|socket| (answer, socket)));
            }
            io::Result::Ok(opened)
        })??;
        for (answer, socket) in opened {
            self.order(Order::Serve(Named {
                place: place.to_owned(),
                name: answer.name.clone().unwrap_or_else(|| name.to_owned()),
                port: answer.port,
                socket,
                begun: Vec::new(),
            }));
        }
        Ok(())
    }

    /// Closes the listeners and connections of a place, or those at one port of it.
    pub fn stop(&mut self, place: &str, at: Option<(Protocol, u16)>) {
        let (done, wait) = channel();
        self.order(Order::Stop(place.to_owned(), at, done));
        // Without an answer the thread is gone, and all sockets with it.
        wait.recv().ok();
    }

    fn order(&mut self, order: Order) {
        // The thread ends with this object, or with a panic that was printed.
        if let (Some(orders), Some(wake)) = (&self.orders, &mut self.wake) {
            orders.send(order).ok();
            wake.write_all(b"!").ok();
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.orders.take();
        self.wake.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed, and clients noticed the silence.
            thread.join().ok();
        }
    }
}

struct Loop {
    inbox: Receiver<Order>,
    bell: PipeReader,
    listeners: Vec<Named<Listener>>,
    connections: Vec<Named<TcpStream>>,
}

impl Loop {
    const fn new(inbox: Receiver<Order>, bell: PipeReader) -> Self {
        Self {
            inbox,
            bell,
            listeners: Vec::new(),
            connections: Vec::new(),
        }
    }

    fn run(mut self) {
        loop {
            let ready = self.wait();
            let (bell, rest) = ready.split_at(1);
            if bell[0] {
                if !self.obey() {
                    return;
                }
                // The lists may have changed under the flags: look again.
                continue;
            }
            let (listeners, connections) = rest.split_at(self.listeners.len());
            let mut flags = connections.iter();
            self.connections.retain_mut(|connection| {
                !flags.next().copied().unwrap_or(false) || answer(connection)
            });
            for at in (0..listeners.len()).filter(|&at| listeners[at]) {
                self.accept(at);
            }
        }
    }

    /// Waits until something can be read: the bell, then the listeners, then the connections.
    fn wait(&self) -> Vec<bool> {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.bell.as_fd())];
        fds.extend(self.listeners.iter().map(|named| watch(named.socket.fd())));
        let connections = self.connections.iter();
        fds.extend(connections.map(|named| watch(named.socket.as_fd())));
        // It fails for want of memory, or for a signal: the next turn looks again.
        poll(&mut fds, PollTimeout::NONE).ok();
        fds.iter().map(|fd| fd.any().unwrap_or(false)).collect()
    }

    /// Takes the orders that are waiting; false if the lab is gone.
    fn obey(&mut self) -> bool {
        let mut rings = [0; 64];
        if self.bell.read(&mut rings).unwrap_or(0) == 0 {
            return false;
        }
        while let Ok(order) = self.inbox.try_recv() {
            match order {
                Order::Serve(named) => self.listeners.push(named),
                Order::Stop(place, at, done) => {
                    self.listeners.retain(|named| {
                        let port = (named.socket.protocol(), named.port);
                        named.place != place || at.is_some_and(|at| at != port)
                    });
                    self.connections.retain(|named| {
                        let port = (Protocol::Tcp, named.port);
                        named.place != place || at.is_some_and(|at| at != port)
                    });
                    // The one who asked may have given up waiting.
                    done.send(()).ok();
                }
            }
        }
        true
    }

    fn accept(&mut self, at: usize) {
        let Named {
            place,
            name,
            port,
            socket,
            ..
        } = &mut self.listeners[at];
        match socket {
            Listener::Tcp(listener) => {
                // A client may be gone before it is accepted: that is its own affair.
                while let Ok((stream, _)) = listener.accept() {
                    if stream.set_nonblocking(true).is_ok() {
                        self.connections.push(Named {
                            place: place.clone(),
                            name: name.clone(),
                            port: *port,
                            socket: stream,
                            begun: Vec::new(),
                        });
                    }
                }
            }
            Listener::Udp(socket) => {
                let mut question = [0; 2048];
                while let Ok((_, client)) = socket.recv_from(&mut question) {
                    // A client that left a closed port behind makes the answer fail.
                    socket
                        .send_to(line(name, client, *port).as_bytes(), client)
                        .ok();
                }
            }
            Listener::Sctp(listener) => listener.answer(|client| line(name, client, *port)),
        }
    }
}

impl Listener {
    const fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp(_) => Protocol::Tcp,
            Self::Udp(_) => Protocol::Udp,
            Self::Sctp(_) => Protocol::Sctp,
        }
    }
}

/// Answers what came in; false if the connection is over.
fn answer(connection: &mut Named<TcpStream>) -> bool {
    let mut question = [0; 4096];
    let came = match connection.socket.read(&mut question) {
        Ok(0) => return false,
        Ok(came) => came,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    connection.begun.extend_from_slice(&question[..came]);
    if is_http(&connection.begun) {
        let whole = connection.begun.windows(4).any(|end| end == b"\r\n\r\n");
        return if whole {
            respond(connection)
        } else {
            connection.begun.len() < LONGEST
        };
    }
    while let Some(end) = connection.begun.iter().position(|byte| *byte == b'\n') {
        connection.begun.drain(..=end);
        if !say(connection) {
            return false;
        }
    }
    connection.begun.len() < LONGEST
}

/// Does a request of HTTP begin so (RFC 9112, 3)?
fn is_http(begun: &[u8]) -> bool {
    let line = begun
        .split(|byte| *byte == b'\n')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) && words.next().is_some()
}

/// One response, after which the connection is over.
fn respond(connection: &mut Named<TcpStream>) -> bool {
    let Ok(client) = connection.socket.peer_addr() else {
        return false;
    };
    let body = format!("{} {}\n", connection.name, client.ip().to_canonical());
    let text = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    // A client that is gone misses nothing.
    connection.socket.write_all(text.as_bytes()).ok();
    false
}

fn say(connection: &mut Named<TcpStream>) -> bool {
    let Ok(client) = connection.socket.peer_addr() else {
        return false;
    };
    let line = line(&connection.name, client, connection.port);
    connection.socket.write_all(line.as_bytes()).is_ok()
}

fn line(name: &str, client: SocketAddr, port: u16) -> String {
    let (addr, client_port) = (client.ip().to_canonical(), client.port());
    format!("{name} {addr} {client_port} {port}\n")
}

/// Where each place answers, for a drawing: ports in order.
#[must_use]
pub fn ports(answers: &std::collections::BTreeSet<Answer>) -> BTreeMap<u16, Vec<Protocol>> {
    let mut out: BTreeMap<u16, Vec<Protocol>> = BTreeMap::new();
    for answer in answers {
        out.entry(answer.port).or_default().push(answer.protocol);
    }
    out
}
