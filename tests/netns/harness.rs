//! The lab itself, before anything is tested with it: whom clients reach, and that refusal,
//! silence and answers are told apart, with rules written by hand.

use std::net::SocketAddr;

use svcnat::cluster::{Family, Protocol};

use crate::support::{Cluster, Lab, Outcome, Plan, SILENCE, Service, cluster_ip, ip_of};

fn at(place: &str, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(ip_of(place).of(family), port)
}

#[test]
fn places_reach_each_other_and_see_true_addresses() {
    let lab = Lab::from_plan(Plan {
        routes: true,
        ..Plan::default()
    });
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            for (from, to, port) in [
                ("a0", "a1", 8080),
                ("a0", "b1", 9090),
                ("a", "a0", 8080),
                ("b", "a0", 8080),
                ("out", "a", 7070),
                ("a", "out", 8053),
            ] {
                let answer = lab.from(from).ask(protocol, at(to, family, port)).answer();
                assert_eq!(
                    (answer.name.as_str(), answer.port),
                    (to, port),
                    "{from} {family} {protocol:?}"
                );
                if from != "a" || to == "out" {
                    assert_eq!(answer.client.ip(), ip_of(from).of(family), "{from} to {to}");
                }
            }
        }
    }
}

#[test]
fn refusal_and_silence_are_told_apart() {
    let lab = Lab::start();
    lab.at("a").nft(
        "table inet hand {
           chain f {
             type filter hook forward priority 0;
             th dport 1001 drop
             th dport 1002 meta l4proto tcp reject with tcp reset
             th dport 1002 reject
           }
         }",
    );
    for family in Family::ALL {
        for protocol in Protocol::ALL {
            let caller = lab.from("a0").patience(SILENCE);
            let ask = |port| caller.ask(protocol, at("b0", family, port));
            assert_eq!(ask(1001), Outcome::Silence, "{family} {protocol:?}");
            assert_eq!(ask(1002), Outcome::Refused, "{family} {protocol:?}");
        }
    }
}

#[test]
fn a_dnat_rule_by_hand_leads_to_pods_on_bridges_and_back() {
    let lab = Lab::from_plan(Plan {
        routes: true,
        ..Plan::default()
    });
    for (family, name, to) in [
        (Family::Ip, "ip", "172.17.0.2"),
        (Family::Ip6, "ip6", "fd00:17::2"),
    ] {
        let vip = cluster_ip(1).of(family);
        let rule =
            format!("meta l4proto {{ tcp, udp, sctp }} {name} daddr {vip} th dport 80 dnat to");
        let target = if family == Family::Ip {
            format!("{to}:8080")
        } else {
            format!("[{to}]:8080")
        };
        lab.at("a").nft(&format!(
            "table {name} hand {{
               chain p {{
                 type nat hook prerouting priority dstnat;
                 {rule} {target}
               }}
               chain o {{
                 type nat hook output priority -100;
                 {rule} {target}
               }}
               chain q {{
                 type nat hook postrouting priority srcnat;
                 {name} saddr {to} {name} daddr {to} masquerade
               }}
             }}"
        ));
        for protocol in Protocol::ALL {
            for from in ["a0", "a1", "a", "out"] {
                let answer = lab.from(from).ask(protocol, (vip, 80).into()).answer();
                assert_eq!(answer.name, "a0", "{from} {family} {protocol:?}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "but the walker says")]
fn packets_that_do_not_do_what_the_walker_says_fail_a_test() {
    let web = Service::new("web", cluster_ip(10)).port(80, 8080);
    let lab = Lab::running(&Cluster::with([web.endpoints(&["b0"])]));
    lab.at("a").nft(
        "table inet hand {
           chain f {
             type filter hook forward priority 0;
             th dport 8080 drop
           }
         }",
    );
    let caller = lab.from("a1").patience(SILENCE);
    caller.ask(Protocol::Tcp, (cluster_ip(10).of(Family::Ip), 80).into());
}
