//! Services that the kernel refuses are set aside, and only they.

use super::*;

/// Five services of two endpoints each.
pub(super) fn five() -> Engine {
    let mut engine = Engine::new(config(), Vec::new());
    for n in 0..5 {
        let plain = Action::Service {
            n,
            cluster_ip: n,
            created: 0,
            external: 0,
            affinity: 0,
            node_port: 0,
            local: false,
            ranges: false,
            weights: false,
            other_proxy: false,
        };
        engine.apply(change(&plain).unwrap());
        engine.apply(change(&endpoints(n, 2)).unwrap());
    }
    engine
}

pub(super) fn endpoints(n: u8, count: u8) -> Action {
    Action::Slice {
        n,
        slice: 0,
        endpoints: (0..count).map(|i| (4 * n % 8 + i, true, false)).collect(),
    }
}

/// Whether the model kernel refuses an element of this service: it does not like its name.
fn refuses(delta: &Transaction, bad: &[&str]) -> bool {
    let operations = delta.tables.iter().flat_map(|table| &table.operations);
    let added = operations.filter_map(|operation| match operation {
        Operation::AddElements(_, elements) => Some(elements),
        _ => None,
    });
    let mut comments = added.flatten().filter_map(|(_, e)| e.comment.as_deref());
    comments.any(|comment| {
        let name = |n: &ObjectName| bad.contains(&&*n.to_string());
        quarantine::owner(comment, name).is_some()
    })
}

#[test]
fn a_service_the_kernel_refuses_is_found_and_costs_only_itself() {
    let bad = ["default/s1", "default/s3"];
    let mut engine = five();
    let nothing = LiveRuleset::default();
    let (delta, ..) = engine.rebuild(&nothing);
    assert!(refuses(&delta, &bad));
    while {
        let (delta, ..) = engine.rebuild(&nothing);
        refuses(&delta, &bad)
    } {
        let suspects: Vec<ObjectName> = engine.cluster().services.keys().cloned().collect();
        let found = quarantine::culprit(&suspects, |without| {
            Ok::<_, ()>(refuses(&engine.without(without, &nothing), &bad))
        });
        assert!(engine.set_aside(found.unwrap().unwrap(), "refused".into()));
    }
    let aside: Vec<String> = engine.aside().keys().map(ToString::to_string).collect();
    assert_eq!(aside, bad);
    assert_eq!(engine.cluster().services.len(), 5);
    let mut kernel = Kernel::default();
    kernel.carry_out(&engine.rebuild(&nothing).0).unwrap();

    // The rest goes on being updated.
    engine.apply(change(&endpoints(2, 4)).unwrap());
    let Next::Step(step) = engine.advance() else {
        panic!("a step was expected");
    };
    assert!(!refuses(&step.delta, &bad) && step.delta.counts().elements_added > 0);
    kernel.carry_out(&step.delta).unwrap();

    // One that changes is tried again: this time it is taken.
    engine.apply(change(&endpoints(1, 3)).unwrap());
    let Next::Step(step) = engine.advance() else {
        panic!("a step was expected");
    };
    kernel.carry_out(&step.delta).unwrap();
    assert_eq!(engine.aside().len(), 1);
    engine.try_again();
    assert!(engine.aside().is_empty() && engine.is_dirty());
    let Next::Step(step) = engine.advance() else {
        panic!("a step was expected");
    };
    kernel.carry_out(&step.delta).unwrap();
    let mut never_aside = five();
    never_aside.apply(change(&endpoints(2, 4)).unwrap());
    never_aside.apply(change(&endpoints(1, 3)).unwrap());
    never_aside.rebuild(&kernel.live(1));
    assert!(kernel.holds(never_aside.ruleset()));
}
