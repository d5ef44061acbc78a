//! The Service answers in a network of its own, from either node.

use std::collections::BTreeSet;
use std::error::Error;

use svcnat::config::Config;
use svcnat::lab::{Lab, Outcome, Topology};

#[test]
fn every_web_pod_answers_and_sees_the_visitor() -> Result<(), Box<dyn Error>> {
    let manifests = std::fs::read_to_string("examples/guestbook/guestbook.yaml")?;
    let visitor = "{apiVersion: v1, kind: Pod, metadata: {name: visitor}, spec: {nodeName: node2}}";
    let manifests = format!("{manifests}\n---\n{visitor}");
    let (lab, problems) = Lab::parse(&manifests, Config::default(), Topology::default())?;
    assert!(problems.is_empty(), "{problems:?}");
    let visitor = lab.network.places["pod/visitor"].addresses[0];
    let mut who = BTreeSet::new();
    for _ in 0..40 {
        let outcome = lab.ask("pod/visitor", "10.254.176.53:80".parse()?)?;
        let Outcome::Answer(answer) = outcome else {
            panic!("{outcome}");
        };
        assert_eq!(answer.client.ip(), visitor);
        who.insert(answer.name);
    }
    assert_eq!(Vec::from_iter(who), ["frontend-1", "frontend-2"]);
    Ok(())
}
