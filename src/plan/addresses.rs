//! Addresses that connections can go to, and those that must stay somebody's.

use std::net::{IpAddr, SocketAddr};

use crate::cluster::{Family, special};

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
