//! Packets sent for real: around a node of their own, whose neighbours ask and answer.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use crate::apply::ThisHost;
use crate::cli::error::CliError;
use crate::cluster::Protocol;
use crate::lab::{Around, Vantage};
use crate::net::Question;
use crate::netlink::NetlinkError;
use crate::node::{self, Node};
use crate::verify::{self, Ask, Asked, Check, Outcome, Walker};

/// Each line, sent until its end is known well enough. The tables are installed alone: the
/// network brings the routes.
pub fn checks(node: &Node, file: &str, asked: &[Asked<'_>]) -> Result<Vec<Check>, CliError> {
    let vantage = Vantage::of(&node.context, &node.cluster, &node.config);
    let clients = asked.iter().map(|asked| asked.ends.source);
    let around = Around::new(vantage, clients, &servers(node, asked));
    let around = around.map_err(|error| CliError::Host(error.to_string()))?;
    let mut network = Network {
        around: &around,
        node,
    };
    for asked in asked {
        // Otherwise nothing that comes of it later is the rules' doing.
        let reached = verify::reaches_its_destination(asked, &mut network);
        reached.map_err(|what| {
            CliError::Host(format!(
                "{file}: {}: before anything is installed: {what}",
                asked.name()
            ))
        })?;
    }
    network.install().map_err(CliError::Host)?;
    let sent = asked
        .iter()
        .map(|asked| verify::sent(asked, file, &mut network));
    Ok(sent.collect())
}

/// Where somebody must answer: at the destinations, where lines say, and where the rules lead.
fn servers(node: &Node, asked: &[Asked<'_>]) -> BTreeSet<(SocketAddr, Protocol)> {
    let (ruleset, local) = (node.ruleset(), verify::addresses(node));
    let walker = Walker {
        node,
        ruleset: &ruleset,
        local: &local,
        absent: false,
    };
    let all = asked.iter().flat_map(|asked| {
        let ends = &asked.ends;
        let mut at = asked.sockets();
        at.push(SocketAddr::new(ends.destination, ends.port));
        let candidates = walker.walk(asked).trace.candidates.into_iter();
        at.extend(candidates.map(|c| SocketAddr::new(c.endpoint.addr, c.endpoint.port.get())));
        at.into_iter().map(|at| (at, ends.protocol))
    });
    all.collect()
}

struct Network<'a> {
    around: &'a Around,
    node: &'a Node,
}

impl Network<'_> {
    /// Installs anew, and with it forgets all clients.
    fn install(&self) -> Result<(), String> {
        let work = || -> Result<(), NetlinkError> {
            let mut host = ThisHost::open()?;
            node::remove(&mut host)?;
            self.node.install(&mut host)?;
            Ok(())
        };
        let entered = self.around.node().enter(work).map_err(|e| e.to_string())?;
        entered.map_err(|error| error.to_string())
    }
}

impl Ask for Network<'_> {
    fn ask(&mut self, question: &Question) -> Vec<Outcome> {
        // Those around a node answer with their address.
        let outcome = |outcome| Outcome::of(outcome, |name| name.parse().ok());
        match self.around.ask(question) {
            Ok(outcomes) => outcomes.into_iter().map(outcome).collect(),
            Err(error) => vec![Outcome::Failed(error.to_string())],
        }
    }

    fn forget(&mut self, _: IpAddr) -> Result<(), String> {
        self.install()
    }

    fn is_nodes(&self, address: IpAddr) -> bool {
        self.around.is_nodes(address)
    }
}
