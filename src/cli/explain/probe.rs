//! What a real packet met, beside what was foretold of it (`--probe`).

use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use crate::host::probe::Met;
use crate::host::surroundings::Surroundings;
use crate::net::{Endpoint, Protocol};
use crate::path::{At, Hop, Path, State};
use crate::walk::Packet;

/// Sends one from where the client is, and says what came of it.
pub fn send(host: &mut Surroundings, packet: &Packet, path: &Path, patience: Duration) -> Hop {
    let to = SocketAddr::new(packet.destination, packet.port);
    match host.probe(packet.source, to, packet.protocol, patience) {
        None => hop(
            State::Unknown,
            format!(
                "cannot be sent from there: {} is neither this node's nor in a network namespace that \
             this machine keeps by name (/run/netns, /run/docker/netns, a lab)",
                packet.source
            ),
        ),
        Some(Err(errno)) => hop(
            State::Unknown,
            format!("cannot be sent from {}: {}", packet.source, errno.desc()),
        ),
        Some(Ok(sent)) => {
            let by = host.answered((packet.source, sent.port), to, packet.protocol);
            told(path, packet, sent.met, by)
        }
    }
}

fn hop(state: State, found: String) -> Hop {
    Hop {
        at: At::Probe,
        state,
        found,
        owner: None,
        repair: None,
    }
}

/// What the rules and the host let expect.
enum Foretold<'p> {
    /// That it gets to one of the endpoints.
    Through,
    /// That it may, or not: some endpoints are out of reach, or something could not be told.
    Perhaps,
    /// That it ends there.
    Ends(&'p Hop),
}

fn foretold(path: &Path) -> Foretold<'_> {
    let broken = |hops: &'_ [Hop]| hops.iter().position(|hop| hop.state == State::Broken);
    let ends = |leg: &crate::path::Leg| broken(&leg.hops).is_some();
    let everywhere = !path.legs.is_empty() && path.legs.iter().all(ends);
    match path.broken() {
        Some(hop) if broken(&path.hops).is_some() || everywhere => Foretold::Ends(hop),
        Some(_) => Foretold::Perhaps,
        None if path.all().any(|hop| hop.state == State::Unknown) => Foretold::Perhaps,
        None => Foretold::Through,
    }
}

/// What was met, held against what was foretold. `by`: who answered, as connection tracking has
/// it.
fn told(path: &Path, packet: &Packet, met: Met, by: Option<Endpoint>) -> Hop {
    let to = SocketAddr::new(packet.destination, packet.port);
    let answered = by.map_or_else(String::new, |at| format!(", answered by {at}"));
    let (what, state) = match met {
        Met::Connected => (format!("a connection to {to}{answered}"), State::Fine),
        Met::Answered => (format!("an answer from {to}{answered}"), State::Fine),
        Met::Refused => ("a refusal".to_owned(), State::Broken),
        // Who takes a datagram need not answer.
        Met::Silence if packet.protocol == Protocol::Udp => {
            ("neither answer nor error".to_owned(), State::Unknown)
        }
        Met::Silence => ("no answer".to_owned(), State::Broken),
        Met::Failed(Errno::EPERM) => (
            "a rule that drops it as it is sent".to_owned(),
            State::Broken,
        ),
        Met::Failed(errno) => (format!("an error: {}", errno.desc()), State::Broken),
    };
    let is_led_to = |at: &Endpoint| {
        let mut legs = path.legs.iter();
        legs.any(|leg| match leg.to {
            Some(to) => to == *at,
            None => (at.addr, at.port.get()) == (packet.destination, packet.port),
        })
    };
    let (state, found) = match (foretold(path), state) {
        (Foretold::Ends(end), State::Fine) => (
            State::Fine,
            format!(
                "foretold that it ends ({}: {}), met {what}",
                end.at, end.found
            ),
        ),
        (Foretold::Ends(_), _) => (State::Broken, format!("met {what}, as foretold")),
        (_, State::Fine) if by.as_ref().is_some_and(|at| !is_led_to(at)) => {
            let led: Vec<String> = path
                .legs
                .iter()
                .filter_map(|leg| leg.to)
                .map(|to| to.to_string())
                .collect();
            (
                State::Broken,
                format!(
                    "foretold {}, met {what}",
                    match &led[..] {
                        [] => "no translation".to_owned(),
                        led => led.join(" or "),
                    }
                ),
            )
        }
        (Foretold::Through, State::Fine) => (state, format!("met {what}, as foretold")),
        (Foretold::Through, State::Broken) => (
            state,
            format!(
                "foretold that it gets through, met {what}: from the endpoint itself, or from what is \
             not looked at here"
            ),
        ),
        (Foretold::Through, State::Unknown) => (state, format!("met {what}")),
        (Foretold::Perhaps, state) => (state, format!("met {what}; nothing certain was foretold")),
    };
    hop(state, found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::Leg;

    fn packet(protocol: Protocol) -> Packet {
        Packet {
            source: [172, 17, 0, 9].into(),
            destination: [10, 254, 0, 10].into(),
            protocol,
            port: 80,
            iif: None,
            from_node: false,
        }
    }

    fn endpoint(last: u8) -> Endpoint {
        Endpoint {
            addr: [172, 17, 0, last].into(),
            port: 8080.try_into().unwrap(),
        }
    }

    /// A path to two endpoints, with the last hop to each in this state.
    fn path(states: [State; 2]) -> Path {
        let leg = |(n, state)| Leg {
            to: Some(endpoint(n)),
            share: 0.5,
            hops: vec![Hop {
                at: At::Endpoint,
                state,
                ..hop(state, "the last".to_owned())
            }],
        };
        Path {
            legs: (2..).zip(states).map(leg).collect(),
            ..Path::default()
        }
    }

    #[test]
    fn what_is_met_is_held_against_what_was_foretold() {
        use State::{Broken, Fine, Unknown};
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let connected = "met a connection to 10.254.0.10:80, answered by 172.17.0.2:8080";
        for (states, protocol, met, by, state, says) in [
            (
                [Fine, Fine],
                tcp,
                Met::Connected,
                Some(2),
                Fine,
                format!("{connected}, as foretold"),
            ),
            (
                [Fine, Fine],
                tcp,
                Met::Connected,
                Some(4),
                Broken,
                "foretold 172.17.0.2:8080 or 172.17.0.3:8080, met a connection".to_owned(),
            ),
            (
                [Fine, Fine],
                tcp,
                Met::Refused,
                None,
                Broken,
                "foretold that it gets through, met a refusal".to_owned(),
            ),
            (
                [Fine, Fine],
                tcp,
                Met::Silence,
                None,
                Broken,
                "foretold that it gets through, met no answer".to_owned(),
            ),
            (
                [Fine, Fine],
                udp,
                Met::Silence,
                None,
                Unknown,
                "met neither answer nor error".to_owned(),
            ),
            (
                [Fine, Fine],
                udp,
                Met::Failed(Errno::EHOSTUNREACH),
                None,
                Broken,
                "met an error: No route to host".to_owned(),
            ),
            (
                [Fine, Broken],
                tcp,
                Met::Connected,
                Some(2),
                Fine,
                format!("{connected}; nothing certain"),
            ),
            (
                [Fine, Unknown],
                tcp,
                Met::Silence,
                None,
                Broken,
                "met no answer; nothing certain".to_owned(),
            ),
            (
                [Broken, Broken],
                tcp,
                Met::Silence,
                None,
                Broken,
                "met no answer, as foretold".to_owned(),
            ),
            (
                [Broken, Broken],
                udp,
                Met::Silence,
                None,
                Broken,
                "met neither answer nor error, as foretold".to_owned(),
            ),
            (
                [Broken, Broken],
                tcp,
                Met::Connected,
                Some(2),
                Fine,
                format!("foretold that it ends (endpoint: the last), {connected}"),
            ),
        ] {
            let found = told(&path(states), &packet(protocol), met, by.map(endpoint));
            assert!(found.found.contains(&says), "{says}: {}", found.found);
            assert_eq!(found.state, state, "{says}");
        }
    }

    #[test]
    fn what_nothing_translates_is_answered_by_whom_it_was_sent_to() {
        let mut path = path([State::Fine; 2]);
        path.legs.truncate(1);
        path.legs[0].to = None;
        let answered = |addr: [u8; 4], port: u16| Endpoint {
            addr: addr.into(),
            port: port.try_into().unwrap(),
        };
        let told = |by| told(&path, &packet(Protocol::Tcp), Met::Connected, Some(by));
        assert_eq!(told(answered([10, 254, 0, 10], 80)).state, State::Fine);
        let other = told(answered([10, 1, 1, 1], 80));
        assert!(
            other.found.starts_with("foretold no translation"),
            "{}",
            other.found
        );
    }
}
