//! Addresses that can be nobody's on a network, and those that must stay somebody's.

use std::net::{IpAddr, SocketAddr};

use crate::cluster::Family;

/// Why an address is neither a frontend nor an endpoint; `None` if it may be. As the API
/// server validates `externalIPs` and endpoints (`ValidateNonSpecialIP`), and those that no
/// connection can go to.
#[must_use]
pub fn special(addr: IpAddr) -> Option<&'static str> {
    match addr {
        IpAddr::V4(v4) if v4.is_unspecified() => Some("the unspecified address"),
        IpAddr::V4(v4) if v4.is_loopback() => Some("a loopback address"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unspecified() => Some("the unspecified address"),
        IpAddr::V6(v6) if v6.is_loopback() => Some("a loopback address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Some("an IPv4 address written as IPv6"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// True if connections of this family may go to the address.
#[must_use]
pub fn is_usable(addr: IpAddr, family: Family) -> bool {
    Family::of(&addr) == family && special(addr).is_none()
}

/// An API server's socket addresses from its URL, where that has an address and no name.
#[must_use]
pub fn of_url(url: &str) -> Option<SocketAddr> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if let Ok(socket) = host.parse() {
        return Some(socket);
    }
    let addr = host.trim_start_matches('[').trim_end_matches(']');
    let port = if scheme == "http" { 80 } else { 443 };
    Some(SocketAddr::new(addr.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_told_from_usable_ones() {
        for text in [
            "0.0.0.0",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(special(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "10.0.0.1",
            "192.0.2.255",
            "100.64.0.1",
            "fd00::1",
            "2001:db8::1",
        ] {
            assert_eq!(special(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn a_servers_url_gives_its_address_and_port() {
        let of = |url| of_url(url).map(|socket| socket.to_string());
        assert_eq!(
            of("https://192.0.2.1:6443").as_deref(),
            Some("192.0.2.1:6443")
        );
        assert_eq!(of("https://192.0.2.1/").as_deref(), Some("192.0.2.1:443"));
        assert_eq!(
            of("http://[fd00::1]:8080/x").as_deref(),
            Some("[fd00::1]:8080")
        );
        assert_eq!(of("https://[fd00::1]").as_deref(), Some("[fd00::1]:443"));
        assert_eq!(of("https://api.example.org:6443"), None);
    }
}
