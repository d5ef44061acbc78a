//! A netlink socket: datagrams out, the kernel's datagrams in.
//!
//! It stays bound to the network namespace it was opened in.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

pub use mnl::Bus;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{MsgFlags, NetlinkAddr, recvmsg};

use super::error::ExchangeError;
use super::ffi;
use super::message::{Message, Messages};

/// NETLINK_* options of level SOL_NETLINK (linux/netlink.h).
const ADD_MEMBERSHIP: i32 = 1;
const DROP_MEMBERSHIP: i32 = 2;
const CAP_ACK: i32 = 10;
const EXT_ACK: i32 = 11;
const GET_STRICT_CHK: i32 = 12;

/// The most the kernel puts into one datagram that nobody asked for.
const ANNOUNCEMENT: usize = 32 * 1024;

/// An open socket with a port of its own.
pub struct Socket(mnl::Socket);

impl Socket {
    /// Opens a socket in this thread's network namespace.
    ///
    /// # Errors
    /// If the kernel has no such bus, or no socket to give.
    pub fn open(bus: Bus) -> Result<Self, ExchangeError> {
        let socket = Self(mnl::Socket::new(bus).map_err(ExchangeError::Open)?);
        fcntl(socket.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|errno| ExchangeError::Open(errno.into()))?;
        // Both exist since Linux 4.12; without them errors are only less telling.
        let _ = ffi::netlink_option(socket.as_fd(), EXT_ACK, 1);
        let _ = ffi::netlink_option(socket.as_fd(), CAP_ACK, 1);
        Ok(socket)
    }

    /// Lets the kernel filter dumps by what the request's header says (Linux 4.20).
    ///
    /// # Errors
    /// If it does not know how.
    pub fn filter_dumps(&self) -> Result<(), ExchangeError> {
        ffi::netlink_option(self.as_fd(), GET_STRICT_CHK, 1).map_err(ExchangeError::Open)
    }

    /// Listens to a multicast group, or does not any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn listen(&self, group: u32, listen: bool) -> Result<(), ExchangeError> {
        let option = if listen {
            ADD_MEMBERSHIP
        } else {
            DROP_MEMBERSHIP
        };
        ffi::netlink_option(self.as_fd(), option, group).map_err(ExchangeError::Open)
    }

    /// The port that the kernel knows it by.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.0.portid()
    }

    /// Sends a datagram; returns how many bytes went.
    ///
    /// # Errors
    /// That of sendto(2).
    pub fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        self.0.send(datagram)
    }

    /// One datagram from the kernel. Other processes can send to our port, too: theirs are
    /// passed over.
    ///
    /// # Errors
    /// [`ExchangeError::Garbled`] if `buffer` is too small for it; else that of recvmsg(2).
    pub fn receive<'b>(
        &self,
        buffer: &'b mut [u8],
        flags: MsgFlags,
    ) -> Result<&'b [u8], ExchangeError> {
        let length = loop {
            let mut room = [IoSliceMut::new(buffer)];
            match recvmsg::<NetlinkAddr>(self.0.as_raw_fd(), &mut room, None, flags) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(ExchangeError::Receive(errno)),
                Ok(got) if got.address.is_none_or(|from| from.pid() != 0) => {}
                Ok(got) if got.flags.contains(MsgFlags::MSG_TRUNC) => {
                    return Err(ExchangeError::Garbled);
                }
                Ok(got) => break got.bytes,
            }
        };
        Ok(&buffer[..length])
    }

    /// Hands everything that was said since the last call to `each`, without waiting. False if
    /// some of it did not fit the queue.
    pub fn drain(&self, mut each: impl FnMut(&Message<'_>)) -> bool {
        let mut buffer = vec![0; ANNOUNCEMENT];
        let mut whole = true;
        loop {
            match self.receive(&mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(bytes) => Messages(bytes).for_each(|message| each(&message)),
                Err(ExchangeError::Receive(Errno::EAGAIN)) => return whole,
                // What is left in the queue still counts.
                Err(ExchangeError::Receive(Errno::ENOBUFS) | ExchangeError::Garbled) => {
                    whole = false;
                }
                Err(_) => return false,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        ffi::descriptor(&self.0)
    }
}
