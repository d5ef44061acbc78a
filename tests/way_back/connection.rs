//! A server on the node that echoes, as its SSH server would, and a client beyond the route
//! that svcnat keeps.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use socket2::{Domain, Socket, Type};

use crate::lab::Lab;

/// Does something in a network namespace, on a thread of its own.
fn within<T: Send + 'static>(name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{name}")).unwrap();
    let thread = std::thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    });
    thread.join().unwrap()
}

/// Starts the server: each connection has a thread until it ends.
pub fn echo(lab: &Lab, port: u16) {
    let listener = within(&lab.node, move || {
        TcpListener::bind(("0.0.0.0", port)).unwrap()
    });
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(read @ 1..) = stream.read(&mut buffer) {
                    if stream.write_all(&buffer[..read]).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

/// A connection from a pod of the other node.
pub struct Connection(TcpStream);

impl Connection {
    pub fn open(lab: &Lab, port: u16) -> Self {
        let stream = within(&lab.peer, move || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let from: SocketAddr = "10.244.9.5:0".parse().unwrap();
            socket.bind(&from.into()).unwrap();
            let to: SocketAddr = format!("192.0.2.1:{port}").parse().unwrap();
            socket.connect(&to.into()).unwrap();
            TcpStream::from(socket)
        });
        Self(stream)
    }

    /// Says something; true if anything comes back in time.
    pub fn answers(&mut self, time: Duration) -> bool {
        let start = Instant::now();
        if self.0.write_all(b"x").is_err() {
            return false;
        }
        while let Some(left) = time
            .checked_sub(start.elapsed())
            .filter(|left| !left.is_zero())
        {
            self.0.set_read_timeout(Some(left)).unwrap();
            if let Ok(1..) = self.0.read(&mut [0; 64]) {
                return true;
            }
        }
        false
    }
}
