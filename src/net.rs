//! The words of networking that every room speaks: address family, transport protocol, an
//! endpoint's address and port, and what is asked of one.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The two nftables families we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Family {
    /// `ip` (NFPROTO_IPV4).
    Ip,
    /// `ip6` (NFPROTO_IPV6).
    Ip6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::Ip, Self::Ip6];

    /// nft's name of the family.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
        }
    }

    /// AF_INET and AF_INET6, which are NFPROTO_IPV4 and NFPROTO_IPV6 as well.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Ip => 2,
            Self::Ip6 => 10,
        }
    }

    /// The family with this number, if it is one of the two.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::Ip),
            10 => Some(Self::Ip6),
            _ => None,
        }
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(addr: &IpAddr) -> Self {
        match addr {
            IpAddr::V4(_) => Self::Ip,
            IpAddr::V6(_) => Self::Ip6,
        }
    }
}

/// Kubernetes' spelling: `IPv4`, `IPv6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ip => "IPv4",
            Self::Ip6 => "IPv6",
        })
    }
}

/// A transport protocol that a Service port may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum Protocol {
    /// IPPROTO_TCP.
    Tcp = 6,
    /// IPPROTO_UDP.
    Udp = 17,
    /// IPPROTO_SCTP.
    Sctp = 132,
}

impl Protocol {
    /// All of them, in number order.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IANA protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The protocol with this IANA number, if a Service can use it.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// nft's name of it: `tcp`, `udp`, `sctp`.
    #[must_use]
    pub const fn nft_name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Kubernetes' spelling: `TCP`, `UDP`, `SCTP`.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// Address and port of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Address.
    pub addr: IpAddr,
    /// Port.
    pub port: NonZeroU16,
}

/// `ADDRESS:PORT`, IPv6 in brackets.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port.get()).fmt(f)
    }
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    /// Somebody answered.
    Answer(A),
    /// TCP reset, or port unreachable.
    Refused,
    /// Nothing at all.
    Silence,
    /// Another error: no route, prohibited, cut off.
    Failed(String),
}

/// What is asked of whoever answers at an address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The client's address.
    pub from: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Address and port.
    pub to: SocketAddr,
    /// Silence is what takes longer.
    pub patience: Duration,
    /// How often, each time over a connection of its own; no more once there is no answer.
    pub count: usize,
}
