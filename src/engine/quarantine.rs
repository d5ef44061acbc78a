//! Services that are set aside, because the kernel took no ruleset with them in it: one bad
//! object costs only itself.
//!
//! Pure. Who sets one aside and when it is tried again is for the caller to say; a Service
//! that changes, or whose endpoints do, is tried again by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ObjectName;

/// Services set aside, and why.
#[derive(Debug, Default)]
pub struct Quarantine(BTreeMap<ObjectName, String>);

impl Quarantine {
    /// Sets a Service aside. False if it already was: then it is not what was refused.
    pub fn add(&mut self, name: ObjectName, reason: String) -> bool {
        self.0.insert(name, reason).is_none()
    }

    /// Takes it back. True if it was set aside.
    pub fn release(&mut self, name: &ObjectName) -> bool {
        self.0.remove(name).is_some()
    }

    /// Takes all of them back.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Whether a Service is set aside.
    #[must_use]
    pub fn holds(&self, name: &ObjectName) -> bool {
        self.0.contains_key(name)
    }

    /// Who is set aside, and why.
    #[must_use]
    pub const fn all(&self) -> &BTreeMap<ObjectName, String> {
        &self.0
    }
}

/// The Service that an element's comment names: `namespace/name`, or with `:port` after it.
/// `None` if there is none of that name: the comment may be a Pod's, or cut short.
#[must_use]
pub fn owner(comment: &str, known: impl Fn(&ObjectName) -> bool) -> Option<ObjectName> {
    let (namespace, rest) = comment.split_once('/')?;
    let name = rest.split_once(':').map_or(rest, |(name, _)| name);
    Some(ObjectName::new(namespace, name)).filter(known)
}

/// One Service of `suspects` without which less is refused, given that without all of them
/// nothing is: the last of the shortest beginning that has to be set aside. `None` if even
/// without all of them something is. O(log suspects) trials.
///
/// # Errors
/// That of a trial which could not be made.
pub fn culprit<E>(
    suspects: &[ObjectName],
    mut refused: impl FnMut(&BTreeSet<ObjectName>) -> Result<bool, E>,
) -> Result<Option<ObjectName>, E> {
    let mut without = |n: usize| refused(&suspects[..n].iter().cloned().collect());
    if suspects.is_empty() || without(suspects.len())? {
        return Ok(None);
    }
    // Refused without the first `low`, taken without the first `high`.
    let (mut low, mut high) = (0, suspects.len());
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if without(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(suspects.get(low).cloned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ObjectName {
        ObjectName::new("default", format!("s{n:04}"))
    }

    #[test]
    fn the_bad_ones_among_many_are_found_one_after_the_other() {
        let bad: BTreeSet<ObjectName> = [3, 500, 999].into_iter().map(name).collect();
        let mut suspects: Vec<ObjectName> = (0..1000).map(name).collect();
        let mut found = BTreeSet::new();
        while found.len() < bad.len() {
            let mut trials = 0;
            let one = culprit(&suspects, |without| {
                trials += 1;
                let rest = bad.iter().filter(|name| !found.contains(*name));
                Ok::<_, ()>(rest.clone().any(|name| !without.contains(name)))
            });
            let one = one.unwrap().unwrap();
            assert!(bad.contains(&one) && trials <= 12, "{one} after {trials}");
            suspects.retain(|name| *name != one);
            found.insert(one);
        }
        assert_eq!(found, bad);
    }

    #[test]
    fn nobody_is_found_if_it_is_none_of_them() {
        let all: Vec<ObjectName> = (0..10).map(name).collect();
        assert_eq!(culprit(&all, |_| Ok::<_, ()>(true)), Ok(None));
        assert_eq!(culprit(&[], |_| Ok::<_, ()>(false)), Ok(None));
        assert_eq!(culprit(&all, |_| Err("no")), Err("no"));
    }

    #[test]
    fn a_comment_names_a_service_only_if_there_is_one_of_that_name() {
        let known = |n: &ObjectName| *n == name(1);
        assert_eq!(owner("default/s0001", known), Some(name(1)));
        assert_eq!(owner("default/s0001:http", known), Some(name(1)));
        for other in ["default/s0002", "s0001", "default/s0001~", ""] {
            assert_eq!(owner(other, known), None);
        }
    }
}
