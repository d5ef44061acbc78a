//! Packets sent in a lab that is up, between its places.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::Found;
use crate::cli::error::CliError;
use crate::cli::lab::{Folder, PlaceView, Reply, Request, View};
use crate::cluster::Family;
use crate::config::Config;
use crate::explain::Names;
use crate::lab::{self, Namespace};
use crate::net::Question;
use crate::node::Node;
use crate::source::Input;
use crate::verify::{self, Ask, Asked, Check, Outcome, Packets};

/// Each line, sent until its end is known well enough.
pub fn found(name: &str, path: &Path, namespace: &str) -> Result<Found, CliError> {
    let folder = Folder::meant(Some(name).filter(|name| !name.is_empty()))?;
    let view = folder.view()?;
    let file = path.display().to_string();
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| CliError::Usage(format!("cannot read {file}: {error}")))?;
    let packets = Packets::parse(&file, &text)?;
    let read = Node::read(&[Input::Path(view.objects.clone())], Config::default());
    let (objects, _) = read.map_err(|error| CliError::Host(error.to_string()))?;
    let hosts = view.hosts();
    let asked = Asked::among(&packets, Names::with_hosts(&objects, namespace, &hosts))?;
    let mut network = Network {
        answerers: answerers(&view, &objects),
        folder: &folder,
        view: &view,
    };
    let sent = asked
        .iter()
        .map(|asked| verify::sent(asked, &file, &mut network));
    let mut checks: Vec<Check> = sent.collect();
    checks.push(idempotent(&folder, &file)?);
    Ok(Found { file, checks })
}

/// Nothing is sent when the same is installed once more.
fn idempotent(folder: &Folder, at: &str) -> Result<Check, CliError> {
    let found = match folder.ask(&Request::Again)? {
        Reply::Done { notes } if notes.is_empty() => Ok(()),
        Reply::Done { notes } => Err(format!("something is sent to {}", notes.join(", "))),
        _ => Err("the lab is of another version".to_owned()),
    };
    let name = "a second installation sends nothing";
    Ok(Check::of(at, name, "0 bytes to each node", found))
}

/// The addresses of those who answer by a name: places, and pods in a node's own network.
fn answerers(view: &View, objects: &Node) -> BTreeMap<String, Vec<IpAddr>> {
    let pods = objects.cluster.pods.values();
    let pods = pods.map(|pod| (lab::short(&pod.name), pod.addresses.clone()));
    let places = view.places.values();
    let places = places.map(|place| (place.answers_as.clone(), place.addresses.clone()));
    pods.chain(places).collect()
}

struct Network<'a> {
    folder: &'a Folder,
    view: &'a View,
    answerers: BTreeMap<String, Vec<IpAddr>>,
}

impl Network<'_> {
    fn questions(&self, question: &Question) -> Result<Vec<lab::Outcome>, String> {
        let from = question.from;
        let has = |place: &&PlaceView| place.addresses.contains(&from);
        let place = self.view.places.values().find(has);
        let place = place.ok_or_else(|| format!("nobody in the lab has {from}"))?;
        let namespace = Namespace::open(&place.namespace).map_err(|error| error.to_string())?;
        let asked = namespace.enter(|| lab::ask_often(question));
        asked.map_err(|error| error.to_string())
    }
}

impl Ask for Network<'_> {
    fn ask(&mut self, question: &Question) -> Vec<Outcome> {
        let same = |addr: &&IpAddr| Family::of(addr) == Family::of(&question.to.ip());
        let by = |name: &str| self.answerers.get(name)?.iter().find(same).copied();
        match self.questions(question) {
            Ok(outcomes) => outcomes.into_iter().map(|o| Outcome::of(o, by)).collect(),
            Err(error) => vec![Outcome::Failed(error)],
        }
    }

    fn forget(&mut self, _: IpAddr) -> Result<(), String> {
        let told = self.folder.ask(&Request::Anew);
        told.map(drop).map_err(|error| error.to_string())
    }

    fn name(&self, address: IpAddr) -> Option<String> {
        let places = self.view.places.iter();
        let mut named = places.filter(|(_, place)| place.addresses.contains(&address));
        named.next().map(|(name, _)| name.clone())
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        let nodes = self
            .view
            .places
            .values()
            .filter(|place| place.kind == "node");
        nodes.into_iter().any(|node| {
            let on_bridge = |net: &String| net.split('/').next() == Some(&*address.to_string());
            node.addresses.contains(&address) || node.bridge.iter().any(on_bridge)
        })
    }
}
