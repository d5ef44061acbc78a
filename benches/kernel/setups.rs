//! What the data plane is measured with: our rules, those of others for the same services,
//! and less than either.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;

use svcnat::compile::FOLLOWING;
use svcnat::config::Config;
use svcnat::engine::Engine;
use svcnat::netlink::Nfnetlink;

use super::cluster::{config, list, read, service_ip};
use super::lab::{Lab, OUTSIDER, POD, Place, SERVER};
use super::{dispatch, nft_file, peers, restore_file, scratch};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

/// What is loaded.
enum Rules {
    /// Text for nft, written for TCP.
    Nft(String),
    /// Text for iptables-restore, written for TCP.
    Iptables(String),
    /// Ours.
    Own {
        services: usize,
        classes: usize,
        affinity: bool,
        counters: bool,
    },
}

/// One row of the report.
pub struct Setup {
    pub name: String,
    pub from: Ipv4Addr,
    pub to: SocketAddr,
    rules: Rules,
    /// Takes long to load.
    pub heavy: bool,
    /// TCP connections are measured too.
    pub tcp: bool,
}

impl Setup {
    fn new(name: impl Into<String>, service: usize, rules: Rules) -> Self {
        Self {
            name: name.into(),
            from: POD,
            to: (service_ip(service), 80).into(),
            rules,
            heavy: false,
            tcp: false,
        }
    }

    const fn with_tcp(mut self) -> Self {
        self.tcp = true;
        self
    }

    const fn heavy(mut self, heavy: bool) -> Self {
        self.heavy = heavy;
        self
    }

    fn outside(mut self) -> Self {
        self.name.push_str(", masqueraded");
        self.from = OUTSIDER;
        self
    }

    /// Loads the rules into the node.
    pub fn load(&self, lab: &Lab, protocol: Protocol) {
        let of = |text: &str| match protocol {
            Protocol::Tcp => text.to_owned(),
            Protocol::Udp => text.replace("tcp", "udp"),
        };
        match &self.rules {
            Rules::Nft(text) => {
                let file = scratch("data.nft");
                fs::write(&file, of(text)).expect("a file");
                lab.within(Place::Node, || nft_file(&file));
            }
            Rules::Iptables(text) => {
                let file = scratch("data.iptables");
                fs::write(&file, of(text)).expect("a file");
                lab.within(Place::Node, || restore_file(&file));
            }
            Rules::Own {
                services,
                classes,
                affinity,
                counters,
            } => own(lab, protocol, *services, *classes, *affinity, *counters),
        }
    }
}

/// Our rules for so many services; all endpoints are the one server.
fn own(
    lab: &Lab,
    protocol: Protocol,
    services: usize,
    classes: usize,
    affinity: bool,
    counters: bool,
) {
    let mut text = list(services, 1);
    if protocol == Protocol::Udp {
        text = text
            .replace("\"port\":80,", "\"protocol\":\"UDP\",\"port\":80,")
            .replace("\"port\":8080}", "\"protocol\":\"UDP\",\"port\":8080}");
    }
    if affinity {
        text = text.replace(
            "\"clusterIP\"",
            "\"sessionAffinity\":\"ClientIP\",\"clusterIP\"",
        );
    }
    let mut objects = read(&text);
    for (name, service) in &mut objects.services {
        let n: usize = name
            .name
            .strip_prefix("svc-")
            .and_then(|n| n.parse().ok())
            .expect("a number");
        // Ports tell endpoints apart; the server answers on one, so a service with more
        // endpoints repeats it by weight.
        let weight = u32::try_from(n % classes + 1).expect("few classes");
        service.weights.insert("pod/p".into(), weight);
    }
    for slice in objects.slices.values_mut().flat_map(|s| s.iter_mut()) {
        for endpoint in &mut slice.endpoints {
            endpoint.address = SERVER.into();
            endpoint.pod = Some("p".into());
        }
    }
    let settings = Config {
        service_counters: counters,
        ..config()
    };
    lab.within(Place::Node, || {
        let mut kernel = Nfnetlink::open().expect("a netlink socket");
        let mut engine = Engine::with_cluster(settings, Vec::new(), objects);
        let live = kernel.read(FOLLOWING).expect("our tables");
        let (delta, _, _) = engine.rebuild(&live);
        kernel.commit(&delta, 0).expect("a commit");
    });
}

/// A peer's text with the one server behind every service.
fn to_server(text: &str, word: &str) -> String {
    text.lines()
        .map(|line| match line.find(word) {
            Some(at) => format!("{}{word}{SERVER}:8080\n", &line[..at]),
            None => format!("{line}\n"),
        })
        .collect()
}

/// The service that is asked, in the middle, and of a class in the middle of those in use.
fn asked(services: usize, classes: usize) -> usize {
    if services < 2 * classes {
        return services / 2;
    }
    services / 2 / classes * classes + classes / 2
}

fn own_rules(services: usize) -> Rules {
    Rules::Own {
        services,
        classes: 1,
        affinity: false,
        counters: false,
    }
}

/// Everything, with services in these numbers.
pub fn all(sizes: &[usize]) -> Vec<Setup> {
    let mut out = vec![
        // Tracked but not translated: what NAT adds is the rest.
        Setup {
            to: (SERVER, 8080).into(),
            ..Setup::new("no NAT", 0, Rules::Nft("table ip t {\n chain c {\n type filter hook prerouting priority 0;\n ct state new accept\n }\n}\n".into())).with_tcp()
        },
        Setup::new("one dnat rule", 0, Rules::Nft(format!("table ip t {{\n chain c {{\n type nat hook prerouting priority -100;\n ip daddr {} tcp dport 80 dnat to {SERVER}:8080\n }}\n}}\n", service_ip(0)))).with_tcp(),
        Setup::new("one dnat, one masquerade rule", 0, Rules::Nft(format!("table ip t {{\n chain c {{\n type nat hook prerouting priority -100;\n ip daddr {} tcp dport 80 meta mark set 0x4000 dnat to {SERVER}:8080\n }}\n chain p {{\n type nat hook postrouting priority 100;\n meta mark 0x4000 masquerade fully-random\n }}\n}}\n", service_ip(0)))).outside(),
    ];
    let iptables = Command::new("iptables-restore")
        .arg("--version")
        .output()
        .is_ok();
    for services in sizes.iter().copied() {
        let middle = asked(services, 1);
        let name = |what: &str| format!("{what}, {services} services");
        let heavy = services > 1_000;
        let shape = to_server(&peers::kube_proxy(services, 1), "dnat to ");
        out.push(Setup::new(name("svcnat"), middle, own_rules(services)).with_tcp());
        out.push(
            Setup::new(name("kube-proxy shape"), middle, Rules::Nft(shape.clone()))
                .with_tcp()
                .heavy(heavy),
        );
        if iptables {
            let text = to_server(&peers::iptables(services, 1), "--to-destination ");
            let setup = Setup::new(name("iptables shape"), middle, Rules::Iptables(text));
            out.push(setup.with_tcp().heavy(heavy));
        }
        if services == 1_000 {
            out.push(Setup::new(name("svcnat"), middle, own_rules(services)).outside());
            out.push(Setup::new(name("kube-proxy shape"), middle, Rules::Nft(shape)).outside());
        }
        if services <= 1_000 {
            out.push(Setup::new(
                name("svcnat with affinity"),
                middle,
                Rules::Own {
                    services,
                    classes: 1,
                    affinity: true,
                    counters: false,
                },
            ));
        }
        if services > 1 {
            out.push(Setup::new(
                name("svcnat with counters"),
                middle,
                Rules::Own {
                    services,
                    classes: 1,
                    affinity: false,
                    counters: true,
                },
            ));
            for classes in [1, 3, 8, 30] {
                let at = asked(services, classes);
                for way in dispatch::Way::ALL {
                    let text = dispatch::text(way, services, classes);
                    let name = format!("{}, {services} services in {classes} classes", way.name());
                    out.push(Setup::new(name, at, Rules::Nft(text)).heavy(heavy));
                }
                if classes > 1 {
                    out.push(Setup::new(
                        format!("svcnat, {services} services in {classes} classes"),
                        at,
                        Rules::Own {
                            services,
                            classes,
                            affinity: false,
                            counters: false,
                        },
                    ));
                }
            }
        }
    }
    out
}
