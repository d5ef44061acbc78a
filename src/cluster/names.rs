//! Names that many objects repeat (namespaces, nodes, zones, ports), kept once.

use std::collections::HashSet;

use arcstr::ArcStr;

use super::{EndpointSlice, Object, ObjectName, Service, SliceEndpoint};

/// A name from the cluster; cheap to copy. One word wide, as there are hundreds of thousands.
pub type Name = ArcStr;

/// Names seen, so that equal ones share their text. Those that no object uses any more are
/// forgotten from time to time.
#[derive(Clone, Debug, Default)]
pub struct Names {
    known: HashSet<Name>,
    /// Forget when there are more than this.
    limit: usize,
}

impl Names {
    /// Has `name` share its text with an equal one seen before.
    fn share(&mut self, name: &mut Name) {
        if let Some(known) = self.known.get(name) {
            *name = Name::clone(known);
            return;
        }
        if self.known.len() >= self.limit.max(1024) {
            self.known
                .retain(|name| Name::strong_count(name) != Some(1));
            self.limit = self.known.len() * 2;
        }
        self.known.insert(Name::clone(name));
    }

    /// Shares what an object repeats of others.
    pub fn share_object(&mut self, object: &mut Object) {
        match object {
            Object::Service(service) => self.share_service(service),
            Object::Slice(slice) => self.share_slice(slice, None),
            Object::Node(_) | Object::Pod(_) | Object::ServiceCidr(_) => {}
        }
    }

    /// Shares what a Service repeats of other objects. O(ports).
    pub fn share_service(&mut self, service: &mut Service) {
        self.share(&mut service.name.namespace);
        self.share(&mut service.origin.source);
        for port in &mut service.ports {
            self.share(&mut port.name);
        }
        for (label, _) in &mut service.selector {
            self.share(label);
        }
    }

    /// Shares what a slice repeats of other objects and within itself. The name of the
    /// service is `service`'s, if that is known. O(endpoints).
    pub fn share_slice(&mut self, slice: &mut EndpointSlice, service: Option<&ObjectName>) {
        self.share(&mut slice.name.namespace);
        self.share(&mut slice.origin.source);
        match service {
            Some(known) if *known == slice.service => slice.service.clone_from(known),
            _ => self.share(&mut slice.service.namespace),
        }
        for port in &mut slice.ports {
            self.share(&mut port.name);
        }
        for endpoint in &mut slice.endpoints {
            let SliceEndpoint {
                node_name,
                zone,
                hints,
                ..
            } = endpoint;
            for name in node_name.iter_mut().chain(zone) {
                self.share(name);
            }
            if let Some(hints) = hints {
                for name in hints.for_zones.iter_mut().chain(&mut hints.for_nodes) {
                    self.share(name);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_share_their_text_and_unused_ones_are_forgotten() {
        let mut names = Names::default();
        let (mut a, mut b) = (Name::from("node-1"), Name::from("node-1"));
        names.share(&mut a);
        names.share(&mut b);
        assert!(Name::ptr_eq(&a, &b));
        for i in 0..5000 {
            names.share(&mut Name::from(format!("pod-{i}")));
        }
        assert!(names.known.len() <= 1025, "{}", names.known.len());
        assert!(names.known.contains("node-1"));
    }
}
