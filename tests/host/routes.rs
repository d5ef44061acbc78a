//! Routes of ours beside routes of others.

use std::collections::BTreeSet;

use svcnat::host::check;
use svcnat::host::routes::{self, NextHop, RouteError, RouteReport};
use svcnat::plan::Route;

use crate::netns::Netns;

fn host() -> Netns {
    let netns = Netns::new();
    netns.sh("ip link add v0 type veth peer name v1; ip link set v1 up
         ip addr add 192.0.2.1/24 dev v0; ip addr add 2001:db8::1/64 dev v0 nodad
         ip link set v0 up");
    netns
}

fn route(destination: &str, via: &str, node: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        via: via.parse().unwrap(),
        node: node.into(),
    }
}

/// Two nodes, dual stack.
fn two_nodes() -> BTreeSet<Route> {
    BTreeSet::from([
        route("10.244.2.0/24", "192.0.2.2", "n2"),
        route("10.244.3.0/24", "192.0.2.3", "n3"),
        route("fd00:244:2::/64", "2001:db8::2", "n2"),
        route("fd00:244:3::/64", "2001:db8::3", "n3"),
    ])
}

fn sync(netns: &Netns, desired: &BTreeSet<Route>) -> RouteReport {
    netns.run(|| {
        let live = routes::list_ours().unwrap();
        routes::apply(&routes::plan(desired, &live)).unwrap()
    })
}

fn shown(netns: &Netns) -> String {
    netns.sh("ip route show proto 178; ip -6 route show proto 178")
}

#[test]
fn routes_are_added_replaced_and_deleted_and_a_second_time_nothing_is_done() {
    let netns = host();
    let mut desired = two_nodes();
    let report = sync(&netns, &desired);
    assert_eq!((report.added, report.errors.len()), (4, 0), "{report:?}");
    assert!(shown(&netns).contains("10.244.2.0/24 via 192.0.2.2 dev v0"));
    assert!(shown(&netns).contains("fd00:244:2::/64 via 2001:db8::2 dev v0"));
    assert_eq!(sync(&netns, &desired), RouteReport::default());

    // n2 moved to other addresses, n3 is gone.
    desired = BTreeSet::from([
        route("10.244.2.0/24", "192.0.2.9", "n2"),
        route("fd00:244:2::/64", "2001:db8::9", "n2"),
    ]);
    let report = sync(&netns, &desired);
    assert_eq!((report.replaced, report.deleted), (2, 2), "{report:?}");
    assert_eq!(shown(&netns).lines().count(), 2);
    assert!(shown(&netns).contains("via 192.0.2.9"));
    assert!(shown(&netns).contains("via 2001:db8::9"));
    assert_eq!(sync(&netns, &desired), RouteReport::default());

    assert_eq!(sync(&netns, &BTreeSet::new()).deleted, 2);
    assert_eq!(shown(&netns), "");
}

#[test]
fn a_changed_metric_or_a_removed_route_is_repaired() {
    let netns = host();
    sync(&netns, &two_nodes());
    netns.sh("ip route del 10.244.3.0/24
         ip route add 10.244.3.0/24 via 192.0.2.3 metric 7 proto 178
         ip -6 route del fd00:244:2::/64");
    let report = sync(&netns, &two_nodes());
    assert_eq!((report.added, report.deleted), (2, 1), "{report:?}");
    assert_eq!(sync(&netns, &two_nodes()), RouteReport::default());
}

#[test]
fn routes_of_others_are_left_alone_and_named() {
    let netns = host();
    netns.sh(
        "ip route add 10.244.2.0/24 via 192.0.2.77 proto bird metric 32
         ip route add 10.99.0.0/16 via 192.0.2.77
         ip route add fd00:244:2::/64 via 2001:db8::77 proto static",
    );
    let before = netns.sh("ip route show; ip -6 route show");
    let report = sync(&netns, &two_nodes());
    assert_eq!((report.added, report.errors.len()), (2, 2), "{report:?}");
    assert!(matches!(report.errors[0], RouteError::Foreign { .. }));
    let text = report.errors[0].to_string();
    for part in ["node n2", "10.244.2.0/24", "192.0.2.77", "bird"] {
        assert!(text.contains(part), "{text}");
    }
    sync(&netns, &BTreeSet::new());
    assert_eq!(netns.sh("ip route show; ip -6 route show"), before);
}

#[test]
fn a_next_hop_that_is_not_on_link_is_named_with_its_node_and_others_are_installed() {
    let netns = host();
    let desired = BTreeSet::from([
        route("10.244.2.0/24", "198.51.100.2", "n2"),
        route("10.244.3.0/24", "192.0.2.3", "n3"),
        route("10.244.4.0/24", "192.0.2.1", "n4"),
        route("fd00:244:2::/64", "2001:db8:9::2", "n2"),
    ]);
    let report = sync(&netns, &desired);
    assert_eq!((report.added, report.errors.len()), (1, 3), "{report:?}");
    for (error, node) in report.errors.iter().zip(["n2", "n4", "n2"]) {
        let text = error.to_string();
        assert!(text.contains(&format!("node {node}")), "{text}");
        assert_eq!(
            matches!(error, RouteError::NotOnLink { .. }),
            node == "n2",
            "{text}"
        );
    }
    let problems = netns.run(|| check::next_hops(desired, routes::next_hop).unwrap());
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn the_kernel_says_where_a_next_hop_is() {
    let netns = host();
    netns.sh("ip route add default via 192.0.2.254");
    let hop = |addr: &str| {
        let addr = addr.parse().unwrap();
        netns.run(|| routes::next_hop(addr).unwrap())
    };
    assert!(matches!(hop("192.0.2.2"), NextHop::OnLink(_)));
    assert_eq!(
        hop("198.51.100.2"),
        NextHop::Behind("192.0.2.254".parse().unwrap())
    );
    assert_eq!(hop("192.0.2.1"), NextHop::Local);
    assert_eq!(hop("2001:db8:9::1"), NextHop::Unreachable);
    assert!(matches!(hop("2001:db8::2"), NextHop::OnLink(_)));
}

#[test]
fn a_route_of_another_program_that_loses_packets_is_named_for_what_it_is() {
    let netns = host();
    netns.sh("ip route add blackhole 10.244.2.0/24; ip -6 route add unreachable fd00:244:2::/64");
    let report = sync(&netns, &two_nodes());
    assert_eq!((report.added, report.errors.len()), (2, 2), "{report:?}");
    let said: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
    let said = said.join("\n");
    for kind in ["blackhole 10.244.2.0/24", "unreachable fd00:244:2::/64"] {
        assert!(said.contains(kind), "{said}");
    }
}
