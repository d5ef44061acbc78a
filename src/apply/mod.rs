//! Bringing a node to the desired state: one way for every verb (`install.rs`), through one door
//! to the host (`host.rs`), and what may not be carried out without a second look (`loss.rs`).

mod aside;
mod clients;
#[cfg(test)]
mod flow_tests;
mod holds;
mod host;
mod install;
mod loss;
mod rules;
#[cfg(test)]
pub(crate) mod tests;
mod tidy;
mod writer_log;

use crate::netlink::NetlinkError;

pub use aside::suspects;
pub use clients::{clients_of, gone_clients};
pub use holds::{Verification, holds};
pub use host::{Host, ThisHost};
pub use install::{Anew, Desired, Installed, Installer, MadeFrom};
pub use loss::{Holding, Limit, Loss, LossGuard, SECOND_READING, Verdict};
pub use rules::next as next_generation;
pub use rules::{DesiredRules, Found, Manner, Outcome, look, reconcile};
pub use tidy::{Tidied, stale_flows};
pub use writer_log::NameWriters;

/// What is installed, as far as it takes to judge whether `after` loses too much of it. O(1)
/// mostly, O(elements) if the number of elements does not say enough.
///
/// # Errors
/// If the kernel cannot be read.
pub fn installed(
    host: &mut impl Host,
    limit: &Limit,
    after: Holding,
    routes: usize,
) -> Result<Holding, NetlinkError> {
    let mut live = host.outline()?;
    if let Some(at_most) = Holding::at_most(&live, routes)
        && limit.loss(at_most, after).is_none()
    {
        return Ok(at_most);
    }
    for (family, table) in &mut live.tables {
        for name in loss::ENDPOINTS {
            if let Some(set) = table.sets.get_mut(name) {
                *set = host.elements(*family, set.clone())?;
            }
        }
    }
    Ok(Holding::of_kernel(&live, routes))
}
