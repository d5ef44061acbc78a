//! The `Topology` document: what of a lab's network manifests cannot say.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;
use serde::Deserialize;

use super::LabError;
use crate::cluster::Family;
use crate::config::API_VERSION;
use crate::syntax::parse;

/// `kind` of the document.
const KIND: &str = "Topology";
/// There are no more made-up addresses for nodes in their network.
const MOST_NODES: usize = 240;

/// What a lab has besides what follows from its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    api_version: String,
    kind: String,
    /// How many nodes there are if no Node is given.
    #[serde(default)]
    pub nodes: Option<usize>,
    /// Families of what is made up.
    #[serde(default)]
    pub families: Vec<FamilyName>,
    /// Hosts beyond the router.
    #[serde(default)]
    pub clients: Vec<Client>,
    /// Links that are not as usual.
    #[serde(default)]
    pub links: Vec<Link>,
    /// More routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Other programs' rules.
    #[serde(default)]
    pub rules: Vec<Rules>,
}

/// A family as objects call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum FamilyName {
    /// IPv4.
    #[serde(rename = "IPv4")]
    V4,
    /// IPv6.
    #[serde(rename = "IPv6")]
    V6,
}

impl From<FamilyName> for Family {
    fn from(name: FamilyName) -> Self {
        match name {
            FamilyName::V4 => Self::Ip,
            FamilyName::V6 => Self::Ip6,
        }
    }
}

/// A host beyond the router, called `client/NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Client {
    /// Name.
    pub name: String,
    /// Addresses, of any network.
    pub addresses: Vec<IpAddr>,
    /// Ports at which it answers, 80 if none are given.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// A link of a place to the network, other than usual.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Link {
    /// Whose.
    pub place: String,
    /// Its interface: `eth0`, or a further one, which leads to a network of its name's own on
    /// the router.
    #[serde(default = "eth0")]
    pub device: String,
    /// Addresses of a further one, with the length of their prefix.
    #[serde(default)]
    pub addresses: Vec<IpNet>,
    /// Largest IP packet, in bytes.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// False: the link has failed.
    #[serde(default = "yes")]
    pub up: bool,
}

fn eth0() -> String {
    "eth0".to_owned()
}

const fn yes() -> bool {
    true
}

/// A route of a place.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Whose.
    pub place: String,
    /// Destination.
    pub to: IpNet,
    /// Next hop.
    pub via: IpAddr,
}

/// Rules of another program, in nft's language: nft loads them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rules {
    /// Where.
    pub place: String,
    /// The ruleset.
    pub nft: String,
}

impl Topology {
    /// Reads the document.
    ///
    /// # Errors
    /// With the line, if it is none.
    pub fn read(path: &Path) -> Result<Self, LabError> {
        let name = path.display();
        let bytes =
            std::fs::read(path).map_err(|e| LabError::Input(format!("cannot read {name}: {e}")))?;
        let at =
            |(line, message): (usize, String)| LabError::Input(format!("{name}:{line}: {message}"));
        let text = parse::text(&bytes).map_err(at)?;
        let read: Self = parse::yaml(text).map_err(at)?;
        if (&*read.api_version, &*read.kind) != (API_VERSION, KIND) {
            return Err(LabError::Input(format!(
                "{name}: is {} {}; expected {API_VERSION} {KIND}",
                read.api_version, read.kind
            )));
        }
        read.check()
            .map_err(|message| LabError::Input(format!("{name}: Topology: {message}")))?;
        Ok(read)
    }

    /// What has the form and no meaning.
    fn check(&self) -> Result<(), String> {
        if let Some(n) = self.nodes.filter(|n| !(1..=MOST_NODES).contains(n)) {
            return Err(format!("nodes: is {n}; expected 1 to {MOST_NODES}"));
        }
        let mut names = BTreeSet::new();
        for (n, client) in self.clients.iter().enumerate() {
            let Client {
                name,
                addresses,
                ports,
            } = client;
            let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
            if name.is_empty() || !name.chars().all(good) {
                let expected = "lower-case letters, digits, hyphens and dots";
                return Err(format!(
                    "clients[{n}].name: is {name:?}; expected {expected}"
                ));
            }
            if !names.insert(name) {
                return Err(format!("clients[{n}].name: there are two {name:?}"));
            }
            if addresses.is_empty() {
                return Err(format!("clients[{n}].addresses: is empty; expected one"));
            }
            if ports.contains(&0) {
                return Err(format!("clients[{n}].ports: is 0; expected 1 to 65535"));
            }
        }
        for (n, link) in self.links.iter().enumerate() {
            let Link {
                device, addresses, ..
            } = link;
            // `net-` goes before it, and names of interfaces have up to 15 bytes (IFNAMSIZ).
            let good = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !(1..=11).contains(&device.len()) || !device.chars().all(good) {
                let expected = "up to 11 letters, digits, hyphens, dots and underscores";
                return Err(format!(
                    "links[{n}].device: is {device:?}; expected {expected}"
                ));
            }
            if (*device == eth0()) != addresses.is_empty() {
                let message = "are for a further device than eth0, and that needs some";
                return Err(format!("links[{n}].addresses: {message}"));
            }
        }
        Ok(())
    }
}
