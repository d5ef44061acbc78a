//! Who commits rulesets: the kernel names the process to listeners, and to them only.
//!
//! A listener is not free: the kernel builds a message for every object and element of every
//! commit before it asks whether the listener wants it. So one listens only for a while, and
//! not during large commits of one's own; a filter in the kernel lets nothing but the
//! announcement of the new generation through to us.

use std::fmt;
use std::os::fd::AsFd;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use super::attr::messages;
use super::constants::{SUBSYS, generation, msg};
use super::error::NetlinkError;
use super::ffi;

/// NFNLGRP_NFTABLES (linux/netfilter/nfnetlink.h).
const GROUP: u32 = 7;

/// A process that committed a ruleset.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    /// Its id, in the kernel's own counting.
    pub pid: u32,
    /// What it calls itself: untrusted text, 15 bytes at most.
    pub name: String,
}

/// `nft (pid 4711)`; nothing a terminal would act on.
impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let harmless = |c: &char| c.is_ascii_graphic() || *c == ' ';
        let name = self.name.chars();
        let clean: String = name.map(|c| if harmless(&c) { c } else { '?' }).collect();
        write!(f, "{clean} (pid {})", self.pid)
    }
}

/// A listener. Reading it never blocks.
pub struct Writers {
    socket: Socket,
    /// The port of our own commits.
    own: u32,
    listening: bool,
}

impl Writers {
    /// A listener that does not listen yet. `own` is the port whose commits do not count.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn open(own: u32) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_NETFILTER).map_err(NetlinkError::Open)?;
        socket
            .bind(&SocketAddr::new(0, 0))
            .map_err(NetlinkError::Open)?;
        socket.set_non_blocking(true).map_err(NetlinkError::Open)?;
        let wanted = SUBSYS << 8 | u16::from(msg::NEWGEN);
        ffi::only_messages(socket.as_fd(), wanted).map_err(NetlinkError::Open)?;
        Ok(Self {
            socket,
            own,
            listening: false,
        })
    }

    /// Starts or stops listening.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn listen(&mut self, listen: bool) -> Result<(), NetlinkError> {
        if listen == self.listening {
            return Ok(());
        }
        let changed = if listen {
            self.socket.add_membership(GROUP)
        } else {
            self.socket.drop_membership(GROUP)
        };
        changed.map_err(NetlinkError::Open)?;
        self.listening = listen;
        Ok(())
    }

    /// Who else committed since the last call, each time it did; some are missing if there
    /// were more than the socket could hold.
    pub fn drain(&self) -> Vec<Writer> {
        let mut found = Vec::new();
        let mut buffer = Vec::with_capacity(8 * 1024);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, 0) {
                Ok(0) => return found,
                Ok(_) => found.extend(read(&buffer, self.own)),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return found,
                // Interrupted, or messages were lost: what is there still counts.
                Err(e) if matches!(e.raw_os_error(), Some(libc::EINTR | libc::ENOBUFS)) => {}
                Err(_) => return found,
            }
        }
    }
}

fn read(bytes: &[u8], own: u32) -> Vec<Writer> {
    messages(bytes)
        .filter(|message| message.kind == SUBSYS << 8 | u16::from(msg::NEWGEN))
        .filter(|message| message.port != own)
        .filter_map(|message| {
            let a = message.attrs();
            Some(Writer {
                pid: a.u32(generation::PROC_PID)?,
                name: String::from_utf8_lossy(a.get(generation::PROC_NAME)?)
                    .trim_end_matches('\0')
                    .to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr;

    fn announcement(port: u32, name: &str) -> Vec<u8> {
        let mut w = attr::Writer::default();
        let open = w.message(SUBSYS << 8 | u16::from(msg::NEWGEN), 0, 1, 0, 0);
        w.u32(generation::ID, 5);
        w.u32(generation::PROC_PID, 4711);
        w.string(generation::PROC_NAME, name);
        w.end_message(open);
        w.bytes[12..16].copy_from_slice(&port.to_ne_bytes());
        w.bytes
    }

    #[test]
    fn the_writer_is_named_unless_it_is_us_and_its_name_is_made_harmless() {
        let found = read(&announcement(9, "nft\u{1b}[2J"), 8);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["nft?[2J (pid 4711)"]);
        assert_eq!(read(&announcement(8, "svcnat"), 8), []);
    }

    #[test]
    fn truncated_announcements_are_no_panic() {
        let whole = announcement(9, "nft");
        for end in 0..whole.len() {
            read(&whole[..end], 8);
        }
    }
}
