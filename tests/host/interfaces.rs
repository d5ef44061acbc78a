//! Interfaces, addresses and sysctls of a namespace.

use ipnet::IpNet;
use svcnat::cluster::Family;
use svcnat::host::check;
use svcnat::host::interfaces::{self, Interface, Kind};
use svcnat::host::sysctl::{self, Sysctls};

use crate::netns::Netns;

fn list(netns: &Netns) -> Vec<Interface> {
    netns.run(|| interfaces::list().unwrap())
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[test]
fn interfaces_are_listed_with_kind_master_and_addresses() {
    let netns = Netns::new();
    netns.sh(
        "ip link add br0 type bridge; ip addr add 10.244.0.1/24 dev br0; ip link set br0 up
         ip link add v0 type veth peer name v1; ip link set v0 master br0
         ip addr add 192.0.2.7/24 dev v1; ip addr add 192.0.2.8/24 dev v1
         ip addr add 2001:db8::7/64 dev v1 nodad; ip link set v1 up; ip link set v0 up
         ip link add ifb9 type ifb; ip link add \"$(printf 'odd\\377')\" type bridge
         ip route add default via 192.0.2.1",
    );
    let found = list(&netns);
    let by_name = |name: &str| found.iter().find(|found| found.name == name).unwrap();
    assert_eq!(by_name("lo").kind, Kind::Loopback);
    assert_eq!(by_name("ifb9").kind, Kind::Virtual);
    assert!(!by_name("ifb9").up);
    assert_eq!(by_name("odd\u{fffd}").kind, Kind::Bridge);
    let bridge = by_name("br0");
    assert_eq!(bridge.kind, Kind::Bridge);
    assert_eq!(by_name("v0").master, Some(bridge.index));
    let v1 = by_name("v1");
    assert_eq!(v1.kind, Kind::Veth);
    assert!(v1.up && v1.default_route.contains(&Family::Ip));
    assert_eq!(v1.addresses[0], net("192.0.2.7/24"));
    assert!(v1.addresses.contains(&net("2001:db8::7/64")));
    let place = |text: &str| v1.addresses.iter().position(|addr| *addr == net(text));
    assert!(
        place("2001:db8::7/64") < place("192.0.2.8/24"),
        "a secondary address comes late"
    );
    // br0 comes first by index, but the default route leaves by v1.
    let primary = interfaces::primary_addresses(&found);
    assert_eq!(primary[0].to_string(), "192.0.2.7");
    assert_eq!(primary[1].to_string(), "2001:db8::7");
}

#[test]
fn a_service_range_on_a_bridge_is_found() {
    let netns = Netns::new();
    netns.sh("ip link add br0 type bridge; ip addr add 10.96.0.1/24 dev br0");
    let problems = check::overlaps(&[net("10.96.0.0/12")], &list(&netns));
    assert_eq!(problems.len(), 1);
    assert!(problems[0].message.contains("br0"), "{}", problems[0]);
}

#[test]
fn sysctls_are_set_in_this_namespace_once_and_only_if_different() {
    let netns = Netns::new();
    let other = Netns::new();
    netns.sh("ip link add br0 type bridge; ip addr add 10.244.0.1/24 dev br0");
    let interfaces = list(&netns);
    let settings = sysctl::needed(&Family::ALL, &[net("10.244.0.0/24")], &interfaces);
    netns.run(|| {
        let sysctls = Sysctls::default();
        assert_eq!(check::sysctls(&sysctls.status(&settings).unwrap()).len(), 2);
        let changed = sysctls.apply(&settings).unwrap();
        let names: Vec<String> = changed.iter().map(|done| done.setting.name()).collect();
        // bridge-nf-call-iptables is 1 in a new namespace.
        assert_eq!(
            names,
            ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        );
        assert!(changed.iter().all(|done| done.old == "0"));
        assert!(sysctls.apply(&settings).unwrap().is_empty());
        assert!(check::sysctls(&sysctls.status(&settings).unwrap()).is_empty());
    });
    assert_eq!(other.sh("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
}

#[test]
fn this_process_can_tell_its_capability_and_listeners() {
    assert!(check::has_cap_net_admin(), "these tests run as root");
    let netns = Netns::new();
    assert!(
        netns
            .run(|| check::nftables_listeners().unwrap())
            .is_empty()
    );
}
