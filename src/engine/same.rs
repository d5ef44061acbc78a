//! Whether two versions of an object differ in anything that decides.

use crate::cluster::{EndpointSlice, Service};

/// True if nothing differs that decides anything: where an object was read does not.
pub(super) fn same_service(old: Option<&Service>, new: Option<&Service>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let same_but_for_origin = Service {
                origin: old.origin.clone(),
                ..new.clone()
            };
            *old == same_but_for_origin
        }
        (old, new) => old.is_none() && new.is_none(),
    }
}

pub(super) fn same_slice(old: &EndpointSlice, new: &EndpointSlice) -> bool {
    old.family == new.family
        && old.service == new.service
        && old.ports == new.ports
        && old.endpoints == new.endpoints
}
