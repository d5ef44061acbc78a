//! What must hold for any input whatever: the bodies of the fuzz targets in `fuzz/`, which
//! `tests/corpus.rs` runs over the seeds as ordinary tests.
//!
//! Each takes bytes and panics if something does not hold. Not part of the interface.

mod histories;
mod kernel;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use histories::histories;
pub use kernel::{Kernel, Owner, Refused, target};

use crate::cluster::Cluster;
use crate::compile::compile;
use crate::config::Config;
use crate::diff::diff;
use crate::follow::Saved;
use crate::netlink::encode::{Finish, batch};
use crate::netlink::message::Messages;
use crate::netlink::{NetlinkError, conntrack, decision, decode, link, neighbour, route};
use crate::plan::{NodeContext, complete, plan};
use crate::print::{json, text};
use crate::ruleset::{DataType, Element, Family, LiveRuleset, Set, Value};
use crate::source::{Loaded, load_str};
use crate::transaction::{Operation, Transaction};

/// Whatever is received is read without a panic, and what is read can be shown.
pub fn netlink_replies(data: &[u8]) {
    use DataType::{ClassId, InetProto, InetService, Ipv4Addr, Ipv6Addr};
    let four = Set::exact("s", &[Ipv4Addr]);
    let six = Set::exact("s", &[Ipv6Addr]);
    let frontends = Set::exact("s", &[Ipv4Addr, InetProto, InetService]).mapping(&[ClassId]);
    let sources = Set::exact("s", &[Ipv6Addr, InetProto, InetService, Ipv6Addr]).interval();
    let mut shapes = [
        four.clone(),
        four.interval(),
        six.interval(),
        frontends,
        sources,
    ]
    .map(|set| (set, Vec::new()));
    for message in Messages(data) {
        let _ = decode::is_of_our_table(&message);
        let _ = decode::table_name(&message);
        let _ = decode::ownership(&message);
        let _ = decode::element_count(&message);
        let _ = message.verdict();
        let _ = conntrack::decode(&message);
        let _ = conntrack::decode_event(&message);
        let _ = decision(&message);
        let _ = neighbour::decode(&message);
        let _ = link::decode_namespace(&message);
        let _ = route::decode(&message);
        let _ = link::decode_link(&message);
        let _ = link::decode_address(&message);
        if let Ok(set) = decode::set(&message) {
            let _ = text::set_type(Family::Ip, &set);
        }
        let _ = decode::chain(&message);
        if let Some((_, code)) = decode::rule(&message) {
            for instr in code {
                let _ = instr.to_string();
            }
        }
        decode::counters(&message, |_, _, _| {});
        decode::each_element(&message, |_, _| {});
        for (set, bounds) in &mut shapes {
            let _ = decode::elements(&message, set, bounds);
        }
    }
    for (mut set, bounds) in shapes {
        decode::ranges(&mut set, bounds);
        for (key, element) in &set.elements {
            let _ = text::element(&mut Vec::new(), &set, key, element);
            let _ = json::element(&set, key, element);
        }
    }
}

fn config() -> Config {
    let parse = |text: &str| text.parse().expect("a prefix");
    Config {
        node_name: "node1".into(),
        node_ips: ["192.168.50.11", "fd00:50::11"]
            .map(|text| text.parse().expect("an address"))
            .into(),
        cluster_cidrs: vec![parse("172.17.0.0/16"), parse("fd00:17::/48")],
        pod_cidrs: vec![parse("172.17.0.0/24"), parse("fd00:17::/64")],
        service_cidrs: vec![parse("10.254.0.0/16"), parse("fd00:254::/112")],
        ..Config::default()
    }
}

fn read(data: &[u8]) -> Option<Cluster> {
    let mut loaded = Loaded::default();
    load_str(std::str::from_utf8(data).ok()?, "input", &mut loaded);
    for problem in &loaded.problems {
        is_harmless(&problem.to_string());
    }
    Some(loaded.cluster)
}

/// Nothing a terminal would act on.
fn is_harmless(text: &str) {
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t';
    assert!(!text.contains(harmful), "{text:?}");
}

/// Objects give a ruleset that can be printed and sent, that says what was meant, and that
/// differs in nothing from itself.
pub fn manifests(data: &[u8]) {
    let Some(mut cluster) = read(data) else {
        return;
    };
    let config = config();
    let (node, _) = NodeContext::resolve(&cluster, &config, &[]);
    let problems = complete(&mut cluster, &config, &node);
    for problem in problems {
        is_harmless(&problem.to_string());
    }
    let (plan, _) = plan(&cluster, &config, &node);
    let ruleset = compile(&plan, &BTreeMap::new());
    let mut printed = Vec::new();
    text::ruleset(&mut printed, &ruleset).expect("memory");
    is_harmless(std::str::from_utf8(&printed).expect("text"));
    let mut printed = Vec::new();
    json::ruleset(&mut printed, &ruleset).expect("memory");
    serde_json::from_slice::<serde_json::Value>(&printed).expect("JSON");
    let delta = diff(&ruleset, &LiveRuleset::default());
    is_sent_as_it_is(&delta);
    let mut kernel = Kernel::default();
    kernel.carry_out(&delta).expect("the kernel takes it");
    let live = kernel.live(1);
    let again = compile(&plan, &live.sets());
    assert!(diff(&again, &live).is_empty(), "a second apply changes");
}

/// A delta is a batch whose lengths add up, and in which each element reads back.
fn is_sent_as_it_is(delta: &Transaction) {
    let batch = match batch(delta, 1, Finish::Commit, 0) {
        Ok(batch) => batch,
        // Said, not sent.
        Err(NetlinkError::Unfit { .. }) => return,
        Err(error) => panic!("{error}"),
    };
    let mut size = 0;
    let mut found: Vec<(Value, Element)> = Vec::new();
    for message in Messages(&batch.bytes) {
        size += (16 + message.payload.len()).next_multiple_of(4);
        decode::each_element(&message, |key, element| found.push((*key, element.clone())));
    }
    assert_eq!(size, batch.bytes.len());
    let operations = delta.tables.iter().flat_map(|table| &table.operations);
    let sent = operations.map(|operation| match operation {
        Operation::AddElements(_, elements) | Operation::DeleteElements(_, elements) => elements,
        _ => const { &Vec::new() },
    });
    let mut found = found.iter();
    for (key, element) in sent.flatten() {
        let is_it = |(other_key, other): &(Value, Element)| {
            // The end of a range of one field comes as an element of its own after it.
            let end = other.end == element.end || other.end.is_none();
            other_key == key
                && end
                && other.data == element.data
                && other.comment == element.comment
        };
        assert!(found.any(is_it), "{key:?} {element:?}");
    }
}

/// A file of this thread's own.
struct Scratch(PathBuf);

impl Scratch {
    fn new(what: &str) -> Self {
        let thread = format!("{:?}", std::thread::current().id());
        let number: String = thread.chars().filter(char::is_ascii_digit).collect();
        let name = format!("svcnat-{what}-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        Self(folder)
    }

    fn with(&self, name: &str, data: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, data).expect("a temporary file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A configuration is read or refused, in words that are harmless; one that is read and found
/// valid gives a ruleset.
pub fn configuration(data: &[u8]) {
    let scratch = Scratch::new("configuration");
    let path = scratch.with("config.yaml", data);
    let config = match crate::config::file::read(&path) {
        Ok(file) => file.settings.or_defaults(),
        Err(error) => return is_harmless(&error.to_string()),
    };
    let problems = config.validate();
    for problem in &problems {
        is_harmless(&problem.to_string());
    }
    let is_error = |p: &crate::problem::Problem| p.severity == crate::problem::Severity::Error;
    if problems.iter().any(is_error) {
        return;
    }
    let cluster = Cluster::default();
    let (node, _) = NodeContext::resolve(&cluster, &config, &[]);
    let (plan, _) = plan(&cluster, &config, &node);
    let ruleset = compile(&plan, &BTreeMap::new());
    let mut printed = Vec::new();
    text::ruleset(&mut printed, &ruleset).expect("memory");
    is_harmless(std::str::from_utf8(&printed).expect("text"));
    is_sent_as_it_is(&diff(&ruleset, &LiveRuleset::default()));
}

/// What is saved reads back as it was, and a file that is none of ours is refused.
pub fn saved_state(data: &[u8]) {
    let scratch = Scratch::new("state");
    let saved = Saved::in_folder(&scratch.0).expect("a temporary folder");
    if let Some(cluster) = read(data) {
        saved.write(&cluster).expect("a temporary file");
        let found = saved.read().expect("what was just written");
        let found = found.expect("what was just written");
        // Where an object came from is not kept.
        assert_eq!(found.services.len(), cluster.services.len());
        assert_eq!(found.nodes.len(), cluster.nodes.len());
        let rulesets = [&cluster, &found].map(|cluster| {
            let config = config();
            let (node, _) = NodeContext::resolve(cluster, &config, &[]);
            compile(&plan(cluster, &config, &node).0, &BTreeMap::new())
        });
        assert_eq!(rulesets[0], rulesets[1]);
    }
    let files = std::fs::read_dir(&scratch.0).expect("a temporary folder");
    for file in files {
        let path = file.expect("a temporary file").path();
        std::fs::write(path, data).expect("a temporary file");
    }
    if let Err(error) = saved.read() {
        is_harmless(&error.to_string());
    }
}
