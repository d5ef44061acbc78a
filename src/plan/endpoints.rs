//! Which endpoints of a service port this node uses: readiness, termination, locality and
//! topology hints, as kube-proxy decides (KEP-1669, KEP-2433, KEP-3015).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addresses::is_usable;
use super::types::{Endpoint, View};
use crate::cluster::{EndpointSlice, Family, Name, Protocol, ServicePort, SliceEndpoint};

/// What is said of endpoints in the service range.
pub const SERVICE_ADDRESS: &str =
    "is a service address and cannot be reached: nothing is translated twice";

/// What is said of endpoints whose slices do not have a port.
#[must_use]
pub fn no_port(name: &str, protocol: Protocol) -> String {
    format!("no port {name:?} of protocol {protocol} in its EndpointSlice")
}

/// What node an endpoint is seen from.
#[derive(Clone, Copy, Debug)]
pub struct Viewpoint<'a> {
    /// Name of this node.
    pub node: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
}

impl Viewpoint<'_> {
    /// True if the endpoint runs on this node.
    #[must_use]
    pub fn is_local(&self, endpoint: &SliceEndpoint) -> bool {
        endpoint.node_name.as_deref() == Some(self.node)
    }
}

/// The endpoints of a service port, chosen for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// For policy Cluster, in order.
    pub cluster: Vec<Known<'a>>,
    /// For policy Local, in order.
    pub local: Vec<Known<'a>>,
    /// True if any node has a usable endpoint: decides refuse against drop.
    pub any: bool,
    /// True if there are endpoints, and none of them has the port.
    pub without_port: bool,
}

/// An endpoint and what its slice says of it.
pub type Known<'a> = (Endpoint, &'a SliceEndpoint);

/// All endpoints of one service port in order: slices add up, one entry per address and
/// port. Of several entries for one the best counts, in whatever slices they are.
fn merge<'a>(slices: &[&'a EndpointSlice], family: Family, port: &ServicePort) -> Vec<Known<'a>> {
    let mut all: Vec<Known<'a>> = Vec::new();
    for slice in slices.iter().filter(|slice| slice.family == family) {
        let ports = slice
            .ports
            .iter()
            .filter(|p| p.name == port.name && p.protocol == port.protocol);
        for slice_port in ports {
            let usable = slice.endpoints.iter();
            all.extend(
                usable
                    .filter(|e| is_usable(e.address, family))
                    .map(|endpoint| {
                        let key = Endpoint {
                            addr: endpoint.address,
                            port: slice_port.port,
                        };
                        (key, endpoint)
                    }),
            );
        }
    }
    all.sort_by_key(|(key, _)| *key);
    all.dedup_by(|later, known| {
        let same = later.0 == known.0;
        if same && merit(later.1) > merit(known.1) {
            known.1 = later.1;
        }
        same
    });
    all
}

/// What makes one entry for an address better than another: ready, living, serving; then
/// that it says more; then anything that does not depend on the order of slices.
fn merit(endpoint: &SliceEndpoint) -> impl Ord + '_ {
    let SliceEndpoint {
        address: _,
        ready,
        serving,
        terminating,
        node_name,
        zone,
        pod,
        hints,
    } = endpoint;
    (
        (*ready, !terminating, *serving),
        (node_name, zone, hints, pod),
    )
}

/// Chooses the endpoints of a service port. O(its own endpoints · log).
#[must_use]
pub fn select<'a>(
    slices: &[&'a EndpointSlice],
    family: Family,
    port: &ServicePort,
    from: Viewpoint<'_>,
) -> Selection<'a> {
    let all = merge(slices, family, port);
    let without_port = all.is_empty()
        && slices.iter().any(|slice| {
            slice.family == family && slice.endpoints.iter().any(|e| is_usable(e.address, family))
        });
    let pick = |wanted: &dyn Fn(&SliceEndpoint) -> bool| -> Vec<Known<'a>> {
        let found = all.iter().filter(|(_, e)| wanted(e));
        found.copied().collect()
    };
    let dying = |e: &SliceEndpoint| e.serving && e.terminating;
    let ready = pick(&|e| e.ready);
    let any = all.iter().any(|(_, e)| e.ready || dying(e));
    let cluster = if ready.is_empty() {
        pick(&dying)
    } else {
        by_topology(ready, from)
    };
    let mut local = pick(&|e| e.ready && from.is_local(e));
    if local.is_empty() {
        local = pick(&|e| dying(e) && from.is_local(e));
    }
    Selection {
        cluster,
        local,
        any,
        without_port,
    }
}

/// Why this node uses an endpoint, or does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// Connections may come to it.
    Used,
    /// Not ready, and not serving on its way out either.
    Unready,
    /// On its way out, while others are ready.
    Terminating,
    /// Policy Local, and it runs elsewhere.
    NotOnThisNode,
    /// Its hints name other nodes.
    OtherNode,
    /// Its hints name other zones.
    OtherZone,
    /// Its address is none that a connection can go to.
    NoAddress,
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Used => "used",
            Self::Unready => "it is not ready",
            Self::Terminating => "it is terminating, and others are ready",
            Self::NotOnThisNode => "policy Local, and it is not on this node",
            Self::OtherNode => "its hints are for other nodes",
            Self::OtherZone => "its hints are for other zones",
            Self::NoAddress => "no connection can go to its address",
        })
    }
}

/// Every endpoint of a service port under one policy, and where it stands.
#[must_use]
pub fn standings(
    slices: &[&EndpointSlice],
    family: Family,
    port: &ServicePort,
    from: Viewpoint<'_>,
    view: View,
) -> BTreeMap<Endpoint, Standing> {
    let selection = select(slices, family, port, from);
    let chosen = match view {
        View::Cluster => &selection.cluster,
        View::Local => &selection.local,
    };
    let by_node = chosen.iter().all(|(_, e)| named(e.for_nodes(), from.node));
    let standing = |key: &Endpoint, e: &SliceEndpoint| {
        let usable = e.ready || (e.serving && e.terminating);
        match view {
            _ if chosen.binary_search_by_key(key, |(k, _)| *k).is_ok() => Standing::Used,
            _ if !usable => Standing::Unready,
            View::Local if !from.is_local(e) => Standing::NotOnThisNode,
            _ if !e.ready => Standing::Terminating,
            _ if by_node => Standing::OtherNode,
            _ => Standing::OtherZone,
        }
    };
    let unusable = slices.iter().filter(|slice| slice.family == family);
    let unusable = unusable.flat_map(|slice| {
        let ports = slice.ports.iter();
        let ports = ports.filter(|p| p.name == port.name && p.protocol == port.protocol);
        ports.flat_map(|p| slice.endpoints.iter().map(|e| (e.address, p.port)))
    });
    let unusable = unusable
        .filter(|(addr, _)| !is_usable(*addr, family))
        .map(|(addr, port)| (Endpoint { addr, port }, Standing::NoAddress));
    merge(slices, family, port)
        .into_iter()
        .map(|(key, e)| (key, standing(&key, e)))
        .chain(unusable)
        .collect()
}

/// Addresses of the service's endpoints that no slice gives this port: its name and protocol
/// are in none of the slices they are in.
#[must_use]
pub fn without_port(
    slices: &[&EndpointSlice],
    family: Family,
    port: &ServicePort,
) -> BTreeSet<IpAddr> {
    let known: BTreeSet<IpAddr> = merge(slices, family, port)
        .into_iter()
        .map(|(endpoint, _)| endpoint.addr)
        .collect();
    slices
        .iter()
        .filter(|slice| slice.family == family)
        .flat_map(|slice| &slice.endpoints)
        .map(|endpoint| endpoint.address)
        .filter(|addr| is_usable(*addr, family) && !known.contains(addr))
        .collect()
}

fn named(names: &[Name], wanted: &str) -> bool {
    names.iter().any(|name| **name == *wanted)
}

/// Narrows ready endpoints by their hints: those for this node if every endpoint has a
/// node hint and one names it, else the same by zone, else all.
fn by_topology<'a>(ready: Vec<Known<'a>>, from: Viewpoint<'_>) -> Vec<Known<'a>> {
    let narrowed = |hinted: &dyn Fn(&SliceEndpoint) -> bool,
                    here: &dyn Fn(&SliceEndpoint) -> bool| {
        (ready.iter().all(|(_, e)| hinted(e)) && ready.iter().any(|(_, e)| here(e))).then(|| {
            let near = ready.iter().filter(|(_, e)| here(e));
            near.copied().collect::<Vec<_>>()
        })
    };
    let by_node = narrowed(&|e| !e.for_nodes().is_empty(), &|e| {
        named(e.for_nodes(), from.node)
    });
    let by_zone = || {
        let zone = from.zone?;
        narrowed(&|e| !e.for_zones().is_empty(), &|e| {
            named(e.for_zones(), zone)
        })
    };
    by_node.or_else(by_zone).unwrap_or(ready)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Hints, ObjectName, Origin, Protocol, SlicePort, TargetPort};
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    const HERE: Viewpoint<'_> = Viewpoint {
        node: "n1",
        zone: Some("z1"),
    };

    fn endpoint(n: u8, node: &str) -> SliceEndpoint {
        SliceEndpoint {
            address: IpAddr::from([10, 0, 0, n]),
            ready: true,
            serving: true,
            terminating: false,
            node_name: Some(node.into()),
            zone: None,
            pod: None,
            hints: None,
        }
    }

    fn dying(n: u8, node: &str) -> SliceEndpoint {
        SliceEndpoint {
            ready: false,
            terminating: true,
            ..endpoint(n, node)
        }
    }

    fn unready(n: u8, node: &str) -> SliceEndpoint {
        SliceEndpoint {
            ready: false,
            ..endpoint(n, node)
        }
    }

    fn zoned(n: u8, zone: &str) -> SliceEndpoint {
        SliceEndpoint {
            hints: Some(Box::new(Hints {
                for_zones: vec![zone.into()],
                for_nodes: Vec::new(),
            })),
            ..endpoint(n, "n2")
        }
    }

    fn zoned_for(n: u8, zone: &str, node: &str) -> SliceEndpoint {
        SliceEndpoint {
            hints: Some(Box::new(Hints {
                for_zones: vec![zone.into()],
                for_nodes: vec![node.into()],
            })),
            ..endpoint(n, "n2")
        }
    }

    /// Last octets of the cluster and the local choice.
    fn chosen(endpoints: Vec<SliceEndpoint>) -> (Vec<u8>, Vec<u8>, bool) {
        let slice = EndpointSlice {
            name: ObjectName::new("default", "s"),
            origin: Origin::default(),
            service: ObjectName::new("default", "s"),
            family: Family::Ip,
            endpoints,
            ports: vec![SlicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: NonZeroU16::MIN,
            }],
            trigger_time: None,
        };
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::MIN,
            target_port: TargetPort::Number(NonZeroU16::MIN),
            node_port: None,
        };
        let selection = select(&[&slice], Family::Ip, &port, HERE);
        let octets = |m: &[Known<'_>]| {
            m.iter()
                .map(|(key, _)| key)
                .map(|e| match e.addr {
                    IpAddr::V4(v4) => v4.octets()[3],
                    IpAddr::V6(_) => 0,
                })
                .collect::<Vec<u8>>()
        };
        (
            octets(&selection.cluster),
            octets(&selection.local),
            selection.any,
        )
    }

    #[test]
    fn ready_endpoints_of_all_nodes_serve_the_cluster_and_local_ones_this_node() {
        let all = vec![endpoint(1, "n1"), endpoint(2, "n2"), unready(3, "n1")];
        assert_eq!(chosen(all), (vec![1, 2], vec![1], true));
    }

    #[test]
    fn serving_terminating_endpoints_are_used_only_when_none_is_ready() {
        assert_eq!(chosen(vec![endpoint(1, "n2"), dying(2, "n2")]).0, [1]);
        assert_eq!(chosen(vec![unready(1, "n2"), dying(2, "n2")]).0, [2]);
    }

    #[test]
    fn the_local_fallback_does_not_wait_for_other_nodes_to_run_dry() {
        let all = vec![endpoint(1, "n2"), dying(2, "n1")];
        assert_eq!(chosen(all), (vec![1], vec![2], true));
    }

    #[test]
    fn every_endpoint_left_out_has_its_reason() {
        let slice_of = |endpoints| EndpointSlice {
            name: ObjectName::new("default", "s"),
            origin: Origin::default(),
            service: ObjectName::new("default", "s"),
            family: Family::Ip,
            endpoints,
            ports: vec![SlicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port: NonZeroU16::MIN,
            }],
            trigger_time: None,
        };
        let port = ServicePort {
            name: "".into(),
            protocol: Protocol::Tcp,
            port: NonZeroU16::MIN,
            target_port: TargetPort::Number(NonZeroU16::MIN),
            node_port: None,
        };
        let reasons = |endpoints: Vec<SliceEndpoint>, view| -> Vec<Standing> {
            let slice = slice_of(endpoints);
            standings(&[&slice], Family::Ip, &port, HERE, view)
                .into_values()
                .collect()
        };
        let mixed = || {
            vec![
                endpoint(1, "n1"),
                endpoint(2, "n2"),
                unready(3, "n1"),
                dying(4, "n1"),
            ]
        };
        assert_eq!(
            reasons(mixed(), View::Local),
            [
                Standing::Used,
                Standing::NotOnThisNode,
                Standing::Unready,
                Standing::Terminating
            ]
        );
        assert_eq!(
            reasons(mixed(), View::Cluster),
            [
                Standing::Used,
                Standing::Used,
                Standing::Unready,
                Standing::Terminating
            ]
        );
        assert_eq!(
            reasons(vec![zoned(1, "z1"), zoned(2, "z2")], View::Cluster),
            [Standing::Used, Standing::OtherZone]
        );
        let here = zoned_for(1, "z1", "n1");
        let there = zoned_for(2, "z1", "n2");
        assert_eq!(
            reasons(vec![here, there], View::Cluster),
            [Standing::Used, Standing::OtherNode]
        );
    }

    #[test]
    fn unready_endpoints_do_not_count_as_endpoints() {
        assert_eq!(chosen(vec![unready(1, "n1")]), (vec![], vec![], false));
    }

    #[test]
    fn zone_hints_narrow_if_every_ready_endpoint_has_one() {
        assert_eq!(chosen(vec![zoned(1, "z1"), zoned(2, "z2")]).0, [1]);
        assert_eq!(chosen(vec![zoned(1, "z1"), endpoint(2, "n2")]).0, [1, 2]);
        assert_eq!(chosen(vec![zoned(1, "z3"), zoned(2, "z2")]).0, [1, 2]);
    }

    #[test]
    fn unready_endpoints_neither_complete_nor_spoil_hints() {
        assert_eq!(chosen(vec![zoned(1, "z1"), unready(2, "n2")]).0, [1]);
    }

    #[test]
    fn node_hints_come_before_zone_hints() {
        let near = zoned_for(1, "z1", "n1");
        let far = zoned_for(2, "z1", "n2");
        assert_eq!(chosen(vec![near, far]).0, [1]);
    }

    #[test]
    fn of_two_entries_for_one_address_the_ready_one_counts_whatever_their_order() {
        let elsewhere = || SliceEndpoint {
            node_name: Some("n2".into()),
            serving: false,
            ..unready(1, "n2")
        };
        assert_eq!(chosen(vec![endpoint(1, "n1"), elsewhere()]).0, [1]);
        assert_eq!(chosen(vec![elsewhere(), endpoint(1, "n1")]).0, [1]);
        assert_eq!(chosen(vec![elsewhere(), endpoint(1, "n1")]).1, [1]);
    }

    #[test]
    fn addresses_that_no_connection_can_go_to_are_no_endpoints() {
        let at = |text: &str| SliceEndpoint {
            address: text.parse().expect("an address"),
            ..endpoint(1, "n1")
        };
        let odd = [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.0.5",
            "224.0.0.9",
            "255.255.255.255",
            "fd00::1",
        ];
        for text in odd {
            assert_eq!(
                chosen(vec![at(text), endpoint(2, "n2")]),
                (vec![2], vec![], true),
                "{text}"
            );
        }
    }

    mod order {
        use super::*;
        use proptest::prelude::*;

        fn entry() -> impl Strategy<Value = (usize, SliceEndpoint)> {
            let flags = any::<[bool; 3]>();
            (0..4_usize, 1..5_u8, flags, 0..3_u8, 0..4_u8).prop_map(
                |(slice, n, [ready, serving, terminating], node, zone)| {
                    let named = |kind: &str, n: u8| (n > 0).then(|| format!("{kind}{n}").into());
                    let made = SliceEndpoint {
                        ready,
                        serving,
                        terminating,
                        node_name: named("n", node),
                        zone: named("z", zone),
                        hints: (zone == 1).then(|| {
                            Box::new(Hints {
                                for_zones: vec!["z1".into()],
                                for_nodes: Vec::new(),
                            })
                        }),
                        ..endpoint(n, "n1")
                    };
                    (slice, made)
                },
            )
        }

        proptest! {
            #[test]
            fn of_slices_and_of_their_entries_changes_nothing(
                entries in prop::collection::vec(entry(), 0..12),
                turn in 0..12_usize,
            ) {
                let port = ServicePort {
                    name: "".into(),
                    protocol: Protocol::Tcp,
                    port: NonZeroU16::MIN,
                    target_port: TargetPort::Number(NonZeroU16::MIN),
                    node_port: None,
                };
                let slices = |entries: &[(usize, SliceEndpoint)]| -> Vec<EndpointSlice> {
                    (0..4)
                        .map(|n| EndpointSlice {
                            name: ObjectName::new("default", format!("s{n}")),
                            origin: Origin::default(),
                            service: ObjectName::new("default", "s"),
                            family: Family::Ip,
                            endpoints: entries
                                .iter()
                                .filter(|(slice, _)| *slice == n)
                                .map(|(_, e)| e.clone())
                                .collect(),
                            ports: vec![SlicePort {
                                name: "".into(),
                                protocol: Protocol::Tcp,
                                port: NonZeroU16::MIN,
                            }],
                            trigger_time: None,
                        })
                        .collect()
                };
                let mut turned: Vec<_> = entries.iter().rev().cloned().collect();
                let turn = turn.min(turned.len());
                turned.rotate_left(turn);
                for (slice, _) in &mut turned {
                    *slice = 3 - *slice;
                }
                let (one, other) = (slices(&entries), slices(&turned));
                let one: Vec<&EndpointSlice> = one.iter().collect();
                let other: Vec<&EndpointSlice> = other.iter().collect();
                let one = select(&one, Family::Ip, &port, HERE);
                prop_assert_eq!(one, select(&other, Family::Ip, &port, HERE));
            }
        }
    }

    #[test]
    fn of_two_entries_for_one_address_the_living_one_counts() {
        assert_eq!(chosen(vec![endpoint(1, "n1"), dying(1, "n1")]).0, [1]);
        assert_eq!(chosen(vec![dying(1, "n1"), endpoint(1, "n1")]).0, [1]);
    }
}
