//! All that other programs let the kernel do with packets: nf_tables, the legacy iptables, and the
//! ipsets that their rules ask for.

use super::{NetlinkError, Nfnetlink, ipset, legacy};
use crate::foreign::{Expr, Rules};

/// Reads it in the network namespace of `kernel`, which is this thread's. O(rules + elements), of
/// sets up to 20,000 elements. What cannot be read of the legacy iptables or of ipsets is said in
/// the answer.
///
/// # Errors
/// If the kernel does not let us read what nf_tables holds.
pub fn others(kernel: &mut Nfnetlink) -> Result<Rules, NetlinkError> {
    let mut rules = kernel.others()?;
    legacy::read(&mut rules);
    if asks_for_ipsets(&rules) {
        match ipset::list() {
            Ok(sets) => rules.ipsets = sets,
            Err(error) => {
                let unread = format!("ipsets cannot be read: {error}: ipset list");
                rules.unread.push(unread);
            }
        }
    }
    Ok(rules)
}

fn asks_for_ipsets(rules: &Rules) -> bool {
    let chains = rules.all().flat_map(|(.., table)| table.chains.values());
    let mut expressions = chains
        .flat_map(|chain| &chain.rules)
        .flat_map(|rule| &rule.expressions);
    expressions.any(|expr| matches!(expr, Expr::XtMatch(name, ..) if name == "set"))
}
