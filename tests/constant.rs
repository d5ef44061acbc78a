//! The ruleset is constant: more services and endpoints bring elements and nothing else,
//! and a changed endpoint changes as little in a large cluster as in a small one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;

use svcnat::config::Config;
use svcnat::diff::diff;
use svcnat::netlink::encode::{Finish, batch};
use svcnat::node::Node;
use svcnat::print::text;
use svcnat::ruleset::{LiveRuleset, LiveTable, Ruleset};
use svcnat::transaction::Counts;

/// `count` services; the first has `first` endpoints, the others 0 to 40.
fn manifests(count: usize, first: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let ip = format!("10.254.{}.{}", i / 250, i % 250 + 2);
        let service = format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{i}"}},"spec":{{"clusterIP":"{ip}","ports":[{{"port":80}}]}}}}"#
        );
        let endpoints: Vec<String> = (0..if i == 0 { first } else { i % 41 })
            .map(|n| format!(r#"{{"addresses":["172.17.{}.{}"]}}"#, i % 200, n + 2))
            .collect();
        let slice = format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{i}-1","labels":{{"kubernetes.io/service-name":"s{i}"}}}},"addressType":"IPv4","ports":[{{"port":80}}],"endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        text.extend([&service, "\n---\n", &slice, "\n---\n"]);
    }
    text
}

fn ruleset(count: usize, first: usize, live: &LiveRuleset) -> Ruleset {
    let config = Config {
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        ..Config::default()
    };
    let (node, problems) = Node::parse(&manifests(count, first), config);
    assert!(problems.is_empty(), "{:?}", problems.first());
    node.ruleset_over(live)
}

fn nothing() -> LiveRuleset {
    LiveRuleset::default()
}

fn without_elements(mut ruleset: Ruleset) -> String {
    for table in ruleset.tables.values_mut() {
        for set in table.sets.values_mut() {
            set.elements = BTreeMap::new();
        }
    }
    let mut out = Vec::new();
    text::ruleset(&mut out, &ruleset).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn ten_times_the_services_of_the_same_kinds_differ_in_elements_only() {
    let few = without_elements(ruleset(500, 1, &nothing()));
    let many = without_elements(ruleset(5_000, 1, &nothing()));
    assert_eq!(few, many);
}

/// What the kernel would hold after installing `ruleset`.
fn installed(ruleset: Ruleset) -> LiveRuleset {
    let tables = ruleset
        .tables
        .into_iter()
        .map(|(family, table)| {
            let chains = table
                .chains
                .iter()
                .map(|chain| {
                    let rules = chain.rules.iter();
                    let rules = rules.map(|r| svcnat::ruleset::lower(r, &table)).collect();
                    let base = chain.base;
                    (
                        chain.name.clone(),
                        svcnat::ruleset::LiveChain { base, rules },
                    )
                })
                .collect();
            let live = LiveTable {
                chains,
                sets: table.sets,
                ..LiveTable::default()
            };
            (family, live)
        })
        .collect();
    LiveRuleset {
        generation: 1,
        tables,
    }
}

/// Counts, messages and bytes of going from 3 to `to` endpoints of one service.
fn change(count: usize, to: usize) -> (Counts, u32, usize) {
    let live = installed(ruleset(count, 3, &nothing()));
    let delta = diff(&ruleset(count, to, &live), &live);
    let batch = batch(&delta, 1, Finish::Commit, 0).unwrap();
    (delta.counts(), batch.messages, batch.bytes.len())
}

#[test]
fn one_endpoint_costs_the_same_in_a_cluster_of_any_size() {
    for to in [2, 4] {
        let small = change(1000, to);
        assert_eq!(small, change(10_000, to));
        assert!(
            small.0.elements_added + small.0.elements_deleted <= 4,
            "{small:?}"
        );
        assert_eq!(small.0.rules_added, 0);
    }
}
