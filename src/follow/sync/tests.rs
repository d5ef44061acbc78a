//! The daemon's side of a host in memory: increments that do not fit, others' changes found
//! and put right, Services the kernel refuses, in time that is made up.

use nix::errno::Errno;

use super::*;
use crate::apply::tests::fake::Fake;
use crate::apply::tests::{
    clients, engine, flow, objects, refuse, remember_client, service, slice, three,
};
use crate::cluster::Change;
use crate::compile::SetId;
use crate::fuzzing::Kernel;
use crate::ruleset::{Family, Set};

const STICKY: &str = r#","sessionAffinity":"ClientIP""#;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Three Services, in force.
fn following() -> (KernelSync<Fake>, Engine) {
    follow(Fake::new(), engine(&three()))
}

fn follow(host: Fake, mut engine: Engine) -> (KernelSync<Fake>, Engine) {
    let mut sync = KernelSync::of(host, Manner::default()).unwrap();
    sync.sync(&mut engine).unwrap();
    (sync, engine)
}

/// The endpoints of a Service are others from now on.
fn change(engine: &mut Engine, n: u8, endpoints: &[u8]) {
    for slice in objects(&[slice(n, endpoints)])
        .slices
        .into_values()
        .flatten()
    {
        engine.apply(Change::Slice(slice.name.clone(), Some(Box::new(slice))));
    }
}

fn is_in_force(sync: &mut KernelSync<Fake>, engine: &Engine) -> bool {
    sync.host().kernel.holds(engine.ruleset())
}

/// A set of the table that others meddle with.
fn set(kernel: &mut Kernel, id: SetId) -> &mut Set {
    let table = kernel.tables.get_mut(&Family::Ip).unwrap();
    table.sets.get_mut(id.fixed_name()).unwrap()
}

#[test]
fn an_increment_is_not_held_up_by_a_neighbour_and_reads_nothing() {
    let (mut sync, mut engine) = following();
    sync.host().busy_neighbour = true;
    let reads = sync.host().reads;
    change(&mut engine, 1, &[10, 12]);
    let synced = sync.sync(&mut engine).unwrap();
    let counts = (synced.counts.elements_added, synced.counts.elements_deleted);
    assert_eq!((synced.full, counts), (false, (2, 2)));
    assert!(is_in_force(&mut sync, &engine) && sync.host().reads == reads);
}

#[test]
fn what_concerns_every_service_is_planned_anew_from_memory() {
    let (mut sync, mut engine) = following();
    sync.host().busy_neighbour = true;
    let reads = sync.host().reads;
    let readdress = |engine: &mut Engine, n: u8| {
        engine.reconfigure(crate::config::Config {
            node_ips: vec![std::net::IpAddr::from([192, 168, 50, n])],
            ..engine.config().clone()
        });
    };
    for n in [21, 22] {
        readdress(&mut engine, n);
        change(&mut engine, 1, &[n]);
        let synced = sync.sync(&mut engine).unwrap();
        assert!(synced.full && !synced.compared && synced.committed.is_some());
        assert!(is_in_force(&mut sync, &engine) && !engine.is_dirty());
    }
    engine.reconfigure(crate::config::Config {
        masquerade_all: true,
        ..engine.config().clone()
    });
    let synced = sync.sync(&mut engine).unwrap();
    assert!(synced.counts.rules_added > 0 && is_in_force(&mut sync, &engine));
    assert_eq!(sync.host().reads, reads);

    // Somebody meddled: the kernel is read after all.
    sync.host().another(|kernel| {
        set(kernel, SetId::Endpoints).elements.clear();
    });
    readdress(&mut engine, 23);
    change(&mut engine, 1, &[12]);
    let synced = sync.sync(&mut engine).unwrap();
    assert!(synced.compared && is_in_force(&mut sync, &engine));
}

#[test]
fn an_increment_that_does_not_fit_what_others_left_starts_over_from_what_is_there() {
    let (mut sync, mut engine) = following();
    sync.host().another(|kernel| {
        set(kernel, SetId::Endpoints).elements.clear();
    });
    change(&mut engine, 1, &[12]);
    let synced = sync.sync(&mut engine).unwrap();
    assert!(synced.full && is_in_force(&mut sync, &engine));
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Quiet)));
}

#[test]
fn clients_and_flows_of_an_endpoint_go_with_it_and_are_owed_if_they_cannot() {
    let objects = [service(1, STICKY), slice(1, &[10]), service(2, "")];
    let (mut sync, mut engine) = follow(Fake::new(), engine(&objects));
    for broken in [false, true] {
        let endpoint = if broken { 11 } else { 10 };
        remember_client(&mut sync.host().kernel);
        sync.host().flows.insert(flow(1, endpoint));
        sync.host().broken.conntrack = broken;
        change(&mut engine, 1, &[endpoint + 1]);
        let synced = sync.sync(&mut engine).unwrap();
        assert!(!synced.full && is_in_force(&mut sync, &engine));
        assert_eq!(
            (synced.clients.removed, clients(&sync.host().kernel)),
            (1, 0)
        );
        assert_eq!(synced.flows.removed, usize::from(!broken));
        assert_eq!(sync.installer.is_tidying_owed(), broken);
        let looked = sync.look(&engine);
        assert!(matches!(looked, Ok(DriftCheck::Quiet)), "{looked:?}");
    }
    // What is owed is no reason to doubt the kernel.
    assert!(!engine.is_dirty());
    let still = sync.tidy(&engine);
    assert!(still.flows.owed.is_some_and(|owed| owed.is_err()));
    sync.host().broken.conntrack = false;
    assert_eq!(sync.tidy(&engine).flows.removed, 1);
    assert!(!sync.installer.is_tidying_owed());
}

#[test]
fn a_kernel_that_takes_nothing_gets_everything_with_the_next_sync() {
    let (mut sync, mut engine) = following();
    change(&mut engine, 1, &[12]);
    sync.host().broken.dies_after = Some(0);
    sync.sync(&mut engine).unwrap_err();
    assert!(engine.is_dirty(), "it is tried again");
    change(&mut engine, 2, &[22]);
    sync.host().broken.reading = true;
    sync.sync(&mut engine).unwrap_err();
    sync.host().broken.dies_after = None;
    sync.host().broken.reading = false;
    let synced = sync.sync(&mut engine).unwrap();
    assert!(synced.full && is_in_force(&mut sync, &engine) && !engine.is_dirty());
}

#[test]
fn what_others_commit_to_their_own_tables_is_no_drift() {
    let (mut sync, engine) = following();
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Quiet)));
    sync.host().another(|kernel| {
        kernel.others.insert((Family::Ip, "theirs".into()));
    });
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Others)));
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Quiet)));
}

#[test]
fn rules_that_others_change_are_found_without_reading_elements_and_put_right_alone() {
    let (mut sync, engine) = following();
    let reads = sync.host().reads;
    let flush = |kernel: &mut Kernel| {
        let chains = &mut kernel.tables.get_mut(&Family::Ip).unwrap().chains;
        chains.iter_mut().for_each(|chain| chain.rules.clear());
    };
    sync.host().another(flush);
    let Ok(DriftCheck::Rules(delta)) = sync.look(&engine) else {
        panic!("rules are gone");
    };
    assert_eq!(sync.who_wrote().unwrap(), "nft (pid 4711)");
    assert_eq!(delta.counts().elements_added, 0);
    let synced = sync.repair_rules(&delta).unwrap();
    assert!(synced.counts.rules_added > 0 && is_in_force(&mut sync, &engine));
    assert_eq!(sync.host().reads, reads);

    // Left as they are, they are found once, until somebody writes again.
    sync.host().another(flush);
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Rules(_))));
    // An elements' verification is owed by now, and is what finds it again.
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Rules(_))));

    // Whoever comes first has to be looked at first.
    let Ok(DriftCheck::Rules(delta)) = sync.verify(&engine) else {
        panic!("rules are gone");
    };
    sync.host().another(|_| {});
    assert!(sync.repair_rules(&delta).is_err());
}

#[test]
fn elements_that_others_change_are_found_and_put_right() {
    let (mut sync, mut engine) = following();
    let changes: [fn(&mut Kernel); 3] = [
        |kernel| drop(set(kernel, SetId::Endpoints).elements.pop_first()),
        |kernel| kernel.tables.clear(),
        |kernel| {
            let elements = &mut set(kernel, SetId::ServiceIps).elements;
            let (key, mut element) = elements.pop_first().unwrap();
            element.comment = Some("default/theirs".into());
            elements.insert(key, element);
        },
    ];
    for (n, deed) in changes.into_iter().enumerate() {
        sync.host().another(deed);
        let found = sync.look(&engine).unwrap();
        let DriftCheck::Drift(delta) = found else {
            panic!("change {n} is not seen: {found:?}");
        };
        assert!(!delta.is_empty());
        engine.distrust();
        assert!(sync.sync(&mut engine).unwrap().full && is_in_force(&mut sync, &engine));
        assert!(matches!(sync.look(&engine), Ok(DriftCheck::Quiet)));
    }
}

#[test]
fn reading_back_takes_a_small_share_of_the_time_however_often_others_commit() {
    let (mut sync, engine) = following();
    sync.host().read_takes = seconds(3);
    let start = sync.host().reads;
    for _ in 0..600 {
        sync.host().now += seconds(1);
        sync.host().another(|_| {});
        assert!(matches!(sync.look(&engine), Ok(DriftCheck::Others)));
    }
    let reads = sync.host().reads - start;
    assert!((5..=12).contains(&reads), "{reads} in ten minutes");
    // The last change is looked at even when it was the last.
    sync.host().now += seconds(60);
    let before = sync.host().reads;
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Others)));
    assert_eq!(sync.host().reads, before + 1);
    assert!(matches!(sync.look(&engine), Ok(DriftCheck::Quiet)));
}

#[test]
fn an_increment_that_is_refused_costs_its_service_only_until_it_is_tried_again() {
    let (mut sync, mut engine) = following();
    let names = |engine: &Engine| -> Vec<String> {
        engine.aside().keys().map(ToString::to_string).collect()
    };
    refuse(sync.host(), &["s2"], Errno::ENOSPC);
    change(&mut engine, 2, &[22, 23]);
    assert!(sync.sync(&mut engine).unwrap().full);
    assert_eq!(names(&engine), ["default/s2"]);
    assert!(is_in_force(&mut sync, &engine), "the others are");

    // The rest goes on by increments.
    change(&mut engine, 1, &[12]);
    assert!(!sync.sync(&mut engine).unwrap().full);
    // Changed, it is tried again, and refused again.
    change(&mut engine, 2, &[24]);
    assert!(sync.sync(&mut engine).unwrap().full);
    assert_eq!(names(&engine), ["default/s2"]);

    let now = sync.host().now;
    assert!(!sync.is_aside_due(now + seconds(599)));
    assert!(sync.is_aside_due(now + seconds(600)));
    assert!(!sync.is_aside_due(now + seconds(601)), "once");
    sync.host().broken.elements = None;
    engine.try_again();
    assert!(!sync.sync(&mut engine).unwrap().full);
    assert!(engine.aside().is_empty() && is_in_force(&mut sync, &engine));
}

#[test]
fn several_refused_services_are_found_at_once_and_what_is_nobodys_fault_is_no_services() {
    let texts: Vec<String> = (1..=5)
        .flat_map(|n| [service(n, ""), slice(n, &[10 * n])])
        .collect();
    let mut host = Fake::new();
    refuse(&mut host, &["s1", "s3", "s5"], Errno::EINVAL);
    let (mut sync, engine) = follow(host, engine(&texts));
    let names: Vec<&str> = engine.aside().keys().map(|n| &*n.name).collect();
    assert_eq!(names, ["s1", "s3", "s5"]);
    assert!(is_in_force(&mut sync, &engine));

    let mut host = Fake::new();
    host.broken.elements = Some((Box::new(|e| e.comment.is_none()), Errno::EINVAL));
    let mut sync = KernelSync::of(host, Manner::default()).unwrap();
    let mut engine = self::engine(&texts);
    sync.sync(&mut engine).unwrap_err();
    assert!(engine.aside().is_empty() && sync.host().kernel == Kernel::default());
}
