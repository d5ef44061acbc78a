//! What several Services cannot have together, told and shared out step by step.

use super::*;

/// A Service with one clusterIP and nothing else, and the address it wants besides.
fn plain(n: u8, cluster_ip: u8, external: u8) -> Change {
    let made = service(&Action::Service {
        n,
        cluster_ip,
        created: 0,
        external,
        affinity: 1,
        node_port: 1,
        local: false,
        ranges: false,
        weights: false,
        other_proxy: false,
    });
    made.expect("a Service")
}

#[test]
fn a_conflict_is_told_once_and_again_only_when_it_begins_again() {
    let mut engine = Engine::new(config(), Vec::new());
    engine.apply(plain(0, 0, 0));
    let told = |engine: &mut Engine| -> Vec<String> {
        let problems = match engine.advance() {
            Next::Step(step) => step.problems,
            Next::Replan => engine.replan().2,
            Next::Rebuild => engine.rebuild(&LiveRuleset::default()).2,
        };
        engine.told();
        problems.iter().map(ToString::to_string).collect()
    };
    assert_eq!(told(&mut engine), [""; 0]);
    engine.apply(plain(1, 1, 4));
    let found = told(&mut engine);
    assert_eq!(found.len(), 2, "{found:?}");
    let both = |text: &&String| text.contains("default/s0") && text.contains("default/s1");
    assert!(found.iter().all(|text| both(&text)), "{found:?}");
    assert_eq!(told(&mut engine), [""; 0]);
    engine.distrust();
    assert_eq!(told(&mut engine), [""; 0], "a rebuild is no news");
    engine.apply(Change::Service(ObjectName::new("default", "s0"), None));
    assert_eq!(told(&mut engine), [""; 0]);
    engine.apply(plain(0, 0, 0));
    assert_eq!(told(&mut engine).len(), 2);
}

#[test]
fn what_was_found_with_a_commit_that_failed_is_told_with_the_next() {
    let mut engine = Engine::new(config(), Vec::new());
    engine.apply(plain(0, 0, 0));
    engine.rebuild(&LiveRuleset::default());
    engine.told();
    engine.apply(plain(1, 1, 4));
    let Next::Step(step) = engine.advance() else {
        panic!("a step was expected");
    };
    assert_eq!(step.problems.len(), 2);
    engine.distrust();
    assert!(matches!(engine.advance(), Next::Rebuild));
    assert_eq!(engine.rebuild(&LiveRuleset::default()).2.len(), 2);
}

#[test]
fn weights_share_what_a_node_may_have_whatever_came_first() {
    let weighted = |n: u8| {
        let mut made = service(&Action::Service {
            n,
            cluster_ip: n,
            created: 0,
            external: 0,
            affinity: 0,
            node_port: 0,
            local: false,
            ranges: false,
            weights: true,
            other_proxy: false,
        })
        .expect("a Service");
        if let Change::Service(_, Some(service)) = &mut made {
            service.weights = [("pod/p1".to_owned(), 999)].into();
        }
        made
    };
    let slice = |n: u8| {
        change(&Action::Slice {
            n,
            slice: 0,
            endpoints: vec![(1, true, false), (2, true, false)],
        })
        .expect("a slice")
    };
    let mut engine = Engine::new(config(), Vec::new());
    let mut kernel = Kernel::default();
    for n in 0..5 {
        engine.apply(weighted(n));
        engine.apply(slice(n));
        step(&mut engine, &mut kernel);
        assert_eq!(engine.node.weighted_slots, if n < 3 { 16 } else { 8 });
    }
    for n in 1..5 {
        engine.apply(Change::Service(
            ObjectName::new("default", format!("s{n}")),
            None,
        ));
        step(&mut engine, &mut kernel);
    }
    assert_eq!(engine.node.weighted_slots, 16);
}
