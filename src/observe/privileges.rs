//! Gives up every capability that the agent does not need (capabilities(7)).

use caps::{CapSet, CapsHashSet, errors::CapsError};

pub use caps::Capability;

/// Keeps only those of `wanted` that this thread has, in every set. Threads started later
/// inherit that, so call it first. Returns the names of what is left.
///
/// # Errors
/// If the kernel refuses.
pub fn drop_all_but(wanted: &[Capability]) -> Result<Vec<String>, CapsError> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let keep: CapsHashSet = wanted
        .iter()
        .copied()
        .filter(|capability| permitted.contains(capability))
        .collect();
    caps::clear(None, CapSet::Ambient)?;
    // What a program started by us could gain: dropping it takes CAP_SETPCAP itself.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::read(None, CapSet::Bounding)? {
            if !keep.contains(&capability) {
                caps::drop(None, CapSet::Bounding, capability)?;
            }
        }
    }
    caps::set(None, CapSet::Effective, &keep)?;
    caps::set(None, CapSet::Permitted, &keep)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    held()
}

/// Names of the effective capabilities of this thread.
///
/// # Errors
/// If they cannot be read.
pub fn held() -> Result<Vec<String>, CapsError> {
    let mut names: Vec<String> = caps::read(None, CapSet::Effective)?
        .iter()
        .map(ToString::to_string)
        .collect();
    names.sort();
    Ok(names)
}
