//! A real packet, to see what comes of it: a connection that is closed at once, or an empty
//! datagram. Nothing else of this room sends traffic.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, SockaddrStorage, bind,
    connect, getsockname, getsockopt, recv, send, socket, sockopt,
};

use crate::net::Protocol;

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// A connection.
    Connected,
    /// A datagram in answer.
    Answered,
    /// A reset, or the ICMP error that says that nobody listens.
    Refused,
    /// Nothing.
    Silence,
    /// Another error, of this host or of one on the way: not sent, no route, prohibited.
    Failed(Errno),
}

/// A packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// From this port; 0 if it did not come to that.
    pub port: u16,
    /// What came of it.
    pub met: Met,
}

/// Sends it from an address of this thread's network namespace, and waits for an answer.
///
/// # Errors
/// If there is no such socket, as of SCTP in many kernels, or no such address.
pub fn probe(
    from: IpAddr,
    to: SocketAddr,
    protocol: Protocol,
    patience: Duration,
) -> Result<Probe, Errno> {
    let (kind, of) = match protocol {
        Protocol::Tcp => (SockType::Stream, SockProtocol::Tcp),
        Protocol::Udp => (SockType::Datagram, SockProtocol::Udp),
        Protocol::Sctp => (SockType::Stream, SockProtocol::Sctp),
    };
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, kind, flags, of)?;
    let fd = socket.as_raw_fd();
    bind(fd, &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    let met = sent(&socket, &SockaddrStorage::from(to), protocol, patience);
    let port = getsockname::<SockaddrStorage>(fd).ok().and_then(|at| {
        let v4 = at.as_sockaddr_in().map(|at| at.port());
        v4.or_else(|| at.as_sockaddr_in6().map(|at| at.port()))
    });
    Ok(Probe {
        port: port.unwrap_or_default(),
        met: met.unwrap_or_else(|errno| match errno {
            Errno::ECONNREFUSED => Met::Refused,
            Errno::ETIMEDOUT => Met::Silence,
            errno => Met::Failed(errno),
        }),
    })
}

fn sent(
    socket: &OwnedFd,
    to: &dyn SockaddrLike,
    protocol: Protocol,
    patience: Duration,
) -> Result<Met, Errno> {
    let fd = socket.as_raw_fd();
    match connect(fd, to) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno),
    }
    if protocol == Protocol::Udp {
        send(fd, &[], MsgFlags::empty())?;
        if !comes(socket, PollFlags::POLLIN, patience)? {
            return Ok(Met::Silence);
        }
        return recv(fd, &mut [0; 1], MsgFlags::MSG_DONTWAIT).map(|_| Met::Answered);
    }
    if !comes(socket, PollFlags::POLLOUT, patience)? {
        return Ok(Met::Silence);
    }
    match getsockopt(socket, sockopt::SocketError)? {
        0 => Ok(Met::Connected),
        error => Err(Errno::from_raw(error)),
    }
}

/// True if it came in time, or an error did.
fn comes(socket: &OwnedFd, what: PollFlags, patience: Duration) -> Result<bool, Errno> {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(socket.as_fd(), what)];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => {}
            found => return found.map(|n| n > 0),
        }
    }
}
