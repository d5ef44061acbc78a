//! Rules by hand, and what becomes of a packet; `tests/netns/foreign.rs` sends real ones.

use super::*;
use crate::net::Protocol;
use std::net::IpAddr;

const ACCEPT: Expr = Expr::End(End::Accept);
const DROP: Expr = Expr::End(End::Drop);

fn packet() -> Packet {
    Packet {
        oif: Device::Known("eth0".into(), 2),
        ..Packet::first(
            IpAddr::from([172, 17, 0, 9]),
            (IpAddr::from([172, 17, 1, 2]), 80),
            Protocol::Tcp,
            Device::Known("docker0".into(), 3),
        )
    }
}

fn none_local(_: IpAddr) -> bool {
    false
}

fn base(drops: bool) -> Option<Base> {
    Some(Base {
        hook: Hook::Forward,
        priority: 0,
        drops,
        nat: false,
        devices: Vec::new(),
    })
}

fn rules(list: &[&[Expr]]) -> Vec<Rule> {
    let list = list.iter().zip(1..);
    list.map(|(expressions, handle)| Rule {
        handle,
        expressions: expressions.to_vec(),
    })
    .collect()
}

#[test]
fn a_bridges_chains_see_frames_at_its_ports_and_no_packet_elsewhere() {
    // What `ibrname "docker0" ether type ip drop` is.
    let mut name = b"docker0".to_vec();
    name.resize(16, 0);
    let ether_type = Property::Payload {
        base: 0,
        offset: 12,
    };
    let drop = [
        Expr::Load(Property::Meta(17), 16, 16),
        Expr::Cmp(16, Op::Eq, name),
        Expr::Load(ether_type, 16, 2),
        Expr::Cmp(16, Op::Eq, vec![0x08, 0x00]),
        DROP,
    ];
    let chain = Chain {
        base: base(false),
        rules: rules(&[&drop]),
        handle: 0,
    };
    let mut table = Table::default();
    table.chains.insert("f".into(), chain);
    let rules = Rules {
        tables: [((Family::Bridge, "t".into()), table)].into(),
        ..Rules::default()
    };
    let seen = |bridge: Option<&str>| {
        let mut packet = Packet {
            bridge: bridge.map(str::to_owned),
            ..packet()
        };
        let found = hook(&rules, Hook::Forward, Span::All, &mut packet, &none_local);
        found
            .into_iter()
            .map(|outcome| outcome.verdict)
            .collect::<Vec<_>>()
    };
    assert_eq!(seen(None), []);
    assert_eq!(seen(Some("docker0")), [Verdict::Drop]);
    assert_eq!(seen(Some("br1")), [Verdict::Pass]);
}

/// The verdict of a chain `f` at the hook forward, with other chains beside it.
fn verdict(drops: bool, of_f: &[&[Expr]], others: &[(&str, &[&[Expr]])]) -> Verdict {
    let mut table = Table::default();
    let base = Chain {
        base: base(drops),
        rules: rules(of_f),
        ..Chain::default()
    };
    table.chains.insert("f".into(), base);
    for (name, list) in others {
        let chain = Chain {
            rules: rules(list),
            ..Chain::default()
        };
        table.chains.insert((*name).into(), chain);
    }
    let set = Set {
        fields: vec![4],
        key_len: 4,
        other: None,
        elements: Some(vec![Element {
            key: vec![172, 17, 1, 0],
            last: Some(vec![172, 17, 1, 255]),
            value: Some(Value::End(End::Jump("sub".into()))),
        }]),
    };
    table.sets.insert("nets".into(), set.clone());
    let unread = Set {
        elements: None,
        ..set
    };
    table.sets.insert("large".into(), unread);
    let mut all = Rules::default();
    all.tables.insert((Family::Inet, "t".into()), table);
    let mut packet = packet();
    let mut found = hook(&all, Hook::Forward, Span::All, &mut packet, &none_local);
    assert_eq!(found.len(), 1);
    found.remove(0).verdict
}

fn daddr(op: Op, address: [u8; 4]) -> [Expr; 2] {
    let load = Expr::Load(
        Property::Payload {
            base: 1,
            offset: 16,
        },
        16,
        4,
    );
    [load, Expr::Cmp(16, op, address.to_vec())]
}

fn with<const N: usize>(conditions: [Expr; N], end: Expr) -> Vec<Expr> {
    let mut all = conditions.to_vec();
    all.push(end);
    all
}

fn rate() -> Expr {
    Expr::Condition("limit".into())
}

fn is_perhaps(verdict: &Verdict, of: &Verdict) -> bool {
    matches!(verdict, Verdict::Perhaps(found, _) if **found == *of)
}

#[test]
fn policy_and_rules_decide_in_their_order() {
    assert_eq!(verdict(true, &[], &[]), Verdict::Drop);
    assert_eq!(verdict(false, &[], &[]), Verdict::Pass);
    let to = with(daddr(Op::Eq, [172, 17, 1, 2]), ACCEPT);
    assert_eq!(verdict(true, &[&to, &[DROP]], &[]), Verdict::Pass);
    let elsewhere = with(daddr(Op::Neq, [172, 17, 1, 2]), ACCEPT);
    assert_eq!(verdict(false, &[&elsewhere, &[DROP]], &[]), Verdict::Drop);
    assert_eq!(verdict(false, &[&[Expr::Reject]], &[]), Verdict::Reject);
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let to = |end: End| vec![Expr::End(end)];
    let jump = to(End::Jump("sub".into()));
    let goto = to(End::Goto("sub".into()));
    assert_eq!(
        verdict(false, &[&jump, &[DROP]], &[("sub", &[])]),
        Verdict::Drop
    );
    assert_eq!(
        verdict(false, &[&goto, &[DROP]], &[("sub", &[])]),
        Verdict::Pass
    );
    let back = to(End::Return);
    let sub: &[&[Expr]] = &[&back, &[DROP]];
    assert_eq!(verdict(false, &[&jump], &[("sub", sub)]), Verdict::Pass);
    // Chains that lead to each other end the search.
    assert_eq!(
        verdict(false, &[&jump], &[("sub", &[&jump])]),
        Verdict::Pass
    );
}

#[test]
fn what_is_not_followed_is_neither_yes_nor_no() {
    let may_drop = [rate(), DROP];
    let may_accept = [rate(), ACCEPT];
    assert!(is_perhaps(
        &verdict(false, &[&may_drop], &[]),
        &Verdict::Drop
    ));
    assert!(is_perhaps(
        &verdict(false, &[&may_accept, &[DROP]], &[]),
        &Verdict::Drop
    ));
    assert!(is_perhaps(
        &verdict(true, &[&may_accept], &[]),
        &Verdict::Drop
    ));
    // Both ways lead to the same.
    assert_eq!(verdict(true, &[&may_drop], &[]), Verdict::Drop);
    assert_eq!(verdict(false, &[&may_accept], &[]), Verdict::Pass);
    assert_eq!(verdict(false, &[&may_drop, &[DROP]], &[]), Verdict::Drop);
    // It may be that the rest of a chain is not walked.
    let may_return = [rate(), Expr::End(End::Return)];
    let jump = [Expr::End(End::Jump("sub".into()))];
    let sub: &[&[Expr]] = &[&may_return, &[DROP]];
    assert!(is_perhaps(
        &verdict(false, &[&jump], &[("sub", sub)]),
        &Verdict::Drop
    ));
    let may_goto = [rate(), Expr::End(End::Goto("sub".into()))];
    assert!(is_perhaps(
        &verdict(false, &[&may_goto, &[DROP]], &[("sub", &[])]),
        &Verdict::Drop
    ));
    // A condition that is known to fail is not outweighed by one that is not.
    let elsewhere = daddr(Op::Eq, [10, 0, 0, 1]);
    let rule = [rate(), elsewhere[0].clone(), elsewhere[1].clone(), DROP];
    assert_eq!(verdict(false, &[&rule], &[]), Verdict::Pass);
}

#[test]
fn sets_and_verdict_maps_are_looked_up() {
    let load = Expr::Load(
        Property::Payload {
            base: 1,
            offset: 16,
        },
        16,
        4,
    );
    let lookup = |set: &str, inverted| Expr::Lookup {
        set: set.into(),
        key: 16,
        inverted,
        to: None,
    };
    let map = [load.clone(), lookup("nets", false)];
    let sub: &[&[Expr]] = &[&[DROP]];
    assert_eq!(verdict(false, &[&map], &[("sub", sub)]), Verdict::Drop);
    let outside = [load.clone(), lookup("nets", true), ACCEPT];
    assert_eq!(verdict(true, &[&outside], &[]), Verdict::Drop);
    let unread = [load, lookup("large", false), DROP];
    assert!(is_perhaps(&verdict(false, &[&unread], &[]), &Verdict::Drop));
    // Of an address that is not known a set may hold it or not.
    let port = Expr::Load(Property::Payload { base: 2, offset: 0 }, 16, 2);
    let from = [port, Expr::Cmp(16, Op::Eq, vec![0, 53]), DROP];
    assert!(is_perhaps(&verdict(false, &[&from], &[]), &Verdict::Drop));
}

#[test]
fn a_mark_that_a_rule_sets_is_seen_by_the_next() {
    let mask = vec![0xff; 4];
    let set = [
        Expr::Load(Property::Meta(3), 16, 4),
        Expr::Bitwise {
            source: 16,
            destination: 16,
            mask,
            xor: 0x4000_u32.to_ne_bytes().to_vec(),
        },
        Expr::SetMark(16),
    ];
    let has = [
        Expr::Load(Property::Meta(3), 16, 4),
        Expr::Cmp(16, Op::Eq, 0x4000_u32.to_ne_bytes().to_vec()),
        DROP,
    ];
    assert_eq!(verdict(false, &[&has], &[]), Verdict::Pass);
    assert_eq!(verdict(false, &[&set, &has], &[]), Verdict::Drop);
    let mut perhaps = set.to_vec();
    perhaps.insert(0, rate());
    assert!(is_perhaps(
        &verdict(false, &[&perhaps, &has], &[]),
        &Verdict::Drop
    ));
}

#[test]
fn matches_of_iptables_are_read_as_the_kernel_lays_them_out() {
    let xt = |name: &str, revision, info: Vec<u8>| Expr::XtMatch(name.into(), revision, info);
    let ports = |first: u16, last: u16, inverted: u8| {
        let mut info = Vec::new();
        for port in [0, u16::MAX, first, last] {
            info.extend_from_slice(&port.to_ne_bytes());
        }
        info.extend_from_slice(&[0, 0, 0, inverted]);
        xt("tcp", 0, info)
    };
    let drops = |expr: Expr| verdict(false, &[&[expr, DROP]], &[]);
    assert_eq!(drops(ports(80, 80, 0)), Verdict::Drop);
    assert_eq!(drops(ports(81, 90, 0)), Verdict::Pass);
    assert_eq!(drops(ports(81, 90, 2)), Verdict::Drop);
    let state = |mask: u16| {
        let mut info = vec![0; 160];
        info[146..148].copy_from_slice(&1_u16.to_ne_bytes());
        info[150..152].copy_from_slice(&mask.to_ne_bytes());
        xt("conntrack", 3, info)
    };
    assert_eq!(drops(state(8)), Verdict::Drop, "NEW");
    assert_eq!(drops(state(2 | 4)), Verdict::Pass, "ESTABLISHED, RELATED");
    let local = |mask: u16| {
        let mut info = vec![0; 8];
        info[2..4].copy_from_slice(&mask.to_ne_bytes());
        xt("addrtype", 1, info)
    };
    assert_eq!(drops(local(1 << 2)), Verdict::Pass, "LOCAL");
    assert_eq!(drops(local(1 << 1)), Verdict::Drop, "UNICAST");
    assert!(is_perhaps(
        &drops(xt("recent", 1, vec![0; 64])),
        &Verdict::Drop
    ));
}

#[test]
fn of_several_ends_what_they_have_in_common_is_certain() {
    let vmap = |numbers: u32, ends: &[&str]| {
        let mut set = Set {
            fields: vec![4],
            key_len: 4,
            other: None,
            elements: Some(Vec::new()),
        };
        for (number, end) in (0_u32..).zip(ends) {
            set.elements.get_or_insert_default().push(Element {
                key: number.to_ne_bytes().to_vec(),
                last: None,
                value: Some(Value::End(End::Goto((*end).into()))),
            });
        }
        let mut table = Table::default();
        table.sets.insert("map".into(), set);
        let to = |octet: u8| {
            let constant = Expr::Constant(16, vec![172, 17, 0, octet]);
            let port = Expr::Constant(32, vec![0, 80]);
            let dnat = Expr::Dnat {
                address: Some(16),
                port: Some(32),
            };
            vec![constant, port, dnat]
        };
        let lookup = Expr::Lookup {
            set: "map".into(),
            key: 16,
            inverted: false,
            to: None,
        };
        let number = Expr::Number(16, numbers, 0);
        let lists: [(&str, Vec<Expr>); 4] = [
            ("f", vec![number, lookup]),
            ("a", to(2)),
            ("b", to(3)),
            ("drop", vec![DROP]),
        ];
        for (name, list) in lists {
            let chain = Chain {
                base: base(false).filter(|_| name == "f"),
                rules: rules(&[&list]),
                ..Chain::default()
            };
            table.chains.insert(name.into(), chain);
        }
        let mut all = Rules::default();
        all.tables.insert((Family::Inet, "t".into()), table);
        hook(&all, Hook::Forward, Span::All, &mut packet(), &none_local)
            .remove(0)
            .verdict
    };
    let a = Some(IpAddr::from([172, 17, 0, 2]));
    assert_eq!(vmap(1, &["a"]), Verdict::Dnat(a, Some(80)));
    assert_eq!(vmap(2, &["a", "b"]), Verdict::Dnat(None, Some(80)));
    // One of three numbers has no element.
    let perhaps = vmap(3, &["a", "b"]);
    assert!(matches!(&perhaps, Verdict::Perhaps(inner, _) if matches!(**inner, Verdict::Dnat(..))));
    assert!(matches!(vmap(2, &["a", "drop"]), Verdict::Perhaps(..)));
    assert_eq!(vmap(2, &["drop", "drop"]), Verdict::Drop);
}

#[test]
fn marks_of_connections_are_followed_where_it_is_certain_who_sets_them() {
    let seven = || 7_u32.to_ne_bytes().to_vec();
    let set = vec![Expr::Constant(16, seven()), Expr::SetCtMark(16)];
    let has = [
        Expr::Load(Property::Ct(3), 16, 4),
        Expr::Cmp(16, Op::Eq, seven()),
        DROP,
    ];
    assert_eq!(verdict(false, &[&has], &[]), Verdict::Pass);
    assert_eq!(verdict(false, &[&set, &has], &[]), Verdict::Drop);
    // In a chain that the packet perhaps comes to.
    let jump = [rate(), Expr::End(End::Jump("sub".into()))];
    let found = verdict(false, &[&jump, &has], &[("sub", &[&set])]);
    assert!(is_perhaps(&found, &Verdict::Drop));
    // CONNMARK --save-mark and --restore-mark.
    let connmark = |mode: u8| {
        let mut info = vec![0; 4];
        info.extend([0xff; 8]);
        info.extend([mode, 0, 0, 0]);
        [Expr::XtTarget("CONNMARK".into(), 1, info)]
    };
    let mark = |mark: u32| {
        let info = [mark.to_ne_bytes(), [0xff; 4]].concat();
        [Expr::XtTarget("MARK".into(), 2, info)]
    };
    let saved: &[&[Expr]] = &[&mark(7), &connmark(1), &has];
    assert_eq!(verdict(false, saved, &[]), Verdict::Drop);
    let marked = [
        Expr::Load(Property::Meta(3), 16, 4),
        Expr::Cmp(16, Op::Eq, seven()),
        DROP,
    ];
    let restored: &[&[Expr]] = &[&set, &mark(1), &connmark(2), &marked];
    assert_eq!(verdict(false, restored, &[]), Verdict::Drop);
}

#[test]
fn a_target_that_is_not_known_is_not_told() {
    let target = |name: &str| vec![Expr::XtTarget(name.into(), 0, vec![0; 64])];
    assert_eq!(verdict(false, &[&target("LOG")], &[]), Verdict::Pass);
    let unknown = verdict(false, &[&target("COAL")], &[]);
    assert!(is_perhaps(&unknown, &Verdict::Drop));
    assert_eq!(
        verdict(false, &[&target("COAL"), &[DROP]], &[]),
        Verdict::Drop
    );
}

#[test]
fn of_one_priority_the_chain_that_came_last_is_asked_first() {
    let mut all = Rules::default();
    for (name, handle) in [("old", 1), ("new", 3)] {
        let mut table = Table {
            handle: Some(handle),
            ..Table::default()
        };
        let chain = Chain {
            base: base(false),
            rules: rules(&[&[ACCEPT]]),
            ..Chain::default()
        };
        table.chains.insert("f".into(), chain);
        all.tables.insert((Family::Inet, name.into()), table);
    }
    let asked = |all: &Rules, span| {
        let found = hook(all, Hook::Forward, span, &mut packet(), &none_local);
        let tables = found.into_iter().map(|outcome| outcome.place.table);
        tables.collect::<Vec<_>>()
    };
    assert_eq!(asked(&all, Span::All), ["new", "old"]);
    // What is not installed yet will come last.
    assert_eq!(asked(&all, Span::Before(0)), [""; 0]);
    all.ours.insert(Family::Ip, 2);
    assert_eq!(asked(&all, Span::Before(0)), ["new"]);
    assert_eq!(asked(&all, Span::After(0)), ["old"]);
    // Of the legacy iptables it cannot be told.
    let mut table = all.tables.remove(&(Family::Inet, "old".into())).unwrap();
    table.handle = None;
    table.chains.get_mut("f").unwrap().rules = rules(&[&[DROP]]);
    all.legacy.insert((Family::Ip, "filter".into()), table);
    let found = hook(
        &all,
        Hook::Forward,
        Span::Before(0),
        &mut packet(),
        &none_local,
    );
    assert!(is_perhaps(&found[1].verdict, &Verdict::Drop));
    assert_eq!(asked(&all, Span::After(0)), [""; 0]);
}
