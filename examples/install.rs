//! Installs a Service in a network namespace of its own, shows that doing so again sends
//! nothing, and removes it. Nothing of the machine's own network is touched.
//!
//! `cargo run --example install`, as root or as anybody who may make user namespaces.

use std::error::Error;

use nix::sched::{CloneFlags, unshare};
use svcnat::apply::{Host as _, ThisHost};
use svcnat::config::Config;
use svcnat::node::{self, Node};

const MANIFEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.254.0.10, ports: [{port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [172.17.0.2]}]
";

/// In a namespace that goes with this thread.
pub fn main() -> Result<(), Box<dyn Error>> {
    if nix::unistd::geteuid().is_root() {
        unshare(CloneFlags::CLONE_NEWNET)?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?;
    }
    let config = Config {
        node_name: "n1".to_owned(),
        cluster_cidrs: vec!["172.17.0.0/16".parse()?],
        service_cidrs: vec!["10.254.0.0/16".parse()?],
        ..Config::default()
    };
    let (node, problems) = Node::parse(MANIFEST, config);
    assert!(problems.is_empty(), "{problems:?}");

    let mut host = ThisHost::open()?;
    let first = node.install(&mut host)?;
    let sent = first.committed.ok_or("the namespace was not empty")?;
    println!("installed: {} bytes", sent.bytes);

    let again = node.install(&mut host)?;
    assert!(again.committed.is_none(), "a second install sent something");
    println!("installed again: nothing to send");

    node::remove(&mut host)?;
    assert!(host.read()?.tables.is_empty(), "something was left");
    println!("removed");
    Ok(())
}
