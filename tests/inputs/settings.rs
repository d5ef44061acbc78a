//! Settings: which of them stop everything, which have no effect, whose files are read.

use super::program::svcnat;
use super::{file, render, web};

#[test]
fn wrong_settings_stop_every_verb_whatever_becomes_of_invalid_objects() {
    let flags: [&[&str]; 20] = [
        &["--masquerade-bit=40"],
        &["--masquerade-bit=32"],
        &["--cluster-cidr=10.0.0.0/8,172.16.0.0/12"],
        &["--service-node-port-range=32767-30000"],
        &["--service-node-port-range=0-5"],
        &[
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=a\"b",
        ],
        &[
            "--detect-local-mode=BridgeInterface",
            "--pod-bridge-interface=veth1234567890ab",
        ],
        &[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=a/b",
        ],
        &[
            "--detect-local-mode=InterfaceNamePrefix",
            "--pod-interface-name-prefix=a\u{202e}b",
        ],
        &["--node-ip=0.0.0.0"],
        &["--node-ip=127.0.0.1"],
        &["--node-ip=fe80::1"],
        &["--service-cluster-ip-range=0.0.0.0/0"],
        &["--service-cluster-ip-range=::/0"],
        &["--service-cluster-ip-range=127.0.0.0/8"],
        &["--pod-cidr=224.0.0.0/8"],
        &["--pod-bridge-interface=cni0"],
        &[
            "--detect-local-mode=NodeCIDR",
            "--pod-interface-name-prefix=veth",
        ],
        &["--node-name=a,b"],
        &[
            "--masquerade-cidrs=10.0.0.0/8",
            "--non-masquerade-cidrs=10.0.0.0/8",
        ],
    ];
    let verbs: [&[&str]; 6] = [
        &["render"],
        &["get", "services"],
        &["check"],
        &["diff"],
        &["apply", "--dry-run=client"],
        &["explain", "172.17.0.2", "10.254.7.7:80/tcp"],
    ];
    let common = ["--skip-invalid", "-f", "-"];
    for flags in flags {
        for verb in verbs {
            let args: Vec<&str> = verb.iter().chain(&common).chain(flags).copied().collect();
            let output = svcnat(&args, b"");
            let text = output.err;
            assert_eq!(output.code, Some(2), "{args:?}: {text}");
            assert!(text.contains("error: "), "{args:?}: {text}");
            assert_eq!(output.out, "", "{args:?}");
        }
        // On an API as well: nobody answers there, and nobody is asked.
        let run = [
            "run",
            "--skip-invalid",
            "--apiserver=http://127.0.0.1:1",
            "--healthz-bind-address=none",
            "--metrics-bind-address=none",
        ];
        let args: Vec<&str> = run.iter().chain(flags).copied().collect();
        let output = svcnat(&args, b"");
        assert_eq!(output.code, Some(2), "{args:?}: {}", output.err);
    }
}

const KUBE_PROXY: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nbindAddress: 0.0.0.0\n\
    clientConnection:\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\nclusterCIDR: 10.244.0.0/16\n\
    conntrack:\n  maxPerCore: 32768\nhostnameOverride: n1\nkind: KubeProxyConfiguration\n\
    mode: nftables\nnftables:\n  masqueradeAll: false\n  masqueradeBit: 14\nnodePortAddresses: null\n";

#[test]
fn configurations_of_the_programs_replaced_are_read_or_pointed_to_ours() {
    let run = |name: &str, content: &str| {
        let path = file(name, content);
        // Egress rules and their sets are there for pods of this node.
        let config = path.to_str().unwrap();
        let args = [
            "render",
            "--elements",
            "--pod-cidr=10.244.1.0/24",
            "--config",
            config,
        ];
        let output = svcnat(&args, b"");
        (output.code, output.out, output.err)
    };
    let (code, out, err) = run("kube-proxy.yaml", KUBE_PROXY);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("non-masquerade { 10.244.0.0/16 }"), "{out}");
    assert!(
        err.contains("clientConnection.kubeconfig is not used: give it to run as --kubeconfig"),
        "{err}"
    );
    for (name, content) in [
        (
            "masq.yaml",
            "nonMasqueradeCIDRs:\n  - 10.0.0.0/8\n  - 192.168.0.0/16\nresyncInterval: 60s\nmasqLinkLocal: false\nmasqLinkLocalIPv6: false\n",
        ),
        (
            "masq.json",
            "{\"nonMasqueradeCIDRs\":[\"10.0.0.0/8\"],\"masqLinkLocal\":true,\"resyncInterval\":\"1m\"}",
        ),
    ] {
        let (code, out, err) = run(name, content);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.contains("non-masquerade { 10.0.0.0/8 }"), "{out}");
        assert!(err.contains("resyncInterval is not used"), "{err}");
    }
    for (name, content, expected) in [
        (
            "k3s.yaml",
            "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\n",
            "service-cidr is serviceClusterIPRange: 10.43.0.0/16",
        ),
        (
            "net-conf.json",
            "{\"Network\":\"10.244.0.0/16\",\"Backend\":{\"Type\":\"host-gw\"}}",
            "flannel's net-conf.json",
        ),
        (
            "portmap.conflist",
            "{\"cniVersion\":\"1.0.0\",\"name\":\"lan\",\"plugins\":[{\"type\":\"portmap\"}]}",
            "hostPorts of Pods",
        ),
    ] {
        let (code, _, err) = run(name, content);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(name) && err.contains(expected), "{err}");
    }
}

#[test]
fn the_service_range_is_found_where_each_distribution_has_it() {
    for (name, content, range) in [
        (
            "k3s.service",
            "[Service]\nExecStart=/usr/local/bin/k3s \\\n    server \\\n\t'--service-cidr' \\\n\t'10.43.0.0/16' \\\n",
            "10.43.0.0/16",
        ),
        (
            "rke2.yaml",
            "cluster-cidr: 10.42.0.0/16\nservice-cidr: 10.43.0.0/16\n",
            "10.43.0.0/16",
        ),
        (
            "kubeadm.yaml",
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking: {serviceSubnet: 10.96.0.0/12}\n",
            "10.96.0.0/12",
        ),
    ] {
        let path = file(name, content);
        let from = format!("--service-cluster-ip-range-from={}", path.display());
        let args = ["render", "--elements", "--node-name=n1", "-f", "-", &from];
        svcnat(&args, web("{ports: [{port: 80}]}").as_bytes())
            .expect(0)
            .shows(&[&format!(" {{ {range} }}")]);
    }
    let path = file("other.yaml", "a: b\n");
    svcnat(
        &[
            "render",
            "--service-cluster-ip-range-from",
            path.to_str().unwrap(),
        ],
        b"",
    )
    .expect(2)
    .names(&["kubeadm"]);
}

#[test]
fn private_destinations_can_keep_their_address_by_name() {
    svcnat(
        &[
            "render",
            "--elements",
            "--node-name=n1",
            "--pod-cidr=172.17.0.0/24",
            "--non-masquerade-cidrs=rfc1918",
        ],
        b"",
    )
    .shows(&["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]);
    svcnat(&["render", "--non-masquerade-cidrs=rfc1981"], b"").names(&["did you mean rfc1918?"]);
}

#[test]
fn a_node_name_that_no_listed_node_has_is_a_warning_with_the_nearest() {
    let path = file(
        "nodes.yaml",
        "apiVersion: svcnat/v1alpha1\nkind: Configuration\nnodes:\n\
         - {name: worker-1, addresses: [192.168.50.11], podCIDRs: 172.17.0.0/24}\n\
         - {name: worker-2, addresses: [192.168.50.12], podCIDRs: 172.17.1.0/24}\n",
    );
    let config = path.to_str().unwrap();
    let output = svcnat(&["render", "--config", config, "--node-name=wroker-1"], b"");
    assert!(output.code == Some(0));
    let text = output.err;
    assert!(
        text.contains("warning:") && text.contains("did you mean worker-1?"),
        "{text}"
    );
    let output = svcnat(&["render", "--config", config, "--node-name=worker-1"], b"");
    assert!(!output.err.contains("warning"), "{}", output.err);
}

#[test]
fn lists_of_destinations_that_have_no_effect_are_said() {
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    for (more, expected) in [
        (
            &["--masquerade-cidrs=203.0.113.9/32"][..],
            "masquerade-cidrs: has no effect without a pod CIDR of this node",
        ),
        (
            &[
                "--non-masquerade-cidrs=203.0.113.0/24",
                "--egress-masquerade=false",
                "--pod-cidr=172.17.0.0/24",
            ],
            "non-masquerade-cidrs: has no effect without egress masquerade",
        ),
    ] {
        render(&text, more).expect(0).names(&[expected]);
    }
    let output = render(
        &text,
        &[
            "--masquerade-cidrs=203.0.113.9/32",
            "--pod-cidr=172.17.0.0/24",
        ],
    );
    assert_eq!(output.err, "");
}
