//! What a Service asks for and cannot have, or has no effect.

use super::{refused, render, silent, warned, web};

const LEGACY: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

#[test]
fn the_legacy_annotation_for_source_ranges_counts_on_demand_only() {
    let text = |more: &str| {
        web(&format!("{{type: LoadBalancer, clusterIP: 10.254.7.7, {more}ports: [{{port: 80}}]}}\nstatus: {{loadBalancer: {{ingress: [{{ip: 203.0.113.7}}]}}}}"))
            .replace("{name: web}", &format!("{{name: web, annotations: {{{LEGACY}: 198.51.100.0/24}}}}"))
    };
    let elements = warned(
        &text(""),
        &["warning:", LEGACY, "--source-ranges-annotation"],
    );
    assert!(!elements.contains("198.51.100"), "{elements}");
    render(&text(""), &["--source-ranges-annotation"])
        .silent()
        .shows(&["198.51.100.0/24"]);
    // The field wins.
    let both = text("loadBalancerSourceRanges: [192.0.2.0/24], ");
    let output = render(&both, &["--source-ranges-annotation"]);
    assert!(!output.out.contains("198.51.100"), "{}", output.out);
    silent(&both);
}

#[test]
fn a_service_range_never_holds_an_address_of_a_host() {
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n2}\n\
        status: {addresses: [{type: InternalIP, address: 192.168.70.12}]}\n---\n\
        apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\n\
        spec: {cidrs: [RANGE]}\n";
    for (range, expected) in [
        (
            "192.168.50.0/24",
            "holds 192.168.50.11, an address of this node",
        ),
        (
            "192.168.64.0/20",
            "holds 192.168.70.12, an address of Node n2",
        ),
        ("127.0.0.0/8", "holds 127.0.0.0, a loopback address"),
        ("\"::/0\"", "holds ::, the unspecified address"),
    ] {
        let text = node.replace("RANGE", range);
        refused(&text, &[expected]);
        // Left out, and with it what would drop all other packets to it.
        let output = render(&text, &["--skip-invalid"]);
        let ranges = output.out;
        assert!(
            ranges.contains("service-cidrs { 10.254.0.0/16 }"),
            "{ranges}"
        );
        assert_eq!(ranges.matches("service-cidrs").count(), 1, "{ranges}");
    }
    warned(&node.replace("RANGE", "10.8.0.0/16"), &[]);
}

#[test]
fn a_cluster_ip_is_never_an_address_of_a_host() {
    let api_server = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
        metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}\n\
        addressType: IPv4\nports: [{port: 6443, name: https}]\n\
        endpoints: [{addresses: [192.168.50.2]}]\n---\n\
        apiVersion: v1\nkind: Service\nmetadata: {name: kubernetes}\n\
        spec: {clusterIP: 10.254.0.1, ports: [{port: 443, name: https}]}\n";
    let other = "---\napiVersion: v1\nkind: Node\nmetadata: {name: n2}\n\
        status: {addresses: [{type: InternalIP, address: 192.168.50.12}]}\n";
    for (ip, expected) in [
        ("192.168.50.11", "192.168.50.11 is an address of this node"),
        (
            "192.168.50.2",
            "192.168.50.2 is an address of the API server",
        ),
        ("192.168.50.12", "192.168.50.12 is an address of Node n2"),
    ] {
        let spec = format!("{{clusterIP: {ip}, ports: [{{port: 80}}]}}");
        let text = format!("{}{api_server}{other}", web(&spec));
        refused(&text, &["Service default/web: spec.clusterIP", expected]);
        if ip != "192.168.50.12" {
            let output = render(&text, &["--skip-invalid"]).out;
            assert!(!output.contains(&format!("{{ {ip}")), "{output}");
        }
    }
    // What is served at an address of a host is so at single ports.
    let external = "{clusterIP: 10.254.7.7, externalIPs: [192.168.50.11], ports: [{port: 80}]}";
    let output = silent(&web(external));
    assert!(output.contains("service-ips { 192.168.50.11 . tcp . 80"));
    assert!(!output.contains("cluster-ips { 192.168.50.11"));
}

#[test]
fn what_a_service_lists_and_does_not_open_is_said() {
    for (spec, expected) in [
        (
            "{clusterIP: None, externalIPs: [192.0.2.1], ports: [{port: 80}]}",
            "spec.externalIPs: is not used: a headless Service opens nothing",
        ),
        (
            "{type: ExternalName, externalName: a.example, externalIPs: [192.0.2.1]}",
            "spec.externalIPs: is not used: a Service of type ExternalName opens nothing",
        ),
        (
            "{clusterIP: None, type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            "spec.ports[].nodePort: is not used: a headless",
        ),
        (
            "{clusterIP: 10.254.7.7, externalIPs: [\"2001:db8::1\"], ports: [{port: 80}]}",
            "2001:db8::1 is not used: the Service has no clusterIP of its family",
        ),
    ] {
        warned(&web(spec), &["warning:", "Service default/web", expected]);
    }
}

#[test]
fn an_external_address_at_which_anothers_endpoint_answers_is_told() {
    let thief = "---\napiVersion: v1\nkind: Service\nmetadata: {name: thief}\n\
        spec: {clusterIP: 10.254.7.8, externalIPs: [172.17.0.2], ports: [{port: PORT}]}\n";
    let text = web("{clusterIP: 10.254.7.7, ports: [{port: 80}]}");
    warned(
        &format!("{text}{}", thief.replace("PORT", "80")),
        &[
            "Service default/thief: spec.externalIPs: 172.17.0.2 port 80/TCP is also an endpoint \
             of Service default/web",
        ],
    );
    silent(&format!("{text}{}", thief.replace("PORT", "81")));
    silent(&web(
        "{clusterIP: 10.254.7.7, externalIPs: [172.17.0.2], ports: [{port: 80}]}",
    ));
}

#[test]
fn a_load_balancer_whose_source_ranges_are_all_wrong_lets_nobody_in() {
    let spec = |ranges: &str| {
        web(&format!(
            "{{type: LoadBalancer, clusterIP: 10.254.7.7, loadBalancerSourceRanges: {ranges}, \
             ports: [{{port: 80}}]}}"
        ))
    };
    refused(
        &spec("[10.0.0.0/33]"),
        &["loadBalancerSourceRanges: \"10.0.0.0/33\" is not a prefix"],
    );
    warned(&spec("[10.0.0.0/33, 10.0.0.0/8]"), &["is left out"]);
}
