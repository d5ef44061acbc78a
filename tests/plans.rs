//! Every folder of `tests/plans` is a change: what is installed (`before.yaml`, none: nothing),
//! what is wanted (`after.yaml`, none: nothing), what another program did in between
//! (`drift.txt`), what changes besides our tables (`host.txt`), and the plan, as text and JSON.
//! `common.yaml` and `config.yaml` count for all of them.
//!
//! `scripts/update-goldens` rewrites the expected files; review the difference.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use svcnat::cluster::{Cluster, Protocol};
use svcnat::compile::compile;
use svcnat::config::file;
use svcnat::diff::diff;
use svcnat::plan::{Endpoint, NodeContext, NodePlan, complete, plan};
use svcnat::print::text;
use svcnat::report::{
    self, Action, Client, CutFlow, Host, Kind, Plain, Report, RouteChange, Scene, Step,
    SysctlChange,
};
use svcnat::ruleset::{LiveChain, LiveRuleset, LiveTable, Ruleset, Set, Table, lower};
use svcnat::source::{Loaded, load_str};
use svcnat::text::Printable;
use svcnat::transaction::{Operation, Transaction};

use support::golden;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans")
}

fn folders() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    assert!(found.len() >= 30, "{}", found.len());
    found
}

/// Objects and what they mean on this node.
struct Side {
    cluster: Cluster,
    node: NodeContext,
    plan: NodePlan,
}

impl Side {
    /// Of `before` or `after`; without the file, of no objects at all.
    fn of(folder: &Path, which: &str) -> Option<Self> {
        let own = fs::read_to_string(folder.join(format!("{which}.yaml"))).ok()?;
        let common = fs::read_to_string(root().join("common.yaml")).unwrap();
        Some(Self::read(folder, which, &[&common, &own]))
    }

    fn nothing(folder: &Path) -> Self {
        let mut none = Self::read(folder, "after", &[]);
        none.plan.families.clear();
        none
    }

    fn read(folder: &Path, which: &str, objects: &[&str]) -> Self {
        let own = folder.join(format!("config-{which}.yaml"));
        let shared = root().join("config.yaml");
        let read = file::read(if own.exists() { &own } else { &shared }).unwrap();
        let config = read.settings.or_defaults();
        let mut loaded = Loaded::default();
        for text in objects {
            load_str(text, which, &mut loaded);
        }
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        let mut cluster = loaded.cluster;
        let (node, _) = NodeContext::resolve(&cluster, &config, &[]);
        complete(&mut cluster, &config, &node);
        let (plan, _) = plan(&cluster, &config, &node);
        Self {
            cluster,
            node,
            plan,
        }
    }
}

/// What the kernel would hold after installing `ruleset`.
fn installed(ruleset: &Ruleset) -> LiveRuleset {
    let mut live = LiveRuleset {
        generation: 7,
        ..LiveRuleset::default()
    };
    for (family, table) in &ruleset.tables {
        let chains = table.chains.iter().map(|chain| {
            let rules = chain.rules.iter().map(|rule| lower(rule, table)).collect();
            let base = chain.base;
            (chain.name.clone(), LiveChain { base, rules })
        });
        let table = LiveTable {
            chains: chains.collect(),
            sets: table.sets.clone(),
            ..LiveTable::default()
        };
        live.tables.insert(*family, table);
    }
    live
}

fn shown(set: &Set, key: &svcnat::ruleset::Value) -> String {
    let mut out = Vec::new();
    text::element(&mut out, set, key, &set.elements[key]).unwrap();
    String::from_utf8(out).unwrap()
}

/// What another program does to the IPv4 table.
fn tamper(live: &mut LiveRuleset, line: &str) {
    let table = live.tables.values_mut().next().unwrap();
    let words: Vec<&str> = line.splitn(4, ' ').collect();
    match words[..] {
        ["-", "element", set, part] => {
            let set = table.sets.get_mut(set).unwrap();
            let mut keys = set.elements.keys().copied();
            let key = keys.find(|key| shown(set, key).contains(part)).unwrap();
            set.elements.remove(&key);
        }
        ["+", "element", set, rest] => {
            let set = table.sets.get_mut(set).unwrap();
            let (like, to) = rest.split_once(" -> ").unwrap();
            let like = set
                .elements
                .keys()
                .find(|key| shown(set, key).contains(like))
                .unwrap();
            let mut element = set.elements[like].clone();
            element.comment = None;
            let parts: Vec<&str> = to.split(" . ").collect();
            let key = svcnat::ruleset::Value::new()
                .addr(parts[0].parse().unwrap())
                .proto(Protocol::Tcp)
                .port(parts[2].parse().unwrap());
            set.elements.insert(key, element);
        }
        ["-", "rule", chain, at] => {
            let at: usize = at.parse().unwrap();
            table.chains.get_mut(chain).unwrap().rules.remove(at);
        }
        ["-", "rules", chain] => table.chains.get_mut(chain).unwrap().rules.clear(),
        ["+", "oldset", name] => {
            let set = Set::exact(name, &[svcnat::ruleset::DataType::Ipv4Addr]).verdicts();
            table.sets.insert(name.to_owned(), set);
        }
        ["~", "set", name] => {
            let set = table.sets.get_mut(name).unwrap();
            set.kind = svcnat::ruleset::SetKind::Interval;
        }
        ["+", "foreign", kind, name] => table.foreign.push(format!("{kind} {name}")),
        _ => panic!("{line}"),
    }
}

fn socket(text: &str) -> (std::net::IpAddr, u16) {
    let socket: std::net::SocketAddr = text.parse().unwrap();
    (socket.ip(), socket.port())
}

/// Routes by both plans, and what `host.txt` says.
fn host(folder: &Path, before: Option<&Side>, after: &Side) -> Host {
    let mut host = Host::default();
    let none = BTreeSet::new();
    let old = before.map_or(&none, |side| &side.plan.routes);
    let by = |routes: &BTreeSet<svcnat::plan::Route>| -> BTreeMap<_, _> {
        routes.iter().map(|r| (r.destination, r.clone())).collect()
    };
    let (old, new) = (by(old), by(&after.plan.routes));
    let all: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    for destination in all {
        let (before, after) = (old.get(&destination), new.get(&destination));
        if before != after {
            host.routes.push(RouteChange {
                destination,
                before: before.map(|route| Some(route.via)),
                after: after.cloned(),
            });
        }
    }
    let text = fs::read_to_string(folder.join("host.txt")).unwrap_or_default();
    for line in text.lines() {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["sysctl", name, before, after] => host.sysctls.push(SysctlChange {
                name: name.to_owned(),
                before: before.to_owned(),
                after: after.to_owned(),
            }),
            ["flow", protocol, client, to, by] => host.flows.push(CutFlow {
                protocol: match protocol {
                    "UDP" => Protocol::Udp,
                    _ => Protocol::Sctp,
                },
                to: socket(to),
                answered_by: socket(by),
                text: format!("{protocol} {client} -> {to}, answered by {by}"),
            }),
            ["client", service, endpoint] => {
                let (addr, port) = socket(endpoint);
                host.clients.push(Client {
                    service: service.to_owned(),
                    endpoint: Some(Endpoint {
                        addr,
                        port: port.try_into().unwrap(),
                    }),
                });
            }
            _ => panic!("{line}"),
        }
    }
    host
}

/// One change, ready to be looked at.
struct Case {
    live: LiveRuleset,
    desired: Ruleset,
    delta: Transaction,
    after: Side,
    host: Host,
}

impl Case {
    fn of(folder: &Path) -> Self {
        let before = Side::of(folder, "before");
        let after = Side::of(folder, "after").unwrap_or_else(|| Side::nothing(folder));
        let mut live = before.as_ref().map_or_else(LiveRuleset::default, |side| {
            installed(&compile(&side.plan, &BTreeMap::new()))
        });
        let drift = fs::read_to_string(folder.join("drift.txt")).unwrap_or_default();
        for line in drift.lines() {
            tamper(&mut live, line);
        }
        let host = host(folder, before.as_ref(), &after);
        Self::between(live, after, host)
    }

    fn between(live: LiveRuleset, after: Side, host: Host) -> Self {
        let desired = compile(&after.plan, &live.sets());
        let delta = diff(&desired, &live);
        Self {
            live,
            desired,
            delta,
            after,
            host,
        }
    }

    fn report(&self) -> Report<'_> {
        Report::of(&Scene {
            before: &self.live,
            desired: &self.desired,
            delta: &self.delta,
            plan: &self.after.plan,
            cluster: &self.after.cluster,
            node: &self.after.node,
            host: &self.host,
        })
    }

    fn text(&self, operations: bool) -> String {
        let report = self.report();
        let mut out = Plain(Printable::new(Vec::new()));
        report::write(&mut out, &report, operations).unwrap();
        let text = String::from_utf8(out.0.into_inner()).unwrap();
        format!("{text}plan: {}\n", report.closing())
    }
}

#[test]
fn changes_are_planned_as_expected() {
    for folder in folders() {
        let case = Case::of(&folder);
        golden(&folder.join("expected.txt"), &case.text(false));
        let document = serde_json::Value::from(report::document(&case.report()));
        let json = format!("{document:#}\n");
        golden(&folder.join("expected.json"), &json);
    }
}

#[test]
fn names_of_a_cluster_never_reach_the_screen_raw() {
    for folder in folders() {
        let text = Case::of(&folder).text(true);
        let bad = text.chars().find(|c| c.is_control() && *c != '\n');
        assert!(bad.is_none() && !text.contains('\u{202e}'), "{text}");
    }
}

/// Carries out what the plan lists under its objects, and nothing else.
fn carried_out(case: &Case) -> LiveRuleset {
    let report = case.report();
    let steps: Vec<&Step<'_>> = report.changes.iter().flat_map(|c| &c.operations).collect();
    let mut live = case.live.clone();
    for step in &steps {
        if let Step::Element {
            comes: false,
            family,
            set,
            key,
            ..
        } = step
        {
            let table = live.tables.get_mut(family).unwrap();
            let gone = table.sets.get_mut(&set.name).unwrap().elements.remove(key);
            assert!(gone.is_some(), "{step} is not there");
        }
    }
    let mut old = BTreeMap::new();
    for step in &steps {
        let Step::Operation { table, operation } = step else {
            continue;
        };
        let family = table.family;
        if **operation == Operation::DeleteTable {
            old.insert(family, live.tables.remove(&family).unwrap());
            continue;
        }
        let found = live.tables.entry(family).or_default();
        operate(found, operation, table.skeleton.as_ref());
    }
    for step in &steps {
        if let Step::PutBack { family, elements } = step {
            let found = live.tables.get_mut(family).unwrap();
            let mut put = 0;
            for (name, set) in &mut found.sets {
                if let Some(before) = old.get(family).and_then(|t| t.sets.get(name)) {
                    set.elements.clone_from(&before.elements);
                    put += set.elements.len();
                }
            }
            assert_eq!(put, *elements);
        }
    }
    for step in &steps {
        if let Step::Element {
            comes: true,
            family,
            set,
            key,
            element,
        } = step
        {
            let table = live.tables.get_mut(family).unwrap();
            let elements = &mut table.sets.get_mut(&set.name).unwrap().elements;
            assert!(
                elements.insert(**key, (*element).clone()).is_none(),
                "{step} twice"
            );
        }
    }
    live
}

fn operate(live: &mut LiveTable, operation: &Operation, skeleton: Option<&Table>) {
    match operation {
        Operation::AddTable => {}
        Operation::AddSet(set) => drop(live.sets.insert(set.name.clone(), set.clone())),
        Operation::DeleteSet(name) => drop(live.sets.remove(name)),
        Operation::AddChain(chain) => {
            let (base, rules) = (chain.base, Vec::new());
            let name = chain.name.clone();
            live.chains.insert(name, LiveChain { base, rules });
        }
        Operation::DeleteChain(name) => drop(live.chains.remove(name)),
        Operation::FlushChain(name) => live.chains.get_mut(name).unwrap().rules.clear(),
        Operation::AddRules(name, rules) => {
            let chain = live.chains.get_mut(name).unwrap();
            let table = skeleton.unwrap();
            chain
                .rules
                .extend(rules.iter().map(|rule| lower(rule, table)));
        }
        other => panic!("{other:?}"),
    }
}

fn is_whole(case: &Case, what: &str) {
    let report = case.report();
    assert_eq!(
        report.changes.iter().all(|c| c.operations.is_empty()),
        case.delta.is_empty() && case.host == Host::default(),
        "{what}"
    );
    let after = carried_out(case);
    let left = diff(&case.desired, &after);
    let mut text = Vec::new();
    svcnat::transaction::write(&mut text, &left).unwrap();
    assert!(
        left.is_empty(),
        "{what}: {}",
        String::from_utf8_lossy(&text)
    );
}

#[test]
fn what_a_plan_lists_and_nothing_else_leads_to_an_empty_plan() {
    for folder in folders() {
        is_whole(&Case::of(&folder), &folder.display().to_string());
    }
}

/// From any state to any other.
#[test]
fn every_step_is_listed_once_under_some_object_whatever_changes_at_once() {
    let folders = folders();
    for (n, from) in folders.iter().enumerate() {
        let before = Case::of(from);
        for to in folders.iter().skip(n % 7).step_by(7) {
            let Some(after) = Side::of(to, "after") else {
                continue;
            };
            let case = Case::between(before.live.clone(), after, Host::default());
            is_whole(&case, &format!("{} to {}", from.display(), to.display()));
        }
    }
}

#[test]
fn a_first_install_of_ten_services_fits_a_screen() {
    let folder = root().join("02-first-install-of-ten-services");
    let text = Case::of(&folder).text(false);
    let services = text
        .lines()
        .filter(|line| line.starts_with("+ Service"))
        .count();
    assert!(services >= 10, "{text}");
    assert!(text.lines().count() <= 24, "{text}");
}

/// One of 10,000 Services gets an endpoint more.
#[test]
fn one_change_among_ten_thousand_services_is_three_lines() {
    let side = |endpoints: usize| {
        let mut text = String::new();
        for i in 0..10_000 {
            let count = if i == 5000 { endpoints } else { 1 + i % 5 };
            let ip = format!("10.254.{}.{}", i / 250, i % 250 + 2);
            let endpoints: Vec<String> = (0..count)
                .map(|n| format!(r#"{{"addresses":["172.17.{}.{}"]}}"#, i % 200, n + 2))
                .collect();
            text.push_str(&format!(
                r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{i}"}},"spec":{{"clusterIP":"{ip}","ports":[{{"port":80}}]}}}}
---
{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{i}-1","labels":{{"kubernetes.io/service-name":"s{i}"}}}},"addressType":"IPv4","ports":[{{"port":80}}],"endpoints":[{}]}}
---
"#,
                endpoints.join(",")
            ));
        }
        Side::read(&root(), "after", &[&text])
    };
    let live = installed(&compile(&side(3).plan, &BTreeMap::new()));
    let case = Case::between(live, side(4), Host::default());
    let started = std::time::Instant::now();
    let text = case.text(false);
    // Unoptimized, and beside other tests: it takes some 20 ms.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
    assert!(text.lines().count() <= 3, "{text}");
    assert!(text.contains("default/s5000"), "{text}");
}

#[test]
fn each_kind_of_object_is_planned_in_some_case() {
    let mut seen = BTreeSet::new();
    for folder in folders() {
        let case = Case::of(&folder);
        seen.extend(case.report().changes.iter().map(|c| (c.kind, c.action)));
    }
    for kind in [Kind::Service, Kind::HostPort, Kind::Route] {
        for action in [Action::Add, Action::Change, Action::Remove] {
            assert!(seen.contains(&(kind, action)), "{kind:?} {action:?}");
        }
    }
    for kind in [
        Kind::ClusterIp,
        Kind::LocalEndpoint,
        Kind::Table,
        Kind::Rules,
        Kind::Sysctl,
        Kind::Flow,
        Kind::Client,
    ] {
        assert!(seen.iter().any(|(k, _)| *k == kind), "{kind:?}");
    }
}
