//! The answer's way back over this node.

use super::way::{Way, transport};
use super::{At, Node, Route, RouteQuestion, State, device};
use crate::foreign::{self, Device, Hook, Span};

impl<N: Node> Way<'_, N> {
    /// True if connection tracking does not know the answer to a translated packet for one, so that
    /// nothing translates it back.
    fn is_lost(&mut self, seen: &foreign::Packet, reply: &foreign::Packet) -> bool {
        if reply.asked.is_none() && !reply.masqueraded {
            return false;
        }
        let found = match (seen.zone, reply.zone) {
            _ if reply.untracked && !seen.untracked => {
                "another program's rule says that the answer is not tracked".to_owned()
            }
            (Some(of), Some(other)) if of != other => format!(
                "by other programs' rules the packet is tracked in zone {of}, and its answer in \
                 zone {other}"
            ),
            _ => return false,
        };
        let found = format!("{found}: nothing translates it back");
        let repair = Some("nft list ruleset: who says notrack, or ct zone set?".to_owned());
        self.note(At::Conntrack, State::Broken, found, repair);
        true
    }

    /// The answer's way back, as far as it is this node's. `from`: the device it comes in by;
    /// this node itself answers otherwise.
    pub(super) fn answer(
        &mut self,
        seen: &foreign::Packet,
        asking: Hook,
        from: Option<u32>,
        masqueraded: bool,
    ) {
        let every = Span::All;
        let iif = from.map_or(Device::None, |index| device(self.node, index));
        let mut reply = seen.reply(iif);
        // What the endpoint answers to; connection tracking gives the client back on the way.
        let to_this_node = masqueraded || asking == Hook::Output;
        if from.is_some() {
            if !to_this_node && let Some(ports) = self.direct(reply.source, reply.destination) {
                self.answered_over(&ports, &mut reply);
                self.at_client(&reply);
                return;
            }
            self.comes_in(&mut reply, every);
        } else {
            self.hook(Hook::Output, every, &mut reply);
        }
        if self.is_lost(seen, &reply) {
            return;
        }
        if asking == Hook::Output {
            if from.is_some() {
                self.hook(Hook::Input, every, &mut reply);
            }
            return;
        }
        let question = RouteQuestion {
            source: Some(reply.source).filter(|_| from.is_some()),
            destination: reply.destination,
            iif: from,
            mark: reply.mark.unwrap_or(0),
            transport: transport(&reply),
        };
        match self.node.route(&question) {
            Some(Route::Device { index, via, .. }) => {
                reply.oif = device(self.node, index);
                reply.next_hop = Some(via.unwrap_or(reply.destination));
                if from.is_some() {
                    self.hook(Hook::Forward, every, &mut reply);
                }
                self.hook(Hook::Postrouting, every, &mut reply);
                // It leaves as the client knows the Service.
                if let Some((address, port)) = reply.asked {
                    reply.source = address;
                    reply.source_port = Some(port);
                }
                self.hook(Hook::Egress, every, &mut reply);
                self.goes_out(index, &mut reply);
                match via {
                    Some(via) => self.silent(index, via),
                    None => self.at_client(&reply),
                }
            }
            Some(Route::Refused(_)) if from.is_some() && self.forwarding(&reply) => {}
            Some(Route::Refused(errno)) => {
                let (at, found, repair) = self.no_route(&reply, errno);
                let at = match at {
                    At::Route(_) => At::Route(true),
                    at => at,
                };
                self.note(at, State::Broken, found, repair);
            }
            Some(Route::Local) | None => {}
        }
    }
}
