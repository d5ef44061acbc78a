//! Who asks: one question over TCP, UDP or SCTP from a namespace, and what came of it.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::sctp;
use crate::net::{Protocol, Question};

/// How long an answer may take before it counts as silence. Generous: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// Who answered, and whom they saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub name: String,
    /// The client as the server saw it.
    pub client: SocketAddr,
    /// The port the server was reached at.
    pub port: u16,
}

/// What came of a question.
pub type Outcome = crate::net::Outcome<Answer>;

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(answer) => {
                write!(
                    f,
                    "{} at port {} saw {}",
                    answer.name,
                    answer.port,
                    answer.client.ip()
                )
            }
            Self::Refused => f.write_str("refused"),
            Self::Silence => f.write_str("no answer"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl Outcome {
    /// The answer.
    ///
    /// # Panics
    /// If there was none, with what came instead: a test ends here.
    #[expect(
        clippy::must_use_candidate,
        reason = "that there was one may be all that matters"
    )]
    #[track_caller]
    pub fn answer(self) -> Answer {
        match self {
            Self::Answer(answer) => answer,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    fn of(result: io::Result<Answer>) -> Self {
        match result {
            Ok(answer) => Self::Answer(answer),
            Err(error) => match error.kind() {
                ErrorKind::ConnectionRefused => Self::Refused,
                ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Silence,
                _ => Self::Failed(error.to_string()),
            },
        }
    }
}

/// The address and port to ask from; `None` and 0 leave it to the kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// Address.
    pub addr: Option<IpAddr>,
    /// Port.
    pub port: u16,
}

/// Asks once, over a connection of its own, from the namespace of the calling thread.
#[must_use]
pub fn ask(from: Source, protocol: Protocol, to: SocketAddr, patience: Duration) -> Outcome {
    if protocol == Protocol::Sctp {
        let port = (from.port != 0).then_some(from.port);
        let line = sctp::ask(from.addr, port, to, patience);
        return Outcome::of(line.and_then(|line| parse(&line)));
    }
    Outcome::of(open(from, protocol, to, patience).map(|session| session.opened))
}

/// Asks from the namespace of the calling thread, which has the client's address.
#[must_use]
pub fn ask_often(question: &Question) -> Vec<Outcome> {
    let Question {
        from,
        protocol,
        to,
        patience,
        count,
    } = *question;
    let source = Source {
        addr: Some(from),
        port: 0,
    };
    let mut outcomes = Vec::new();
    let is_answer = |outcome: &Outcome| matches!(outcome, Outcome::Answer(_));
    while outcomes.len() < count && outcomes.last().is_none_or(is_answer) {
        outcomes.push(ask(source, protocol, to, patience));
    }
    outcomes
}

/// Opens a connection, or a UDP flow, to ask over more than once, from the namespace of the
/// calling thread.
///
/// # Errors
/// That of the first question.
pub fn open(
    from: Source,
    protocol: Protocol,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<Session> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
        Protocol::Sctp => return Err(ErrorKind::Unsupported.into()),
    };
    let mut socket = Socket::new(Domain::for_address(to), kind, None)?;
    if from.addr.is_some() || from.port != 0 {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let source = SocketAddr::new(from.addr.unwrap_or(any), from.port);
        socket.set_reuse_address(true)?;
        socket.bind(&source.into())?;
    }
    if protocol == Protocol::Tcp {
        // Close with a reset: no port stays behind in TIME_WAIT, in either namespace.
        socket.set_linger(Some(Duration::ZERO))?;
        socket.connect_timeout(&to.into(), patience)?;
    } else {
        socket.connect(&to.into())?;
    }
    socket.set_read_timeout(Some(patience))?;
    question(&mut socket)?;
    let opened = read_line(&mut socket)?;
    Ok(Session { socket, opened })
}

/// An open connection, or a UDP socket with a fixed peer.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    /// The answer it was opened with.
    pub opened: Answer,
}

impl Session {
    /// Asks again.
    pub fn ask(&mut self) -> Outcome {
        Outcome::of(question(&mut self.socket).and_then(|()| read_line(&mut self.socket)))
    }

    /// Stops waiting after this long.
    ///
    /// # Errors
    /// If it is no time at all.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience))
    }
}

/// What the sender's own output hook drops or rejects fails at once with EPERM; which of the
/// two it was shows in what can be read then.
fn question(socket: &mut Socket) -> io::Result<()> {
    match socket.write_all(b"?\n") {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn read_line(socket: &mut Socket) -> io::Result<Answer> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        let mut part = [0; 512];
        match socket.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            n => text.extend_from_slice(&part[..n]),
        }
    }
    parse(&String::from_utf8_lossy(&text))
}

fn parse(line: &str) -> io::Result<Answer> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    if let [name, addr, client_port, port] = fields[..]
        && let (Ok(addr), Ok(client_port), Ok(port)) =
            (addr.parse::<IpAddr>(), client_port.parse(), port.parse())
    {
        return Ok(Answer {
            name: name.to_owned(),
            client: (addr, client_port).into(),
            port,
        });
    }
    Err(io::Error::other(format!(
        "not an answer of a lab's: {line:?}"
    )))
}
