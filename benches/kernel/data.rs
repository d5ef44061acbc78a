//! The data plane: what a connection's first packet and the next ones cost, and TCP
//! connections, through the rules of svcnat and of what else one could load.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrIn, bind, connect, setsockopt, socket,
    sockopt,
};
use std::os::fd::AsRawFd;

use super::lab::{Lab, Place, SERVER};
use super::report::{Report, Samples};
use super::run;
use super::setups::{self, Protocol, Setup};

/// Flows per round.
const FLOWS: u16 = 4_000;

/// What is measured of one setup.
#[derive(Default)]
struct Times {
    first: Samples,
    unanswered: Samples,
    established: Samples,
    connect: Samples,
    connections: Samples,
}

/// Takes what arrived; who sent the last.
fn received(socket: &UdpSocket) -> (usize, Option<SocketAddr>) {
    let mut buffer = [0; 64];
    let mut last = None;
    let arrived = std::iter::from_fn(|| match socket.recv_from(&mut buffer) {
        Ok((_, from)) => {
            last = Some(from);
            Some(())
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
            None
        }
    })
    .count();
    (arrived, last)
}

/// One packet of each of many new flows, as many of one flow that nobody has answered (for
/// connection tracking still new), and as many after an answer. All of them must arrive.
/// What is measured is the sender's system call: veth pairs carry the packet to the server's
/// socket within it, no scheduler comes in between.
fn flows(lab: &Lab, server: &UdpSocket, setup: &Setup, times: &mut Times) {
    let send = |socket: &UdpSocket| {
        let start = Instant::now();
        socket.send(b"x").expect("a packet");
        start.elapsed()
    };
    let client = |port| {
        let socket = UdpSocket::bind((setup.from, port)).expect("a port");
        socket.connect(setup.to).expect("a destination");
        socket
    };
    lab.within(Place::Client, || {
        let mut arrived = 0;
        for i in 0..FLOWS {
            times.first.add(send(&client(20_000 + i)));
            arrived += if i % 50 == 49 { received(server).0 } else { 0 };
        }
        let socket = client(19_999);
        let mut next = |samples: &mut Samples| {
            for i in 0..FLOWS {
                samples.add(send(&socket));
                arrived += if i % 50 == 49 { received(server).0 } else { 0 };
            }
        };
        next(&mut times.unanswered);
        send(&socket);
        let (one, peer) = received(server);
        assert_eq!(one, 1, "a packet was lost on the way to {}", setup.to);
        server
            .send_to(b"y", peer.expect("a sender"))
            .expect("an answer");
        let mut answer = [0; 8];
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .expect("a timeout");
        assert_eq!(socket.recv(&mut answer).expect("the answer"), 1);
        next(&mut times.established);
        arrived += received(server).0;
        assert_eq!(
            arrived,
            3 * usize::from(FLOWS),
            "packets were lost on the way to {}",
            setup.to
        );
    });
    forget(lab);
}

/// Connections one after the other, client and server on one core: the handshake is carried
/// out within `connect`. Both ends close by reset, so that no port waits.
fn connections(lab: &Lab, server: &TcpListener, setup: &Setup, times: &mut Times) {
    let SocketAddr::V4(to) = setup.to else {
        panic!("an IPv4 address was expected");
    };
    lab.within(Place::Client, || {
        let reset = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        let all = Instant::now();
        for i in 0..FLOWS {
            let client = socket(
                AddressFamily::Inet,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::Tcp,
            )
            .expect("a socket");
            let from = SockaddrIn::from(std::net::SocketAddrV4::new(setup.from, 20_000 + i));
            bind(client.as_raw_fd(), &from).expect("a port");
            setsockopt(&client, sockopt::Linger, &reset).expect("an option");
            let start = Instant::now();
            connect(client.as_raw_fd(), &SockaddrIn::from(to)).expect("a connection");
            times.connect.add(start.elapsed());
            let (accepted, _) = server.accept().expect("it has arrived");
            setsockopt(&accepted, sockopt::Linger, &reset).expect("an option");
        }
        times.connections.add(all.elapsed() / u32::from(FLOWS));
    });
    forget(lab);
}

fn forget(lab: &Lab) {
    lab.within(Place::Node, || run("conntrack", &["-F"]));
}

fn measured(
    lab: &Lab,
    servers: &(UdpSocket, TcpListener),
    setup: &Setup,
    turns: usize,
    times: &mut Times,
) {
    let cleared = || lab.within(Place::Node, || run("nft", &["flush", "ruleset"]));
    setup.load(lab, Protocol::Udp);
    for _ in 0..turns {
        flows(lab, &servers.0, setup, times);
    }
    cleared();
    if setup.tcp {
        setup.load(lab, Protocol::Tcp);
        for _ in 0..turns {
            connections(lab, &servers.1, setup, times);
        }
        cleared();
    }
}

/// All setups, in turns; those that take long to load once.
pub fn measure(report: &mut Report, sizes: &[usize], rounds: usize) {
    if Command::new("conntrack").arg("-V").output().is_err() {
        eprintln!("conntrack is not installed: no data plane figures");
        return;
    }
    let lab = Lab::new();
    let servers = lab.within(Place::Server, || {
        let udp = UdpSocket::bind((SERVER, 8080)).expect("the server's port");
        udp.set_nonblocking(true).expect("a mode");
        (
            udp,
            TcpListener::bind((SERVER, 8080)).expect("the server's port"),
        )
    });
    let setups = setups::all(sizes);
    let mut times: Vec<Times> = setups.iter().map(|_| Times::default()).collect();
    for round in 0..rounds {
        for (setup, times) in setups.iter().zip(&mut times) {
            if !setup.heavy {
                measured(&lab, &servers, setup, 1, times);
            } else if round == 0 {
                measured(&lab, &servers, setup, rounds, times);
            }
        }
    }
    for (setup, times) in setups.iter().zip(&times) {
        let name = &setup.name;
        report.time("first packet of a flow, one way", name, &times.first);
        report.time(
            "packet of an unanswered flow, one way",
            name,
            &times.unanswered,
        );
        report.time(
            "packet of an established flow, one way",
            name,
            &times.established,
        );
        report.time("TCP connect on one core", name, &times.connect);
        report.time("TCP connect, accept and close", name, &times.connections);
        if let Some(each) = times.connections.median() {
            report.value(
                "TCP connections per second on one core",
                name,
                (1e6 / each).round(),
            );
        }
    }
}
