//! What is kept of a change leads back from it, whatever the change.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::sealed;
use super::{Back, Care, Fingerprint, Record, RoutesBack, TablesBack, put_back};
use crate::apply::tests::fake::Fake;
use crate::apply::tests::flow;
use crate::config::Config;
use crate::diff::diff;
use crate::host::routes::{LiveRoute, RouteDelta, plan};
use crate::node::Node;
use crate::plan::Route;
use crate::ruleset::{
    DataType, Element, ElementData, Family, LiveChain, LiveRuleset, LiveTable, Ruleset, Set,
    SetKind, Table, Value, lower,
};
use crate::transaction::{Operation, Transaction};

/// What the kernel holds after a ruleset was installed.
fn live(ruleset: &Ruleset) -> LiveRuleset {
    ruleset.clone().into_live()
}

/// Carries `delta` out as strictly as the kernel: what is added was not there, what goes was.
fn carry_out(live: &mut LiveRuleset, delta: &Transaction) {
    for change in &delta.tables {
        for operation in &change.operations {
            if *operation == Operation::DeleteTable {
                assert!(live.tables.remove(&change.family).is_some());
                continue;
            }
            if *operation == Operation::AddTable {
                let new = live.tables.insert(change.family, LiveTable::default());
                assert_eq!(new, None);
                continue;
            }
            let table = live.tables.get_mut(&change.family).unwrap();
            let skeleton = Table::new(change.family);
            let skeleton = change.skeleton.as_ref().unwrap_or(&skeleton);
            operate(table, operation, skeleton, &change.sets);
        }
    }
}

fn operate(
    table: &mut LiveTable,
    operation: &Operation,
    skeleton: &Table,
    declared: &BTreeMap<String, Set>,
) {
    match operation {
        Operation::AddSet(set) => {
            assert!(set.elements.is_empty());
            assert_eq!(table.sets.insert(set.name.clone(), set.clone()), None);
        }
        Operation::DeleteSet(name) => drop(table.sets.remove(name).unwrap()),
        Operation::AddChain(chain) => {
            let (base, rules) = (chain.base, Vec::new());
            let new = LiveChain { base, rules };
            assert_eq!(table.chains.insert(chain.name.clone(), new), None);
        }
        Operation::DeleteChain(name) => {
            assert!(table.chains.remove(name).unwrap().rules.is_empty());
        }
        Operation::FlushChain(name) => table.chains.get_mut(name).unwrap().rules.clear(),
        Operation::AddRules(name, rules) => {
            let rules = rules.iter().map(|rule| lower(rule, skeleton));
            table.chains.get_mut(name).unwrap().rules.extend(rules);
        }
        Operation::RestoreRules(name, rules) => {
            let held = &mut table.chains.get_mut(name).unwrap().rules;
            held.extend(rules.iter().cloned());
        }
        Operation::DeleteElements(name, elements) => {
            assert!(declared.contains_key(name), "{name} is not declared");
            let held = &mut table.sets.get_mut(name).unwrap().elements;
            for (key, element) in elements {
                assert_eq!(held.remove(key).as_ref(), Some(element));
            }
        }
        Operation::AddElements(name, elements) => {
            assert!(declared.contains_key(name), "{name} is not declared");
            let held = &mut table.sets.get_mut(name).unwrap().elements;
            for (key, element) in elements {
                assert_eq!(held.insert(*key, element.clone()), None);
            }
        }
        other => panic!("{other:?}"),
    }
}

fn node(settings: impl FnOnce(&mut Config), services: &str) -> Ruleset {
    let mut config = Config {
        node_name: "n1".to_owned(),
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        ..Config::default()
    };
    settings(&mut config);
    let (node, problems) = Node::parse(services, config);
    assert!(problems.is_empty(), "{problems:?}");
    node.ruleset()
}

fn service(name: &str, spec: &str, endpoints: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}, ports: \
         [{{port: 80, nodePort: 30080}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata: {{name: {name}-a, labels: {{kubernetes.io/service-name: \
         {name}}}}}\naddressType: IPv4\nports: [{{port: 80}}]\nendpoints: [{endpoints}]\n---\n"
    )
}

/// States that have little in common.
fn states() -> Vec<Ruleset> {
    let one = service("a", "clusterIP: 10.254.0.1", "{addresses: [172.17.0.1]}")
        .replace(", nodePort: 30080", "");
    let two = service(
        "a",
        "clusterIP: 10.254.0.1, type: NodePort, sessionAffinity: ClientIP",
        "{addresses: [172.17.0.1]}, {addresses: [172.17.0.2]}",
    );
    let three = service("b", "clusterIP: 10.254.0.9, type: NodePort", "");
    vec![
        Ruleset::default(),
        node(|_| {}, &one),
        node(|_| {}, &two),
        node(
            |config| config.masquerade_all = true,
            &format!("{one}{three}"),
        ),
        node(|config| config.service_counters = true, &two),
    ]
}

#[test]
fn what_is_kept_of_a_change_leads_back_from_it() {
    for (i, before) in states().iter().enumerate() {
        for (j, after) in states().iter().enumerate() {
            let what = format!("from {i} to {j}");
            let (old, mut now) = (live(before), live(before));
            let delta = diff(after, &old);
            let (back, obstacles) = TablesBack::of(&old, &delta);
            assert_eq!(obstacles, Vec::<String>::new(), "{what}");
            assert_eq!(back.is_empty(), i == j, "{what}");
            assert!(back.covers(&delta), "{what}");
            carry_out(&mut now, &delta);
            let kept = serde_json::to_string(&back).unwrap();
            let back: TablesBack = serde_json::from_str(&kept).unwrap();
            for known in [None, Some(now.clone())] {
                let (steps, lost) = back.steps(known.as_ref());
                assert_eq!(lost, Vec::<String>::new(), "{what}");
                let mut again = now.clone();
                carry_out(&mut again, &steps);
                assert_eq!(without_comments(&again), without_comments(&old), "{what}");
                // Done once, there is nothing left to do.
                let (left, _) = back.steps(Some(&again));
                assert!(left.is_empty(), "{what}: {left:?}");
            }
        }
    }
}

/// Comments of sets are for people, and no part of a comparison.
fn without_comments(live: &LiveRuleset) -> LiveRuleset {
    let mut live = live.clone();
    for set in live.tables.values_mut().flat_map(|t| t.sets.values_mut()) {
        set.comment = "";
    }
    live
}

#[test]
fn what_others_changed_meanwhile_stays() {
    let all = states();
    let old = live(&all[1]);
    let delta = diff(&all[2], &old);
    let (back, _) = TablesBack::of(&old, &delta);
    let mut now = old.clone();
    carry_out(&mut now, &delta);
    let sets = &mut now.tables.get_mut(&Family::Ip).unwrap().sets;
    let theirs = Value::new().addr("10.254.77.7".parse().unwrap());
    let element = Element::new(ElementData::None);
    sets.get_mut("cluster-ips")
        .unwrap()
        .elements
        .insert(theirs, element.clone());
    let (steps, lost) = back.steps(Some(&now));
    assert_eq!(lost, Vec::<String>::new());
    carry_out(&mut now, &steps);
    let mut wanted = old;
    let sets = &mut wanted.tables.get_mut(&Family::Ip).unwrap().sets;
    sets.get_mut("cluster-ips")
        .unwrap()
        .elements
        .insert(theirs, element);
    assert_eq!(without_comments(&now), without_comments(&wanted));
}

#[test]
fn a_table_that_is_gone_is_said_to_be_lost() {
    let all = states();
    let old = live(&all[1]);
    let (back, _) = TablesBack::of(&old, &diff(&all[2], &old));
    let (steps, lost) = back.steps(Some(&LiveRuleset::default()));
    assert!(steps.is_empty());
    assert_eq!(lost.len(), 1);
    assert!(lost[0].contains("is gone"), "{lost:?}");
}

#[test]
fn a_change_beyond_what_is_kept_is_not_covered() {
    let all = states();
    let old = live(&all[1]);
    let (back, _) = TablesBack::of(&old, &diff(&all[2], &old));
    assert!(!back.covers(&diff(&all[3], &old)));
}

#[test]
fn rules_of_another_program_cannot_be_put_back() {
    let all = states();
    let mut old = live(&all[1]);
    let chains = &mut old.tables.get_mut(&Family::Ip).unwrap().chains;
    let chain = chains.get_mut("nat-prerouting").unwrap();
    let name = "quota".to_owned();
    chain
        .rules
        .push(vec![crate::ruleset::bytecode::Instr::Unknown { name }]);
    let (_, obstacles) = TablesBack::of(&old, &diff(&all[1], &old));
    assert_eq!(obstacles.len(), 1);
    assert!(obstacles[0].contains("nat-prerouting"), "{obstacles:?}");
}

#[test]
fn a_fingerprint_is_the_same_of_what_is_wanted_and_of_the_kernel_that_holds_it() {
    for (i, state) in states().iter().enumerate() {
        let wanted = Fingerprint::of_wanted(state);
        assert_eq!(wanted, Fingerprint::of_live(&live(state)));
        for (j, other) in states().iter().enumerate() {
            let differs = wanted.differences(&Fingerprint::of_live(&live(other)));
            assert_eq!(differs.is_empty(), i == j, "{i} {j}: {differs:?}");
        }
    }
    // What packets fill in is no difference.
    let mut filled = live(&states()[2]);
    let sets = &mut filled.tables.get_mut(&Family::Ip).unwrap().sets;
    let clients = sets.get_mut("affinity-clients").unwrap();
    assert!(matches!(clients.kind, SetKind::Dynamic { .. }));
    let key = Value::new().u32(1).addr("192.0.2.1".parse().unwrap());
    clients
        .elements
        .insert(key, Element::new(ElementData::None));
    let wanted = Fingerprint::of_wanted(&states()[2]);
    assert_eq!(
        wanted.differences(&Fingerprint::of_live(&filled)),
        Vec::<String>::new()
    );
}

#[test]
fn a_range_is_kept_with_its_end() {
    let from = Value::new().addr("10.0.0.0".parse().unwrap());
    let to = Value::new().addr("10.0.0.9".parse().unwrap());
    let mut set = Set::exact("s", &[DataType::Ipv4Addr]).interval();
    set.elements
        .insert(from, Element::new(ElementData::None).through(to));
    let kept = serde_json::to_string(&set).unwrap();
    assert_eq!(serde_json::from_str::<Set>(&kept).unwrap(), set);
    for wrong in ["", "abc", "0g", &"00".repeat(41)] {
        let value = serde_json::from_str::<Value>(&format!("{wrong:?}"));
        assert!(value.is_err(), "{wrong:?}");
    }
}

fn want(destination: &str, via: &str) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        via: via.parse().unwrap(),
        node: "n".to_owned(),
    }
}

fn have(destination: &str, via: &str, metric: u32) -> LiveRoute {
    LiveRoute {
        destination: destination.parse().unwrap(),
        via: Some(via.parse().unwrap()),
        metric,
    }
}

#[test]
fn routes_go_back_to_what_they_were() {
    let before = BTreeSet::from([
        have("10.1.0.0/24", "192.0.2.1", 0),
        have("10.2.0.0/24", "192.0.2.2", 0),
        have("fd00:1::/64", "fd00::1", 1024),
    ]);
    let wanted = BTreeSet::from([
        want("10.1.0.0/24", "192.0.2.9"),
        want("10.3.0.0/24", "192.0.2.3"),
        want("fd00:1::/64", "fd00::1"),
    ]);
    let delta = plan(&wanted, &before);
    let back = RoutesBack::of(&delta);
    let after = BTreeSet::from([
        have("10.1.0.0/24", "192.0.2.9", 0),
        have("10.3.0.0/24", "192.0.2.3", 0),
        have("fd00:1::/64", "fd00::1", 1024),
    ]);
    assert_eq!(back.differences(&after), Vec::<String>::new());
    assert_eq!(back.differences(&before).len(), 3);
    let (steps, lost) = back.steps(&after);
    assert_eq!(lost, Vec::<String>::new());
    assert_eq!(steps.delete, [have("10.3.0.0/24", "192.0.2.3", 0)]);
    assert_eq!(steps.add[0].destination, "10.2.0.0/24".parse().unwrap());
    let (old, new) = &steps.replace[0];
    assert_eq!(
        (old.via, Some(new.via)),
        (after.first().unwrap().via, before.first().unwrap().via)
    );
    assert_eq!((steps.add.len(), steps.replace.len()), (1, 1));
    let odd = RouteDelta {
        delete: vec![have("10.1.0.0/24", "192.0.2.1", 7)],
        ..RouteDelta::default()
    };
    let (steps, lost) = RoutesBack::of(&odd).steps(&BTreeSet::new());
    assert!(steps.is_empty() && lost.len() == 1, "{lost:?}");
}

struct Path(PathBuf);

impl Path {
    fn new(name: &str) -> Self {
        let name = format!("svcnat-sealed-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn read(&self) -> Result<String, String> {
        sealed::read::<String>(&self.0, "thing", 1).map_err(|error| error.to_string())
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_sealed_file_that_is_not_whole_is_refused_with_the_reason() {
    let file = Path::new("whole");
    let text = "10.254.0.1 \u{202e} \"web\"".to_owned();
    sealed::write(&file.0, "thing", 1, &text).unwrap();
    assert_eq!(file.read(), Ok(text.clone()));
    let whole = fs::read(&file.0).unwrap();
    assert_eq!(
        fs::metadata(&file.0).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(
        !String::from_utf8(whole.clone())
            .unwrap()
            .contains('\u{202e}')
    );
    let says = |bytes: &[u8], what: &str| {
        fs::write(&file.0, bytes).unwrap();
        let error = file.read().unwrap_err();
        assert!(error.contains(what), "{error}");
    };
    for end in 0..whole.len() - 2 {
        says(&whole[..end], "not all of it is there");
    }
    let text = String::from_utf8(whole.clone()).unwrap();
    says(
        text.replace("10.254.0.1", "10.254.0.2").as_bytes(),
        "digest",
    );
    says(
        text.replace("\"version\":1", "\"version\":2").as_bytes(),
        "version 2",
    );
    says(
        text.replace("\"thing\"", "\"other\"").as_bytes(),
        "is no thing",
    );
    says(b"kind: Service", "is no thing");
    says(b"\xff", "is no thing");
    fs::write(&file.0, &whole).unwrap();
    fs::set_permissions(&file.0, fs::Permissions::from_mode(0o620)).unwrap();
    assert!(
        file.read().unwrap_err().contains("others"),
        "{:?}",
        file.read()
    );
}

#[test]
fn nothing_but_a_regular_file_is_written_over() {
    let folder = Path::new("folder");
    fs::create_dir(&folder.0).unwrap();
    let error = sealed::write(&folder.0, "thing", 1, &1).unwrap_err();
    assert!(error.to_string().contains("regular"), "{error}");
    fs::remove_dir(&folder.0).unwrap();
    std::os::unix::fs::symlink("/dev/null", &folder.0).unwrap();
    assert!(sealed::write(&folder.0, "thing", 1, &1).is_err());
    assert!(sealed::read::<u8>(&folder.0, "thing", 1).is_err());
}

/// What is kept of an installation that the host has just seen.
fn record(host: &Fake, before: &LiveRuleset, after: &Ruleset) -> Record {
    Record {
        boot_id: String::new(),
        namespace: 0,
        made: 0,
        summary: String::new(),
        generation: host.generation,
        after: Fingerprint::of_wanted(after),
        back: Back {
            tables: TablesBack::of(before, &diff(after, before)).0,
            ..Back::default()
        },
        waiting: None,
    }
}

/// Two UDP services, `a` with these endpoints.
fn names(endpoints: &str) -> Ruleset {
    let one = service("a", "clusterIP: 10.254.0.1", endpoints);
    let other = service("b", "clusterIP: 10.254.0.2", "{addresses: [172.17.0.9]}");
    let udp = format!("{one}{other}")
        .replace("port: 80, nodePort: 30080", "port: 53, protocol: UDP")
        .replace("port: 80", "port: 53, protocol: UDP");
    node(|_| {}, &udp)
}

#[test]
fn flows_that_began_since_are_cut_where_nothing_leads_any_more() {
    let (before, after) = (
        names("{addresses: [172.17.0.1]}"),
        names("{addresses: [172.17.0.9]}"),
    );
    let mut host = Fake::new();
    host.kernel.tables = after.tables.clone();
    let old = live(&before);
    let record = record(&host, &old, &after);
    // To the endpoint that it has no more, to the one that it has again, and to one that
    // another service still has.
    host.flows = BTreeSet::from([flow(1, 9), flow(1, 1), flow(2, 9)]);
    let done = put_back(&mut host, &record, Care::Watched).unwrap();
    assert_eq!((done.flows, &done.failed[..]), (1, &[][..]));
    assert_eq!(host.flows, BTreeSet::from([flow(1, 1), flow(2, 9)]));
    assert!(host.kernel.holds(&before));
    // What is left is the state before, not what was left by the installation.
    let again = put_back(&mut host, &record, Care::Unchanged).unwrap_err();
    assert!(again.to_string().contains("differs"), "{again}");
}

#[test]
fn flows_go_with_a_table_that_goes_and_only_ours() {
    let after = names("{addresses: [172.17.0.1]}");
    let mut host = Fake::new();
    host.kernel.tables = after.tables.clone();
    let none = LiveRuleset::default();
    let record = record(&host, &none, &after);
    host.flows = BTreeSet::from([flow(1, 1), flow(7, 1)]);
    let done = put_back(&mut host, &record, Care::Watched).unwrap();
    assert_eq!((done.flows, &done.failed[..]), (1, &[][..]));
    assert_eq!(host.flows, BTreeSet::from([flow(7, 1)]));
    assert!(host.kernel.tables.is_empty());
}

#[test]
fn another_commit_in_between_costs_another_look() {
    let (before, after) = (
        names("{addresses: [172.17.0.1]}"),
        names("{addresses: [172.17.0.9]}"),
    );
    let mut host = Fake::new();
    host.kernel.tables = after.tables.clone();
    let old = live(&before);
    let record = record(&host, &old, &after);
    host.in_between.push_back(Box::new(|kernel| {
        kernel.others.insert((Family::Ip, "theirs".to_owned()));
    }));
    put_back(&mut host, &record, Care::Watched).unwrap();
    assert!(host.kernel.holds(&before));
    assert_eq!(host.kernel.others.len(), 1);
}
