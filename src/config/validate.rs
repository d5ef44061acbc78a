//! Settings that contradict themselves.

use super::{Config, DetectLocal};
use crate::cluster::Family;
use crate::problem::Problem;

/// IFNAMSIZ less the NUL.
const MAX_INTERFACE_NAME: usize = 15;

impl Config {
    /// What is wrong with the settings taken together.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut error = |field: &str, message: String| {
            problems.push(Problem::error(None, "configuration", field, message));
        };
        if self.masquerade_bit > 31 {
            error(
                "masquerade-bit",
                format!("{} is not between 0 and 31", self.masquerade_bit),
            );
        }
        for family in Family::ALL {
            let of = self
                .cluster_cidrs
                .iter()
                .filter(|c| Family::of(&c.addr()) == family);
            let count = of.count();
            if count > 1 {
                error(
                    "cluster-cidr",
                    format!("has {count} {family} ranges; at most one counts"),
                );
            }
        }
        let name = match &self.detect_local {
            DetectLocal::BridgeInterface(name) => Some(("pod-bridge-interface", name)),
            DetectLocal::InterfaceNamePrefix(name) => Some(("pod-interface-name-prefix", name)),
            DetectLocal::ClusterCidr | DetectLocal::NodeCidr => None,
        };
        if let Some((field, name)) = name {
            let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '"' | '\\' | '*');
            if name.is_empty() || name.len() > MAX_INTERFACE_NAME || !name.chars().all(legal) {
                error(field, format!("{name:?} is not an interface name"));
            }
        }
        let (from, to) = self.node_port_range;
        if from == 0 || from > to {
            error(
                "service-node-port-range",
                format!("{from}-{to} is not a range of ports"),
            );
        }
        problems
    }
}
