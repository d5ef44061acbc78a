//! Which healthCheckNodePort tells about which Service: kept by Service, so that the order in
//! which ports change hands does not matter.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::ObjectName;
use crate::engine::Engine;
use crate::observe::{HealthPorts, ServiceHealth};

/// Services with a health check port.
#[derive(Debug, Default)]
pub(super) struct HealthChecks {
    services: BTreeMap<ObjectName, (u16, ServiceHealth)>,
    /// Who wants a port: the first in name order has it.
    ports: BTreeMap<u16, BTreeSet<ObjectName>>,
}

impl HealthChecks {
    /// Looks at all services anew. O(services). True if anything changed.
    pub(super) fn rebuild(&mut self, engine: &Engine) -> bool {
        let mut names: BTreeSet<ObjectName> = self.services.keys().cloned().collect();
        names.extend(engine.cluster().services.keys().cloned());
        self.update(engine, &names)
    }

    /// Looks at these services anew. O(their endpoints). True if anything changed.
    pub(super) fn update<'a>(
        &mut self,
        engine: &Engine,
        names: impl IntoIterator<Item = &'a ObjectName>,
    ) -> bool {
        let mut changed = false;
        for name in names {
            changed |= self.set(name, health(engine, name));
        }
        changed
    }

    fn set(&mut self, name: &ObjectName, new: Option<(u16, ServiceHealth)>) -> bool {
        if self.services.get(name) == new.as_ref() {
            return false;
        }
        if let Some((port, _)) = self.services.remove(name)
            && let Some(names) = self.ports.get_mut(&port)
        {
            names.remove(name);
            if names.is_empty() {
                self.ports.remove(&port);
            }
        }
        if let Some((port, health)) = new {
            self.ports.entry(port).or_default().insert(name.clone());
            self.services.insert(name.clone(), (port, health));
        }
        true
    }

    /// Each port and whose it is. O(ports).
    pub(super) fn ports(&self) -> HealthPorts {
        let first = |(port, names): (&u16, &BTreeSet<ObjectName>)| {
            let (_, health) = self.services.get(names.first()?)?;
            Some((*port, health.clone()))
        };
        self.ports.iter().filter_map(first).collect()
    }
}

fn health(engine: &Engine, name: &ObjectName) -> Option<(u16, ServiceHealth)> {
    let service = engine.cluster().services.get(name)?;
    let port = service.health_check_node_port?;
    let here = Some(engine.node().name.as_str());
    let local: BTreeSet<_> = engine
        .cluster()
        .slices_of(name)
        .into_iter()
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.ready && endpoint.node_name.as_deref() == here)
        .map(|endpoint| endpoint.address)
        .collect();
    let health = ServiceHealth {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        local_endpoints: local.len(),
    };
    Some((port.get(), health))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cluster::Change;
    use crate::config::Config;
    use crate::engine::Next;
    use crate::ruleset::LiveRuleset;
    use crate::source::{Loaded, load_str};

    fn engine() -> Engine {
        let config = Config {
            node_name: "n1".into(),
            ..Config::default()
        };
        let mut engine = Engine::new(config, Vec::new());
        engine.rebuild(&LiveRuleset::default());
        engine
    }

    fn service(n: u8, port: u16) -> Change {
        let mut loaded = Loaded::default();
        let text = format!(
            r#"{{"apiVersion":"v1","kind":"Service","metadata":{{"name":"s{n}"}},"spec":{{"type":"LoadBalancer",
            "clusterIP":"10.254.0.{}","externalTrafficPolicy":"Local","healthCheckNodePort":{port},"ports":[{{"port":80}}]}}}}"#,
            n + 2
        );
        load_str(&text, "test", &mut loaded);
        let (name, service) = loaded.cluster.services.pop_first().unwrap();
        assert!(service.health_check_node_port.is_some());
        Change::Service(name, Some(service))
    }

    fn slice(n: u8, endpoints: u8) -> Change {
        let mut loaded = Loaded::default();
        let endpoints: Vec<String> = (0..endpoints)
            .map(|e| {
                format!(
                    r#"{{"addresses":["172.17.{n}.{}"],"nodeName":"n1"}}"#,
                    e + 2
                )
            })
            .collect();
        let text = format!(
            r#"{{"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{{"name":"s{n}-1",
            "labels":{{"kubernetes.io/service-name":"s{n}"}}}},"addressType":"IPv4","ports":[{{"port":80}}],
            "endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        load_str(&text, "test", &mut loaded);
        let slice = loaded
            .cluster
            .slices
            .into_values()
            .flatten()
            .next()
            .unwrap();
        Change::Slice(slice.name.clone(), Some(Box::new(slice)))
    }

    /// As the agent does it after a commit.
    fn step(engine: &mut Engine, checks: &mut HealthChecks) -> bool {
        match engine.advance() {
            Next::Step(step) => checks.update(engine, &step.touched),
            Next::Replan | Next::Rebuild => {
                engine.rebuild(&LiveRuleset::default());
                checks.rebuild(engine)
            }
        }
    }

    #[test]
    fn a_port_that_alone_changes_is_noticed_though_no_rule_depends_on_it() {
        let (mut engine, mut checks) = (engine(), HealthChecks::default());
        engine.apply(service(1, 31_000));
        assert!(step(&mut engine, &mut checks));
        engine.apply(service(1, 31_001));
        assert!(step(&mut engine, &mut checks));
        assert_eq!(checks.ports().keys().collect::<Vec<_>>(), [&31_001]);
        engine.apply(service(1, 31_001));
        assert!(!step(&mut engine, &mut checks));
    }

    proptest! {
        #[test]
        fn whatever_the_order_of_changes_the_ports_are_those_of_a_fresh_look(
            changes in prop::collection::vec((0..4_u8, 0..6_u16, 0..3_u8, any::<bool>()), 1..40)
        ) {
            let (mut engine, mut checks) = (engine(), HealthChecks::default());
            for (n, port, endpoints, commit) in changes {
                engine.apply(match port {
                    0 => Change::Service(ObjectName::new("default", format!("s{n}")), None),
                    1 | 2 => slice(n, endpoints),
                    port => service(n, 31_000 + port),
                });
                if commit {
                    step(&mut engine, &mut checks);
                }
            }
            step(&mut engine, &mut checks);
            let mut fresh = HealthChecks::default();
            fresh.rebuild(&engine);
            prop_assert_eq!(checks.ports(), fresh.ports());
        }
    }
}
