//! The language of `packets.txt`: a packet a line, and what becomes of it. From text to values
//! and back; names mean something only with a node's objects ([`super::Asked`]).
//!
//! ```text
//! line      = [ CLIENT DESTINATION [ "->" end ] ] [ "#" comment ]
//! end       = endpoint { "," endpoint } [ ";" "remembered" [ "for" SECONDS "s" ] ]
//!           | "untranslated" [ "," "masqueraded" ] [ reason ]
//!           | ( "refused" | "dropped" ) [ reason ]
//! endpoint  = WHO [ PORT ] [ SHARE "%" ] [ "masqueraded" ]
//! reason    = "because" words
//! ```

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use crate::text::{did_you_mean, printable};

/// What an end may be.
const END: &str = "refused, dropped, untranslated, or endpoints such as pod/web-1 8080 50%";

/// The lines of one text.
#[derive(Clone, Debug, PartialEq)]
pub struct Packets {
    /// Where they are from: a file's name.
    pub file: String,
    lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq)]
enum Line {
    /// Blank, or a comment.
    Other(String),
    Packet(Packet),
}

/// A packet and what becomes of it, as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    /// The line, from 1.
    pub line: usize,
    /// Who sends.
    pub client: Word,
    /// Where to.
    pub destination: Word,
    /// What becomes of it, if that is said.
    pub end: Option<End>,
    /// The words before the arrow, as they stand there.
    head: String,
    /// The end, as it stands there.
    written: String,
    /// The comment behind it, with the blanks before it.
    comment: String,
}

/// A word and its column, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word.
    pub text: String,
    /// In characters, from 1.
    pub column: usize,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// One of these answers.
    Endpoints {
        /// Who, at least one.
        by: Vec<Endpoint>,
        /// A client goes where it went before.
        remembered: Option<Remembered>,
    },
    /// Whoever has the destination answers.
    Untranslated {
        /// He sees this node's address instead of the client's.
        masqueraded: bool,
        /// Words that `explain` says of it.
        because: Option<String>,
    },
    /// TCP reset, or port unreachable.
    Refused {
        /// Words that `explain` says of it.
        because: Option<String>,
    },
    /// Nothing comes back.
    Dropped {
        /// Words that `explain` says of it.
        because: Option<String>,
    },
}

/// That a client goes where it went before; for how long, in seconds, if that is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered(pub Option<u32>);

/// One who may answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// An address, or the name of a Pod or Node.
    pub who: Word,
    /// The port he is asked at; any if it is not said.
    pub port: Option<NonZeroU16>,
    /// How often it is he; if it is not said, at least now and then.
    pub share: Option<Share>,
    /// He sees this node's address instead of the client's.
    pub masqueraded: bool,
}

/// A share in percent, as exact as it is written: 33% is a third, 33.3% too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    percent: f64,
    decimals: usize,
}

impl Share {
    /// Of a probability, with as many decimals as it takes, two at most.
    #[must_use]
    pub fn of(probability: f64) -> Self {
        let percent = probability * 100.0;
        let exact = |decimals: &usize| {
            let short = format!("{percent:.0$}", *decimals);
            let long = format!("{percent:.2}");
            long.trim_end_matches('0').trim_end_matches('.') == short
        };
        Self {
            percent,
            decimals: (0..2).find(exact).unwrap_or(2),
        }
    }

    /// The probability, 0 to 1.
    #[must_use]
    pub const fn probability(self) -> f64 {
        self.percent / 100.0
    }

    /// True if a probability is this share, as exact as that is written.
    #[must_use]
    pub fn is(self, probability: f64) -> bool {
        let given = Self {
            percent: probability * 100.0,
            ..self
        };
        given.to_string() == self.to_string()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1$}%", self.percent, self.decimals)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.who.text)?;
        if let Some(port) = self.port {
            write!(f, " {port}")?;
        }
        if let Some(share) = self.share {
            write!(f, " {share}")?;
        }
        f.write_str(if self.masqueraded { " masqueraded" } else { "" })
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let because = match self {
            Self::Endpoints { by, remembered } => {
                for (n, endpoint) in by.iter().enumerate() {
                    write!(f, "{}{endpoint}", if n == 0 { "" } else { ", " })?;
                }
                return match remembered {
                    None => Ok(()),
                    Some(Remembered(None)) => f.write_str("; remembered"),
                    Some(Remembered(Some(time))) => write!(f, "; remembered for {time} s"),
                };
            }
            Self::Untranslated {
                masqueraded,
                because,
            } => {
                let seen = if *masqueraded { ", masqueraded" } else { "" };
                write!(f, "untranslated{seen}")?;
                because
            }
            Self::Refused { because } => {
                f.write_str("refused")?;
                because
            }
            Self::Dropped { because } => {
                f.write_str("dropped")?;
                because
            }
        };
        match because {
            Some(words) => write!(f, " because {words}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)?;
        if !self.written.is_empty() {
            write!(f, " -> {}", self.written)?;
        }
        f.write_str(&self.comment)
    }
}

/// Lines as they were written, but for ends that were set.
impl fmt::Display for Packets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| match line {
            Line::Other(text) => writeln!(f, "{text}"),
            Line::Packet(packet) => writeln!(f, "{packet}"),
        })
    }
}

/// One thing that is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What, and what was expected.
    pub message: String,
}

/// All that is wrong with the lines of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults {
    /// Where they are from.
    pub file: String,
    /// At least one.
    pub all: Vec<Fault>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.all.iter().enumerate() {
            let Fault {
                line,
                column,
                message,
            } = fault;
            let next = if n == 0 { "" } else { "\n" };
            write!(f, "{next}{}:{line}:{column}: {message}", self.file)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

impl Packets {
    /// Reads the lines of a text; `file` is what faults and checks call it.
    ///
    /// # Errors
    /// If a line is none of the language: all such lines, each with its first fault.
    pub fn parse(file: &str, text: &str) -> Result<Self, Faults> {
        let (mut lines, mut all) = (Vec::new(), Vec::new());
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        for (number, line) in (1..).zip(text.lines()) {
            match parse_line(number, line) {
                Ok(line) => lines.push(line),
                Err((column, message)) => all.push(Fault {
                    line: number,
                    column,
                    message,
                }),
            }
        }
        let file = file.to_owned();
        match all.is_empty() {
            true => Ok(Self { file, lines }),
            false => Err(Faults { file, all }),
        }
    }

    /// The packets, in order.
    pub fn packets(&self) -> impl Iterator<Item = &Packet> {
        self.lines.iter().filter_map(|line| match line {
            Line::Packet(packet) => Some(packet),
            Line::Other(_) => None,
        })
    }

    /// Writes what becomes of the packet of a line.
    pub fn set(&mut self, line: usize, end: End) {
        if let Some(Line::Packet(packet)) = self.lines.get_mut(line.wrapping_sub(1)) {
            packet.written = end.to_string();
            packet.end = Some(end);
        }
    }
}

/// A column, and what is wrong there.
type Wrong = (usize, String);

/// A piece of a line, and how many characters are before it.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    before: usize,
}

impl<'a> Piece<'a> {
    fn from(self, at: usize) -> Self {
        Self {
            text: &self.text[at..],
            before: self.before + self.text[..at].chars().count(),
        }
    }

    fn trim(self) -> Self {
        let blanks = self.text.len() - self.text.trim_start().len();
        let piece = self.from(blanks);
        Self {
            text: piece.text.trim_end(),
            ..piece
        }
    }

    /// Before and behind the first `mark`.
    fn cut(self, mark: &str) -> (Self, Option<Self>) {
        match self.text.split_once(mark) {
            None => (self, None),
            Some((first, _)) => {
                let rest = self.from(first.len() + mark.len());
                (
                    Self {
                        text: first,
                        ..self
                    },
                    Some(rest),
                )
            }
        }
    }

    fn words(self) -> impl Iterator<Item = Piece<'a>> {
        let mut rest = Some(self.trim()).filter(|piece| !piece.text.is_empty());
        std::iter::from_fn(move || {
            let piece = rest?;
            let end = piece.text.find(char::is_whitespace);
            rest = end.map(|end| piece.from(end).trim());
            Some(Piece {
                text: &piece.text[..end.unwrap_or(piece.text.len())],
                ..piece
            })
        })
    }

    fn word(self) -> Word {
        Word {
            text: self.text.to_owned(),
            column: self.before + 1,
        }
    }

    fn wrong<T>(self, message: impl Into<String>) -> Result<T, Wrong> {
        Err((self.before + 1, message.into()))
    }

    /// What stands there, where something else was expected.
    fn expected<T>(self, what: &str) -> Result<T, Wrong> {
        match self.text {
            "" => self.wrong(format!("expected {what}")),
            text => self.wrong(format!("\"{}\": expected {what}", printable(text))),
        }
    }
}

fn parse_line(line: usize, text: &str) -> Result<Line, Wrong> {
    let is_comment = |(at, _): &(usize, &str)| {
        let before = text[..*at].chars().next_back();
        before.is_none_or(char::is_whitespace)
    };
    let found = text.match_indices('#').find(is_comment);
    let content = &text[..found.map_or(text.len(), |(at, _)| at)];
    if content.trim().is_empty() {
        return Ok(Line::Other(text.to_owned()));
    }
    let all = Piece {
        text: content,
        before: 0,
    };
    let (head, end) = all.cut("->");
    let head = Piece {
        text: head.text.trim_end(),
        ..head
    };
    let behind = head.from(head.text.len());
    let mut words = head.words();
    let Some(client) = words.next() else {
        return behind.expected("a client: an address, pod/NAME or node/NAME");
    };
    let Some(destination) = words.next() else {
        return behind.expected("a destination such as svc/NAME:PORT or ADDRESS:PORT/PROTOCOL");
    };
    if let Some(word) = words.next() {
        return word.expected("-> and what becomes of the packet");
    }
    let written = end.map(Piece::trim);
    Ok(Line::Packet(Packet {
        line,
        client: client.word(),
        destination: destination.word(),
        end: written.map(parse_end).transpose()?,
        head: head.text.to_owned(),
        written: written.map_or("", |end| end.text).to_owned(),
        comment: text[content.trim_end().len()..].to_owned(),
    }))
}

fn parse_end(end: Piece<'_>) -> Result<End, Wrong> {
    let (what, because) = end.cut(" because ");
    let because = because.map(|words| words.trim().text.to_owned());
    let what = what.trim();
    let words: Vec<Piece<'_>> = what.words().collect();
    let Some(first) = words.first() else {
        return end.expected(END);
    };
    let keyword = first.text.trim_end_matches([',', ';']);
    let masqueraded = match (keyword, &words[1..]) {
        ("refused", []) => return Ok(End::Refused { because }),
        ("dropped", []) => return Ok(End::Dropped { because }),
        ("untranslated", []) => false,
        ("untranslated", [word]) if word.text == "masqueraded" => true,
        ("untranslated", [word, ..]) => return word.expected("masqueraded, or nothing more"),
        ("refused" | "dropped", [word, ..]) => {
            return word.expected("because and a reason, or nothing more");
        }
        _ if because.is_some() => {
            let why = "because is said of what is refused, dropped or untranslated: of endpoints \
                the shares and masqueraded say it all";
            return what.wrong(why);
        }
        _ => return parse_endpoints(what),
    };
    Ok(End::Untranslated {
        masqueraded,
        because,
    })
}

fn parse_endpoints(end: Piece<'_>) -> Result<End, Wrong> {
    let (list, memory) = end.cut(";");
    let mut by = Vec::new();
    let mut rest = Some(list);
    while let Some(piece) = rest {
        let (first, others) = piece.cut(",");
        by.push(parse_endpoint(first)?);
        rest = others;
    }
    let with_share = by.iter().filter(|endpoint| endpoint.share.is_some());
    if with_share.count() % by.len() != 0 {
        return list
            .trim()
            .wrong("either every endpoint has a share, or none");
    }
    let remembered = memory.map(parse_memory).transpose()?;
    Ok(End::Endpoints { by, remembered })
}

fn parse_memory(piece: Piece<'_>) -> Result<Remembered, Wrong> {
    let piece = piece.trim();
    let words: Vec<&str> = piece.words().map(|word| word.text).collect();
    match words[..] {
        ["remembered"] => Ok(Remembered(None)),
        ["remembered", "for", time, "s"] if time.parse::<u32>().is_ok() => {
            Ok(Remembered(time.parse().ok()))
        }
        _ => piece.expected("remembered, or remembered for SECONDS s"),
    }
}

fn parse_endpoint(piece: Piece<'_>) -> Result<Endpoint, Wrong> {
    let mut words = piece.words();
    let Some(who) = words.next() else {
        return piece.trim().expected("an endpoint such as pod/web-1");
    };
    let is_name = who.text.starts_with("pod/") || who.text.starts_with("node/");
    if !is_name && who.text.parse::<IpAddr>().is_err() {
        let known = ["refused", "dropped", "untranslated"];
        let hint = did_you_mean(who.text, known);
        return who.expected(&format!("{END}{hint}"));
    }
    if is_name && who.text.contains(':') {
        return who.expected("a name, and the port as a word behind it: pod/web-1 8080");
    }
    let mut endpoint = Endpoint {
        who: who.word(),
        port: None,
        share: None,
        masqueraded: false,
    };
    for word in words {
        let (port, share) = (word.text.parse::<NonZeroU16>(), parse_share(word.text));
        match (port, share) {
            (Ok(port), _) if endpoint.port.is_none() && endpoint.share.is_none() => {
                endpoint.port = Some(port);
            }
            (_, Some(share)) if endpoint.share.is_none() && !endpoint.masqueraded => {
                endpoint.share = Some(share);
            }
            _ if word.text == "masqueraded" && !endpoint.masqueraded => endpoint.masqueraded = true,
            _ => {
                let what = match (&endpoint.share, endpoint.masqueraded) {
                    (_, true) => "a comma and another endpoint, or nothing more",
                    (Some(_), _) => "masqueraded, or a comma and another endpoint",
                    (None, _) => "a port, a share such as 33.3%, or masqueraded",
                };
                return word.expected(what);
            }
        }
    }
    Ok(endpoint)
}

/// `50%`, `33.33%`.
fn parse_share(word: &str) -> Option<Share> {
    let number = word.strip_suffix('%')?;
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let right = digits(whole) && digits(decimals) && !whole.is_empty();
    let percent: f64 = number.parse().ok().filter(|_| right)?;
    (percent <= 100.0 && decimals.len() <= 6).then_some(Share {
        percent,
        decimals: decimals.len(),
    })
}

#[cfg(test)]
#[path = "language_tests.rs"]
mod tests;
