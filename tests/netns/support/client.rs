//! The clients of a lab: one question over TCP, UDP or SCTP from a namespace, and what came
//! of it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use svcnat::cluster::{Family, Protocol};

use super::addr::ip_of;
use super::agree::{Opinion, Question};
use super::lab::Lab;
use super::sctp;

/// How long an answer may take before it counts as silence. Generous: the machine is shared.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How long silence is listened to where silence is expected.
pub const SILENCE: Duration = Duration::from_millis(400);

/// Who answered, and whom they saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The server's name.
    pub pod: String,
    /// The client as the server saw it.
    pub client: SocketAddr,
    /// The port the server was reached at.
    pub port: u16,
}

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answer(Answer),
    /// TCP reset, or port unreachable.
    Refused,
    /// Nothing at all.
    Silence,
    /// Another error: no route, prohibited, cut off.
    Failed(String),
}

impl Outcome {
    /// The answer, or a panic that says what came instead.
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

/// Someone about to ask. What comes of it is held against what the walker says.
#[derive(Clone, Debug)]
pub struct Caller<'a> {
    lab: &'a Lab,
    place: String,
    source: Option<IpAddr>,
    source_port: u16,
    patience: Duration,
    walked: bool,
}

impl<'a> Caller<'a> {
    /// From a place, with the address and port that the kernel picks.
    pub fn new(lab: &'a Lab, place: &str) -> Self {
        Self {
            lab,
            place: place.to_owned(),
            source: None,
            source_port: 0,
            patience: PATIENCE,
            walked: true,
        }
    }

    /// From this address of the place.
    pub fn source(mut self, addr: IpAddr) -> Self {
        self.source = Some(addr);
        self
    }

    /// From this port.
    pub fn source_port(mut self, port: u16) -> Self {
        self.source_port = port;
        self
    }

    /// Waits only this long.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Does not ask the walker, because of something that it cannot know.
    pub fn unwalked(mut self, why: &str) -> Self {
        assert!(!why.is_empty(), "say why the walker cannot know");
        self.walked = false;
        self
    }

    /// What the walker says of a question; `None` if it is not to be asked, or if svcnat
    /// has nothing to do with it.
    pub fn opinion(&self, protocol: Protocol, to: SocketAddr) -> Option<(Question, Opinion)> {
        let source = self
            .source
            .unwrap_or_else(|| ip_of(&self.place).of(Family::of(&to.ip())));
        let question = Question {
            from: self.place.clone(),
            source,
            to,
            protocol,
        };
        let opinion = self.walked.then(|| self.lab.opinion(&question)).flatten()?;
        Some((question, opinion))
    }

    /// Asks once.
    #[track_caller]
    pub fn ask(&self, protocol: Protocol, to: SocketAddr) -> Outcome {
        let mut outcomes = self.ask_many(protocol, to, 1);
        outcomes.pop().expect("an outcome for the question")
    }

    /// Asks `count` times, each over a connection (and source port) of its own.
    #[track_caller]
    pub fn ask_many(&self, protocol: Protocol, to: SocketAddr, count: usize) -> Vec<Outcome> {
        self.ask_until(protocol, to, count, |_| false)
    }

    /// Asks until `enough` says so of the outcomes so far, at most `limit` times.
    #[track_caller]
    pub fn ask_until(
        &self,
        protocol: Protocol,
        to: SocketAddr,
        limit: usize,
        enough: impl Fn(&[Outcome]) -> bool + Send + Sync,
    ) -> Vec<Outcome> {
        let opinion = self.opinion(protocol, to);
        let outcomes = self.lab.at(&self.place).enter(|| {
            let mut outcomes = Vec::new();
            while outcomes.len() < limit && !enough(&outcomes) {
                outcomes.push(self.ask_here(protocol, to));
            }
            outcomes
        });
        if let Some((question, opinion)) = opinion {
            for outcome in &outcomes {
                let judged = opinion.contradicts(self.lab, &question, outcome);
                judged.unwrap_or_else(|what| panic!("{what}"));
            }
        }
        outcomes
    }

    /// Opens a connection (or a UDP flow) to ask over more than once.
    #[track_caller]
    pub fn open(&self, protocol: Protocol, to: SocketAddr) -> io::Result<Session> {
        let opinion = self.opinion(protocol, to);
        let session = self
            .lab
            .at(&self.place)
            .enter(|| self.session(protocol, to))?;
        if let Some((question, opinion)) = opinion {
            let outcome = Outcome::Answer(session.opened.clone());
            let judged = opinion.contradicts(self.lab, &question, &outcome);
            judged.unwrap_or_else(|what| panic!("{what}"));
        }
        Ok(session)
    }

    fn ask_here(&self, protocol: Protocol, to: SocketAddr) -> Outcome {
        ask_here(self.origin(), protocol, to, self.patience)
    }

    fn session(&self, protocol: Protocol, to: SocketAddr) -> io::Result<Session> {
        session(self.origin(), protocol, to, self.patience)
    }

    fn origin(&self) -> Origin {
        Origin {
            addr: self.source,
            port: self.source_port,
        }
    }
}

/// The address and port to ask from; `None` and 0 leave it to the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub addr: Option<IpAddr>,
    pub port: u16,
}

/// Asks once from the namespace of the calling thread.
pub fn ask_here(from: Origin, protocol: Protocol, to: SocketAddr, patience: Duration) -> Outcome {
    if protocol == Protocol::Sctp {
        let port = (from.port != 0).then_some(from.port);
        let line = sctp::ask(from.addr, port, to, patience);
        return Outcome::of(line.and_then(|line| parse(&line)));
    }
    Outcome::of(session(from, protocol, to, patience).map(|session| session.opened))
}

fn session(
    from: Origin,
    protocol: Protocol,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<Session> {
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
        Protocol::Sctp => return Err(io::Error::from(ErrorKind::Unsupported)),
    };
    let socket = Socket::new(Domain::for_address(to), kind, None)?;
    if from.addr.is_some() || from.port != 0 {
        let any = if to.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
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
    Session::open(socket, protocol)
}

/// An open connection, or a UDP socket with a fixed peer.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    /// The answer it was opened with.
    pub opened: Answer,
}

impl Session {
    /// TCP servers speak first; a UDP flow begins with a question.
    fn open(mut socket: Socket, protocol: Protocol) -> io::Result<Self> {
        if protocol == Protocol::Udp {
            ask_a_datagram(&mut socket)?;
        }
        let opened = read_line(&mut socket)?;
        Ok(Self { socket, opened })
    }

    /// Asks over the open connection.
    pub fn ask(&mut self) -> Outcome {
        Outcome::of(
            self.socket
                .send(b"?\n")
                .and_then(|_| read_line(&mut self.socket)),
        )
    }

    /// Stops waiting after this long.
    pub fn set_patience(&self, patience: Duration) {
        self.socket
            .set_read_timeout(Some(patience))
            .expect("set the time limit");
    }
}

/// Sends a question. What the sender's own output hook drops or rejects fails at once with
/// EPERM; which of the two it was shows in what can be read then.
fn ask_a_datagram(socket: &mut Socket) -> io::Result<()> {
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
    if let [pod, addr, client_port, port] = fields[..]
        && let (Ok(addr), Ok(client_port), Ok(port)) =
            (addr.parse::<IpAddr>(), client_port.parse(), port.parse())
    {
        return Ok(Answer {
            pod: pod.to_owned(),
            client: (addr, client_port).into(),
            port,
        });
    }
    Err(io::Error::other(format!("not an answer of ours: {line:?}")))
}
