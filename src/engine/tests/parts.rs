//! Rules on demand: nothing is there that nothing uses, and nothing is missing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::*;
use super::aside::{endpoints, five};
use super::wide::{act, wide_change, wide_engine};
use super::{Kernel, step};
use crate::compile::Parts;
use crate::fuzzing::target;
use crate::ruleset::{DataType, FieldValue, Protocol, Statement, Table};
use crate::transaction::Operation;
use crate::walk::{Packet, Trace, shares, walk};

/// Every set is looked into by a rule, every chain is reached from a hook, and neither is
/// empty.
pub(super) fn nothing_is_there_for_nobody(table: &Table) {
    let rules = || table.chains.iter().flat_map(|chain| &chain.rules);
    let statements = || rules().flat_map(|rule| &rule.statements);
    let used: BTreeSet<&str> = statements().filter_map(Statement::set).collect();
    let there: BTreeSet<&str> = table.sets.keys().map(String::as_str).collect();
    assert_eq!(used, there);
    for set in table.sets.values() {
        let filled_by_packets = matches!(set.kind, crate::ruleset::SetKind::Dynamic { .. });
        assert!(
            filled_by_packets || !set.elements.is_empty(),
            "{}",
            set.name
        );
    }
    let bases = table.chains.iter().filter(|chain| chain.base.is_some());
    let mut reached: BTreeSet<&str> = bases.map(|chain| chain.name.as_str()).collect();
    // A chain stands after all that it leads to.
    for chain in table.chains.iter().rev().filter(|c| !c.rules.is_empty()) {
        if reached.contains(chain.name.as_str()) {
            let statements = chain.rules.iter().flat_map(|rule| &rule.statements);
            reached.extend(statements.filter_map(target));
        }
    }
    let chains: BTreeSet<&str> = table.chains.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(reached, chains);
    assert!(table.chains.iter().all(|chain| !chain.rules.is_empty()));
}

/// The same table with the rules for everything that could be in use.
fn with_all_rules(engine: &Engine, family: Family) -> Table {
    let frame = &engine.families[usize::from(family == Family::Ip6)].frame;
    let timeouts = [2, 60, 3600, 10_800];
    let mut table = skeleton(frame, &Shape::of(&engine.config), &Parts::all(&timeouts));
    if let Some(installed) = engine.ruleset.tables.get(&family) {
        for (name, set) in &installed.sets {
            if let Some(full) = table.sets.get_mut(name) {
                full.elements.clone_from(&set.elements);
            }
        }
    }
    table
}

/// Addresses, protocols and ports of frontends, and of their neighbours.
fn destinations(table: &Table) -> BTreeSet<(IpAddr, Protocol, u16)> {
    let mut out = BTreeSet::new();
    let node: IpAddr = match table.family {
        Family::Ip => [192, 168, 50, 11].into(),
        Family::Ip6 => "fd00::11".parse().unwrap(),
    };
    let ips = [
        DataType::addr(table.family),
        DataType::InetProto,
        DataType::InetService,
    ];
    let keys = |name: &str| {
        let set = table.sets.get(name);
        set.into_iter().flat_map(|set| set.elements.keys())
    };
    for key in keys("service-ips") {
        if let Some(
            [
                FieldValue::Addr(addr),
                FieldValue::Proto(p),
                FieldValue::Port(port),
            ],
        ) = key.fields(&ips).as_deref()
        {
            let protocol = Protocol::from_number(*p).unwrap();
            out.insert((*addr, protocol, *port));
            out.insert((*addr, protocol, port + 1));
        }
    }
    for key in keys("service-nodeports").chain(keys("host-ports")) {
        if let Some([FieldValue::Proto(p), FieldValue::Port(port)]) =
            key.fields(&ips[1..]).as_deref()
        {
            out.insert((node, Protocol::from_number(*p).unwrap(), *port));
        }
    }
    out.insert((node, Protocol::Tcp, 22));
    out
}

fn differs(pruned: &Trace, full: &Trace) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    let (a, b) = (shares(pruned), shares(full));
    pruned.fate != full.fate
        || pruned.masqueraded != full.masqueraded
        || !a.keys().eq(b.keys())
        || !a.values().zip(b.values()).all(|(a, b)| close(*a, *b))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn packets_go_the_same_way_where_every_rule_is_there(
        acts in prop::collection::vec(act(), 1..40),
    ) {
        let mut engine = wide_engine(false);
        let mut kernel = Kernel::default();
        for act in &acts {
            if let Some(change) = wide_change(act) {
                engine.apply(change);
            }
        }
        step(&mut engine, &mut kernel);
        for family in Family::ALL {
            let full = with_all_rules(&engine, family);
            let none = Table::new(family);
            let pruned = engine.ruleset.tables.get(&family).unwrap_or(&none);
            let (pod, out, node) = match family {
                Family::Ip => ("172.17.0.9", "203.0.113.9", "192.168.50.11"),
                Family::Ip6 => ("fd00:17::9", "2001:db8::9", "fd00::11"),
            };
            let node: IpAddr = node.parse().unwrap();
            for (destination, protocol, port) in destinations(pruned) {
                for source in [pod, out].map(|ip| ip.parse().unwrap()).into_iter().chain([node]) {
                    let packet = Packet {
                        source,
                        destination,
                        protocol,
                        port,
                        iif: None,
                        from_node: source == node,
                    };
                    let is_local = |addr: IpAddr| addr == node;
                    let traces = [pruned, &full].map(|table| walk(table, &packet, &is_local));
                    prop_assert!(!differs(&traces[0], &traces[1]), "{packet:?}: {traces:#?}");
                }
            }
        }
    }
}

/// The kernel walks a map for every rule that is added and looks into it: a class that comes
/// into use may add one such rule, and one that goes none.
#[test]
fn the_first_and_last_of_a_class_add_no_rule_that_uses_a_map_but_their_own() {
    let mut engine = five();
    let mut kernel = Kernel::default();
    step(&mut engine, &mut kernel);
    let mut engine_to = |count: u8| {
        engine.apply(super::change(&endpoints(0, count)).unwrap());
        let Next::Step(step) = engine.advance() else {
            panic!("a step was expected");
        };
        let operations = step.delta.tables.iter().flat_map(|t| &t.operations);
        let added = operations.filter_map(|operation| match operation {
            Operation::AddRules(chain, rules) => Some((chain.clone(), rules)),
            _ => None,
        });
        added
            .filter(|(_, rules)| {
                let statements = rules.iter().flat_map(|rule| &rule.statements);
                statements.filter_map(Statement::set).next().is_some()
            })
            .map(|(chain, _)| chain)
            .collect::<Vec<_>>()
    };
    for (endpoints, chains) in [
        (3, &["balance-3"][..]),
        (2, &[]),
        (1, &[]),
        (40, &["balance-48", "balance-large-1"]),
        (2, &[]),
        (0, &[]),
    ] {
        let mut added = engine_to(endpoints);
        added.sort();
        assert_eq!(added, chains, "{endpoints} endpoints");
    }
}
