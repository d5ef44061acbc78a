//! What the kernel holds, to be walked through.

use crate::cli::error::CliError;
use crate::cli::say::say;
use crate::cluster::Family;
use crate::compile::{FOLLOWING, SetId};
use crate::diff::diff;
use crate::foreign::Rules;
use crate::netlink::{self, Nfnetlink};
use crate::node::Node;
use crate::ruleset::{Ruleset, TABLE};

/// What the kernel holds.
#[derive(Default)]
pub struct Installed {
    /// The rules of this configuration with the elements the kernel holds, those that packets
    /// filled included for the packet's family. Rules are constant, so this is what is installed
    /// unless somebody changed them. `None` if there should be a table of the packet's family,
    /// and there is none.
    pub ruleset: Option<Ruleset>,
    /// Somebody changed the rules, or they are of another configuration.
    pub other_rules: bool,
    /// Other programs' rules.
    pub others: Rules,
}

/// Reads it. O(elements + remembered clients + others' rules).
pub fn installed(inputs: &Node, family: Family) -> Result<Installed, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let live = kernel.read(FOLLOWING)?;
    let mut found = Installed {
        others: netlink::others(&mut kernel)?,
        ..Installed::default()
    };
    let ruleset = inputs.ruleset_over(&live);
    let given = !ruleset.tables.is_empty();
    if !live.tables.contains_key(&family) && (ruleset.tables.contains_key(&family) || !given) {
        say(&format!(
            "warning: nothing is installed: there is no table {} {TABLE}\n",
            family.nft_name()
        ));
        return Ok(found);
    }
    let counts = diff(&ruleset, &live).counts();
    found.other_rules = counts.rules_added > 0 || counts.objects > 0;
    if found.other_rules {
        say(
            "warning: the installed rules are not those of this configuration (see svcnat diff); \
             the packet is walked through these rules with the installed elements\n",
        );
    }
    let mut ruleset = ruleset.holding(&live);
    let remembered = SetId::AffinityClients.fixed_name();
    let remembers = live.tables.get(&family).map(|t| &t.sets);
    if remembers.is_some_and(|sets| sets.contains_key(remembered))
        && let Some(table) = ruleset.tables.get_mut(&family)
        && let Some(set) = table.sets.get_mut(remembered)
    {
        *set = kernel.elements(family, set.clone())?;
    }
    found.ruleset = Some(ruleset);
    Ok(found)
}
