//! `svcnat check` and `explain --live` beside other programs: their chains are made with nft in
//! a namespace, and read from the kernel.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use crate::netns::Netns;

const SERVICE: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: visitor}\nspec: {nodeName: \
    n1}\nstatus: {phase: Running, podIP: 172.17.0.9, podIPs: [{ip: 172.17.0.9}, {ip: \
    \"fd00:17::9\"}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  clusterIP: \
    10.254.0.10\n  clusterIPs: [10.254.0.10, fd00:254::a]\n  type: NodePort\n  ports: [{port: 80, \
    nodePort: 30080}]\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: \
    web-a, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\nports: [{port: 80}]\n\
    endpoints: [{addresses: [172.17.0.2]}]\n";

const SETTINGS: [&str; 8] = [
    "-f",
    "-",
    "--node-name=n1",
    "--node-ip=192.168.50.11",
    "--cluster-cidr=172.17.0.0/16,fd00:17::/48",
    "--service-cluster-ip-range=10.254.0.0/16,fd00:254::/112",
    "--manage-routes=false",
    "--sysctls=ignore",
];

/// A verb in a namespace: its exit code and all it said.
fn svcnat(netns: &Netns, verb: &[&str], more: &[&str], input: &str) -> (Option<i32>, String) {
    svcnat_with(netns, &[verb, &SETTINGS, more].concat(), input)
}

/// The same with these arguments alone.
pub fn svcnat_with(netns: &Netns, args: &[&str], input: &str) -> (Option<i32>, String) {
    netns.run(|| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_svcnat"))
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        (output.status.code(), text)
    })
}

/// What `check` says; the code is 1 if there is more than notices.
fn check(netns: &Netns) -> String {
    let (code, text) = svcnat(netns, &["check"], &[], SERVICE);
    let is_worse = |line: &str| line.starts_with("error:") || line.starts_with("warning:");
    let found = text.lines().any(is_worse);
    assert_eq!(code, Some(i32::from(found)), "{text}");
    text
}

/// A node with a way to its pods and to the world.
pub fn node() -> Netns {
    let netns = Netns::new();
    netns.sh("ip link add eth0 type veth peer name uplink
         ip link add docker0 type bridge
         ip link add pod0 type veth peer name pod; ip link set pod0 master docker0
         for link in eth0 uplink docker0 pod0 pod; do ip link set $link up; done
         ip addr add 192.168.50.11/24 dev eth0; ip addr add fd00:50::11/64 dev eth0 nodad
         ip addr add 172.17.0.1/24 dev docker0; ip addr add fd00:17::1/64 dev docker0 nodad
         ip route add default via 192.168.50.1; ip -6 route add default via fd00:50::1
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    netns
}

/// The errors of `check`.
fn errors(text: &str) -> Vec<&str> {
    text.lines().filter(|l| l.starts_with("error:")).collect()
}

fn beside(ruleset: &str) -> Netns {
    let netns = node();
    // nft wants a line of its own for every end but the first.
    let ruleset = ruleset.replace("} }", "}\n}");
    netns.sh(&format!("nft -f - <<'END'\n{ruleset}\nEND"));
    netns
}

/// Lines that begin like a warning of `check`.
fn warnings(text: &str) -> Vec<&str> {
    text.lines().filter(|l| l.starts_with("warning")).collect()
}

#[test]
fn a_host_with_nobody_else_gets_no_warning() {
    let netns = node();
    let nothing = "0 errors, 0 warnings and notices\n";
    assert_eq!(check(&netns), nothing);
    svcnat(&netns, &["apply"], &[], SERVICE);
    assert_eq!(check(&netns), nothing, "ours are nobody else's");
}

#[test]
fn kube_proxy_in_iptables_mode_and_a_forward_chain_that_drops_are_named() {
    let text = check(&beside(
        "table ip nat {
           chain KUBE-SERVICES { ip daddr 10.254.0.10 tcp dport 80 dnat to 172.17.1.9:80; }
           chain PREROUTING {
             type nat hook prerouting priority -100; policy accept;
             counter jump KUBE-SERVICES
           }
         }
         table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; } }",
    ));
    let found = warnings(&text);
    assert_eq!(found.len(), 1, "{text}");
    assert!(text.contains("kube-proxy (iptables mode)"), "{text}");
    let errors = errors(&text).join("\n");
    assert!(
        errors.contains("ip filter FORWARD drops it by policy"),
        "{text}"
    );
}

#[test]
fn of_two_chains_at_one_priority_the_one_that_came_last_is_first() {
    let rules = "table ip nat {
           chain PREROUTING {
             type nat hook prerouting priority -100; policy accept;
             ip daddr 10.254.0.10 tcp dport 80 dnat to 172.17.1.9:80;
           }
         }";
    let netns = beside(rules);
    let says = |order: &str| {
        let text = check(&netns);
        let found = format!("translates 10.254.0.10:80/TCP of Service default/web too, {order}");
        assert!(text.contains(&found), "{text}");
    };
    says("after svcnat's");
    svcnat(&netns, &["apply"], &[], SERVICE);
    says("after svcnat's");
    netns.sh(&format!(
        "nft delete table ip nat; nft -f - <<'END'\n{rules}\nEND"
    ));
    says("before svcnat's, which was there before it");
}

#[test]
fn kube_proxy_in_nftables_and_ipvs_mode_is_named_once() {
    let netns = beside(
        "table ip kube-proxy {
           map ips { type ipv4_addr : verdict; }
           chain services { ip daddr vmap @ips; }
           chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
         }",
    );
    assert_eq!(warnings(&check(&netns)).len(), 1);
    assert!(check(&netns).contains("kube-proxy (nftables mode)"));
    let netns = node();
    // It is a dummy there, which not every kernel has.
    netns.sh("ip link add kube-ipvs0 type bridge; ip addr add 10.254.0.10/32 dev kube-ipvs0");
    assert_eq!(warnings(&check(&netns)).len(), 1);
    assert!(check(&netns).contains("kube-proxy (ipvs mode)"));
}

#[test]
fn a_forward_chain_that_ends_in_reject_is_named() {
    let firewall = |last: &str| {
        beside(&format!(
            "table inet firewalld {{
               chain sub {{ {last}; }}
               chain filter_FORWARD {{
                 type filter hook forward priority filter + 10; policy accept;
                 ct state established,related accept
                 iifname \"lo\" accept
                 jump sub
               }}
             }}"
        ))
    };
    for (last, does) in [
        ("reject with icmpx admin-prohibited", "refuses"),
        ("drop", "drops"),
        ("counter log drop", "drops"),
        ("iifname \"eth0\" reject", "refuses"),
    ] {
        let text = check(&firewall(last));
        assert_eq!(errors(&text).len(), 1, "{last}: {text}");
        let says = format!("inet firewalld filter_FORWARD (firewalld) {does} it (chain sub, ");
        assert!(errors(&text)[0].contains(&says), "{text}");
        assert_eq!(warnings(&text).len(), 0, "{last}: {text}");
    }
    for last in [
        "tcp dport 25 drop",
        "accept",
        "return",
        "iifname \"eth7\" reject",
    ] {
        assert_eq!(errors(&check(&firewall(last))).len(), 0, "{last}");
    }
}

#[test]
fn translations_of_our_frontends_by_others_are_named_with_what_comes_first() {
    for (priority, order) in [(-150, "before"), (-100, "after svcnat's"), (-50, "after")] {
        let text = check(&beside(&format!(
            "table ip other {{ chain pre {{
               type nat hook prerouting priority {priority};
               ip daddr 10.254.0.10 tcp dport 80 dnat to 10.1.1.1
               ip daddr 10.254.0.0/24 tcp dport 81 dnat to 10.1.1.1
               ip daddr 10.9.9.9 tcp dport 80 dnat to 10.1.1.1
               udp dport 80 ip daddr 10.254.0.10 dnat to 10.1.1.1
             }} }}"
        )));
        let found = warnings(&text);
        assert_eq!(found.len(), 1, "{text}");
        let first = errors(&text)
            .join("\n")
            .contains("translates its destination");
        assert_eq!(first, order == "before", "{text}");
        for part in [
            "chain pre",
            "10.254.0.10:80/TCP of Service default/web",
            order,
        ] {
            assert!(found[0].contains(part), "{part}: {text}");
        }
    }
    let text = check(&beside(
        "table ip other {
           chain ports { tcp dport 30080 dnat to 10.1.1.1:80; }
           chain out { type nat hook output priority -100; fib daddr type local jump ports; }
         }",
    ));
    assert_eq!(warnings(&text).len(), 1, "{text}");
    assert!(
        text.contains("by way of chain ports translates node:30080/TCP"),
        "{text}"
    );
}

#[test]
fn masquerades_of_pods_by_others_are_named_in_both_families() {
    for (family, rule, hit) in [
        (
            "ip",
            "ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade",
            true,
        ),
        ("ip", "ip saddr 172.17.4.0/22 snat to 192.168.50.11", true),
        ("ip", "ip saddr 172.16.0.0/12 masquerade", true),
        ("ip", "masquerade", true),
        ("ip6", "ip6 saddr fd00:17::/64 masquerade", true),
        (
            "inet",
            "ip6 saddr fd00:17::/64 oifname \"eth0\" masquerade",
            true,
        ),
        ("ip", "ip saddr 10.8.0.0/24 masquerade", false),
        ("ip", "oifname \"wg0\" masquerade", false),
        ("ip6", "ip6 saddr fd00:99::/64 masquerade", false),
    ] {
        let text = check(&beside(&format!(
            "table {family} other {{ chain post {{
               type nat hook postrouting priority 100; {rule};
             }} }}"
        )));
        assert_eq!(warnings(&text).len(), usize::from(hit), "{rule}: {text}");
    }
}

#[test]
fn faults_of_the_host_and_of_the_input_have_codes_of_their_own() {
    let netns = node();
    netns.sh("sysctl -qw net.ipv4.ip_forward=0");
    let with = |more: &[&str], input: &str| svcnat(&netns, &["check"], more, input);
    // The last word counts.
    // Left alone, settings are not looked at, but packets are.
    let (code, text) = with(&[], SERVICE);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("this node does not forward what comes in by docker0"),
        "{text}"
    );
    let settings = |wish: &str| -> Vec<String> {
        let kept = SETTINGS.iter().filter(|s| !s.starts_with("--sysctls"));
        kept.map(|s| (*s).to_owned())
            .chain([format!("--sysctls={wish}")])
            .collect()
    };
    let run = |wish: &str, input: &str| {
        let settings = settings(wish);
        let settings = settings.iter().map(String::as_str);
        let args: Vec<&str> = std::iter::once("check").chain(settings).collect();
        svcnat_with(&netns, &args, input)
    };
    let (code, text) = run("check", SERVICE);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("sysctl net.ipv4.ip_forward: is 0, expected 1"),
        "{text}"
    );
    let (code, text) = run("apply", SERVICE);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("will be set to 1"), "{text}");
    let bad = SERVICE.replace("port: 80,", "port: 80000,");
    let (code, text) = run("check", &bad);
    assert_eq!(code, Some(2), "{text}");
}

#[test]
fn each_conflict_is_named_once() {
    let netns = Netns::new();
    let node = |name: &str, last: u8| {
        format!(
            "---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nspec: {{podCIDRs: \
             [10.254.7.0/24]}}\nstatus: {{addresses: [{{type: InternalIP, address: \
             192.168.50.{last}}}]}}\n"
        )
    };
    // This node's own CIDR lies in the service range.
    let (code, text) = svcnat(
        &netns,
        &["check"],
        &[],
        &(SERVICE.to_owned() + &node("n1", 11)),
    );
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(text.matches("10.254.7.0/24").count(), 1, "{text}");
    let two = SERVICE.to_owned() + &node("n2", 12) + &node("n3", 13);
    let (_, text) = svcnat(&netns, &["check"], &[], &two);
    let claims = text
        .lines()
        .filter(|l| l.contains("10.254.7.0/24 overlaps 10.254.7.0/24"));
    assert_eq!(claims.count(), 1, "{text}");
}

#[test]
fn tables_that_another_program_owns_are_said_to_be_its_own() {
    let netns = Netns::new();
    // The table belongs to this nft as long as it runs.
    let mut owner = netns.run(|| {
        Command::new("nft")
            .arg("-i")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
    });
    let mut input = owner.stdin.take().unwrap();
    writeln!(input, "add table ip svcnat {{ flags owner; }}\nlist tables").unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("table ip svcnat")));
    let (code, text) = svcnat(&netns, &["apply"], &[], SERVICE);
    assert_eq!(code, Some(3), "{text}");
    let named = format!("process {} (nft)", owner.id());
    assert!(
        text.contains(&named) && !text.contains("CAP_NET_ADMIN"),
        "{text}"
    );
    drop(input);
    owner.wait().unwrap();
}

#[test]
fn without_inputs_or_rules_explain_says_so() {
    let netns = Netns::new();
    let explain = |live: &[&str]| {
        netns.run(|| {
            let output = Command::new(env!("CARGO_BIN_EXE_svcnat"))
                .args([
                    "explain",
                    "172.17.0.3",
                    "10.254.0.10:80/tcp",
                    "--node-name=n1",
                ])
                .args(live)
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].concat();
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let text = explain(&[]);
    assert!(text.contains("no objects were given"), "{text}");
    let text = explain(&["--live"]);
    assert!(
        text.contains("nothing is installed: there is no table ip svcnat"),
        "{text}"
    );
    assert!(
        text.contains("nothing is installed here") && !text.contains("are not those"),
        "{text}"
    );
    svcnat(&netns, &["apply"], &[], SERVICE);
    let text = explain(&["--live"]);
    assert!(text.contains("no objects were given"), "{text}");
    let live = ["explain", "--live", "172.17.0.3", "10.254.0.10:80/tcp"];
    let (_, text) = svcnat(&netns, &live, &[], SERVICE);
    assert!(text.contains("to 172.17.0.2:80"), "{text}");
    assert_eq!(warnings(&text).len(), 0, "{text}");
}

#[test]
fn what_a_device_or_the_last_hook_drops_is_named_and_what_is_switched_off_is_not() {
    let c = |family: &str, hook: &str, policy: &str| {
        format!(
            "{family} t {{ chain c {{ type filter hook {hook} priority 0; policy {policy}; }} }}"
        )
    };
    for (table, named) in [
        (c("netdev", "ingress device docker0", "drop"), true),
        (c("inet", "ingress device docker0", "drop"), true),
        (c("inet", "postrouting", "drop"), true),
        (c("netdev", "ingress device docker0", "accept"), false),
        (c("netdev", "ingress device lo", "drop"), false),
        (
            c("inet", "forward", "drop").replace("{ chain", "{ flags dormant; chain"),
            false,
        ),
    ] {
        let text = check(&beside(&format!("table {table}")));
        assert_eq!(
            text.contains(" t c drops it by policy"),
            named,
            "{table}: {text}"
        );
        assert_eq!(errors(&text).is_empty(), !named, "{table}: {text}");
    }
}

#[test]
fn a_rule_that_drops_all_of_a_frontend_or_of_pods_is_named_and_one_for_other_packets_is_not() {
    let found = |hook: &str, priority: i32, rule: &str| {
        let netns = beside(&format!(
            "table inet t {{ chain c {{ type filter hook {hook} priority {priority}; {rule}; }} }}"
        ));
        errors(&check(&netns)).join("\n")
    };
    for (hook, priority, rule) in [
        ("prerouting", -150, "ip daddr 10.254.0.0/16 drop"),
        ("prerouting", -150, "ip daddr 10.254.0.10 tcp dport 80 drop"),
        (
            "prerouting",
            -150,
            "iifname \"docker0\" ip daddr 10.254.0.0/16 drop",
        ),
        ("prerouting", -150, "tcp dport 30080 drop"),
        ("forward", 0, "ip daddr 172.17.0.0/24 drop"),
        (
            "forward",
            0,
            "ip saddr 172.17.0.2 tcp sport 80 ct state established drop",
        ),
    ] {
        let said = found(hook, priority, rule);
        assert!(
            said.contains("inet t c drops it (rule with handle"),
            "{rule}: {said}"
        );
    }
    for (hook, priority, rule) in [
        // Translated before.
        ("prerouting", -50, "ip daddr 10.254.0.0/16 drop"),
        ("prerouting", -150, "ip daddr 10.254.0.10 tcp dport 81 drop"),
        (
            "prerouting",
            -150,
            "iifname \"eth0\" ip daddr 10.254.0.0/16 drop",
        ),
        (
            "prerouting",
            -150,
            "ip saddr 203.0.113.0/24 ip daddr 10.254.0.0/16 drop",
        ),
        (
            "prerouting",
            -150,
            "ip daddr 10.254.0.0/16 ct state invalid drop",
        ),
        ("prerouting", -150, "ip daddr 10.9.0.0/16 drop"),
        ("forward", 0, "ip daddr 172.17.0.0/16 tcp dport 25 drop"),
        ("forward", 0, "ip daddr 172.17.0.0/16 meta mark 1 drop"),
        ("forward", 0, "ip daddr 10.254.0.0/16 drop"),
        ("input", 0, "ip daddr 172.17.0.0/16 drop"),
    ] {
        assert_eq!(found(hook, priority, rule), "", "{rule}");
    }
}
