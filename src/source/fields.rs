//! Field values checked one by one: ports, addresses, prefixes, names. What is wrong is
//! reported with its field, its value and what was expected.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;

use crate::cluster::{Origin, Protocol};
use crate::problem::Problem;
use crate::syntax::{address, prefix};
use crate::text::did_you_mean;

/// Collects the problems of one object.
pub struct Checker<'a> {
    pub origin: &'a Origin,
    pub object: String,
    pub problems: &'a mut Vec<Problem>,
    pub rules: super::Rules,
    /// True once an error makes the object unusable.
    pub failed: bool,
}

impl Checker<'_> {
    pub fn error(&mut self, field: &str, message: impl AsRef<str>) {
        self.failed = true;
        self.problems.push(Problem::error(
            Some(self.origin),
            &self.object,
            field,
            message,
        ));
    }

    pub fn warning(&mut self, field: &str, message: impl AsRef<str>) {
        self.problems.push(Problem::warning(
            Some(self.origin),
            &self.object,
            field,
            message,
        ));
    }

    pub fn port(&mut self, field: &str, value: i64) -> Option<NonZeroU16> {
        let port = u16::try_from(value).ok().and_then(NonZeroU16::new);
        if port.is_none() {
            self.error(field, format!("{value} is not a port; expected 1 to 65535"));
        }
        port
    }

    /// A port that may be absent, or 0 for none.
    pub fn optional_port(&mut self, field: &str, value: Option<i64>) -> Option<NonZeroU16> {
        match value {
            None | Some(0) => None,
            Some(value) => self.port(field, value),
        }
    }

    /// The one of `known` that `value` is; `None` if it is absent or empty. Another one is an
    /// error.
    pub fn choice<'k>(
        &mut self,
        field: &str,
        value: Option<&str>,
        known: &[&'k str],
    ) -> Option<&'k str> {
        let value = value.filter(|value| !value.is_empty())?;
        let found = known.iter().find(|name| **name == value).copied();
        if found.is_none() {
            let near = did_you_mean(value, known.iter().copied());
            let all = known.join(", ");
            self.error(field, format!("{value:?} is none of {all}{near}"));
        }
        found
    }

    /// For fields that may hold values of others': one of `known` in the wrong case is an error.
    pub fn spelling(&mut self, field: impl FnOnce() -> String, value: &str, known: &[&str]) {
        let same = |name: &&&str| name.eq_ignore_ascii_case(value);
        if let Some(right) = known.iter().find(same).filter(|right| **right != value) {
            let message = format!("{value:?} is not known; did you mean {right}?");
            self.error(&field(), message);
        }
    }

    pub fn protocol(&mut self, field: &str, value: Option<&str>) -> Option<Protocol> {
        if value.is_none_or(str::is_empty) {
            return Some(Protocol::Tcp);
        }
        match self.choice(field, value, &["TCP", "UDP", "SCTP"])? {
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => Some(Protocol::Tcp),
        }
    }

    pub fn address(&mut self, field: &str, text: &str) -> Option<IpAddr> {
        let parsed = address(text);
        if parsed.is_none() {
            self.error(field, format!("{text:?} is not an IP address"));
        }
        parsed
    }

    /// A prefix whose host bits must be zero.
    pub fn network(&mut self, field: &str, text: &str) -> Option<IpNet> {
        match prefix(text) {
            Some(net) if net.addr() == net.network() => Some(net),
            Some(net) => {
                self.error(
                    field,
                    format!("{text} has host bits set; expected {}", net.trunc()),
                );
                None
            }
            None => {
                self.error(
                    field,
                    format!("{text:?} is not a prefix such as 10.0.0.0/16"),
                );
                None
            }
        }
    }
}
