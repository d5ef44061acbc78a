//! What the kernel holds, to be walked through.

use crate::cli::error::CliError;
use crate::cli::say::say;
use crate::cluster::Family;
use crate::compile::{FOLLOWING, SetId};
use crate::diff::diff;
use crate::host::others;
use crate::netlink::Nfnetlink;
use crate::node::Node;
use crate::ruleset::{Ruleset, TABLE};

/// The rules of this configuration with the elements the kernel holds, those that packets
/// filled included for the packet's family. Rules are constant, so this is what is
/// installed unless somebody changed them, which is said. `None` if there should be a table of
/// the packet's family, and there is none. O(elements + remembered clients).
pub fn installed(
    inputs: &Node,
    family: Family,
    from_node: bool,
) -> Result<Option<Ruleset>, CliError> {
    let mut kernel = Nfnetlink::open()?;
    let live = kernel.read(FOLLOWING)?;
    let mut chains = kernel.foreign_chains()?;
    chains.retain(|chain| chain.family == "inet" || chain.family == family.nft_name());
    if let Some(others) = others::in_the_way(&chains, from_node) {
        say(&format!("warning: {others}\n"));
    }
    let mut ruleset = inputs.ruleset_over(&live);
    let given = !ruleset.tables.is_empty();
    if !live.tables.contains_key(&family) && (ruleset.tables.contains_key(&family) || !given) {
        say(&format!(
            "warning: nothing is installed: there is no table {} {TABLE}\n",
            family.nft_name()
        ));
        return Ok(None);
    }
    let other_rules = diff(&ruleset, &live).counts();
    if other_rules.rules_added > 0 || other_rules.objects > 0 {
        say(
            "warning: the installed rules are not those of this configuration (see svcnat diff); \
             the packet is walked through these rules with the installed elements\n",
        );
    }
    for (family, table) in &mut ruleset.tables {
        let found = live.tables.get(family);
        for (name, set) in &mut table.sets {
            let elements = found
                .and_then(|t| t.sets.get(name))
                .map(|s| s.elements.clone());
            set.elements = elements.unwrap_or_default();
        }
    }
    let remembered = SetId::AffinityClients.fixed_name();
    let remembers = live.tables.get(&family).map(|t| &t.sets);
    if remembers.is_some_and(|sets| sets.contains_key(remembered))
        && let Some(table) = ruleset.tables.get_mut(&family)
        && let Some(set) = table.sets.get_mut(remembered)
    {
        *set = kernel.elements(family, set.clone())?;
    }
    Ok(Some(ruleset))
}
