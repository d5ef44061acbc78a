//! Every line of every `rulesets/*/packets.txt`, sent for real.
//!
//! Before svcnat is there, whoever has the destination must answer each packet, so that a
//! refusal, silence or another's answer later on is svcnat's doing. Afterwards each packet
//! must meet with what its line says: everyone listed answers, in these shares, nobody else
//! does, and each sees the source that he should.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use svcnat::cluster::{Family, Protocol};

#[path = "../support/packets.rs"]
mod lines;

use crate::support::{Answer, Outcome, PATIENCE, SILENCE, Stage, assert_spread, run_svcnat};
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

/// One who may answer.
#[derive(Clone, Debug)]
struct Candidate {
    at: SocketAddr,
    /// In hundredths of a percent.
    share: u64,
    masqueraded: bool,
}

#[derive(Clone, Debug)]
enum End {
    Answers {
        by: Vec<Candidate>,
        /// A client's second connection goes where its first one went.
        remembered: bool,
    },
    Refused,
    Dropped,
}

#[derive(Clone, Debug)]
struct Packet {
    text: String,
    from: IpAddr,
    to: SocketAddr,
    protocol: Protocol,
    end: End,
}

impl Packet {
    fn parse(text: &str) -> Self {
        let (packet, end) = text.split_once(" -> ").unwrap();
        let (from, to) = packet.split_once(' ').unwrap();
        let (to, protocol) = to.split_once('/').unwrap();
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => panic!("{text}: {other}"),
        };
        let to: SocketAddr = to.parse().unwrap();
        let (end, remembered) = match end.split_once("; remembered for ") {
            Some((end, _)) => (end, true),
            None => (end, false),
        };
        let owner = |masqueraded| End::Answers {
            by: vec![Candidate {
                at: to,
                share: 10_000,
                masqueraded,
            }],
            remembered: false,
        };
        let end = match end {
            "refused" => End::Refused,
            "dropped" => End::Dropped,
            "untranslated" => owner(false),
            "untranslated, masqueraded" => owner(true),
            candidates => End::Answers {
                by: candidates.split(", ").map(candidate).collect(),
                remembered,
            },
        };
        Self {
            text: text.to_owned(),
            from: from.parse().unwrap(),
            to,
            protocol,
            end,
        }
    }

    /// Where somebody must answer for this packet: at the destination, and where it may go.
    fn servers(&self) -> BTreeSet<(SocketAddr, Protocol)> {
        let led = match &self.end {
            End::Answers { by, .. } => by.iter().map(|c| c.at).collect(),
            End::Refused | End::Dropped => Vec::new(),
        };
        let all = led.into_iter().chain([self.to]);
        all.map(|at| (at, self.protocol)).collect()
    }

    /// Without svcnat.
    fn must_reach_its_destination(&self, stage: &Stage) {
        let outcomes = stage.ask(self.from, self.protocol, self.to, PATIENCE, 1);
        let [Outcome::Answer(answer)] = &outcomes[..] else {
            panic!("before svcnat: {}: {outcomes:?}", self.text);
        };
        let owner = Candidate {
            at: self.to,
            share: 10_000,
            masqueraded: false,
        };
        assert!(
            owner.gave(answer),
            "before svcnat: {}: {answer:?}",
            self.text
        );
        self.must_be_seen(&owner, answer);
    }

    /// With svcnat.
    fn must_end_as_it_says(&self, stage: &Stage) {
        let ask = |patience, count| stage.ask(self.from, self.protocol, self.to, patience, count);
        match &self.end {
            End::Refused => assert_eq!(ask(PATIENCE, 1), [Outcome::Refused], "{}", self.text),
            End::Dropped => assert_eq!(ask(SILENCE, 1), [Outcome::Silence], "{}", self.text),
            End::Answers { by, remembered } => {
                let least = by.iter().map(|c| c.share).min().unwrap();
                // By bad luck one is missed in one of e^20 runs, half a billion.
                let count = usize::try_from(200_000 / least).unwrap();
                let outcomes = if *remembered {
                    (0..count)
                        .map(|_| self.ask_as_a_new_client(stage))
                        .collect()
                } else {
                    ask(PATIENCE, count)
                };
                self.judge(by, &outcomes);
            }
        }
    }

    /// What the kernel says of the first packet is what was foretold of it.
    fn must_be_traced_as_foretold(&self, stage: &Stage, settings: &[&str]) {
        let (from, to) = (
            self.from.to_string(),
            format!("{}/{}", self.to, self.protocol),
        );
        let args = [&[from.as_str(), &to, "-o", "json"], settings].concat();
        let tracing = Tracing::start(stage.node(), &args, "");
        let patience = match self.end {
            End::Dropped => SILENCE,
            End::Refused | End::Answers { .. } => PATIENCE,
        };
        stage.ask(self.from, self.protocol, self.to, patience, 1);
        let said = tracing.end();
        assert_eq!(
            said.code, 0,
            "{}\n{}\n{}",
            self.text, said.stdout, said.stderr
        );
        let told: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!(told["asForetold"], true, "{}: {told}", self.text);
    }

    /// Two questions of a client that is not remembered: the answer to both.
    fn ask_as_a_new_client(&self, stage: &Stage) -> Outcome {
        let family = Family::of(&self.to.ip()).nft_name();
        let forget = ["flush", "map", family, "svcnat", "affinity-clients"];
        stage.node().must("nft", &forget, "");
        let mut outcomes = stage.ask(self.from, self.protocol, self.to, PATIENCE, 2);
        let who = |outcome: &Outcome| match outcome {
            Outcome::Answer(answer) => Some((answer.name.clone(), answer.port)),
            _ => None,
        };
        assert_eq!(who(&outcomes[0]), who(&outcomes[1]), "{}", self.text);
        outcomes.remove(0)
    }

    fn judge(&self, by: &[Candidate], outcomes: &[Outcome]) {
        let mut counts: BTreeMap<SocketAddr, u64> = BTreeMap::new();
        for outcome in outcomes {
            let Outcome::Answer(answer) = outcome else {
                panic!("{}: {outcome:?}", self.text);
            };
            let Some(candidate) = by.iter().find(|c| c.gave(answer)) else {
                panic!("{}: it was {answer:?}", self.text);
            };
            self.must_be_seen(candidate, answer);
            *counts.entry(candidate.at).or_default() += 1;
        }
        let count = |c: &Candidate| counts.get(&c.at).copied().unwrap_or(0);
        let (counts, shares): (Vec<u64>, Vec<u64>) = by.iter().map(|c| (count(c), c.share)).unzip();
        assert!(!counts.contains(&0), "{}: {counts:?}", self.text);
        assert_spread(&counts, &shares);
    }

    /// The source: the client's, or one of the node's. A node's own packet may carry another
    /// of its addresses either way only if it is masqueraded.
    fn must_be_seen(&self, candidate: &Candidate, answer: &Answer) {
        let seen = answer.client.ip();
        let right = if candidate.masqueraded {
            Stage::is_nodes(seen)
        } else {
            seen == self.from
        };
        assert!(right, "{}: {} saw {seen}", self.text, answer.name);
    }
}

impl Candidate {
    fn gave(&self, answer: &Answer) -> bool {
        answer.name == self.at.ip().to_string() && answer.port == self.at.port()
    }
}

/// `172.17.0.2 8080 50.00% masqueraded`.
fn candidate(text: &str) -> Candidate {
    let words: Vec<&str> = text.split(' ').collect();
    let (addr, port, share, masqueraded) = match words[..] {
        [addr, port, share] => (addr, port, share, false),
        [addr, port, share, "masqueraded"] => (addr, port, share, true),
        _ => panic!("{text}"),
    };
    let digits = share.strip_suffix('%').unwrap().replace('.', "");
    Candidate {
        at: SocketAddr::new(addr.parse().unwrap(), port.parse().unwrap()),
        share: digits.parse().unwrap(),
        masqueraded,
    }
}

/// What a line's answers are judged by, without a packet: each of these must fail.
mod judging {
    use super::{Answer, Outcome, Packet};

    const LINE: &str = "172.17.0.9 10.254.0.10:80/tcp -> \
                        172.17.0.2 8080 75.00%, 172.17.1.2 8080 25.00% masqueraded";

    /// So many answers of each of the two, and who the second one saw.
    fn judge(first: usize, second: usize, seen: &str) {
        let answer = |pod: &str, client: &str| {
            Outcome::Answer(Answer {
                name: pod.to_owned(),
                client: format!("{client}:40000").parse().unwrap(),
                port: 8080,
            })
        };
        let packet = Packet::parse(LINE);
        let super::End::Answers { by, .. } = &packet.end else {
            panic!("{LINE}");
        };
        let mut outcomes = vec![answer("172.17.0.2", "172.17.0.9"); first];
        outcomes.extend(vec![answer("172.17.1.2", seen); second]);
        packet.judge(by, &outcomes);
    }

    #[test]
    fn as_the_line_says() {
        judge(60, 20, "192.168.50.11");
    }

    #[test]
    #[should_panic(expected = "[80, 0]")]
    fn nobody_missing() {
        judge(80, 0, "192.168.50.11");
    }

    #[test]
    #[should_panic(expected = "chi-square")]
    fn even_where_it_should_not_be() {
        judge(40, 40, "192.168.50.11");
    }

    #[test]
    #[should_panic(expected = "saw 172.17.0.9")]
    fn the_client_seen_where_it_should_not_be() {
        judge(60, 20, "172.17.0.9");
    }
}

fn send_all(folder: &str) {
    let folder = rulesets().join(folder);
    let text = fs::read_to_string(folder.join("packets.txt")).unwrap();
    let packets: Vec<Packet> = text.lines().map(Packet::parse).collect();
    let servers = packets.iter().flat_map(Packet::servers).collect();
    let stage = Stage::new(packets.iter().map(|p| p.from), &servers);
    for packet in &packets {
        packet.must_reach_its_destination(&stage);
    }
    let input = folder.join("input.yaml").display().to_string();
    let config = folder.join("config.yaml").display().to_string();
    let svcnat = |verb: &[&str]| {
        let args = [verb, &["-f", &input, "--config", &config]].concat();
        run_svcnat(stage.node(), &args, "").expect(0).stdout
    };
    svcnat(&["apply", "--manage-routes=false", "--sysctls=ignore"]);
    // What explain says of what the kernel holds is what it says without it.
    for packet in &packets {
        let mut words = packet.text.split(' ');
        let (from, to) = (words.next().unwrap(), words.next().unwrap());
        let verb = ["explain", from, to, "--live", "-o", "json"];
        let args = [&verb[..], &["-f", &input, "--config", &config]].concat();
        let run = run_svcnat(stage.node(), &args, "");
        let said: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(lines::line(from, to, &said), packet.text);
        // Nothing is in the way of what arrives.
        let arrives = said["fate"] == "accepted";
        assert_eq!(
            run.code,
            i32::from(!arrives),
            "{}\n{}",
            run.command,
            run.stdout
        );
    }
    for packet in &packets {
        packet.must_be_traced_as_foretold(&stage, &["-f", &input, "--config", &config]);
    }
    for packet in &packets {
        packet.must_end_as_it_says(&stage);
    }
}
