//! Packets sent in a lab that is up, between its places.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::Found;
use crate::cli::error::CliError;
use crate::cli::lab::{Folder, PlaceView, Reply, Request, View};
use crate::cluster::{Family, Protocol};
use crate::config::Config;
use crate::explain::Names;
use crate::lab::{self, Namespace, Source};
use crate::node::Node;
use crate::source::Input;
use crate::verify::{self, Answer, Ask, Asked, Check, Outcome, Packets};

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
    fn questions(
        &self,
        from: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        patience: Duration,
        count: usize,
    ) -> Result<Vec<lab::Outcome>, String> {
        let has = |place: &&PlaceView| place.addresses.contains(&from);
        let place = self.view.places.values().find(has);
        let place = place.ok_or_else(|| format!("nobody in the lab has {from}"))?;
        let namespace = Namespace::open(&place.namespace).map_err(|error| error.to_string())?;
        let source = Source {
            addr: Some(from),
            port: 0,
        };
        let asked =
            namespace.enter(|| lab::ask_until_silent(source, protocol, to, patience, count));
        asked.map_err(|error| error.to_string())
    }

    fn answer(&self, answer: &lab::Answer, to: SocketAddr) -> Result<Answer, String> {
        let same = |addr: &&IpAddr| Family::of(addr) == Family::of(&to.ip());
        let addresses = self.answerers.get(&answer.name).into_iter().flatten();
        let by = addresses.into_iter().find(same);
        let by = by.ok_or_else(|| format!("{} answered, which has no address", answer.name))?;
        Ok(Answer {
            by: SocketAddr::new(*by, answer.port),
            seen: answer.client.ip(),
        })
    }
}

impl Ask for Network<'_> {
    fn ask(
        &mut self,
        from: IpAddr,
        protocol: Protocol,
        to: SocketAddr,
        patience: Duration,
        count: usize,
    ) -> Vec<Outcome> {
        let asked = self.questions(from, protocol, to, patience, count);
        let outcome = |outcome| match outcome {
            lab::Outcome::Answer(answer) => self
                .answer(&answer, to)
                .map_or_else(Outcome::Failed, Outcome::Answer),
            lab::Outcome::Refused => Outcome::Refused,
            lab::Outcome::Silence => Outcome::Silence,
            lab::Outcome::Failed(error) => Outcome::Failed(error),
        };
        match asked {
            Ok(outcomes) => outcomes.into_iter().map(outcome).collect(),
            Err(error) => vec![Outcome::Failed(error)],
        }
    }

    fn forget(&mut self, _: IpAddr) -> Result<(), String> {
        let told = self.folder.ask(&Request::Anew);
        told.map(drop).map_err(|error| error.to_string())
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
