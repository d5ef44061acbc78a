//! The elements of our sets, all of them: dumped, or asked for where a dump would take the
//! square of them.

use nix::errno::Errno;

use super::{DUMP_TRIES, KEYS_AT_ONCE, Nfnetlink};
use crate::netlink::nftables::constants::msg;
use crate::netlink::nftables::{NetlinkError, decode};
use crate::ruleset::{Element, Family, Following, LiveTable, SetKind, Value};

impl Nfnetlink {
    /// Fills the sets of `table`, but for those that packets fill. A set of `following` that
    /// holds elements whose keys do not follow is another program's work
    /// ([`LiveTable::foreign`]), as far as the kernel says how many it holds.
    pub(super) fn read_sets(
        &mut self,
        family: Family,
        table: &mut LiveTable,
        following: Following,
    ) -> Result<(), NetlinkError> {
        let follows = |name: &str| following.sets.iter().any(|(set, _)| *set == name);
        let names: Vec<String> = table.sets.keys().filter(|n| !follows(n)).cloned().collect();
        for name in names {
            self.dump_set(family, table, &name)?;
        }
        for (name, keys) in following.sets {
            if !table.sets.contains_key(*name) {
                continue;
            }
            let count = table.counts.get(*name).map(|count| *count as usize);
            if count.is_some_and(|count| count <= following.beyond) {
                self.dump_set(family, table, name)?;
                continue;
            }
            let keys = keys(&table.sets);
            if count.is_none() && keys.len() <= following.beyond {
                self.dump_set(family, table, name)?;
                continue;
            }
            self.ask_for_set(family, table, name, &keys)?;
            let found = table.sets.get(*name).map(|set| set.elements.len());
            if count.is_some() && found != count {
                let what = format!("set {name}: elements that nothing leads to");
                table.foreign.push(what);
            }
        }
        Ok(())
    }

    fn dump_set(
        &mut self,
        family: Family,
        table: &mut LiveTable,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let Some(set) = table.sets.get_mut(name) else {
            return Ok(());
        };
        if matches!(set.kind, SetKind::Dynamic { .. }) {
            return Ok(());
        }
        let count = table.counts.get(name).map_or(0, |count| *count as usize);
        let exact = set.kind == SetKind::Exact;
        let foreign = &mut table.foreign;
        // While the kernel moves a set to a larger table, a dump may pass elements over.
        for _ in 0..DUMP_TRIES {
            let mut bounds = Vec::new();
            self.dump(msg::GETSETELEM, family, Some(name), |message| {
                foreign.extend(decode::elements(message, set, &mut bounds).err());
                Ok(())
            })?;
            decode::ranges(set, bounds);
            if !exact || set.elements.len() >= count {
                break;
            }
        }
        Ok(())
    }

    /// The elements with these keys, as far as they are there. O(keys).
    fn ask_for_set(
        &mut self,
        family: Family,
        table: &mut LiveTable,
        name: &str,
        keys: &[Value],
    ) -> Result<(), NetlinkError> {
        if let Some(set) = table.sets.get_mut(name) {
            set.elements = self.elements_at(family, name, keys)?.into_iter().collect();
        }
        Ok(())
    }

    /// The elements of one of our sets that have these keys. O(keys).
    ///
    /// # Errors
    /// If the kernel does not let us read.
    pub fn elements_at(
        &mut self,
        family: Family,
        set: &str,
        keys: &[Value],
    ) -> Result<Vec<(Value, Element)>, NetlinkError> {
        let mut found = Vec::with_capacity(keys.len());
        let mut rest = keys;
        while !rest.is_empty() {
            let some: Vec<&Value> = rest.iter().take(KEYS_AT_ONCE).collect();
            let there = self.ask(family, set, &some, |message| {
                decode::each_element(message, |key, element| found.push((*key, element.clone())));
            });
            let there = match there {
                // A table or set that goes while we read is a change like any other.
                Err(NetlinkError::Exchange(error)) if error.refused() == Some(Errno::EINTR) => {
                    return Err(NetlinkError::Interrupted);
                }
                there => there?,
            };
            // The one that is not there, and stopped the kernel, is passed over.
            let passed = there + usize::from(there < some.len());
            rest = rest.get(passed..).unwrap_or_default();
        }
        Ok(found)
    }
}
