//! What our tables hold, in a few bytes for each set and chain: enough to tell what is no
//! longer as it was, not what it was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ruleset::bytecode::Instr;
use crate::ruleset::{BaseChain, ElementData, Family, LiveRuleset, Ruleset, Set, SetKind, lower};

/// A digest for each set and chain, by family, kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fingerprint(BTreeMap<String, String>);

impl Fingerprint {
    /// Of a ruleset that is wanted: the same as of the kernel that holds it. O(elements).
    #[must_use]
    pub fn of_wanted(ruleset: &Ruleset) -> Self {
        let mut all = BTreeMap::new();
        for (family, table) in &ruleset.tables {
            all.extend(table.sets.values().map(|set| of_set(*family, set)));
            all.extend(table.chains.iter().map(|chain| {
                let rules: Vec<_> = chain.rules.iter().map(|rule| lower(rule, table)).collect();
                of_chain(*family, &chain.name, chain.base, &rules)
            }));
        }
        Self(all)
    }

    /// Of what the kernel holds. O(elements).
    #[must_use]
    pub fn of_live(live: &LiveRuleset) -> Self {
        let mut all = BTreeMap::new();
        for (family, table) in &live.tables {
            all.extend(table.sets.values().map(|set| of_set(*family, set)));
            let chains = table.chains.iter();
            all.extend(chains.map(|(name, c)| of_chain(*family, name, c.base, &c.rules)));
            let foreign = table.foreign.iter();
            all.extend(foreign.map(|what| (what.clone(), String::new())));
        }
        Self(all)
    }

    /// What of `now` is not as it is here, in words.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let gone_or_other = self
            .0
            .iter()
            .filter_map(|(name, digest)| match now.0.get(name) {
                None => Some(format!("{name} is gone")),
                Some(found) if found != digest => Some(format!("{name} differs")),
                Some(_) => None,
            });
        let new = now.0.keys().filter(|name| !self.0.contains_key(*name));
        let new = new.map(|name| format!("{name} is new"));
        gone_or_other.chain(new).collect()
    }
}

fn of_set(family: Family, set: &Set) -> (String, String) {
    let mut sum = Sha256::new();
    let mut add = |bytes: &[u8]| {
        sum.update(bytes.len().to_le_bytes());
        sum.update(bytes);
    };
    let declared = (&set.key, &set.data, set.kind, set.counted);
    add(format!("{declared:?}").as_bytes());
    if !matches!(set.kind, SetKind::Dynamic { .. }) {
        for (key, element) in &set.elements {
            add(key.as_bytes());
            add(element.end.as_deref().unwrap_or(key).as_bytes());
            match &element.data {
                ElementData::None => add(b""),
                ElementData::Value(value) => add(value.as_bytes()),
                ElementData::Goto(chain) => add(chain.as_bytes()),
            }
            add(element.comment.as_deref().unwrap_or_default().as_bytes());
        }
    }
    let name = format!("set {} of {} svcnat", set.name, family.nft_name());
    (name, short(&sum.finalize()))
}

fn of_chain(
    family: Family,
    name: &str,
    base: Option<BaseChain>,
    rules: &[Vec<Instr>],
) -> (String, String) {
    let sum = Sha256::digest(format!("{base:?} {rules:?}"));
    (
        format!("chain {name} of {} svcnat", family.nft_name()),
        short(&sum),
    )
}

/// 64 bits of it: who wants to deceive could write the tables as well.
fn short(sum: &[u8]) -> String {
    hex(&sum[..8])
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
