//! The kernel is the judge: what is installed over netlink lists as the rendered text does
//! when nft loads it, reads back as what was wanted, and is written once.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod support;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};
use support::{full_plan, in_namespace, listing, objects, run};
use svcnat::apply::{Host as _, ThisHost, Verification, holds, reconcile};
use svcnat::cluster::{Change, Cluster, ObjectName};
use svcnat::compile::{FOLLOWING, compile};
use svcnat::config::Config;
use svcnat::diff::diff;
use svcnat::engine::Engine;
use svcnat::follow::{KernelSync, NameWriters};
use svcnat::netlink::{NetlinkError, Nfnetlink};
use svcnat::plan::{NodeContext, NodePlan, plan};
use svcnat::print::{json, text};
use svcnat::ruleset::{Datum, ElementData, Family, Following, LiveRuleset, Ruleset};
use svcnat::source::{Loaded, load_str};
use svcnat::transaction::{Operation, TableChange, Transaction};

fn text_of(ruleset: &Ruleset) -> String {
    let mut out = Vec::new();
    text::ruleset(&mut out, ruleset).unwrap();
    String::from_utf8(out).unwrap()
}

fn fresh(plan: &NodePlan) -> Ruleset {
    compile(plan, &BTreeMap::new())
}

fn wanted(plan: &NodePlan) -> impl Fn(&LiveRuleset) -> Ruleset {
    move |live| compile(plan, &live.sets())
}

#[test]
fn netlink_and_nft_install_the_same() {
    let plan = full_plan();
    let by_netlink = in_namespace(|| {
        let mut kernel = ThisHost::open().unwrap();
        reconcile(&mut kernel, wanted(&plan)).unwrap();
        listing()
    });
    let by_nft = in_namespace(|| {
        run("nft", &["-f", "-"], &text_of(&fresh(&plan)));
        listing()
    });
    assert_eq!(by_netlink.len(), by_nft.len());
    for (a, b) in by_netlink.iter().zip(&by_nft) {
        assert_eq!(a, b);
    }
}

#[test]
fn what_nft_loaded_reads_back_as_ours() {
    let plan = full_plan();
    in_namespace(|| {
        run("nft", &["-f", "-"], &text_of(&fresh(&plan)));
        let live = Nfnetlink::open().unwrap().read(FOLLOWING).unwrap();
        let delta = diff(&fresh(&plan), &live);
        let mut shown = Vec::new();
        svcnat::transaction::write(&mut shown, &delta).unwrap();
        assert!(delta.is_empty(), "{}", String::from_utf8_lossy(&shown));
    });
}

#[test]
fn printed_json_is_what_nft_lists() {
    let plan = full_plan();
    let mut printed = Vec::new();
    json::ruleset(&mut printed, &fresh(&plan)).unwrap();
    let printed = objects(&String::from_utf8(printed).unwrap());
    let listed = in_namespace(|| {
        run("nft", &["-f", "-"], &text_of(&fresh(&plan)));
        listing()
    });
    // nft writes the timeout of an update in words of its own.
    let plain = |v: &serde_json::Value| {
        v.to_string()
            .replace("timeout 10800s", "timeout 3h")
            .replace("timeout 600s", "timeout 10m")
    };
    // Older ones than 1.0.8 list no comment of a table or chain.
    let comment = |v: &serde_json::Value| {
        let object = v.get("table").or_else(|| v.get("chain"))?;
        object.get("comment").cloned()
    };
    for (a, b) in printed.iter().zip(&listed) {
        let mut a = a.clone();
        if comment(b).is_none() {
            for kind in ["table", "chain"] {
                if let Some(object) = a.get_mut(kind).and_then(|o| o.as_object_mut()) {
                    assert!(object.remove("comment").is_some(), "{kind}");
                }
            }
        }
        assert_eq!(plain(&a), plain(b));
    }
    assert_eq!(printed.len(), listed.len());
}

#[test]
fn what_nft_lists_loads_again() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = ThisHost::open().unwrap();
        reconcile(&mut kernel, wanted(&plan)).unwrap();
        let before = listing();
        let text = run("nft", &["list", "ruleset"], "");
        run("nft", &["flush", "ruleset"], "");
        run("nft", &["-f", "-"], &text);
        assert_eq!(before, listing());
    });
}

#[test]
fn a_second_apply_sends_nothing_and_delete_leaves_nothing() {
    let plan = full_plan();
    in_namespace(|| {
        run("nft", &["add", "table", "ip", "other"], "");
        let foreign = listing();
        let mut kernel = ThisHost::open().unwrap();
        let first = reconcile(&mut kernel, wanted(&plan)).unwrap();
        assert!(first.committed.unwrap().bytes > 1000);
        let generation = kernel.generation().unwrap();
        let second = reconcile(&mut kernel, wanted(&plan)).unwrap();
        assert_eq!(second.committed, None);
        assert_eq!(kernel.generation().unwrap(), generation);
        reconcile(&mut kernel, |_| Ruleset::default()).unwrap();
        assert_eq!(listing(), foreign);
    });
}

#[test]
fn a_batch_bound_to_an_old_generation_is_refused_whole() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        run("nft", &["add", "table", "ip", "other"], "");
        let live = kernel.read(FOLLOWING).unwrap();
        run("nft", &["add", "table", "ip", "another"], "");
        let delta = diff(&fresh(&plan), &live);
        let result = kernel.commit(&delta, live.generation);
        assert!(matches!(result, Err(NetlinkError::Raced)), "{result:?}");
        assert!(kernel.read(FOLLOWING).unwrap().tables.is_empty());
    });
}

#[test]
fn a_dry_run_on_the_server_checks_and_changes_nothing() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        let live = kernel.read(FOLLOWING).unwrap();
        let delta = diff(&fresh(&plan), &live);
        kernel.validate(&delta, live.generation).unwrap();
        assert!(kernel.read(FOLLOWING).unwrap().tables.is_empty());
    });
}

#[test]
fn a_refused_operation_is_named_and_nothing_of_its_batch_stays() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        let live = kernel.read(FOLLOWING).unwrap();
        let mut delta = diff(&fresh(&plan), &live);
        for table in &mut delta.tables {
            table
                .operations
                .push(svcnat::transaction::Operation::DeleteSet("missing".into()));
        }
        let error = kernel.commit(&delta, 0).unwrap_err().to_string();
        assert!(
            error.contains("to delete set missing in ip svcnat"),
            "{error}"
        );
        assert!(kernel.read(FOLLOWING).unwrap().tables.is_empty());
    });
}

#[test]
fn asking_for_each_element_tells_what_is_installed_from_what_was_tampered_with() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = ThisHost::open().unwrap();
        assert_eq!(
            holds(&mut kernel, &fresh(&plan)).unwrap(),
            Verification::Differs
        );
        let done = reconcile(&mut kernel, wanted(&plan)).unwrap();
        let in_force = fresh(&plan);
        let mut held = || holds(&mut kernel, &in_force).unwrap();
        assert_eq!(held(), Verification::Whole(done.generation));
        // As many elements as before, each time.
        for (remove, add) in [
            ("cluster-ips { 10.254.0.10 }", "cluster-ips { 10.254.0.99 }"),
            (
                "host-ports { tcp . 80 }",
                "host-ports { tcp . 80 : 172.17.0.9 . 80 }",
            ),
            (
                "cluster-ips { 10.254.0.11 }",
                "cluster-ips { 10.254.0.11 comment \"other\" }",
            ),
            (
                "service-cidrs { 10.254.0.0/24 }",
                "service-cidrs { 10.254.1.0/24 }",
            ),
        ] {
            let undo = run("nft", &["-s", "list", "ruleset"], "");
            let change = format!("delete element ip svcnat {remove}\nadd element ip svcnat {add}");
            run("nft", &["-f", "-"], &change);
            assert_eq!(held(), Verification::Differs, "{add}");
            run("nft", &["-f", "-"], &format!("flush ruleset\n{undo}"));
            assert!(matches!(held(), Verification::Whole(_)), "undone: {add}");
        }
    });
}

#[test]
fn what_is_asked_for_by_key_is_what_a_dump_reads() {
    let plan = full_plan();
    let by_key = Following {
        beyond: 0,
        ..FOLLOWING
    };
    in_namespace(|| {
        reconcile(&mut ThisHost::open().unwrap(), wanted(&plan)).unwrap();
        let mut kernel = Nfnetlink::open().unwrap();
        let dumped = kernel.read(Following::default()).unwrap();
        assert_eq!(kernel.read(by_key).unwrap(), dumped);
        for (name, _) in FOLLOWING.sets {
            let sets = dumped.tables.values().filter_map(|t| t.sets.get(*name));
            let elements: usize = sets.map(|set| set.elements.len()).sum();
            assert!(elements > 1, "{name} holds nothing to ask for");
        }

        // What nothing leads to is seen by the kernel's own count, and goes.
        let live = &dumped.tables[&Family::Ip];
        if !live.counts.contains_key("endpoints") {
            return;
        }
        let foreign = "endpoints { 0:77 . tcp . 0x0 : 172.17.0.9 . 80 }";
        run("nft", &["add", "element", "ip", "svcnat", foreign], "");
        let found = kernel.read(by_key).unwrap();
        let seen = &found.tables[&Family::Ip].foreign;
        assert_eq!(seen, &["set endpoints: elements that nothing leads to"]);
        let delta = diff(&fresh(&plan), &found);
        kernel.commit(&delta, found.generation).unwrap();
        assert_eq!(kernel.read(by_key).unwrap().tables, dumped.tables);

        // What is missing among what they lead to is added; of what leads to others, all is
        // built anew, since those now have nothing that leads to them.
        for (set, alone) in [("endpoints", true), ("affinity-handles", false)] {
            let of_set = &dumped.tables[&Family::Ip].sets[set];
            let (key, element) = of_set.elements.first_key_value().unwrap();
            let mut gone = TableChange::empty(Family::Ip);
            gone.sets.insert(set.to_owned(), of_set.clone());
            let elements = vec![(*key, element.clone())];
            gone.operations = vec![Operation::DeleteElements(set.to_owned(), elements)];
            let gone = Transaction { tables: vec![gone] };
            kernel.commit(&gone, 0).unwrap();
            let found = kernel.read(by_key).unwrap();
            let delta = diff(&fresh(&plan), &found);
            let counts = delta.counts();
            let one = (counts.elements_added, counts.rules_added) == (1, 0);
            assert_eq!(one, alone, "{set}: {counts:?}");
            kernel.commit(&delta, found.generation).unwrap();
            assert_eq!(kernel.read(by_key).unwrap().tables, dumped.tables);
        }
    });
}

/// Sends what looks like an answer of the kernel's to the socket with this port.
fn forge(port: u32, seq: u32, errno: i32) {
    let flags = SockFlag::SOCK_CLOEXEC;
    let protocol = SockProtocol::NetlinkNetFilter;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).unwrap();
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&36_u32.to_ne_bytes());
    bytes.extend_from_slice(&2_u16.to_ne_bytes());
    bytes.extend_from_slice(&0_u16.to_ne_bytes());
    bytes.extend_from_slice(&seq.to_ne_bytes());
    bytes.extend_from_slice(&port.to_ne_bytes());
    bytes.extend_from_slice(&(-errno).to_ne_bytes());
    bytes.extend_from_slice(&[0; 16]);
    let to = NetlinkAddr::new(port, 0);
    let sent = sendto(socket.as_raw_fd(), &bytes, &to, MsgFlags::empty());
    assert_eq!(sent, Ok(bytes.len()));
}

#[test]
fn answers_that_another_process_sends_are_not_the_kernels() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        let before = kernel.generation().unwrap();
        for seq in 0..2000 {
            forge(kernel.port(), seq, 1);
        }
        assert_eq!(kernel.generation().unwrap(), before);
        let live = kernel.read(FOLLOWING).unwrap();
        for seq in 0..2000 {
            forge(kernel.port(), seq, 1);
        }
        kernel
            .commit(&diff(&fresh(&plan), &live), live.generation)
            .unwrap();
        assert!(diff(&fresh(&plan), &kernel.read(FOLLOWING).unwrap()).is_empty());
        // Nor is a forged acknowledgement a success.
        for seq in 0..20_000 {
            forge(kernel.port(), seq, 0);
        }
        let result = kernel.commit(&Transaction::default(), before + 100);
        assert!(matches!(result, Err(NetlinkError::Raced)), "{result:?}");
    });
}

#[test]
fn the_element_the_kernel_refuses_is_named_with_its_owner() {
    let plan = full_plan();
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        let live = kernel.read(FOLLOWING).unwrap();
        let mut tried = 0;
        for nth in [0, 1, 2] {
            for table in 0..2 {
                let mut delta = diff(&fresh(&plan), &live);
                let operations = delta.tables[table].operations.iter_mut();
                let mut maps = operations.filter_map(|operation| match operation {
                    Operation::AddElements(set, elements) if set == "endpoints" => Some(elements),
                    _ => None,
                });
                let Some((key, element)) = maps.next().and_then(|m| m.get_mut(nth)) else {
                    continue;
                };
                // An endpoint that is a lone number.
                element.data = ElementData::Value(Datum::new().u32(7));
                let (key, owner) = (*key, element.comment.clone().unwrap());
                let error = kernel.commit(&delta, 0).unwrap_err();
                let said = error.to_string();
                let NetlinkError::Refused {
                    element: Some(found),
                    ..
                } = error
                else {
                    panic!("{said}");
                };
                assert_eq!(found.set, "endpoints");
                assert_eq!(found.key, key);
                assert_eq!(found.comment.as_ref(), Some(&owner));
                assert!(said.contains(&*owner), "{said}");
                tried += 1;
            }
        }
        assert!(tried >= 3);
        assert!(kernel.read(FOLLOWING).unwrap().tables.is_empty());
    });
}

fn cluster(text: &str) -> Cluster {
    let mut loaded = Loaded::default();
    load_str(text, "test", &mut loaded);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.cluster
}

/// A Service and its slice.
fn service(name: &str, n: u8, endpoints: &[u8]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|i| format!(r#"{{"addresses": ["172.17.{n}.{i}"]}}"#))
        .collect();
    let endpoints = endpoints.join(", ");
    format!(
        r#"
---
{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{name}"}},
  "spec": {{"clusterIP": "10.254.0.{n}", "ports": [{{"port": 80}}]}}}}
---
{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
  "metadata": {{"name": "{name}-1", "labels": {{"kubernetes.io/service-name": "{name}"}}}},
  "ports": [{{"port": 80}}], "endpoints": [{endpoints}]}}
"#
    )
}

/// Loads our empty table with a map of endpoints that holds no more than so many: the kernel
/// then refuses whoever comes last.
fn with_room_for(endpoints: u32, config: &Config, others: &str) {
    let cluster = cluster(others);
    let (node, _) = NodeContext::resolve(&cluster, config, &[]);
    let mut ruleset = fresh(&plan(&cluster, config, &node).0);
    for table in ruleset.tables.values_mut() {
        for set in table.sets.values_mut() {
            set.elements.clear();
        }
    }
    let text = text_of(&ruleset);
    let map =
        "\t\ttypeof meta priority . meta l4proto . numgen random mod 2 : ip daddr . th dport\n";
    assert!(text.contains(map), "{text}");
    let small = text.replacen(map, &format!("{map}\t\tsize {endpoints};\n"), 1);
    run("nft", &["-f", "-"], &small);
}

#[test]
fn a_service_the_kernel_refuses_costs_only_itself_and_is_tried_again_when_it_changes() {
    let config = Config {
        node_name: "n1".into(),
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        manage_routes: false,
        ..Config::default()
    };
    let all = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
    let text: String = all.map(|(name, n)| service(name, n, &[2, 3])).concat();
    in_namespace(|| {
        with_room_for(6, &config, &text);
        let mut kernel = Nfnetlink::open().unwrap();
        let mut sync = KernelSync::open(false, false, NameWriters::Never).unwrap();
        let mut engine = Engine::with_cluster(config.clone(), Vec::new(), cluster(&text));
        sync.sync(&mut engine).unwrap();
        let aside: Vec<ObjectName> = engine.aside().keys().cloned().collect();
        assert_eq!(aside.len(), 1, "{:?}", engine.aside());
        let reason = &engine.aside()[&aside[0]];
        assert!(reason.contains(&aside[0].to_string()), "{reason}");
        let held = |kernel: &mut Nfnetlink| {
            let live = kernel.read(FOLLOWING).unwrap();
            live.tables[&Family::Ip].sets["endpoints"].elements.len()
        };
        assert_eq!(held(&mut kernel), 6);

        // Another Service goes on being updated.
        let other = all.iter().find(|(n, _)| *n != &*aside[0].name).unwrap();
        let mut change = |text: &str, sync: &mut KernelSync| {
            for (name, slices) in cluster(text).slices {
                for slice in slices.iter() {
                    assert_eq!(slice.service, name);
                    let change = Some(Box::new(slice.clone()));
                    engine.apply(Change::Slice(slice.name.clone(), change));
                }
            }
            let synced = sync.sync(&mut engine).unwrap();
            (synced.full, engine.aside().len())
        };
        let moved = service(other.0, other.1, &[2, 9]);
        assert_eq!(change(&moved, &mut sync), (false, 1));
        let fewer = service(other.0, other.1, &[]);
        assert_eq!(change(&fewer, &mut sync), (false, 1));
        assert_eq!(held(&mut kernel), 4);

        // Changed, and with room for it now, the one set aside is taken.
        let n = all.iter().find(|(n, _)| *n == &*aside[0].name).unwrap().1;
        let bad = service(&aside[0].name, n, &[4, 5]);
        assert_eq!(change(&bad, &mut sync), (false, 0));
        assert_eq!(held(&mut kernel), 6);
        // With one more it is refused once more, as an increment this time.
        let more = service(&aside[0].name, n, &[4, 5, 6]);
        assert_eq!(change(&more, &mut sync), (true, 1));
        assert_eq!(held(&mut kernel), 4);
    });
}

#[test]
fn counters_are_read_where_a_family_has_no_table() {
    in_namespace(|| {
        let mut kernel = Nfnetlink::open().unwrap();
        let mut read = || {
            let mut seen = 0;
            let (any, steady) = kernel.counters(|_, _, _, _, _| seen += 1).unwrap();
            assert!(steady);
            (any, seen)
        };
        assert_eq!(read(), (false, 0));
        let text = "table ip svcnat {\n\
            set service-ips { type ipv4_addr; counter; elements = { 10.254.0.2 counter } }\n}";
        run("nft", &["-f", "-"], text);
        assert_eq!(read(), (true, 1));
    });
}

#[test]
fn apply_installs_all_but_the_service_the_kernel_refuses_and_fails_with_its_name() {
    let config = Config {
        node_name: "n1".into(),
        service_cidrs: vec!["10.254.0.0/16".parse().unwrap()],
        cluster_cidrs: vec!["172.17.0.0/16".parse().unwrap()],
        manage_routes: false,
        ..Config::default()
    };
    let all = [("a", 1), ("b", 2), ("c", 3), ("d", 4)];
    let text: String = all.map(|(name, n)| service(name, n, &[2, 3])).concat();
    in_namespace(|| {
        with_room_for(6, &config, &text);
        let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args([
                "apply",
                "-f",
                "-",
                "--node-name=n1",
                "--manage-routes=false",
            ])
            .args(["--sysctls=ignore", "--cluster-cidr=172.17.0.0/16"])
            .args(["--service-cluster-ip-range=10.254.0.0/16"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let done = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(3), "{said}");
        let named = all.iter().filter(|(name, _)| {
            let named = format!("Service default/{name} is left out");
            said.contains(&named)
        });
        assert_eq!(named.count(), 1, "{said}");
        let live = Nfnetlink::open().unwrap().read(FOLLOWING).unwrap();
        let sets = &live.tables[&Family::Ip].sets;
        assert_eq!(sets["endpoints"].elements.len(), 6);
        assert_eq!(sets["cluster-ips"].elements.len(), 3);
    });
}
