//! Installing, installing again, comparing, removing: and nothing of anybody else's touched.

use serde_json::json;

use crate::support::{Cluster, Lab, Netns, Plan, Service, cluster_ip, generation, row, run_svcnat};

fn cluster() -> Cluster {
    Cluster::with([Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .node_port(30_080)
        .endpoints(&["a0", "b0"])])
}

/// All that `apply` can leave in a namespace.
fn state(netns: &Netns) -> [String; 3] {
    [
        netns.ruleset(),
        netns.must("ip", &["-4", "route", "show", "table", "all"], ""),
        netns.must("ip", &["-6", "route", "show", "table", "all"], ""),
    ]
}

/// Things of other programs that look much like ours.
fn foreign(netns: &Netns) {
    netns.nft(
        "table ip filter {
           set svcnat { type ipv4_addr; elements = { 10.254.0.10 }; }
           chain svcnat { type filter hook forward priority 10; policy accept; counter
           }
         }
         table inet svcnat-not { comment \"somebody else's\"; }
         table ip6 kube { map m { type inet_service : verdict; }; }",
    );
    netns.ip("route add 10.99.0.0/24 via 192.168.50.2\n\
         route add 172.17.9.0/24 via 192.168.50.2 proto static\n\
         route add fd00:99::/64 via fd00:50::2\n");
}

#[test]
fn a_second_apply_sends_nothing_and_the_generation_stays() {
    let lab = Lab::running(&cluster());
    let (before, number) = (state(lab.at("a")), generation(lab.at("a")));
    let again = lab.svcnat("a", &["apply"], &cluster()).expect(0);
    assert_eq!(generation(lab.at("a")), number);
    assert_eq!(state(lab.at("a")), before);
    assert!(again.stdout.contains("0 bytes"), "{}", again.stdout);
}

#[test]
fn delete_leaves_the_namespace_as_it_was_and_others_untouched() {
    let lab = Lab::start();
    let node = lab.at("a");
    foreign(node);
    let before = state(node);
    lab.apply(&cluster());
    assert_ne!(state(node), before);
    run_svcnat(node, &["delete"], "").expect(0);
    assert_eq!(state(node), before);
    // Nothing left to delete is no error.
    run_svcnat(node, &["delete"], "").expect(0);
    assert_eq!(state(node), before);
}

#[test]
fn other_tables_and_routes_survive_apply_and_apply_again() {
    let lab = Lab::start();
    foreign(lab.at("a"));
    lab.apply(&cluster());
    lab.apply(&Cluster::with([]));
    let now = state(lab.at("a"));
    for table in ["table ip filter", "table inet svcnat-not", "table ip6 kube"] {
        assert!(now[0].contains(table), "{table} is gone:\n{}", now[0]);
    }
    assert!(
        now[1].contains("10.99.0.0/24 via 192.168.50.2"),
        "{}",
        now[1]
    );
    assert!(
        now[1].contains("172.17.9.0/24 via 192.168.50.2"),
        "{}",
        now[1]
    );
    assert!(now[2].contains("fd00:99::/64 via fd00:50::2"), "{}", now[2]);
}

#[test]
fn diff_tells_installed_from_not_and_names_what_was_tampered_with() {
    let lab = Lab::start();
    lab.svcnat("a", &["diff"], &cluster()).expect(1);
    lab.apply(&cluster());
    lab.svcnat("a", &["diff"], &cluster()).expect(0);
    let node = lab.at("a");
    node.nft("flush table ip svcnat");
    let plan = lab.svcnat("a", &["diff"], &cluster()).expect(1).stdout;
    assert!(
        plan.starts_with("changed by another program:\n~ rules of ip svcnat  +"),
        "{plan}"
    );
    lab.apply(&cluster());
    node.nft("delete element ip svcnat service-ips { 10.254.0.10 . tcp . 80 }");
    let plan = lab.svcnat("a", &["diff"], &cluster()).expect(1).stdout;
    assert!(
        plan.contains("~ Service default/web + 10.254.0.10:80/TCP  2 endpoints"),
        "{plan}"
    );
    lab.apply(&cluster());
    lab.svcnat("a", &["diff"], &cluster()).expect(0);
    node.ip("route del 172.17.1.0/24 via 192.168.50.2\n");
    let plan = lab.svcnat("a", &["diff"], &cluster()).expect(1).stdout;
    assert_eq!(
        plan,
        "+ route 172.17.1.0/24  via 192.168.50.2 (node b)\n\
         plan: 1 to add, 0 to change, 0 to remove\n"
    );
    lab.apply(&cluster());
    lab.svcnat("a", &["diff"], &cluster()).expect(0);
    node.nft("flush ruleset");
    lab.svcnat("a", &["diff"], &cluster()).expect(1);
    lab.apply(&cluster());
    lab.check(&[row("works again")
        .from("a1")
        .to(cluster_ip(10), 80)
        .answers(&["a0", "b0"])]);
}

#[test]
fn dry_runs_change_nothing() {
    let lab = Lab::start();
    let before = state(lab.at("a"));
    for mode in ["client", "server"] {
        let dry = format!("--dry-run={mode}");
        lab.svcnat("a", &["apply", &dry], &cluster()).expect(0);
        assert_eq!(state(lab.at("a")), before, "{mode}");
    }
    lab.apply(&cluster());
    let (before, number) = (state(lab.at("a")), generation(lab.at("a")));
    lab.svcnat("a", &["apply", "--dry-run=client"], &Cluster::with([]))
        .expect(0);
    assert_eq!(
        (state(lab.at("a")), generation(lab.at("a"))),
        (before, number)
    );
}

#[test]
fn bad_input_changes_nothing() {
    let lab = Lab::running(&cluster());
    let before = state(lab.at("a"));
    let bad = cluster().object(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "bad"},
        "spec": {"clusterIP": "10.254.0.77", "ports": [{"port": 70_000}]},
    }));
    let run = lab.svcnat("a", &["apply"], &bad).expect(2);
    assert!(
        run.stderr.contains("bad") && run.stderr.contains("70000"),
        "{}",
        run.stderr
    );
    assert_eq!(state(lab.at("a")), before);
}

#[test]
fn without_privilege_apply_says_which_capability_it_lacks() {
    let lab = Lab::start();
    let before = state(lab.at("a"));
    let args = [
        "--bounding-set=-net_admin",
        "--inh-caps=-net_admin",
        env!("CARGO_BIN_EXE_svcnat"),
        "apply",
    ];
    let inputs = [
        "-f",
        "-",
        "--node-name",
        "a",
        "--service-cluster-ip-range",
        "10.254.0.0/16",
    ];
    let args: Vec<&str> = args.into_iter().chain(inputs).collect();
    let output = lab
        .at("a")
        .run("setpriv", &args, cluster().json().as_bytes());
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("CAP_NET_ADMIN"), "{stderr}");
    assert_eq!(state(lab.at("a")), before);
}

#[test]
fn sysctls_are_set_when_told_and_only_then() {
    let mut lab = Lab::from_plan(Plan {
        forward: false,
        ..Plan::default()
    });
    let settings = |lab: &Lab| {
        let names = [
            "ipv4/ip_forward",
            "ipv6/conf/all/forwarding",
            "bridge/bridge-nf-call-iptables",
            "bridge/bridge-nf-call-ip6tables",
        ];
        names.map(|name| lab.at("a").read_sysctl(name))
    };
    lab.apply(&cluster());
    assert_eq!(settings(&lab), ["0"; 4], "only checked by default");
    lab.args.push("--sysctls=apply".to_owned());
    lab.apply(&cluster());
    assert_eq!(settings(&lab), ["1"; 4]);
    lab.check(&[
        row("through the bridge")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"]),
        row("forwarded")
            .from("out")
            .to(cluster_ip(10), 80)
            .answers(&["a0", "b0"]),
    ]);
}

#[test]
fn text_loaded_by_nft_and_apply_list_the_same() {
    let lab = Lab::running(&cluster());
    let text = lab.svcnat("a", &["render"], &cluster()).expect(0).stdout;
    let other = Netns::new("nft");
    other.nft(&text);
    assert_eq!(other.ruleset(), lab.at("a").ruleset());
}

#[test]
fn a_dry_run_says_all_that_apply_then_does() {
    let mut lab = Lab::from_plan(Plan {
        forward: false,
        ..Plan::default()
    });
    lab.args.push("--sysctls=apply".to_owned());
    for mode in ["client", "server"] {
        let before = state(lab.at("a"));
        let dry = format!("--dry-run={mode}");
        let args = ["apply", &dry, "-v"];
        let run = lab.svcnat("a", &args, &cluster()).expect(0);
        for line in [
            "+ Service default/web 10.254.0.10:80/TCP",
            "+ table ip svcnat",
            "+ route 172.17.1.0/24  via 192.168.50.2 (node b)",
            "~ sysctl net.ipv4.ip_forward  0 -> 1",
            "+ element ip svcnat service-ips { 10.254.0.10 . tcp . 80",
            "+ route 172.17.1.0/24 via 192.168.50.2 (node b)",
            "+ route fd00:17:0:1::/64 via",
            "- sysctl net.ipv4.ip_forward = 0",
            "+ sysctl net.ipv4.ip_forward = 1",
        ] {
            assert!(run.stdout.contains(line), "{mode}: {line}\n{}", run.stdout);
        }
        let json = ["apply", &dry, "-o", "json"];
        let json = lab.svcnat("a", &json, &cluster()).expect(0).stdout;
        let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(json["routes"]["added"], 2, "{json}");
        assert_eq!(json["version"], 1, "{json}");
        let changes = json["changes"].as_array().expect("changes");
        let web = changes.iter().find(|c| c["kind"] == "Service");
        assert_eq!(web.expect("a Service")["name"], "default/web", "{json}");
        assert_eq!(json["sysctls"][0]["name"], "net.ipv4.ip_forward", "{json}");
        assert_eq!(state(lab.at("a")), before);
        assert_eq!(lab.at("a").read_sysctl("ipv4/ip_forward"), "0");
    }
    lab.svcnat("a", &["diff"], &cluster()).expect(1);
    let done = lab.svcnat("a", &["apply"], &cluster()).expect(0).stdout;
    for line in [
        "routes: 2 added, 0 replaced, 0 deleted",
        "sysctl net.ipv4.ip_forward = 1",
    ] {
        assert!(done.contains(line), "{line}\n{done}");
    }
    let nothing = lab.svcnat("a", &["diff"], &cluster()).expect(0).stdout;
    assert_eq!(nothing, "");
}

#[test]
fn what_apply_refuses_a_dry_run_refuses_too() {
    let lab = Lab::start();
    let lost = cluster().object(json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "far"},
        "spec": {"podCIDR": "172.17.9.0/24", "podCIDRs": ["172.17.9.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "198.18.7.7"}]},
    }));
    let before = state(lab.at("a"));
    for verb in [
        &["apply"][..],
        &["apply", "--dry-run=client"],
        &["apply", "--dry-run=server"],
    ] {
        let run = lab.svcnat("a", verb, &lost).expect(3);
        assert!(
            run.stderr.contains("far") && run.stderr.contains("198.18.7.7"),
            "{}",
            run.stderr
        );
        assert_eq!(state(lab.at("a")), before);
    }
    // A route of somebody else's in the way: apply installs the rest, and fails.
    let node = lab.at("a");
    node.ip("route add 172.17.1.0/24 via 192.168.50.2 proto static\n");
    for verb in [&["apply", "--dry-run=server"][..], &["apply"]] {
        let run = lab.svcnat("a", verb, &cluster()).expect(3);
        assert!(run.stderr.contains("proto static"), "{}", run.stderr);
    }
}

#[test]
fn a_dry_run_counts_the_flows_that_apply_then_cuts() {
    let lab = Lab::running(&cluster());
    let to = (cluster_ip(10).v4, 80).into();
    lab.from("a1")
        .ask_many(svcnat::cluster::Protocol::Udp, to, 3);
    let gone = Cluster::with([Service::new("other", cluster_ip(11))
        .port(80, 8080)
        .endpoints(&["a0"])]);
    let flows = |text: &str| {
        text.lines()
            .filter(|l| l.trim_start().starts_with("- tracked flow UDP "))
            .count()
    };
    let dry = lab
        .svcnat("a", &["apply", "--dry-run=server", "-v"], &gone)
        .expect(0);
    let announced = flows(&dry.stdout);
    assert!(announced > 0, "{}", dry.stdout);
    let diff = lab.svcnat("a", &["diff", "-v"], &gone).expect(1);
    assert_eq!(flows(&diff.stdout), announced);
    let noun = if announced == 1 { "flow" } else { "flows" };
    let closing = format!("; {announced} tracked {noun} cut");
    assert!(diff.stdout.contains(&closing), "{}", diff.stdout);
    let done = lab.svcnat("a", &["apply"], &gone).expect(0).stdout;
    let cut = format!("conntrack: {announced} stale {noun} removed");
    assert!(done.contains(&cut), "{cut}\n{done}");
    lab.svcnat("a", &["diff"], &gone).expect(0);
}

#[test]
fn routes_and_settings_that_are_not_to_be_managed_stay_as_they_are() {
    let mut lab = Lab::running(&cluster());
    let routes = |lab: &Lab| state(lab.at("a"))[1..].to_vec();
    let before = routes(&lab);
    assert!(before[0].contains("proto 178"), "{}", before[0]);
    lab.args.push("--manage-routes=false".to_owned());
    lab.svcnat("a", &["diff"], &cluster()).expect(0);
    lab.svcnat("a", &["apply"], &cluster()).expect(0);
    assert_eq!(routes(&lab), before);
    // A daemon leaves them alone as well, at the start and afterwards.
    let daemon = crate::support::Daemon::start(
        &lab,
        "a",
        &cluster().json(),
        &[
            "--manage-routes=false",
            "--sysctls=ignore",
            "--verify-period=200ms",
        ],
    );
    lab.at("a").sysctl("ipv4/ip_forward", "0");
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert_eq!(routes(&lab), before);
    assert_eq!(lab.at("a").read_sysctl("ipv4/ip_forward"), "0");
    drop(daemon);
    // Taking everything away does take them.
    run_svcnat(lab.at("a"), &["delete"], "").expect(0);
    assert!(!routes(&lab)[0].contains("proto 178"));
}
