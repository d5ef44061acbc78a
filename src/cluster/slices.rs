//! The EndpointSlices of one service. Most services have one, so they are a sorted list and
//! not a map, which would reserve room for eleven.

use super::{EndpointSlice, ObjectName};

/// Slices in name order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices(Vec<EndpointSlice>);

impl Slices {
    fn find(&self, name: &ObjectName) -> Result<usize, usize> {
        self.0.binary_search_by(|slice| slice.name.cmp(name))
    }

    /// The slice of this name.
    #[must_use]
    pub fn get(&self, name: &ObjectName) -> Option<&EndpointSlice> {
        self.find(name).ok().map(|at| &self.0[at])
    }

    /// The same, to be changed in anything but its name.
    pub fn get_mut(&mut self, name: &ObjectName) -> Option<&mut EndpointSlice> {
        self.find(name).ok().map(|at| &mut self.0[at])
    }

    /// Adds a slice, in place of one of the same name. O(slices).
    pub fn insert(&mut self, slice: EndpointSlice) {
        match self.find(&slice.name) {
            Ok(at) => self.0[at] = slice,
            Err(at) => {
                if self.0.is_empty() {
                    self.0.reserve_exact(1);
                }
                self.0.insert(at, slice);
            }
        }
    }

    /// Removes and returns the slice of this name. O(slices).
    pub fn remove(&mut self, name: &ObjectName) -> Option<EndpointSlice> {
        self.find(name).ok().map(|at| self.0.remove(at))
    }

    /// Keeps those that `good` says so of.
    pub fn retain(&mut self, good: impl Fn(&EndpointSlice) -> bool) {
        self.0.retain(good);
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.0.iter()
    }

    /// All of them, to be changed in anything but their names.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut EndpointSlice> {
        self.0.iter_mut()
    }

    /// Number of slices.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Slices {
    type Item = EndpointSlice;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
