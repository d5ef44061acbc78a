//! The ruleset a kube-proxy in nftables mode makes of the same services: a chain per service
//! port with an anonymous `numgen` map, a chain per endpoint, verdict maps in front. The
//! layout follows its documented design; it is generated here, not taken from it.

use std::fmt::Write;

use super::cluster::{endpoint_ip, service_ip};

fn service_chain(n: usize) -> String {
    format!("service-SVC{n:08}-default/svc-{n}/tcp/http")
}

fn endpoint_chain(n: usize, e: usize) -> String {
    format!(
        "endpoint-EP{e:08}-default/svc-{n}/tcp/http__{}/8080",
        endpoint_ip(e)
    )
}

fn service_rules(out: &mut String, n: usize, endpoints: &[usize]) {
    let picks: Vec<String> = endpoints
        .iter()
        .enumerate()
        .map(|(i, e)| format!("{i} : goto {}", endpoint_chain(n, *e)))
        .collect();
    let (ip, count) = (service_ip(n), endpoints.len());
    let chain = service_chain(n);
    writeln!(
        out,
        "add rule ip kube-proxy {chain} ip daddr {ip} tcp dport 80 ip saddr != 172.16.0.0/12 jump mark-for-masquerade"
    )
    .expect("a string takes it");
    writeln!(
        out,
        "add rule ip kube-proxy {chain} numgen random mod {count} vmap {{ {} }}",
        picks.join(", ")
    )
    .expect("a string takes it");
}

fn endpoint_rules(out: &mut String, n: usize, e: usize) {
    let (chain, ip) = (endpoint_chain(n, e), endpoint_ip(e));
    writeln!(
        out,
        "add rule ip kube-proxy {chain} ip saddr {ip} jump mark-for-masquerade\nadd rule ip kube-proxy {chain} meta l4proto tcp dnat to {ip}:8080"
    )
    .expect("a string takes it");
}

/// The whole ruleset, for UDP as well where `udp`.
pub fn kube_proxy(services: usize, endpoints: usize) -> String {
    let mut out = String::from(
        "add table ip kube-proxy\n\
         add set ip kube-proxy cluster-ips { type ipv4_addr; }\n\
         add set ip kube-proxy nodeport-ips { type ipv4_addr; }\n\
         add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }\n\
         add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add chain ip kube-proxy mark-for-masquerade\n\
         add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add chain ip kube-proxy masquerading\n\
         add rule ip kube-proxy masquerading mark and 0x4000 == 0 return\n\
         add rule ip kube-proxy masquerading mark set mark xor 0x4000\n\
         add rule ip kube-proxy masquerading masquerade fully-random\n\
         add chain ip kube-proxy reject-chain\n\
         add rule ip kube-proxy reject-chain reject\n\
         add chain ip kube-proxy services\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n\
         add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n\
         add chain ip kube-proxy cluster-ips-check\n\
         add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject\n\
         add rule ip kube-proxy cluster-ips-check ip daddr 10.0.0.0/8 drop\n\
         add chain ip kube-proxy firewall-check\n\
         add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100; }\n\
         add rule ip kube-proxy nat-prerouting jump services\n\
         add chain ip kube-proxy nat-output { type nat hook output priority -100; }\n\
         add rule ip kube-proxy nat-output jump services\n\
         add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100; }\n\
         add rule ip kube-proxy nat-postrouting jump masquerading\n\
         add chain ip kube-proxy filter-prerouting { type filter hook prerouting priority -110; }\n\
         add rule ip kube-proxy filter-prerouting ct state new jump firewall-check\n\
         add chain ip kube-proxy filter-forward { type filter hook forward priority -110; }\n\
         add rule ip kube-proxy filter-forward ct state new ip daddr . meta l4proto . th dport vmap @no-endpoint-services\n\
         add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check\n",
    );
    for n in 0..services {
        let own: Vec<usize> = (n * endpoints..(n + 1) * endpoints).collect();
        let chain = service_chain(n);
        writeln!(out, "add chain ip kube-proxy {chain}").expect("a string takes it");
        for e in &own {
            writeln!(out, "add chain ip kube-proxy {}", endpoint_chain(n, *e))
                .expect("a string takes it");
            endpoint_rules(&mut out, n, *e);
        }
        service_rules(&mut out, n, &own);
        let ip = service_ip(n);
        writeln!(
            out,
            "add element ip kube-proxy cluster-ips {{ {ip} }}\nadd element ip kube-proxy service-ips {{ {ip} . tcp . 80 : goto {chain} }}"
        )
        .expect("a string takes it");
    }
    out
}

/// What kube-proxy sends when service `n` gets endpoint `e` besides `before`.
pub fn kube_proxy_change(n: usize, before: &[usize], e: usize) -> String {
    let mut out = String::new();
    writeln!(out, "add chain ip kube-proxy {}", endpoint_chain(n, e)).expect("a string takes it");
    writeln!(out, "flush chain ip kube-proxy {}", endpoint_chain(n, e)).expect("a string takes it");
    endpoint_rules(&mut out, n, e);
    writeln!(out, "flush chain ip kube-proxy {}", service_chain(n)).expect("a string takes it");
    let after: Vec<usize> = before.iter().copied().chain([e]).collect();
    service_rules(&mut out, n, &after);
    out
}

/// The same services as kube-proxy's iptables mode lays them out, for `iptables-restore`.
pub fn iptables(services: usize, endpoints: usize) -> String {
    let mut chains = String::from(
        "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n",
    );
    let mut rules = String::from(
        "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    );
    let line = |out: &mut String, text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    for n in 0..services {
        let (ip, svc) = (service_ip(n), format!("KUBE-SVC-{n:016}"));
        line(&mut chains, format!(":{svc} - [0:0]"));
        line(
            &mut rules,
            format!(
                "-A KUBE-SERVICES -d {ip}/32 -p tcp -m comment --comment \"default/svc-{n}:http cluster IP\" -m tcp --dport 80 -j {svc}"
            ),
        );
        line(
            &mut rules,
            format!(
                "-A {svc} ! -s 172.16.0.0/12 -d {ip}/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ"
            ),
        );
        for i in 0..endpoints {
            let e = n * endpoints + i;
            let (to, sep) = (endpoint_ip(e), format!("KUBE-SEP-{e:016}"));
            line(&mut chains, format!(":{sep} - [0:0]"));
            let left = endpoints - i;
            let pick = if left == 1 {
                String::new()
            } else {
                format!(
                    "-m statistic --mode random --probability {:.10} ",
                    1.0 / left as f64
                )
            };
            line(&mut rules, format!("-A {svc} {pick}-j {sep}"));
            line(&mut rules, format!("-A {sep} -s {to}/32 -j KUBE-MARK-MASQ"));
            line(
                &mut rules,
                format!("-A {sep} -p tcp -m tcp -j DNAT --to-destination {to}:8080"),
            );
        }
    }
    format!("{chains}{rules}COMMIT\n")
}
