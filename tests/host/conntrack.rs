//! Stale flows: real UDP between namespaces, and entries made by hand for what is hard to
//! send.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use svcnat::cluster::{Family, Protocol};
use svcnat::host::conntrack::{Conntrack, Deleted, Flow, StaleFlow};

use crate::netns::Netns;

/// A client, and a node with two endpoints that answer with their own address.
struct Lab {
    client: Netns,
    node: Netns,
    endpoints: [UdpSocket; 2],
}

impl Lab {
    fn new() -> Self {
        let (client, node) = (Netns::new(), Netns::new());
        client.connect("10.0.0.1/24", &node, "10.0.0.2/24");
        client.sh("ip route add default via 10.0.0.2");
        node.sh(
            "ip addr add 10.1.0.5/32 dev lo; ip addr add 10.1.0.6/32 dev lo
             nft add table ip t
             nft 'add map ip t services { type ipv4_addr : ipv4_addr ; }'
             nft 'add chain ip t c { type nat hook prerouting priority dstnat ; }'
             nft add rule ip t c udp dport 53 dnat to ip daddr map @services : 5353
             nft 'add element ip t services { 10.96.0.10 : 10.1.0.5, 10.96.0.11 : 10.1.0.5 }'",
        );
        let bind = |addr: &str| {
            let socket = UdpSocket::bind((addr, 5353)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket
        };
        let endpoints = node.run(|| [bind("10.1.0.5"), bind("10.1.0.6")]);
        Self {
            client,
            node,
            endpoints,
        }
    }

    /// A client socket with its own port, for good.
    fn socket(&self) -> UdpSocket {
        self.client.run(|| UdpSocket::bind("10.0.0.1:0").unwrap())
    }

    /// Sends a packet and returns which endpoint got it.
    fn reached(&self, socket: &UdpSocket, service: &str) -> usize {
        socket.send_to(b"hello", (service, 53)).unwrap();
        for _ in 0..500 {
            for (number, endpoint) in self.endpoints.iter().enumerate() {
                endpoint.set_nonblocking(true).unwrap();
                if endpoint.recv(&mut [0; 16]).is_ok() {
                    return number;
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no endpoint got the packet");
    }

    fn delete(&self, conntrack: fn(Conntrack) -> Conntrack, stale: &[StaleFlow]) -> Deleted {
        self.node.run(|| {
            let mut conntrack = conntrack(Conntrack::open().unwrap());
            conntrack.delete(stale).unwrap()
        })
    }
}

fn stale(protocol: Protocol, dst: &str, reply_src: &str) -> StaleFlow {
    let original_dst: IpAddr = dst.parse().unwrap();
    StaleFlow {
        family: Family::of(&original_dst),
        protocol,
        original_dst: Some(original_dst),
        original_dport: 53,
        reply_src: reply_src.parse().ok(),
        reply_sport: Some(5353),
    }
}

/// A client that keeps its port is moved by the deletion, and only that one.
fn moves_the_client(conntrack: fn(Conntrack) -> Conntrack) -> Deleted {
    let lab = Lab::new();
    let (moved, other) = (lab.socket(), lab.socket());
    assert_eq!(lab.reached(&moved, "10.96.0.10"), 0);
    assert_eq!(lab.reached(&other, "10.96.0.11"), 0);
    lab.node.sh(
        "nft 'delete element ip t services { 10.96.0.10, 10.96.0.11 }'
         nft 'add element ip t services { 10.96.0.10 : 10.1.0.6, 10.96.0.11 : 10.1.0.6 }'",
    );
    assert_eq!(
        lab.reached(&moved, "10.96.0.10"),
        0,
        "the entry still decides"
    );
    let deleted = lab.delete(conntrack, &[stale(Protocol::Udp, "10.96.0.10", "10.1.0.5")]);
    assert_eq!(lab.reached(&moved, "10.96.0.10"), 1, "moved");
    assert_eq!(
        lab.reached(&other, "10.96.0.11"),
        0,
        "not meant, not touched"
    );
    let left = lab.node.sh("conntrack -L -p udp 2>/dev/null");
    assert_eq!(left.lines().count(), 2, "{left}");
    deleted
}

#[test]
fn a_filtered_deletion_moves_a_client_and_no_other() {
    let netns = Netns::new();
    let filters = netns.run(|| Conntrack::open().unwrap().probe_filter().unwrap());
    let deleted = moves_the_client(|conntrack| conntrack);
    assert_eq!(deleted.filtered + deleted.entries, 1);
    assert_eq!(deleted.filtered == 1, filters);
}

#[test]
fn a_deletion_by_dump_moves_a_client_and_no_other() {
    let deleted = moves_the_client(Conntrack::without_filter);
    assert_eq!(
        deleted,
        Deleted {
            filtered: 0,
            entries: 1
        }
    );
}

/// Adds an entry by hand: one without traffic.
fn insert(netns: &Netns, protocol: &str, dst: &str, dport: u16, endpoint: &str, sport: u16) {
    let client = if dst.contains(':') {
        "fd00::1"
    } else {
        "10.0.0.1"
    };
    let extra = match protocol {
        "udp" => "",
        _ => "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
    };
    netns.sh(&format!(
        "conntrack -I -p {protocol} -t 600 -s {client} -d {dst} --sport {sport} --dport {dport} \
         -r {endpoint} -q {client} --reply-port-src 5353 --reply-port-dst {sport} {extra} 2>&1"
    ));
}

fn dump(netns: &Netns, family: Family, protocol: Protocol) -> Vec<Flow> {
    let mut flows = netns.run(|| Conntrack::open().unwrap().dump(family, protocol).unwrap());
    flows.sort();
    flows
}

/// Flows that differ from the stale one in one thing each stay.
fn deletes_one_of_four(protocol: Protocol, services: [&str; 2], endpoints: [&str; 2]) {
    let netns = Netns::new();
    let name = protocol.nft_name();
    insert(&netns, name, services[0], 53, endpoints[0], 1000);
    insert(&netns, name, services[0], 54, endpoints[0], 1001);
    insert(&netns, name, services[0], 53, endpoints[1], 1002);
    insert(&netns, name, services[1], 53, endpoints[0], 1003);
    netns.run(|| {
        let stale = stale(protocol, services[0], endpoints[0]);
        Conntrack::open().unwrap().delete(&[stale]).unwrap()
    });
    let family = Family::of(&services[0].parse().unwrap());
    let left = dump(&netns, family, protocol);
    let mut ports: Vec<u16> = left.iter().map(|flow| flow.original.sport).collect();
    ports.sort_unstable();
    assert_eq!(ports, [1001, 1002, 1003], "{left:?}");
}

#[test]
fn ipv4_udp_flows_that_differ_in_anything_stay() {
    deletes_one_of_four(
        Protocol::Udp,
        ["10.96.0.10", "10.96.0.11"],
        ["10.1.0.5", "10.1.0.6"],
    );
}

/// The kernel's own filter is wrong here: see `kernel_filters_rightly`.
#[test]
fn ipv6_udp_flows_that_differ_in_anything_stay() {
    deletes_one_of_four(
        Protocol::Udp,
        ["fd96::10", "fd96::11"],
        ["fd01::5", "fd01::6"],
    );
}

/// And here.
#[test]
fn sctp_flows_that_differ_in_anything_stay() {
    deletes_one_of_four(
        Protocol::Sctp,
        ["10.96.0.10", "10.96.0.11"],
        ["10.1.0.5", "10.1.0.6"],
    );
}

#[test]
fn many_stale_flows_are_found_in_one_dump() {
    let netns = Netns::new();
    let services: Vec<String> = (1..=20).map(|last| format!("10.96.0.{last}")).collect();
    for (number, service) in (1000..).zip(&services) {
        insert(&netns, "udp", service, 53, "10.1.0.5", number);
    }
    insert(&netns, "udp", "10.96.0.1", 53, "10.1.0.6", 2000);
    let all: Vec<StaleFlow> = (services.iter())
        .map(|service| stale(Protocol::Udp, service, "10.1.0.5"))
        .collect();
    let deleted = netns.run(|| Conntrack::open().unwrap().delete(&all).unwrap());
    assert_eq!(
        deleted,
        Deleted {
            filtered: 0,
            entries: 20
        }
    );
    assert_eq!(dump(&netns, Family::Ip, Protocol::Udp).len(), 1);
}

#[test]
fn a_flow_is_deleted_once() {
    let netns = Netns::new();
    insert(&netns, "udp", "10.96.0.10", 53, "10.1.0.5", 1000);
    let flow = dump(&netns, Family::Ip, Protocol::Udp).remove(0);
    assert_eq!(flow.reply.src.to_string(), "10.1.0.5");
    assert_eq!(flow.original.dport, 53);
    let flow = [flow];
    let delete = || netns.run(|| Conntrack::open().unwrap().delete_flows(&flow).unwrap());
    assert_eq!([delete(), delete()], [1, 0]);
}

#[test]
fn the_probe_deletes_nothing() {
    let netns = Netns::new();
    insert(&netns, "udp", "10.96.0.10", 53, "10.1.0.5", 1000);
    insert(&netns, "udp", "fd96::10", 53, "fd01::5", 1001);
    netns.run(|| Conntrack::open().unwrap().probe_filter().unwrap());
    assert_eq!(dump(&netns, Family::Ip, Protocol::Udp).len(), 1);
    assert_eq!(dump(&netns, Family::Ip6, Protocol::Udp).len(), 1);
}
