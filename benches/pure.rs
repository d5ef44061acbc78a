//! The parts that touch no kernel: parse, plan, compile, compare, encode, change.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

#[path = "kernel/cluster.rs"]
#[allow(dead_code, reason = "the kernel benchmark uses all of it")]
mod cluster;

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use cluster::{config, list, read, slice, slice_change};
use criterion::{Criterion, criterion_group, criterion_main};
use svcnat::compile::compile;
use svcnat::diff::diff;
use svcnat::engine::Engine;
use svcnat::netlink::encode::{Finish, batch};
use svcnat::plan::{NodeContext, plan};
use svcnat::ruleset::LiveRuleset;

fn all(c: &mut Criterion) {
    for services in [1_000, 10_000] {
        let mut group = c.benchmark_group(format!("{services}x5"));
        group
            .sample_size(10)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(3));
        let text = list(services, 5);
        let objects = read(&text);
        let config = config();
        let (node, _) = NodeContext::resolve(&objects, &config, &[]);
        let planned = plan(&objects, &config, &node).0;
        let ruleset = compile(&planned, &BTreeMap::new());
        let nothing = LiveRuleset::default();
        let delta = diff(&ruleset, &nothing);
        group.bench_function("parse JSON", |b| b.iter(|| read(black_box(&text))));
        group.bench_function("plan", |b| {
            b.iter(|| plan(black_box(&objects), &config, &node))
        });
        group.bench_function("compile", |b| {
            b.iter(|| compile(black_box(&planned), &BTreeMap::new()));
        });
        group.bench_function("diff", |b| b.iter(|| diff(black_box(&ruleset), &nothing)));
        group.bench_function("encode", |b| {
            b.iter(|| batch(black_box(&delta), 1, Finish::Commit, 0));
        });
        let mut engine = Engine::with_cluster(config.clone(), Vec::new(), objects.clone());
        engine.rebuild(&nothing);
        let more = slice_change(&slice(7, 0..6));
        let back = slice_change(&slice(7, 0..5));
        group.bench_function("one endpoint there and back", |b| {
            b.iter(|| {
                engine.apply(more.clone());
                black_box(engine.advance());
                engine.apply(back.clone());
                black_box(engine.advance());
            });
        });
        group.finish();
    }
}

criterion_group!(benches, all);
criterion_main!(benches);
