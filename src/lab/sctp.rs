//! Just enough SCTP to see where an association would be set up, over raw sockets, so that
//! a kernel without SCTP sockets can still be asked.
//!
//! A client sends INIT, a server answers INIT ACK with its line as the state cookie
//! (RFC 9260, sections 3.3.2 and 3.3.3). That is all connection tracking and NAT look at.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

const IPPROTO_SCTP: i32 = 132;
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const COOKIE_PARAMETER: u16 = 7;
const COMMON_HEADER: usize = 12;
const INIT_CHUNK: usize = 20;
const PARAMETER_HEADER: usize = 4;

/// Raw sockets know no ports: clients take them in turn.
static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);
/// An ICMP error reaches all raw sockets of its addresses: one question at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Answers INITs to one port on every address of a family.
#[derive(Debug)]
pub struct SctpListener {
    socket: UdpSocket,
    port: u16,
}

impl SctpListener {
    /// Listens in the namespace of the calling thread.
    ///
    /// # Errors
    /// If there is no raw socket to be had.
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        let socket = raw(addr.ip())?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            port: addr.port(),
        })
    }

    /// For poll.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Answers what has come in.
    pub fn answer(&self, line: impl Fn(SocketAddr) -> String) {
        let mut buffer = [0; 2048];
        while let Ok((length, peer)) = self.socket.recv_from(&mut buffer) {
            let Some(init) = Packet::parse(&buffer[..length], peer.is_ipv4()) else {
                continue;
            };
            if init.kind == INIT && init.to == self.port {
                let line = line(SocketAddr::new(peer.ip(), init.from));
                let ack = Packet {
                    kind: INIT_ACK,
                    from: init.to,
                    to: init.from,
                    tag: init.initiate_tag,
                    initiate_tag: 1,
                    cookie: line.into_bytes(),
                };
                // A client that is gone is no concern of the server.
                self.socket.send_to(&ack.bytes(), peer).ok();
            }
        }
    }
}

/// Sends an INIT from the namespace of the calling thread; the cookie of the INIT ACK.
pub fn ask(
    source: Option<IpAddr>,
    source_port: Option<u16>,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<String> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let any = if to.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = raw(source.unwrap_or(any))?;
    // Port 0: to a raw socket it means nothing. Connected, it hears of ICMP errors.
    socket.connect(SocketAddr::new(to.ip(), 0))?;
    let from = source_port.unwrap_or_else(|| NEXT_PORT.fetch_add(1, Ordering::Relaxed));
    let init = Packet {
        kind: INIT,
        from,
        to: to.port(),
        tag: 0,
        initiate_tag: 0x5eed_0001,
        cookie: Vec::new(),
    };
    socket.send(&init.bytes())?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        let length = socket.recv(&mut buffer)?;
        // Every raw socket sees all SCTP of its peer: take what is meant for this one.
        if let Some(ack) = Packet::parse(&buffer[..length], to.is_ipv4())
            && (ack.kind, ack.from, ack.to) == (INIT_ACK, to.port(), from)
        {
            return Ok(String::from_utf8_lossy(&ack.cookie).into_owned());
        }
    }
}

/// A raw socket, as the standard library's datagram socket: the calls are the same.
fn raw(addr: IpAddr) -> io::Result<UdpSocket> {
    let addr = SocketAddr::new(addr, 0);
    let protocol = Some(Protocol::from(IPPROTO_SCTP));
    let socket = Socket::new(Domain::for_address(addr), Type::RAW, protocol)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

/// An INIT or INIT ACK, the only chunk of its packet.
struct Packet {
    kind: u8,
    from: u16,
    to: u16,
    tag: u32,
    initiate_tag: u32,
    cookie: Vec<u8>,
}

impl Packet {
    /// Reads what a raw socket received: with its IP header for IPv4.
    fn parse(bytes: &[u8], ipv4: bool) -> Option<Self> {
        let start = if ipv4 {
            usize::from(bytes.first()? & 0xf) * 4
        } else {
            0
        };
        let bytes = bytes.get(start..)?;
        let u16_at = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let chunk_end = COMMON_HEADER + usize::from(u16_at(COMMON_HEADER + 2)?);
        let parameters = COMMON_HEADER + INIT_CHUNK;
        let cookie = if chunk_end > parameters {
            let end = parameters + usize::from(u16_at(parameters + 2)?);
            bytes.get(parameters + PARAMETER_HEADER..end)?.to_vec()
        } else {
            Vec::new()
        };
        Some(Self {
            kind: *bytes.get(COMMON_HEADER)?,
            from: u16_at(0)?,
            to: u16_at(2)?,
            tag: u32_at(4)?,
            initiate_tag: u32_at(COMMON_HEADER + 4)?,
            cookie,
        })
    }

    fn bytes(&self) -> Vec<u8> {
        // A cookie is a line: names are shorter than this.
        let length = |n: usize| u16::try_from(n).unwrap_or(u16::MAX).to_be_bytes();
        let parameter = match self.cookie.len() {
            0 => 0,
            n => PARAMETER_HEADER + n,
        };
        let mut bytes = Vec::new();
        bytes.extend(self.from.to_be_bytes());
        bytes.extend(self.to.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend([self.kind, 0]);
        bytes.extend(length(INIT_CHUNK + parameter));
        bytes.extend(self.initiate_tag.to_be_bytes());
        bytes.extend(0x1_0000_u32.to_be_bytes());
        bytes.extend([0, 1, 0, 1]);
        bytes.extend(1_u32.to_be_bytes());
        if parameter > 0 {
            bytes.extend(COOKIE_PARAMETER.to_be_bytes());
            bytes.extend(length(parameter));
            bytes.extend(&self.cookie);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let checksum = crc32c(&bytes);
        bytes[8..COMMON_HEADER].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// The checksum of RFC 9260, appendix A: connection tracking drops packets without it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}
