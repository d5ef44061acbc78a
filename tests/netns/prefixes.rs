//! Which addresses are pods': told by no flag at all, and by thousands of prefixes.

use serde_json::json;

use crate::support::{Cluster, Lab, Plan, Service, cluster_ip, ip_of, pod_cidrs, routed_ip, row};

fn web() -> Service {
    Service::new("web", cluster_ip(10))
        .port(80, 8080)
        .endpoints(&["b0"])
}

#[test]
fn without_a_cluster_cidr_pods_are_known_by_the_nodes_pod_cidrs() {
    let lab = Lab::from_plan(Plan {
        cluster_cidr: "",
        ..Plan::default()
    });
    let local = Service::new("local", cluster_ip(11))
        .port(80, 8080)
        .endpoints(&["b0"])
        .set(json!({"spec": {
            "externalTrafficPolicy": "Local",
            "externalIPs": routed_ip(5).both(),
        }}));
    lab.apply(&Cluster::with([web(), local]));
    lab.check(&[
        row("a client outside of the cluster")
            .from("out")
            .to(cluster_ip(10), 80)
            .answers(&["b0"])
            .masqueraded_by("a"),
        row("a pod")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"])
            .kept(),
        row("a pod at a local address without local endpoints")
            .from("a1")
            .to(routed_ip(5), 80)
            .answers(&["b0"])
            .kept(),
        row("an outsider there")
            .from("out")
            .to(routed_ip(5), 80)
            .silence(),
    ]);
}

/// As many prefixes as nobody has, those of node `a` among them, none beside another.
fn many() -> String {
    let others = (0..5000_u32).map(|i| format!("10.{}.{}.0/24", 64 + i / 128, i % 128 * 2));
    let others6 = (0..5000_u32).map(|i| format!("fd99:0:{:x}::/48", i * 2));
    let all: Vec<String> = pod_cidrs(0)
        .into_iter()
        .chain(others)
        .chain(others6)
        .collect();
    all.join(",")
}

#[test]
fn five_thousand_pod_cidrs_of_a_node_are_all_in_force() {
    let mut lab = Lab::start();
    // One argument may have 128 KiB; a file any size.
    let file = std::env::temp_dir().join(format!("svcnat-prefixes-{}.yaml", std::process::id()));
    let text = format!(
        "apiVersion: svcnat/v1alpha1\nkind: Configuration\npodCIDRs: {}\ndetectLocalMode: NodeCIDR\n",
        many()
    );
    std::fs::write(&file, text).expect("a scratch file");
    let path = file.display().to_string();
    lab.args.extend(["--config".to_owned(), path]);
    lab.svcnat("a", &["apply"], &Cluster::with([web()]))
        .expect(0);
    lab.args.clear();
    lab.svcnat("b", &["apply"], &Cluster::with([web()]))
        .expect(0);
    let outside = |from: &str| {
        lab.from(from)
            .ask(
                svcnat::cluster::Protocol::Tcp,
                (ip_of("out").v4, 8053).into(),
            )
            .answer()
    };
    assert_eq!(
        outside("a0").client.ip(),
        ip_of("a").v4,
        "egress masquerade"
    );
    lab.check(&[
        row("a pod")
            .from("a1")
            .to(cluster_ip(10), 80)
            .answers(&["b0"])
            .kept(),
        row("an outsider")
            .from("out")
            .to(cluster_ip(10), 80)
            .answers(&["b0"])
            .masqueraded_by("a"),
    ]);
    std::fs::remove_file(file).expect("the scratch file is there");
}
