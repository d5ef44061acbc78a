//! Settings that have a range: what is out of it cannot be made.

use std::fmt;
use std::str::FromStr;

/// A bit of the packet mark, 0 to 31.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkBit(u8);

impl MarkBit {
    /// The bit of this number; `None` if a mark has no such bit.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < 32 {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The mark with this bit alone.
    #[must_use]
    pub const fn mask(self) -> u32 {
        1 << self.0
    }
}

impl Default for MarkBit {
    /// kube-proxy's.
    fn default() -> Self {
        Self(14)
    }
}

impl fmt::Display for MarkBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for MarkBit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("{text:?} is not a bit of the mark; expected 0 to 31"))
    }
}

/// The name of a network interface, or its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// IFNAMSIZ of `linux/if.h` less the NUL.
    pub const MAX_LEN: usize = 15;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    /// What the kernel takes (`dev_valid_name`), less what ends a quoted string or means more
    /// in a ruleset.
    fn from_str(text: &str) -> Result<Self, String> {
        let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '"' | '\\' | '*');
        let problem = if text.is_empty() {
            "is empty".to_owned()
        } else if text.len() > Self::MAX_LEN {
            format!(
                "has {} bytes, and an interface name at most {}",
                text.len(),
                Self::MAX_LEN
            )
        } else if matches!(text, "." | "..") {
            "is no interface name".to_owned()
        } else if let Some(bad) = text.chars().find(|c| !legal(*c)) {
            format!("has {bad:?}, which is not taken in interface names")
        } else {
            return Ok(Self(text.to_owned()));
        };
        Err(format!("{text:?} {problem}"))
    }
}

/// Ports from the first to the second, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// The first.
    pub from: u16,
    /// The last, not before the first.
    pub to: u16,
}

impl FromStr for PortRange {
    type Err = String;

    /// `FROM-TO`; also `BASE+SIZE` and a single port, as kube-apiserver takes them.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| text.trim().parse::<u16>().ok();
        let ends = if let Some((from, to)) = text.split_once('-') {
            port(from).zip(port(to))
        } else if let Some((base, size)) = text.split_once('+') {
            port(base).and_then(|base| Some((base, base.checked_add(port(size)?)?)))
        } else {
            port(text).map(|port| (port, port))
        };
        match ends {
            Some((from, to)) if from > 0 && from <= to => Ok(Self { from, to }),
            _ => Err(format!(
                "{text:?} is not FROM-TO with ports from 1 to 65535, such as 30000-32767"
            )),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_thirty_two_bits() {
        assert_eq!(MarkBit::new(31).map(MarkBit::mask), Some(0x8000_0000));
        for bad in ["32", "40", "255", "256", "-1", "", "x"] {
            assert!(bad.parse::<MarkBit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn interface_names_are_those_the_kernel_takes() {
        for good in ["cni0", "eth0.100", "veth1234567890a", "br-lan", "x@y"] {
            assert!(good.parse::<InterfaceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "a\tb",
            "a\"b",
            "a\nb",
            "a:b",
            "a*",
            "a\\b",
            "brücke",
            "a\u{202e}",
            "veth1234567890ab",
        ] {
            assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn port_ranges_run_upwards() {
        let ports = |text: &str| text.parse::<PortRange>().map(|r| (r.from, r.to));
        assert_eq!(ports("30000-32767"), Ok((30_000, 32_767)));
        assert_eq!(ports(" 1 - 2 "), Ok((1, 2)));
        assert_eq!(ports("30000+99"), Ok((30_000, 30_099)));
        assert_eq!(ports("80"), Ok((80, 80)));
        for bad in ["", "0-5", "5-4", "1-65536", "65535+1", "-", "a-b", "1-2-3"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }
}
