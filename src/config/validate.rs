//! Settings that contradict themselves.

use ipnet::IpNet;

use super::Config;
use crate::cluster::{Family, special, special_in};
use crate::problem::Problem;

impl Config {
    /// What is wrong with the settings taken together: each is an error.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut error = |field: &str, message: String| {
            problems.push(Problem::error(None, "configuration", field, message));
        };
        for family in Family::ALL {
            let of = |net: &&IpNet| Family::of(&net.addr()) == family;
            let count = self.cluster_cidrs.iter().filter(of).count();
            if count > 1 {
                error(
                    "cluster-cidr",
                    format!("has {count} {family} ranges; at most one counts"),
                );
            }
        }
        let listed = self.nodes.iter().flat_map(|node| &node.addresses);
        for addr in self.node_ips.iter().chain(listed) {
            if let Some(why) = special(*addr) {
                error(
                    "node-ip",
                    format!("{addr} is {why}, which no node can have"),
                );
            }
        }
        let listed = self.nodes.iter().flat_map(|node| &node.pod_cidrs);
        let lists = [
            ("cluster-cidr", self.cluster_cidrs.iter().collect()),
            ("pod-cidr", self.pod_cidrs.iter().collect()),
            (
                "service-cluster-ip-range",
                self.service_cidrs.iter().collect(),
            ),
            ("nodes", listed.collect::<Vec<_>>()),
        ];
        for (field, nets) in lists {
            for net in nets {
                // Who says that everything is the cluster's wants nothing masqueraded.
                if field == "cluster-cidr" && net.prefix_len() == 0 {
                    continue;
                }
                if let Some((addr, why)) = special_in(net) {
                    error(field, format!("{net} holds {addr}, {why}"));
                }
            }
        }
        for net in &self.masquerade_cidrs {
            if self.non_masquerade_cidrs.contains(net) {
                error(
                    "masquerade-cidrs",
                    format!("{net} is in non-masquerade-cidrs as well; it can only be in one"),
                );
            }
        }
        for (i, node) in self.nodes.iter().enumerate() {
            if self.nodes[..i].iter().any(|other| other.name == node.name) {
                error("nodes", format!("{} is listed twice", node.name));
            }
        }
        problems
    }
}
