//! Three ways from a service to a rule with the right modulus, each by itself: no affinity, no
//! masquerade, no refusals. See docs/decisions/0001-dispatch.md.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::{endpoint_ip, service_ip};
use super::lab::SERVER;
use super::report::{Report, Samples};
use super::{in_namespace, nft_file, scratch};

/// Which way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// One map and one rule per slot count, tried in turn behind a set of all services.
    ClassRules,
    /// A verdict map from the service to the chain that draws.
    VerdictMap,
    /// A data map from the service to a number, a static verdict map on its class.
    DataMap,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::ClassRules, Self::VerdictMap, Self::DataMap];

    pub const fn name(self) -> &'static str {
        match self {
            Self::ClassRules => "A class rules",
            Self::VerdictMap => "B verdict map",
            Self::DataMap => "C data map",
        }
    }
}

const KEY: &str = "ip daddr . meta l4proto . th dport";

fn slots(out: &mut String, map: &str, key: &str, class: usize) {
    for slot in 0..class {
        writeln!(
            out,
            "add element ip t {map} {{ {key} . {slot} : {SERVER} . 8080 }}"
        )
        .expect("a string takes it");
    }
}

/// The list number of service `n`, as `meta priority` is written.
fn number(n: usize, class: usize) -> String {
    let value = (class << 22) | 0x0020_0000 | n;
    format!("{:x}:{:x}", value >> 16, value & 0xffff)
}

/// So many services, of 1 to `classes` slots, for nft.
pub fn text(way: Way, services: usize, classes: usize) -> String {
    let mut out = String::from("add table ip t\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    let hook = "add chain ip t nat-prerouting { type nat hook prerouting priority -100; }";
    match way {
        Way::ClassRules => {
            line(hook.to_owned());
            line("add set ip t services { type ipv4_addr . inet_proto . inet_service; }".into());
            line("add chain ip t draw".into());
            line(format!(
                "add rule ip t nat-prerouting {KEY} @services goto draw"
            ));
            for k in 1..=classes {
                line(format!(
                    "add map ip t endpoints-{k} {{ typeof {KEY} . numgen random mod 2 : ip daddr . th dport; }}"
                ));
                line(format!(
                    "add rule ip t draw dnat ip to {KEY} . numgen random mod {k} map @endpoints-{k}"
                ));
            }
        }
        Way::VerdictMap => {
            line(hook.to_owned());
            line(
                "add map ip t services { type ipv4_addr . inet_proto . inet_service : verdict; }"
                    .into(),
            );
            line(format!(
                "add map ip t endpoints {{ typeof {KEY} . numgen random mod 2 : ip daddr . th dport; }}"
            ));
            line(format!("add rule ip t nat-prerouting {KEY} vmap @services"));
            for k in 1..=classes + 1 {
                line(format!("add chain ip t pick-{k}"));
                line(format!(
                    "add rule ip t pick-{k} dnat ip to {KEY} . numgen random mod {k} map @endpoints"
                ));
            }
        }
        Way::DataMap => {
            line(hook.to_owned());
            line(
                "add map ip t services { type ipv4_addr . inet_proto . inet_service : classid; }"
                    .into(),
            );
            line("add map ip t classes { type classid : verdict; }".into());
            line("add map ip t endpoints { typeof meta priority . meta l4proto . numgen random mod 2 : ip daddr . th dport; }".into());
            line("add chain ip t service".into());
            line(format!(
                "add rule ip t nat-prerouting meta priority set {KEY} map @services goto service"
            ));
            line("add rule ip t service meta priority & fc0:0 vmap @classes".into());
            for k in 1..=classes + 1 {
                line(format!("add chain ip t pick-{k}"));
                line(format!(
                    "add rule ip t pick-{k} dnat ip to meta priority & 3f:ffff . meta l4proto . numgen random mod {k} map @endpoints"
                ));
                line(format!(
                    "add element ip t classes {{ {:x}:0 : goto pick-{k} }}",
                    (k << 22) >> 16
                ));
            }
        }
    }
    for n in 0..services {
        let (class, at) = (n % classes + 1, format!("{} . tcp . 80", service_ip(n)));
        let (service, map, key) = match way {
            Way::ClassRules => (at.clone(), format!("endpoints-{class}"), at),
            Way::VerdictMap => (format!("{at} : goto pick-{class}"), "endpoints".into(), at),
            Way::DataMap => (
                format!("{at} : {}", number(n, class)),
                "endpoints".into(),
                format!("{} . tcp", number(n, 0)),
            ),
        };
        writeln!(out, "add element ip t services {{ {service} }}").expect("a string takes it");
        slots(&mut out, &map, &key, class);
    }
    out
}

/// Commands that give service `n` another class and take it back, each one transaction: the
/// element that says the class alone.
fn toggles(way: Way, n: usize) -> [String; 2] {
    let at = format!("{} . tcp . 80", service_ip(n));
    let change = |from: &str, to: &str| {
        format!(
            "delete element ip t services {{ {at} : {from} }}; add element ip t services {{ {at} : {to} }}"
        )
    };
    match way {
        Way::ClassRules => {
            let more = format!(
                "ip t endpoints-1 {{ {at} . 1 : {} . 8080 }}",
                endpoint_ip(n)
            );
            [
                format!("add element {more}"),
                format!("delete element {more}"),
            ]
        }
        Way::VerdictMap => [
            change("goto pick-1", "goto pick-2"),
            change("goto pick-2", "goto pick-1"),
        ],
        Way::DataMap => {
            let (one, two) = (number(n, 1), number(n, 2));
            [change(&one, &two), change(&two, &one)]
        }
    }
}

/// Time of one change, as one line of a running `nft -i`, which adds the same to each way.
pub fn changes(report: &mut Report, services: usize) {
    const LINES: usize = 100;
    for way in Way::ALL {
        let file = scratch("dispatch.nft");
        fs::write(&file, text(way, services, 1)).expect("a file");
        let mut samples = Samples::default();
        in_namespace(|| {
            nft_file(&file);
            for round in 0..5 {
                let mut lines = String::new();
                for i in 0..LINES / 2 {
                    for line in toggles(way, (round * LINES + i * 7) % services) {
                        lines.push_str(&line);
                        lines.push('\n');
                    }
                }
                let (whole, empty) = (interactive(&lines), interactive("\n"));
                samples.add(whole.saturating_sub(empty) / u32::try_from(LINES).expect("few"));
            }
        });
        report.time(
            "one change of class by nft -i",
            &format!("{}, {services} services", way.name()),
            &samples,
        );
    }
}

fn interactive(lines: &str) -> Duration {
    let start = Instant::now();
    let mut nft = Command::new("nft")
        .arg("-i")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nft");
    let mut input = nft.stdin.take().expect("its input");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let output = nft.wait_with_output().expect("its end");
    let took = start.elapsed();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.is_empty(), "nft -i: {error}");
    took
}
