//! Connection tracking: reading flows and removing stale ones.
//!
//! A UDP client that keeps its source port keeps its connection-tracking entry, and with it
//! the endpoint the first packet was sent to, as long as it talks. When that endpoint is
//! gone the entry has to go, or the client talks to nobody (kube-proxy-behaviour L1-L10).
//! Which entries are stale is [`super::conntrack_plan`]'s business; they are removed after
//! the new ruleset is committed, so that no old rule can make them anew.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::error::HostError;
use crate::cluster::{Family, Protocol};
use crate::netlink::ExchangeError;
pub use crate::netlink::conntrack::{Change, Entry, Flow, Sum, Tuple, states};
use crate::netlink::conntrack::{
    Filter, GROUPS, Partial, decode, decode_entry, decode_event, delete, delete_filtered, dump,
};
use crate::netlink::exchange::Exchange;
use crate::netlink::socket::{Bus, Socket};

/// Deletions by filter, for errors.
const BY_FILTER: &str = "delete connections by filter";

/// Bytes of events that may wait to be read: some 20,000 of them.
const EVENT_QUEUE: usize = 8 << 20;

/// Up to so many stale flows are removed by one filtered deletion each. The kernel walks its
/// whole table for each of them, 9 ms for 262,144 buckets; a dump takes 12 ms, 1 µs for each
/// flow it finds and 7 µs for each that is deleted (60,000 flows on Linux 6.18).
const MAX_FILTERED: usize = 4;

/// Entries to be removed: all that agree in everything given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaleFlow {
    /// Family.
    pub family: Family,
    /// Protocol.
    pub protocol: Protocol,
    /// Where the client sent it; `None` for any address.
    pub original_dst: Option<IpAddr>,
    /// The port the client sent it to.
    pub original_dport: u16,
    /// The endpoint that answers it; the frontend's own address for a flow that passed
    /// untranslated; `None` for any.
    pub reply_src: Option<IpAddr>,
    /// The endpoint's port; `None` for any.
    pub reply_sport: Option<u16>,
}

impl StaleFlow {
    /// True if `flow` is one of these.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        self.family == flow.family
            && self.protocol == flow.protocol
            && self.original_dport == flow.original.dport
            && self.original_dst.is_none_or(|dst| dst == flow.original.dst)
            && self.reply_src.is_none_or(|src| src == flow.reply.src)
            && (self.reply_sport).is_none_or(|port| port == flow.reply.sport)
    }

    fn filter(&self) -> Filter {
        Filter {
            family: self.family,
            protocol: self.protocol.number(),
            original: Partial {
                dst: self.original_dst,
                dport: Some(self.original_dport),
                ..Partial::default()
            },
            reply: Partial {
                src: self.reply_src,
                sport: self.reply_sport,
                ..Partial::default()
            },
        }
    }

    /// True if a kernel that filters deletions does so rightly for this one.
    ///
    /// Linux (6.18, and every earlier one that filters at all) compares IPv6 addresses the
    /// wrong way round, so that a filtered deletion takes all flows *but* the ones meant, and
    /// compares no ports of SCTP, so that it takes too many (both in
    /// `ctnetlink_filter_match_tuple`).
    const fn kernel_filters_rightly(&self) -> bool {
        matches!(
            (self.family, self.protocol),
            (Family::Ip, Protocol::Udp | Protocol::Tcp)
        )
    }
}

/// What a deletion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Stale flows left to the kernel to find and remove; it does not say how many entries
    /// that were.
    pub filtered: usize,
    /// Entries found in a dump and removed one by one.
    pub entries: usize,
}

/// The connection-tracking table of the network namespace it was opened in.
#[derive(Debug)]
pub struct Conntrack {
    exchange: Exchange,
    filters: Option<bool>,
}

impl Conntrack {
    /// Opens the table.
    ///
    /// # Errors
    /// If there is no netlink socket to be had.
    pub fn open() -> Result<Self, HostError> {
        let opened = Exchange::open(Bus::Netfilter);
        Ok(Self {
            exchange: opened.map_err(HostError::of("look at tracked connections"))?,
            filters: None,
        })
    }

    /// True if the kernel deletes by filter (CTA_FILTER on a flush, Linux 6.10 or so). Asked
    /// once, by a filter that finds nothing.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn probe_filter(&mut self) -> Result<bool, HostError> {
        if let Some(filters) = self.filters {
            return Ok(filters);
        }
        // No flow is of the reserved protocol 255. A kernel that does not know the filter
        // takes the incomplete tuple for a malformed one, and deletes nothing either.
        let nothing = Filter {
            family: Family::Ip,
            protocol: 255,
            original: Partial {
                dst: Some(IpAddr::from([0, 0, 0, 0])),
                ..Partial::default()
            },
            reply: Partial::default(),
        };
        let answer = self
            .exchange
            .request(&delete_filtered(&nothing), |_| Ok(()));
        let filters = match answer {
            Ok(_) => true,
            Err(ExchangeError::Refused(refusal))
                if matches!(
                    refusal.errno,
                    Errno::EOPNOTSUPP | Errno::EINVAL | Errno::ENOENT
                ) =>
            {
                false
            }
            Err(error) => return Err(HostError::of(BY_FILTER)(error)),
        };
        self.filters = Some(filters);
        Ok(filters)
    }

    /// Does without deletions by filter, as on an older kernel.
    pub const fn without_filter(mut self) -> Self {
        self.filters = Some(false);
        self
    }

    /// Removes all entries that are one of `stale`, and no others. Entries in zones other
    /// than the default one are never touched.
    ///
    /// # Errors
    /// If the kernel refuses; what was removed until then is removed.
    pub fn delete(&mut self, stale: &[StaleFlow]) -> Result<Deleted, HostError> {
        let mut groups: BTreeMap<(Family, Protocol), BTreeSet<&StaleFlow>> = BTreeMap::new();
        for flow in stale {
            let group = groups.entry((flow.family, flow.protocol)).or_default();
            group.insert(flow);
        }
        let mut deleted = Deleted::default();
        for ((family, protocol), group) in groups {
            let by_filter = group.len() <= MAX_FILTERED
                && group.iter().all(|flow| flow.kernel_filters_rightly())
                && self.probe_filter()?;
            if by_filter {
                deleted.filtered += self.delete_filtered(&group)?;
            } else {
                let found = find(
                    &group,
                    self.dump_port(family, protocol, common_port(&group))?,
                );
                deleted.entries += self.delete_flows(&found)?;
            }
        }
        Ok(deleted)
    }

    /// The entries of a family and protocol, in no particular order.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn dump(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Flow>, HostError> {
        self.dump_port(family, protocol, None)
    }

    /// The same, with their states and counters.
    ///
    /// # Errors
    /// If the kernel cannot be asked.
    pub fn entries(&mut self, family: Family, protocol: Protocol) -> Result<Vec<Entry>, HostError> {
        let filter = Filter {
            family,
            protocol: protocol.number(),
            original: Partial::default(),
            reply: Partial::default(),
        };
        let mut entries = (self.exchange.list(&dump(&filter), decode_entry))
            .map_err(HostError::of("list tracked connections"))?;
        entries.retain(|e| e.flow.family == family && e.flow.protocol == protocol);
        Ok(entries)
    }

    /// The same, towards one original destination port only.
    fn dump_port(
        &mut self,
        family: Family,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Result<Vec<Flow>, HostError> {
        let filter = Filter {
            family,
            protocol: protocol.number(),
            original: Partial {
                dport: port,
                ..Partial::default()
            },
            reply: Partial::default(),
        };
        let mut flows = (self.exchange.list(&dump(&filter), decode))
            .map_err(HostError::of("list tracked connections"))?;
        flows.retain(|flow| flow.family == family && flow.protocol == protocol);
        Ok(flows)
    }

    /// Removes entries; returns how many were still there.
    ///
    /// # Errors
    /// If the kernel refuses one; the others are removed all the same.
    pub fn delete_flows(&mut self, flows: &[Flow]) -> Result<usize, HostError> {
        let failed = HostError::of("delete tracked connections");
        let requests: Vec<_> = flows.iter().map(delete).collect();
        let mut deleted = 0;
        let mut refused = None;
        for result in self.exchange.pipeline(&requests).map_err(&failed)? {
            match result {
                Ok(()) => deleted += 1,
                Err(refusal) if refusal.errno == Errno::ENOENT => {}
                Err(refusal) => refused = Some(refusal),
            }
        }
        match refused {
            Some(refusal) => Err(failed(ExchangeError::Refused(refusal))),
            None => Ok(deleted),
        }
    }

    /// One filtered deletion for each.
    fn delete_filtered(&mut self, stale: &BTreeSet<&StaleFlow>) -> Result<usize, HostError> {
        let failed = HostError::of(BY_FILTER);
        let requests: Vec<_> = (stale.iter())
            .map(|flow| delete_filtered(&flow.filter()))
            .collect();
        (self
            .exchange
            .pipeline(&requests)
            .map_err(&failed)?
            .into_iter())
        .collect::<Result<Vec<()>, _>>()
        .map(|done| done.len())
        .map_err(|refusal| failed(ExchangeError::Refused(refusal)))
    }
}

/// What happens to entries, as it happens. Reading it never blocks.
pub struct Events(Socket);

impl Events {
    /// Listens from now on. Entries that exist already may stay unheard of: the kernel says
    /// what happens to those that were made while somebody listened
    /// (net.netfilter.nf_conntrack_events).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn open() -> Result<Self, HostError> {
        let failed = HostError::of("follow tracked connections");
        let socket = Socket::open(Bus::Netfilter).map_err(&failed)?;
        // A larger queue loses less; without the privilege for it, it is what it is.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &EVENT_QUEUE);
        for group in GROUPS {
            socket.listen(group, true).map_err(&failed)?;
        }
        Ok(Self(socket))
    }

    /// Everything since the last call, and whether that is all: false if more happened than
    /// the queue could hold.
    pub fn drain(&self) -> (Vec<(Change, Entry)>, bool) {
        let mut found = Vec::new();
        let mut whole = true;
        let kept = self.0.drain(|message| match decode_event(message) {
            Ok(event) => found.extend(event),
            Err(_) => whole = false,
        });
        (found, kept && whole)
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The original destination port that all of `stale` share, if they do.
fn common_port(stale: &BTreeSet<&StaleFlow>) -> Option<u16> {
    let first = stale.first()?.original_dport;
    let same = stale.iter().all(|flow| flow.original_dport == first);
    same.then_some(first)
}

/// The flows that are one of `stale`.
fn find(stale: &BTreeSet<&StaleFlow>, mut flows: Vec<Flow>) -> Vec<Flow> {
    let mut by_port: BTreeMap<u16, Vec<&StaleFlow>> = BTreeMap::new();
    for flow in stale {
        by_port.entry(flow.original_dport).or_default().push(flow);
    }
    flows.retain(|flow| {
        by_port
            .get(&flow.original.dport)
            .is_some_and(|stale| stale.iter().any(|stale| stale.matches(flow)))
    });
    flows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_flow_matches_only_what_agrees_in_everything_given() {
        let tuple = |src: &str, dst: &str, sport, dport| Tuple {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            sport,
            dport,
        };
        let flow = Flow {
            family: Family::Ip,
            protocol: Protocol::Udp,
            original: tuple("10.0.0.1", "10.96.0.10", 40_000, 53),
            reply: tuple("10.1.0.5", "10.0.0.1", 5353, 40_000),
            status: 0,
            id: 1,
        };
        let stale = StaleFlow {
            family: Family::Ip,
            protocol: Protocol::Udp,
            original_dst: None,
            original_dport: 53,
            reply_src: "10.1.0.5".parse().ok(),
            reply_sport: Some(5353),
        };
        assert!(stale.matches(&flow));
        for other in [
            StaleFlow {
                original_dport: 54,
                ..stale.clone()
            },
            StaleFlow {
                original_dst: "10.96.0.11".parse().ok(),
                ..stale.clone()
            },
            StaleFlow {
                reply_src: "10.1.0.6".parse().ok(),
                ..stale.clone()
            },
            StaleFlow {
                reply_sport: Some(53),
                ..stale.clone()
            },
            StaleFlow {
                protocol: Protocol::Sctp,
                ..stale.clone()
            },
        ] {
            assert!(!other.matches(&flow), "{other:?}");
        }
    }
}
