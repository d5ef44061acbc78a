//! The clients of a lab, and what comes of their questions held against the walker.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use svcnat::cluster::{Family, Protocol};
pub use svcnat::lab::{Answer, Outcome, PATIENCE, Session, Source};
use svcnat::lab::{ask, open};

use super::addr::ip_of;
use super::agree::{Opinion, Question};
use super::lab::Lab;

/// How long silence is listened to where silence is expected.
pub const SILENCE: Duration = Duration::from_millis(400);

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
        ask(self.origin(), protocol, to, self.patience)
    }

    fn session(&self, protocol: Protocol, to: SocketAddr) -> io::Result<Session> {
        open(self.origin(), protocol, to, self.patience)
    }

    fn origin(&self) -> Source {
        Source {
            addr: self.source,
            port: self.source_port,
        }
    }
}
