//! The kernel settings service NAT depends on: which are needed and why, what they are, and
//! setting them.
//!
//! `/proc/sys/net` shows the values of the network namespace of the thread that reads it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::HostError;
use super::interfaces::{Interface, Kind};
use crate::cluster::Family;
use crate::plan::NodeContext;

/// A setting and why it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Path below `/proc/sys`, as `net/ipv4/ip_forward`.
    pub path: &'static str,
    /// The value it needs.
    pub wanted: &'static str,
    /// What fails without it.
    pub reason: String,
    /// True if no pod or service works without it.
    pub essential: bool,
}

impl Setting {
    /// The name as `sysctl` spells it: `net.ipv4.ip_forward`.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.replace('/', ".")
    }
}

/// What a setting is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The setting.
    pub setting: Setting,
    /// Its value; `None` if the kernel does not know it (a module is not loaded).
    pub current: Option<String>,
}

impl Status {
    /// True if nothing is to be done.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.current.as_deref() == Some(self.setting.wanted)
    }
}

/// A setting that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The setting.
    pub setting: Setting,
    /// What it was before.
    pub old: String,
}

/// Where sysctls are read and written.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: PathBuf,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::at("/proc/sys")
    }
}

/// The settings a node needs that serves `families` and whose own pods are in `pod_cidrs`
/// (empty if unknown).
#[must_use]
pub fn needed(families: &[Family], pod_cidrs: &[IpNet], interfaces: &[Interface]) -> Vec<Setting> {
    let mut settings = Vec::new();
    for family in families {
        settings.push(forwarding(*family));
        if let Some(bridge) = pod_bridge(*family, pod_cidrs, interfaces) {
            settings.push(bridge_call(*family, &bridge.name));
        }
    }
    settings
}

/// The settings this node needs: of the families it has addresses or services in.
#[must_use]
pub fn needed_by(node: &NodeContext, interfaces: &[Interface]) -> Vec<Setting> {
    let nets = || node.pod_cidrs.iter().chain(&node.service_ranges);
    let families: Vec<Family> = Family::ALL
        .into_iter()
        .filter(|family| {
            node.addresses.iter().any(|a| Family::of(a) == *family)
                || nets().any(|net| Family::of(&net.addr()) == *family)
        })
        .collect();
    needed(&families, &node.pod_cidrs, interfaces)
}

fn forwarding(family: Family) -> Setting {
    let (path, hint) = match family {
        Family::Ip => ("net/ipv4/ip_forward", ""),
        Family::Ip6 => (
            "net/ipv6/conf/all/forwarding",
            "; where the default route comes from router advertisements, set \
             accept_ra=2 on that interface as well, or the route expires",
        ),
    };
    Setting {
        path,
        wanted: "1",
        reason: format!(
            "packets between pods, services and the network are routed by this node{hint}"
        ),
        essential: true,
    }
}

fn bridge_call(family: Family, bridge: &str) -> Setting {
    Setting {
        path: match family {
            Family::Ip => "net/bridge/bridge-nf-call-iptables",
            Family::Ip6 => "net/bridge/bridge-nf-call-ip6tables",
        },
        wanted: "1",
        reason: format!(
            "pods hang on bridge {bridge}: without it, replies between two pods of this node \
             pass the bridge untranslated, and a service whose endpoint is on the client's \
             own node times out"
        ),
        essential: false,
    }
}

/// The bridge whose address is in a pod CIDR of this node, if pods are bridged.
pub(super) fn pod_bridge<'a>(
    family: Family,
    pod_cidrs: &[IpNet],
    interfaces: &'a [Interface],
) -> Option<&'a Interface> {
    let is_pod = |net: &IpNet| {
        Family::of(&net.addr()) == family && pod_cidrs.iter().any(|cidr| cidr.contains(&net.addr()))
    };
    interfaces
        .iter()
        .filter(|interface| interface.kind == Kind::Bridge)
        .find(|bridge| bridge.addresses.iter().any(is_pod))
}

impl Sysctls {
    /// Sysctls below another folder than `/proc/sys`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What each setting is now.
    ///
    /// # Errors
    /// Naming the file, if one is there and cannot be read.
    pub fn status(&self, settings: &[Setting]) -> Result<Vec<Status>, HostError> {
        let status = |setting: &Setting| {
            Ok(Status {
                setting: setting.clone(),
                current: read(&self.root.join(setting.path))?,
            })
        };
        settings.iter().map(status).collect()
    }

    /// What [`Sysctls::apply`] would set. Each is opened for writing, and not written.
    ///
    /// # Errors
    /// Naming file and value, at the first that cannot be read or written.
    pub fn to_set(&self, settings: &[Setting]) -> Result<Vec<Changed>, HostError> {
        let mut found = Vec::new();
        for Status { setting, current } in self.status(settings)? {
            let Some(old) = current.filter(|current| current != setting.wanted) else {
                continue;
            };
            let path = self.root.join(setting.path);
            if let Err(source) = fs::OpenOptions::new().write(true).open(&path) {
                return Err(HostError::Write {
                    path,
                    value: setting.wanted,
                    source,
                });
            }
            found.push(Changed { setting, old });
        }
        Ok(found)
    }

    /// Sets what is not as wanted, and says what that was. A setting the kernel does not know
    /// is passed over: [`Sysctls::status`] reports it, nothing can be written.
    ///
    /// # Errors
    /// Naming file and value, at the first that cannot be read or written.
    pub fn apply(&self, settings: &[Setting]) -> Result<Vec<Changed>, HostError> {
        let to_set = self.to_set(settings)?;
        for Changed { setting, .. } in &to_set {
            let path = self.root.join(setting.path);
            if let Err(source) = fs::write(&path, setting.wanted) {
                return Err(HostError::Write {
                    path,
                    value: setting.wanted,
                    source,
                });
            }
        }
        Ok(to_set)
    }
}

/// Settings that may be put back: those that [`needed`] asks for.
const OURS: [&str; 4] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];

impl Sysctls {
    /// Sets one of our settings to a value it had, unless it has it; true if it was written.
    ///
    /// # Errors
    /// If it is none of ours, or cannot be read or written, naming it.
    pub fn put_back(&self, path: &str, value: &str) -> io::Result<bool> {
        let named = |source: io::Error| io::Error::new(source.kind(), format!("{path}: {source}"));
        if !OURS.contains(&path) {
            return Err(named(io::ErrorKind::InvalidInput.into()));
        }
        let file = self.root.join(path);
        let now = fs::read_to_string(&file).map_err(named)?;
        if now.trim() == value {
            return Ok(false);
        }
        fs::write(&file, value).map_err(named)?;
        Ok(true)
    }
}

/// The value in a file, trimmed; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, HostError> {
    match fs::read_to_string(path) {
        Ok(value) => Ok(Some(value.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HostError::Read {
            path: path.to_owned(),
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn bridge(addresses: &[&str]) -> Interface {
        Interface {
            index: 4,
            name: "cni0".into(),
            kind: Kind::Bridge,
            up: true,
            mtu: 1500,
            master: None,
            peer: None,
            peer_namespace: None,
            hairpin: false,
            isolated: false,
            mac: None,
            addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
            default_route: BTreeSet::new(),
        }
    }

    fn paths(settings: &[Setting]) -> Vec<&str> {
        settings.iter().map(|setting| setting.path).collect()
    }

    #[test]
    fn bridged_pods_need_bridge_nf_call_of_their_family_only() {
        let pods = [
            "10.244.0.0/24".parse().unwrap(),
            "fd00::/64".parse().unwrap(),
        ];
        let settings = needed(&Family::ALL, &pods, &[bridge(&["10.244.0.1/24"])]);
        assert_eq!(
            paths(&settings),
            [
                "net/ipv4/ip_forward",
                "net/bridge/bridge-nf-call-iptables",
                "net/ipv6/conf/all/forwarding"
            ]
        );
    }

    #[test]
    fn a_bridge_that_holds_no_pods_needs_nothing() {
        let pods = ["10.244.0.0/24".parse().unwrap()];
        let settings = needed(&[Family::Ip], &pods, &[bridge(&["172.17.0.1/16"])]);
        assert_eq!(paths(&settings), ["net/ipv4/ip_forward"]);
    }

    #[test]
    fn an_unknown_setting_is_reported_and_not_written() {
        let sysctls = Sysctls::at("/nonexistent-sysctl-root");
        let settings = needed(&[Family::Ip], &[], &[]);
        assert_eq!(sysctls.status(&settings).unwrap()[0].current, None);
        assert!(sysctls.apply(&settings).unwrap().is_empty());
    }
}
