//! Addresses, prefixes and names as the API server reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// An address as the API server parses it: leading zeros in IPv4 are decimal, IPv4-mapped
/// IPv6 is IPv4.
#[must_use]
pub fn address(text: &str) -> Option<IpAddr> {
    if let Some(v4) = ipv4(text) {
        return Some(v4.into());
    }
    let v6: Ipv6Addr = text.parse().ok()?;
    Some(v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4))
}

fn ipv4(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // Longer numbers are zeros in front or out of range.
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|_| {
                if part.bytes().all(|b| b == b'0') {
                    Ok(0)
                } else {
                    Err(())
                }
            })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

/// A prefix, host bits and all.
#[must_use]
pub fn prefix(text: &str) -> Option<IpNet> {
    let (addr, len) = text.split_once('/')?;
    if len.is_empty() || !len.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let len: u8 = len.parse().ok()?;
    let addr = address(addr)?;
    let mapped = addr.is_ipv4() && text.contains(':');
    let len = if mapped { len.checked_sub(96)? } else { len };
    IpNet::new(addr, len).ok()
}

/// What is wrong with an object's name, by the rule for DNS subdomains (RFC 1123).
#[must_use]
pub fn name_problem(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty".to_owned());
    }
    if name.len() > 253 {
        let start: String = name.chars().take(40).collect();
        return Some(format!(
            "{start:?}… has {} bytes; at most 253 are allowed",
            name.len()
        ));
    }
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let outer = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if name.chars().all(inner) && outer(name.chars().next()) && outer(name.chars().last()) {
        return None;
    }
    Some(format!(
        "{name:?} is not a valid name: lower-case letters, digits, '-' and '.', \
         starting and ending with a letter or digit"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_as_the_api_server_parses_them() {
        assert_eq!(address("010.000.0.08"), Some("10.0.0.8".parse().unwrap()));
        assert_eq!(
            address("::ffff:10.0.0.1"),
            Some("10.0.0.1".parse().unwrap())
        );
        assert_eq!(address("FD00::1"), Some("fd00::1".parse().unwrap()));
        for bad in [
            "",
            "1.2.3",
            "1.2.3.4.5",
            "1.2.3.256",
            "1..2.3",
            "x",
            "1.2.3.-4",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
    }

    #[test]
    fn prefixes_keep_their_host_bits_for_the_caller_to_judge() {
        assert_eq!(prefix("10.0.0.1/8"), Some("10.0.0.1/8".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "x/8"] {
            assert_eq!(prefix(bad), None, "{bad}");
        }
    }

    #[test]
    fn names_are_dns_subdomains() {
        assert_eq!(name_problem("frontend-1.a"), None);
        for bad in ["", "A", "a b", "a\"b", "a\n", "-a", "a}"] {
            assert!(name_problem(bad).is_some(), "{bad}");
        }
        assert!(
            name_problem(&"x".repeat(300))
                .unwrap()
                .contains("300 bytes")
        );
    }
}
