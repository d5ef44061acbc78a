//! Who commits rulesets: the kernel names the process to listeners, and to them only.
//!
//! A listener is not free: the kernel builds a message for every object and element of every
//! commit before it asks whether the listener wants it. So one listens only for a while, and
//! not during large commits of one's own; a filter in the kernel lets nothing but the
//! announcement of the new generation through to us.

use std::fmt;
use std::os::fd::AsFd;

use super::constants::{generation, msg};
use super::encode::kind_of;
use crate::netlink::error::ExchangeError;
use crate::netlink::ffi;
use crate::netlink::message::Message;
use crate::netlink::socket::{Bus, Socket};

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
    pub fn open(own: u32) -> Result<Self, ExchangeError> {
        let socket = Socket::open(Bus::Netfilter)?;
        ffi::only_messages(socket.as_fd(), kind_of(msg::NEWGEN)).map_err(ExchangeError::Open)?;
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
    pub fn listen(&mut self, listen: bool) -> Result<(), ExchangeError> {
        if listen != self.listening {
            self.socket.listen(GROUP, listen)?;
            self.listening = listen;
        }
        Ok(())
    }

    /// Who else committed since the last call, each time it did; some are missing if there
    /// were more than the socket could hold.
    pub fn drain(&self) -> Vec<Writer> {
        let mut found = Vec::new();
        self.socket
            .drain(|message| found.extend(read(message, self.own)));
        found
    }
}

fn read(message: &Message<'_>, own: u32) -> Option<Writer> {
    let a = message.attrs();
    (message.kind == kind_of(msg::NEWGEN) && message.port != own).then_some(Writer {
        pid: a.u32(generation::PROC_PID)?,
        name: a.lossy_string(generation::PROC_NAME)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attr::request;
    use crate::netlink::message::{Messages, nfgenmsg};

    fn announcement(port: u32, name: &str) -> Vec<u8> {
        let mut bytes = request(kind_of(msg::NEWGEN), 0, &nfgenmsg(0, 0, 0), |w| {
            w.u32(generation::ID, 5);
            w.u32(generation::PROC_PID, 4711);
            w.string(generation::PROC_NAME, name);
        });
        bytes[12..16].copy_from_slice(&port.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_writer_is_named_unless_it_is_us_and_its_name_is_made_harmless() {
        let named = |port, name, own| {
            let bytes = announcement(port, name);
            let found = read(&Messages(&bytes).next().unwrap(), own);
            found.map(|writer| writer.to_string())
        };
        let shown = named(9, "nft\u{1b}[2J", 8);
        assert_eq!(shown.as_deref(), Some("nft?[2J (pid 4711)"));
        assert_eq!(named(8, "svcnat", 8), None);
    }
}
