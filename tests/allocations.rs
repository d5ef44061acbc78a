//! What one changed endpoint costs in memory operations does not depend on the cluster.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

#[path = "../benches/kernel/cluster.rs"]
#[allow(dead_code, reason = "the kernel benchmark uses all of it")]
mod cluster;

use std::alloc::System;

use cluster::{config, list, read, slice, slice_change};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use svcnat::cluster::{EndpointSlice, Kind, ObjectName, Origin, Service, SliceEndpoint};
use svcnat::engine::{Engine, Next};
use svcnat::netlink::encode::{Finish, batch};
use svcnat::ruleset::LiveRuleset;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Allocations, bytes allocated and bytes sent of one more endpoint, medians of many. Another
/// service has as many endpoints already, unless this is to be the `first`, which brings the
/// rule for them along.
fn one_more(services: usize, first: bool) -> (usize, usize, usize) {
    let mut engine = Engine::with_cluster(config(), Vec::new(), read(&list(services, 5)));
    engine.rebuild(&LiveRuleset::default());
    let last = services - 1;
    if !first {
        let six = (last * 5..last * 5 + 5).chain([services * 5]);
        engine.apply(slice_change(&slice(last, six)));
        engine.advance();
    }
    let mut all = Vec::new();
    for i in 0..101 {
        let n = i * 7 % last;
        let more = slice_change(&slice(n, (n * 5..n * 5 + 5).chain([services * 5])));
        let back = slice_change(&slice(n, n * 5..n * 5 + 5));
        let region = Region::new(ALLOCATOR);
        engine.apply(more);
        let Next::Step(step) = engine.advance() else {
            panic!("a step was expected");
        };
        let sent = batch(&step.delta, 0, Finish::Commit, 0)
            .unwrap()
            .bytes
            .len();
        let used = region.change();
        all.push((
            used.allocations + used.reallocations,
            used.bytes_allocated,
            sent,
        ));
        engine.apply(back);
        engine.advance();
    }
    all.sort_unstable();
    all[50]
}

/// One test: the counts are those of the whole process.
#[test]
fn a_change_costs_the_same_in_any_cluster_and_a_large_one_fits_its_budget() {
    objects_are_no_larger_than_they_must_be();
    an_object_of_the_api_is_read_without_a_tree();
    what_the_engine_keeps_of_ten_thousand_services();
    what_saving_ten_thousand_services_takes();

    for (first, most) in [(false, 200), (true, 500)] {
        let small = one_more(1_000, first);
        let large = one_more(10_000, first);
        println!(
            "first of its class: {first}; allocations, bytes, sent: {small:?} at 1,000 services, \
             {large:?} at 10,000"
        );
        assert_eq!(small.2, large.2, "bytes sent");
        assert!(small.0.abs_diff(large.0) <= 2, "{small:?} and {large:?}");
        assert!(large.0 < most, "{large:?}");
    }
}

/// Bytes allocated and not given back since `region`, in KiB.
fn kept(region: &Region<'_, System>) -> usize {
    let used = region.change();
    used.bytes_allocated.saturating_sub(used.bytes_deallocated) / 1024
}

/// There are hundreds of thousands.
fn objects_are_no_larger_than_they_must_be() {
    assert!(size_of::<SliceEndpoint>() <= 56);
    assert!(size_of::<EndpointSlice>() <= 136);
    assert!(size_of::<Service>() <= 296);
}

fn an_object_of_the_api_is_read_without_a_tree() {
    let text = slice(1, 0..100);
    let tree = Region::new(ALLOCATOR);
    drop(serde_json::from_str::<serde_json::Value>(&text).unwrap());
    let tree = tree.change().allocations;
    let name = ObjectName::new("default", "svc-1-x");
    let (rules, origin) = (svcnat::source::Rules::default(), Origin::default());
    let mut problems = Vec::new();
    let region = Region::new(ALLOCATOR);
    let kind = Kind::EndpointSlice;
    let read = svcnat::source::read(kind, name, &text, rules, &origin, &mut problems);
    let took = region.change().allocations;
    assert!(read.is_some() && problems.is_empty());
    println!("a slice of 100 endpoints: {took} allocations; its tree alone would be {tree}");
    assert!(took < tree, "{took} and {tree}");
}

fn what_the_engine_keeps_of_ten_thousand_services() {
    let region = Region::new(ALLOCATOR);
    let objects = read(&list(10_000, 5));
    let of_objects = kept(&region);
    let mut engine = Engine::with_cluster(config(), Vec::new(), objects);
    drop(engine.rebuild(&LiveRuleset::default()));
    let all = kept(&region);
    println!("objects: {of_objects} KiB, with plan and ruleset: {all} KiB");
    assert!(all < 22 * 1024, "{all} KiB");
}

/// No allocation is given back before the end here, so what is allocated bounds the peak.
fn what_saving_ten_thousand_services_takes() {
    let cluster = read(&list(10_000, 5));
    let folder = std::env::temp_dir().join(format!("svcnat-peak-{}", std::process::id()));
    let saved = svcnat::follow::Saved::in_folder(&folder).unwrap();
    let region = Region::new(ALLOCATOR);
    let bytes = saved.write(&cluster).unwrap();
    let used = region.change();
    let took = (used.bytes_allocated + used.bytes_reallocated.max(0).unsigned_abs()) / 1024;
    std::fs::remove_dir_all(folder).unwrap();
    println!("saving {} KiB allocated {took} KiB in all", bytes / 1024);
    assert!(bytes > 5 << 20, "{bytes}");
    assert!(took < 2 * 1024, "{took} KiB");
}
