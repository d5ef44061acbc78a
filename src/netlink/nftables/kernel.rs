//! The socket to nf_tables: requests and dumps; batches are sent by `commit.rs`.

mod commit;
mod sets;

use std::collections::BTreeMap;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::constants::{generation, msg};
use super::encode::{dump, get_elements, get_generation};
use super::{NetlinkError, decode};
use crate::netlink::error::ExchangeError;
use crate::netlink::exchange::Exchange;
use crate::netlink::message::Message;
use crate::netlink::socket::Bus;
use crate::ruleset::{
    Element, Family, Following, LiveChain, LiveRuleset, LiveTable, Set, SetKind, Value,
};
use crate::transaction::Count;

pub use commit::Committed;

/// What we ask the kernel to let us queue.
const QUEUE: usize = 256 << 20;
/// Elements asked for at once: the kernel queues an answer of 4 KiB for each before we can read
/// the first, and a queue of the default size must hold them.
const KEYS_AT_ONCE: usize = 32;
/// Times a set is dumped before fewer elements than the kernel counts are believed.
const DUMP_TRIES: usize = 5;
/// Times a read is tried again because somebody committed meanwhile.
const READ_TRIES: usize = 50;

/// An open socket to nf_tables. Keep it: closing one after a commit waits for the kernel
/// to tidy up.
#[derive(Debug)]
pub struct Nfnetlink {
    pub(super) exchange: Exchange,
    /// True if the kernel let us have as large a queue as we like.
    forced: bool,
    /// True if the kernel is known to acknowledge the end of a batch: Linux 6.10.
    ends: bool,
}

impl Nfnetlink {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// If the kernel has no nfnetlink.
    pub fn open() -> Result<Self, NetlinkError> {
        let exchange = Exchange::open(Bus::Netfilter)?;
        let socket = exchange.socket();
        let forced = setsockopt(socket, sockopt::SndBufForce, &QUEUE).is_ok();
        if !forced {
            let _ = setsockopt(socket, sockopt::SndBuf, &QUEUE);
        }
        // A full receive queue costs error messages, never a commit.
        if setsockopt(socket, sockopt::RcvBufForce, &(8 << 20)).is_err() {
            let _ = setsockopt(socket, sockopt::RcvBuf, &(8 << 20));
        }
        Ok(Self {
            exchange,
            forced,
            ends: false,
        })
    }

    /// `progress` is called for each part of an answer that arrives: reading large sets takes
    /// minutes.
    pub fn on_progress(&mut self, progress: Box<dyn FnMut()>) {
        self.exchange.on_progress(progress);
    }

    /// The port its commits are announced under.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.exchange.socket().port()
    }

    /// The generation of the namespace's ruleset: changes with every commit by anyone.
    ///
    /// # Errors
    /// If the kernel has no nf_tables, or does not let us ask.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let mut found = None;
        self.exchange.request(&get_generation(), |message| {
            found = message.attrs().u32(generation::ID).or(found);
            Ok::<(), ExchangeError>(())
        })?;
        Ok(found.ok_or(ExchangeError::NoAnswer)?)
    }

    /// Names of all tables in both families, ours and others'.
    ///
    /// # Errors
    /// If the kernel does not let us ask.
    pub fn table_names(&mut self) -> Result<Vec<(Family, String)>, NetlinkError> {
        let mut out = Vec::new();
        for family in Family::ALL {
            let request = dump(msg::GETTABLE, family, None);
            self.exchange.request(&request, |message| {
                out.extend(decode::table_name(message).map(|name| (family, name)));
                Ok::<(), ExchangeError>(())
            })?;
        }
        Ok(out)
    }

    /// Reads our tables. If somebody commits meanwhile it starts over, until a reading was
    /// not disturbed or says the same as the one before: who keeps committing to tables of
    /// their own does not change ours. A commit bound to [`LiveRuleset::generation`] may then
    /// be raced. O(elements of ours), for large sets but those of `following` more: each page
    /// of a dump restarts the walk.
    ///
    /// # Errors
    /// If the kernel does not let us read, or does not hold still.
    pub fn read(&mut self, following: Following) -> Result<LiveRuleset, NetlinkError> {
        self.steady(|kernel, family| {
            let mut table = kernel.table(family)?;
            if let Some(table) = &mut table {
                kernel.read_sets(family, table, following)?;
            }
            Ok(table)
        })
    }

    /// The same without elements; exact sets come with their number, if the kernel tells it
    /// ([`LiveTable::counts`]). O(1): the sets and rules do not depend on the cluster.
    ///
    /// # Errors
    /// As [`Nfnetlink::read`].
    pub fn outline(&mut self) -> Result<LiveRuleset, NetlinkError> {
        self.steady(Self::table)
    }

    fn steady(
        &mut self,
        mut table: impl FnMut(&mut Self, Family) -> Result<Option<LiveTable>, NetlinkError>,
    ) -> Result<LiveRuleset, NetlinkError> {
        let mut last: Option<LiveRuleset> = None;
        for _ in 0..READ_TRIES {
            let before = self.generation()?;
            let mut live = LiveRuleset {
                generation: before,
                tables: BTreeMap::new(),
            };
            let mut whole = true;
            for family in Family::ALL {
                match table(self, family) {
                    Ok(Some(table)) => drop(live.tables.insert(family, table)),
                    Ok(None) => {}
                    Err(NetlinkError::Interrupted) => whole = false,
                    Err(e) => return Err(e),
                }
            }
            // A dump that was cut short by a change leaves a later generation behind, too.
            let undisturbed = self.generation()? == before;
            if whole && (undisturbed || last.as_ref().is_some_and(|l| l.tables == live.tables)) {
                return Ok(live);
            }
            last = whole.then_some(live);
        }
        Err(NetlinkError::Interrupted)
    }

    fn dump(
        &mut self,
        kind: u8,
        family: Family,
        set: Option<&str>,
        mut each: impl FnMut(&Message<'_>) -> Result<(), NetlinkError>,
    ) -> Result<bool, NetlinkError> {
        // The kernel dumps the chains of all tables, whichever the request names.
        let result = self.exchange.request(&dump(kind, family, set), |message| {
            if decode::is_of_our_table(message) {
                each(message)?;
            }
            Ok(())
        });
        match result {
            // The mark of an interrupted dump says no more than that the generation changed;
            // who reads everything looks at that.
            Ok(whole) => Ok(whole),
            // A table or set that goes while we read is a change like any other.
            Err(NetlinkError::Exchange(e))
                if matches!(e.refused(), Some(Errno::ENOENT | Errno::EINTR)) =>
            {
                Err(NetlinkError::Interrupted)
            }
            Err(e) => Err(e),
        }
    }

    /// A table without the elements of its sets.
    fn table(&mut self, family: Family) -> Result<Option<LiveTable>, NetlinkError> {
        let mut found = None;
        self.dump(msg::GETTABLE, family, None, |message| {
            found = Some(decode::ownership(message));
            Ok(())
        })?;
        let Some((owned, orphan)) = found else {
            return Ok(None);
        };
        let mut table = LiveTable {
            owned,
            orphan,
            ..LiveTable::default()
        };
        self.dump(msg::GETSET, family, None, |message| {
            match decode::set(message) {
                Ok(set) => {
                    // Packets fill dynamic sets: what they count is no state of ours.
                    let dynamic = matches!(set.kind, SetKind::Dynamic { .. });
                    let count = decode::element_count(message).filter(|_| !dynamic);
                    table.counts.extend(count.map(|n| (set.name.clone(), n)));
                    drop(table.sets.insert(set.name.clone(), set));
                }
                Err(name) => table.foreign.push(format!("set {name}")),
            }
            Ok(())
        })?;
        self.dump(msg::GETCHAIN, family, None, |message| {
            match decode::chain(message) {
                Ok((name, base)) => {
                    let rules = Vec::new();
                    drop(table.chains.insert(name, LiveChain { base, rules }));
                }
                Err(name) => table.foreign.push(format!("chain {name}")),
            }
            Ok(())
        })?;
        self.dump(msg::GETRULE, family, None, |message| {
            if let Some((chain, code)) = decode::rule(message)
                && let Some(chain) = table.chains.get_mut(&chain)
            {
                chain.rules.push(code);
            }
            Ok(())
        })?;
        Ok(Some(table))
    }

    /// The elements of one set as they are now, dynamic ones included. Read again, a few
    /// times, if somebody committed meanwhile.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn elements(&mut self, family: Family, mut set: Set) -> Result<Set, NetlinkError> {
        let name = set.name.clone();
        for _ in 0..DUMP_TRIES {
            set.elements.clear();
            let mut bounds = Vec::new();
            let whole = self.dump(msg::GETSETELEM, family, Some(&name), |message| {
                decode::elements(message, &mut set, &mut bounds).map_err(NetlinkError::Foreign)
            })?;
            decode::ranges(&mut set, bounds);
            if whole {
                break;
            }
        }
        Ok(set)
    }

    /// Hands every element of our counted sets to `each`, with what it has counted. Returns
    /// whether there is any such set, and whether nobody committed meanwhile: if it was to our
    /// tables, elements may have been left out or come twice. O(elements of these).
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn counters(
        &mut self,
        mut each: impl FnMut(Family, &Set, &Value, &Element, Count),
    ) -> Result<(bool, bool), NetlinkError> {
        let before = self.generation()?;
        let mut any = false;
        for family in Family::ALL {
            // A family that nobody uses has no table, and asking for its sets is refused.
            let mut there = false;
            self.dump(msg::GETTABLE, family, None, |_| {
                there = true;
                Ok(())
            })?;
            if !there {
                continue;
            }
            let mut sets = Vec::new();
            self.dump(msg::GETSET, family, None, |message| {
                sets.extend(decode::set(message).ok().filter(|set| set.counted));
                Ok(())
            })?;
            any |= !sets.is_empty();
            for set in &sets {
                self.dump(msg::GETSETELEM, family, Some(&set.name), |message| {
                    decode::counters(message, |key, element, count| {
                        each(family, set, key, element, count);
                    });
                    Ok(())
                })?;
            }
        }
        Ok((any, self.generation()? == before))
    }

    /// Hands these elements of one of our sets to `each`, with what they have counted;
    /// from the first one on that is not there, none. O(keys).
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn counters_of(
        &mut self,
        family: Family,
        set: &Set,
        keys: &[Value],
        mut each: impl FnMut(&Value, &Element, Count),
    ) -> Result<(), NetlinkError> {
        self.ask_for(family, set, keys.iter(), |message| {
            decode::counters(message, &mut each);
        })?;
        Ok(())
    }

    /// True if every element of `set` is in the kernel's set of that name as it is here.
    /// O(elements), where a dump takes the square of them: each page of it walks the set from
    /// its start.
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn holds(&mut self, family: Family, set: &Set) -> Result<bool, NetlinkError> {
        let mut same = 0;
        let all = self.ask_for(family, set, set.elements.keys(), |message| {
            decode::each_element(message, |key, element| {
                same += usize::from(set.elements.get(key) == Some(element));
            });
        })?;
        Ok(all && same == set.elements.len())
    }

    /// Asks for these elements; false if one of them is not there, and then for no more.
    fn ask_for<'k>(
        &mut self,
        family: Family,
        set: &Set,
        mut keys: impl Iterator<Item = &'k Value>,
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<bool, NetlinkError> {
        loop {
            let some: Vec<&Value> = keys.by_ref().take(KEYS_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(true);
            }
            if self.ask(family, &set.name, &some, &mut each)? < some.len() {
                return Ok(false);
            }
        }
    }

    /// Asks for at most [`KEYS_AT_ONCE`] elements; how many were there before the first that
    /// is not, at which the kernel stops.
    fn ask(
        &mut self,
        family: Family,
        set: &str,
        keys: &[&Value],
        mut each: impl FnMut(&Message<'_>),
    ) -> Result<usize, NetlinkError> {
        let request = get_elements(family, set, keys);
        let request = request.map_err(|why| NetlinkError::Key(set.to_owned(), why))?;
        let mut answers = 0;
        let result = self.exchange.request(&request, |message| {
            answers += 1;
            each(message);
            Ok::<(), ExchangeError>(())
        });
        match result {
            Err(error) if error.refused() == Some(Errno::ENOENT) => Ok(answers),
            result => Ok(result.map(|_| keys.len())?),
        }
    }
}

#[cfg(test)]
mod tests;
