//! Every line of every `rulesets/*/packets.txt`, sent for real.
//!
//! Before svcnat is there, whoever has the destination must answer each packet, so that a
//! refusal, silence or another's answer later on is svcnat's doing. Afterwards each packet
//! must meet with what its line says: everyone listed answers, in these shares, nobody else
//! does, and each sees the source that he should.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use svcnat::cluster::{Family, Protocol};
use svcnat::net::Question;
use svcnat::verify::{self, Ask, Asked, Check, End, reaches_its_destination, sent};

use crate::support::{PATIENCE, SILENCE, Stage, run_svcnat};
use crate::traces::Tracing;

/// A test for each folder, so that they run side by side and can be named.
macro_rules! folders {
    ($($test:ident: $folder:literal,)*) => {
        const FOLDERS: &[&str] = &[$($folder),*];
        $(#[test]
        fn $test() {
            send_all($folder);
        })*
    };
}

folders! {
    the_lab: "01-lab",
    node_port: "02-node-port",
    dual_stack: "03-dual-stack",
    no_endpoints: "04-no-endpoints",
    external_local: "05-external-local",
    affinity_and_weights: "06-affinity-and-weights",
    source_ranges: "07-source-ranges",
    service_counters: "08-service-counters",
    host_ports: "09-host-ports",
    internal_local: "10-internal-local",
    source_ranges_ipv6: "11-source-ranges-ipv6",
    egress: "12-egress",
    terminating: "13-terminating",
    protocols: "14-protocols",
    node_port_addresses: "15-node-port-addresses",
    external_ips: "16-external-ips",
    unserved_and_unallocated: "17-unserved-and-unallocated",
    topology_hints: "18-topology-hints",
    balancing_by_source: "19-balancing-by-source",
    many_endpoints: "20-many-endpoints",
    masquerade_all: "21-masquerade-all",
    pods_of_this_node: "22-pods-of-this-node",
    host_network: "23-host-network",
    claims: "24-claims",
    address_by_name: "25-address-by-name",
    node_port_by_name: "26-node-port-by-name",
    load_balancer_ip: "27-load-balancer-ip",
    family_policy: "28-family-policy",
    pods_of_a_selector: "29-pods-of-a-selector",
    load_balancer_ingress: "30-load-balancer-ingress",
    source_ranges_annotation: "31-source-ranges-annotation",
    one_address_in_two_slices: "32-one-address-in-two-slices",
    opens_nothing: "33-opens-nothing",
    no_such_port: "34-no-such-port",
    conditions_left_out: "35-conditions-left-out",
    affinity_of_a_local_policy: "36-affinity-of-a-local-policy",
    pods_by_their_nodes: "37-pods-by-their-nodes",
    hairpin: "38-hairpin",
    refused: "39-refused",
    unserved_external_dropped: "40-unserved-external-dropped",
    not_ours: "41-not-ours",
    weights_by_zone: "42-weights-by-zone",
    host_port_claims: "43-host-port-claims",
    egress_rfc1918: "44-egress-rfc1918",
    local_policies_of_load_balancers: "45-local-policies-of-load-balancers",
    ports_of_several_slices: "46-ports-of-several-slices",
    hints_of_both_families: "47-hints-of-both-families",
    external_addresses_of_this_node: "48-external-addresses-of-this-node",
}

fn rulesets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rulesets")
}

#[test]
fn every_folder_has_its_test() {
    let entries = fs::read_dir(rulesets()).unwrap().map(|e| e.unwrap());
    let mut found: Vec<String> = entries
        .filter(|e| e.file_type().unwrap().is_dir())
        .map(|e| e.file_name().into_string().unwrap())
        .collect();
    found.sort();
    assert_eq!(found, FOLDERS);
}

/// The network as [`sent`] wants it.
struct Network<'a>(&'a Stage);

impl Ask for Network<'_> {
    fn ask(&mut self, question: &Question) -> Vec<verify::Outcome> {
        let outcomes = self.0.asked(question).into_iter();
        let by = |name: &str| name.parse().ok();
        outcomes
            .map(|outcome| verify::Outcome::of(outcome, by))
            .collect()
    }

    fn forget(&mut self, to: IpAddr) -> Result<(), String> {
        let family = Family::of(&to).nft_name();
        let forget = ["flush", "map", family, "svcnat", "affinity-clients"];
        self.0.node().must("nft", &forget, "");
        Ok(())
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        Stage::is_nodes(address)
    }
}

/// Where somebody must answer for a packet: at the destination, and where it may go.
fn servers(asked: &Asked<'_>) -> BTreeSet<(SocketAddr, Protocol)> {
    let to = SocketAddr::new(asked.ends.destination, asked.ends.port);
    let all = asked.sockets().into_iter().chain([to]);
    all.map(|at| (at, asked.ends.protocol)).collect()
}

/// What the kernel says of the first packet is what was foretold of it.
fn must_be_traced_as_foretold(asked: &Asked<'_>, stage: &Stage, settings: &[&str]) {
    let ends = &asked.ends;
    let to = SocketAddr::new(ends.destination, ends.port);
    let (from, destination) = (ends.source.to_string(), format!("{to}/{}", ends.protocol));
    let args = [&[from.as_str(), &destination, "-o", "json"], settings].concat();
    let tracing = Tracing::start(stage.node(), &args, "");
    let patience = match asked.packet.end {
        Some(End::Dropped { .. }) => SILENCE,
        _ => PATIENCE,
    };
    stage.ask(ends.source, ends.protocol, to, patience, 1);
    let said = tracing.end();
    let name = asked.name();
    assert_eq!(said.code, 0, "{name}\n{}\n{}", said.stdout, said.stderr);
    let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(told["asForetold"], true, "{name}: {told}");
}

fn send_all(folder: &str) {
    let folder = rulesets().join(folder);
    let [input, config, packets] = ["input.yaml", "config.yaml", "packets.txt"]
        .map(|name| folder.join(name).display().to_string());
    let (node, lines) = verify::folder(&folder).unwrap();
    let asked = Asked::of(&lines, &node, "default").unwrap();
    let servers = asked.iter().flat_map(servers).collect();
    let stage = Stage::new(asked.iter().map(|asked| asked.ends.source), &servers);
    let mut network = Network(&stage);
    for asked in &asked {
        let reached = reaches_its_destination(asked, &mut network);
        reached.unwrap_or_else(|what| panic!("before svcnat: {}: {what}", asked.name()));
    }
    let given = ["-f", &input, "--config", &config];
    let svcnat = |verb: &[&str]| {
        let args = [verb, &given].concat();
        run_svcnat(stage.node(), &args, "").expect(0);
    };
    svcnat(&["apply", "--manage-routes=false", "--sysctls=ignore"]);
    // What the kernel holds says the same, and nothing is in the way of what arrives.
    svcnat(&["verify", "--live", "--packets", &packets]);
    for asked in &asked {
        must_be_traced_as_foretold(asked, &stage, &given);
    }
    let checks: Vec<Check> = asked
        .iter()
        .map(|asked| sent(asked, &packets, &mut network))
        .collect();
    let failed = verify::failures(&checks);
    assert!(failed.is_empty(), "{failed}");
}
