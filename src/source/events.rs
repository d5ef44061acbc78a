//! What any source of objects says, and how an agent asks it: the same few words for files, the
//! API and whatever else.

use std::fmt;
use std::os::fd::AsFd;

use crate::cluster::{Kind, Object, ObjectName};
use crate::config::Config;
use crate::problem::Problem;

/// Where objects come from. Its descriptor is readable when there may be news.
pub trait Source: AsFd {
    /// News since the last call. Does not wait for any.
    fn events(&mut self) -> Vec<Event>;

    /// Says everything once more, as a second opinion.
    fn ask_again(&mut self);

    /// What of it is well or fails when this kind does: the name of a condition.
    fn part(&self, kind: Kind) -> &'static str;

    /// True if it answers in its own time, says of itself whatever changes, and tries again by
    /// itself what failed. One that does not, as files, is asked and answers at once.
    fn is_remote(&self) -> bool;
}

/// A word of a source.
#[derive(Debug)]
pub enum Event {
    /// Settings that go with the objects.
    Settings(Box<Config>),
    /// So many objects of a whole list have arrived, which is not complete yet.
    Listing(Kind, usize),
    /// All objects of a kind: what is not among them is gone.
    Reset(Kind, Vec<Object>),
    /// An object came, or is another.
    Apply(Object),
    /// An object is gone, or cannot be used any more.
    Delete(Kind, ObjectName),
    /// What was found wrong with objects.
    Found(Vec<Problem>),
    /// It lives and has nothing new: said every few seconds at most. Any other word but a
    /// loss is a sign of life as well.
    Heard(Kind),
    /// A part of it cannot be followed at the moment: what it said stands.
    Lost(&'static str, Failure),
    /// A part that was lost is followed again.
    Recovered(&'static str),
}

/// Why a part of a source cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure.
    pub reason: Reason,
    /// Where, and what is wrong. Printable whatever a server says.
    pub message: String,
    /// True if the same was said before and nothing else in between.
    pub repeated: bool,
    /// True if this node does without the kind: nothing to worry about, but worth a word.
    pub dispensable: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason {
            Reason::Unreadable | Reason::Invalid => f.write_str(&self.message),
            _ => write!(f, "{}: {}", self.reason.name(), self.message),
        }
    }
}

/// What sort of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Files cannot be read.
    Unreadable,
    /// Files hold what cannot be used.
    Invalid,
    /// No connection.
    Unreachable,
    /// A connection, and no answer in time, or one that drips.
    Silent,
    /// TLS cannot agree, mostly on a certificate.
    Tls,
    /// Our own token cannot be read.
    Credentials,
    /// 401: the server does not know us.
    Unauthorized,
    /// 403: we may not.
    Forbidden,
    /// 404: the server does not know the kind.
    NotServed,
    /// 429, 503 or 504.
    Busy,
    /// Any other refusal.
    ServerError,
    /// Not what an API server says.
    NotUnderstood,
    /// More than this node takes (`api::Limits`).
    TooLarge,
    /// Lists expire or watches end again and again.
    Expired,
    /// The same, without a reason given.
    Ended,
}

impl Reason {
    /// True if there was no answer at all, or none that ended: the server, or the way to it,
    /// is gone.
    #[cfg(feature = "cluster")]
    pub(super) const fn is_of_the_way(self) -> bool {
        matches!(
            self,
            Self::Unreachable | Self::Silent | Self::Tls | Self::Ended
        )
    }

    /// One word, for labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Invalid => "invalid",
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Tls => "tls",
            Self::Credentials => "credentials",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotServed => "not-served",
            Self::Busy => "busy",
            Self::ServerError => "server-error",
            Self::NotUnderstood => "not-understood",
            Self::TooLarge => "too-large",
            Self::Expired => "expired",
            Self::Ended => "ended",
        }
    }
}
