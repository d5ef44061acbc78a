//! What the kernel holds of what a packet meets, to be walked through.

use std::net::IpAddr;

use crate::cli::error::CliError;
use crate::cli::say::say;
use crate::cluster::Family;
use crate::diff::diff;
use crate::foreign::Rules;
use crate::netlink::{self, NetlinkError, Nfnetlink};
use crate::node::Node;
use crate::ruleset::{Chain, Hook, LiveTable, Ruleset, SetKind, TABLE, Table, lower};
use crate::walk::{Asked, Packet, Trace, asked};

/// Times it is read again because somebody committed meanwhile.
const TRIES: usize = 5;

/// What the kernel holds.
#[derive(Default)]
pub struct Installed {
    /// The rules of this configuration with the elements that the kernel holds of what the packets
    /// meet, those that packets filled included. Rules are constant, so this is what is installed
    /// unless somebody changed them. `None` if there should be a table of that family,
    /// and there is none.
    pub ruleset: Option<Ruleset>,
    /// Whether they are as they should be.
    pub agreement: Agreement,
    /// Other programs' rules.
    pub others: Rules,
}

/// How the installed rules agree with those of this configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Agreement {
    /// They are the same.
    #[default]
    Same,
    /// More come at the end of the chains by which packets come in, as with service ranges that the
    /// inputs do not give. Before that, the same packets are led to endpoints.
    Ends,
    /// Somebody changed them, or they are of another configuration.
    Other,
}

impl Agreement {
    /// True if what was found by these rules need not be what the installed ones do.
    pub const fn alters(self, trace: &Trace) -> bool {
        match self {
            Self::Same => false,
            Self::Ends => trace.candidates.is_empty(),
            Self::Other => true,
        }
    }

    fn of_other(table: &Table, live: &LiveTable) -> Self {
        let agrees = |chain: &Chain| {
            let there = live.chains.get(&chain.name)?;
            let rules: Vec<_> = chain.rules.iter().map(|rule| lower(rule, table)).collect();
            let hook = chain.base.map(|base| base.hook);
            let may_go_on = matches!(hook, Some(Hook::Prerouting | Hook::Output));
            let begins = there.base == chain.base && there.rules.starts_with(&rules);
            Some(begins && (may_go_on || there.rules.len() == rules.len()))
        };
        match table.chains.iter().all(|chain| agrees(chain) == Some(true)) {
            true => Self::Ends,
            false => Self::Other,
        }
    }
}

/// Reads it for packets of one family. O(plan + what they meet + intervals + others' rules).
pub fn installed(
    inputs: &Node,
    family: Family,
    packets: &[Packet],
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Result<Installed, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let live = kernel.outline()?;
    let mut found = Installed {
        others: netlink::others(&mut kernel)?,
        ..Installed::default()
    };
    let mut ruleset = inputs.ruleset();
    let given = !ruleset.tables.is_empty();
    if !live.tables.contains_key(&family) && (ruleset.tables.contains_key(&family) || !given) {
        say(&format!(
            "warning: nothing is installed: there is no table {} {TABLE}\n",
            family.nft_name()
        ));
        return Ok(found);
    }
    let sets = ruleset
        .tables
        .values_mut()
        .flat_map(|t| t.sets.values_mut());
    sets.for_each(|set| set.elements.clear());
    let counts = diff(&ruleset, &live).counts();
    if counts.rules_added > 0 || counts.objects > 0 {
        let there = ruleset.tables.get(&family).zip(live.tables.get(&family));
        found.agreement = there.map_or(Agreement::Other, |(table, live)| {
            Agreement::of_other(table, live)
        });
        say(
            "warning: the installed rules are not those of this configuration (see svcnat diff); \
             the packet is walked through these rules with the installed elements\n",
        );
    }
    if let Some(table) = ruleset.tables.get_mut(&family) {
        let there = live.tables.get(&family).map(|live| &live.sets);
        table
            .sets
            .retain(|name, _| there.is_some_and(|sets| sets.contains_key(name)));
        let mut generation = live.generation;
        for _ in 0..TRIES {
            fill(&mut kernel, table, packets, is_local)?;
            let now = kernel.generation()?;
            if now == generation {
                break;
            }
            generation = now;
        }
    }
    found.ruleset = Some(ruleset);
    Ok(found)
}

/// Reads of the table's sets what packets look for: each key that it finds may lead on.
fn fill(
    kernel: &mut Nfnetlink,
    table: &mut Table,
    packets: &[Packet],
    is_local: &dyn Fn(IpAddr) -> bool,
) -> Result<(), NetlinkError> {
    let family = table.family;
    for set in table.sets.values_mut() {
        set.elements.clear();
        if set.kind == SetKind::Interval {
            *set = kernel.elements(family, set.clone())?;
        }
    }
    let mut known = Asked::new();
    loop {
        let mut more = false;
        let mut looked_for = Asked::new();
        for packet in packets {
            for (name, keys) in asked(table, packet, is_local) {
                looked_for.entry(name).or_default().extend(keys);
            }
        }
        for (name, keys) in looked_for {
            let known = known.entry(name.clone()).or_default();
            let new: Vec<_> = keys.difference(known).copied().collect();
            if let Some(set) = table.sets.get_mut(&name)
                && !new.is_empty()
            {
                set.elements
                    .extend(kernel.elements_at(family, &name, &new)?);
                known.extend(new);
                more = true;
            }
        }
        if !more {
            return Ok(());
        }
    }
}
