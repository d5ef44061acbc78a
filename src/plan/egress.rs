//! To which destinations this node's pods keep their address.

use ipnet::IpNet;

use super::NodeContext;
use crate::cluster::Cluster;
use crate::config::Config;

/// Destinations inside the cluster, and what the user adds, less what the user takes out again:
/// of the prefixes that hold an address the longest decides. Of two that are equal, one to
/// masquerade and one of the cluster's own, the user's counts.
pub fn non_masquerade(cluster: &Cluster, config: &Config, node: &NodeContext) -> Vec<IpNet> {
    // RFC 3927 and RFC 4291: link-local, never routed.
    let link_local: [(bool, IpNet); 2] = [
        (
            config.masq_link_local,
            ipnet::Ipv4Net::new_assert([169, 254, 0, 0].into(), 16).into(),
        ),
        (
            config.masq_link_local_ipv6,
            ipnet::Ipv6Net::new_assert([0xfe80, 0, 0, 0, 0, 0, 0, 0].into(), 10).into(),
        ),
    ];
    let kept = config
        .cluster_cidrs
        .iter()
        .chain(&config.non_masquerade_cidrs)
        .chain(&node.service_ranges)
        .chain(&node.pod_cidrs)
        .chain(cluster.nodes.values().flat_map(|n| &n.pod_cidrs))
        .chain(config.nodes.iter().flat_map(|n| &n.pod_cidrs))
        .chain(
            link_local
                .iter()
                .filter(|(masq, _)| !masq)
                .map(|(_, net)| net),
        );
    let mut out = Vec::new();
    for net in kept {
        // A wider one to masquerade is shorter, and does not count.
        let inside = |hole: &&IpNet| net.contains(*hole);
        let holes: Vec<IpNet> = config
            .masquerade_cidrs
            .iter()
            .filter(inside)
            .copied()
            .collect();
        subtract(*net, &holes, &mut out);
    }
    out
}

/// What is left of `net` without `holes`, as prefixes. O(holes · length of a prefix).
fn subtract(net: IpNet, holes: &[IpNet], out: &mut Vec<IpNet>) {
    if holes.iter().any(|hole| hole.contains(&net)) {
        return;
    }
    let inside: Vec<IpNet> = holes
        .iter()
        .filter(|hole| net.contains(*hole))
        .copied()
        .collect();
    if inside.is_empty() {
        out.push(net);
        return;
    }
    // A hole inside is longer, so there are two halves.
    for half in net.subnets(net.prefix_len() + 1).into_iter().flatten() {
        subtract(half, &inside, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn kept(non_masquerade: &[&str], masquerade: &[&str], own: &[&str]) -> Vec<IpNet> {
        let config = Config {
            non_masquerade_cidrs: nets(non_masquerade),
            masquerade_cidrs: nets(masquerade),
            cluster_cidrs: nets(own),
            masq_link_local: true,
            masq_link_local_ipv6: true,
            ..Config::default()
        };
        super::non_masquerade(&Cluster::default(), &config, &NodeContext::default())
    }

    fn holds(list: &[IpNet], addr: &str) -> bool {
        let addr: std::net::IpAddr = addr.parse().unwrap();
        list.iter().any(|net| net.contains(&addr))
    }

    #[test]
    fn the_longest_prefix_decides_at_every_depth() {
        let list = kept(
            &["10.0.0.0/8", "10.1.2.0/24", "fd00::/8"],
            &["10.1.0.0/16", "10.1.2.3/32", "fd00:9::/32"],
            &[],
        );
        for (addr, is_kept) in [
            ("10.2.0.1", true),
            ("10.0.255.255", true),
            ("10.1.0.1", false),
            ("10.1.255.255", false),
            ("10.1.2.1", true),
            ("10.1.2.3", false),
            ("10.1.2.4", true),
            ("11.0.0.1", false),
            ("fd00::1", true),
            ("fd00:9::1", false),
            ("fd00:a::1", true),
        ] {
            assert_eq!(holds(&list, addr), is_kept, "{addr}");
        }
    }

    #[test]
    fn a_wider_prefix_to_masquerade_changes_nothing_and_an_equal_one_wins() {
        assert_eq!(
            kept(&["10.1.0.0/16"], &["10.0.0.0/8"], &[]),
            nets(&["10.1.0.0/16"])
        );
        assert_eq!(kept(&[], &["172.17.0.0/16"], &["172.17.0.0/16"]), []);
        assert_eq!(
            kept(&[], &["0.0.0.0/0"], &["172.17.0.0/16"]),
            nets(&["172.17.0.0/16"])
        );
    }

    #[test]
    fn one_address_out_of_a_prefix_costs_a_prefix_for_each_bit() {
        assert_eq!(kept(&["203.0.113.0/24"], &["203.0.113.9/32"], &[]).len(), 8);
        assert_eq!(kept(&["::/0"], &["2001:db8::1/128"], &[]).len(), 128);
    }
}
