//! What other programs' chains do to a packet, in words, and what would repair it.

use super::{At, Hop, State};
use crate::foreign::{Family, Hook, Outcome, Packet, Place, Verdict};

/// Programs by a table or chain that only they make.
const PROGRAMS: [(&str, &str); 9] = [
    ("firewalld", "firewalld"),
    ("kube-proxy", "kube-proxy"),
    ("KUBE-", "kube-proxy"),
    ("DOCKER", "Docker"),
    ("docker-", "Docker"),
    ("ufw", "ufw"),
    ("cali", "Calico"),
    ("CILIUM", "Cilium"),
    ("FLANNEL", "flannel"),
];

/// Whose chain it is: table and chain, with the program where the names give it away.
pub(super) fn owner(place: &Place) -> String {
    let rule = place.rule.as_ref().map(|(chain, _)| chain.as_str());
    let names = [Some(place.table.as_str()), Some(place.chain.as_str()), rule];
    let program = PROGRAMS.iter().find(|(prefix, _)| {
        let mut names = names.iter().flatten();
        names.any(|name| name.starts_with(prefix))
    });
    let chain = format!("{} {} {}", place.origin, place.table, place.chain);
    match program {
        Some((_, program)) => format!("{chain} ({program})"),
        None => chain,
    }
}

/// What a chain says of the packet; `at` is the hook.
pub(super) fn outcome(at: At, outcome: &Outcome, packet: &Packet) -> Hop {
    let place = &outcome.place;
    let whose = owner(place);
    let rule = match place.origin.legacy {
        true => "rule number",
        false => "rule with handle",
    };
    let by = match &place.rule {
        None => " by policy".to_owned(),
        Some((chain, handle)) if *chain == place.chain => format!(" ({rule} {handle})"),
        Some((chain, handle)) => format!(" (chain {chain}, {rule} {handle})"),
    };
    let (verdict, why) = match &outcome.verdict {
        Verdict::Perhaps(inner, why) => (&**inner, Some(why)),
        verdict => (verdict, None),
    };
    let (does, state) = match verdict {
        Verdict::Pass => ("lets it pass".to_owned(), State::Fine),
        Verdict::Drop => (format!("drops it{by}"), State::Broken),
        Verdict::Reject => (format!("refuses it{by}"), State::Broken),
        Verdict::Queue => (
            format!("hands it to a program{by}, which decides"),
            State::Unknown,
        ),
        Verdict::Dnat(address, port) => {
            let to = match (address, port) {
                (Some(address), Some(port)) => {
                    format!(" to {}", std::net::SocketAddr::new(*address, *port))
                }
                (Some(address), None) => format!(" to {address}"),
                (None, Some(port)) => format!(" to port {port}"),
                (None, None) => String::new(),
            };
            (
                format!("translates its destination{to} first{by}"),
                State::Broken,
            )
        }
        Verdict::Redirect => (
            format!("redirects it to this node first{by}"),
            State::Broken,
        ),
        Verdict::Snat => (
            format!("translates its source{by}: the endpoint sees another client"),
            State::Unknown,
        ),
        Verdict::Perhaps(..) => (String::new(), State::Unknown),
    };
    let (found, state) = match why {
        None => (format!("{whose} {does}"), state),
        Some(why) => (
            format!("{whose} perhaps {does}, which depends on {why}"),
            State::Unknown,
        ),
    };
    Hop {
        at,
        state,
        found,
        owner: Some(whose),
        repair: (state == State::Broken).then(|| repair(place, verdict, packet)),
    }
}

/// One line that lets such packets through, or removes the translation.
fn repair(place: &Place, verdict: &Verdict, packet: &Packet) -> String {
    let Place {
        origin,
        table,
        chain,
        ..
    } = place;
    if let (Verdict::Dnat(..) | Verdict::Redirect, Some((chain, handle))) = (verdict, &place.rule) {
        return match origin.legacy {
            true => format!("{origin} -t {table} -D {chain} {handle}"),
            false => format!("nft delete rule {origin} {table} {chain} handle {handle}"),
        };
    }
    let address = packet.destination;
    let is_v4 = address.is_ipv4();
    if let Some(program) = iptables(place) {
        let what = match packet.is_reply {
            true => "-m conntrack --ctstate ESTABLISHED,RELATED".to_owned(),
            false => format!("-d {address}"),
        };
        return format!("{program} -t {table} -I {chain} {what} -j ACCEPT");
    }
    let early = matches!(place.hook, Hook::Ingress | Hook::Egress);
    let what = match (packet.is_reply && !early, is_v4) {
        (true, _) => "ct state established,related".to_owned(),
        (false, true) => format!("ip daddr {address}"),
        (false, false) => format!("ip6 daddr {address}"),
    };
    format!("nft insert rule {origin} {table} {chain} {what} accept")
}

/// The program whose chain it is, if it is a chain of iptables.
fn iptables(place: &Place) -> Option<&'static str> {
    let origin = place.origin;
    let known = ["filter", "raw", "mangle", "nat"].contains(&place.table.as_str())
        && place.chain.chars().all(|c| c.is_ascii_uppercase());
    match (origin.family, origin.legacy) {
        (Family::Ip, true) => Some("iptables-legacy"),
        (Family::Ip6, true) => Some("ip6tables-legacy"),
        (Family::Ip, false) if known => Some("iptables"),
        (Family::Ip6, false) if known => Some("ip6tables"),
        _ => None,
    }
}

/// What the kernel means when it does not route a packet.
pub(super) fn refused(errno: i32) -> String {
    match errno {
        libc::ENETUNREACH => "there is no route".to_owned(),
        libc::EHOSTUNREACH => "the route is `unreachable`, or there is none".to_owned(),
        libc::EACCES => "the route or a rule is `prohibit`".to_owned(),
        libc::EINVAL => {
            "the route or a rule is `blackhole`, or the address cannot be routed".to_owned()
        }
        libc::EXDEV => "its source is expected by another device".to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}
