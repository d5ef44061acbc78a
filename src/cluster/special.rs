//! Addresses that can be nobody's on a network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

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

/// An address of `range` that cannot be anybody's, and why; `None` if there is none.
#[must_use]
pub fn special_in(range: &IpNet) -> Option<(IpAddr, &'static str)> {
    let v4 = |a, b, c, d, length| {
        let net = Ipv4Net::new(Ipv4Addr::new(a, b, c, d), length);
        net.ok().map(IpNet::from)
    };
    let v6 = |first, last, length| {
        let net = Ipv6Net::new(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, last), length);
        net.ok().map(IpNet::from)
    };
    let all = [
        v4(0, 0, 0, 0, 32),
        v4(127, 0, 0, 0, 8),
        v4(169, 254, 0, 0, 16),
        v4(224, 0, 0, 0, 4),
        v4(255, 255, 255, 255, 32),
        v6(0, 0, 128),
        v6(0, 1, 128),
        v6(0xfe80, 0, 10),
        v6(0xff00, 0, 8),
    ];
    all.into_iter().flatten().find_map(|net| {
        // One of the two holds the other, or they are apart.
        let addr = if range.contains(&net) {
            net.network()
        } else if net.contains(range) {
            range.network()
        } else {
            return None;
        };
        Some((addr, special(addr)?))
    })
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
    fn ranges_with_special_addresses_are_told_from_usable_ones() {
        for text in [
            "0.0.0.0/0",
            "0.0.0.0/8",
            "127.0.0.0/8",
            "127.1.0.0/16",
            "96.0.0.0/3",
            "169.254.7.0/24",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "::/0",
            "::/96",
            "fe80::/64",
            "ff00::/8",
        ] {
            assert!(special_in(&text.parse().unwrap()).is_some(), "{text}");
        }
        for text in [
            "10.0.0.0/8",
            "100.64.0.0/10",
            "192.0.2.0/24",
            "fd00::/8",
            "2000::/3",
        ] {
            assert_eq!(special_in(&text.parse().unwrap()), None, "{text}");
        }
    }
}
