//! The servers of a lab: one thread answers on every socket of every pod with the pod's
//! name and the client as the pod sees it.
//!
//! TCP connections are greeted once accepted and after each line they send; a UDP datagram
//! is answered by one. The line is `NAME CLIENT-ADDRESS CLIENT-PORT SERVER-PORT`.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};
use svcnat::cluster::Protocol;

use super::netns::Netns;
use super::sctp::SctpListener;

/// A socket that answers.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
    Sctp(SctpListener),
}

impl Listener {
    fn open(protocol: Protocol, addr: SocketAddr) -> Self {
        match protocol {
            Protocol::Tcp => {
                let socket = bound(Type::STREAM, addr);
                socket.listen(4096).expect("listen");
                Self::Tcp(socket.into())
            }
            Protocol::Udp => Self::Udp(bound(Type::DGRAM, addr).into()),
            Protocol::Sctp => Self::Sctp(SctpListener::open(addr)),
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Udp(socket) => socket.as_fd(),
            Self::Sctp(socket) => socket.as_fd(),
        }
    }
}

fn bound(kind: Type, addr: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(addr), kind, None).expect("make a socket");
    if addr.is_ipv6() {
        // The wildcard serves both families; a given address only its own.
        socket
            .set_only_v6(!addr.ip().is_unspecified())
            .expect("choose the families");
    }
    socket.set_reuse_address(true).expect("reuse the address");
    socket.set_nonblocking(true).expect("never wait");
    socket
        .bind(&addr.into())
        .unwrap_or_else(|error| panic!("serve on {addr}: {error}"));
    socket
}

/// A listener or a connection, and the name it answers with.
#[derive(Debug)]
struct Named<T> {
    name: String,
    port: u16,
    socket: T,
}

/// What the thread is told.
enum Order {
    Serve(Named<Listener>),
    /// Close everything that answers with this name.
    Stop(String, Sender<()>),
}

/// The thread with all the servers; it ends when this is dropped.
#[derive(Debug)]
pub struct Responder {
    orders: Option<Sender<Order>>,
    wake: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Responder {
    /// A thread without any server yet.
    pub fn start() -> Self {
        let (orders, inbox) = channel();
        let (bell, wake) = std::io::pipe().expect("make a pipe");
        let thread = thread::spawn(move || Loop::new(inbox, bell).run());
        Self {
            orders: Some(orders),
            wake: Some(wake),
            thread: Some(thread),
        }
    }

    /// Answers on an address of a namespace from now on.
    pub fn serve(&mut self, netns: &Netns, name: &str, protocol: Protocol, addr: SocketAddr) {
        let socket = netns.enter(|| Listener::open(protocol, addr));
        self.order(Order::Serve(Named {
            name: name.to_owned(),
            port: addr.port(),
            socket,
        }));
    }

    /// Closes the listeners and connections with this name.
    pub fn stop(&mut self, name: &str) {
        let (done, wait) = channel();
        self.order(Order::Stop(name.to_owned(), done));
        wait.recv().expect("the responder lives");
    }

    fn order(&mut self, order: Order) {
        let orders = self.orders.as_ref().expect("open until dropped");
        orders.send(order).expect("the responder lives");
        let wake = self.wake.as_mut().expect("open until dropped");
        wake.write_all(b"!").expect("wake the responder");
    }
}

impl Drop for Responder {
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
    fn new(inbox: Receiver<Order>, bell: PipeReader) -> Self {
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
            if bell[0] && !self.obey() {
                return;
            }
            if bell[0] {
                // The lists may have changed under the flags: look again.
                continue;
            }
            let (listeners, connections) = rest.split_at(self.listeners.len());
            let mut flags = connections.iter();
            self.connections.retain_mut(|connection| {
                !flags.next().copied().unwrap_or(false) || answer(connection)
            });
            for at in (0..listeners.len()).filter(|&at| listeners[at]) {
                self.greet(at);
            }
        }
    }

    /// Waits until something can be read: the bell, then the listeners, then the connections.
    fn wait(&self) -> Vec<bool> {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = vec![watch(self.bell.as_fd())];
        fds.extend(self.listeners.iter().map(|named| watch(named.socket.fd())));
        fds.extend(
            self.connections
                .iter()
                .map(|named| watch(named.socket.as_fd())),
        );
        poll(&mut fds, PollTimeout::NONE).expect("poll");
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
                Order::Stop(name, done) => {
                    self.listeners.retain(|named| named.name != name);
                    self.connections.retain(|named| named.name != name);
                    // The one who asked may have given up waiting.
                    done.send(()).ok();
                }
            }
        }
        true
    }

    fn greet(&mut self, at: usize) {
        let Named { name, port, socket } = &mut self.listeners[at];
        match socket {
            Listener::Tcp(listener) => {
                // A client may be gone before it is accepted: that is its own affair.
                while let Ok((stream, _)) = listener.accept() {
                    let mut connection = Named {
                        name: name.clone(),
                        port: *port,
                        socket: stream,
                    };
                    connection.socket.set_nonblocking(true).expect("never wait");
                    if say(&mut connection) {
                        self.connections.push(connection);
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

/// Answers each line that came in; false if the connection is over.
fn answer(connection: &mut Named<TcpStream>) -> bool {
    let mut question = [0; 4096];
    match connection.socket.read(&mut question) {
        Ok(0) => false,
        Ok(n) => question[..n]
            .iter()
            .filter(|byte| **byte == b'\n')
            .all(|_| say(connection)),
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
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
