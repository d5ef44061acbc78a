//! Installing on a host in memory: the order of what is done, others that come in between, a
//! kernel that refuses, and what fails beside the rules.

pub(crate) mod fake;

use std::collections::BTreeMap;

use nix::errno::Errno;

use fake::Fake;

use super::install::{Anew, Installed, Installer};
use super::rules::{Manner, look, reconcile};
use super::tidy::Tidied;
use crate::cluster::{Cluster, ObjectName, Protocol};
use crate::compile::SetId;
use crate::config::{Config, Sysctls};
use crate::engine::Engine;
use crate::fuzzing::{Kernel, Owner};
use crate::host::conntrack::{Flow, Tuple};
use crate::host::routes::LiveRoute;
use crate::netlink::NetlinkError;
use crate::ruleset::{Chain, Element, Family, Ruleset, Set, Statement, Value};
use crate::source::{Loaded, load_str};
use crate::transaction::Operation;

pub(crate) fn config() -> Config {
    Config {
        node_name: "n1".into(),
        node_ips: vec!["192.168.50.11".parse().unwrap()],
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        ..Config::default()
    }
}

pub(crate) fn objects(texts: &[String]) -> Cluster {
    let mut loaded = Loaded::default();
    load_str(&texts.join("\n---\n"), "test", &mut loaded);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.cluster
}

pub(crate) fn engine(texts: &[String]) -> Engine {
    Engine::with_cluster(config(), Vec::new(), objects(texts))
}

/// Service `sN` at 10.254.0.N, with a TCP port and a UDP port; `more` of its `spec`.
pub(crate) fn service(n: u8, more: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"}},
        "spec":{{"clusterIP":"10.254.0.{n}"{more},"ports":[
        {{"name":"http","port":80}},{{"name":"dns","port":53,"protocol":"UDP"}}]}}}}"#
    )
}

/// Its endpoints: 172.17.0.N each.
pub(crate) fn slice(n: u8, endpoints: &[u8]) -> String {
    let endpoint = |octet: &u8| format!(r#"{{"addresses":["172.17.0.{octet}"],"nodeName":"n2"}}"#);
    let endpoints: Vec<String> = endpoints.iter().map(endpoint).collect();
    format!(
        r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{n}-a",
        "labels":{{"kubernetes.io/service-name":"s{n}"}}}},"addressType":"IPv4",
        "ports":[{{"name":"http","port":8080}},{{"name":"dns","port":53,"protocol":"UDP"}}],
        "endpoints":[{}]}}"#,
        endpoints.join(",")
    )
}

/// Node `nN` at 192.168.50.(10 + N) with pods in 172.18.N.0/24.
pub(crate) fn node(n: u8) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"Node","metadata":{{"name":"n{n}"}},"spec":{{"podCIDR":"172.18.{n}.0/24"}},
        "status":{{"addresses":[{{"type":"InternalIP","address":"192.168.50.{}"}}]}}}}"#,
        10 + n
    )
}

/// Three Services of two endpoints each, and another node.
pub(crate) fn three() -> Vec<String> {
    let services = (1..=3).flat_map(|n| [service(n, ""), slice(n, &[10 * n, 10 * n + 1])]);
    services.chain([node(2)]).collect()
}

/// A flow of a client to the dns port of service `n`, answered by an endpoint.
pub(crate) fn flow(n: u8, endpoint: u8) -> Flow {
    let client = [172, 17, 0, 200].into();
    Flow {
        family: Family::Ip,
        protocol: Protocol::Udp,
        original: Tuple {
            src: client,
            dst: [10, 254, 0, n].into(),
            sport: 40_000,
            dport: 53,
        },
        reply: Tuple {
            src: [172, 17, 0, endpoint].into(),
            dst: client,
            sport: 53,
            dport: 40_000,
        },
        status: 1 << 5,
        id: 0,
    }
}

/// A client that the only sticky endpoint is remembered for.
pub(crate) fn remember_client(kernel: &mut Kernel) {
    let sets = &mut kernel.tables.get_mut(&Family::Ip).unwrap().sets;
    let handles = &sets[SetId::AffinityHandles.fixed_name()].elements;
    let handle = handles.values().next().unwrap().data.clone();
    let clients = sets.get_mut(SetId::AffinityClients.fixed_name()).unwrap();
    let client = Value::new().u32(7);
    clients.elements.insert(client, Element::new(handle));
}

pub(crate) fn clients(kernel: &Kernel) -> usize {
    let sets = &kernel.tables[&Family::Ip].sets;
    sets[SetId::AffinityClients.fixed_name()].elements.len()
}

fn installer(host: Fake, manner: Manner) -> Installer<Fake> {
    Installer::new(host, manner).unwrap()
}

fn install(by: &mut Installer<Fake>, engine: &mut Engine) -> Result<Installed, NetlinkError> {
    let mut wanted = Anew::new(engine);
    let found = look(by.host(), &mut wanted)?;
    by.install(&mut wanted, found)
}

fn failed(tidied: &Tidied) -> bool {
    matches!(tidied.owed, Some(Err(_)))
}

fn owning() -> Manner {
    Manner {
        own: true,
        take_over: false,
    }
}

const STICKY: &str = r#","sessionAffinity":"ClientIP""#;
/// A Service at a load balancer that only some may use: its ranges are an interval set.
fn with_ranges() -> Vec<String> {
    let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"s1"},"spec":{
        "type":"LoadBalancer","clusterIP":"10.254.0.1","ports":[{"name":"http","port":80}],
        "loadBalancerSourceRanges":["198.51.100.0/24"]},
        "status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}"#;
    vec![service.to_owned(), slice(1, &[10, 11])]
}

#[test]
fn what_comes_is_there_before_the_rules_and_what_goes_goes_after_them() {
    let mut by = installer(Fake::new(), Manner::default());
    let old = [service(1, STICKY), slice(1, &[10]), node(2)];
    install(&mut by, &mut engine(&old)).unwrap();
    remember_client(&mut by.host().kernel);
    by.host().flows.insert(flow(1, 10));
    by.host().log.clear();
    let new = [service(1, STICKY), slice(1, &[11]), node(3)];
    let done = install(&mut by, &mut engine(&new)).unwrap();
    let log: Vec<&str> = (by.host().log.iter())
        .map(|line| line.split(" [").next().unwrap())
        .collect();
    let order = ["routes come", "commit", "commit", "flows", "routes go"];
    assert_eq!(log, order, "the second commit forgets clients");
    assert_eq!((done.clients.removed, done.flows.removed), (1, 1));
    let report = done.routes.unwrap().unwrap();
    assert_eq!((report.added, report.deleted), (1, 1));
    assert_eq!(done.rules.generation, by.generation() - 1);
    assert_eq!(by.generation(), by.host().generation);
    assert_eq!(clients(&by.host().kernel), 0);
}

#[test]
fn who_comes_between_is_read_first_and_who_always_does_is_not_waited_for() {
    let mut by = installer(Fake::new(), Manner::default());
    by.host()
        .in_between
        .push_back(Box::new(|kernel: &mut Kernel| {
            kernel.others.insert((Family::Ip, "x".into()));
        }));
    let mut engine = engine(&three());
    let done = install(&mut by, &mut engine).unwrap();
    assert_eq!((done.rules.races, by.host().reads), (1, 2));
    assert!(by.host().kernel.holds(engine.ruleset()));

    // Somebody adds to our own table while we look: it is seen, and removed.
    by.host()
        .in_between
        .push_back(Box::new(|kernel: &mut Kernel| {
            let table = kernel.tables.get_mut(&Family::Ip).unwrap();
            table.chains.push(Chain::regular("theirs", "", Vec::new()));
        }));
    let mut engine = self::engine(&three()[..2]);
    install(&mut by, &mut engine).unwrap();
    assert!(by.host().kernel.holds(engine.ruleset()));

    by.host().busy_neighbour = true;
    let mut engine = self::engine(&three());
    let done = install(&mut by, &mut engine).unwrap();
    assert_eq!(done.rules.races, 3, "then it is not bound any more");
    assert!(by.host().kernel.holds(engine.ruleset()));
}

#[test]
fn a_commit_whose_answer_was_lost_is_found_in_force() {
    let mut by = installer(Fake::new(), Manner::default());
    by.host().broken.answers = 1;
    let mut engine = engine(&three());
    let done = install(&mut by, &mut engine).unwrap();
    assert!(done.rules.committed.is_some() && done.rules.delta.counts().elements_added > 0);
    assert_eq!((by.host().log.len(), by.host().reads), (2, 2));
    let done = install(&mut by, &mut engine).unwrap();
    assert!(done.rules.committed.is_none() && done.rules.delta.is_empty());
}

#[test]
fn a_kernel_without_owned_tables_gets_plain_ones_and_is_asked_once() {
    let mut by = installer(Fake::new(), owning());
    by.host().broken.owning = true;
    install(&mut by, &mut engine(&three())).unwrap();
    assert_eq!(by.host().kernel.owners, BTreeMap::new());
    // It would be able to by now.
    by.host().broken.owning = false;
    install(&mut by, &mut engine(&three()[..2])).unwrap();
    assert_eq!(by.host().kernel.owners, BTreeMap::new());
}

#[test]
fn tables_are_owned_adopted_or_built_anew_and_none_of_that_is_a_change() {
    let owner = |by: &mut Installer<Fake>| by.host().kernel.owners[&Family::Ip];
    let mut by = installer(Fake::new(), owning());
    install(&mut by, &mut engine(&three())).unwrap();
    assert_eq!(owner(&mut by), Owner::Us);
    let mut host = std::mem::replace(by.host(), Fake::new());

    host.kernel.owners.insert(Family::Ip, Owner::Gone);
    let mut by = installer(host, owning());
    let done = install(&mut by, &mut engine(&three())).unwrap();
    assert_eq!(owner(&mut by), Owner::Us, "adopted");
    assert!(done.rules.committed.is_some() && done.rules.delta.is_empty());
    let mut host = std::mem::replace(by.host(), Fake::new());

    host.kernel.owners.clear();
    let mut by = installer(host, owning());
    by.host().flows.insert(flow(1, 10));
    let mut fewer = engine(&three()[2..]);
    let done = install(&mut by, &mut fewer).unwrap();
    assert_eq!(owner(&mut by), Owner::Us, "built anew");
    assert_eq!(done.rules.delta.counts().elements_added, 0);
    assert_eq!(done.flows.removed, 1, "of a frontend that is gone");
    assert!(by.host().kernel.holds(fewer.ruleset()));
}

#[test]
fn tables_of_another_owner_are_left_alone() {
    let mut by = installer(Fake::new(), Manner::default());
    install(&mut by, &mut engine(&three())).unwrap();
    by.host().kernel.owners.insert(Family::Ip, Owner::Another);
    let before = by.host().kernel.clone();
    let refused = install(&mut by, &mut engine(&three()[..2]));
    assert!(matches!(refused, Err(NetlinkError::Owned { .. })));
    assert_eq!(by.host().kernel, before);
}

fn taking_over() -> Manner {
    Manner {
        own: false,
        take_over: true,
    }
}

/// A node with kube-proxy's tables.
fn with_kube_proxy() -> Fake {
    let mut host = Fake::new();
    let theirs = Family::ALL.map(|family| (family, "kube-proxy".to_owned()));
    host.kernel.others.extend(theirs);
    host
}

#[test]
fn kube_proxys_tables_go_when_packets_can_meet_ours_and_once_only() {
    let mut by = installer(with_kube_proxy(), taking_over());
    let mut engine = engine(&three());
    let done = install(&mut by, &mut engine).unwrap();
    assert!(by.host().kernel.others.is_empty() && by.host().kernel.holds(engine.ruleset()));
    let log: Vec<&str> = (by.host().log.iter())
        .map(|line| line.split(" [").next().unwrap())
        .collect();
    // Interval sets, then the rules that use them, and when nobody needs kube-proxy's, those.
    let order = ["routes come", "commit", "commit", "packets pass", "commit"];
    assert_eq!(log, order);
    assert_eq!(by.generation(), by.host().generation);
    let theirs = |o: &Operation| matches!(o, Operation::DeleteOtherTable(_));
    let told = done.rules.delta.tables.iter();
    assert!(!told.flat_map(|t| &t.operations).any(theirs));
    // Whoever starts it again means it.
    by.host().kernel.others = with_kube_proxy().kernel.others;
    install(&mut by, &mut engine).unwrap();
    assert_eq!(by.host().kernel.others.len(), 2);
}

#[test]
fn kube_proxys_tables_that_others_delete_too_are_gone_all_the_same() {
    let mut by = installer(with_kube_proxy(), taking_over());
    // One goes between our looking for them and our commit.
    for deed in [false, false, true] {
        by.host()
            .in_between
            .push_back(Box::new(move |kernel: &mut Kernel| {
                if deed {
                    kernel.others.pop_first();
                }
            }));
    }
    let mut engine = engine(&three());
    install(&mut by, &mut engine).unwrap();
    assert!(by.host().kernel.others.is_empty() && by.host().kernel.holds(engine.ruleset()));
}

/// What packets meet: rules, and the sets they look into.
fn in_force(kernel: &Kernel) -> Vec<(Family, Vec<Chain>, Vec<Set>)> {
    let table = |(family, table): (&Family, &crate::ruleset::Table)| {
        let rules = table.chains.iter().flat_map(|chain| &chain.rules);
        let used = rules.flat_map(|rule| &rule.statements);
        let used: Vec<&str> = used.filter_map(Statement::set).collect();
        let sets = table.sets.values();
        let sets = sets.filter(|set| used.contains(&&*set.name)).cloned();
        let mut chains = table.chains.clone();
        chains.sort_by(|a, b| a.name.cmp(&b.name));
        (*family, chains, sets.collect())
    };
    let tables = kernel.tables.iter().map(table);
    tables
        .filter(|(_, chains, ..)| !chains.is_empty())
        .collect()
}

#[test]
fn who_is_killed_between_two_commits_leaves_the_old_or_the_new() {
    let with_ranges = || engine(&with_ranges());
    for take_over in [false, true] {
        let start = || {
            let mut host = Fake::new();
            if take_over {
                host.kernel.others.insert((Family::Ip, "kube-proxy".into()));
            } else {
                let mut by = installer(host, Manner::default());
                install(&mut by, &mut engine(&[service(1, ""), slice(1, &[10])])).unwrap();
                host = std::mem::replace(by.host(), Fake::new());
            }
            host.log.clear();
            host
        };
        let own = false;
        let old = in_force(&start().kernel);
        let mut by = installer(start(), Manner { own, take_over });
        install(&mut by, &mut with_ranges()).unwrap();
        let new = in_force(&by.host().kernel);
        let log = by.host().log.iter();
        let commits = log.filter(|line| line.starts_with("commit")).count();
        assert!(commits > 1, "{:?}", by.host().log);
        for killed_after in 0..commits {
            let mut by = installer(start(), Manner { own, take_over });
            by.host().broken.dies_after = Some(killed_after);
            install(&mut by, &mut with_ranges()).unwrap_err();
            let found = in_force(&by.host().kernel);
            // With kube-proxy's tables beside it, as long as they are there.
            let theirs = by.host().kernel.others.len();
            let proxied = theirs == usize::from(take_over);
            assert!(
                proxied && found == old || found == new,
                "after {killed_after}"
            );
            // Whoever starts next goes on from there.
            let mut host = std::mem::replace(by.host(), Fake::new());
            host.broken.dies_after = None;
            let mut by = installer(host, Manner { own, take_over });
            install(&mut by, &mut with_ranges()).unwrap();
            assert_eq!(in_force(&by.host().kernel), new);
            assert!(by.host().kernel.others.is_empty());
        }
    }
}

/// The kernel takes no element of these Services.
pub(crate) fn refuse(host: &mut Fake, services: &[&str], errno: Errno) {
    let of: Vec<String> = services.iter().map(|s| format!("default/{s}:")).collect();
    let bad = move |element: &Element| {
        let comment = element.comment.as_deref();
        comment.is_some_and(|comment| of.iter().any(|of| comment.starts_with(of)))
    };
    host.broken.elements = Some((Box::new(bad), errno));
}

#[test]
fn a_service_that_the_kernel_refuses_is_left_out_and_the_others_are_installed() {
    let mut by = installer(Fake::new(), Manner::default());
    refuse(by.host(), &["s2"], Errno::ENOSPC);
    let mut engine = engine(&three());
    install(&mut by, &mut engine).unwrap();
    let aside: Vec<&ObjectName> = engine.aside().keys().collect();
    assert_eq!(aside, [&ObjectName::new("default", "s2")]);
    assert!(by.host().kernel.holds(engine.ruleset()));

    // No Service is to blame for a kernel without memory.
    let mut by = installer(Fake::new(), Manner::default());
    refuse(by.host(), &["s2"], Errno::ENOMEM);
    let mut engine = self::engine(&three());
    assert!(install(&mut by, &mut engine).is_err());
    assert!(engine.aside().is_empty() && by.host().kernel == Kernel::default());
}

#[test]
fn what_fails_beside_the_rules_is_said_and_keeps_nothing_else_from_being_done() {
    let old = [service(1, STICKY), slice(1, &[10]), node(2), node(4)];
    let new = [service(1, STICKY), slice(1, &[11]), node(3), node(4)];
    let mut by = installer(Fake::new(), Manner::default());
    install(&mut by, &mut engine(&old)).unwrap();
    by.host().flows.insert(flow(1, 10));
    let broken = &mut by.host().broken;
    broken.conntrack = true;
    broken.counters = true;
    broken.routes.insert("172.18.3.0/24".parse().unwrap());
    let mut now = engine(&new);
    let done = install(&mut by, &mut now).unwrap();
    assert!(by.host().kernel.holds(now.ruleset()));
    assert!(done.rules.counters_lost.is_some() && failed(&done.flows));
    assert_eq!(done.routes.unwrap().unwrap().errors.len(), 1);
    assert!(by.is_tidying_owed() && by.routes_owed());
    let there = |by: &mut Installer<Fake>| -> Vec<String> {
        by.host().routes.iter().map(ToString::to_string).collect()
    };
    assert_eq!(there(&mut by), ["172.18.4.0/24 via 192.168.50.14"]);

    // Later it is made up for, with no commit.
    by.host().broken.conntrack = false;
    by.host().broken.routes.clear();
    let commits = by.host().log.len();
    assert_eq!(by.tidy(&now).flows.removed, 1);
    assert_eq!(by.repair_routes(&now).routes.unwrap().unwrap().added, 1);
    assert!(!by.is_tidying_owed() && !by.routes_owed());
    let log = &by.host().log[commits..];
    assert!(
        !log.iter().any(|line| line.starts_with("commit")),
        "{log:?}"
    );
}

#[test]
fn routes_that_cannot_be_listed_keep_no_rules_from_being_installed() {
    let mut by = installer(Fake::new(), Manner::default());
    by.host().broken.routing = true;
    let mut engine = engine(&three());
    let done = install(&mut by, &mut engine).unwrap();
    assert!(done.routes.unwrap().is_err() && by.routes_owed());
    assert!(by.host().kernel.holds(engine.ruleset()));
}

#[test]
fn rules_that_are_refused_take_no_route_away() {
    let mut by = installer(Fake::new(), Manner::default());
    install(&mut by, &mut engine(&[node(2)])).unwrap();
    by.host().broken.dies_after = Some(0);
    let mut other = engine(&[service(1, ""), slice(1, &[10]), node(3)]);
    install(&mut by, &mut other).unwrap_err();
    let via = |octet| Some([192, 168, 50, octet].into());
    let there: Vec<_> = by.host().routes.iter().map(|r: &LiveRoute| r.via).collect();
    assert_eq!(there, [via(12), via(13)]);
}

#[test]
fn a_setting_is_set_before_the_rules_and_told_once_they_are_in_force() {
    let folder = std::env::temp_dir().join(format!("svcnat-sysctls-{}", std::process::id()));
    let file = folder.join("net/ipv4/ip_forward");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "0\n").unwrap();
    let mut by = installer(Fake::new(), Manner::default());
    by.host().sysctls.clone_from(&folder);
    let config = Config {
        sysctls: Sysctls::Apply,
        ..config()
    };
    let mut engine = Engine::with_cluster(config, Vec::new(), objects(&three()));
    by.host().broken.dies_after = Some(0);
    install(&mut by, &mut engine).unwrap_err();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "1");
    by.host().broken.dies_after = None;
    for expected in [&["0"][..], &[]] {
        let done = install(&mut by, &mut engine).unwrap().settings.unwrap();
        let told: Vec<String> = done.unwrap().changed.into_iter().map(|c| c.old).collect();
        assert_eq!(told, expected);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn deleting_everything_leaves_what_is_not_ours() {
    let mut by = installer(Fake::new(), Manner::default());
    by.host().kernel.others.insert((Family::Ip, "x".into()));
    install(&mut by, &mut engine(&three())).unwrap();
    let done = reconcile(by.host(), |_| Ruleset::default()).unwrap();
    assert_eq!(done.delta.tables.len(), 1);
    assert!(by.host().kernel.tables.is_empty());
    assert_eq!(by.host().kernel.others.len(), 1);
}
